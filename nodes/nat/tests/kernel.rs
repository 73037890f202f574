//! `ntm-nat` on real packets: that the kernel behaves as declared (RFC 4787, RFC 5382), in network namespaces.
//!
//! Needs root and the programs ip, nft and ping; where they are missing the tests fail and say so.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests are about the real machine"
)]

#[path = "kernel/world.rs"]
mod world;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use ntm_nat::Dependence;
use socket2::{Domain, Protocol, Socket, Type};
use world::{Host, NAT, PATIENCE, Router, World, run, seen};

const PRESETS: [&str; 4] = ["full-cone", "address-restricted", "port-restricted", "symmetric"];

/// Which of its three values an axis has, told as RFC 5780 does: whether it is the same, or passes, for the other port of an address
/// and for another address.
fn dependence(other_port: bool, other_address: bool) -> Dependence {
    match (other_port, other_address) {
        (true, true) => Dependence::EndpointIndependent,
        (true, false) => Dependence::AddressDependent,
        (false, false) => Dependence::AddressAndPortDependent,
        (false, true) => {
            panic!("no behaviour of RFC 4787: another address is served better than another port")
        }
    }
}

/// Sends from `from` to a NAT's port; whether it arrives at `to`, the host behind that port.
fn passes(router: &Router, from: &UdpSocket, to: &UdpSocket, port: SocketAddr) -> bool {
    let got = router.arrival(to, || {
        from.send_to(b"probe", port).expect("sent");
    });
    if let Some(source) = got {
        assert_eq!(
            source,
            from.local_addr().expect("an address"),
            "the source of what comes in is not touched"
        );
    }
    got.is_some()
}

fn probe_mapping(world: &World) -> Dependence {
    let a = world.udp(Host::A, 4001);
    let (x1, x2, y1) = (world.udp(Host::X, 3478), world.udp(Host::X, 3479), world.udp(Host::Y, 3478));
    let first = seen(&a, &x1);
    assert_eq!(first.ip(), NAT);
    assert_eq!(seen(&a, &x1), first, "one destination, one mapping");
    dependence(seen(&a, &x2) == first, seen(&a, &y1) == first)
}

fn probe_filtering(world: &World, router: &Router) -> Dependence {
    let a = world.udp(Host::A, 4002);
    let (x1, x2, y1) = (world.udp(Host::X, 3478), world.udp(Host::X, 3479), world.udp(Host::Y, 3478));
    let mapped = seen(&a, &x1);
    assert!(passes(router, &x1, &a, mapped), "an answer");
    dependence(passes(router, &x2, &a, mapped), passes(router, &y1, &a, mapped))
}

#[test]
fn all_nine_behaviours_are_what_they_say() {
    let world = World::new();
    for (mapping_name, mapping) in Dependence::ALL {
        for (filtering_name, filtering) in Dependence::ALL {
            for allocation in ["preserve", "random"] {
                let nat = format!(
                    "nat = {{ mapping = '{mapping_name}', filtering = '{filtering_name}', allocation = '{allocation}' }}"
                );
                let router = world.start(&nat);
                assert_eq!(probe_mapping(&world), *mapping, "{nat}");
                assert_eq!(probe_filtering(&world, &router), *filtering, "{nat}");
            }
        }
    }
}

#[test]
fn the_classic_names_are_what_they_say() {
    let world = World::new();
    use Dependence::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
    for (name, mapping, filtering) in [
        ("full-cone", EndpointIndependent, EndpointIndependent),
        ("address-restricted", EndpointIndependent, AddressDependent),
        ("port-restricted", EndpointIndependent, AddressAndPortDependent),
        ("symmetric", AddressAndPortDependent, AddressAndPortDependent),
    ] {
        let router = world.start(&format!("nat = '{name}'"));
        assert_eq!((probe_mapping(&world), probe_filtering(&world, &router)), (mapping, filtering), "{name}");
        let a = world.udp(Host::A, 4003);
        let preserved = seen(&a, &world.udp(Host::X, 3478)).port() == 4003;
        assert_eq!(preserved, name != "symmetric", "{name}");
    }
}

