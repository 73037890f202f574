//! Which clauses of the thesis a message shows, and which of its figures it belongs to.

use ntm_protocol::observe::RouteName;
use ntm_protocol::wire::Kind;

/// What decides about a message's clauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About {
    /// Its type.
    pub kind: Kind,
    /// How the DC directed the path that it is about.
    pub route: Option<RouteName>,
    /// Whether the path was there before: after a handover.
    pub renewal: bool,
    /// Whether it is between two ends, without a relay.
    pub between_ends: bool,
}

/// The clauses' IDs; none for a message of this project's own.
pub fn clauses(about: About) -> Vec<&'static str> {
    use Kind::*;
    use RouteName::{Switched, Translated};
    let relayed = matches!(about.route, Some(Switched | Translated));
    let mut out = match (about.kind, about.route) {
        (RegistrationRequest | RegistrationResponse, _) => vec!["T3.2.1-a"],
        (KeepAlive | KeepAliveAnswer, _) => vec!["T3.2.1-b"],
        (DirectionRequest, _) => vec!["T3.2.2-a"],
        (DirectionRefusal, _) => vec!["T3.2.3-b"],
        (InformationRequest | InformationResponse, _) => vec!["T3.2.2-c"],
        (RelayDirection, Some(Translated)) => vec!["T5.1.1-a", "T4.2.4-a", "TA-b"],
        (RelayDirection, _) => vec!["T5.1.1-a", "T4.1.2-a"],
        (RelayResponse, Some(Switched)) => vec!["T5.3-a", "T4.1.2-a"],
        (RelayResponse, _) => vec!["T5.3-a"],
        (RouteDirection, Some(Translated)) => vec!["T4.2.2-seq", "T4.2.4-a"],
        (RouteDirection, Some(Switched)) => vec!["T4.1.2-seq", "T3.1-e"],
        (RouteDirection, _) => vec!["T3.2.3-a", "T3.1-e"],
        (RouteResponse, _) => vec!["T3.2.3-a"],
        (TunnelRequest | TunnelResponse, Some(Switched)) if about.between_ends => vec!["T4.1.2-b"],
        (TunnelRequest, Some(Translated)) => vec!["T4.2.2-seq", "T5.3-a", "TA-b"],
        (TunnelRequest | TunnelResponse, _) if relayed => vec!["T5.3-a", "T3.1-e"],
        (TunnelRequest | TunnelResponse, _) => vec!["T3.2.3-a", "T3.1-e"],
        (PathKeepAlive | PathKeepAliveAnswer, Some(Switched)) if about.between_ends => vec!["T4.1.2-b"],
        (PathKeepAlive | PathKeepAliveAnswer | Data | Error, _) => vec![],
    };
    if about.renewal && matches!(about.kind, DirectionRequest | RelayDirection | RouteDirection) {
        out.push(if about.route == Some(Translated) { "T4.2.5-a" } else { "T4.1.4-a" });
    }
    out
}

/// The clauses of a DNS lookup for records of `record` type.
pub fn of_lookup(record: &str) -> &'static [&'static str] {
    match record {
        "NS" => &["T3.2.2-b"],
        "TXT" => &["T3.2.2-b", "T5.3-b"],
        "A" | "AAAA" => &["T4.2.2-seq", "T5.3-b"],
        _ => &[],
    }
}

/// The sequence of the thesis that a path's messages belong to.
pub fn figure(route: RouteName) -> Option<&'static str> {
    match route {
        RouteName::Direct => Some("Fig. 3.2, end to end"),
        RouteName::Switched => Some("Fig. 4.1, through RS-S"),
        RouteName::Translated => Some("Fig. 4.3, through RS-N"),
        RouteName::None => None,
    }
}
