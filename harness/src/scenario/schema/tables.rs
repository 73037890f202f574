//! The tables of a scenario file.

use ntm_nat::{Allocation, Behaviour, Dependence};

use super::Kind::{
    Address, DnsName, Expression, Flag, Integer, List, Moment, Name, Names, Network, Nodes, Paths, Place,
    Quantities, Rate, Rows, Share, Site6, Size, SizeWithin, Table, Tables, Text, TextOrTexts, Texts, Time,
    TimeFrom, Values, Words, WordsOrTable,
};
use super::{Key, Kind, NEEDED, Section};
use crate::flow::{datagrams, dns, ftp, iperf3, pingpong, probes};
use crate::foreign::program::Program;
use crate::scenario::matrix::MOST_ROUNDS;
use crate::scenario::model::{End, HANDOVERS, Ip, SELECTIONS, SUITES, SWITCHERS};
use crate::scenario::parse::{MOST_ALIKE, ROLES, STATES};
use crate::scenario::parse_events::{MOST_CALLS, MOST_REPEATED};

/// The words of a table of choices.
fn words<T>(choices: &[(&'static str, T)]) -> Vec<&'static str> {
    choices.iter().map(|(word, _)| *word).collect()
}

const fn key(names: &'static [&'static str], kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { names, of: &[], kind, default, about }
}

/// A key of nodes with one role.
const fn of(
    role: &'static [&'static str],
    name: &'static [&'static str],
    kind: Kind,
    default: &'static str,
    about: &'static str,
) -> Key {
    Key { names: name, of: role, kind, default, about }
}

const fn section(id: &'static str, keys: &'static [Key]) -> Section {
    Section { id, calls: "key", keys, one_of: &[], extends: None }
}

const fn extending(id: &'static str, base: &'static Section, keys: &'static [Key]) -> Section {
    Section { id, calls: "key", keys, one_of: &[], extends: Some((base, "see above")) }
}

/// The file itself.
pub static FILE: Section = section(
    "file",
    &[
        key(&["schema"], Integer(1, 1), NEEDED, "the version of this format: `1`"),
        key(&["name"], Text, NEEDED, "names the run's folder: letters, digits, `-` and `_`, at most 64"),
        key(&["about"], Text, NEEDED, "one sentence; `./run list` shows it"),
        key(
            &["seed"],
            Integer(0, u64::MAX),
            "`0`",
            "seeds the bytes of HTTP pages, and the links that are delayed in user space; rounds add one each",
        ),
        key(
            &["timeout"],
            Time,
            "the end of the last flow or action, and 30 s more",
            "a run that takes longer ends with code 124; counted from the moment all daemons are ready",
        ),
        key(
            &["points"],
            Texts,
            "all",
            "the capture points that `run.pcapng` holds, `NODE.INTERFACE`: a node's real interface or `ntm0`, a router's `wan0`. What is measured does not depend on it",
        ),
        key(
            &["netem"],
            Flag,
            "`true`",
            "whether the kernel's netem makes delay, jitter and loss where it can; if `false`, the line in user space makes them on every kernel, and what it achieved is measured (`link.NAME.…`)",
        ),
        key(
            &["captures"],
            Flag,
            "`true`",
            "whether packets are recorded; without, what is taken from packets is not measured, and recording takes no processor from what is",
        ),
        key(&["internet"], Table(&INTERNET), "see below", "the outer network: `[internet]`"),
        key(&["disturbance"], Table(&DISTURBANCE), "see below", "`[disturbance]`"),
        key(&["link"], Tables(&LINK), "none", "`[link.NAME]`"),
        key(&["router"], Tables(&ROUTER), "none", "`[router.NAME]`"),
        key(&["tunnel"], Tables(&TUNNEL), "none", "`[tunnel.NAME]`"),
        key(&["node"], Nodes(&NODE, &INTERFACE), "none", "`[node.NAME]`"),
        key(&["flow"], List(&FLOW), "none", "`[[flow]]`"),
        key(&["at"], List(&AT), "none", "`[[at]]`"),
        key(&["expect"], List(&EXPECT), "none", "`[[expect]]`"),
        key(&["table"], List(&TABLE), "none", "`[[table]]`"),
        key(&["matrix"], Table(&MATRIX), "none", "`[matrix]`"),
    ],
);

