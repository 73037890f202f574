//! How often each rare event occurred: a search that meets none of them has searched nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ntm_protocol::observe::{Observation, RouteName, What};
use ntm_protocol::time::{Duration, Instant};
use ntm_protocol::wire::{Kind, Shown};

use super::families::{Has, Member};
use super::model::{expected, is_crowded, vips};
use super::play::{Crashed, Played};
use super::script::{Act, CALM, Peer, Place, Script, Who};
use super::streams;

/// Two things happen at once if no more than this is between them.
const AT_ONCE: Duration = Duration::from_millis(150);

/// The rare events.
pub const EVENTS: &[&str] = &[
    "a DC crashed",
    "a DC crashed between a write and its answer",
    "a DC lost its disk",
    "a relay crashed under a path",
    "a relay lost its disk",
    "a terminal crashed that had paths",
    "a terminal lost its disk",
    "a DC and a relay were down at once",
    "a terminal moved that had paths",
    "a terminal moved while a request of its was under way",
    "both ends of a conversation moved at once",
    "a terminal was nowhere",
    "an address changed within a network",
    "a cut in one direction",
    "a cut in both directions",
    "a NAT turned a datagram back (hairpin)",
    "an epoch wrapped",
    "terminals found no VIP left",
    "general nodes found no VIP left",
    "a relay was full",
    "a direct way was proved",
    "a direct way was lost to a relay",
    "a path went to another relay",
    "a direction came that was for the terminal's life before",
    "the relay of an RS-N path was gone for good",
    "both ends had called each other: two paths stood",
    "a path ended because nobody used it",
    "a control message was repeated",
    "a request was given up",
    "a message was refused",
    "a replayed message was refused",
    "a sequence number was behind the DC's",
    "a terminal's registration was lost",
    "a query was answered with an error",
    "a name was refused after the faults",
    "a datagram came twice",
    "two clocks came apart by more than a millisecond",
    "a TCP connection carried bytes over a move",
    "a TCP connection carried bytes through an RS-N",
    "a TCP connection carried bytes over a move through an RS-N",
    "a TCP connection carried bytes over a crash of its DC",
    "a TCP connection carried bytes over a crash of a relay",
    "a TCP connection went on after the faults",
    "a TCP connection was reset, for its RS-N was gone",
    "a TCP connection was reset, for its server had crashed",
    "a TCP connection never stood",
    "a client was the first to close a TCP connection",
    "a server was the first to close a TCP connection",
    "a terminal moved while a TCP connection was half-closed",
    "the close of a TCP connection was heard after a move",
    "another TCP connection was made after a close",
    "another TCP connection was made after a close, from the same port",
    "another TCP connection was made after a close and a relay's crash",
    "another TCP connection was made after a reset",
    "a TCP segment was sent again",
    "a TCP segment came twice out of the network",
    "a path ran over IPv6",
    "a terminal moved from IPv4 to IPv6",
    "a terminal moved from IPv6 to IPv4",
    "two ends had no family in common: a relay joined them",
    "two ends had no family in common, and no relay joined them",
    "an RS-N reached a general node by IPv6",
    "a site without NAT was reached directly by IPv6",
    "a DC was spoken to in IPv6 by a terminal that has IPv4",
];

/// How often each of [`EVENTS`] occurred.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Census(BTreeMap<&'static str, u64>);

impl Census {
    /// What occurred in a world.
    pub fn of(script: &Script, played: &Played) -> Self {
        let mut census = Self::default();
        census.count_script(script);
        census.count_crashes(&played.crashes);
        census.count_moves(script, played);
        census.count_trace(played.world.trace());
        census.count_families(script, played);
        census.add("a NAT turned a datagram back (hairpin)", played.world.hairpins());
        let again: u32 = played.said.iter().map(|said| played.world.heard(said.talk).again).sum();
        census.add("a datagram came twice", u64::from(again));
        for (event, count) in streams::occurred(script, played) {
            census.add(event, count);
        }
        let refused = played
            .asked
            .iter()
            .filter(|(talk, ..)| played.world.heard(*talk).answer.is_some_and(|(_, answer)| answer.is_err()));
        census.add("a name was refused after the faults", refused.count() as u64);
        for host in &played.terminals {
            let paths = played.world.at_terminal(*host).map(|it| it.paths()).unwrap_or_default();
            let stand = |peer: &ntm_protocol::addr::Fqdn| {
                paths.iter().filter(|it| it.peer == *peer && it.remote.is_some()).count()
            };
            let doubled = paths.iter().any(|path| stand(&path.peer) > 1);
            census.add("both ends had called each other: two paths stood", u64::from(doubled));
        }
        census
    }

