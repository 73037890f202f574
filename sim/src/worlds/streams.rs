//! TCP connections of random worlds: slow streams ([`Echo`]), begun under the faults and after them, and what must be true of them.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use ntm_protocol::addr::PathId;
use ntm_protocol::observe::{Observation, RouteName, What};
use ntm_protocol::time::{Duration, Instant};
use ntm_protocol::wire::{Kind, Shown};

use super::generate::{Dice, peer};
use super::model::{fault, is_promised};
use super::play::Played;
use super::script::{AFRESH, Act, CALM, Entry, LENGTH, Peer, SETTLED, Script, Who};
use super::{Fault, Rule};
use crate::flow::{Echo, Echoed, FlowId, Half, Outcome, Segments, Task, Turn, Turns};

/// The server's port of the first connection; the others follow.
const FIRST_PORT: u16 = 7000;
/// How many bytes a client gives at a time.
const SIZE: u64 = 32;
/// How many ports a client has that takes them in turn: until one comes again TCP has forgotten what was there (RFC 9293, section 3.6.1).
const PORTS: u16 = 12;
/// How long after an end said that it says no more the other one has heard that, where nothing is the matter.
const HEARD: Duration = Duration::from_secs(8);

/// A connection of the script.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    /// Which.
    pub flow: FlowId,
    /// Whose.
    pub from: usize,
    /// With whom.
    pub to: Peer,
    /// When its client asked for the name.
    pub at: Instant,
    /// Whether that was after the faults.
    pub afresh: bool,
    /// How its connections follow each other.
    pub turns: Option<Turns>,
}

/// In four worlds of ten there are connections.
pub(super) fn draw(dice: &mut Dice, script: &mut Script) {
    if dice.chance(60) {
        return;
    }
    let last = CALM.as_millis() as u64 - 1_000;
    for _ in 0..1 + dice.below(2) {
        let from = dice.below(script.terminals.len());
        let to = peer(dice, script, from);
        let at = if dice.chance(60) { dice.between(500, 4_000) } else { dice.between(500, last) };
        let act = Act::Stream { from, to, period: dice.between(200, 500), turns: None };
        script.timeline.push(Entry { at, act });
    }
    script.timeline.sort_by_key(|entry| entry.at);
}

/// Of three conversations one is of many connections.
pub(super) fn draw_turns(dice: &mut Dice, script: &mut Script) {
    for entry in &mut script.timeline {
        if let Act::Stream { turns, .. } = &mut entry.act
            && dice.chance(33)
        {
            // From one port, where there is time until that is free again.
            let ports = if dice.chance(20) { 1 } else { PORTS };
            let pause = if ports == 1 { dice.between(10_500, 13_000) } else { dice.between(100, 3_000) };
            *turns = Some(Turns {
                lasts: dice.between(1_000, 8_000),
                by_server: dice.chance(50),
                half: dice.between(0, 2_500),
                pause,
                ports,
                asks: dice.chance(50),
            });
        }
    }
}

impl Played {
    /// A terminal's application connects to a peer.
    pub(super) fn stream(
        &mut self,
        (from, to): (usize, Peer),
        period: Duration,
        turns: Option<Turns>,
        afresh: bool,
    ) {
        // On a terminal that does not run there is nobody to connect.
        if self.world.at_terminal(self.terminals[from]).is_none() {
            return;
        }
        let (number, server) = (self.streams.len(), self.peer(to));
        let (name, port) = (self.world.fqdn(server).clone(), FIRST_PORT + number as u16);
        let task = Task::Echo(Echo { key: number as u32, size: SIZE, period, turns });
        let flow = self.world.flow(self.terminals[from], server, &name, port, task);
        self.streams.push(Begun { flow, from, to, at: self.world.now(), afresh, turns });
    }

    /// Whoever had a connection makes another.
    pub(super) fn streams_afresh(&mut self, script: &Script) {
        for (from, to) in script.connected() {
            let is_it = |begun: &Begun| begun.afresh && (begun.from, begun.to) == (from, to);
            if !self.streams.iter().any(is_it) {
                let turns = script.turns((from, to));
                self.stream((from, to), Duration::from_millis(400), turns, true);
            }
        }
    }

    /// What came of a connection, and its segments.
    pub(super) fn streamed(&self, begun: &Begun) -> (Echoed, &Segments) {
        match (self.world.outcome(begun.flow), self.world.segments(begun.flow)) {
            (Outcome::Echoed(echoed), Some(segments)) => (echoed, segments),
            (other, _) => unreachable!("a stream is no {other:?}"),
        }
    }
}

/// How a connection is called.
fn whose(begun: &Begun) -> String {
    let afresh = if begun.afresh { ", made after the faults" } else { "" };
    format!("the connection of mn{} with {}{afresh}", begun.from, begun.to)
}