/// `[internet]`
pub static INTERNET: Section = section(
    "internet",
    &[
        key(
            &["prefix"],
            Network,
            "`\"203.0.113.0/24\"`",
            "the outer network, where the hosts with `at = \"internet\"` and the outer sides of the routers are",
        ),
        key(
            &["prefix6"],
            Site6,
            "`\"2001:db8::/48\"`",
            "where the IPv6 networks come from, 64 bits each: first the outer one, then those behind routers in the order of their names",
        ),
    ],
);

/// `[disturbance]`
pub static DISTURBANCE: Section = section(
    "disturbance",
    &[
        key(&["window"], TimeFrom("100ms"), "`\"500ms\"`", "the length of time over which shares are taken"),
        key(&["steal"], Share, "`\"5%\"`", "of all processors' time, what the hypervisor gave to others"),
        key(
            &["busy"],
            Share,
            "`\"95%\"`",
            "of all processors' time, what was used; counts while flows run, in a scenario whose links have a rate, delay, jitter or loss: there a link is to be the bottleneck",
        ),
        key(
            &["memory"],
            Share,
            "`\"10%\"`",
            "of the time, that in which some program waited for memory, where the kernel tells (`/proc/pressure/memory`)",
        ),
        key(
            &["late"],
            Time,
            "`\"1ms\"`",
            "a link in user space may deliver a twentieth of its frames later than this, and no more",
        ),
        key(
            &["still"],
            Time,
            "`\"20ms\"`",
            "a processor may stand still for so long: halted by the hypervisor, or held up in the kernel, which need not show as `steal`; felt where threads may run as SCHED_FIFO",
        ),
    ],
);

/// `[link.NAME]`
pub static LINK: Section = section(
    "link",
    &[
        key(&["both"], Table(&SHAPE), "nothing", "what happens to packets in both directions"),
        key(&["up"], Table(&SHAPE), "nothing", "from the node towards the network; not together with `both`"),
        key(
            &["down"],
            Table(&SHAPE),
            "nothing",
            "from the network towards the node; not together with `both`",
        ),
        key(
            &["offload"],
            Flag,
            "`true`",
            "whether the kernel may hand the link trains of packets (TSO, GSO), to be cut up on the way; `false`: each packet passes by itself, as on a wire without offload",
        ),
    ],
);

/// What happens to packets in a direction of a link.
pub static SHAPE: Section = section(
    "direction",
    &[
        key(&["rate"], Rate, "unlimited", "the queue before it holds 50 ms"),
        key(&["delay"], Time, "`0`", "one way"),
        key(&["jitter"], Time, "`0`", "standard deviation of the delay"),
        key(&["loss"], Share, "`0`", "share of packets lost"),
        key(
            &["reorder"],
            Share,
            "`0`",
            "share of packets that arrive without the delay, and so overtake those under way; only with a `delay`",
        ),
        key(&["duplicate"], Share, "`0`", "share of packets that come twice"),
    ],
);

/// `[router.NAME]`
pub static ROUTER: Section = section(
    "router",
    &[
        key(
            &["nat"],
            WordsOrTable(|| words(Behaviour::PRESETS), &NAT),
            NEEDED,
            "how it translates, see below",
        ),
        key(&["address"], Address, "chosen", "its address on the internet"),
        key(
            &["subnet"],
            Network,
            "chosen",
            "the network behind it: `10.N.0.0/24` behind a NAT, a public `/27` behind `none`",
        ),
        key(&["link"], Name("link"), "none", "the link on its outer side"),
        key(
            &["mtu"],
            Integer(576, 1500),
            "unlimited",
            "the longest packet that it passes on, in bytes, in either direction: longer ones are cut up, or answered by ICMP where that is forbidden; not with IPv6",
        ),
        key(
            &["forward"],
            Names("node"),
            "none",
            "general nodes behind it that are reached from outside: their names lead to the router's address, and there the ports of their flows' servers, but for `ftp` and `sip`, lead to them",
        ),
        key(
            &["ip"],
            Words(|| words(Ip::WORDS)),
            "`v4`",
            "the families of the network behind it. IPv6 is always plain routing: `nat` is about IPv4, and where there is only IPv6 it is `none`",
        ),
    ],
);

