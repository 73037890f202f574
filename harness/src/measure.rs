//! Quantities that only packets tell, from the run's recordings: who the other end saw, how long a handover took, when the first
//! byte came. PURE: recordings in, quantities out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::capture::packet::{Content, NtmKind};
use crate::capture::{Packet, Recording};
use crate::flow::iperf3::Interval;
use crate::flow::{Quantities, unmeasured};
use crate::judge::expr::Value;
use crate::timeline::Handover;

/// Recordings by node and interface.
pub type Recordings = BTreeMap<(String, String), Recording>;

const MS: f64 = 1e6;

/// What the node of an iperf3 server saw of the transfer on `port`: its data connections, told from the control connection, which
/// is the one that opens first.
pub fn transfer(at_server: &Recording, at_receiver: &Recording, port: u16) -> Transfer {
    let at_port = |packet: &&Packet| !packet.outgoing && packet.destination.port() == port;
    let towards = at_server.packets.iter().filter(at_port);
    let tcp = |packet: &&Packet| matches!(packet.content, Content::Tcp { .. });
    let opens = |packet: &&Packet| matches!(packet.content, Content::Tcp { opens: true, .. });
    let control = towards.clone().find(opens).map(|packet| packet.source);
    let data: Vec<&Packet> = towards.filter(tcp).filter(|packet| Some(packet.source) != control).collect();
    let sources: BTreeSet<SocketAddr> = data.iter().map(|packet| packet.source).collect();
    let first = data.iter().copied().find(opens).map(|packet| packet.t);
    // Segments with data that reached the receiver of the test, whichever end it is.
    let arrivals: Vec<u64> = at_receiver
        .packets
        .iter()
        .filter(|packet| {
            !packet.outgoing && (packet.destination.port() == port || packet.source.port() == port)
        })
        .filter(|packet| matches!(packet.content, Content::Tcp { data, .. } if data > 0))
        .map(|packet| packet.t)
        .filter(|t| first.is_some_and(|first| *t >= first))
        .collect();
    Transfer { sources, first, arrivals }
}

/// An iperf3 transfer as packets show it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transfer {
    /// Addresses and ports that data came from.
    pub sources: BTreeSet<SocketAddr>,
    /// When the first data connection was opened.
    pub first: Option<u64>,
    /// When data reached the receiver.
    pub arrivals: Vec<u64>,
}

impl Transfer {
    /// The quantities of a flow that come from packets, or from packets and the receiver's `intervals`.
    pub fn quantities(&self, intervals: &[Interval], handover: Option<&Handover>) -> Quantities {
        let names = ["sources", "source_address", "bytes_before", "bytes_after", "longest_stall_ms"];
        let mut out = unmeasured(&names, "no data connection was seen at the server's node");
        let mut set = |name: &str, value: Value| out.insert(name.to_owned(), Ok(value));
        if let Some(source) = self.sources.first() {
            set("sources", Value::Number(self.sources.len() as f64));
            let addresses: BTreeSet<_> = self.sources.iter().map(|source| source.ip()).collect();
            let one = if addresses.len() == 1 { source.ip().to_string() } else { format!("{addresses:?}") };
            set("source_address", Value::Text(one));
        }
        if let Some(stall) = self.arrivals.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max() {
            set("longest_stall_ms", Value::Number(stall as f64 / MS));
        }
        match (self.first, handover) {
            (Some(first), Some(handover)) => {
                let at = |seconds: f64| first as f64 + seconds * 1e9;
                let sum = |keep: &dyn Fn(&Interval) -> bool| {
                    Value::Number(intervals.iter().filter(|i| keep(i)).map(|i| i.bytes).sum())
                };
                let (began, joined) = (handover.began() as f64, handover.joined as f64);
                out.insert("bytes_before".into(), Ok(sum(&|i| at(i.end) <= began)));
                out.insert("bytes_after".into(), Ok(sum(&|i| at(i.start) >= joined)));
            }
            (_, None) => {
                for name in ["bytes_before", "bytes_after"] {
                    out.insert(name.into(), Err("there was no handover".into()));
                }
            }
            (None, _) => {}
        }
        out
    }
}

