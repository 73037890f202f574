//! The probe in virtual time: it finds every behaviour of the library to be what it is, and every wrong one wrong on the right axis.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use ntm_protocol::time::Instant;

use super::*;
use crate::behaviour::{Allocation, Axes, Behaviour, Dependence, PortRange, Timeouts};
use crate::flow::Flow;
use crate::translator::{Side, Translator};

const EXTERNAL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const HOSTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 0, 3)];
const RESPONDER: Responder =
    Responder { addresses: [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)], ports: [3478, 3479] };

/// A router as the probe meets it: right or wrong.
trait Router {
    /// A datagram from inside: where it goes on, and as what.
    fn outbound(&mut self, from: SocketAddrV4, to: SocketAddrV4, now: Instant) -> Option<(Side, Ends)>;
    /// A datagram from outside: the inner host that gets it.
    fn inbound(&mut self, from: SocketAddrV4, to: SocketAddrV4, now: Instant) -> Option<SocketAddrV4>;
}

/// Source and destination.
type Ends = (SocketAddrV4, SocketAddrV4);

fn v4(end: SocketAddr) -> SocketAddrV4 {
    match end {
        SocketAddr::V4(end) => end,
        SocketAddr::V6(end) => panic!("{end}"),
    }
}

impl Router for Translator {
    fn outbound(&mut self, from: SocketAddrV4, to: SocketAddrV4, now: Instant) -> Option<(Side, Ends)> {
        let passed = Translator::outbound(self, Flow::udp(from.into(), to.into()), now).ok()?;
        Some((passed.to, (v4(passed.flow.source), v4(passed.flow.destination))))
    }

    fn inbound(&mut self, from: SocketAddrV4, to: SocketAddrV4, now: Instant) -> Option<SocketAddrV4> {
        let passed = Translator::inbound(self, Flow::udp(from.into(), to.into()), now).ok()?;
        Some(v4(passed.flow.destination))
    }
}

fn translator(axes: Axes) -> Translator {
    Translator::new(Behaviour::Nat(axes), EXTERNAL.into(), &[], [9; 32]).unwrap()
}

/// The whole probe of `router`. Every datagram takes no time, and all go in the order in which they were sent.
fn probe(router: &mut dyn Router, declared: Axes, seed: u8) -> Result<Findings, Broken> {
    probe_late(router, declared, seed, |_| Duration::ZERO)
}

/// The same on a machine that is late: `late` tells by how much after a wait of such a length.
fn probe_late(
    router: &mut dyn Router,
    declared: Axes,
    seed: u8,
    mut late: impl FnMut(Duration) -> Duration,
) -> Result<Findings, Broken> {
    let setup = Setup { declared, hosts: HOSTS, responder: RESPONDER };
    let mut now = Instant::ZERO;
    let mut prober = Prober::new(setup, [seed; 32], now).unwrap();
    let sockets = prober.sockets();
    loop {
        let mut inside: VecDeque<(Ends, Vec<u8>)> = VecDeque::new();
        while let Some(Transmit { socket, to, bytes }) = prober.poll_transmit() {
            inside.push_back(((sockets[socket], to), bytes));
        }
        while let Some(((from, to), bytes)) = inside.pop_front() {
            let (source, destination, bytes) = match router.outbound(from, to, now) {
                None => continue,
                Some((Side::Inside, ends)) => (ends.0, Some(ends.1), bytes),
                Some((Side::Outside, (source, to))) => {
                    let place = Responder::PLACES.into_iter().find(|place| RESPONDER.at(*place) == to);
                    let answer = place.and_then(|place| RESPONDER.handle(place, source, &bytes));
                    let Some(answer) = answer else { continue };
                    let origin = RESPONDER.at(answer.from);
                    (origin, router.inbound(origin, answer.to, now), answer.bytes)
                }
            };
            let socket = destination.and_then(|to| sockets.iter().position(|socket| *socket == to));
            if let Some(socket) = socket {
                prober.handle_input(socket, source, &bytes, now);
            }
        }
        if let Some(outcome) = prober.outcome() {
            return outcome.clone();
        }
        // What the answers have led to is on its way already, or nothing happens before this.
        if let Some(at) = prober.poll_timeout()
            && prober.line_is_quiet()
        {
            now = at + late(at.since(now));
            prober.handle_timeout(now);
        }
    }
}

