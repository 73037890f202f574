//! What is benchmarked: configurations, what is measured of each, and the scenario that does it. PURE.
//!
//! All have one topology: two networks, each behind a NAT, and the internet between them with its relay.

use std::fmt::Write as _;

use crate::foreign::program::Program;
use crate::scenario::model::SUITES;

/// One way from the one network to the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Names it: `kernel`, `aes-128-cbc-rs-s`, `gotatun`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
}

/// What carries packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The kernel alone, with NATs and without a tunnel.
    Kernel,
    /// NTMobile.
    Ours {
        /// The cipher suite.
        suite: &'static str,
        /// The way between the terminals.
        way: Way,
        /// Whether the terminals' data threads spin.
        spin: bool,
    },
    /// Another program.
    Peer(Program),
    /// coturn, which relays and makes no tunnel.
    Turn,
}

/// A way of NTMobile's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From end to end.
    Direct,
    /// Through a relay that switches in user space.
    RsS,
    /// Through a relay whose kernel switches.
    RsSKernel,
    /// Through a relay that translates, to a general node.
    RsN,
}

/// The ways, with the ends of configurations' names.
const WAYS: &[(Way, &str)] =
    &[(Way::Direct, "direct"), (Way::RsS, "rs-s"), (Way::RsSKernel, "rs-s-tcx"), (Way::RsN, "rs-n")];
/// The suite that is tried with a spin as well, and whose packets a relay passes on one by one: the thesis's.
pub const THESIS: &str = "aes-128-cbc";
/// How long a thread spins then: longer than a round trip without it, so that none blocks while an answer is under way.
const SPIN: &str = "300us";

impl Configuration {
    /// All: the kernel, every suite by every way, the peers.
    pub fn all() -> Vec<Self> {
        let new = |name: String, kind| Self { name, kind };
        let mut all = vec![new("kernel".to_owned(), Kind::Kernel)];
        for (suite, _) in SUITES {
            for (way, word) in WAYS {
                all.push(new(format!("{suite}-{word}"), Kind::Ours { suite, way: *way, spin: false }));
                if *suite == THESIS && *way == Way::Direct {
                    all.push(new(
                        format!("{suite}-{word}-spin"),
                        Kind::Ours { suite, way: *way, spin: true },
                    ));
                }
            }
        }
        all.extend(Program::WORDS.iter().map(|(word, peer)| new((*word).to_owned(), Kind::Peer(*peer))));
        all.push(new("coturn".to_owned(), Kind::Turn));
        all
    }

    /// The name that the client is given.
    fn target(&self) -> String {
        match self.kind {
            Kind::Kernel | Kind::Turn | Kind::Ours { way: Way::RsN, .. } => "www.example.test".to_owned(),
            Kind::Ours { .. } => "cn.dc.ntm.test".to_owned(),
            Kind::Peer(program) => format!("gn.{}.tunnel", tunnel(program)),
        }
    }

    /// The expectation that packets take this way, where they could take another.
    fn route(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Ours { way: Way::Direct, .. } => Some("path.mn.cn.route == 'direct'"),
            Kind::Ours { way: Way::RsS | Way::RsSKernel, .. } => Some("path.mn.cn.route == 'RS-S'"),
            Kind::Ours { way: Way::RsN, .. } => Some("path.mn.gn.route == 'RS-N'"),
            Kind::Kernel | Kind::Peer(_) | Kind::Turn => None,
        }
    }

    /// Who its relay must have switch tunnels.
    pub fn switcher(&self) -> Option<&'static str> {
        match self.kind {
            Kind::Ours { way: Way::RsS, .. } => Some("userspace"),
            Kind::Ours { way: Way::RsSKernel, .. } => Some("tcx"),
            _ => None,
        }
    }

    /// Whether it is measured in such a world.
    pub fn is_of(&self, wires: Wires) -> bool {
        match (self.kind, wires) {
            (Kind::Ours { suite, .. }, Wires::Relayed) => suite == THESIS && self.switcher().is_some(),
            (Kind::Turn, wires) => wires == Wires::Relayed,
            (_, wires) => wires != Wires::Relayed,
        }
    }
}

/// The worlds that a configuration is measured in, each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wires {
    /// Trains pass.
    Whole,
    /// Each packet by itself, as on wires without offload.
    Bare,
    /// As these; and nothing but small packets through a relay, which is what its time is taken for.
    Relayed,
}

impl Wires {
    /// All, with the ends of the worlds' names.
    pub const ALL: [(Self, &str); 3] =
        [(Self::Whole, ""), (Self::Bare, ".bare"), (Self::Relayed, ".relayed")];
}

/// Tunnels are named as programs, without what names may not have.
fn tunnel(program: Program) -> &'static str {
    match program {
        Program::WireguardGo => "wireguard",
        other => other.word(),
    }
}

