//! The address transitions of Figs. 4.2 and 4.4: what stands in the headers of a packet at every hop of its way, taken from captures.
//! PURE: sightings and trace in, tables out.
//!
//! A data packet is followed by its Path ID, direction, epoch and sequence number through every capture point; by the digests made there it
//! is seen whether header, ciphertext and MAC stay byte for byte the same (T4.1.3-a). What is in it is told by the terminal's virtual interface, where
//! a packet that was alone in its time cannot be taken for another; and by what it carries that packet is found wherever it travels in
//! the open, translated (RS-N) or not (the other terminal).
//!
//! [`sighting`] understands packets, [`read`] takes them from a run's capture files, [`names`] gives addresses the thesis's names,
//! [`table`] writes the figures.

pub mod names;
pub mod read;
pub mod sighting;
pub mod table;

use std::collections::{BTreeMap, BTreeSet};

use ntm_protocol::addr::PathId;
use ntm_protocol::observe::{Observation, RouteName, What};
use schemars::JsonSchema;
use serde::Serialize;

use crate::capture::sealed::{Key, Seal};
use names::Names;
use sighting::{Body, Point, Sighting};

/// How a path's packets travelled between its two ends, from one change of the path to the next.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Transition {
    /// The way: direct, RS-S or RS-N.
    #[schemars(with = "String")]
    pub route: RouteName,
    /// Who began: MN.
    pub from: String,
    /// The other end: CN or GN.
    pub to: String,
    /// When the path took this way, in milliseconds of the scenario.
    pub since_ms: f64,
    /// The hops of a packet from MN, in the order of its way.
    pub forward: Vec<Hop>,
    /// The hops of a packet to MN, in the order of its way.
    pub back: Vec<Hop>,
    /// Data packets whose bytes were compared at two places or more.
    pub compared: usize,
    /// How many of them were not the same everywhere: in header, ciphertext or MAC.
    pub changed: usize,
}

/// What stands in the headers at one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Hop {
    /// The place.
    pub at: String,
    /// Source and destination of the outer header; nothing where there is none.
    pub outer: Option<(String, String)>,
    /// Source and destination of the application's packet.
    pub original: (String, String),
    /// Whether they could be read there; else they are those that the packet had before it was encrypted and after.
    pub readable: bool,
}

/// So many packets of a way are tried until one is found that can be followed from end to end.
const TRIES: usize = 500;

/// The transitions of every path and way of a run; `sightings` and `trace` are of one clock and in the order of time, `seals` are of the same
/// clock and sorted, `start` is when time began there.
pub fn of(
    sightings: &[Sighting],
    seals: &[Seal],
    trace: &[Observation],
    names: &Names,
    start: u64,
) -> Vec<Transition> {
    let captures = Captures::new(sightings);
    let compared = compare(seals);
    let mut out: Vec<Transition> = Vec::new();
    for way in captures.ways(trace) {
        let keys = captures.ways_packets(&way);
        let follow = |back: bool| {
            let tried = keys.iter().filter(|key| key.back == back).take(TRIES);
            tried.filter_map(|key| captures.follow(key, names)).next()
        };
        let (Some(forward), Some(back)) = (follow(false), follow(true)) else { continue };
        let ends = [&*forward[0].node, &*back[0].node];
        let mut transition = Transition {
            route: way.route,
            from: ends[0].to_owned(),
            to: ends[1].to_owned(),
            since_ms: (way.from as f64 - start as f64) / 1e6,
            forward: hops(&forward, ends, names),
            back: hops(&back, ends, names),
            compared: 0,
            changed: 0,
        };
        for packet in compared.iter().filter(|it| it.path == way.path && (way.from..way.to).contains(&it.t)) {
            transition.compared += 1;
            transition.changed += usize::from(packet.changed);
        }
        // A path that is directed anew and leads where it led is one way still.
        match out.last_mut() {
            Some(last) if (&last.forward, &last.back) == (&transition.forward, &transition.back) => {
                last.compared += transition.compared;
                last.changed += transition.changed;
            }
            _ => out.push(transition),
        }
    }
    out
}