/// A router's `nat` as a table.
pub static NAT: Section = section(
    "nat",
    &[
        key(
            &["preset"],
            Words(|| words(Behaviour::PRESETS)),
            "needed, or the next two",
            "what it starts from: not `none`",
        ),
        key(
            &["mapping"],
            Words(|| words(Dependence::ALL)),
            "the preset's",
            "which destinations share one outer port of an inner address and port: `endpoint-independent` all, `address-dependent` all ports of one address, `address-and-port-dependent` each its own",
        ),
        key(
            &["filtering"],
            Words(|| words(Dependence::ALL)),
            "the preset's",
            "who may send to an outer port, the same words: everyone, the addresses that were sent to, the addresses and ports that were sent to",
        ),
        key(&["hairpin"], Flag, "`true`", "whether inner hosts reach each other by their outer addresses"),
        key(
            &["allocation"],
            Words(|| words(Allocation::ALL)),
            "the preset's; `preserve`",
            "how an outer port is chosen: `preserve` the inner one where it is free, `random`, or `contiguous` the one after the last, which only the simulation can do",
        ),
        key(&["ports"], Text, "`\"1024-65535\"`", "the outer ports that it chooses from, first and last"),
        key(&["timeouts"], Table(&TIMEOUTS), "the RFCs'", "how long what is idle is kept"),
    ],
);

/// A NAT's `timeouts`.
pub static TIMEOUTS: Section = Section {
    id: "timeouts",
    calls: "key of `timeouts`",
    keys: &[
        key(&["udp"], Time, "`\"120s\"`", "a UDP mapping, and what its filter lets in"),
        key(&["icmp"], Time, "`\"60s\"`", "a ping"),
        key(&["tcp_established"], Time, "`\"124min\"`", "a TCP connection over which both sides have spoken"),
        key(&["tcp_transitory"], Time, "`\"4min\"`", "a TCP connection that is being opened or closed"),
    ],
    one_of: &[],
    extends: None,
};

/// `[node.NAME]`: what depends on the role.
pub static NODE: Section = section(
    "node",
    &[
        key(&["role"], Words(|| words(ROLES)), NEEDED, "one of the above"),
        of(
            &["dns"],
            &["zone"],
            DnsName,
            NEEDED,
            "the zone it is there for, `\".\"` for the root; zones that have no server of their own are served by the root server",
        ),
        of(
            &["coordinator"],
            &["zone"],
            DnsName,
            NEEDED,
            "the zone it serves; its terminals and relays are named in it",
        ),
        of(
            &["coordinator"],
            &["vips"],
            Network,
            NEEDED,
            "the virtual addresses it hands out: part of `198.18.0.0/15`, no two coordinators the same; prefix length 8 to 29",
        ),
        of(
            &["coordinator"],
            &["keepalive"],
            TimeFrom("100ms"),
            "`\"5s\"`",
            "how often terminals and relays send a Keep-alive",
        ),
        of(
            &["coordinator"],
            &["relay_selection"],
            Words(|| words(SELECTIONS)),
            "by round trips and load",
            "how it picks a relay",
        ),
        of(
            &["coordinator"],
            &["suite"],
            Words(|| words(SUITES)),
            "`\"aes-128-cbc\"`",
            "the cipher suite of data packets; `none` authenticates them, and does not encrypt; `aes-128-gcm` is an extension",
        ),
        of(&["relay"], &["coordinator"], Names("coordinator"), "the only one", "the coordinators it serves"),
        of(
            &["relay"],
            &["rs_s"],
            Words(|| words(SWITCHERS)),
            "`\"auto\"`",
            "who switches tunnels (RS-S): `tcx` the kernel, where it can; `userspace` the daemon; `auto` chooses by kernel and traffic",
        ),
        of(&["terminal"], &["coordinator"], Name("coordinator"), "the only one", "its coordinator"),
        of(
            &["terminal"],
            &["lifetime"],
            Time,
            "`\"300s\"`",
            "how long a path stays that nobody uses; it ends when its next Keep-alive is due",
        ),
        of(
            &["terminal"],
            &["spin"],
            Time,
            "`\"0s\"`",
            "how long a data thread that has worked looks for more before it blocks: less latency, for a processor that is busy while packets flow; at most `10ms`",
        ),
        of(
            &["terminal"],
            &["handover"],
            Words(|| words(HANDOVERS)),
            "`\"thesis\"`",
            "what it does on a handover: `thesis` registers and has its paths directed anew (T4.1.4-a, T4.2.5-a), step by step; `fast` does so too, and meanwhile shows its new address to relays and peers at once",
        ),
        of(
            &["terminal"],
            &["count"],
            Integer(1, MOST_ALIKE),
            "one, named `NAME`",
            "so many terminals alike, named `NAME1`, `NAME2` and so on",
        ),
        of(&["general"], &["name"], DnsName, "none", "its name; not in a coordinator's zone"),
    ],
);