#[test]
fn a_plain_router_changes_and_filters_nothing() {
    let world = World::new();
    for outside in ["x", "y"] {
        run(world.command(outside, "ip").args(["route", "add", "10.0.0.0/24", "via", "192.0.2.1"]));
    }
    let _router = world.start("nat = 'none'");
    let (a, x) = (world.udp(Host::A, 4004), world.udp(Host::X, 3478));
    assert_eq!(seen(&x, &a), Host::X.at(3478), "from outside first");
    assert_eq!(seen(&a, &x), Host::A.at(4004));
}

#[test]
fn two_hosts_with_one_source_port_keep_apart() {
    let world = World::new();
    for preset in PRESETS {
        let router = world.start(&format!("nat = '{preset}'"));
        let (a, b) = (world.udp(Host::A, 4330), world.udp(Host::B, 4330));
        let (x, y) = (world.udp(Host::X, 3478), world.udp(Host::Y, 3478));
        // Different destinations: conntrack alone would give both one port.
        let (at_x, at_y) = (seen(&a, &x), seen(&b, &y));
        assert_ne!(at_x, at_y, "{preset}");
        assert!(passes(&router, &x, &a, at_x) && passes(&router, &y, &b, at_y), "{preset}");
        if preset != "full-cone" {
            assert!(!passes(&router, &y, &a, at_x), "{preset}: what B sent to Y opens nothing of A's");
            assert!(!passes(&router, &x, &b, at_y), "{preset}: what A sent to X opens nothing of B's");
        }
        if preset != "symmetric" {
            assert_eq!(
                (seen(&a, &y), seen(&b, &x)),
                (at_x, at_y),
                "{preset}: each keeps its port everywhere"
            );
        }
        let status = router.status();
        let mappings = status["mappings"].as_array().expect("mappings");
        let of = |host: Host| {
            let inside = host.at(4330).to_string();
            mappings.iter().find(|mapping| mapping["inside"] == inside.as_str()).expect("a mapping").clone()
        };
        assert_eq!(
            (&of(Host::A)["external"], &of(Host::B)["external"]),
            (&at_x.to_string().into(), &at_y.to_string().into())
        );
        assert_eq!(status["behaviour"], preset);
    }
}

#[test]
fn early_packets_of_a_peer_move_no_mapping() {
    let world = World::new();
    for preset in ["full-cone", "address-restricted", "port-restricted"] {
        let router = world.start(&format!("nat = '{preset}'"));
        let a = world.udp(Host::A, 4330);
        let (x, y) = (world.udp(Host::X, 3478), world.udp(Host::Y, 3478));
        // Before there is a mapping, to the port that it will have.
        let port = SocketAddr::from((NAT, 4330));
        assert!(!passes(&router, &x, &a, port), "{preset}");
        assert_eq!(seen(&a, &x), port, "{preset}");
        // And before the host has sent to this peer.
        assert_eq!(passes(&router, &y, &a, port), preset == "full-cone");
        assert_eq!(seen(&a, &y), port, "{preset}");
        assert!(passes(&router, &y, &a, port), "{preset}");
    }
}