/// A data packet that was seen at two places or more.
struct Compared {
    path: PathId,
    /// When it was first seen.
    t: u64,
    /// Whether its bytes were not the same everywhere.
    changed: bool,
}

fn compare(seals: &[Seal]) -> Vec<Compared> {
    let places = seals.chunk_by(|one, other| one.key == other.key).filter(|places| places.len() > 1);
    let compared = places.map(|places| Compared {
        path: places[0].key.path,
        t: places[0].t,
        changed: places.iter().any(|it| it.digest != places[0].digest),
    });
    compared.collect()
}

/// A path between two of its changes.
struct Way {
    path: PathId,
    route: RouteName,
    from: u64,
    to: u64,
}

/// Sightings sorted by what they are looked up for; those of one in the order of time.
struct Captures<'a> {
    sealed: Vec<(Key, &'a Sighting)>,
    /// By what they carry.
    open: Vec<(u64, &'a Sighting)>,
    /// Data packets at a host's real interface, and packets at its virtual one, by host and direction.
    at_host: BTreeMap<(&'a str, bool), AtHost<'a>>,
}

#[derive(Default)]
struct AtHost<'a> {
    sealed: Vec<&'a Sighting>,
    open: Vec<&'a Sighting>,
}

impl<'a> Captures<'a> {
    fn new(sightings: &'a [Sighting]) -> Self {
        let mut captures = Self { sealed: Vec::new(), open: Vec::new(), at_host: BTreeMap::new() };
        for sighting in sightings {
            let host = (&*sighting.node, sighting.outgoing);
            match &sighting.body {
                Body::Control(_) => {}
                Body::Sealed { key, .. } => {
                    captures.sealed.push((*key, sighting));
                    if sighting.point == Point::Real {
                        captures.at_host.entry(host).or_default().sealed.push(sighting);
                    }
                }
                Body::Open { carried, .. } => {
                    captures.open.push((*carried, sighting));
                    if sighting.point == Point::Application {
                        captures.at_host.entry(host).or_default().open.push(sighting);
                    }
                }
            }
        }
        captures.sealed.sort_by_key(|(key, _)| *key);
        captures.open.sort_by_key(|(carried, _)| *carried);
        captures
    }

    /// Every path's ways, as its initiator took them.
    fn ways(&self, trace: &[Observation]) -> Vec<Way> {
        let mut initiators: BTreeMap<PathId, &str> = BTreeMap::new();
        for of_path in self.sealed.chunk_by(|(one, _), (other, _)| one.path == other.path) {
            let first = of_path.iter().find(|(key, _)| !key.back);
            initiators.extend(first.map(|(key, seen)| (key.path, &*seen.node)));
        }
        let mut out: Vec<Way> = Vec::new();
        for Observation { t, node, what } in trace {
            if let What::PathChanged { path, route, .. } = what
                && initiators.get(path) == Some(&node.as_str())
            {
                let from = t.as_nanos();
                for before in out.iter_mut().filter(|way| way.path == *path) {
                    before.to = before.to.min(from);
                }
                out.push(Way { path: *path, route: *route, from, to: u64::MAX });
            }
        }
        out
    }

    /// The data packets that were sent while a path took this way, in the order of time.
    fn ways_packets(&self, way: &Way) -> Vec<Key> {
        let packets = self.sealed.chunk_by(|(one, _), (other, _)| one == other);
        let first = packets.map(|places| (places[0].1.t, places[0].0));
        let mut keys: Vec<_> =
            first.filter(|(t, key)| key.path == way.path && (way.from..way.to).contains(t)).collect();
        keys.sort();
        keys.into_iter().map(|(_, key)| key).collect()
    }

    /// Every sighting of a data packet and of what it carries, from one application to the other; nothing where that cannot be told.
    fn follow(&self, key: &Key, names: &Names) -> Option<Vec<&'a Sighting>> {
        let sealed = those(&self.sealed, key);
        let (first, last) = (sealed.clone().next()?, sealed.clone().last()?);
        let whole =
            first.outgoing && first.point == Point::Real && !last.outgoing && last.point == Point::Real;
        if !whole {
            return None;
        }
        let [sealed_at_end, opened_at_end] = [first, last].map(|end| names.is_terminal(&end.node));
        let original = if sealed_at_end { self.sealed_from(first)? } else { self.opened_to(last)? };
        let Body::Open { carried, .. } = &original.body else { return None };
        let elsewhere = those(&self.open, carried);
        let before: Vec<_> = if sealed_at_end {
            vec![original]
        } else {
            elsewhere.clone().filter(|it| it.t <= first.t && it.point != Point::Application).collect()
        };
        let after: Vec<_> = if sealed_at_end && opened_at_end {
            elsewhere
                .filter(|it| it.t >= last.t && it.node == last.node && it.point == Point::Application)
                .collect()
        } else if sealed_at_end {
            elsewhere.filter(|it| it.t >= last.t && it.point != Point::Application).collect()
        } else {
            vec![original]
        };
        // What passes one place again is another packet, which carries the same.
        let open = before.iter().chain(&after);
        let places: BTreeSet<_> = open.map(|it| (&it.node, it.point, it.outgoing)).collect();
        if before.is_empty() || after.is_empty() || places.len() < before.len() + after.len() {
            return None;
        }
        Some(before.into_iter().chain(sealed).chain(after).collect())
    }

    /// What was sealed into `sent` at its terminal: the packet that was alone between the data packet before it and this one.
    fn sealed_from(&self, sent: &Sighting) -> Option<&'a Sighting> {
        let AtHost { sealed, open } = self.at_host.get(&(&*sent.node, true))?;
        let earlier = &sealed[..sealed.partition_point(|it| it.t < sent.t)];
        let before = earlier.last().map_or(0, |it| it.t);
        let [from, to] = [before, sent.t].map(|t| open.partition_point(|it| it.t <= t));
        alone(open.get(from..to)?, sent)
    }

    /// What came out of `received` at its terminal: the packet that was alone between this data packet and the one after it.
    fn opened_to(&self, received: &Sighting) -> Option<&'a Sighting> {
        let AtHost { sealed, open } = self.at_host.get(&(&*received.node, false))?;
        let later = &sealed[sealed.partition_point(|it| it.t <= received.t)..];
        let after = later.first().map_or(u64::MAX, |it| it.t);
        let [from, to] = [received.t, after].map(|t| open.partition_point(|it| it.t < t));
        alone(open.get(from..to)?, received)
    }
}

