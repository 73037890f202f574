//! Plays a [`Script`]: its world is built, and what is to happen happens.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ntm_protocol::time::{Duration, Instant};

use super::families::Families;
use super::script::{AFRESH, Act, CALM, LENGTH, Peer, Place, Script, Spot, Who};
use super::streams::Begun;
use crate::impair::Impairment;
use crate::{HostId, INTERNET, Interface, Link, NetworkId, TalkId, World};

/// How long a crash may wait for a write to be under way.
const PATIENCE: Duration = Duration::from_secs(5);

/// A conversation of the script.
#[derive(Clone, Copy, Debug)]
pub struct Said {
    /// Which.
    pub talk: TalkId,
    /// Whose.
    pub from: usize,
    /// With whom.
    pub to: Peer,
    /// Whether it began after the faults.
    pub afresh: bool,
    /// Whether its application ended, or its terminal crashed.
    pub over: bool,
}

/// A crash as it took place.
#[derive(Clone, Copy, Debug)]
pub struct Crashed {
    /// Who.
    pub who: Who,
    /// When.
    pub at: Instant,
    /// How many observations were made before it: the last of them may be of the same instant.
    pub observed: usize,
    /// Whether the disk was lost.
    pub disk: bool,
    /// How many writes were under way.
    pub writing: usize,
    /// How many paths led over it: entries of a relay's table, or a terminal's paths.
    pub paths: usize,
}

/// A move as it took place.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// Who.
    pub terminal: usize,
    /// When.
    pub at: Instant,
    /// Where from.
    pub from: Place,
    /// Where to.
    pub to: Place,
}

/// A world at its end.
pub struct Played {
    /// The world.
    pub world: World,
    /// The DCs.
    pub coordinators: Vec<HostId>,
    /// The relays.
    pub relays: Vec<HostId>,
    /// The terminals.
    pub terminals: Vec<HostId>,
    /// The general nodes.
    pub generals: Vec<HostId>,
    /// Every conversation, in the order in which they began.
    pub said: Vec<Said>,
    /// Every question that was asked again and again since the faults, from whom and for whom.
    pub asked: Vec<(TalkId, usize, Peer)>,
    /// Every TCP connection, in the order in which they began.
    pub streams: Vec<Begun>,
    /// Every crash.
    pub crashes: Vec<Crashed>,
    /// Every move.
    pub moves: Vec<Moved>,
    sites: Vec<NetworkId>,
    places: Vec<Place>,
    families: Families,
    link: Link,
    /// The cuts in force, and until when.
    cuts: Vec<(Spot, Spot, bool, Instant)>,
}

/// What is due.
#[derive(Clone, Copy)]
enum Step {
    /// A terminal starts for the first time.
    Start(usize),
    Act(Act),
    /// Who crashed is started.
    Again(Who),
    /// Cuts that are over are mended.
    Mend,
    Calm,
    Afresh,
    /// Applications ask once more, if they do.
    Ask,
}

