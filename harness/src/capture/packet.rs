//! What measurements need to know of a packet: IPv4 addresses and ports, TCP flags, and the NTM header.

use std::net::{Ipv4Addr, SocketAddrV4};

use ntm_protocol::addr::NTM_PORT;
use ntm_protocol::wire::Kind;

/// An IPv4 packet that passed an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// When, in nanoseconds of the run's clock.
    pub t: u64,
    /// Whether the node sent it.
    pub outgoing: bool,
    /// Source address and port; port 0 where there is none.
    pub source: SocketAddrV4,
    /// Destination address and port.
    pub destination: SocketAddrV4,
    /// What it carries.
    pub content: Content,
}

/// What a packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A TCP segment.
    Tcp {
        /// With SYN and without ACK.
        opens: bool,
        /// Bytes of data.
        data: u32,
    },
    /// A datagram of NTMobile.
    Ntm(NtmKind),
    /// Any other UDP datagram, with its bytes of data.
    Udp(u32),
    /// An ICMP message of this type.
    Icmp(u8),
    /// Anything else.
    Other,
}

/// What an NTM datagram is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NtmKind {
    /// A packet between applications.
    Data,
    /// Everything else.
    Control,
}

/// As much of a packet as [`parse`] reads: IPv4 and TCP headers with all options, and an NTM header's type.
pub const NEEDED: usize = 120;

/// Reads an IPv4 packet of which the first bytes are `bytes`; `None` if it is none.
pub fn parse(t: u64, outgoing: bool, bytes: &[u8]) -> Option<Packet> {
    let first = *bytes.first()?;
    let header = usize::from(first & 15) * 4;
    if first >> 4 != 4 || header < 20 || bytes.len() < header {
        return None;
    }
    let total = usize::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    // A packet before segmentation offload can be larger than its field: zero stands for that.
    let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
    let fragment = u16::from_be_bytes([bytes[6], bytes[7]]) & 0x1fff;
    let inner = &bytes[header..];
    let port = |at: usize| inner.get(at..at + 2).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]));
    let (ports, content) = match bytes[9] {
        _ if fragment != 0 => ((0, 0), Content::Other),
        6 if inner.len() >= 20 => {
            let data = total.saturating_sub(header + usize::from(inner[12] >> 4) * 4);
            let opens = inner[13] & 0x12 == 0x02;
            ((port(0), port(2)), Content::Tcp { opens, data: data as u32 })
        }
        17 if inner.len() >= 8 => {
            let (source, destination) = (port(0), port(2));
            ((source, destination), udp(source, destination, &inner[8..], total.saturating_sub(header + 8)))
        }
        1 if !inner.is_empty() => ((0, 0), Content::Icmp(inner[0])),
        _ => ((0, 0), Content::Other),
    };
    Some(Packet {
        t,
        outgoing,
        source: SocketAddrV4::new(address(12), ports.0),
        destination: SocketAddrV4::new(address(16), ports.1),
        content,
    })
}

fn udp(source: u16, destination: u16, data: &[u8], length: usize) -> Content {
    if source != NTM_PORT && destination != NTM_PORT {
        return Content::Udp(length as u32);
    }
    match data.get(1) {
        Some(&kind) if kind == Kind::Data as u8 => Content::Ntm(NtmKind::Data),
        Some(_) => Content::Ntm(NtmKind::Control),
        None => Content::Udp(length as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipv4(protocol: u8, inner: &[u8]) -> Vec<u8> {
        let total = (20 + inner.len()) as u16;
        let mut out = vec![0x45, 0, (total >> 8) as u8, total as u8, 0, 0, 0x40, 0, 64, protocol, 0, 0];
        out.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        out.extend(inner);
        out
    }

    #[test]
    fn tcp_is_read() {
        let mut segment = vec![0x14, 0x51, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0];
        let packet = parse(7, true, &ipv4(6, &segment)).unwrap();
        assert_eq!(packet.source.to_string(), "10.0.0.1:5201");
        assert_eq!(packet.content, Content::Tcp { opens: true, data: 0 });
        segment[13] = 0x18;
        segment.extend([1, 2, 3]);
        let packet = parse(7, true, &ipv4(6, &segment)).unwrap();
        assert_eq!(packet.content, Content::Tcp { opens: false, data: 3 });
    }

    #[test]
    fn ntm_data_and_control_are_told_apart() {
        let datagram = |kind: u8| [0x10, 0xea, 0xc0, 0x00, 0, 10, 0, 0, 1, kind];
        let content = |kind: u8| parse(0, false, &ipv4(17, &datagram(kind))).unwrap().content;
        assert_eq!(content(Kind::Data as u8), Content::Ntm(NtmKind::Data));
        assert_eq!(content(Kind::TunnelRequest as u8), Content::Ntm(NtmKind::Control));
    }

    #[test]
    fn whatever_the_bytes_it_never_panics() {
        let whole = ipv4(6, &[0x50; 40]);
        for cut in 0..whole.len() {
            for first in [0x45, 0x4f, 0x40, 0x60, 0xff] {
                let mut bytes = whole[..cut].to_vec();
                if let Some(byte) = bytes.first_mut() {
                    *byte = first;
                }
                parse(0, false, &bytes);
            }
        }
    }
}
