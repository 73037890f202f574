//! The tables of a scenario file.

mod events;
mod flows;
mod matrix;
mod network;

use super::Kind::{
    Expression, Flag, Integer, List, Moment, Nodes, Rows, Share, Table, Tables, Text, Texts, Time, TimeFrom,
};
use super::{Key, Kind, NEEDED, Section};

pub use events::{ADDRESS_ACTION, AT, DAEMON, HANDOVER, INTERFACE_ACTION, LINK_ACTION};
pub use flows::{DNS, ENDS, EXEC, FLOW, FTP, HTTP, IPERF3, PING, PING_PONG, PROBE, SIP, UDP};
pub use matrix::{AXIS, CELL, MATRIX};
pub use network::{INTERFACE, INTERNET, LINK, NAT, NODE, ROUTER, SHAPE, TIMEOUTS, TUNNEL};

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