/// Every pair of mapping and filtering, with every way to choose ports, with and without hairpinning.
fn all() -> Vec<Axes> {
    let mut all = Vec::new();
    for (_, mapping) in Dependence::ALL {
        for (_, filtering) in Dependence::ALL {
            for (_, allocation) in Allocation::ALL {
                for hairpin in [true, false] {
                    all.push(Axes { hairpin, allocation: *allocation, ..Axes::new(*mapping, *filtering) });
                }
            }
        }
    }
    all
}

fn range(first: u16, last: u16) -> PortRange {
    PortRange::new(first, last).unwrap()
}

/// On which axes a NAT of `actual` is found not to be `declared`.
fn wrong(declared: Axes, actual: Axes) -> Vec<&'static str> {
    let findings = probe(&mut translator(actual), declared, 1).unwrap();
    findings.mismatches(&declared, EXTERNAL).iter().map(|mismatch| mismatch.axis).collect()
}

#[test]
fn every_behaviour_is_found_to_be_what_it_is() {
    for axes in all() {
        for ports in [range(1024, u16::MAX), range(40000, 40999), range(40000, 40063), range(1, u16::MAX)] {
            let declared = Axes { ports, ..axes };
            for seed in 0..4 {
                let findings = probe(&mut translator(declared), declared, seed).unwrap();
                assert_eq!(findings.mismatches(&declared, EXTERNAL), [], "{declared:?}\n{findings:?}");
                assert_eq!(findings.external, EXTERNAL);
                let observable = [axes.mapping, axes.filtering].contains(&Dependence::EndpointIndependent);
                assert_eq!(findings.hairpin, observable.then_some(axes.hairpin), "{declared:?}");
            }
        }
    }
}

#[test]
fn an_axis_that_is_wrong_is_named() {
    for declared in all() {
        for (_, other) in Dependence::ALL {
            if *other != declared.mapping {
                assert_eq!(
                    wrong(declared, Axes { mapping: *other, ..declared }),
                    ["mapping"],
                    "{declared:?}"
                );
            }
            if *other != declared.filtering {
                assert_eq!(
                    wrong(declared, Axes { filtering: *other, ..declared }),
                    ["filtering"],
                    "{declared:?}"
                );
            }
        }
        for (_, other) in Allocation::ALL {
            if *other != declared.allocation {
                assert_eq!(
                    wrong(declared, Axes { allocation: *other, ..declared }),
                    ["allocation"],
                    "{declared:?}"
                );
            }
        }
        if [declared.mapping, declared.filtering].contains(&Dependence::EndpointIndependent) {
            let actual = Axes { hairpin: !declared.hairpin, ..declared };
            assert_eq!(wrong(declared, actual), ["hairpin"], "{declared:?}");
        }
        let declared = Axes { ports: range(40000, 40999), ..declared };
        for (first, last) in [(40000, 40063), (1024, u16::MAX), (41000, 41999)] {
            if declared.allocation == Allocation::Contiguous && first == 40000 {
                // It would show after as many mappings as the narrower range has ports.
                continue;
            }
            let axes = wrong(declared, Axes { ports: range(first, last), ..declared });
            // Where no inner port is in the range, none can be preserved either.
            assert!(axes.contains(&"ports"), "{first}-{last}: {axes:?} {declared:?}");
        }
    }
}