#[test]
fn hosts_reach_each_other_by_their_outer_addresses() {
    let world = World::new();
    for preset in ["full-cone", "address-restricted", "port-restricted"] {
        let router = world.start(&format!("nat = '{preset}'"));
        let (a, b, x) = (world.udp(Host::A, 4330), world.udp(Host::B, 4330), world.udp(Host::X, 3478));
        let (outer_a, outer_b) = (seen(&a, &x), seen(&b, &x));
        let send = |from: &UdpSocket, to: SocketAddr| {
            from.send_to(b"turn", to).expect("sent");
        };
        // Nobody is there: the router must not keep the entry, or this pair of ports would lead nowhere for as long as A tries.
        let nowhere = SocketAddr::from((NAT, 7777));
        assert_eq!(router.arrival(&b, || send(&a, nowhere)), None, "{preset}");

        let first = router.arrival(&b, || send(&a, outer_b));
        assert_eq!(first, (preset == "full-cone").then_some(outer_a), "{preset}: B's filter is asked");
        assert_eq!(router.arrival(&a, || send(&b, outer_a)), Some(outer_b), "{preset}: A has sent to B");
        assert_eq!(router.arrival(&b, || send(&a, outer_b)), Some(outer_a), "{preset}: now B has, too");

        let late = world.udp(Host::B, 7777);
        assert_eq!(seen(&late, &x), nowhere, "{preset}");
        if preset == "full-cone" {
            assert_eq!(router.arrival(&late, || send(&a, nowhere)), Some(outer_a));
        }
    }
    let router = world.start("nat = { preset = 'full-cone', hairpin = false }");
    let (a, b, x) = (world.udp(Host::A, 4330), world.udp(Host::B, 4330), world.udp(Host::X, 3478));
    let outer_b = seen(&b, &x);
    let turned = router.arrival(&b, || {
        a.send_to(b"turn", outer_b).expect("sent");
    });
    assert_eq!(turned, None);
    assert_eq!(router.status()["refusals"]["hairpin"], 1);
}

#[test]
fn what_comes_in_keeps_no_mapping_alive() {
    let world = World::new();
    let router = world.start("nat = { preset = 'port-restricted', timeouts = { udp = '1s' } }");
    let (a, b, x) = (world.udp(Host::A, 4330), world.udp(Host::B, 4330), world.udp(Host::X, 3478));
    let begin = Instant::now();
    let mapped = seen(&a, &x);
    let mut answers = 0;
    while passes(&router, &x, &a, mapped) {
        answers += 1;
        assert!(begin.elapsed() < Duration::from_secs(20), "the mapping never ends");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(begin.elapsed() >= Duration::from_secs(1), "{answers} answers in {:?}", begin.elapsed());
    assert_eq!(router.status()["mappings"].as_array().map(Vec::len), Some(0));
    assert_eq!(router.status()["refusals"], serde_json::json!({ "no-mapping": 1 }));
    assert!(seen(&b, &x).ip() == NAT, "what conntrack still remembers of A is not in B's way");

    // Sending does.
    let a = world.udp(Host::A, 4331);
    let (begin, mapped) = (Instant::now(), seen(&a, &x));
    let is_open = loop {
        let sent = Instant::now();
        assert_eq!(seen(&a, &x), mapped);
        std::thread::sleep(Duration::from_millis(20));
        if begin.elapsed() >= Duration::from_millis(2500) {
            let is_open = passes(&router, &x, &a, mapped);
            // Where the machine stood still for as long as a mapping lives, it may have ended.
            if is_open || sent.elapsed() < Duration::from_secs(1) {
                break is_open;
            }
        }
    };
    assert!(is_open);
}

#[test]
fn a_forward_leads_everyone_to_its_host() {
    let world = World::new();
    for preset in PRESETS {
        let router = world.start(&format!(
            "nat = '{preset}'\n[[forward]]\nprotocol = 'udp'\nport = 8080\nto = '10.0.0.2:80'\n\
             [[forward]]\nprotocol = 'tcp'\nport = 8080\nto = '10.0.0.2:80'\n"
        ));
        let outer = SocketAddr::from((NAT, 8080));
        let (a, b, x) = (world.udp(Host::A, 80), world.udp(Host::B, 8080), world.udp(Host::X, 3478));
        assert!(passes(&router, &x, &a, outer), "{preset}");
        assert_eq!(seen(&a, &x), outer, "{preset}: the answer's source");
        assert_ne!(seen(&b, &x), outer, "{preset}: the port is taken");
        // From inside, too.
        let turned = router.arrival(&a, || {
            b.send_to(b"turn", outer).expect("sent");
        });
        assert_eq!(turned.map(|from| from.ip()), Some(NAT.into()), "{preset}");

        let listener = listen(&world, Host::A, 80);
        let client = connect(&world, Host::Y, 5000, outer).expect("a connection to the forward");
        let (server, peer) = listener.accept().expect("a connection");
        assert_eq!(peer, Host::Y.at(5000));
        echo(&client, &server);
    }
}

fn socket(world: &World, host: Host, port: u16) -> Socket {
    world.within(host, move || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
        socket.set_reuse_address(true).expect("an option");
        socket.set_reuse_port(true).expect("an option");
        socket.set_read_timeout(Some(PATIENCE)).expect("an option");
        socket.bind(&host.at(port).into()).expect("a port");
        socket
    })
}

