//! Makes a failing world as small as it can be and still fails by the same rule: delta debugging (Zeller and Hildebrandt, 2002) over the
//! timeline, then nodes and impairments one by one, until nothing more can go.

use ntm_protocol::time::Duration;

use super::families::Families;
use super::script::{Act, Peer, Place, Script, Spot, Who};

/// The smallest world found for which `fails` holds, from `script`, for which it does. Pure where `fails` is.
pub fn shrink(script: &Script, fails: impl Fn(&Script) -> bool) -> Script {
    let mut smallest = script.clone();
    loop {
        let before = smallest.clone();
        shorten(&mut smallest, &fails);
        while let Some(simpler) = simpler(&smallest).into_iter().find(|simpler| fails(simpler)) {
            smallest = simpler;
        }
        if smallest == before {
            return smallest;
        }
    }
}

/// Takes out of the timeline what it can, in pieces that become smaller.
fn shorten(script: &mut Script, fails: &impl Fn(&Script) -> bool) {
    let mut piece = script.timeline.len().div_ceil(2).max(1);
    loop {
        let mut from = 0;
        while from < script.timeline.len() {
            let mut without = script.clone();
            without.timeline.drain(from..(from + piece).min(script.timeline.len()));
            if fails(&without) {
                *script = without;
            } else {
                from += piece;
            }
        }
        if piece == 1 {
            return;
        }
        piece = piece.div_ceil(2);
    }
}

/// Every world that is simpler by one thing than `script`.
fn simpler(script: &Script) -> Vec<Script> {
    let mut all = Vec::new();
    let mut with = |change: &dyn Fn(&mut Script)| {
        let mut other = script.clone();
        change(&mut other);
        Families::keep_those_of(&mut other);
        if other != *script && other.families.let_all_register(&other) {
            all.push(other);
        }
    };
    for terminal in 0..script.terminals.len() {
        with(&|it| without_terminal(it, terminal));
    }
    // The last of a kind has the highest number: taking it out renames nobody.
    with(&|it| {
        let last = it.relays - 1;
        let used = it.timeline.iter().any(|entry| mentions(&entry.act, Who::Relay(last), Spot::Relay(last)));
        it.relays -= usize::from(last > 0 && !used);
        let relays = it.relays;
        it.clocks.retain(|(who, _)| !matches!(who, Who::Relay(n) if *n >= relays));
    });
    with(&|it| {
        let last = Peer::General(it.generals - 1);
        let used = it.pairs().iter().chain(&it.connected()).any(|(_, to)| *to == last);
        it.generals -= usize::from(it.generals > 1 && !used);
    });
    with(&|it| {
        let last = it.sites.len() - 1;
        let lives = it.terminals.iter().any(|resident| resident.at.site() == Some(last));
        let used = it.timeline.iter().any(|entry| match entry.act {
            Act::Move { to, .. } => to.site() == Some(last),
            Act::Cut { from, to, .. } => [from, to].contains(&Spot::Site(last)),
            _ => false,
        });
        if last > 0 && !lives && !used {
            it.sites.pop();
        }
    });
    with(&|it| {
        let last = it.coordinators.len() - 1;
        let serves = it.terminals.iter().any(|resident| resident.coordinator == last);
        let mentioned = |act: &Act| mentions(act, Who::Coordinator(last), Spot::Coordinator(last));
        if last > 0 && !serves && !it.timeline.iter().any(|entry| mentioned(&entry.act)) {
            it.coordinators.pop();
            it.clocks.retain(|(who, _)| *who != Who::Coordinator(last));
        }
    });
    with(&|it| it.clocks.clear());
    for families in script.families.simpler() {
        with(&|it| it.families = families.clone());
    }
    with(&|it| it.insistent = false);
    with(&|it| it.impairment.loss = 0.0);
    with(&|it| it.impairment.duplicate = 0.0);
    with(&|it| it.impairment.reorder = 0.0);
    with(&|it| it.capacity = 1000);
    with(&|it| it.lifetime = Duration::from_secs(300));
    with(&|it| it.coordinators.iter_mut().for_each(|prefix| *prefix = 24));
    with(&|it| it.terminals.iter_mut().for_each(|resident| resident.start = Duration::ZERO));
    for n in 0..script.timeline.len() {
        with(&|it| match &mut it.timeline[n].act {
            Act::Crash { disk, .. } => *disk = false,
            Act::Cut { one_way, .. } => *one_way = false,
            Act::Move { to: to @ Place::Behind { .. }, .. } => *to = Place::Public { other: false },
            Act::Stream { turns, .. } => *turns = None,
            _ => {}
        });
        with(&|it| {
            if let Act::Stream { turns: Some(turns), .. } = &mut it.timeline[n].act {
                (turns.half, turns.asks, turns.by_server) = (Duration::ZERO, false, false);
            }
        });
    }
    all
}

fn mentions(act: &Act, node: Who, spot: Spot) -> bool {
    match act {
        Act::Crash { who, .. } => *who == node,
        Act::Cut { from, to, .. } => [*from, *to].contains(&spot),
        _ => false,
    }
}

/// Takes a terminal out that nothing in the timeline is about; those behind it move up.
fn without_terminal(script: &mut Script, gone: usize) {
    let used = script.timeline.iter().any(|entry| match entry.act {
        Act::Talk { from, to, .. } | Act::Stream { from, to, .. } => {
            from == gone || to == Peer::Terminal(gone)
        }
        Act::Move { terminal, .. } => terminal == gone,
        act => mentions(&act, Who::Terminal(gone), Spot::Terminal(gone)),
    });
    if used || script.terminals.len() == 1 {
        return;
    }
    script.terminals.remove(gone);
    script.families.without_terminal(gone);
    let up = |n: &mut usize| *n -= usize::from(*n > gone);
    script.clocks.retain(|(who, _)| *who != Who::Terminal(gone));
    for (who, _) in &mut script.clocks {
        if let Who::Terminal(n) = who {
            up(n);
        }
    }
    for entry in &mut script.timeline {
        match &mut entry.act {
            Act::Talk { from, to, .. } | Act::Stream { from, to, .. } => {
                up(from);
                if let Peer::Terminal(to) = to {
                    up(to);
                }
            }
            Act::Move { terminal, .. } => up(terminal),
            Act::Crash { who: Who::Terminal(n), .. } => up(n),
            Act::Cut { from, to, .. } => {
                for spot in [from, to] {
                    if let Spot::Terminal(n) = spot {
                        up(n);
                    }
                }
            }
            Act::HangUp { .. } | Act::Crash { .. } => {}
        }
    }
}