#[test]
fn a_short_timeout_is_waited_for() {
    let with = |millis, axes| Axes {
        timeouts: Timeouts { udp: Duration::from_millis(millis), ..Timeouts::RFC },
        ..axes
    };
    for axes in all() {
        let declared = with(500, axes);
        assert_eq!(wrong(declared, declared), [""; 0], "{declared:?}");
        assert_eq!(wrong(declared, with(390, axes)), ["UDP timeout"], "{declared:?}");
        assert_eq!(wrong(declared, with(630, axes)), ["UDP timeout"], "{declared:?}");
    }
    // A machine that is late now and then takes no mapping that ended in its time for one that ended before.
    let declared = with(500, port_restricted());
    for times in [1, 5] {
        let mut left = times;
        let late = |wait| {
            let is_late = wait > prober::REPEAT && left > 0;
            left -= u32::from(is_late);
            Duration::from_millis(if is_late { 200 } else { 0 })
        };
        let findings = probe_late(&mut translator(declared), declared, 1, late).unwrap();
        assert_eq!(findings.mismatches(&declared, EXTERNAL), [], "late {times} times");
        assert_eq!(left, 0);
    }
    let told = |declared, told| Findings::told_timeout(Duration::from_secs(declared), told);
    assert_eq!(told(120, 120), None);
    assert_eq!(told(120, 30).unwrap().to_string(), "UDP timeout: declared 2m, observed 30s");
}

#[test]
fn another_outer_address_is_named() {
    let declared = Axes::new(Dependence::EndpointIndependent, Dependence::AddressDependent);
    let findings = probe(&mut translator(declared), declared, 1).unwrap();
    let mismatches = findings.mismatches(&declared, Ipv4Addr::new(203, 0, 113, 2));
    assert_eq!(
        mismatches.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["outer address: declared 203.0.113.2, observed 203.0.113.1"]
    );
}

#[test]
fn what_cannot_be_probed_says_why() {
    let base = Axes::new(Dependence::EndpointIndependent, Dependence::EndpointIndependent);
    let new = |declared| {
        let setup = Setup { declared, hosts: HOSTS, responder: RESPONDER };
        Prober::new(setup, [1; 32], Instant::ZERO).map(|_| ()).unwrap_err().to_string()
    };
    assert_eq!(new(Axes { ports: range(5, 9), ..base }), "a probe needs 64 ports, and it has 5");
    let timeouts = Timeouts { udp: Duration::from_millis(100), ..Timeouts::RFC };
    assert_eq!(
        new(Axes { timeouts, ..base }),
        "a probe needs mappings that live for 250ms, and its live for 100ms"
    );
}

/// What a router that no NAT should be is found to do wrong.
fn faults(router: &mut dyn Router, declared: Axes) -> Vec<String> {
    let findings = probe(router, declared, 1).unwrap();
    let mismatches = findings.mismatches(&declared, EXTERNAL);
    mismatches.iter().map(ToString::to_string).collect()
}

fn port_restricted() -> Axes {
    *Behaviour::PORT_RESTRICTED.axes().unwrap()
}

/// What conntrack with masquerade is, and no more: an outer port is free for as long as its peer differs, and a peer's early packet to the
/// router takes the port that a host would have kept.
#[derive(Default)]
struct Conntrack {
    /// Outer port and peer → the inner host; `None` is the router itself.
    entries: BTreeMap<(u16, SocketAddrV4), Option<SocketAddrV4>>,
}

impl Router for Conntrack {
    fn outbound(&mut self, from: SocketAddrV4, to: SocketAddrV4, _: Instant) -> Option<(Side, Ends)> {
        if *to.ip() == EXTERNAL {
            return None;
        }
        let known = self.entries.iter().find(|((_, peer), inner)| *peer == to && **inner == Some(from));
        let free = (from.port()..=u16::MAX).find(|port| !self.entries.contains_key(&(*port, to)));
        let port = known.map(|((port, _), _)| *port).or(free)?;
        self.entries.insert((port, to), Some(from));
        Some((Side::Outside, (SocketAddrV4::new(EXTERNAL, port), to)))
    }

    fn inbound(&mut self, from: SocketAddrV4, to: SocketAddrV4, _: Instant) -> Option<SocketAddrV4> {
        *self.entries.entry((to.port(), from)).or_insert(None)
    }
}