/// What no fault excuses: a byte that is not the next of its own connection, and a segment that comes to another host, or twice out of a tunnel; and
/// what only some faults excuse: that a connection ends, or that a general node sees it come from elsewhere.
pub(super) fn safety(script: &Script, played: &Played) -> Result<(), Fault> {
    let end = played.world.now();
    // Where records are lost a VIP may be somebody else's later.
    let lost = (0..script.coordinators.len()).any(|n| script.loses_records_of(n));
    for begun in &played.streams {
        let (echoed, segments) = played.streamed(begun);
        let whose = whose(begun);
        if let Some(at) = echoed.wrong {
            return Err(fault(Rule::Stream, at, format!("{whose}: bytes came that are not its next")));
        }
        if lost {
            continue;
        }
        if segments.astray > 0 {
            let what = format!("{whose}: {} segments came elsewhere", segments.astray);
            return Err(fault(Rule::Astray, end, what));
        }
        // Between relay and general node it is plain TCP, which may come twice.
        if segments.again > 0 && matches!(begun.to, Peer::Terminal(_)) {
            return Err(fault(Rule::Twice, end, format!("{whose}: {} segments came twice", segments.again)));
        }
        for (number, turn) in echoed.turns.iter().enumerate() {
            // Who connects where a relay is gone is told at once, until the path stands again, or the name is asked for.
            let since = if turn.connected.is_some() { turn.at } else { begun.at };
            if let Some(at) = turn.reset
                && !may_end(script, played, begun, since..=at)
            {
                let what = format!("{whose} was reset, as the one numbered {number}: {turn:?}");
                return Err(fault(Rule::Reset, at, what));
            }
            let mut sources = segments.sources.iter().filter(|(_, it, _)| *it == number);
            if let Some((at, _, source)) = sources.nth(1)
                && !may_end(script, played, begun, turn.at..=*at)
            {
                return Err(fault(Rule::RelayKept, *at, format!("{whose} comes from {source} now")));
            }
        }
    }
    Ok(())
}

/// Whether anything has happened meanwhile that a connection need not live through.
fn may_end(script: &Script, played: &Played, begun: &Begun, lasted: RangeInclusive<Instant>) -> bool {
    let crashed = |who: Who| played.crashes.iter().any(|it| it.who == who && lasted.contains(&it.at));
    let loses = |terminal: usize| script.loses_records_of(script.terminals[terminal].coordinator);
    // Where nothing is lost, relays and DCs stay up, and whoever moves reaches them in the family that he had, no relay is gone.
    let takes_relays = |entry: &Entry| match entry.act {
        Act::Crash { who, .. } => !matches!(who, Who::Terminal(_)),
        Act::Cut { .. } => true,
        _ => false,
    };
    let possible = script.impairment.loss > 0.0
        || script.families.are_mixed()
        || script.timeline.iter().any(takes_relays);
    ends(begun).iter().any(|n| crashed(Who::Terminal(*n)) || loses(*n))
        || (possible && relay_went(played, begun, lasted).is_some())
}

/// When the relay that translates for a connection was gone, if it was: for a path that stood its terminal says so; one that had ended, as nobody used
/// it for its lifetime, it asks for again, and has another where the DC does not give it back.
pub(super) fn relay_went(played: &Played, begun: &Begun, lasted: RangeInclusive<Instant>) -> Option<Instant> {
    let Peer::General(general) = begun.to else { return None };
    let (client, general) = (played.terminals[begun.from], played.generals[general]);
    let (client, general) = (played.world.name(client), played.world.fqdn(general).to_string());
    let mut paths: BTreeSet<PathId> = BTreeSet::new();
    let mut asked: Vec<&Shown> = Vec::new();
    for Observation { t, node, what } in played.world.trace().iter().filter(|seen| seen.t <= *lasted.end()) {
        match what {
            What::Received { message: Kind::RouteDirection, path: Some(path), fields, .. }
                if node == client && fields.get("peer") == Some(&Shown::Text(general.clone())) =>
            {
                paths.insert(*path);
            }
            What::Sent { message: Kind::DirectionRequest, path: Some(path), fields, .. }
                if node == client && paths.contains(path) =>
            {
                asked.extend(fields.get("request"));
            }
            What::Received { message: Kind::DirectionRefusal, fields, .. }
                if lasted.contains(t)
                    && node == client
                    && fields.get("request").is_some_and(|request| asked.contains(&request)) =>
            {
                return Some(*t);
            }
            What::PathChanged { path, route: RouteName::None, reason, .. }
                if lasted.contains(t)
                    && node == client
                    && paths.contains(path)
                    && reason.contains("no other can take its place") =>
            {
                return Some(*t);
            }
            _ => {}
        }
    }
    None
}

