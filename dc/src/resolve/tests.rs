//! Real name servers on loopback addresses, all on one port: a root, a top-level domain, and zones below it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use hickory_proto::op::OpCode;
use hickory_proto::rr::Record;
use hickory_proto::rr::rdata::NS;
use ntm_daemon::trace::TraceSink;
use ntm_dns::answer::Zones;
use ntm_dns::server::{Counts, DnsServer, Traced};
use ntm_dns::zone;
use tokio::net::UdpSocket;

use super::*;

const SOA: &str = "$TTL 60\n@ SOA ns h 1 2 3 4 60\n@ NS ns\n";

const ROOT: &str = "\
$TTL 60
.         SOA a.root. h. 1 2 3 4 60
.         NS  a.root.
a.root.   A   127.0.0.1
bare.     A   192.0.2.9
test.     NS  ns.test.
ns.test.  A   127.0.0.2
";

const TLD: &str = "\
ns          A   127.0.0.2
dc.ntm      NS  dc.dc.ntm
dc.dc.ntm   A   127.0.0.3
example     NS  ns.example
ns.example  A   127.0.0.4
glueless    NS  ns.example
refused     NS  ns.refused
ns.refused  A   127.0.0.3
silent      NS  ns.silent
ns.silent   A   127.0.0.5
half        NS  a.half
half        NS  b.half
half        NS  c.half
a.half      A   127.0.0.5
b.half      A   127.0.0.3
c.half      A   127.0.0.4
odd         NS  ns.odd
ns.odd      A   127.0.0.6
nowhere     NS  ns.nothing.test.
";

const DC: &str = "\
@            NS   dc
ns           A    127.0.0.3
dc           A    127.0.0.3
@            TXT  \"ntm-dc=1\"
mn           TXT  \"ntm-dc=1\"
mn.office    TXT  \"ntm-dc=1\"
alias        CNAME www.example.test.
far          CNAME far.example.test.
";

const EXAMPLE: &str = "\
ns       A     127.0.0.4
www      A     192.0.2.1
www      A     192.0.2.2
www      AAAA  2001:db8::1
text     TXT   \"v=spf1 \" \"-all\"
text     TXT   \"second\"
alias    CNAME alias.dc.ntm.test.
to-dc    CNAME mn.dc.ntm.test.
dangling CNAME nothing.dc.ntm.test.
loop     CNAME pool
pool     CNAME loop
far      CNAME far.dc.ntm.test.
deep.sub A     192.0.2.3
";

const HALF: &str = "ns A 127.0.0.4\n@ NS a\n@ NS b\n@ NS c\na A 127.0.0.5\nb A 127.0.0.3\nc A 127.0.0.4\n\
                    www A 192.0.2.7\n";

/// The servers of one test, and a resolver that begins at their root.
struct World {
    servers: Vec<DnsServer>,
    /// Takes questions and never answers.
    _silent: UdpSocket,
    config: ResolverConfig,
    resolver: Resolver,
}

fn zone_of(origin: &str, text: &str) -> zone::Zone {
    let text = if origin == "." { text.to_owned() } else { format!("{SOA}{text}") };
    let origin = Name::from_ascii(origin).expect("a name");
    zone::Zone::parse(&origin, &text, Path::new("test.zone")).expect("a zone")
}

