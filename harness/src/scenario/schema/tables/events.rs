//! `[[at]]`, and what can happen.

use super::super::Kind::{Address, Name, Table, Time, Words};
use super::super::{NEEDED, Section};
use super::{SHAPE, key, section, words};
use crate::scenario::parse::STATES;

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