/// `[tunnel.NAME]`
pub static TUNNEL: Section = section(
    "tunnel",
    &[
        key(&["program"], Words(|| words(Program::WORDS)), NEEDED, "what makes it; it must be installed"),
        key(&["from"], Name("node"), NEEDED, "the general node that begins"),
        key(
            &["to"],
            Name("node"),
            NEEDED,
            "the general node that waits for it; behind a NAT one that its router forwards to",
        ),
    ],
);

/// Where a node is: an interface of its own name, or the keys of the node itself.
pub static INTERFACE: Section = section(
    "interface",
    &[
        key(&["at"], Place, NEEDED, "the network it is on"),
        key(&["link"], Name("link"), "none", "the link between it and that network"),
        key(&["state"], Words(|| words(STATES)), "`up`", "whether the interface is up when the run begins"),
        key(
            &["address"],
            Address,
            "chosen",
            "a fixed address; behind a router only where that has a `subnet`",
        ),
        key(
            &["ip"],
            Words(|| words(Ip::WORDS)),
            "`v4`; behind a router as its network",
            "the families that the interface has addresses of; one with both is named by that in IPv4",
        ),
    ],
);

/// `[[flow]]`
pub static FLOW: Section = Section {
    id: "flow",
    calls: "key",
    keys: &[
        key(&["id"], Text, NEEDED, "names it in expectations: letters, digits and `_`"),
        key(&["start"], Time, "`0`", "when it starts"),
        key(&["duration"], Time, "none", "it is ended after so long, if it has not ended by itself"),
        key(
            &["ends"],
            Words(|| words(End::WORDS)),
            "not judged",
            "how it should end: `complete` (it did what it was there for), `failed` (it ended without), or `cut` (it was under way until its `duration` was over). Another end fails the run",
        ),
        key(&["iperf3"], Table(&IPERF3), "one of these needed", "a transfer by TCP or UDP"),
        key(&["ping"], Table(&PING), "one of these needed", "ICMP echo"),
        key(&["dns"], Table(&DNS), "one of these needed", "DNS questions"),
        key(&["http"], Table(&HTTP), "one of these needed", "a page, fetched with curl"),
        key(&["ftp"], Table(&FTP), "one of these needed", "a file, fetched with curl from vsftpd"),
        key(&["sip"], Table(&SIP), "one of these needed", "calls with media, from sipp to sipp"),
        key(&["udp"], Table(&UDP), "one of these needed", "datagrams of any size, each answered by one"),
        key(&["pingpong"], Table(&PING_PONG), "one of these needed", "small messages by TCP, one at a time"),
        key(
            &["probe"],
            Table(&PROBE),
            "one of these needed",
            "numbered and timed datagrams in both directions",
        ),
        key(&["exec"], Table(&EXEC), "one of these needed", "any command"),
    ],
    one_of: &["iperf3", "ping", "dns", "http", "ftp", "sip", "udp", "pingpong", "probe", "exec"],
    extends: None,
};

