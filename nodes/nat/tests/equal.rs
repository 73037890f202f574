//! The kernel does what the library does: one list of cases, played on a router's real packets and on the [`Translator`], with one outcome.
//!
//! The cases are those of RFC 4787 and RFC 5382: mapping, filtering, two hosts with one source port, what one host opens for another, early
//! packets of a peer, answers, hairpinning, timeouts; and some that chance makes. So what is proved of the library in virtual time — and the
//! simulator's NATs are the library — is true of the routers in namespaces.
//!
//! Needs root and the programs ip, nft and ping; where they are missing the tests fail and say so.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests are about the real machine"
)]

#[path = "kernel/world.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod world;

#[path = "equal/kernel.rs"]
mod kernel;
#[path = "equal/library.rs"]
mod library;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kernel::Kernel;
use library::Library;
use ntm_nat::{Allocation, Axes, Behaviour, Dependence, Protocol, Timeouts};
use world::{Host, NAT, World};

/// A host and its port.
type End = (Host, u16);

/// A NAT with its hosts on both sides.
trait Nat {
    /// `from`, inside, sends to `to`, outside: the source that `to` sees.
    fn out(&mut self, from: End, to: End) -> SocketAddr;
    /// `from`, outside, sends to an outer address: who inside gets it.
    fn into(&mut self, from: End, outer: SocketAddr) -> Option<End>;
    /// `from`, inside, sends to an outer address: who inside gets it, and the source that it sees.
    fn turn(&mut self, from: End, outer: SocketAddr) -> Option<(End, SocketAddr)>;
    /// Nobody sends anything for a time.
    fn wait(&mut self, time: Duration);
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A host inside sends to one outside.
    Out(End, End),
    /// A host outside sends to what the step of that number had as its outer address.
    Into(End, usize),
    /// A host outside sends to a port of the NAT.
    IntoPort(End, u16),
    /// A host inside sends to what that step had as its outer address.
    Turn(End, usize),
    /// Milliseconds.
    Wait(u64),
}

use Step::{Into, IntoPort, Out, Turn, Wait};

const X1: End = (Host::X, 3478);
const X2: End = (Host::X, 3479);
const Y1: End = (Host::Y, 3478);

/// How many ports a case may use, from its first on.
const PORTS: u16 = 10;

/// A case of the list: its name, and what happens with ports of the hosts inside from a first one on.
type Case = (String, Box<dyn Fn(u16) -> Vec<Step>>);

/// The list, but for what chance adds.
fn cases(port: u16) -> Vec<(&'static str, Vec<Step>)> {
    let a = |n| (Host::A, port + n);
    let b = |n| (Host::B, port + n);
    vec![
        ("mapping", vec![Out(a(0), X1), Out(a(0), X1), Out(a(0), X2), Out(a(0), Y1), Out(a(0), X1)]),
        (
            "filtering",
            vec![
                Out(a(1), X1),
                Into(X1, 0),
                Into(X2, 0),
                Into(Y1, 0),
                Out(a(1), Y1),
                Into(Y1, 0),
                Into(Y1, 4),
                Into(X2, 4),
            ],
        ),
        (
            "two hosts with one source port, which open nothing for each other",
            vec![
                Out(a(2), X1),
                Out(b(2), Y1),
                Into(Y1, 0),
                Into(X1, 1),
                Into(X1, 0),
                Into(Y1, 1),
                Out(a(2), Y1),
                Out(b(2), X1),
                Into(X2, 0),
                Into(X2, 1),
            ],
        ),
        (
            "early packets to a port that nobody has, from whom the host speaks to then",
            vec![IntoPort(X1, port + 3), Out(a(3), X1), Into(X1, 1), Out(a(3), Y1)],
        ),
        (
            "early packets to a mapping, from whom the host speaks to then",
            vec![Out(a(4), X1), Into(Y1, 0), Out(a(4), Y1), Into(Y1, 0), Into(Y1, 2), Out(a(4), X2)],
        ),
        (
            "hairpinning",
            vec![
                Out(a(5), X1),
                Out(b(6), X1),
                Turn(a(5), 1),
                Turn(b(6), 0),
                Turn(a(5), 1),
                Into(Y1, 0),
                Turn(b(7), 0),
            ],
        ),
    ]
}

/// Mappings end when they are not renewed from inside, and what comes from outside renews nothing.
fn timeouts(port: u16) -> Vec<Step> {
    let (a, b) = ((Host::A, port), (Host::B, port));
    vec![
        Out(a, X1),
        Wait(1200),
        Into(X1, 0),
        Out(b, X1),
        Wait(1200),
        Into(X1, 0),
        Into(X1, 3),
        Out(b, X1),
        Wait(1200),
        Into(X1, 3),
        Out(a, X1),
    ]
}

