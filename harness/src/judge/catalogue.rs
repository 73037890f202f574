//! The quantities that a scenario's run will measure: what `check FILE` compares the names in expectations with, and what
//! the measurements are entered under.

use std::collections::{BTreeMap, BTreeSet};

use super::expr::Kind;
use super::routes;
use crate::scenario::model::{ActionKind, Flow, FlowKind, Role, Scenario};

/// Name → kind and meaning, of everything that the scenario's run measures.
pub type Catalogue = BTreeMap<String, (Kind, &'static str)>;

type Entry = (&'static str, Kind, &'static str);

const IPERF3: &[Entry] = &[
    ("completed", Kind::Truth, "iperf3 ran to its end on both sides without an error"),
    ("connections", Kind::Number, "TCP connections that carried data, as the server accepted them"),
    ("sources", Kind::Number, "different addresses and ports from which the server's node got data packets"),
    ("source_address", Kind::Text, "the address that the server's node saw"),
    ("local_address", Kind::Text, "the client's own address on its socket"),
    ("remote_address", Kind::Text, "the server's address on the client's socket"),
    ("virtual", Kind::Truth, "both addresses on the client's socket are virtual"),
    (
        "outer_peer",
        Kind::Text,
        "where the client's terminal exchanged its data packets with, as its real interfaces saw it",
    ),
    ("bytes", Kind::Number, "bytes that the receiver got"),
    ("bytes_before", Kind::Number, "of these, before the first handover began"),
    ("bytes_after", Kind::Number, "of these, after the first handover's new address was up"),
    ("bytes_at_end", Kind::Number, "of these, in the last second"),
    ("mbits", Kind::Number, "the receiver's mean rate in Mbit/s"),
    ("longest_stall_ms", Kind::Number, "the longest time in which the receiver got nothing"),
    ("time_ms", Kind::Number, "from the start of its client to that one's end, however it ended"),
    ("retransmits", Kind::Number, "TCP segments that the sender sent again"),
    (
        "cpu_s_per_gb",
        Kind::Number,
        "seconds of a processor that all daemons and both ends of iperf3 used for 10^9 bytes that the receiver got, from the beginning to the end",
    ),
];

const IPERF3_UDP: &[Entry] = &[
    ("completed", Kind::Truth, "iperf3 ran to its end on both sides without an error"),
    (
        "outer_peer",
        Kind::Text,
        "where the client's terminal exchanged its data packets with, as its real interfaces saw it",
    ),
    ("bytes", Kind::Number, "bytes that the receiver got"),
    ("bytes_at_end", Kind::Number, "of these, in the last second"),
    ("mbits", Kind::Number, "the receiver's mean rate in Mbit/s"),
    ("sent", Kind::Number, "datagrams, as the receiver tells from their numbers"),
    ("received", Kind::Number, "of these, those that came"),
    ("lost", Kind::Number, "of these, those that did not"),
    ("jitter_ms", Kind::Number, "the receiver's jitter, as of RFC 1889"),
    (
        "cpu_s_per_gb",
        Kind::Number,
        "seconds of a processor that all daemons and both ends of iperf3 used for 10^9 bytes that the receiver got, from the beginning to the end",
    ),
];

const DNS: &[Entry] = &[
    ("sent", Kind::Number, "questions"),
    ("answered", Kind::Number, "of these, those that were answered, whatever the answer"),
    ("resolved", Kind::Number, "of these, those whose answer has a record of the kind asked for"),
    (
        "rcode",
        Kind::Text,
        "the last answer's code, as in RFC 1035 and its successors: `NOERROR`, `NXDOMAIN`, `SERVFAIL`",
    ),
    ("addresses", Kind::Text, "all addresses that were answered, each once, in order, parted by spaces"),
    ("remote_address", Kind::Text, "the first of them"),
    ("virtual", Kind::Truth, "all of them are virtual"),
    ("time_first_ms", Kind::Number, "from the first question to its answer"),
    ("time_p50_ms", Kind::Number, "the median over all questions that were answered"),
    ("time_max_ms", Kind::Number, "the longest of them"),
];

const PING: &[Entry] = &[
    ("sent", Kind::Number, "echo requests"),
    ("received", Kind::Number, "answers"),
    ("lost", Kind::Number, "requests without an answer"),
    (
        "unreachable",
        Kind::Number,
        "ICMP errors in place of an answer: no way leads to the address, or none may",
    ),
    ("rtt_min_ms", Kind::Number, "shortest round trip"),
    ("rtt_avg_ms", Kind::Number, "mean round trip"),
    ("rtt_max_ms", Kind::Number, "longest round trip"),
    ("remote_address", Kind::Text, "the address that the name was resolved to"),
    ("virtual", Kind::Truth, "that address is virtual"),
];

const HTTP: &[Entry] = &[
    ("status", Kind::Number, "the HTTP status; 0 without an answer"),
    ("bytes", Kind::Number, "bytes of the page"),
    ("intact", Kind::Truth, "the page arrived byte for byte"),
    ("time_ms", Kind::Number, "from the start of curl's work to its end, name resolution included"),
    ("resolve_ms", Kind::Number, "until the name was resolved"),
    ("remote_address", Kind::Text, "the server's address on curl's socket"),
    ("virtual", Kind::Truth, "both addresses on curl's socket are virtual"),
];

const FTP: &[Entry] = &[
    ("completed", Kind::Truth, "curl got the file and the server's word that it was all"),
    ("status", Kind::Number, "the server's last reply: 226 when all is well"),
    ("mode", Kind::Text, "`active` or `passive`"),
    ("bytes", Kind::Number, "bytes of the file"),
    ("intact", Kind::Truth, "the file arrived byte for byte"),
    ("time_ms", Kind::Number, "from the start of curl's work to its end, name resolution included"),
    ("resolve_ms", Kind::Number, "until the name was resolved"),
    ("remote_address", Kind::Text, "the server's address on curl's socket"),
    ("virtual", Kind::Truth, "both addresses on curl's socket are virtual"),
];

const SIP: &[Entry] = &[
    ("completed", Kind::Truth, "sipp made its calls, and none failed"),
    ("calls_ok", Kind::Number, "calls that went from their beginning to their end"),
    ("calls_failed", Kind::Number, "calls that did not"),
    ("rtp_sent", Kind::Number, "media packets from the calling end"),
    ("rtp_received", Kind::Number, "media packets that it heard"),
    ("rtp_received_after", Kind::Number, "of these, after the first handover's new address was up"),
    ("server_rtp_sent", Kind::Number, "media packets from the called end"),
    ("server_rtp_received", Kind::Number, "media packets that it heard"),
    ("source_address", Kind::Text, "where the called end saw SIP messages come from"),
    ("rtp_source_address", Kind::Text, "where it saw media come from"),
];

const UDP: &[Entry] = &[
    ("sent", Kind::Number, "datagrams that the client's kernel took"),
    ("arrived", Kind::Number, "of these, those that the server got whole"),
    ("answered", Kind::Number, "answers that the server's kernel took"),
    ("received", Kind::Number, "of these, those that the client got whole"),
    ("too_big", Kind::Number, "datagrams that the client's kernel refused as too long"),
    ("answers_too_big", Kind::Number, "answers that the server's kernel refused as too long"),
    ("icmp_too_big", Kind::Number, "ICMP errors that told either end that a packet was too long for a way"),
    ("icmp_unreachable", Kind::Number, "other ICMP errors that either end was told"),
    ("lost", Kind::Number, "datagrams and answers that neither arrived nor were answered by ICMP"),
    ("remote_address", Kind::Text, "the address that the name was resolved to"),
    ("virtual", Kind::Truth, "that address is virtual"),
];

const PING_PONG: &[Entry] = &[
    ("exchanged", Kind::Number, "messages whose answer came, whole"),
    ("rtt_min_ms", Kind::Number, "shortest round trip, from sending a message to having its whole answer"),
    ("rtt_p50_ms", Kind::Number, "the median round trip"),
    ("rtt_p99_ms", Kind::Number, "the round trip that one in a hundred exceeded"),
    ("rtt_max_ms", Kind::Number, "longest round trip"),
    ("remote_address", Kind::Text, "the address that the name was resolved to"),
    ("virtual", Kind::Truth, "that address is virtual"),
];

const PROBE: &[Entry] = &[
    ("out_sent", Kind::Number, "probes from `from` to `to`"),
    ("out_arrived", Kind::Number, "of these, those that came, each once"),
    ("out_lost", Kind::Number, "of these, those that did not"),
    ("out_reordered", Kind::Number, "of these, those that came behind a later one"),
    ("out_duplicated", Kind::Number, "probes that came once more"),
    ("out_delay_p50_ms", Kind::Number, "the median of their times under way"),
    ("out_delay_p95_ms", Kind::Number, "the time under way that a twentieth exceeded"),
    ("out_longest_stall_ms", Kind::Number, "the longest time in which none came"),
    ("in_sent", Kind::Number, "probes from `to` to `from`, which begin when the first of the others comes"),
    ("in_arrived", Kind::Number, "of these, those that came, each once"),
    ("in_lost", Kind::Number, "of these, those that did not"),
    ("in_reordered", Kind::Number, "of these, those that came behind a later one"),
    ("in_duplicated", Kind::Number, "probes that came once more"),
    ("in_delay_p50_ms", Kind::Number, "the median of their times under way"),
    ("in_delay_p95_ms", Kind::Number, "the time under way that a twentieth exceeded"),
    ("in_longest_stall_ms", Kind::Number, "the longest time in which none came"),
    ("remote_address", Kind::Text, "the address that the name was resolved to"),
    ("virtual", Kind::Truth, "that address is virtual"),
];

const EXEC: &[Entry] = &[
    ("exit", Kind::Number, "the command's exit code"),
    ("stdout", Kind::Text, "what it printed, without white space at the end"),
    ("time_ms", Kind::Number, "how long it ran"),
];

/// Of every flow.
pub const END: Entry = ("end", Kind::Text, "how it ended: `complete`, `failed`, or `cut` by its `duration`");

/// Of every flow that asks for a name.
const BY_NAME: &[Entry] = &[
    (
        "first_packet_ms",
        Kind::Number,
        "from the application's query to its first packet leaving the terminal, encapsulated",
    ),
    (
        "network_ms",
        Kind::Number,
        "of this, on the network and at DNS servers, along the messages that the answer waited for",
    ),
    ("own_work_ms", Kind::Number, "of this, in terminal, coordinators and relay"),
];

const HANDOVER: &[Entry] = &[
    (
        "interruption_ms",
        Kind::Number,
        "from the last data packet on the old network to the first on the new one, without the gap",
    ),
    ("control_ms", Kind::Number, "from the new address to the first data packet on the new network"),
    ("gap_ms", Kind::Number, "from leaving the old network to the new address, as it was"),
];

/// Of a handover of a node that a `probe` flow begins or ends at.
const PROBED: &[Entry] = &[
    (
        "out_interruption_ms",
        Kind::Number,
        "the longest time in which its peer got no probe of the node that moved, without the gap",
    ),
    ("out_lost", Kind::Number, "probes from the node that moved that were lost by it"),
    ("out_reordered", Kind::Number, "of those that came, those that came behind a later one"),
    ("out_duplicated", Kind::Number, "probes that came once more"),
    (
        "in_interruption_ms",
        Kind::Number,
        "the longest time in which the node that moved got no probe of its peer, without the gap",
    ),
    ("in_lost", Kind::Number, "probes to the node that moved that were lost by it"),
    ("in_reordered", Kind::Number, "of those that came, those that came behind a later one"),
    ("in_duplicated", Kind::Number, "probes that came once more"),
];

/// The flow whose probes tell of handovers of `node`, the first in the file, and whether `node` is its client.
pub fn probes_of<'a>(scenario: &'a Scenario, node: &str) -> Option<(&'a Flow, bool)> {
    scenario.flows.iter().find_map(|flow| {
        let FlowKind::Probe { ends, .. } = &flow.kind else { return None };
        let is_client = ends.from.get_ref() == node;
        let is_server = || scenario.node_named(ends.to.get_ref()).is_some_and(|(key, _)| key == node);
        (is_client || is_server()).then_some((flow, is_client))
    })
}