/// From where to where a flow goes.
pub static ENDS: Section = section(
    "ends",
    &[
        key(&["from"], Name("node"), NEEDED, "where the client runs"),
        key(
            &["to"],
            DnsName,
            NEEDED,
            "the name that the client is given: that of a general node, or of a terminal; a `ping` may go to a relay, too, by its real address",
        ),
    ],
);

/// The flow `iperf3`.
pub static IPERF3: Section = extending(
    "iperf3",
    &ENDS,
    &[
        key(&["duration"], Time, NEEDED, "whole seconds, at most 3600"),
        key(
            &["udp"],
            Flag,
            "`false`",
            "datagrams, sent at the `rate`, which is needed then; what came is measured by the receiver",
        ),
        key(&["reverse"], Flag, "`false`", "data flows from `to` to `from`"),
        key(&["rate"], Rate, "unlimited", "no faster is sent on each connection, or in each stream"),
        key(
            &["congestion"],
            Text,
            "the kernel's",
            "TCP's congestion control, as the kernel calls it: `\"cubic\"`. A kernel that lacks it lets the transfer fail",
        ),
        key(&["window"], Size, "the kernel's", "the sockets' buffers, which bound what is under way"),
        key(
            &["streams"],
            Integer(1, iperf3::MOST_STREAMS),
            "`1`",
            "so many connections, or streams of datagrams, at once; all quantities are of them together",
        ),
        key(
            &["length"],
            SizeWithin(iperf3::SHORTEST, iperf3::LONGEST_WRITE),
            "iperf3's",
            "what each write has; with `udp` the payload of each datagram, at most 65507",
        ),
        key(
            &["omit"],
            Time,
            "`0`",
            "data flows for so long before it is measured: TCP finds its rate; whole seconds, at most 3600",
        ),
    ],
);

/// The flow `ping`.
pub static PING: Section = extending(
    "ping",
    &ENDS,
    &[
        key(&["count"], Integer(1, MOST_REPEATED), "`5`", "requests"),
        key(&["interval"], Time, "`\"200ms\"`", "between two requests"),
    ],
);

/// The flow `dns`.
pub static DNS: Section = section(
    "dns",
    &[
        key(&["node"], Name("node"), NEEDED, "where the questions are asked"),
        key(
            &["name"],
            DnsName,
            NEEDED,
            "what is asked for. For addresses it must be the name of a general node or a terminal, unless the flow `ends = \"failed\"` or names a `server`",
        ),
        key(&["record"], Words(|| words(dns::TYPES)), "`\"A\"`", "which records"),
        key(
            &["server"],
            Name("node"),
            "a terminal's own stub",
            "who is asked; a node that is no terminal must name one",
        ),
        key(&["count"], Integer(1, MOST_REPEATED), "`5`", "questions"),
        key(
            &["interval"],
            Time,
            "`\"100ms\"`",
            "from one question to the next, which waits for the answer before",
        ),
    ],
);

/// The flow `http`.
pub static HTTP: Section =
    extending("http", &ENDS, &[key(&["size"], Size, "`\"64kB\"`", "the page's length")]);

/// The flow `ftp`.
pub static FTP: Section = extending(
    "ftp",
    &ENDS,
    &[
        key(
            &["mode"],
            Words(|| words(ftp::Mode::WORDS)),
            NEEDED,
            "who opens the data connection: the server to the address that PORT names, or the client to the one that the server's PASV names",
        ),
        key(&["size"], Size, "`\"64kB\"`", "the file's length"),
        key(&["rate"], Rate, "unlimited", "curl takes no more"),
    ],
);

/// The flow `sip`.
pub static SIP: Section = Section {
    id: "sip",
    calls: "key",
    keys: &[
        key(&["calls"], Integer(1, MOST_CALLS), "`1`", "calls, one after the other"),
        key(&["duration"], Time, "`\"1s\"`", "how long each lasts; whole milliseconds"),
        key(
            &["media"],
            Flag,
            "`true`",
            "whether the caller speaks: a packet of RTP every 20 ms, which the called end sends back",
        ),
    ],
    one_of: &[],
    extends: Some((&ENDS, "see above; `to` is a general node")),
};