/// Plays `script` from its beginning to its end.
pub fn play(script: &Script) -> Played {
    let mut played = Played::new(script);
    let mut steps: Vec<(Duration, Step)> = Vec::new();
    steps.extend(script.terminals.iter().enumerate().map(|(n, resident)| (resident.start, Step::Start(n))));
    for entry in &script.timeline {
        steps.push((entry.at, Step::Act(entry.act)));
        match entry.act {
            Act::Crash { who, down, writing: false, .. } => steps.push((entry.at + down, Step::Again(who))),
            Act::Cut { lasts, .. } => steps.push((entry.at + lasts, Step::Mend)),
            _ => {}
        }
    }
    steps.push((CALM, Step::Calm));
    steps.extend((0..5).map(|n| (AFRESH + Duration::from_secs(n), Step::Afresh)));
    if script.insistent {
        // Until the questions of those that ask afresh.
        let asks = (AFRESH - CALM).as_secs() as u32;
        steps.extend((1..asks).map(|n| (CALM + Duration::from_secs(1) * n, Step::Ask)));
    }
    steps.retain(|(at, step)| *at < CALM || matches!(step, Step::Calm | Step::Afresh | Step::Ask));
    // At one instant in the order in which they stand here.
    steps.sort_by_key(|(at, _)| *at);
    // Crashes that wait for a write are due at a moment that only the world knows.
    let mut armed: Vec<(Instant, Act)> = Vec::new();
    let mut again: Vec<(Instant, Who)> = Vec::new();
    for (at, step) in steps {
        let at = Instant::ZERO + at;
        played.run_until(at, &mut armed, &mut again);
        match step {
            Step::Start(n) => {
                if played.world.at_terminal(played.terminals[n]).is_none() {
                    played.world.start(played.terminals[n]);
                }
            }
            Step::Act(act @ Act::Crash { writing: true, .. }) => armed.push((at + PATIENCE, act)),
            Step::Act(act) => played.act(&act),
            Step::Again(who) => played.start(who),
            Step::Mend => played.mend(),
            Step::Calm => {
                armed.clear();
                again.clear();
                played.calm(script);
            }
            Step::Afresh => {
                played.afresh(script);
                played.streams_afresh(script);
            }
            Step::Ask => played.ask(script),
        }
    }
    played.run_until(Instant::ZERO + LENGTH, &mut armed, &mut again);
    played
}

impl Played {
    fn new(script: &Script) -> Self {
        let mut world = World::new(script.seed);
        world.settings.keep_alive = script.keep_alive;
        world.settings.write = script.write;
        world.settings.lifetime = script.lifetime;
        world.settings.capacity = script.capacity;
        world.settings.handover = script.handover;
        let link = Link { up: script.impairment, down: script.impairment };
        let coordinators: Vec<HostId> = script
            .coordinators
            .iter()
            .enumerate()
            .map(|(n, prefix)| {
                let (zone, vips) = (format!("d{n}.test"), format!("198.{}.0.0/{prefix}", 18 + n));
                let addresses = texts(script.families.addresses(Spot::Coordinator(n)));
                world.coordinator_at(&format!("dc{n}"), &zone, &vips, &addresses, link)
            })
            .collect();
        let relays = (0..script.relays)
            .map(|n| {
                let addresses = texts(script.families.addresses(Spot::Relay(n)));
                world.relay_at(&format!("rs{n}"), &coordinators, &addresses, link)
            })
            .collect();
        let generals = (0..script.generals)
            .map(|n| {
                let at = interfaces(INTERNET, script.families.of_general(n), link);
                world.general_at(&format!("gn{n}"), &[&format!("www{n}.example.test")], &at)
            })
            .collect();
        let sites: Vec<NetworkId> = script
            .sites
            .iter()
            .enumerate()
            .map(|(n, behaviour)| {
                let external = Spot::Site(n).address().to_string();
                world.router(&format!("nat{n}"), *behaviour, INTERNET, &external, link)
            })
            .collect();
        let places: Vec<Place> = script.terminals.iter().map(|resident| resident.at).collect();
        let terminals = script
            .terminals
            .iter()
            .enumerate()
            .map(|(n, resident)| {
                let addresses = script.families.addresses_at(resident.at, n);
                let at = interfaces(network(resident.at, &sites), addresses, link);
                world.terminal_at(&format!("mn{n}"), coordinators[resident.coordinator], &at)
            })
            .collect();
        let mut played = Self {
            world,
            coordinators,
            relays,
            terminals,
            generals,
            said: Vec::new(),
            asked: Vec::new(),
            streams: Vec::new(),
            crashes: Vec::new(),
            moves: Vec::new(),
            sites,
            places,
            families: script.families.clone(),
            link,
            cuts: Vec::new(),
        };
        for (who, clock) in &script.clocks {
            played.world.set_clock(played.host(*who), *clock);
        }
        let all = [&played.coordinators[..], &played.relays, &played.generals].concat();
        all.into_iter().for_each(|host| played.world.start(host));
        played
    }