/// The entries of a router that translates, without its name.
pub const NAT: &[Entry] = &[
    ("mapping", Kind::Text, "its mapping, as the probe before the run found it: a word of RFC 4787 as above"),
    ("filtering", Kind::Text, "its filtering, the same"),
    ("hairpin", Kind::Truth, "inner hosts reach each other by their outer addresses"),
    ("allocation", Kind::Text, "how it chooses ports: `preserve` or `random`"),
    ("ports", Kind::Text, "from the least to the greatest port that the probe was given"),
    ("udp_timeout_s", Kind::Number, "how long it keeps a UDP mapping"),
];

/// Of each direction of a link that does more than limit a rate, without its name and direction.
pub const LINK: &[Entry] = &[
    (
        "delay_p05_ms",
        Kind::Number,
        "the time from being sent whole to being delivered that a twentieth of the packets stayed under",
    ),
    ("delay_p50_ms", Kind::Number, "the median of this time: what the link's `delay` asks for"),
    ("delay_p95_ms", Kind::Number, "the time that a twentieth exceeded"),
    (
        "total_p50_ms",
        Kind::Number,
        "the median of the time from entering to being delivered, with the waiting for the rate",
    ),
    ("total_p95_ms", Kind::Number, "the time that a twentieth exceeded"),
    (
        "late_p50_ms",
        Kind::Number,
        "the median of the time from when a packet was due to when it was delivered",
    ),
    ("late_p95_ms", Kind::Number, "the time that a twentieth exceeded"),
    (
        "mbits",
        Kind::Number,
        "the mean rate in Mbit/s from the first packet to the last, with Ethernet headers",
    ),
    ("peak_mbits", Kind::Number, "the rate of the busiest quarter of a second"),
    ("packets", Kind::Number, "packets delivered"),
    ("lost", Kind::Number, "packets lost, as the scenario asks"),
    ("queue_dropped", Kind::Number, "packets for which there was no room before the rate"),
    (
        "missed",
        Kind::Number,
        "packets that the machine could not pass on: it was too slow, or they are of a kind that cannot pass",
    ),
    ("duplicated", Kind::Number, "packets delivered twice, as the scenario asks"),
];