/// What is measured in a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measure {
    /// Names it, and the flow.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// Further keys of the iperf3 flow; none of it: the pingpong.
    iperf3: Option<&'static str>,
    /// Where it is measured.
    pub wires: Wires,
    /// Whether a quick benchmark has it, too.
    quick: bool,
    /// What of it is kept: quantities of the flow.
    pub quantities: &'static [&'static str],
}

const STREAM: &[&str] = &["mbits", "cpu_s_per_gb"];
const DATAGRAMS: &[&str] = &["mbits", "sent", "lost", "cpu_s_per_gb"];

/// Everything that is measured.
pub const MEASURES: &[Measure] = &[
    Measure {
        name: "ping_pong",
        about: "64 bytes by TCP and back",
        iperf3: None,
        wires: Wires::Whole,
        quick: true,
        quantities: &["rtt_p50_ms", "rtt_p99_ms"],
    },
    Measure {
        name: "tcp",
        about: "one TCP stream",
        iperf3: Some("omit = \"1s\""),
        wires: Wires::Whole,
        quick: true,
        quantities: STREAM,
    },
    Measure {
        name: "tcp_4",
        about: "four TCP streams",
        iperf3: Some("streams = 4"),
        wires: Wires::Whole,
        quick: false,
        quantities: STREAM,
    },
    Measure {
        name: "tcp_reverse",
        about: "one TCP stream towards the end that began",
        iperf3: Some("reverse = true"),
        wires: Wires::Whole,
        quick: false,
        quantities: STREAM,
    },
    Measure {
        name: "udp_64",
        about: "datagrams of 64 bytes, as fast as they are sent",
        iperf3: Some("udp = true, rate = \"100gbit\", length = \"64B\""),
        wires: Wires::Whole,
        quick: false,
        quantities: DATAGRAMS,
    },
    Measure {
        name: "udp_1372",
        about: "datagrams of 1372 bytes, as fast as they are sent",
        iperf3: Some("udp = true, rate = \"100gbit\", length = \"1372B\""),
        wires: Wires::Whole,
        quick: false,
        quantities: DATAGRAMS,
    },
    Measure {
        name: "tcp_bare",
        about: "one TCP stream on wires without offload",
        iperf3: Some("omit = \"1s\""),
        wires: Wires::Bare,
        quick: false,
        quantities: STREAM,
    },
    Measure {
        name: "relayed",
        about: "datagrams of 200 bytes, one by one through a relay: its time for each",
        iperf3: Some("udp = true, rate = \"64mbit\", length = \"200B\""),
        wires: Wires::Relayed,
        quick: false,
        quantities: &[super::relayed::COST],
    },
];

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The length of each transfer, in seconds.
    pub seconds: u64,
    /// Only what is quick.
    pub quick: bool,
}

/// What is measured to that `extent` in a world with such wires.
pub fn measures(extent: Extent, wires: Wires) -> impl Iterator<Item = &'static Measure> {
    MEASURES.iter().filter(move |one| one.wires == wires && (one.quick || !extent.quick))
}

/// The way is found, and optimised where it can be, before anything is measured; in milliseconds.
const FOUND: u64 = 1000;
/// From the end of one flow to the beginning of the next, for names, connections and results; in milliseconds.
const BETWEEN: u64 = 700;
/// So long the messages take at most, by any of these ways; in milliseconds.
const MESSAGES: u64 = 1500;