/// Steps that chance makes, always the same for one `seed`.
fn chance(seed: u64, port: u16) -> Vec<Step> {
    let mut state = seed;
    // Knuth's MMIX generator; its high bits are good enough.
    let mut below = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let mut steps: Vec<Step> = Vec::new();
    while steps.len() < 16 {
        let inside = (if below(2) == 0 { Host::A } else { Host::B }, port + below(2) as u16);
        let outside = [X1, X2, Y1][below(3) as usize];
        let sent: Vec<usize> = (0..steps.len()).filter(|step| matches!(steps[*step], Out(..))).collect();
        let kind = below(10);
        let step = match sent.len() {
            0 => Out(inside, outside),
            known => {
                let earlier = sent[below(known as u64) as usize];
                let Out(owner, _) = steps[earlier] else { unreachable!() };
                match kind {
                    0..5 => Out(inside, outside),
                    5..8 => Into(outside, earlier),
                    // A host that speaks to itself is another matter.
                    _ if owner == inside => Out(inside, outside),
                    _ => Turn(inside, earlier),
                }
            }
        };
        steps.push(step);
    }
    steps
}

/// What happens, one line a step, and each outer port that was given, with the port inside that it is for. Outer ports are numbered in the order in
/// which they are first seen, for chance may choose them.
fn play(nat: &mut dyn Nat, protocol: Protocol, steps: &[Step]) -> (String, Vec<(u16, u16)>) {
    let mut text = String::new();
    let mut ports: Vec<(u16, u16)> = Vec::new();
    let mut outers: Vec<Option<SocketAddr>> = Vec::new();
    // A TCP connection is not opened twice.
    let mut open: BTreeSet<(SocketAddr, SocketAddr)> = BTreeSet::new();
    let mut begins =
        |one: SocketAddr, other: SocketAddr| protocol != Protocol::Tcp || open.insert((one, other));
    let mut named = |outer: SocketAddr, inside: u16| {
        assert_eq!(outer.ip(), NAT, "an outer address");
        let number = ports.iter().position(|(port, _)| *port == outer.port()).unwrap_or_else(|| {
            ports.push((outer.port(), inside));
            ports.len() - 1
        });
        format!("#{number}{}", if outer.port() == inside { " (its own)" } else { "" })
    };
    let at = |(host, port): End| host.at(port);
    for step in steps {
        let mut outer = None;
        let line = match *step {
            Out(from, to) if begins(at(from), at(to)) => {
                let seen = nat.out(from, to);
                // The answer is of the same connection.
                begins(at(to), seen);
                outer = Some(seen);
                format!("{from:?} to {to:?}: seen as {}", named(seen, from.1))
            }
            Out(from, to) => {
                let earlier = steps
                    .iter()
                    .zip(&outers)
                    .find(|(step, _)| matches!(step, Out(f, t) if (*f, *t) == (from, to)));
                outer = earlier.and_then(|(_, outer)| *outer);
                "is connected".to_owned()
            }
            Into(from, earlier) => match outers[earlier] {
                Some(_) if has_another_way(steps, &outers, from, earlier) => "has another way".to_owned(),
                Some(outer) if begins(at(from), outer) => {
                    let reached = nat.into(from, outer);
                    if let Some(reached) = reached {
                        begins(at(reached), at(from));
                    }
                    format!("{from:?} to {earlier}: reaches {reached:?}")
                }
                _ => "is connected".to_owned(),
            },
            IntoPort(from, port) => {
                let reached = nat.into(from, SocketAddr::from((NAT, port)));
                format!("{from:?} to port {port}: reaches {reached:?}")
            }
            Turn(from, earlier) => match outers[earlier] {
                Some(outer) if begins(at(from), outer) => {
                    let turned = nat.turn(from, outer).map(|(to, seen)| {
                        begins(at(to), seen);
                        (to, named(seen, from.1))
                    });
                    format!("{from:?} to {earlier}: turns to {turned:?}")
                }
                _ => "is connected".to_owned(),
            },
            Wait(millis) => {
                nat.wait(Duration::from_millis(millis));
                format!("{millis} ms pass")
            }
        };
        outers.push(outer);
        let _ = writeln!(text, "{line}");
    }
    (text, ports)
}

/// Whether the host that had an outer address at the step `earlier` has already sent to `peer` by another one.
///
/// There the kernel differs: conntrack knows two ends by one entry, and where mapping depends on the peer and filtering does not, it shows
/// what comes by the second way with another source port. Answers to that port go back by that way, as they do in the library.
fn has_another_way(steps: &[Step], outers: &[Option<SocketAddr>], peer: End, earlier: usize) -> bool {
    let Out(owner, _) = steps[earlier] else { return false };
    let sent = |step: &Step| matches!(step, Out(from, to) if (*from, *to) == (owner, peer));
    steps.iter().zip(outers).any(|(step, outer)| sent(step) && *outer != outers[earlier])
}