/// The sightings of `key` among those that are sorted by it.
fn those<'a, K: Ord>(sorted: &[(K, &'a Sighting)], key: &K) -> impl Iterator<Item = &'a Sighting> + Clone {
    let behind = &sorted[sorted.partition_point(|(its, _)| its < key)..];
    behind[..behind.partition_point(|(its, _)| its == key)].iter().map(|(_, sighting)| *sighting)
}

/// The one packet that there is, if it is as long as what the data packet `sealed` has in it.
fn alone<'a>(between: &[&'a Sighting], sealed: &Sighting) -> Option<&'a Sighting> {
    match between {
        [one] if one.length() == sealed.length() => Some(*one),
        _ => None,
    }
}

/// The hops of a packet that was seen so; the first sighting is at one of the ends and the last at the other.
fn hops(seen: &[&Sighting], ends: [&str; 2], names: &Names) -> Vec<Hop> {
    let (sender, receiver) = (&*seen[0].node, &*seen[seen.len() - 1].node);
    let pair = |addresses: (std::net::IpAddr, std::net::IpAddr)| {
        (names.address(addresses.0, ends), names.address(addresses.1, ends))
    };
    let at_terminal = seen.iter().find(|it| it.point == Point::Application);
    let hop = |it: &&Sighting| {
        let towards = if it.outgoing { receiver } else { sender };
        let own = (it.source, it.destination);
        let (outer, original, readable) = match &it.body {
            Body::Control(_) | Body::Open { .. } => (None, pair(own), true),
            Body::Sealed { inner: Some(inner), .. } => (Some(pair(own)), pair(*inner), true),
            Body::Sealed { inner: None, .. } => {
                let original = at_terminal.map_or(own, |it| (it.source, it.destination));
                (Some(pair(own)), pair(original), false)
            }
        };
        Hop { at: names.place(&it.node, it.point, ends, towards), outer, original, readable }
    };
    seen.iter().map(hop).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::address::plan;
    use crate::scenario::{check, source::Source};

    /// A packet is followed by what it carries, unless another carries the same: then one that nothing can be taken for is.
    #[test]
    fn a_packet_that_carries_what_another_does_is_not_followed() {
        let text = "schema = 1\nname = \"t\"\nabout = \"t\"\n[node]\n\
            root = { role = \"dns\", at = \"internet\", zone = \".\" }\n\
            dc = { role = \"coordinator\", at = \"internet\", zone = \"dc.test\", vips = \"198.18.0.0/16\" }\n\
            cn = { role = \"terminal\", at = \"internet\" }\nmn = { role = \"terminal\", at = \"internet\" }\n";
        let scenario = check(&Source { name: "t".into(), text: text.into() })
            .unwrap_or_else(|message| panic!("{message}"));
        let names = Names::of(&plan(&scenario).unwrap(), &[]);
        let seen = |t: u64, node: &str, point, outgoing, body: Body| {
            let (source, destination) = ([198, 18, 0, 1].into(), [198, 18, 0, 2].into());
            Sighting { t, node: node.into(), point, outgoing, source, destination, body }
        };
        let key = |sequence| Key { path: PathId([1; 16]), back: false, epoch: 0, sequence };
        let way = |t: u64, sequence: u64, carried: u64| {
            let open = || Body::Open { length: 40, carried };
            let sealed = || Body::Sealed { key: key(sequence), length: 40, inner: None };
            [
                seen(t, "mn", Point::Application, true, open()),
                seen(t + 1, "mn", Point::Real, true, sealed()),
                seen(t + 2, "cn", Point::Real, false, sealed()),
                seen(t + 3, "cn", Point::Application, false, open()),
            ]
        };
        let all = [way(10, 1, 5), way(20, 2, 5), way(30, 3, 4)].concat();
        let captures = Captures::new(&all);
        assert_eq!(captures.follow(&key(1), &names), None, "it may be the second that came");
        let followed = captures.follow(&key(3), &names).unwrap();
        assert_eq!(followed.iter().map(|it| it.t).collect::<Vec<_>>(), [30, 31, 32, 33]);
    }

    /// T4.1.3-a: what was seen once is compared with nothing; what was another anywhere has changed; and it counts where it was first seen.
    #[test]
    fn a_packet_that_was_another_anywhere_has_changed() {
        let seal = |path: u8, sequence, t, digest| Seal {
            key: Key { path: PathId([path; 16]), back: false, epoch: 0, sequence },
            t,
            digest,
        };
        let mut seals = vec![
            seal(1, 7, 12, 5),
            seal(2, 7, 10, 6),
            seal(1, 7, 11, 5),
            seal(1, 8, 20, 1),
            seal(1, 7, 13, 5),
            seal(1, 9, 32, 3),
            seal(1, 9, 30, 3),
            seal(1, 9, 31, 4),
        ];
        seals.sort_unstable();
        let compared: Vec<_> = compare(&seals).iter().map(|it| (it.path.0[0], it.t, it.changed)).collect();
        assert_eq!(compared, [(1, 11, false), (1, 30, true)]);
    }
}