/// The quantities of a handover: from the recordings of both interfaces of the node that moved.
///
/// `tunnelled`: only data packets of NTMobile count, not its control messages. For a node without NTMobile every packet does.
pub fn handover(handover: &Handover, recordings: &Recordings, tunnelled: bool) -> Quantities {
    let names = ["interruption_ms", "control_ms"];
    let counts = |packet: &&Packet| !tunnelled || packet.content == Content::Ntm(NtmKind::Data);
    let of = |interface: &str| recordings.get(&(handover.node.clone(), interface.to_owned()));
    let last = of(&handover.from).and_then(|old| {
        old.packets
            .iter()
            .filter(counts)
            .map(|packet| packet.t)
            .filter(|t| *t < handover.joined.max(handover.left))
            .max()
    });
    let first = of(&handover.to).and_then(|new| {
        new.packets.iter().filter(counts).map(|packet| packet.t).filter(|t| *t >= handover.began()).min()
    });
    let mut out = match (last, first) {
        (Some(last), Some(first)) => {
            let interruption = (first as f64 - last as f64 - handover.gap.as_nanos() as f64) / MS;
            let control = (first as f64 - handover.joined as f64) / MS;
            let number = |value: f64| Ok(Value::Number(value));
            Quantities::from([
                ("interruption_ms".to_owned(), number(interruption)),
                ("control_ms".to_owned(), number(control)),
            ])
        }
        (None, _) => {
            unmeasured(&names, &format!("no data packet was seen on {} before the handover", handover.from))
        }
        (_, None) => {
            unmeasured(&names, &format!("no data packet was seen on {} after the handover", handover.to))
        }
    };
    let gap = handover.joined.saturating_sub(handover.left) as f64 / MS;
    out.insert("gap_ms".to_owned(), Ok(Value::Number(gap)));
    out
}

/// Whom the terminal `node` exchanged data packets with from `from` to `to`, in nanoseconds: real addresses, several joined by `and`.
pub fn outer_peer(recordings: &Recordings, node: &str, from: u64, to: u64) -> Option<String> {
    let packets =
        recordings.iter().filter(|((at, _), _)| at == node).flat_map(|(_, recording)| &recording.packets);
    let peers: BTreeSet<_> = packets
        .filter(|packet| packet.content == Content::Ntm(NtmKind::Data) && (from..=to).contains(&packet.t))
        .map(|packet| if packet.outgoing { packet.destination.ip() } else { packet.source.ip() })
        .collect();
    let shown: Vec<String> = peers.iter().map(ToString::to_string).collect();
    (!shown.is_empty()).then(|| shown.join(" and "))
}