    /// The host that `who` is.
    pub fn host(&self, who: Who) -> HostId {
        match who {
            Who::Coordinator(n) => self.coordinators[n],
            Who::Relay(n) => self.relays[n],
            Who::Terminal(n) => self.terminals[n],
        }
    }

    /// The host that `peer` is.
    pub fn peer(&self, peer: Peer) -> HostId {
        match peer {
            Peer::Terminal(n) => self.terminals[n],
            Peer::General(n) => self.generals[n],
        }
    }

    /// Lets time pass until `until`; on the way crash those who wait for a write, and start again.
    fn run_until(
        &mut self,
        until: Instant,
        armed: &mut Vec<(Instant, Act)>,
        again: &mut Vec<(Instant, Who)>,
    ) {
        loop {
            armed.retain(|(patience, _)| *patience > self.world.now());
            let next = again.iter().map(|(at, _)| *at).chain(armed.iter().map(|(at, _)| *at)).min();
            let stop = next.map_or(until, |next| next.min(until));
            let watched: BTreeSet<HostId> = armed
                .iter()
                .filter_map(|(_, act)| match act {
                    Act::Crash { who, .. } => Some(self.host(*who)),
                    _ => None,
                })
                .collect();
            let writes = |world: &World| watched.iter().any(|host| world.writing(*host) > 0);
            let limit = stop.since(self.world.now());
            if watched.is_empty() {
                self.world.run_for(limit);
            } else if self.world.wait(limit, writes) {
                let at = armed.iter().position(|(_, act)| match act {
                    Act::Crash { who, .. } => self.world.writing(self.host(*who)) > 0,
                    _ => false,
                });
                if let Some(at) = at
                    && let (_, act @ Act::Crash { who, down, .. }) = armed.remove(at)
                {
                    self.act(&act);
                    again.push((self.world.now() + down, who));
                    continue;
                }
            }
            let now = self.world.now();
            let due: Vec<Who> = again.iter().filter(|(at, _)| *at <= now).map(|(_, who)| *who).collect();
            again.retain(|(at, _)| *at > now);
            due.into_iter().for_each(|who| self.start(who));
            if now >= until {
                return;
            }
        }
    }

    fn is_running(&self, who: Who) -> bool {
        let host = self.host(who);
        match who {
            Who::Coordinator(_) => self.world.at_coordinator(host).is_some(),
            Who::Relay(_) => self.world.at_relay(host).is_some(),
            Who::Terminal(_) => self.world.at_terminal(host).is_some(),
        }
    }

    fn start(&mut self, who: Who) {
        if !self.is_running(who) {
            self.world.start(self.host(who));
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Talk { from, to, period } => self.talk(from, to, period, false),
            Act::Stream { from, to, period, turns } => self.stream((from, to), period, turns, false),
            Act::HangUp { n } => {
                if let Some(said) = self.said.get_mut(n) {
                    said.over = true;
                    self.world.hang_up(said.talk);
                }
            }
            Act::Move { terminal, to } => self.move_to(terminal, to),
            Act::Crash { who, disk, .. } => self.crash(who, disk),
            Act::Cut { from, to, one_way, lasts } => {
                self.cuts.push((from, to, one_way, self.world.now() + lasts));
                self.mend();
            }
        }
    }

    fn talk(&mut self, from: usize, to: Peer, period: Duration, afresh: bool) {
        // On a terminal that does not run there is nobody to ask.
        if !self.is_running(Who::Terminal(from)) {
            return;
        }
        let peer = self.peer(to);
        let talk = self.world.talk(self.terminals[from], peer, period);
        self.said.push(Said { talk, from, to, afresh, over: false });
    }

    fn move_to(&mut self, terminal: usize, to: Place) {
        let from = std::mem::replace(&mut self.places[terminal], to);
        let addresses = self.families.addresses_at(to, terminal);
        let at = interfaces(network(to, &self.sites), addresses, self.link);
        self.world.move_to(self.terminals[terminal], &at);
        self.moves.push(Moved { terminal, at: self.world.now(), from, to });
    }