/// The links that are measured: in use somewhere, and doing at some time more to packets than to limit their rate.
pub fn links(scenario: &Scenario) -> Vec<&str> {
    let of_nodes = scenario.nodes.values().flat_map(|node| &node.interfaces).map(|interface| &interface.link);
    let of_routers = scenario.routers.values().map(|router| &router.link);
    let used: BTreeSet<&str> =
        of_nodes.chain(of_routers).flatten().map(|name| name.get_ref().as_str()).collect();
    let later = |name: &str| {
        scenario.actions.iter().any(|action| {
            matches!(&action.kind, ActionKind::Link { name: its, shape } if its.get_ref() == name && shape.impairs())
        })
    };
    let links = scenario
        .links
        .iter()
        .filter(|(name, link)| used.contains(name.as_str()) && (link.impairs() || later(name)));
    links.map(|(name, _)| name.as_str()).collect()
}

const PATH: &[(&str, &str)] = &[
    ("route", "the way that the terminal's packets took at the end: `direct`, `RS-S`, `RS-N` or `none`"),
    ("oracle", "the way that they should take, as the NATs on both sides decide it"),
];

/// Of every relay, without its name.
pub const RELAY: &[Entry] = &[
    ("packets", Kind::Number, "packets that it passed on, in both modes and directions"),
    ("bytes", Kind::Number, "bytes of them: in RS-S with NTMobile's header, in RS-N without"),
    (
        "packets_s",
        Kind::Number,
        "packets that it passed on in a second, from the first flow's beginning to the last one's end",
    ),
    ("cpu_s_per_gb", Kind::Number, "seconds of a processor that it used for 10^9 bytes"),
    ("cpu_us_per_packet", Kind::Number, "millionths of a second of a processor that it used for a packet"),
    (
        "switcher",
        Kind::Text,
        "who switched tunnels at the end (RS-S): `tcx`, the kernel's program, or `userspace`",
    ),
    (
        "program_us_per_packet",
        Kind::Number,
        "millionths of a second that the kernel's program ran for a packet that it switched, where `kernel.bpf_stats_enabled` is on",
    ),
];