/// How long nothing is sent in all.
fn waits(steps: &[Step]) -> Duration {
    let millis = steps.iter().map(|step| if let Wait(millis) = step { *millis } else { 0 });
    Duration::from_millis(millis.sum())
}

/// Every pair with preserved ports, with random ones, and without hairpinning.
fn behaviours() -> Vec<Axes> {
    let mut all = Vec::new();
    for (_, mapping) in Dependence::ALL {
        for (_, filtering) in Dependence::ALL {
            let axes = Axes::new(*mapping, *filtering);
            all.extend([
                axes,
                Axes { allocation: Allocation::Random, ..axes },
                Axes { hairpin: false, ..axes },
            ]);
        }
    }
    all
}

/// The configuration that declares `axes`.
fn declared(axes: Axes) -> String {
    let Axes { mapping, filtering, hairpin, allocation, timeouts, .. } = axes;
    let udp = timeouts.udp.as_secs();
    format!(
        "nat = {{ mapping = '{mapping}', filtering = '{filtering}', hairpin = {hairpin}, allocation = '{allocation}', timeouts = {{ udp = '{udp}s' }} }}"
    )
}

/// How much longer than its waits a case may take whose mappings end: they would have ended at a moment of which the library knows nothing.
const SLACK: Duration = Duration::from_millis(700);

/// Plays `cases` on both, one after the other on one router, and compares.
///
/// A port that chance gave away is not there for a host that wants to keep it later. So each case has ports that were not given before, and is
/// played again with others where chance gave away one of them within it, or where the machine was too slow for what the case is about.
fn compare(world: &World, protocol: Protocol, axes: Axes, cases: &[Case]) {
    let router = world.start(&declared(axes));
    let mut kernel = Kernel::new(world, &router, protocol);
    let mut library = Library::new(Behaviour::Nat(axes), protocol);
    let mut blocks = (4330..60_000).step_by(usize::from(PORTS)).map(|first| first..first + PORTS);
    let mut given: BTreeSet<u16> = BTreeSet::new();
    for (name, steps) in cases {
        for tries in 0.. {
            let own = blocks.find(|own| given.range(own.clone()).next().is_none());
            let own = own.expect("ports that were not given");
            let steps = steps(own.start);
            let (begun, waits) = (Instant::now(), waits(&steps));
            let (real, of_kernel) = play(&mut kernel, protocol, &steps);
            let is_in_time = waits.is_zero() || begun.elapsed() < waits + SLACK;
            assert!(is_in_time || tries < 20, "this machine is never fast enough: {:?}", begun.elapsed());
            let (pure, of_library) = play(&mut library, protocol, &steps);
            let preserves = axes.allocation == Allocation::Preserve;
            let by_chance =
                of_kernel.iter().chain(&of_library).filter(|(port, own)| !preserves || port != own);
            let by_chance: BTreeSet<u16> = by_chance.map(|(port, _)| *port).collect();
            let is_whole = by_chance.range(own).next().is_none();
            given.extend(by_chance);
            if is_whole && is_in_time {
                assert_eq!(
                    real, pure,
                    "{protocol}, {name}: left the kernel, right the library\n{axes:?}\n{steps:?}"
                );
                break;
            }
        }
    }
}

fn all_cases() -> Vec<Case> {
    let listed = cases(0).into_iter().enumerate().map(|(n, (name, _))| -> Case {
        (name.to_owned(), Box::new(move |port| cases(port).swap_remove(n).1))
    });
    let random =
        (0..3).map(|seed| -> Case { (format!("chance {seed}"), Box::new(move |port| chance(seed, port))) });
    listed.chain(random).collect()
}

#[test]
fn udp_is_translated_as_the_library_does() {
    let world = World::new();
    for axes in behaviours() {
        compare(&world, Protocol::Udp, axes, &all_cases());
    }
}

#[test]
fn tcp_is_translated_as_the_library_does() {
    let world = World::new();
    for axes in behaviours() {
        compare(&world, Protocol::Tcp, axes, &all_cases());
    }
}

#[test]
fn mappings_end_as_the_librarys_do() {
    let world = World::new();
    for axes in behaviours().into_iter().step_by(3) {
        let axes = Axes { timeouts: Timeouts { udp: Duration::from_secs(2), ..Timeouts::RFC }, ..axes };
        compare(&world, Protocol::Udp, axes, &[("timeouts".to_owned(), Box::new(timeouts))]);
    }
}
