//! What a machine says of itself: one typed record for each thing that happened. JSON lines on disk.
//!
//! A record is `{"t": nanoseconds, "node": "mn", "what": "sent", …}`; emulation and simulation write the same ones, and scenario
//! files and tests are judged by them.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::addr::{Fqdn, PathId, Vip};
use crate::session::next_of;
use crate::time::Instant;
use crate::wire::{DnsError, Fields, Kind, Refusal, RelayMode, Role};

/// One record of the trace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Observation {
    /// When.
    pub t: Instant,
    /// Which node: its name in the configuration.
    pub node: String,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum What {
    /// A control message went out.
    Sent {
        /// Its type.
        message: Kind,
        /// Where to.
        to: SocketAddr,
        /// Its sequence number.
        seq: u64,
        /// The path that it is about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<PathId>,
        /// Which sending of the same request, from 1.
        #[serde(default = "one", skip_serializing_if = "is_one")]
        attempt: u32,
        /// What its body said; never a key.
        #[serde(default, skip_serializing_if = "Fields::is_empty")]
        fields: Fields,
    },
    /// A control message came and was taken.
    Received {
        /// Its type.
        message: Kind,
        /// Where from.
        from: SocketAddr,
        /// Its sequence number.
        seq: u64,
        /// The path that it is about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<PathId>,
        /// What its body said; never a key.
        #[serde(default, skip_serializing_if = "Fields::is_empty")]
        fields: Fields,
    },
    /// Input was refused: nothing else changed.
    Refused {
        /// Where from.
        from: SocketAddr,
        /// The field that was wrong.
        field: String,
        /// What was wrong with it.
        reason: String,
    },
    /// The DC asked the DNS.
    Asked {
        /// The record type asked for.
        lookup: LookupKind,
        /// The name.
        name: Fqdn,
    },
    /// The DNS answered the DC.
    Answered {
        /// The record type asked for.
        lookup: LookupKind,
        /// The name.
        name: Fqdn,
        /// The answer, or the error.
        answer: String,
    },
    /// A node is registered: at the DC, and at the node itself (T3.2.1-a).
    Registered {
        /// The node.
        fqdn: Fqdn,
        /// Its VIP, for a terminal.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vip: Option<Vip>,
        /// The address and port that the DC saw.
        seen: SocketAddr,
    },
    /// A node's registration ended: its keep-alives are not answered, or did not come.
    Unregistered {
        /// The node.
        fqdn: Fqdn,
    },
    /// A terminal's usable real addresses changed.
    Addresses {
        /// The addresses now.
        addresses: Vec<IpAddr>,
    },
    /// An application asked for a name (T3.2.2-a).
    Query {
        /// The name.
        name: Fqdn,
    },
    /// An application got its DNS answer (T3.2.3-b).
    Answer {
        /// The name.
        name: Fqdn,
        /// The VIP, or nothing with an error.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vip: Option<Vip>,
        /// Why there is no VIP.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<DnsError>,
    },
    /// The DC chose how two ends shall talk.
    Directed {
        /// The path.
        path: PathId,
        /// The way: `direct`, `RS-S`, `RS-N`.
        route: RouteName,
        /// Why.
        reason: String,
        /// The relay.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        relay: Option<Fqdn>,
    },
    /// The DC directs no path to a name, for a reason that it found itself.
    Undirected {
        /// The name.
        fqdn: Fqdn,
        /// The DNS answer that the application gets.
        error: DnsError,
        /// Why.
        reason: String,
    },
    /// A terminal sends a path's packets another way from now on.
    PathChanged {
        /// The path.
        path: PathId,
        /// The way.
        route: RouteName,
        /// Where packets go; nothing where there is no way now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remote: Option<SocketAddr>,
        /// The key epoch.
        epoch: u8,
        /// Why.
        reason: String,
    },
    /// The relay's table changed (TA-c).
    RelayTable {
        /// The entry's Path ID.
        path: PathId,
        /// What changed.
        change: TableChange,
        /// RS-S or RS-N.
        mode: RelayMode,
    },
    /// Something could not be done, and will not be tried again.
    GaveUp {
        /// The message that was never answered.
        message: Kind,
        /// Who should have answered.
        to: SocketAddr,
    },
}

fn one() -> u32 {
    1
}

fn is_one(attempt: &u32) -> bool {
    *attempt == 1
}

/// The record types that a DC asks for (Figs. 3.2 and 4.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum LookupKind {
    /// The zone of a name and its servers.
    Ns,
    /// The DC's record.
    Txt,
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
}

/// The ways a path can take.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum RouteName {
    /// End to end.
    #[serde(rename = "direct")]
    Direct,
    /// Through an RS that switches tunnels.
    #[serde(rename = "RS-S")]
    Switched,
    /// Through an RS that translates addresses.
    #[serde(rename = "RS-N")]
    Translated,
    /// No way at the moment.
    #[serde(rename = "none")]
    None,
}

impl From<RelayMode> for RouteName {
    fn from(mode: RelayMode) -> Self {
        match mode {
            RelayMode::Switch => Self::Switched,
            RelayMode::Translate => Self::Translated,
        }
    }
}

/// What changed in a Relay Table entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum TableChange {
    /// The entry was made by a Relay Direction.
    Made,
    /// A Relay Direction renewed it.
    Renewed,
    /// A side's tunnel address and port were filled by a Tunnel Request, or moved.
    Tunnel {
        /// The side.
        side: Role,
        /// The address and port.
        address: SocketAddr,
    },
    /// The entry was unused for its lifetime, or replaced.
    Ended,
}

/// A machine's observations until its driver takes them.
#[derive(Debug, Default)]
pub struct Journal {
    waiting: VecDeque<(Instant, What)>,
    refused: u64,
    unread: bool,
}

impl Journal {
    /// Notes nothing from now on, and only counts what is refused: nobody reads it.
    pub fn close(&mut self) {
        self.unread = true;
    }

    /// Whether anybody reads what is noted.
    pub fn is_read(&self) -> bool {
        !self.unread
    }

    /// Notes `what` at `now`.
    pub fn note(&mut self, now: Instant, what: What) {
        if self.is_read() {
            self.waiting.push_back((now, what));
        }
    }

    /// Counts and notes input that was refused.
    pub fn refuse(&mut self, now: Instant, from: SocketAddr, refusal: &Refusal) {
        self.refused += 1;
        self.note(
            now,
            What::Refused { from, field: refusal.field.into(), reason: refusal.reason.to_string() },
        );
    }

    /// The oldest observation not yet taken.
    pub fn poll(&mut self) -> Option<(Instant, What)> {
        next_of(&mut self.waiting)
    }

    /// How many inputs were refused so far.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}