/// The scenario of one round of `configuration`.
pub fn scenario(configuration: &Configuration, extent: Extent, wires: Wires, seed: u64) -> String {
    if configuration.kind == Kind::Turn {
        return super::relayed::scenario(seed);
    }
    let bare = wires != Wires::Whole;
    let (link, symmetric) = (if bare { ", link = \"bare\"" } else { "" }, configuration.switcher().is_some());
    // No direct way passes two symmetric NATs.
    let nat = if symmetric { "symmetric" } else { "port-restricted" };
    let on = if bare { "link = \"bare\"\n" } else { "" };
    let mut text = format!(
        "schema   = 1\nname     = \"bench\"\nabout    = \"{}\"\nseed     = {seed}\ncaptures = false\n\n\
         [router.apnat_a]\nnat = \"{nat}\"\n{on}\n[router.apnat_b]\nnat     = \"{nat}\"\nforward = \"gn\"\n{on}\n[node]\n\
         pc = {{ role = \"general\", at = \"apnat_a\"{link} }}\n\
         gn = {{ role = \"general\", at = \"apnat_b\", name = \"www.example.test\"{link} }}\n",
        configuration.name,
    );
    let mut from = "pc";
    match configuration.kind {
        Kind::Kernel | Kind::Turn => {}
        Kind::Ours { suite, spin, .. } => {
            from = "mn";
            let switcher =
                configuration.switcher().map(|who| format!(", rs_s = \"{who}\"")).unwrap_or_default();
            let spin = if spin { format!(", spin = \"{SPIN}\"") } else { String::new() };
            let _ = write!(
                text,
                "root = {{ role = \"dns\", at = \"internet\", zone = \".\" }}\n\
                 dc = {{ role = \"coordinator\", at = \"internet\", zone = \"dc.ntm.test\", vips = \"198.18.0.0/16\", suite = \"{suite}\" }}\n\
                 rs = {{ role = \"relay\", at = \"internet\"{switcher}{link} }}\n\
                 mn = {{ role = \"terminal\", at = \"apnat_a\"{spin}{link} }}\n\
                 cn = {{ role = \"terminal\", at = \"apnat_b\"{spin}{link} }}\n"
            );
        }
        Kind::Peer(program) => {
            let (name, word) = (tunnel(program), program.word());
            let _ =
                write!(text, "\n[tunnel.{name}]\nprogram = \"{word}\"\nfrom    = \"pc\"\nto      = \"gn\"\n");
        }
    }
    if bare {
        text += "\n[link.bare]\noffload = false\n";
    }
    let ends = format!("from = \"{from}\", to = \"{}\"", configuration.target());
    let _ =
        write!(text, "\n[[flow]]\nid   = \"way\"\nping = {{ {ends}, count = 20, interval = \"20ms\" }}\n");
    let mut at = FOUND;
    for measure in measures(extent, wires) {
        let _ = write!(text, "\n[[flow]]\nid    = \"{}\"\nstart = \"{at}ms\"\n", measure.name);
        match measure.iperf3 {
            None => {
                let count = if extent.quick { 300 } else { 3000 };
                let _ = writeln!(text, "pingpong = {{ {ends}, count = {count} }}");
                at += if extent.quick { BETWEEN } else { MESSAGES };
            }
            Some(keys) => {
                // Its time comes in hundredths of a second.
                let seconds = extent.seconds * if wires == Wires::Relayed { 2 } else { 1 };
                let _ = writeln!(text, "iperf3 = {{ {ends}, duration = \"{seconds}s\", {keys} }}");
                at += seconds * 1000 + BETWEEN + if keys.contains("omit") { 1000 } else { 0 };
            }
        }
    }
    if let Some(route) = configuration.route() {
        let _ = write!(text, "\n[[expect]]\ncheck = \"{route}\"\nfail  = \"packets took another way\"\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{check, source::Source};

    const WHOLE: Extent = Extent { seconds: 2, quick: false };

    #[test]
    fn every_configuration_is_a_scenario_that_measures_what_is_kept() {
        for configuration in Configuration::all() {
            for (wires, _) in Wires::ALL.into_iter().filter(|(wires, _)| configuration.is_of(*wires)) {
                let text = scenario(&configuration, WHOLE, wires, 7);
                let source = Source { name: configuration.name.clone(), text };
                let checked = check(&source).unwrap_or_else(|message| panic!("{message}"));
                let catalogue = crate::judge::catalogue::of(&checked);
                for measure in measures(WHOLE, wires).filter(|_| wires != Wires::Relayed) {
                    for quantity in measure.quantities {
                        let name = format!("flow.{}.{quantity}", measure.name);
                        assert!(catalogue.contains_key(&name), "{}: {name}", configuration.name);
                    }
                }
                if wires == Wires::Relayed {
                    let mut needed = super::super::relayed::needed(&configuration);
                    let lacking = needed.find(|name| !catalogue.contains_key(*name));
                    assert_eq!(lacking, None, "{}", configuration.name);
                }
            }
        }
    }

    #[test]
    fn every_suite_goes_every_way_and_names_are_unique() {
        let names: Vec<String> = Configuration::all().into_iter().map(|one| one.name).collect();
        for (suite, _) in SUITES {
            for way in ["direct", "rs-s", "rs-s-tcx", "rs-n"] {
                assert!(names.contains(&format!("{suite}-{way}")), "{suite} {way}");
            }
        }
        assert!(names.iter().all(|name| names.iter().filter(|other| *other == name).count() == 1));
    }

    #[test]
    fn flows_come_one_after_the_other() {
        let configuration = &Configuration::all()[0];
        let source = Source { name: String::new(), text: scenario(configuration, WHOLE, Wires::Whole, 7) };
        let checked = check(&source).unwrap_or_else(|message| panic!("{message}"));
        let starts: Vec<u64> = checked.flows.iter().map(|flow| flow.start.as_millis() as u64).collect();
        assert_eq!(starts, [0, 1000, 2500, 6200, 8900, 11600, 14300]);
    }
}