/// The flow `udp`.
pub static UDP: Section = extending(
    "udp",
    &ENDS,
    &[
        key(
            &["size"],
            SizeWithin(datagrams::LEAST, datagrams::MOST),
            "`\"1000B\"`",
            "payload of each datagram",
        ),
        key(
            &["reply"],
            SizeWithin(datagrams::LEAST, datagrams::MOST),
            "like `size`",
            "payload of each answer",
        ),
        key(&["count"], Integer(1, MOST_REPEATED), "`5`", "datagrams"),
        key(&["interval"], Time, "`\"100ms\"`", "between two"),
        key(
            &["whole"],
            Flag,
            "`false`",
            "both ends forbid that datagrams are cut up; otherwise their kernels do as for any program",
        ),
        key(&["listen"], Flag, "`true`", "whether anybody answers"),
    ],
);

/// The flow `pingpong`.
pub static PING_PONG: Section = extending(
    "pingpong",
    &ENDS,
    &[
        key(&["count"], Integer(1, pingpong::MOST), "`2000`", "how many messages are measured"),
        key(&["size"], SizeWithin(1, pingpong::LARGEST), "`\"64B\"`", "each message, and its answer"),
    ],
);

/// The flow `probe`.
pub static PROBE: Section = extending(
    "probe",
    &ENDS,
    &[
        key(&["duration"], Time, NEEDED, "how long each end sends; at most 1000000 datagrams"),
        key(&["interval"], TimeFrom("100us"), "`\"5ms\"`", "between two of one end"),
        key(&["size"], SizeWithin(probes::LEAST, probes::MOST), "`\"100B\"`", "payload of each"),
    ],
);

/// The flow `exec`.
pub static EXEC: Section = section(
    "exec",
    &[
        key(&["node"], Name("node"), NEEDED, "where it runs"),
        key(&["command"], Texts, NEEDED, "the program and its arguments; no shell is between"),
        key(&["timeout"], Time, "`\"10s\"`", "it is ended after this time"),
    ],
);

/// `[[at]]`
pub static AT: Section = Section {
    id: "at",
    calls: "key",
    keys: &[
        key(&["time"], Time, NEEDED, "from the moment all daemons are ready"),
        key(
            &["handover"],
            Table(&HANDOVER),
            "one of these needed",
            "a node leaves a network and joins another",
        ),
        key(&["address"], Table(&ADDRESS_ACTION), "one of these needed", "an interface gets another address"),
        key(&["interface"], Table(&INTERFACE_ACTION), "one of these needed", "an interface is switched"),
        key(&["link"], Table(&LINK_ACTION), "one of these needed", "a link changes"),
        key(&["kill"], Table(&DAEMON), "one of these needed", "a daemon is killed"),
        key(&["start"], Table(&DAEMON), "one of these needed", "a daemon that was killed is started again"),
    ],
    one_of: &["handover", "address", "interface", "link", "kill", "start"],
    extends: None,
};

/// A `handover`.
pub static HANDOVER: Section = section(
    "handover",
    &[
        key(&["node"], Name("node"), NEEDED, "who moves"),
        key(&["from"], Name("interface"), NEEDED, "it goes down, and its address and routes with it"),
        key(&["to"], Name("interface"), NEEDED, "it comes up, with its address and a default route"),
        key(&["gap"], Time, "`0`", "without any network in between"),
        key(
            &["overlap"],
            Time,
            "`0`",
            "instead of a gap: `to` comes up, and is preferred, so long before `from` goes down",
        ),
    ],
);

/// An `address` that changes.
pub static ADDRESS_ACTION: Section = section(
    "address",
    &[
        key(&["node"], Name("node"), NEEDED, "whose"),
        key(&["interface"], Name("interface"), NEEDED, "which"),
        key(&["address"], Address, NEEDED, "the new one, which nobody else has"),
    ],
);

