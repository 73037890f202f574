use super::*;
use crate::behaviour::{PortRange, Timeouts};
use proptest::prelude::*;

const NAT: &str = "203.0.113.1";
const HOST_A: &str = "10.0.0.2:4330";
const HOST_B: &str = "10.0.0.3:4330";
const PEER: &str = "192.0.2.1:4000";
/// The peer's address, another port.
const PEER_PORT: &str = "192.0.2.1:4001";
const STRANGER: &str = "192.0.2.2:4000";

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn at(seconds: u64) -> Instant {
    Instant::ZERO + Duration::from_secs(seconds)
}

fn nat(behaviour: Behaviour) -> Translator {
    Translator::new(behaviour, NAT.parse().unwrap(), &[], [7; 32]).unwrap()
}

fn of(mapping: Dependence, filtering: Dependence) -> Translator {
    nat(Behaviour::Nat(Axes::new(mapping, filtering)))
}

fn with(change: impl FnOnce(&mut Axes)) -> Translator {
    let mut axes = Axes::new(Dependence::EndpointIndependent, Dependence::EndpointIndependent);
    change(&mut axes);
    nat(Behaviour::Nat(axes))
}

/// The outer source of a datagram.
fn send(nat: &mut Translator, from: &str, to: &str, now: Instant) -> SocketAddr {
    let sent = nat.outbound(Flow::udp(addr(from), addr(to)), now).unwrap();
    assert_eq!((sent.to, sent.flow.destination), (Side::Outside, addr(to)));
    sent.flow.source
}

/// The inner destination of a datagram.
fn receive(nat: &mut Translator, from: &str, to: SocketAddr, now: Instant) -> Result<SocketAddr, Refusal> {
    nat.inbound(Flow::udp(addr(from), to), now).map(|received| {
        assert_eq!((received.to, received.flow.source), (Side::Inside, addr(from)));
        received.flow.destination
    })
}

#[test]
fn mapping_depends_on_what_it_says() {
    for (_, filtering) in Dependence::ALL {
        for (mapping, same_address, other_address) in [
            (Dependence::EndpointIndependent, true, true),
            (Dependence::AddressDependent, true, false),
            (Dependence::AddressAndPortDependent, false, false),
        ] {
            let mut nat = of(mapping, *filtering);
            let first = send(&mut nat, HOST_A, PEER, at(0));
            assert_eq!(send(&mut nat, HOST_A, PEER, at(1)), first, "one destination, one mapping");
            assert_eq!(send(&mut nat, HOST_A, PEER_PORT, at(1)) == first, same_address, "{mapping}");
            assert_eq!(send(&mut nat, HOST_A, STRANGER, at(1)) == first, other_address, "{mapping}");
        }
    }
}

#[test]
fn filtering_depends_on_what_it_says() {
    for (_, mapping) in Dependence::ALL {
        for (filtering, same_address, other_address) in [
            (Dependence::EndpointIndependent, true, true),
            (Dependence::AddressDependent, true, false),
            (Dependence::AddressAndPortDependent, false, false),
        ] {
            let mut nat = of(*mapping, filtering);
            let outer = send(&mut nat, HOST_A, PEER, at(0));
            assert_eq!(receive(&mut nat, PEER, outer, at(1)), Ok(addr(HOST_A)));
            let expect = |passes| if passes { Ok(addr(HOST_A)) } else { Err(Refusal::Filtered) };
            assert_eq!(
                receive(&mut nat, PEER_PORT, outer, at(1)),
                expect(same_address),
                "{mapping} {filtering}"
            );
            assert_eq!(
                receive(&mut nat, STRANGER, outer, at(1)),
                expect(other_address),
                "{mapping} {filtering}"
            );
        }
    }
}

