//! What the control socket answers to `status`.

use std::net::IpAddr;

use ntm_protocol::addr::{Fqdn, Vip};
use ntm_protocol::terminal::{Handover, PathStatus, RelayStatus};
use ntm_tunnel::Counts;
use serde::Serialize;

/// The answer to `status`.
#[derive(Debug, Serialize)]
pub(crate) struct Status<'a> {
    /// The node's name.
    pub(crate) name: &'a str,
    /// The terminal's own name.
    pub(crate) fqdn: &'a Fqdn,
    /// Its VIP, once it has one.
    pub(crate) vip: Option<Vip>,
    /// Whether the DC has registered its present addresses.
    pub(crate) registered: bool,
    /// Its usable real addresses, the preferred first.
    pub(crate) addresses: &'a [IpAddr],
    /// Its paths: the way in use, and why.
    pub(crate) paths: Vec<PathStatus>,
    /// The relays that it measures (T4-a).
    pub(crate) relays: Vec<RelayStatus>,
    /// What it does on a handover.
    pub(crate) handover: Handover,
    /// How many queries of applications wait for an answer.
    pub(crate) queries_waiting: usize,
    /// Inputs that were refused; those that the data plane was too fast to tell of stand in `data.notices_lost`.
    pub(crate) refused: u64,
    /// Control datagrams that the system would not send.
    pub(crate) not_sent: u64,
    /// Observations that the trace lost.
    pub(crate) trace_lost: u64,
    /// What the data plane counted.
    pub(crate) data: Counts,
}

#[cfg(test)]
mod tests {
    use super::*;
    use ntm_protocol::addr::{NodeId, PathId};
    use ntm_protocol::observe::RouteName;

    #[test]
    fn a_terminal_with_a_path() {
        let fqdn: Fqdn = "mn.dc.test".parse().expect("a name");
        let path = PathStatus {
            path: PathId([1; 16]),
            peer: "www.example.test".parse().expect("a name"),
            peer_vip: Vip([198, 18, 128, 1].into()),
            route: RouteName::Translated,
            remote: Some("203.0.113.5:4330".parse().expect("an address")),
            epoch: 2,
            reason: "the tunnel to the relay stands".into(),
        };
        let relay = RelayStatus {
            relay: NodeId([2; 16]),
            address: "203.0.113.5:4330".parse().expect("an address"),
            rtt_us: Some(7_800),
            answers: Some(true),
            load: Some(12),
        };
        let status = Status {
            name: "mn",
            fqdn: &fqdn,
            vip: Some(Vip([198, 18, 0, 1].into())),
            registered: true,
            addresses: &["192.168.1.2".parse().expect("an address")],
            paths: vec![path],
            relays: vec![relay],
            handover: Handover::Fast,
            queries_waiting: 1,
            refused: 3,
            not_sent: 0,
            trace_lost: 0,
            data: Counts::default(),
        };
        let mut shown = serde_json::to_value(&status).expect("JSON");
        assert_eq!(shown["data"]["drop_no_path"], 0);
        shown["data"] = "counts".into();
        insta::assert_json_snapshot!(shown, @r#"
        {
          "addresses": [
            "192.168.1.2"
          ],
          "data": "counts",
          "fqdn": "mn.dc.test",
          "handover": "fast",
          "name": "mn",
          "not_sent": 0,
          "paths": [
            {
              "epoch": 2,
              "path": "01010101010101010101010101010101",
              "peer": "www.example.test",
              "peer_vip": "198.18.128.1",
              "reason": "the tunnel to the relay stands",
              "remote": "203.0.113.5:4330",
              "route": "RS-N"
            }
          ],
          "queries_waiting": 1,
          "refused": 3,
          "registered": true,
          "relays": [
            {
              "address": "203.0.113.5:4330",
              "answers": true,
              "load": 12,
              "relay": "02020202020202020202020202020202",
              "rtt_us": 7800
            }
          ],
          "trace_lost": 0,
          "vip": "198.18.0.1"
        }
        "#);
    }
}