    fn crash(&mut self, who: Who, disk: bool) {
        if !self.is_running(who) {
            return;
        }
        let (host, at) = (self.host(who), self.world.now());
        let paths = match who {
            Who::Coordinator(_) => 0,
            Who::Relay(_) => self.world.at_relay(host).map_or(0, |relay| relay.table().len()),
            Who::Terminal(_) => self.world.at_terminal(host).map_or(0, |terminal| terminal.paths().len()),
        };
        let (writing, observed) = (self.world.writing(host), self.world.trace().len());
        self.crashes.push(Crashed { who, at, observed, disk, writing, paths });
        self.world.crash(host);
        if disk {
            self.world.lose_disk(host);
        }
        // Its applications are gone with it.
        if matches!(who, Who::Terminal(_)) {
            self.world.end_applications(host);
        }
        for said in self.said.iter_mut().filter(|said| Who::Terminal(said.from) == who) {
            said.over = true;
            self.world.hang_up(said.talk);
        }
    }

    /// Only the cuts that are not over are in force.
    fn mend(&mut self) {
        let now = self.world.now();
        self.cuts.retain(|(.., until)| *until > now);
        self.world.mend();
        for (from, to, one_way, _) in &self.cuts {
            for (from, to) in self.families.cut_off(*from, *to, self.terminals.len()) {
                self.world.cut_one_way(from, to);
                if !one_way {
                    self.world.cut_one_way(to, from);
                }
            }
        }
    }

    /// The faults stop.
    fn calm(&mut self, script: &Script) {
        self.cuts.clear();
        self.world.mend();
        let way = Impairment { delay: script.impairment.delay, ..Impairment::default() };
        self.world.impair(|link| *link = way);
        self.link = Link { up: way, down: way };
        let all = (0..self.coordinators.len())
            .map(Who::Coordinator)
            .chain((0..self.relays.len()).map(Who::Relay))
            .chain((0..self.terminals.len()).map(Who::Terminal));
        all.for_each(|who| self.start(who));
        for terminal in 0..self.terminals.len() {
            if self.places[terminal] == Place::Nowhere {
                self.move_to(terminal, script.last_place(terminal));
            }
        }
    }

    /// Applications ask once more for everybody of whom they know no address since the faults.
    fn ask(&mut self, script: &Script) {
        for (from, to) in script.pairs() {
            let before = self.asked.iter().rfind(|(_, f, t)| (*f, *t) == (from, to));
            let refused = |answer: Option<(Instant, Result<_, _>)>| matches!(answer, Some((_, Err(_))));
            if before.is_none_or(|(talk, ..)| refused(self.world.heard(*talk).answer)) {
                let name = self.world.fqdn(self.peer(to)).clone();
                let talk = self.world.ask(self.terminals[from], name.as_str());
                self.asked.push((talk, from, to));
            }
        }
    }

    /// Applications ask once more for everybody whom somebody talked to; and again where the answer is an error, as resolvers do.
    fn afresh(&mut self, script: &Script) {
        for (from, to) in script.pairs() {
            let is_it = |said: &&mut Said| said.afresh && (said.from, said.to) == (from, to);
            if let Some(said) = self.said.iter_mut().rfind(is_it) {
                let answer = self.world.heard(said.talk).answer;
                if answer.is_none_or(|(_, answer)| answer.is_ok()) {
                    continue;
                }
                said.over = true;
            }
            self.talk(from, to, Duration::from_millis(400), true);
        }
    }
}

fn network(place: Place, sites: &[NetworkId]) -> NetworkId {
    place.site().map_or(INTERNET, |site| sites[site])
}

fn interfaces(network: NetworkId, addresses: Vec<IpAddr>, link: Link) -> Vec<Interface> {
    addresses.into_iter().map(|address| Interface { network, address, link }).collect()
}

fn texts(addresses: Vec<IpAddr>) -> Vec<String> {
    addresses.iter().map(IpAddr::to_string).collect()
}
