//! `[[flow]]`, and each kind of flow.

use super::super::Kind::{
    DnsName, Flag, Integer, Name, Rate, Size, SizeWithin, Table, Text, Texts, Time, TimeFrom, Words,
};
use super::super::{NEEDED, Section};
use super::{extending, key, section, words};
use crate::flow::{datagrams, dns, ftp, iperf3, pingpong, probes};
use crate::scenario::model::End;
use crate::scenario::parse_events::{MOST_CALLS, MOST_REPEATED};

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
