//! A seed's world.

use ntm_nat::{Allocation, Axes, Behaviour, Dependence, Timeouts};
use ntm_protocol::terminal::Handover;
use ntm_protocol::time::Duration;
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};

use super::families::{self, Families};
use super::script::{Act, CALM, Entry, Peer, Place, Resident, Script, Spot, Who};
use super::streams;
use crate::clock::Clock;
use crate::impair::Impairment;

/// What is random, of one seed.
pub(super) struct Dice(ChaCha12Rng);

impl Dice {
    /// A number below `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n.max(1) as u64) as usize
    }

    /// Whether it comes to pass, `percent` times in a hundred.
    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// A time from `from` to `to`, in milliseconds.
    pub(super) fn between(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.0.next_u64() % (to - from))
    }
}

/// Of all streams of families one that changes no world of [`ONCE_FAILED`](super::ONCE_FAILED) that is older than they are.
const FAMILIES: u64 = 0xfa00_08b9;

/// The world of `seed`. The same on every machine.
pub fn generate(seed: u64) -> Script {
    let mut script = of_datagrams(seed);
    // Drawn from another stream: but for connections the world is what it would be without.
    streams::draw(&mut Dice(ChaCha12Rng::seed_from_u64(seed ^ 0x57ea_3c0d)), &mut script);
    // And from another one which of them are closed and made again.
    streams::draw_turns(&mut Dice(ChaCha12Rng::seed_from_u64(seed ^ 0x7a2_c105)), &mut script);
    script
}

/// The same without TCP: whatever else happens is what it was before there was any.
pub fn of_datagrams(seed: u64) -> Script {
    // The world draws from a stream of its own: what happens in it does not follow from what it is.
    let mut dice = Dice(ChaCha12Rng::seed_from_u64(seed ^ 0x5eed_0fa5_c819));
    let coordinators = 1 + dice.below(2);
    let sites = 1 + dice.below(3);
    let terminals = 2 + dice.below(3);
    let mut script = Script {
        seed,
        keep_alive: Duration::from_secs(dice.pick(&[1, 1, 2])),
        write: Duration::from_micros(dice.pick(&[500, 500, 5_000, 150_000])),
        lifetime: Duration::from_secs(dice.pick(&[300, 300, 300, 6])),
        capacity: dice.pick(&[1000, 1000, 1000, 1]),
        handover: dice.pick(&[Handover::Thesis, Handover::Fast]),
        impairment: impairment(&mut dice),
        coordinators: (0..coordinators).map(|_| dice.pick(&[16, 24, 24, 29])).collect(),
        relays: 1 + dice.below(3),
        sites: (0..sites).map(|_| behaviour(&mut dice)).collect(),
        terminals: Vec::new(),
        generals: dice.pick(&[1, 1, 2, 3]),
        insistent: false,
        clocks: Vec::new(),
        families: Families::default(),
        timeline: Vec::new(),
    };
    for _ in 0..terminals {
        let start = if dice.chance(70) { dice.between(0, 400) } else { dice.between(0, 12_000) };
        let (coordinator, at) = (dice.below(coordinators), place(&mut dice, sites));
        script.terminals.push(Resident { coordinator, at, start });
    }
    timeline(&mut dice, &mut script);
    // Drawn from another stream: what came before stays as it is.
    clocks(&mut Dice(ChaCha12Rng::seed_from_u64(seed ^ 0x0c10_c750)), &mut script);
    script.insistent = Dice(ChaCha12Rng::seed_from_u64(seed ^ 0x1a51_57e4)).chance(50);
    families::draw(&mut Dice(ChaCha12Rng::seed_from_u64(seed ^ FAMILIES)), &mut script);
    script
}

/// In half of the worlds every node has a clock of its own: as far off as one that was never set, and as inexact as a cheap quartz.
fn clocks(dice: &mut Dice, script: &mut Script) {
    if dice.chance(50) {
        return;
    }
    let all = (0..script.coordinators.len())
        .map(Who::Coordinator)
        .chain((0..script.relays).map(Who::Relay))
        .chain((0..script.terminals.len()).map(Who::Terminal));
    script.clocks = all
        .map(|who| {
            let offset = dice.between(0, 1_000_000_000);
            (who, Clock { offset, drift: dice.below(201) as i32 - 100 })
        })
        .collect();
}

fn impairment(dice: &mut Dice) -> Impairment {
    let mut way = Impairment { delay: dice.between(1, 25), ..Impairment::default() };
    let some = |dice: &mut Dice, of: &[u32]| f64::from(dice.pick(of)) / 100.0;
    if dice.chance(60) {
        way.loss = some(dice, &[1, 5, 15]);
        way.duplicate = some(dice, &[0, 5, 30]);
        way.reorder = some(dice, &[0, 5, 30]);
    }
    way
}