#[test]
fn two_hosts_with_one_source_port_get_ports_of_their_own() {
    for preset in [
        Behaviour::FULL_CONE,
        Behaviour::ADDRESS_RESTRICTED,
        Behaviour::PORT_RESTRICTED,
        Behaviour::SYMMETRIC,
    ] {
        let mut nat = nat(preset);
        let a = send(&mut nat, HOST_A, PEER, at(0));
        let b = send(&mut nat, HOST_B, STRANGER, at(0));
        assert_ne!(a, b, "{preset}: different destinations are no reason to share a port");
        assert_eq!(receive(&mut nat, PEER, a, at(0)), Ok(addr(HOST_A)));
        assert_eq!(receive(&mut nat, STRANGER, b, at(0)), Ok(addr(HOST_B)));
        if preset != Behaviour::FULL_CONE {
            assert_eq!(
                receive(&mut nat, STRANGER, a, at(0)),
                Err(Refusal::Filtered),
                "{preset}: B's contact opens B's mapping only"
            );
        }
    }
}

#[test]
fn only_what_goes_out_renews_a_mapping() {
    let mut nat = nat(Behaviour::PORT_RESTRICTED);
    let outer = send(&mut nat, HOST_A, PEER, at(0));
    assert_eq!(nat.poll_timeout(), Some(at(120)));
    send(&mut nat, HOST_A, PEER, at(100));
    assert_eq!(nat.poll_timeout(), Some(at(220)));
    assert!(receive(&mut nat, PEER, outer, at(219)).is_ok());
    assert_eq!(nat.poll_timeout(), Some(at(220)), "what came in renewed nothing");
    assert_eq!(receive(&mut nat, PEER, outer, at(220)), Err(Refusal::NoMapping));
    assert_eq!((nat.poll_timeout(), nat.mappings().len()), (None, 0));
}

#[test]
fn any_destination_holds_a_mapping_and_each_only_its_own_filter() {
    let mut nat = nat(Behaviour::ADDRESS_RESTRICTED);
    let outer = send(&mut nat, HOST_A, PEER, at(0));
    send(&mut nat, HOST_A, STRANGER, at(60));
    assert_eq!(receive(&mut nat, PEER, outer, at(121)), Err(Refusal::Filtered));
    assert_eq!(receive(&mut nat, STRANGER, outer, at(121)), Ok(addr(HOST_A)));
    assert_eq!(send(&mut nat, HOST_A, PEER, at(130)), outer, "the mapping is the same");
}

#[test]
fn an_unanswered_stranger_holds_no_mapping() {
    let mut nat = nat(Behaviour::FULL_CONE);
    let outer = send(&mut nat, HOST_A, PEER, at(0));
    assert!(receive(&mut nat, STRANGER, outer, at(119)).is_ok());
    assert_eq!(receive(&mut nat, STRANGER, outer, at(120)), Err(Refusal::NoMapping));
    // The port goes to another host; what is left of the stranger's session must not lead its answer astray.
    assert_eq!(send(&mut nat, HOST_B, PEER, at(121)), outer);
    assert_ne!(send(&mut nat, HOST_A, STRANGER, at(122)), outer);
}

#[test]
fn an_answer_leaves_by_the_mapping_that_its_question_came_by() {
    let mut nat = of(Dependence::AddressAndPortDependent, Dependence::EndpointIndependent);
    let outer = send(&mut nat, HOST_A, PEER, at(0));
    assert_eq!(receive(&mut nat, STRANGER, outer, at(1)), Ok(addr(HOST_A)));
    assert_eq!(send(&mut nat, HOST_A, STRANGER, at(2)), outer);
    // And it holds the mapping now.
    assert_eq!(receive(&mut nat, STRANGER, outer, at(121)), Ok(addr(HOST_A)));

    // Also where another mapping would have served that destination.
    let other = send(&mut nat, HOST_A, PEER_PORT, at(121));
    assert_ne!(other, outer);
    assert_eq!(receive(&mut nat, PEER_PORT, outer, at(121)), Ok(addr(HOST_A)));
    assert_eq!(send(&mut nat, HOST_A, PEER_PORT, at(121)), outer);
}