/// Of every relay, as its coordinators direct it.
pub const DIRECTED: &[Entry] = &[
    ("paths", Kind::Number, "different paths that coordinators directed it to carry"),
    ("share", Kind::Number, "its share of these among all relays, 0 to 1"),
];

/// Of every coordinator, without its name.
pub const TALK: &[Entry] = &[
    (
        "messages_s",
        Kind::Number,
        "control messages that it sent and took in a second, from the beginning to the end",
    ),
    ("messages_peak_s", Kind::Number, "the same in the busiest second"),
];

/// Of every group of terminals, without its name.
pub const GROUP: &[Entry] = &[
    ("members", Kind::Number, "how many terminals there are"),
    ("registered", Kind::Number, "of these, those that are registered at the end"),
    (
        "registered_ms",
        Kind::Number,
        "from the last thing that happened by the timeline, or the beginning, to when the last of them had registered after it",
    ),
];

/// Of the flows that the terminals of a group have, without their common name.
pub const FLOWS: &[Entry] = &[
    ("members", Kind::Number, "how many flows there are"),
    ("complete", Kind::Number, "of these, those that ended `complete`"),
    ("lost", Kind::Number, "what they lost together, where each flow has `lost`"),
];

/// Of every node with a daemon, without its name.
pub const USAGE: &[Entry] = &[
    ("cpu_s", Kind::Number, "seconds of a processor that its daemon used while flows and actions ran"),
    ("memory_mb", Kind::Number, "10^6 bytes of memory that its daemon held at the end"),
];