fn loopback(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

async fn serve(at: SocketAddr, zones: &[(&str, &str)]) -> anyhow::Result<DnsServer> {
    let mut all = Zones::default();
    for (origin, text) in zones {
        all.add(zone_of(origin, text));
    }
    DnsServer::start("test", all, &[at], TraceSink::open(None)?, Traced::Refusals).await
}

/// What an odd server answers to a question.
type Odd = fn(Message) -> Message;

impl World {
    async fn new(deadline: Duration) -> Self {
        Self::with_odd(deadline, |question| question).await
    }

    /// A world in which 127.0.0.6 answers as `odd` says.
    async fn with_odd(deadline: Duration, odd: Odd) -> Self {
        // The port that is free on the first address may be taken on another.
        for _ in 0..32 {
            if let Ok(world) = Self::try_new(deadline, odd).await {
                return world;
            }
        }
        panic!("no port is free on six loopback addresses");
    }

    async fn try_new(deadline: Duration, odd: Odd) -> anyhow::Result<Self> {
        let root = serve(SocketAddr::new(loopback(1), 0), &[(".", ROOT)]).await?;
        let port = root.addresses()[0].port();
        let at = |last| SocketAddr::new(loopback(last), port);
        let servers = vec![
            root,
            serve(at(2), &[("test.", TLD)]).await?,
            serve(at(3), &[("dc.ntm.test.", DC)]).await?,
            serve(at(4), &[("example.test.", EXAMPLE), ("half.test.", HALF), ("glueless.test.", GLUELESS)])
                .await?,
        ];
        let silent = UdpSocket::bind(at(5)).await?;
        let socket = UdpSocket::bind(at(6)).await?;
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..length]).expect("a question");
                let answer = odd(question.into_response()).to_vec().expect("an answer");
                socket.send_to(&answer, from).await.expect("sent");
            }
        });
        let config = ResolverConfig {
            roots: vec![loopback(1)],
            families: [loopback(1)].into_iter().collect(),
            port,
            deadline,
        };
        let resolver = Resolver::new(&config, None)?;
        Ok(Self { servers, _silent: silent, config, resolver })
    }

    async fn zone(&self, name: &str) -> Result<(String, String), LookupFailure> {
        match self.resolver.look_up(&Lookup::Zone(fqdn(name))).await? {
            LookupAnswer::Zone(Zone { zone, servers }) => {
                let zone = zone.map_or(".".to_owned(), |zone| zone.to_string());
                Ok((zone, format!("{servers:?}")))
            }
            other => panic!("{other:?}"),
        }
    }

    async fn a(&self, name: &str) -> Result<Vec<String>, LookupFailure> {
        self.addresses(Lookup::A(fqdn(name))).await
    }

    async fn addresses(&self, lookup: Lookup) -> Result<Vec<String>, LookupFailure> {
        match self.resolver.look_up(&lookup).await? {
            LookupAnswer::Addresses(found) => {
                let mut found: Vec<_> = found.iter().map(IpAddr::to_string).collect();
                found.sort();
                Ok(found)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn txt(&self, zone: &str, server: u8) -> LookupResult {
        let lookup = Lookup::Record { zone: fqdn(zone), server: loopback(server) };
        self.resolver.look_up(&lookup).await
    }

    fn counts(&self) -> Vec<Counts> {
        self.servers.iter().map(DnsServer::counts).collect()
    }
}

const GLUELESS: &str = "ns A 127.0.0.4\n@ NS ns.example.test.\nwww A 192.0.2.8\n";
const LONG: Duration = MAX_DEADLINE;
const SHORT: Duration = Duration::from_millis(900);

fn fqdn(name: &str) -> Fqdn {
    name.parse().expect("a name")
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn the_zone_of_a_name_is_found_from_the_root_on() {
    let world = World::new(LONG).await;
    // A terminal's name may have several labels below the zone's (T3.2.2-b).
    for name in ["dc.ntm.test", "mn.dc.ntm.test", "mn.office.dc.ntm.test", "office.dc.ntm.test"] {
        let (zone, servers) = world.zone(name).await.expect("a zone");
        assert_eq!(zone, "dc.ntm.test", "{name}");
        for server in ["dc.dc.ntm.test", "ns.dc.ntm.test"] {
            assert!(servers.contains(&format!("(Fqdn({server}), [127.0.0.3])")), "{servers}");
        }
    }
    let (zone, servers) = world.zone("www.example.test").await.expect("a zone");
    assert_eq!((zone.as_str(), servers.as_str()), ("example.test", "[(Fqdn(ns.example.test), [127.0.0.4])]"));
    assert_eq!(
        world.zone("ntm.test").await.expect("a zone").0,
        "test",
        "no zone of its own, though below one"
    );
    assert_eq!(world.zone("test").await.expect("a zone").0, "test");
    let root = world.zone("bare").await.expect("a zone");
    assert_eq!((root.0.as_str(), root.1.as_str()), (".", "[(Fqdn(a.root), [127.0.0.1])]"));
    for counts in world.counts() {
        assert!(counts.by_type.contains_key("NS"), "every server on the way was asked for NS: {counts:?}");
    }
}

#[tokio::test]
async fn a_zone_is_known_by_its_own_name_and_not_by_an_aliass() {
    let world = World::new(LONG).await;
    for alias in ["to-dc.example.test", "alias.example.test"] {
        assert_eq!(world.zone(alias).await.expect("a zone").0, "example.test", "{alias}");
    }
}

#[tokio::test]
async fn a_name_server_outside_its_zone_is_looked_up() {
    let world = World::new(LONG).await;
    let (zone, servers) = world.zone("www.glueless.test").await.expect("a zone");
    assert_eq!(zone, "glueless.test");
    assert!(
        servers.contains("(Fqdn(ns.example.test), [127.0.0.4])") || servers.contains("ns.glueless.test"),
        "{servers}"
    );
    assert_eq!(world.a("www.glueless.test").await, Ok(strings(&["192.0.2.8"])));
}

#[tokio::test]
async fn what_does_not_exist_and_who_refuses() {
    let world = World::new(LONG).await;
    for name in ["nothing.example.test", "nothing.dc.ntm.test", "nothing.test", "nothing"] {
        assert_eq!(world.zone(name).await, Err(LookupFailure::NxDomain), "{name}");
        assert_eq!(world.a(name).await, Err(LookupFailure::NxDomain), "{name}");
    }
    // A lame delegation: the server refuses a zone that it does not have.
    assert_eq!(world.zone("www.refused.test").await, Err(LookupFailure::ServFail));
    assert_eq!(world.a("www.refused.test").await, Err(LookupFailure::ServFail));
    // The only server has no address.
    assert_eq!(world.zone("www.nowhere.test").await, Err(LookupFailure::ServFail));
}

#[tokio::test]
async fn addresses_are_found_and_aliases_followed() {
    let world = World::new(LONG).await;
    assert_eq!(world.a("www.example.test").await, Ok(strings(&["192.0.2.1", "192.0.2.2"])));
    let six = Lookup::Aaaa(fqdn("www.example.test"));
    assert_eq!(world.addresses(six).await, Ok(strings(&["2001:db8::1"])));
    let none = Lookup::Aaaa(fqdn("ns.example.test"));
    assert_eq!(world.addresses(none).await, Ok(Vec::new()), "the name exists without such an address");
    assert_eq!(world.a("sub.example.test").await, Ok(Vec::new()), "an empty non-terminal exists");
    assert_eq!(world.a("deep.sub.example.test").await, Ok(strings(&["192.0.2.3"])));
    assert_eq!(
        world.a("alias.example.test").await,
        world.a("www.example.test").await,
        "by way of another zone"
    );
    assert_eq!(world.a("to-dc.example.test").await, Ok(Vec::new()), "VIPs are never public");
    assert_eq!(world.a("dangling.example.test").await, Err(LookupFailure::NxDomain));
}

#[tokio::test]
async fn aliases_that_go_round_end() {
    let world = World::new(LONG).await;
    // Within one server's answer, and from zone to zone.
    for name in ["loop.example.test", "far.example.test"] {
        assert_eq!(world.a(name).await, Err(LookupFailure::ServFail), "{name}");
    }
}

#[tokio::test]
async fn texts_come_from_the_server_that_was_asked() {
    let world = World::new(LONG).await;
    let texts = |list: &[&str]| Ok(LookupAnswer::Texts(strings(list)));
    assert_eq!(world.txt("dc.ntm.test", 3).await, texts(&["ntm-dc=1"]));
    assert_eq!(world.txt("mn.office.dc.ntm.test", 3).await, texts(&["ntm-dc=1"]));
    assert_eq!(
        world.txt("example.test", 4).await,
        texts(&[]),
        "an ordinary zone: a general node (T4.2.2-seq)"
    );
    let Ok(LookupAnswer::Texts(mut two)) = world.txt("text.example.test", 4).await else { panic!("texts") };
    two.sort();
    assert_eq!(two, strings(&["second", "v=spf1 -all"]), "the strings of one record are one text");
    assert_eq!(world.txt("to-dc.example.test", 4).await, texts(&[]), "an alias has no text of its own");
    assert_eq!(world.txt("nothing.example.test", 4).await, Err(LookupFailure::NxDomain));
    assert_eq!(world.txt("dc.ntm.test", 4).await, Err(LookupFailure::ServFail), "not its zone");
    assert_eq!(world.txt("dc.ntm.test", 2).await, Err(LookupFailure::ServFail), "a referral is no answer");
    let asked: u64 = world.counts()[0].by_type.values().sum();
    assert_eq!(asked, 0, "nobody else was asked");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_in_time() {
    let world = World::new(SHORT).await;
    let start = Instant::now();
    let lookups = [world.zone("www.silent.test").await.err(), world.a("www.silent.test").await.err()];
    assert_eq!(lookups, [Some(LookupFailure::Timeout); 2]);
    assert_eq!(world.txt("silent.test", 5).await, Err(LookupFailure::Timeout));
    assert!(start.elapsed() < 10 * SHORT, "{:?}", start.elapsed());
}

#[tokio::test]
async fn one_good_server_of_three_is_enough() {
    // One is silent, one refuses; which is asked first is chance.
    for _ in 0..2 {
        let world = World::new(LONG / 2).await;
        assert_eq!(world.a("www.half.test").await, Ok(strings(&["192.0.2.7"])));
        assert_eq!(world.zone("www.half.test").await.expect("a zone").0, "half.test");
    }
}

#[tokio::test]
async fn answers_are_kept_for_their_lifetime() {
    let world = World::new(LONG).await;
    for _ in 0..2 {
        world.zone("mn.dc.ntm.test").await.expect("a zone");
        world.a("www.example.test").await.expect("addresses");
        assert_eq!(world.a("nothing.example.test").await, Err(LookupFailure::NxDomain));
    }
    let before = world.counts();
    world.zone("mn.dc.ntm.test").await.expect("a zone");
    world.a("www.example.test").await.expect("addresses");
    assert_eq!(world.a("nothing.example.test").await, Err(LookupFailure::NxDomain));
    assert_eq!(world.counts(), before, "nobody was asked again");
    // Another name of a known zone goes to the zone's servers at once.
    world.a("deep.sub.example.test").await.expect("addresses");
    assert_eq!(world.counts()[..2], before[..2], "the root and the top-level domain were not asked again");
}

#[tokio::test]
async fn many_look_ups_at_once() {
    let world = World::new(LONG).await;
    let names: Vec<_> = (0..300).map(|n| fqdn(&format!("mn{n}.example.test"))).collect();
    let results = names.iter().map(async |name| world.resolver.look_up(&Lookup::A(name.clone())).await);
    let results = futures::future::join_all(results).await;
    assert!(results.iter().all(|result| *result == Err(LookupFailure::NxDomain)), "{results:?}");
}

/// The DC's own server is asked from within: what it says is the same, from the root on (T3.2.2-b), and no socket of its is needed for it.
#[tokio::test]
async fn the_server_of_this_process_is_asked_by_a_call() {
    let mut world = World::new(LONG).await;
    let beside = Resolver::new(&world.config, Some(world.servers[2].inside())).expect("a resolver");
    let at_own = |name| Lookup::Record { zone: fqdn(name), server: loopback(3) };
    let lookups = [
        Lookup::Zone(fqdn("dc.ntm.test")),
        Lookup::Zone(fqdn("mn.dc.ntm.test")),
        Lookup::Zone(fqdn("mn.office.dc.ntm.test")),
        Lookup::Zone(fqdn("alias.dc.ntm.test")),
        Lookup::Zone(fqdn("nothing.dc.ntm.test")),
        Lookup::Zone(fqdn("www.example.test")),
        Lookup::A(fqdn("dc.dc.ntm.test")),
        Lookup::A(fqdn("mn.dc.ntm.test")),
        Lookup::A(fqdn("alias.dc.ntm.test")),
        Lookup::A(fqdn("far.dc.ntm.test")),
        Lookup::A(fqdn("dangling.example.test")),
        Lookup::Aaaa(fqdn("dc.dc.ntm.test")),
        at_own("dc.ntm.test"),
        at_own("mn.dc.ntm.test"),
        at_own("ns.dc.ntm.test"),
        at_own("nothing.dc.ntm.test"),
        at_own("example.test"),
    ];
    let sorted = |result| match result {
        Ok(LookupAnswer::Addresses(mut found)) => {
            found.sort();
            Ok(LookupAnswer::Addresses(found))
        }
        Ok(LookupAnswer::Zone(mut zone)) => {
            zone.servers.sort();
            Ok(LookupAnswer::Zone(zone))
        }
        other => other,
    };
    let mut by_network = Vec::new();
    for lookup in &lookups {
        by_network.push(sorted(world.resolver.look_up(lookup).await));
    }
    let asked = |world: &World| world.servers[0].counts().by_type.values().sum::<u64>();
    let before = asked(&world);
    world.servers.remove(2).shut_down().await;
    for (lookup, expected) in lookups.iter().zip(by_network) {
        assert_eq!(sorted(beside.look_up(lookup).await), expected, "{lookup:?}");
    }
    assert!(asked(&world) > before, "it begins at the root all the same");
    // For whoever has only the network it is gone.
    let alone = Resolver::new(&ResolverConfig { deadline: SHORT, ..world.config.clone() }, None);
    let found = alone.expect("a resolver").look_up(&Lookup::Zone(fqdn("mn.dc.ntm.test"))).await;
    assert!(matches!(found, Err(LookupFailure::Timeout | LookupFailure::ServFail)), "{found:?}");
}

/// Asks an odd server for an address, a zone and a text.
async fn ask_odd(odd: Odd) -> [Option<LookupFailure>; 3] {
    let world = World::with_odd(LONG, odd).await;
    [
        world.a("www.odd.test").await.err(),
        world.zone("www.odd.test").await.err(),
        world.txt("odd.test", 6).await.err(),
    ]
}

fn add_ns(answer: &mut Message, owner: &str, server: &str) {
    let name = |text| Name::from_ascii(text).expect("a name");
    answer.add_authority(Record::from_rdata(name(owner), 60, RData::NS(NS(name(server)))));
}

#[tokio::test]
async fn odd_answers_lead_nowhere() {
    let failed = [Some(LookupFailure::ServFail); 3];
    // An empty answer without authority.
    assert_eq!(ask_odd(|answer| answer).await, failed);
    // A referral back up.
    let upwards: Odd = |mut answer| {
        add_ns(&mut answer, ".", "a.root.");
        answer
    };
    assert_eq!(ask_odd(upwards).await, failed);
    // A referral to itself, for whatever is asked.
    let itself: Odd = |mut answer| {
        let name = answer.queries[0].name().to_ascii();
        add_ns(&mut answer, &name, "ns.odd.test.");
        answer
    };
    assert_eq!(ask_odd(itself).await, failed);
    // A failure.
    let broken: Odd = |mut answer| {
        answer.metadata.op_code = OpCode::Query;
        answer.metadata.response_code = ResponseCode::ServFail;
        answer
    };
    assert_eq!(ask_odd(broken).await, failed);
}

#[test]
fn a_resolver_needs_a_root() {
    let (v4, v6) = (loopback(1), IpAddr::from(std::net::Ipv6Addr::LOCALHOST));
    for roots in [vec![], vec![v6]] {
        let config = ResolverConfig::new(roots, [v4].into_iter().collect());
        assert!(matches!(Resolver::new(&config, None), Err(ResolverError::NoRoots)));
    }
}