#[test]
fn hairpinning_shows_the_outer_address_and_asks_the_filter() {
    let mut open = nat(Behaviour::FULL_CONE);
    let b = send(&mut open, HOST_B, PEER, at(0));
    let turned = open.outbound(Flow::udp(addr(HOST_A), b), at(0)).unwrap();
    assert_eq!((turned.to, turned.flow.destination), (Side::Inside, addr(HOST_B)));
    assert_eq!(turned.flow.source.ip(), b.ip());
    let a = turned.flow.source;
    let back = open.outbound(Flow::udp(addr(HOST_B), a), at(0)).unwrap();
    assert_eq!((back.flow.source, back.flow.destination), (b, addr(HOST_A)));

    let mut strict = nat(Behaviour::PORT_RESTRICTED);
    let b = send(&mut strict, HOST_B, PEER, at(0));
    let a = send(&mut strict, HOST_A, PEER, at(0));
    assert_eq!(strict.outbound(Flow::udp(addr(HOST_A), b), at(0)), Err(Refusal::Filtered));
    assert_eq!(strict.outbound(Flow::udp(addr(HOST_B), a), at(0)).unwrap().flow.destination, addr(HOST_A));
    assert_eq!(strict.outbound(Flow::udp(addr(HOST_A), b), at(0)).unwrap().flow.source, a);

    let nowhere = SocketAddr::new(a.ip(), 9);
    assert_eq!(open.outbound(Flow::udp(addr("10.0.0.4:5"), nowhere), at(0)), Err(Refusal::NoMapping));
    assert_eq!(open.mappings().len(), 2, "what leads nowhere leaves no mapping behind");

    let mut none = with(|axes| axes.hairpin = false);
    let b = send(&mut none, HOST_B, PEER, at(0));
    assert_eq!(none.outbound(Flow::udp(addr(HOST_A), b), at(0)), Err(Refusal::Hairpin));
}

#[test]
fn ports_are_preserved_random_or_contiguous_and_in_range() {
    let range = PortRange::new(40000, 40003).unwrap();
    let ports = |allocation, inner: &[u16]| {
        let mut nat = with(|axes| (axes.allocation, axes.ports) = (allocation, range));
        let hosts = inner.iter().enumerate();
        let sent = hosts.map(|(n, port)| {
            let host = SocketAddr::new(IpAddr::from([10, 0, 0, n as u8 + 2]), *port);
            nat.outbound(Flow::udp(host, addr(PEER)), at(0)).map(|sent| sent.flow.source.port())
        });
        sent.collect::<Vec<_>>()
    };
    let preserved = ports(Allocation::Preserve, &[40002, 40002, 4330, 40000, 5]);
    assert_eq!(preserved[0], Ok(40002));
    let mut all: Vec<u16> = preserved[..4].iter().map(|port| port.unwrap()).collect();
    all.sort();
    assert_eq!(all, [40000, 40001, 40002, 40003], "each port of the range once");
    assert_eq!(preserved[4], Err(Refusal::PortsExhausted));
    assert_eq!(
        ports(Allocation::Contiguous, &[9, 9, 9, 9, 9])[..4],
        [Ok(40000), Ok(40001), Ok(40002), Ok(40003)]
    );
    assert_eq!(ports(Allocation::Random, &[1; 5])[4], Err(Refusal::PortsExhausted));
}

#[test]
fn a_freed_port_is_used_again() {
    let mut nat = with(|axes| axes.ports = PortRange::new(7000, 7000).unwrap());
    send(&mut nat, HOST_A, PEER, at(0));
    assert_eq!(nat.outbound(Flow::udp(addr(HOST_B), addr(PEER)), at(119)), Err(Refusal::PortsExhausted));
    assert_eq!(send(&mut nat, HOST_B, PEER, at(120)).port(), 7000);
}