#[test]
fn conntrack_alone_is_no_nat_of_rfc_4787() {
    let declared = Axes { hairpin: false, ..port_restricted() };
    insta::assert_snapshot!(faults(&mut Conntrack::default(), declared).join("\n"));
}

/// A NAT with one thing changed.
struct Changed {
    nat: Translator,
    /// Whom anybody inside has sent to.
    contacted: BTreeSet<SocketAddrV4>,
    what: Change,
}

#[derive(PartialEq)]
enum Change {
    /// A filter lets in whomever any host has sent to.
    OneFilterForAll,
    /// What no mapping has goes to the first host, as to a "DMZ host".
    Catches,
    /// What turns back keeps its inner source.
    TurnsUntranslated,
    /// A second outer address for every other port.
    TwoAddresses,
    /// Inbound packets go to the other host.
    Misleads,
    /// Nothing comes in.
    Deaf,
}

impl Router for Changed {
    fn outbound(&mut self, from: SocketAddrV4, to: SocketAddrV4, now: Instant) -> Option<(Side, Ends)> {
        self.contacted.insert(to);
        let (side, (source, to)) = Router::outbound(&mut self.nat, from, to, now)?;
        let source = match self.what {
            Change::TurnsUntranslated if side == Side::Inside => from,
            Change::TwoAddresses if source.port() % 2 == 1 => {
                SocketAddrV4::new(Ipv4Addr::from_bits(EXTERNAL.to_bits() + 1), source.port())
            }
            _ => source,
        };
        Some((side, (source, to)))
    }

    fn inbound(&mut self, from: SocketAddrV4, to: SocketAddrV4, now: Instant) -> Option<SocketAddrV4> {
        let to = SocketAddrV4::new(EXTERNAL, to.port());
        let right = Router::inbound(&mut self.nat, from, to, now);
        let mapped = self.nat.mappings().into_iter().find(|mapping| mapping.external == to.into());
        match self.what {
            Change::OneFilterForAll => match mapped {
                Some(mapping) if self.contacted.contains(&from) => Some(v4(mapping.inside)),
                _ => right,
            },
            Change::Catches if mapped.is_none() => Some(SocketAddrV4::new(HOSTS[0], to.port())),
            Change::Misleads => right.map(|right| {
                let other = if *right.ip() == HOSTS[0] { HOSTS[1] } else { HOSTS[0] };
                SocketAddrV4::new(other, right.port())
            }),
            Change::Deaf => None,
            _ => right,
        }
    }
}

fn changed(what: Change, axes: Axes) -> Changed {
    Changed { nat: translator(axes), contacted: BTreeSet::new(), what }
}

#[test]
fn what_no_nat_should_do_is_seen() {
    let declared = port_restricted();
    let one = |what, declared| {
        let found = faults(&mut changed(what, declared), declared);
        assert!(!found.is_empty());
        found.join("; ")
    };
    let filters = one(Change::OneFilterForAll, declared);
    assert!(filters.contains("opened the mapping"), "{filters}");
    let caught = one(Change::Catches, declared);
    assert!(caught.contains("which no mapping had, reached a host"), "{caught}");
    let shown = one(Change::TurnsUntranslated, *Behaviour::FULL_CONE.axes().unwrap());
    assert!(shown.contains("not from an outer address"), "{shown}");
    let two = one(Change::TwoAddresses, declared);
    assert!(two.contains("it shows two addresses"), "{two}");
}

#[test]
fn a_probe_that_cannot_go_on_says_where() {
    let declared = port_restricted();
    let silent = probe(&mut changed(Change::Deaf, declared), declared, 1).unwrap_err();
    assert!(silent.to_string().ends_with("asked 192.0.2.1:3478 and got no answer within 2s"), "{silent}");
    let misled = probe(&mut changed(Change::Misleads, declared), declared, 1).unwrap_err();
    assert!(matches!(misled, Broken::Misled { meant, got } if meant.port() == got.port()), "{misled}");
}
