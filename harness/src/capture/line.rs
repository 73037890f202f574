//! A packet in one line, for who watches: addresses by name, NTMobile's messages by theirs. PURE.
//!
//! What is in a message is encrypted, and keys are not looked at here: the header says which message it is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::RecordType;
use ntm_protocol::addr::NTM_PORT;
use ntm_protocol::wire::{HEADER_LEN, Header, Kind};
use time::OffsetDateTime;
use time::macros::format_description;

use super::packet::{self, Content, NtmKind};
use super::tap::Frame;

/// The port of name servers.
const DNS_PORT: u16 = 53;

/// Names of addresses.
pub type Names = BTreeMap<IpAddr, String>;

/// A packet, told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The line, without its end.
    pub text: String,
    /// Whether it belongs to what nodes arrange among themselves: messages of NTMobile, and the DNS. Else it is data.
    pub is_control: bool,
}

/// Tells a packet; none of what is not IP.
pub fn tell(frame: &Frame<'_>, names: &Names) -> Option<Line> {
    let ip = frame.framing.ip(frame.bytes)?;
    let packet = packet::parse(frame.wall, frame.outgoing, ip)?;
    let (_, payload) = packet::payload(ip).unwrap_or((0, &[]));
    let datagram = payload.get(8..).unwrap_or_default();
    let ports = [packet.source.port(), packet.destination.port()];
    let dns = matches!(packet.content, Content::Udp(_)) && ports.contains(&DNS_PORT);
    let said = match packet.content {
        Content::Ntm(_) => ntm(datagram),
        Content::Udp(_) if dns => domain(datagram).unwrap_or_else(|| "DNS".to_owned()),
        Content::Udp(length) => format!("UDP, {length} B"),
        Content::Tcp { data, .. } => tcp(payload, data),
        Content::Icmp(kind) => icmp(kind, packet.source.is_ipv6(), payload),
        Content::Fragment => format!("fragment, {} B", frame.length),
        Content::Other => format!("{} B", frame.length),
    };
    let end = |address: SocketAddr| {
        let name = names.get(&address.ip()).cloned().unwrap_or_else(|| address.ip().to_string());
        match address.port() {
            // That of NTMobile itself says nothing.
            0 | NTM_PORT => name,
            port => format!("{name}:{port}"),
        }
    };
    let way = if frame.outgoing { "out" } else { "in " };
    let text = format!(
        "{} {:<6} {way} {} > {}  {said}",
        clock(frame.wall),
        frame.interface,
        end(packet.source),
        end(packet.destination)
    );
    let is_control = dns || packet.content == Content::Ntm(NtmKind::Control);
    Some(Line { text, is_control })
}

fn clock(wall: u64) -> String {
    let form = format_description!("[hour]:[minute]:[second].[subsecond digits:6]");
    let time = OffsetDateTime::from_unix_timestamp_nanos(wall.into()).ok();
    time.and_then(|time| time.format(&form).ok()).unwrap_or_default()
}

fn ntm(datagram: &[u8]) -> String {
    let header = match Header::parse(datagram) {
        Ok(header) => header,
        Err(refusal) => return format!("NTMobile, not understood: {refusal}"),
    };
    let mut out = header.kind.name().to_owned();
    // A Path ID is told by its beginning, as in `harness status`.
    let path: String = header.id[..4].iter().fold(String::new(), |mut path, byte| {
        let _ = write!(path, "{byte:02x}");
        path
    });
    match header.kind {
        Kind::Data => {
            let _ = write!(out, " path {path}, epoch {}, {} B sealed", header.epoch, header.length);
        }
        Kind::TunnelRequest | Kind::TunnelResponse | Kind::PathKeepAlive | Kind::PathKeepAliveAnswer => {
            let _ = write!(out, " path {path}, {} B", datagram.len() - HEADER_LEN);
        }
        _ => {
            let _ = write!(out, ", {} B", datagram.len() - HEADER_LEN);
        }
    }
    out
}