fn listen(world: &World, host: Host, port: u16) -> TcpListener {
    let socket = socket(world, host, port);
    socket.listen(8).expect("listening");
    socket.into()
}

fn connect(world: &World, host: Host, port: u16, to: SocketAddr) -> Option<TcpStream> {
    let socket = socket(world, host, port);
    socket.connect_timeout(&to.into(), PATIENCE).ok().map(|()| socket.into())
}

/// Bytes go both ways.
fn echo(client: &TcpStream, server: &TcpStream) {
    for (mut from, mut to) in [(client, server), (server, client)] {
        from.write_all(b"hello").expect("sent");
        let mut bytes = [0; 5];
        to.read_exact(&mut bytes).expect("received");
        assert_eq!(&bytes, b"hello");
    }
}

#[test]
fn tcp_has_the_same_mapping_and_filtering() {
    let world = World::new();
    for preset in PRESETS {
        let router = world.start(&format!("nat = '{preset}'"));
        let (x, y) = (listen(&world, Host::X, 80), listen(&world, Host::Y, 80));
        let open = |host, port, listener: &TcpListener| {
            let to = listener.local_addr().expect("an address");
            let client = connect(&world, host, port, to).expect("a connection");
            let (server, seen) = listener.accept().expect("a connection");
            echo(&client, &server);
            (seen, client, server)
        };
        let (at_x, ..) = open(Host::A, 6000, &x);
        let (at_y, ..) = open(Host::A, 6000, &y);
        let (other, ..) = open(Host::B, 6000, &y);
        assert_eq!(at_x.ip(), NAT);
        assert_eq!(at_x == at_y, preset != "symmetric", "{preset}");
        assert!(other != at_x && other != at_y, "{preset}: B has a port of its own");

        // A host that nobody was connected to: only the full cone lets it in.
        let inside = listen(&world, Host::A, 6001);
        let (outer, ..) = open(Host::A, 6001, &x);
        if preset == "full-cone" {
            let client = connect(&world, Host::Y, 5001, outer).expect("a connection");
            let (server, peer) = inside.accept().expect("a connection");
            assert_eq!(peer, Host::Y.at(5001));
            echo(&client, &server);
        } else {
            let before = router.refused();
            let stranger = socket(&world, Host::Y, 5001);
            let refused = stranger.connect_timeout(&outer.into(), Duration::from_millis(300));
            assert!(
                refused.is_err_and(|e| e.kind() == std::io::ErrorKind::TimedOut),
                "{preset}: silence (RFC 5382, REQ-4)"
            );
            assert!(router.refused() > before, "{preset}");
        }
    }
}

#[test]
fn pings_pass() {
    let world = World::new();
    let _router = world.start("nat = 'symmetric'");
    for host in ["a", "b"] {
        run(world.command(host, "ping").args(["-n", "-c", "2", "-i", "0.05", "-W", "5", "192.0.2.10"]));
    }
}