/// The ends of names of all that is taken from packets.
const FROM_PACKETS: &[&str] = &[
    "sources",
    "source_address",
    "outer_peer",
    "bytes_before",
    "bytes_after",
    "longest_stall_ms",
    "rtp_sent",
    "rtp_received",
    "rtp_received_after",
    "server_rtp_sent",
    "server_rtp_received",
    "rtp_source_address",
    "first_packet_ms",
    "network_ms",
    "own_work_ms",
    "interruption_ms",
    "control_ms",
    "gap_ms",
    "first_byte_ms",
    "fragments",
];

/// Whether the quantity `name` is taken from recorded packets.
pub fn from_packets(name: &str) -> bool {
    FROM_PACKETS.contains(&name.rsplit('.').next().unwrap_or_default())
}

/// The ends of names of all numbers that a busy machine changes: rates, times, losses.
const SENSITIVE: &[&str] = &[
    "mbits",
    "peak_mbits",
    "queue_dropped",
    "missed",
    "out_sent",
    "out_arrived",
    "out_lost",
    "out_reordered",
    "in_sent",
    "in_arrived",
    "in_lost",
    "in_reordered",
    "bytes_before",
    "bytes_after",
    "bytes_at_end",
    "retransmits",
    "sent",
    "received",
    "arrived",
    "answered",
    "lost",
    "rtp_sent",
    "rtp_received",
    "rtp_received_after",
    "server_rtp_sent",
    "server_rtp_received",
    "packets_s",
    "cpu_s",
    "cpu_s_per_gb",
    "cpu_us_per_packet",
    "program_us_per_packet",
];

/// Whether the quantity `name` of a run of `scenario` is a rate, a time or a loss, which a machine that is busy with something else changes;
/// unlike addresses, ways, numbers of connections.
pub fn is_sensitive(scenario: &Scenario, name: &str) -> bool {
    let Some((head, last)) = name.rsplit_once('.') else { return false };
    // What an iperf3 flow carries is a rate; a page has the bytes that it has.
    let carried = || {
        let its = |flow: &&Flow| head.strip_prefix("flow.") == Some(flow.id.get_ref().as_str());
        let flow = scenario.flows.iter().find(its);
        flow.is_some_and(|flow| matches!(flow.kind, FlowKind::Iperf3 { .. }))
    };
    last.ends_with("_ms") || SENSITIVE.contains(&last) || (last == "bytes" && carried())
}

const RUN: &[Entry] = &[
    (
        "run.built_ms",
        Kind::Number,
        "from the start of the harness to the moment all namespaces, links and routes were there",
    ),
    ("run.ready_ms", Kind::Number, "from the start of the harness to the moment all daemons were ready"),
    (
        "run.first_byte_ms",
        Kind::Number,
        "from the start of the harness to the first byte that an application got",
    ),
];

/// The entries of one kind of flow, without the flow's name.
pub fn of_flow(kind: &FlowKind) -> &'static [Entry] {
    match kind {
        FlowKind::Iperf3 { udp: true, .. } => IPERF3_UDP,
        FlowKind::Iperf3 { .. } => IPERF3,
        FlowKind::Ping { .. } => PING,
        FlowKind::Dns { .. } => DNS,
        FlowKind::Http { .. } => HTTP,
        FlowKind::Ftp { .. } => FTP,
        FlowKind::Sip { .. } => SIP,
        FlowKind::Udp { .. } => UDP,
        FlowKind::PingPong { .. } => PING_PONG,
        FlowKind::Probe { .. } => PROBE,
        FlowKind::Exec { .. } => EXEC,
    }
}