fn behaviour(dice: &mut Dice) -> Behaviour {
    let all =
        [Dependence::EndpointIndependent, Dependence::AddressDependent, Dependence::AddressAndPortDependent];
    let mapping = if dice.chance(60) { Dependence::EndpointIndependent } else { dice.pick(&all) };
    Behaviour::Nat(Axes {
        hairpin: dice.chance(70),
        allocation: dice.pick(&[Allocation::Preserve, Allocation::Preserve, Allocation::Random]),
        timeouts: Timeouts { udp: Duration::from_secs(dice.pick(&[15, 30, 120])), ..Timeouts::RFC },
        ..Axes::new(mapping, dice.pick(&all))
    })
}

fn place(dice: &mut Dice, sites: usize) -> Place {
    let other = dice.chance(20);
    if dice.chance(25) { Place::Public { other } } else { Place::Behind { site: dice.below(sites), other } }
}

pub(super) fn peer(dice: &mut Dice, script: &Script, from: usize) -> Peer {
    if dice.chance(40) {
        return Peer::General(dice.below(script.generals));
    }
    let others = script.terminals.len() - 1;
    Peer::Terminal((from + 1 + dice.below(others)) % script.terminals.len())
}

fn who(dice: &mut Dice, script: &Script) -> Who {
    match dice.below(3) {
        0 => Who::Coordinator(dice.below(script.coordinators.len())),
        1 => Who::Relay(dice.below(script.relays)),
        _ => Who::Terminal(dice.below(script.terminals.len())),
    }
}

fn spot(dice: &mut Dice, script: &Script) -> Spot {
    match dice.below(6) {
        0 => Spot::Coordinator(dice.below(script.coordinators.len())),
        1 => Spot::Relay(dice.below(script.relays)),
        2 => Spot::Terminal(dice.below(script.terminals.len())),
        _ => Spot::Site(dice.below(script.sites.len())),
    }
}

fn timeline(dice: &mut Dice, script: &mut Script) {
    let last = CALM.as_millis() as u64 - 1_000;
    let (terminals, sites) = (script.terminals.len(), script.sites.len());
    let mut timeline = Vec::new();
    let talks = 1 + dice.below(4);
    for n in 0..talks {
        let from = dice.below(terminals);
        let to = peer(dice, script, from);
        let begun = if dice.chance(60) { dice.between(500, 4_000) } else { dice.between(500, last) };
        timeline.push(Entry { at: begun, act: Act::Talk { from, to, period: dice.between(150, 500) } });
        if dice.chance(10) {
            timeline.push(Entry { at: begun + dice.between(1_000, 20_000), act: Act::HangUp { n } });
        }
    }
    for _ in 0..dice.below(6) {
        let at = dice.between(1_000, last);
        let terminal = dice.below(terminals);
        let to = if dice.chance(10) { Place::Nowhere } else { place(dice, sites) };
        timeline.push(Entry { at, act: Act::Move { terminal, to } });
        // Sometimes somebody else moves at the same moment, or the same once more.
        if dice.chance(25) {
            let (terminal, to) = (dice.below(terminals), place(dice, sites));
            timeline.push(Entry { at: at + dice.between(0, 150), act: Act::Move { terminal, to } });
        }
    }
    // A restless one: its paths' epochs wrap.
    if dice.chance(4) {
        let (terminal, mut at) = (dice.below(terminals), dice.between(4_000, 6_000));
        while at < Duration::from_millis(last) {
            let to = place(dice, sites);
            timeline.push(Entry { at, act: Act::Move { terminal, to } });
            at += dice.between(700, 1_400);
        }
    }
    for _ in 0..dice.below(4) {
        let (at, who) = (dice.between(50, last), who(dice, script));
        let down = if dice.chance(40) { dice.between(20, 300) } else { dice.between(300, 12_000) };
        let (disk, writing) = (dice.chance(15), dice.chance(40) && matches!(who, Who::Coordinator(_)));
        timeline.push(Entry { at, act: Act::Crash { who, down, disk, writing } });
    }
    for _ in 0..dice.below(4) {
        let (at, from, to) = (dice.between(500, last), spot(dice, script), spot(dice, script));
        let (one_way, lasts) = (dice.chance(50), dice.between(500, 15_000));
        if from != to {
            timeline.push(Entry { at, act: Act::Cut { from, to, one_way, lasts } });
        }
    }
    timeline.retain(|entry| entry.at < CALM);
    timeline.sort_by_key(|entry| entry.at);
    script.timeline = timeline;
}