#[test]
fn the_router_itself_asks_and_is_answered() {
    let world = World::new();
    let router = world.start("nat = 'port-restricted'");
    let (own, x, y) = (world.udp(Host::Router, 4330), world.udp(Host::X, 3478), world.udp(Host::Y, 3478));
    assert!(!passes(&router, &x, &own, Host::Router.at(4330)), "nobody outside speaks to it first");
    assert_eq!(seen(&own, &y), Host::Router.at(4330));
    assert!(passes(&router, &y, &own, Host::Router.at(4330)));
}

#[test]
fn nobody_is_reached_past_the_nat() {
    let world = World::new();
    run(world.command("x", "ip").args(["route", "add", "10.0.0.0/24", "via", "192.0.2.1"]));
    let router = world.start("nat = 'full-cone'");
    let (a, x) = (world.udp(Host::A, 4330), world.udp(Host::X, 3478));
    seen(&a, &x);
    assert!(!passes(&router, &x, &a, Host::A.at(4330)));
    assert_eq!(router.status()["refusals"]["not-ours"], 1);
}

#[test]
fn ports_stay_in_their_range() {
    let world = World::new();
    let router = world.start("nat = { preset = 'symmetric', ports = '40000-40039' }");
    let mut ports: Vec<u16> = (5000..5020)
        .map(|port| {
            // Different destinations: conntrack alone would let mappings share a port.
            let (a, x) = (world.udp(Host::A, port), world.udp(Host::X, port));
            // A port that chance gives twice is refused, and the host's next packet tries again.
            let to = x.local_addr().expect("an address");
            let from = (0..100).find_map(|_| {
                router.arrival(&x, || {
                    a.send_to(b"probe", to).expect("sent");
                })
            });
            from.expect("a mapping").port()
        })
        .collect();
    assert!(ports.iter().all(|port| (40000..=40039).contains(port)), "{ports:?}");
    assert!(!ports.is_sorted());
    ports.sort();
    ports.dedup();
    assert_eq!(ports.len(), 20, "no two mappings share a port");
}

#[test]
fn sigterm_leaves_the_namespace_as_it_was() {
    let world = World::new();
    let show = |program: &str, arguments: &[&str]| {
        let output = run(world.command("r", program).args(arguments));
        String::from_utf8(output.stdout).expect("text")
    };
    let state = || {
        let settings = [
            "net.ipv4.ip_forward",
            "net.ipv4.conf.all.send_redirects",
            "net.ipv4.conf.lan0.send_redirects",
            "net.netfilter.nf_conntrack_udp_timeout",
        ];
        show("nft", &["list", "ruleset"]) + &show("sysctl", &settings)
    };
    show(
        "nft",
        &["table ip another { chain c { type filter hook forward priority 0; ct state new accept; }; }"],
    );
    show("sysctl", &["-q", "net.ipv4.ip_forward=0", "net.ipv4.conf.lan0.send_redirects=1"]);
    let before = state();

    let mut router = world.start("nat = { preset = 'port-restricted', timeouts = { udp = '77s' } }");
    let (a, x) = (world.udp(Host::A, 4330), world.udp(Host::X, 3478));
    seen(&a, &x);
    let during = state();
    assert!(
        during.contains("table ip ntm-nat") && during.contains("nf_conntrack_udp_timeout = 77"),
        "{during}"
    );
    assert!(router.has_control_socket());
    assert_eq!(router.stop().code(), Some(0));
    assert_eq!(state(), before, "the table is gone, another's stays, the settings are as they were");
    assert!(!router.has_control_socket());

    let trace = router.trace();
    let told: Vec<_> = trace.iter().map(|record| (&record["what"], &record["node"])).collect();
    assert_eq!(told, [(&"nat-ready".into(), &"nat".into()), (&"nat-table".into(), &"nat".into())]);
    assert_eq!(trace[1]["mappings"][0]["inside"], "10.0.0.2:4330");
}