/// Everything that a run of `scenario` measures.
pub fn of(scenario: &Scenario) -> Catalogue {
    let mut out = Catalogue::new();
    for flow in &scenario.flows {
        for (name, kind, about) in of_flow(&flow.kind).iter().chain([&END]) {
            out.insert(format!("flow.{}.{name}", flow.id.get_ref()), (*kind, *about));
        }
        for (name, kind, about) in BY_NAME.iter().filter(|_| flow.kind.ends().is_some()) {
            out.insert(format!("flow.{}.{name}", flow.id.get_ref()), (*kind, *about));
        }
    }
    let movers = scenario.actions.iter().filter_map(|action| match &action.kind {
        ActionKind::Handover { node, .. } => Some(node.get_ref()),
        _ => None,
    });
    for (number, node) in (1..).zip(movers) {
        // Many have no one interruption.
        if scenario.groups.contains_key(node) {
            continue;
        }
        let probed = probes_of(scenario, node).map_or(&[][..], |_| PROBED);
        for (name, kind, about) in HANDOVER.iter().chain(probed) {
            if number == 1 {
                out.insert(format!("handover.{name}"), (*kind, *about));
            }
            out.insert(format!("handover.{number}.{name}"), (*kind, *about));
        }
    }
    let mut enter = |head: String, entries: &[Entry]| {
        out.extend(entries.iter().map(|(name, kind, about)| (format!("{head}.{name}"), (*kind, *about))));
    };
    for name in scenario.groups.keys() {
        enter(format!("group.{name}"), GROUP);
    }
    for id in scenario.flows.iter().filter_map(|flow| flow.of.as_ref()) {
        enter(format!("flow.{id}"), FLOWS);
    }
    for (name, node) in &scenario.nodes {
        match node.role {
            Role::Relay { .. } => enter(format!("relay.{name}"), DIRECTED),
            Role::Coordinator(_) => enter(format!("node.{name}"), TALK),
            _ => {}
        }
    }
    for (name, kind, about) in RUN {
        out.insert((*name).to_owned(), (*kind, *about));
    }
    for (from, to) in routes::pairs(scenario) {
        for (name, about) in PATH {
            out.insert(format!("path.{from}.{to}.{name}"), (Kind::Text, *about));
        }
    }
    for (name, node) in &scenario.nodes {
        if let Role::Relay { .. } = node.role {
            out.extend(
                RELAY.iter().map(|(what, kind, about)| (format!("relay.{name}.{what}"), (*kind, *about))),
            );
        }
        if !matches!(node.role, Role::General { .. }) {
            out.extend(
                USAGE.iter().map(|(what, kind, about)| (format!("node.{name}.{what}"), (*kind, *about))),
            );
        }
        let about = "its address at the start";
        out.insert(format!("node.{name}.address"), (Kind::Text, about));
        let first = node.interfaces.iter().find(|interface| interface.up).or(node.interfaces.first());
        if first.is_some_and(|interface| scenario.families(interface).v6()) {
            out.insert(format!("node.{name}.address6"), (Kind::Text, "its address in IPv6 at the start"));
        }
        for interface in &node.interfaces {
            let there = format!("node.{name}.{}", interface.name.get_ref());
            out.insert(format!("{there}.address"), (Kind::Text, "its address there"));
            if scenario.families(interface).v6() {
                out.insert(format!("{there}.address6"), (Kind::Text, "its address there in IPv6"));
            }
            let about = "packets cut up on the way in or out there: their later parts";
            out.insert(format!("{there}.fragments"), (Kind::Number, about));
        }
    }
    for name in links(scenario) {
        for way in ["up", "down"] {
            out.extend(
                LINK.iter().map(|(what, kind, about)| (format!("link.{name}.{way}.{what}"), (*kind, *about))),
            );
        }
    }
    for (name, router) in &scenario.routers {
        out.insert(format!("router.{name}.address"), (Kind::Text, "its outer address"));
        for (what, kind, about) in NAT.iter().filter(|_| router.nat.get_ref().axes().is_some()) {
            out.insert(format!("nat.{name}.{what}"), (*kind, *about));
        }
    }
    out.retain(|name, _| scenario.captures || !from_packets(name));
    out
}
