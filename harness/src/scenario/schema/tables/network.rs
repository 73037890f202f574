//! What there is: the outer network, links, routers, nodes, tunnels.

use ntm_nat::{Allocation, Behaviour, Dependence};

use super::super::Kind::{
    Address, DnsName, Flag, Integer, Name, Names, Network, Place, Rate, Share, Site6, Table, Text, Time,
    TimeFrom, Words, WordsOrTable,
};
use super::super::{NEEDED, Section};
use super::{key, of, section, words};
use crate::foreign::program::Program;
use crate::scenario::model::{HANDOVERS, Ip, SELECTIONS, SUITES, SWITCHERS};
use crate::scenario::parse::{MOST_ALIKE, ROLES, STATES};

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