/// An `interface` that is switched.
pub static INTERFACE_ACTION: Section = section(
    "interface-action",
    &[
        key(&["node"], Name("node"), NEEDED, "whose"),
        key(&["name"], Name("interface"), NEEDED, "which"),
        key(&["state"], Words(|| words(STATES)), NEEDED, "what it is from then on"),
    ],
);

/// A `link` that changes.
pub static LINK_ACTION: Section = section(
    "link-action",
    &[
        key(&["name"], Name("link"), NEEDED, "which"),
        key(
            &["both", "up", "down"],
            Table(&SHAPE),
            "nothing",
            "as in `[link.NAME]`; replaces all that the link did before",
        ),
    ],
);

/// `kill` and `start`.
pub static DAEMON: Section =
    section("daemon", &[key(&["node"], Name("node"), NEEDED, "whose daemon; a general node has none")]);

/// `[[expect]]`
pub static EXPECT: Section = Section {
    id: "expect",
    calls: "key",
    keys: &[
        key(&["check"], Expression, "one of the two needed", "an expression over quantities"),
        key(&["sequence"], Texts, "one of the two needed", "observations that must come in this order"),
        key(
            &["after"],
            Moment,
            "from the beginning",
            "with `sequence`: only what came after the terminal left its network in the first handover, or after this time",
        ),
        key(&["fail"], Text, NEEDED, "the sentence to print when it does not hold"),
    ],
    one_of: &["check", "sequence"],
    extends: None,
};

/// `[[table]]`
pub static TABLE: Section = section(
    "table",
    &[
        key(&["title"], Text, NEEDED, "what it shows"),
        key(&["columns"], Texts, NEEDED, "the headings"),
        key(
            &["rows"],
            Rows,
            NEEDED,
            "each with an entry for each column: a number, a text, or an [expression](#expressions) behind `=` in a text",
        ),
        key(&["notes"], Texts, "none", "what a reader should know of it"),
    ],
);

/// `[matrix]`
pub static MATRIX: Section = section(
    "matrix",
    &[
        key(&["show"], Quantities, "needed with axes", "what is shown of each cell"),
        key(
            &["axis"],
            List(&AXIS),
            "none",
            "`[[matrix.axis]]`: the first has the rows, the second the columns; with more, there is a grid for each combination of the others",
        ),
        key(&["cell"], List(&CELL), "none", "`[[matrix.cell]]`, in place of axes"),
        key(&["rounds"], Integer(1, MOST_ROUNDS), "once, without rounds", "how often each cell is run"),
        key(
            &["expect"],
            List(&EXPECT),
            "none",
            "`[[matrix.expect]]`: what must hold over all rounds, as in `[[expect]]`",
        ),
        key(&["table"], List(&TABLE), "none", "`[[matrix.table]]`: a table over all rounds, as `[[table]]`"),
    ],
);

/// `[[matrix.axis]]`
pub static AXIS: Section = Section {
    id: "axis",
    calls: "key of an axis",
    keys: &[
        key(&["name"], Text, NEEDED, "names it in cells and headings: letters, digits, `_`"),
        key(
            &["path"],
            TextOrTexts,
            NEEDED,
            "the place in this file whose value it replaces: keys with dots between; an entry of a list by its `id` or by a number from 0, as in `flow.echo.ping.count`. The file must have a value there",
        ),
        key(
            &["values"],
            Values,
            NEEDED,
            "what stands there, one after another: whatever may stand there, tables too",
        ),
        key(&["labels"], Texts, "the values", "how grids and cells call the values"),
    ],
    one_of: &[],
    extends: None,
};

/// `[[matrix.cell]]`
pub static CELL: Section = Section {
    id: "cell",
    calls: "key of a cell",
    keys: &[
        key(&["name"], Text, NEEDED, "names it: lower-case letters, digits, `_`, a letter first"),
        key(&["set"], Paths, "nothing", "paths as above, in quotes, and what stands there in this cell"),
        key(&["check"], Expression, "nothing", "what must hold besides in each of its runs"),
    ],
    one_of: &[],
    extends: None,
};
