//! What measurements need to know of a packet: addresses and ports, TCP flags, and the NTM header.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ntm_protocol::addr::NTM_PORT;
use ntm_protocol::wire::Kind;

/// An IP packet that passed an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// When, in nanoseconds of the run's clock.
    pub t: u64,
    /// Whether the node sent it.
    pub outgoing: bool,
    /// Source address and port; port 0 where there is none.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
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
    /// The second or a later part of a packet that was cut up.
    Fragment,
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

/// As much of a packet as [`parse`] reads: IP and TCP headers with all options, and an NTM header's type.
pub const NEEDED: usize = 120;

/// What an IP header says.
struct Ip {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// Bytes of the header.
    header: usize,
    /// Bytes of the whole packet.
    total: usize,
    /// Whether what follows is not the beginning of the payload.
    is_later_fragment: bool,
}

fn ip(bytes: &[u8]) -> Option<Ip> {
    let short = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    match bytes.first()? >> 4 {
        4 => {
            let header = usize::from(bytes[0] & 15) * 4;
            if header < 20 || bytes.len() < header {
                return None;
            }
            let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
            Some(Ip {
                source: address(12).into(),
                destination: address(16).into(),
                protocol: bytes[9],
                header,
                // A packet before segmentation offload can be larger than its field: zero stands for that.
                total: usize::from(short(2)?),
                is_later_fragment: short(6)? & 0x1fff != 0,
            })
        }
        6 => {
            /// RFC 8200, section 4.5: a header of eight bytes.
            const FRAGMENT: u8 = 44;
            let address = |at: usize| Some(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?));
            let (source, destination) = (address(8)?.into(), address(24)?.into());
            let total = 40 + usize::from(short(4)?);
            let (protocol, header, is_later_fragment) = match bytes[6] {
                FRAGMENT => (*bytes.get(40)?, 48, short(42)? >> 3 != 0),
                protocol => (protocol, 40, false),
            };
            Some(Ip { source, destination, protocol, header, total, is_later_fragment })
        }
        _ => None,
    }
}

/// The number of the protocol that an IP packet carries, and what follows its header; nothing of a later fragment.
pub fn payload(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let header = ip(bytes)?;
    // Behind the packet an Ethernet frame may be padded.
    let end = if header.total == 0 { bytes.len() } else { header.total.min(bytes.len()) };
    let inner = bytes.get(header.header..end)?;
    (!header.is_later_fragment).then_some((header.protocol, inner))
}

/// Reads an IP packet of which the first bytes are `bytes`; `None` if it is none.
pub fn parse(t: u64, outgoing: bool, bytes: &[u8]) -> Option<Packet> {
    let Ip { source, destination, protocol, header, total, is_later_fragment } = ip(bytes)?;
    let inner = bytes.get(header..)?;
    let port = |at: usize| inner.get(at..at + 2).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]));
    let (ports, content) = match protocol {
        _ if is_later_fragment => ((0, 0), Content::Fragment),
        6 if inner.len() >= 20 => {
            let data = total.saturating_sub(header + usize::from(inner[12] >> 4) * 4);
            let opens = inner[13] & 0x12 == 0x02;
            ((port(0), port(2)), Content::Tcp { opens, data: data as u32 })
        }
        17 if inner.len() >= 8 => {
            let (source, destination) = (port(0), port(2));
            ((source, destination), udp(source, destination, &inner[8..], total.saturating_sub(header + 8)))
        }
        1 | 58 if !inner.is_empty() => ((0, 0), Content::Icmp(inner[0])),
        _ => ((0, 0), Content::Other),
    };
    Some(Packet {
        t,
        outgoing,
        source: SocketAddr::new(source, ports.0),
        destination: SocketAddr::new(destination, ports.1),
        content,
    })
}

/// A whole IP packet that is no fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whole<'a> {
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// What it carries, by IANA's number.
    pub protocol: u8,
    /// What follows its header.
    pub transport: &'a [u8],
}

impl<'a> Whole<'a> {
    /// What a UDP datagram from or to `port` carries; `None` if this is none.
    pub fn between(&self, port: u16) -> Option<&'a [u8]> {
        let is = |at: usize| self.transport.get(at..at + 2).is_some_and(|pair| *pair == port.to_be_bytes());
        self.transport.get(8..).filter(|_| self.protocol == 17 && (is(0) || is(2)))
    }
}

/// Reads an IP packet that `bytes` are all of; `None` where they are not, or it is a fragment.
pub fn whole(bytes: &[u8]) -> Option<Whole<'_>> {
    let short = |at: usize| Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
    let Ip { source, destination, protocol, header, total, .. } = ip(bytes)?;
    let is_fragment = match bytes[0] >> 4 {
        4 => short(6)? & 0x3fff != 0,
        _ => header > 40,
    };
    let transport = bytes.get(header..).filter(|_| total == bytes.len() && !is_fragment)?;
    Some(Whole { source, destination, protocol, transport })
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

    /// T3.1-d: tunnels over IPv6 are measured like those over IPv4.
    #[test]
    fn ipv6_is_read_like_ipv4() {
        let datagram = [0x10, 0xea, 0xc0, 0x00, 0, 10, 0, 0, 1, Kind::Data as u8];
        let mut bytes = vec![0x60, 0, 0, 0, 0, 10, 17, 64];
        bytes.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend("2001:db8::2".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend(datagram);
        let packet = parse(7, true, &bytes).unwrap();
        assert_eq!(packet.source.to_string(), "[2001:db8::1]:4330");
        assert_eq!(packet.content, Content::Ntm(NtmKind::Data));
        // The same as the first fragment of two, and as the second.
        (bytes[5], bytes[6]) = (18, 44);
        bytes.splice(40..40, [17, 0, 0, 1, 0, 0, 0, 9]);
        assert_eq!(parse(7, true, &bytes).unwrap().content, Content::Ntm(NtmKind::Data));
        bytes[43] = 8;
        assert_eq!(parse(7, true, &bytes).unwrap().content, Content::Fragment);
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