fn domain(datagram: &[u8]) -> Option<String> {
    let message = Message::from_vec(datagram).ok()?;
    let query = message.queries.first()?;
    let asked = format!("{} {}", query.query_type(), query.name().to_string().trim_end_matches('.'));
    Some(match message.metadata.message_type {
        MessageType::Query => format!("DNS asks {asked}"),
        MessageType::Response => {
            let answers: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
            let refers = message.authorities.iter().any(|record| record.record_type() == RecordType::NS);
            let said = match (answers.is_empty(), message.metadata.response_code) {
                (false, _) => answers.join(", "),
                (true, ResponseCode::NoError) if refers => "see other servers".to_owned(),
                (true, ResponseCode::NoError) => "nothing of that type".to_owned(),
                (true, code) => code.to_string(),
            };
            format!("DNS answers {asked}: {said}")
        }
    })
}

fn tcp(segment: &[u8], data: u32) -> String {
    let flags = segment.get(13).copied().unwrap_or(0);
    let names = [(0x02, "SYN"), (0x01, "FIN"), (0x04, "RST"), (0x10, "ACK")];
    let set: Vec<&str> = names.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    match data {
        0 => format!("TCP {}", set.join(" ")),
        data => format!("TCP {}, {data} B", set.join(" ")),
    }
}

fn icmp(kind: u8, is_v6: bool, message: &[u8]) -> String {
    let number = message.get(6..8).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]));
    match (is_v6, kind) {
        (false, 8) | (true, 128) => format!("ICMP echo request {number}"),
        (false, 0) | (true, 129) => format!("ICMP echo reply {number}"),
        (false, 3) | (true, 1) => "ICMP unreachable".to_owned(),
        (false, 11) | (true, 3) => "ICMP time exceeded".to_owned(),
        (true, 2) => "ICMP packet too big".to_owned(),
        _ => format!("ICMP type {kind}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::point::Framing;
    use ntm_protocol::wire::Flags;

    fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 1, 0, 2, 203, 0, 113, 7];
        out[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        out.extend(payload);
        out
    }

    fn udp(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
        let length = (8 + data.len() as u16).to_be_bytes();
        let mut out = [source.to_be_bytes(), destination.to_be_bytes(), length, [0, 0]].concat();
        out.extend(data);
        ipv4(17, &out)
    }

    fn told(bytes: &[u8]) -> Option<Line> {
        let names = Names::from([("203.0.113.7".parse().unwrap(), "rs".to_owned())]);
        let wall = 1_795_590_000_123_456_789;
        let (interface, framing) = ("wlan0", Framing::Ip);
        tell(&Frame { interface, framing, wall, outgoing: true, length: bytes.len(), bytes }, &names)
    }

    fn message(kind: Kind) -> Vec<u8> {
        let flags = Flags { encrypted: true, responder: false, leg: true };
        let header = Header { kind, flags, suite: 1, epoch: 2, length: 84, sequence: 5, id: [0xa3; 16] };
        [&header.emit()[..], &[0; 100]].concat()
    }

    #[test]
    fn messages_and_packets_are_told_by_name() {
        let query = [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3][..], b"www\x04test\0", &[0, 16, 0, 1]].concat();
        let lines = [
            udp(NTM_PORT, NTM_PORT, &message(Kind::TunnelRequest)),
            udp(NTM_PORT, NTM_PORT, &message(Kind::RegistrationRequest)),
            udp(NTM_PORT, NTM_PORT, &message(Kind::Data)),
            udp(NTM_PORT, NTM_PORT, &[9; 40]),
            udp(40000, DNS_PORT, &query),
            udp(40000, 9, &[0; 30]),
            ipv4(
                6,
                &[&[0x9c, 0x40, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x12][..], &[0; 6], b"hello"].concat(),
            ),
            ipv4(1, &[8, 0, 0, 0, 0, 1, 0, 3]),
        ];
        let text: Vec<String> = lines.iter().map(|bytes| told(bytes).unwrap().text).collect();
        insta::assert_snapshot!(text.join("\n"));
        let control: Vec<bool> = lines.iter().map(|bytes| told(bytes).unwrap().is_control).collect();
        assert_eq!(control, [true, true, false, true, true, false, false, false]);
    }

    #[test]
    fn whatever_the_bytes_it_never_panics() {
        for whole in [
            udp(NTM_PORT, NTM_PORT, &message(Kind::Data)),
            udp(1, DNS_PORT, &[0xff; 60]),
            ipv4(6, &[0xff; 30]),
        ] {
            for cut in 0..=whole.len() {
                told(&whole[..cut]);
            }
        }
    }
}