    /// Counts what occurred in another world, too.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(event, count)| self.add(event, *count));
    }

    /// How often `event` occurred.
    pub fn count(&self, event: &str) -> u64 {
        self.0.get(event).copied().unwrap_or_default()
    }

    /// What never occurred.
    pub fn missing(&self) -> Vec<&'static str> {
        EVENTS.iter().copied().filter(|event| self.count(event) == 0).collect()
    }

    fn add(&mut self, event: &'static str, count: u64) {
        debug_assert!(EVENTS.contains(&event), "{event} is not in the list");
        if count > 0 {
            *self.0.entry(event).or_default() += count;
        }
    }

    fn count_script(&mut self, script: &Script) {
        for entry in &script.timeline {
            match entry.act {
                Act::Cut { one_way: true, .. } => self.add("a cut in one direction", 1),
                Act::Cut { one_way: false, .. } => self.add("a cut in both directions", 1),
                Act::Move { to: Place::Nowhere, .. } => self.add("a terminal was nowhere", 1),
                _ => {}
            }
        }
        let drifts = script.clocks.iter().map(|(_, clock)| clock.drift);
        // In a minute 17 ppm are a millisecond.
        let apart = drifts.clone().max().zip(drifts.min()).is_some_and(|(most, least)| most - least >= 17);
        self.add("two clocks came apart by more than a millisecond", u64::from(apart));
        let crowded = (0..script.coordinators.len()).filter(|n| is_crowded(script, *n)).count();
        self.add("terminals found no VIP left", crowded as u64);
        for (n, prefix) in script.coordinators.iter().enumerate() {
            let mut asked: Vec<Peer> = script
                .pairs()
                .into_iter()
                .filter(|(from, to)| {
                    script.terminals[*from].coordinator == n && matches!(to, Peer::General(_))
                })
                .map(|(_, to)| to)
                .collect();
            asked.sort();
            asked.dedup();
            self.add("general nodes found no VIP left", u64::from(asked.len() > vips(*prefix)));
        }
    }

    fn count_crashes(&mut self, crashes: &[Crashed]) {
        for crash in crashes {
            let had_paths = crash.paths > 0;
            match crash.who {
                Who::Coordinator(_) => {
                    self.add("a DC crashed", 1);
                    let cut_off = u64::from(crash.writing > 0);
                    self.add("a DC crashed between a write and its answer", cut_off);
                    self.add("a DC lost its disk", u64::from(crash.disk));
                    let near = |other: &&Crashed| {
                        matches!(other.who, Who::Relay(_))
                            && crash.at.since(other.at).max(other.at.since(crash.at)) < AT_ONCE * 2
                    };
                    let both = crashes.iter().filter(near).count();
                    self.add("a DC and a relay were down at once", both as u64);
                }
                Who::Relay(_) => {
                    self.add("a relay crashed under a path", u64::from(had_paths));
                    self.add("a relay lost its disk", u64::from(crash.disk));
                }
                Who::Terminal(_) => {
                    self.add("a terminal crashed that had paths", u64::from(had_paths));
                    self.add("a terminal lost its disk", u64::from(crash.disk));
                }
            }
        }
    }

    fn count_moves(&mut self, script: &Script, played: &Played) {
        let moves: Vec<_> =
            played.moves.iter().filter(|moved| moved.at < Instant::ZERO + CALM).copied().collect();
        for moved in &moves {
            let inside = moved.from.site() == moved.to.site()
                && moved.from != moved.to
                && ![moved.from, moved.to].contains(&Place::Nowhere);
            self.add("an address changed within a network", u64::from(inside));
            for (from, to) in script.pairs() {
                let Peer::Terminal(to) = to else { continue };
                let both = from == moved.terminal
                    && moves.iter().any(|other| {
                        other.terminal == to
                            && other.at.since(moved.at).max(moved.at.since(other.at)) <= AT_ONCE
                    });
                self.add("both ends of a conversation moved at once", u64::from(both));
            }
        }
    }

    fn count_families(&mut self, script: &Script, played: &Played) {
        let families = &script.families;
        if !families.are_mixed() {
            return;
        }
        for moved in &played.moves {
            let ends = [moved.from, moved.to].map(|place| families.at(place, moved.terminal));
            self.add("a terminal moved from IPv4 to IPv6", u64::from(ends == [Some(Has::V4), Some(Has::V6)]));
            self.add("a terminal moved from IPv6 to IPv4", u64::from(ends == [Some(Has::V6), Some(Has::V4)]));
        }
        let terminals = 0..script.terminals.len();
        let sites: BTreeSet<IpAddr> = terminals
            .flat_map(|n| {
                let places = (0..script.sites.len())
                    .flat_map(|site| [false, true].map(|other| Place::Behind { site, other }));
                places.flat_map(move |place| families.addresses_at(place, n))
            })
            .collect();
        let mut has_v4: BTreeMap<&String, bool> = BTreeMap::new();
        for Observation { node, what, .. } in played.world.trace() {
            match what {
                What::PathChanged { route, remote: Some(remote), .. } if remote.is_ipv6() => {
                    self.add("a path ran over IPv6", 1);
                    let direct = *route == RouteName::Direct && sites.contains(&remote.ip());
                    self.add("a site without NAT was reached directly by IPv6", u64::from(direct));
                }
                What::Addresses { addresses } => {
                    has_v4.insert(node, addresses.iter().any(IpAddr::is_ipv4));
                }
                What::Registered { seen, .. } if seen.is_ipv6() => {
                    let resident = played.terminals.iter().zip(&script.terminals);
                    let mut dcs = resident
                        .filter(|(host, _)| played.world.name(**host) == node)
                        .map(|(_, resident)| families.of(Member::Coordinator(resident.coordinator)));
                    let silent = has_v4.get(node) == Some(&true) && dcs.any(Has::v4);
                    self.add("a DC was spoken to in IPv6 by a terminal that has IPv4", u64::from(silent));
                }
                _ => {}
            }
        }
        for (from, to) in script.pairs() {
            let Peer::Terminal(to) = to else { continue };
            let ends = [from, to].map(|n| families.at(script.last_place(n), n));
            if let [Some(a), Some(b)] = ends
                && !a.shares(b)
            {
                let event = match expected(script, from, Peer::Terminal(to)) {
                    Some(_) => "two ends had no family in common: a relay joined them",
                    None => "two ends had no family in common, and no relay joined them",
                };
                self.add(event, 1);
            }
        }
        let heard = played.generals.iter().flat_map(|host| played.world.sources_heard(*host));
        let by_v6 = heard.filter(|from| from.is_ipv6()).count();
        self.add("an RS-N reached a general node by IPv6", by_v6 as u64);
    }

    fn count_trace(&mut self, trace: &[Observation]) {
        let mut epochs: BTreeMap<_, u8> = BTreeMap::new();
        let mut relays: BTreeMap<_, _> = BTreeMap::new();
        let mut asked: BTreeMap<&str, Instant> = BTreeMap::new();
        let mut pathful: BTreeMap<&str, bool> = BTreeMap::new();
        let mut lives: BTreeMap<&str, &Shown> = BTreeMap::new();
        for Observation { t, node, what } in trace {
            match what {
                What::PathChanged { path, route, remote, epoch, reason } => {
                    let before = epochs.insert((node, *path), *epoch).unwrap_or_default();
                    self.add("an epoch wrapped", u64::from(before > *epoch && before - *epoch > 8));
                    pathful.insert(node, remote.is_some());
                    let said = |text: &str| u64::from(reason.contains(text));
                    self.add("a path ended because nobody used it", said("nobody used it"));
                    self.add(
                        "the relay of an RS-N path was gone for good",
                        said("no other can take its place"),
                    );
                    self.add(
                        "a direct way was lost to a relay",
                        u64::from(*route == RouteName::Switched) * said("the peer does not answer directly"),
                    );
                    let proved = u64::from(*route == RouteName::Direct) * said("both directions are proved");
                    self.add("a direct way was proved", proved);
                }
                What::Directed { path, relay: Some(relay), reason, .. } => {
                    let before = relays.insert(*path, relay);
                    let other = before.is_some_and(|before| before != relay);
                    self.add("a path went to another relay", u64::from(other));
                    self.add("a relay was full", u64::from(reason.contains("did not take the path")));
                }
                What::Addresses { .. } => {
                    let had = pathful.get(node.as_str()).copied().unwrap_or_default();
                    self.add("a terminal moved that had paths", u64::from(had));
                    let under_way = asked.get(node.as_str()).is_some_and(|at| t.since(*at) < AT_ONCE);
                    self.add("a terminal moved while a request of its was under way", u64::from(under_way));
                }
                What::Sent { message, attempt, fields, .. } => {
                    if *message == Kind::RegistrationRequest
                        && let Some(life) = fields.get("life")
                    {
                        lives.insert(node, life);
                    }
                    if *message == Kind::DirectionRequest && node.starts_with("mn") {
                        asked.insert(node, *t);
                    }
                    self.add("a control message was repeated", u64::from(*attempt > 1));
                }
                What::Received { message, fields, .. } => {
                    if *message == Kind::RouteDirection {
                        asked.remove(node.as_str());
                        // A DC is told what is for its terminals.
                        let is_terminal = node.starts_with("mn");
                        let late = is_terminal && fields.get("life") != lives.get(node.as_str()).copied();
                        self.add("a direction came that was for the terminal's life before", u64::from(late));
                    }
                    let stale = *message == Kind::Error && format!("{fields:?}").contains("tale");
                    self.add("a sequence number was behind the DC's", u64::from(stale));
                }
                What::GaveUp { .. } => self.add("a request was given up", 1),
                What::Refused { reason, .. } => {
                    self.add("a message was refused", 1);
                    self.add("a replayed message was refused", u64::from(reason.contains("before")));
                }
                What::Unregistered { .. } => {
                    self.add("a terminal's registration was lost", u64::from(node.starts_with("mn")));
                }
                What::Answer { error: Some(_), .. } => self.add("a query was answered with an error", 1),
                _ => {}
            }
        }
    }
}

/// A line for each event.
impl fmt::Display for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        EVENTS.iter().try_for_each(|event| writeln!(f, "{:>9}  {event}", self.count(event)))
    }
}