/// In the end connections are made, and none of their segments is lost. A connection of before need not have had its turn again: TCP waits twice as long each
/// time that it hears nothing.
pub(super) fn liveness(script: &Script, played: &Played) -> Result<(), Fault> {
    let end = Instant::ZERO + (LENGTH - Duration::from_secs(1));
    for begun in played.streams.iter().filter(|begun| is_promised(script, begun.from, begun.to)) {
        let (echoed, segments) = played.streamed(begun);
        if begun.afresh {
            if !echoed.messages().any(|message| message.returned.is_some()) {
                let what = format!("{}: it carried nothing: {echoed:?}", whose(begun));
                return Err(fault(Rule::Flows, played.world.now(), what));
            }
        } else if echoed.reset().is_some() || may_end(script, played, begun, begun.at..=end) {
            continue;
        }
        closes(begun, &echoed, played.world.now())?;
        // A relay that has crashed knows connections again as terminals speak: until then it has nobody for what general nodes send.
        let crashes = played.crashes.iter().filter(|crash| matches!(crash.who, Who::Relay(_)));
        let crashed = crashes.map(|crash| crash.at).max().filter(|_| matches!(begun.to, Peer::General(_)));
        let is_known = |of: Option<usize>, at: Instant| {
            let its = segments.sent.iter().filter(|it| it.by_client && it.connection == of);
            let mut came = its.filter_map(|it| it.came);
            crashed.is_none_or(|crashed| came.any(|came| crashed < came && came <= at))
        };
        let mut before = begun.at;
        for segment in &segments.sent {
            let pause = segment.sent.since(before);
            before = segment.sent;
            let judged = segment.sent >= Instant::ZERO + SETTLED && segment.sent < end;
            // The first after a pause may find that its path has ended, as nobody used it.
            let is_lost = segment.came.is_none() && !segment.too_long;
            let has_way = segment.by_client || is_known(segment.connection, segment.sent);
            if judged && is_lost && has_way && pause < script.lifetime {
                let what = format!("{}: a segment of {:?} is lost", whose(begun), segment.sent);
                return Err(fault(Rule::Flows, played.world.now(), what));
            }
        }
    }
    Ok(())
}

/// Of connections that were made after the faults: each carries something, who closes one is heard, and another is made.
fn closes(begun: &Begun, echoed: &Echoed, end: Instant) -> Result<(), Fault> {
    for (number, turn) in echoed.turns.iter().enumerate() {
        if turn.at < Instant::ZERO + AFRESH {
            continue;
        }
        let wrong = |what: &str| {
            let what = format!("{}, numbered {number}: {what}: {turn:?}", whose(begun));
            Err(fault(Rule::Closed, end, what))
        };
        if end.since(turn.at) > HEARD && !turn.messages.iter().any(|message| message.returned.is_some()) {
            return wrong("it carried nothing");
        }
        for half in [turn.client, turn.server] {
            if half.closed.is_some_and(|at| end.since(at) > HEARD) && half.heard.is_none() {
                return wrong("an end of it was not heard");
            }
        }
        let is_last = number + 1 == echoed.turns.len();
        let over = turn.client.closed.zip(turn.server.heard).map(|(own, its)| own.max(its)).or(turn.reset);
        let next = over.zip(begun.turns).map(|(at, turns)| at + turns.pause + HEARD);
        if is_last && next.is_some_and(|next| next < end) {
            return wrong("none is made after it");
        }
    }
    Ok(())
}