/// When the first answer reached an application: TCP data, an echo reply or a datagram that came in on one of `interfaces`.
pub fn first_byte(recordings: &Recordings, interfaces: &BTreeSet<(String, String)>) -> Option<u64> {
    let answers = |packet: &&Packet| {
        !packet.outgoing
            && match packet.content {
                Content::Tcp { data, .. } | Content::Udp(data) => data > 0,
                Content::Icmp(kind) => kind == 0,
                Content::Ntm(_) | Content::Fragment | Content::Other => false,
            }
    };
    let packets =
        interfaces.iter().filter_map(|key| recordings.get(key)).flat_map(|recording| &recording.packets);
    packets.filter(answers).map(|packet| packet.t).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn packet(t: u64, outgoing: bool, source: &str, destination: &str, content: Content) -> Packet {
        Packet {
            t,
            outgoing,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            content,
        }
    }

    fn recording(packets: Vec<Packet>) -> Recording {
        Recording { packets, ..Recording::default() }
    }

    const OPEN: Content = Content::Tcp { opens: true, data: 0 };
    const DATA: Content = Content::Tcp { opens: false, data: 1000 };

    #[test]
    fn a_second_source_port_is_seen() {
        let to = "10.0.0.9:5201";
        let mut packets = vec![
            packet(1_000_000, false, "10.0.0.1:1000", to, OPEN),
            packet(2_000_000, false, "10.0.0.1:1001", to, OPEN),
            packet(3_000_000, false, "10.0.0.1:1001", to, DATA),
            packet(9_000_000, false, "10.0.0.1:1001", to, DATA),
        ];
        let one = recording(packets.clone());
        let measured = transfer(&one, &one, 5201).quantities(&[], None);
        assert_eq!(measured["sources"], Ok(Value::Number(1.0)));
        assert_eq!(measured["longest_stall_ms"], Ok(Value::Number(6.0)));
        packets.push(packet(10_000_000, false, "10.0.0.1:2000", to, DATA));
        let two = recording(packets);
        assert_eq!(transfer(&two, &two, 5201).quantities(&[], None)["sources"], Ok(Value::Number(2.0)));
    }

    #[test]
    fn bytes_are_put_before_and_after_the_handover() {
        let to = "10.0.0.9:5201";
        let seen = recording(vec![
            packet(0, false, "10.0.0.1:1", to, OPEN),
            packet(1_000_000_000, false, "10.0.0.1:2", to, OPEN),
        ]);
        let intervals: Vec<Interval> =
            (0..10).map(|n| Interval { start: f64::from(n), end: f64::from(n + 1), bytes: 1.0 }).collect();
        let moved = Handover {
            node: "mn".into(),
            from: "a".into(),
            to: "b".into(),
            gap: Duration::ZERO,
            left: 5_500_000_000,
            joined: 6_500_000_000,
        };
        let measured = transfer(&seen, &seen, 5201).quantities(&intervals, Some(&moved));
        assert_eq!(measured["bytes_before"], Ok(Value::Number(4.0)), "the transfer began at 1 s");
        assert_eq!(measured["bytes_after"], Ok(Value::Number(4.0)));
    }

    #[test]
    fn every_outer_peer_of_the_time_is_named() {
        let data = Content::Ntm(NtmKind::Data);
        let recordings = Recordings::from([
            (
                ("mn".into(), "a".into()),
                recording(vec![packet(5, true, "10.0.0.1:4330", "203.0.113.2:4330", data)]),
            ),
            (
                ("mn".into(), "b".into()),
                recording(vec![packet(9, false, "203.0.113.3:4330", "10.0.0.1:4330", data)]),
            ),
        ]);
        assert_eq!(outer_peer(&recordings, "mn", 0, 9).unwrap(), "203.0.113.2 and 203.0.113.3");
        assert_eq!(outer_peer(&recordings, "mn", 0, 8).unwrap(), "203.0.113.2");
        assert_eq!(outer_peer(&recordings, "cn", 0, 9), None);
    }

    #[test]
    fn control_messages_do_not_end_an_interruption() {
        let kind = |kind: NtmKind| Content::Ntm(kind);
        let at = |t: u64, what: NtmKind| packet(t, true, "10.0.0.1:4330", "203.0.113.2:4330", kind(what));
        let recordings = Recordings::from([
            (
                ("mn".into(), "a".into()),
                recording(vec![at(90_000_000, NtmKind::Data), at(95_000_000, NtmKind::Control)]),
            ),
            (
                ("mn".into(), "b".into()),
                recording(vec![at(210_000_000, NtmKind::Control), at(230_000_000, NtmKind::Data)]),
            ),
        ]);
        let moved = Handover {
            node: "mn".into(),
            from: "a".into(),
            to: "b".into(),
            gap: Duration::from_millis(100),
            left: 100_000_000,
            joined: 202_000_000,
        };
        let measured = handover(&moved, &recordings, true);
        assert_eq!(measured["interruption_ms"], Ok(Value::Number(40.0)));
        assert_eq!(measured["control_ms"], Ok(Value::Number(28.0)));
        assert_eq!(measured["gap_ms"], Ok(Value::Number(102.0)));
        assert!(handover(&moved, &Recordings::new(), true)["interruption_ms"].is_err());
    }
}