#[test]
fn random_ports_differ_by_destination_and_follow_the_seed() {
    let run = |seed| {
        let mut nat = Translator::new(Behaviour::SYMMETRIC, NAT.parse().unwrap(), &[], [seed; 32]).unwrap();
        (0..50u16)
            .map(|n| {
                let to = SocketAddr::new(addr(PEER).ip(), 5000 + n);
                nat.outbound(Flow::udp(addr(HOST_A), to), at(0)).unwrap().flow.source.port()
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let mut ports = run(1);
    assert!(!ports.is_sorted());
    ports.sort();
    ports.dedup();
    assert_eq!(ports.len(), 50);
}

#[test]
fn a_forward_lets_everyone_in_and_is_its_hosts_mapping() {
    for (_, mapping) in Dependence::ALL {
        let behaviour = Behaviour::Nat(Axes::new(*mapping, Dependence::AddressAndPortDependent));
        let forward = Forward { protocol: Protocol::Udp, port: 8080, to: addr("10.0.0.2:80") };
        let mut nat = Translator::new(behaviour, NAT.parse().unwrap(), &[forward], [7; 32]).unwrap();
        let outer = SocketAddr::new(NAT.parse().unwrap(), 8080);
        assert_eq!(receive(&mut nat, STRANGER, outer, at(0)), Ok(addr("10.0.0.2:80")));
        assert_eq!(send(&mut nat, "10.0.0.2:80", STRANGER, at(1)), outer, "the answer's source");
        assert_eq!(
            send(&mut nat, "10.0.0.2:80", PEER, at(1)) == outer,
            *mapping == Dependence::EndpointIndependent
        );
        assert_eq!(receive(&mut nat, STRANGER, outer, at(9999)), Ok(addr("10.0.0.2:80")), "it stays");
        assert_ne!(send(&mut nat, "10.0.0.3:8080", PEER, at(9999)), outer, "its port is taken");
    }
}

#[test]
fn forwards_are_checked() {
    let external: IpAddr = NAT.parse().unwrap();
    let forward = |protocol, port, to: &str| Forward { protocol, port, to: addr(to) };
    let fails = |behaviour, forwards: &[Forward]| {
        Translator::new(behaviour, external, forwards, [0; 32]).unwrap_err().to_string()
    };
    let udp = forward(Protocol::Udp, 80, "10.0.0.2:80");
    let errors = [
        fails(Behaviour::FULL_CONE, &[udp, forward(Protocol::Tcp, 80, "10.0.0.2:80"), udp]),
        fails(Behaviour::FULL_CONE, &[forward(Protocol::Icmp, 80, "10.0.0.2:80")]),
        fails(Behaviour::FULL_CONE, &[forward(Protocol::Tcp, 0, "10.0.0.2:80")]),
        fails(Behaviour::FULL_CONE, &[forward(Protocol::Tcp, 80, "[2001:db8::1]:80")]),
        fails(Behaviour::None, &[udp]),
    ];
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn a_tcp_connection_lives_as_its_state_says() {
    let Timeouts { tcp_established, tcp_transitory, .. } = Timeouts::RFC;
    let mut nat = nat(Behaviour::PORT_RESTRICTED);
    let out = |segment| Flow::tcp(addr(HOST_A), addr(PEER), segment);
    let outer = nat.outbound(out(Segment::Open), at(0)).unwrap().flow.source;
    let into = |segment| Flow::tcp(addr(PEER), outer, segment);
    assert_eq!(nat.poll_timeout(), Some(at(0) + tcp_transitory));
    nat.inbound(into(Segment::Open), at(1)).unwrap();
    nat.outbound(out(Segment::Data), at(2)).unwrap();
    assert_eq!(nat.poll_timeout(), Some(at(2) + tcp_established));
    nat.inbound(into(Segment::Close), at(3)).unwrap();
    assert_eq!(nat.poll_timeout(), Some(at(3) + tcp_transitory), "the other side's FIN or RST shortens it");
    nat.outbound(out(Segment::Data), at(4)).unwrap();
    assert_eq!(nat.poll_timeout(), Some(at(4) + tcp_transitory));
    nat.outbound(out(Segment::Open), at(5)).unwrap();
    nat.outbound(out(Segment::Data), at(5)).unwrap();
    assert_eq!(nat.poll_timeout(), Some(at(5) + tcp_transitory), "a new connection opens anew");
    assert_eq!(receive(&mut nat, PEER, outer, at(6)), Err(Refusal::NoMapping), "UDP has a table of its own");
}

#[test]
fn pings_pass_by_their_identifier() {
    let mut nat = nat(Behaviour::PORT_RESTRICTED);
    let (a, b, peer) = (addr(HOST_A).ip(), addr(HOST_B).ip(), addr(PEER).ip());
    let from_a = nat.outbound(Flow::echo_request(a, 2000, peer), at(0)).unwrap().flow.source;
    let from_b = nat.outbound(Flow::echo_request(b, 2000, peer), at(0)).unwrap().flow.source;
    assert_eq!(from_a.port(), 2000);
    assert_ne!(from_a.port(), from_b.port());
    let reply = |nat: &mut Translator, from, id| {
        nat.inbound(Flow::echo_reply(from, NAT.parse().unwrap(), id), at(1)).map(|r| r.flow.destination)
    };
    assert_eq!(reply(&mut nat, peer, from_b.port()), Ok(SocketAddr::new(b, 2000)));
    assert_eq!(reply(&mut nat, addr(STRANGER).ip(), 2000), Err(Refusal::Filtered));
    assert_eq!(nat.poll_timeout(), Some(at(60)));
}

#[test]
fn icmp_errors_go_to_the_host_that_they_are_about() {
    let mut nat = nat(Behaviour::SYMMETRIC);
    let outer = send(&mut nat, HOST_A, PEER, at(0));
    let told = nat.inbound_error(Flow::udp(outer, addr(PEER)), at(1)).unwrap();
    assert_eq!((told.source, told.destination), (addr(HOST_A), addr(PEER)));
    assert_eq!(nat.inbound_error(Flow::udp(outer, addr(STRANGER)), at(1)), Err(Refusal::Unrelated));
    let told = nat.outbound_error(Flow::udp(addr(PEER), addr(HOST_A)), at(1)).unwrap();
    assert_eq!((told.source, told.destination), (addr(PEER), outer));
    assert_eq!(nat.outbound_error(Flow::udp(addr(PEER), addr(HOST_B)), at(1)), Err(Refusal::Unrelated));
    assert_eq!(nat.poll_timeout(), Some(at(120)), "they renew nothing");
}

#[test]
fn what_cannot_pass_is_counted_by_its_reason() {
    let mut nat = nat(Behaviour::PORT_RESTRICTED);
    let outer = send(&mut nat, HOST_A, PEER, at(0));
    let _ = receive(&mut nat, STRANGER, outer, at(0));
    let _ = receive(&mut nat, STRANGER, outer, at(0));
    let _ = receive(&mut nat, STRANGER, SocketAddr::new(outer.ip(), 9), at(0));
    let _ = receive(&mut nat, STRANGER, addr(HOST_A), at(0));
    let _ = nat.outbound(Flow::udp(addr("[2001:db8::1]:5"), addr("[2001:db8::2]:5")), at(0));
    let counted: Vec<String> = nat.refusals().map(|(why, count)| format!("{why}: {count}")).collect();
    assert_eq!(counted, ["no-mapping: 1", "filtered: 2", "not-ours: 1", "family: 1"]);
}

#[test]
fn a_plain_router_changes_nothing() {
    let mut nat = nat(Behaviour::None);
    assert_eq!(send(&mut nat, HOST_A, PEER, at(0)), addr(HOST_A));
    assert_eq!(receive(&mut nat, STRANGER, addr(HOST_A), at(0)), Ok(addr(HOST_A)));
    assert_eq!((nat.mappings().len(), nat.poll_timeout()), (0, None));
}

#[test]
fn the_table_is_bounded() {
    let mut nat = nat(Behaviour::FULL_CONE);
    let host =
        |n: usize| SocketAddr::new(IpAddr::from([198, 51, (n >> 8) as u8, n as u8]), 1 + (n >> 16) as u16);
    for n in 0..MAX_SESSIONS {
        nat.outbound(Flow::udp(addr(HOST_A), host(n)), at(0)).unwrap();
    }
    assert_eq!(nat.outbound(Flow::udp(addr(HOST_A), host(MAX_SESSIONS)), at(0)), Err(Refusal::TableFull));
    assert_eq!(nat.outbound(Flow::udp(addr(HOST_B), addr(PEER)), at(0)), Err(Refusal::TableFull));
    assert_eq!(nat.mappings().len(), 1, "what was refused left no mapping behind");
    assert!(nat.outbound(Flow::udp(addr(HOST_B), addr(PEER)), at(120)).is_ok());
}

#[derive(Clone, Debug)]
enum Step {
    Send(u8, u8),
    Receive(u8, u8),
    Wait(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..3u8, 0..6u8).prop_map(|(host, peer)| Step::Send(host, peer)),
        (0..6u8, 0..8u8).prop_map(|(peer, port)| Step::Receive(peer, port)),
        (1..130u8).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    /// Whatever happens: no two mappings share a port, each session is in the index, what ended left nothing behind.
    #[test]
    fn the_tables_agree(
        mapping in prop::sample::select(Dependence::ALL),
        filtering in prop::sample::select(Dependence::ALL),
        allocation in prop::sample::select(Allocation::ALL),
        steps in steps(),
    ) {
        let ports = PortRange::new(7000, 7007).unwrap();
        let mut nat = nat(Behaviour::Nat(Axes { allocation: allocation.1, ports, ..Axes::new(mapping.1, filtering.1) }));
        let peer = |n: u8| SocketAddr::new(IpAddr::from([192, 0, 2, n / 2]), 4000 + u16::from(n % 2));
        let mut now = Instant::ZERO;
        for step in steps {
            match step {
                Step::Send(host, to) => {
                    let host = SocketAddr::new(IpAddr::from([10, 0, 0, host]), 7000);
                    let sent = nat.outbound(Flow::udp(host, peer(to)), now);
                    if let Ok(sent) = sent {
                        prop_assert!(ports.contains(sent.flow.source.port()));
                        let answer = nat.inbound(Flow::udp(peer(to), sent.flow.source), now);
                        prop_assert_eq!(answer.unwrap().flow.destination, host, "an answer reaches its host");
                    }
                }
                Step::Receive(from, port) => {
                    let _ = nat.inbound(Flow::udp(peer(from), SocketAddr::new(nat.external, 7000 + u16::from(port))), now);
                }
                Step::Wait(seconds) => {
                    now += Duration::from_secs(u64::from(seconds));
                    nat.handle_timeout(now);
                }
            }
            let index: BTreeSet<_> = nat.sessions.iter().map(|(key, session)| (session.expires, *key)).collect();
            prop_assert_eq!(&index, &nat.expiries);
            prop_assert!(nat.poll_timeout().is_none_or(|at| at > now));
            prop_assert_eq!(nat.bindings.len(), nat.mappings.len());
            for (key, port) in &nat.mappings {
                let binding = &nat.bindings[&(key.0, *port)];
                prop_assert_eq!((binding.inside, binding.scope), (key.1, key.2));
                let holders = nat.sessions.values().filter(|s| s.binding == binding.id && s.sent).count();
                prop_assert!(holders > 0 && holders == binding.held_by as usize);
            }
        }
        nat.handle_timeout(now + Duration::from_secs(1000));
        prop_assert!(nat.bindings.is_empty() && nat.mappings.is_empty() && nat.sessions.is_empty());
        prop_assert!(nat.permits.is_empty() && nat.expiries.is_empty());
        prop_assert!(nat.taken.values().all(|taken| *taken == 0));
    }
}