/// What occurred to connections, as [`EVENTS`](super::census::EVENTS) calls it, and how often.
pub(super) fn occurred(script: &Script, played: &Played) -> Vec<(&'static str, u64)> {
    let calm = Instant::ZERO + CALM;
    let mut all = Vec::new();
    for begun in &played.streams {
        let (echoed, segments) = played.streamed(begun);
        // It carried bytes before a moment, and others that were given after it.
        let carried = |turn: &Turn| {
            let returned = turn.messages.iter().filter_map(|message| message.returned).min();
            let given =
                turn.messages.iter().filter(|message| message.returned.is_some()).map(|it| it.at).max();
            returned.zip(given)
        };
        let spans: Vec<_> = echoed.turns.iter().filter_map(carried).collect();
        let over = |at: Instant| spans.iter().any(|(first, last)| *first < at && at < *last);
        let ends: Vec<usize> = ends(begun);
        let moves =
            played.moves.iter().filter(|it| ends.contains(&it.terminal) && over(it.at)).count() as u64;
        let over_crash = |is_it: &dyn Fn(Who) -> bool| {
            played.crashes.iter().filter(|it| is_it(it.who) && over(it.at)).count() as u64
        };
        let of_dc = |who| ends.iter().any(|n| who == Who::Coordinator(script.terminals[*n].coordinator));
        let through = matches!(begun.to, Peer::General(_));
        let crashed = |at: Instant| match begun.to {
            Peer::Terminal(n) => played.crashes.iter().any(|it| it.who == Who::Terminal(n) && it.at < at),
            Peer::General(_) => false,
        };
        let gone = |turn: &Turn, at| relay_went(played, begun, turn.at..=at).is_some();
        let reset = |why: &dyn Fn(&Turn, Instant) -> bool| {
            let turns = echoed.turns.iter().filter(|turn| turn.reset.is_some_and(|at| why(turn, at)));
            turns.count() as u64
        };
        all.extend([
            ("a TCP connection carried bytes over a move", moves),
            ("a TCP connection carried bytes through an RS-N", u64::from(through && !spans.is_empty())),
            ("a TCP connection carried bytes over a move through an RS-N", if through { moves } else { 0 }),
            ("a TCP connection carried bytes over a crash of its DC", over_crash(&of_dc)),
            (
                "a TCP connection carried bytes over a crash of a relay",
                over_crash(&|who| matches!(who, Who::Relay(_))),
            ),
            ("a TCP connection went on after the faults", u64::from(over(calm))),
            ("a TCP connection was reset, for its RS-N was gone", reset(&gone)),
            ("a TCP connection was reset, for its server had crashed", reset(&|_, at| crashed(at))),
            ("a TCP connection never stood", u64::from(echoed.connected().is_none())),
            ("a TCP segment was sent again", segments.repeated()),
            ("a TCP segment came twice out of the network", segments.again.into()),
        ]);
        all.extend(closed(played, begun, &echoed));
    }
    all
}

/// The same of connections that were closed.
fn closed(played: &Played, begun: &Begun, echoed: &Echoed) -> impl IntoIterator<Item = (&'static str, u64)> {
    let ends = ends(begun);
    let count = |is_it: &dyn Fn(usize, &Turn) -> bool| {
        echoed.turns.iter().enumerate().filter(|(number, turn)| is_it(*number, turn)).count() as u64
    };
    // When it was half-closed: from one end's last word to the other's.
    let half = |turn: &Turn| {
        let (client, server) = (turn.client.closed?, turn.server.closed?);
        Some((client.min(server), client.max(server)))
    };
    let is_first = |turn: &Turn, half: fn(&Turn) -> Half, other: fn(&Turn) -> Half| {
        half(turn).closed.is_some_and(|at| other(turn).closed.is_none_or(|other| at < other))
    };
    let moved = |(from, until): (Instant, Instant)| {
        played.moves.iter().any(|it| ends.contains(&it.terminal) && from < it.at && it.at < until)
    };
    let under_way = |half: Half| half.closed.zip(half.heard).is_some_and(moved);
    // It carried something, and so did the one before it, which was closed.
    let carried = |turn: &Turn| turn.messages.iter().any(|message| message.returned.is_some());
    let again = |number: usize, turn: &Turn| {
        let before = number.checked_sub(1).map(|before| &echoed.turns[before]);
        carried(turn) && before.is_some_and(|before| carried(before) && before.reset.is_none())
    };
    let has_one_port = begun.turns.is_some_and(|turns| turns.ports == 1);
    let over_crash = |number: usize, turn: &Turn| {
        let before = number.checked_sub(1).map(|before| echoed.turns[before].at);
        let is_between = |at: Instant| before.is_some_and(|before| before < at) && at < turn.at;
        played.crashes.iter().any(|it| matches!(it.who, Who::Relay(_)) && is_between(it.at))
    };
    let after_reset = |number: usize| number > 0 && echoed.turns[number - 1].reset.is_some();
    [
        (
            "a client was the first to close a TCP connection",
            count(&|_, it| is_first(it, |it| it.client, |it| it.server)),
        ),
        (
            "a server was the first to close a TCP connection",
            count(&|_, it| is_first(it, |it| it.server, |it| it.client)),
        ),
        (
            "a terminal moved while a TCP connection was half-closed",
            count(&|_, it| half(it).is_some_and(moved)),
        ),
        (
            "the close of a TCP connection was heard after a move",
            count(&|_, it| under_way(it.client) || under_way(it.server)),
        ),
        ("another TCP connection was made after a close", count(&again)),
        (
            "another TCP connection was made after a close, from the same port",
            count(&|number, it| has_one_port && again(number, it)),
        ),
        (
            "another TCP connection was made after a close and a relay's crash",
            count(&|number, it| again(number, it) && over_crash(number, it)),
        ),
        (
            "another TCP connection was made after a reset",
            count(&|number, it| carried(it) && after_reset(number)),
        ),
    ]
}

/// The terminals that a connection is of.
fn ends(begun: &Begun) -> Vec<usize> {
    match begun.to {
        Peer::Terminal(n) => vec![begun.from, n],
        Peer::General(_) => vec![begun.from],
    }
}