#[test]
fn what_a_killed_router_left_is_replaced() {
    let world = World::new();
    let (a, x, y) = (world.udp(Host::A, 4330), world.udp(Host::X, 3478), world.udp(Host::Y, 3478));
    let killed = world.start("nat = 'symmetric'");
    let former = seen(&a, &x);
    drop(killed);
    let mut router = world.start("nat = 'full-cone'");
    let mapped = seen(&a, &x);
    assert!(mapped != former && mapped.port() == 4330, "neither its rules nor its connections are left");
    assert!(passes(&router, &y, &a, mapped));
    assert_eq!(router.stop().code(), Some(0));
    assert_eq!(run(world.command("r", "nft").args(["list", "tables"])).stdout, b"");
}

#[test]
fn told_to_forget_it_begins_anew() {
    let world = World::new();
    let router = world.start("nat = 'port-restricted'");
    let (a, b) = (world.udp(Host::A, 4330), world.udp(Host::B, 4330));
    let (x, y) = (world.udp(Host::X, 3478), world.udp(Host::Y, 3478));
    let mapped = seen(&a, &x);
    assert_ne!(seen(&b, &x), mapped);
    assert!(!passes(&router, &y, &a, mapped));
    router.ask("forget");
    let status = router.status();
    assert_eq!((&status["mappings"], &status["refusals"]), (&serde_json::json!([]), &serde_json::json!({})));
    assert!(!passes(&router, &x, &a, mapped), "no connection of the kernel's is left either");
    assert_eq!(seen(&b, &x), mapped, "the port is free");
}

#[test]
fn mistakes_are_told() {
    let world = World::new();
    let fails = |config: &str, path: Option<&str>| {
        let mut command = world.nat(config);
        if let Some(path) = path {
            command.env("PATH", path);
        }
        let output = command.output().expect("ntm-nat runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = fails("outside = 'wan0'\nnat = 'full-cone'\ninsid = 'lan0'\n", None);
    assert!(
        code == Some(2) && text.contains("unknown field `insid`") && text.contains("nat.toml:7:1"),
        "{text}"
    );

    let (code, text) = fails("outside = 'wan1'\nnat = 'full-cone'\n", None);
    assert_eq!(code, Some(2));
    assert!(
        text.contains("'outside': there is no interface 'wan1' here; there are lo, lan0, wan0"),
        "{text}"
    );

    let (code, text) = fails("outside = 'wan0'\nnat = 'fullcone'\n", None);
    assert!(code == Some(2) && text.contains("did you mean 'full-cone'"), "{text}");

    let (code, text) = fails("outside = 'lo'\nnat = 'full-cone'\nexternal = '192.0.2.300'\n", None);
    assert!(code == Some(2) && text.contains("external"), "{text}");

    run(world.command("r", "ip").args(["addr", "flush", "dev", "wan0"]));
    let (code, text) = fails("outside = 'wan0'\nnat = 'full-cone'\n", None);
    assert!(code == Some(2) && text.contains("wan0 has no IPv4 address"), "{text}");
    assert_eq!(run(world.command("r", "nft").args(["list", "tables"])).stdout, b"", "nothing is left behind");
}

#[test]
fn without_nft_it_says_what_to_install() {
    let world = World::new();
    let empty = tempfile::tempdir().expect("a folder");
    // The namespace is entered by ip, which is found by its own path.
    let mut command = world.nat("outside = 'wan0'\nnat = 'full-cone'\n");
    let program = command.get_program().to_owned();
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let ip =
        ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"].into_iter().find(|ip| std::path::Path::new(ip).exists());
    assert_eq!(program, "ip");
    command = Command::new(ip.expect("ip"));
    let output = command.args(arguments).env("PATH", empty.path()).output().expect("ntm-nat runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{text}");
    assert!(text.contains("apt-get install nftables"), "{text}");
}
