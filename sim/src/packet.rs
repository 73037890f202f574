//! What applications send: UDP, TCP and ICMP echo in IPv4 (RFC 768, RFC 791, RFC 792, RFC 9293), with checksums that are checked.

use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::network::Datagram;

pub use ntm_nat::Protocol;
use ntm_nat::Segment;
use ntm_protocol::inner::checksum;

const IP: usize = 20;
const UDP: usize = 8;
/// Type, code, checksum and identifier; the sequence number counts as part of what is carried.
const ICMP: usize = 6;
/// The ports; the rest of the header counts as part of what is carried, its checksum as 0.
const TCP: usize = 4;
/// What there is behind the ports at least.
const TCP_REST: usize = 16;
/// Where the flags are, and the checksum, behind the ports.
const TCP_FLAGS: usize = 9;
const TCP_SUM: usize = 12;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// A packet as applications see it.
///
/// Of an ICMP echo the query identifier stands where the port of the one who asks would, as in [`ntm_nat::Flow`]; the other port is 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// UDP, TCP or ICMP.
    pub protocol: Protocol,
    /// Source address and port.
    pub source: SocketAddrV4,
    /// Destination address and port.
    pub destination: SocketAddrV4,
    /// What it carries; of an ICMP echo the sequence number first, of TCP the header behind the ports, without its checksum.
    pub payload: Vec<u8>,
}

impl From<Packet> for Datagram {
    fn from(Packet { protocol, source, destination, payload }: Packet) -> Self {
        Self { protocol, source: source.into(), destination: destination.into(), payload }
    }
}

impl Packet {
    /// `datagram`, if it is in IPv4, as all is inside a tunnel.
    pub fn of(Datagram { protocol, source, destination, payload }: Datagram) -> Option<Self> {
        match (source, destination) {
            (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
                Some(Self { protocol, source, destination, payload })
            }
            _ => None,
        }
    }

    /// The packet as bytes.
    pub fn emit(&self) -> Vec<u8> {
        let header = match self.protocol {
            Protocol::Udp => UDP,
            Protocol::Icmp => ICMP,
            Protocol::Tcp => TCP,
        };
        let length = IP + header + self.payload.len();
        let mut bytes = vec![0; length];
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        bytes[8] = 64;
        bytes[12..16].copy_from_slice(&self.source.ip().octets());
        bytes[16..20].copy_from_slice(&self.destination.ip().octets());
        bytes[IP + header..].copy_from_slice(&self.payload);
        if self.protocol == Protocol::Tcp {
            bytes[9] = 6;
            bytes[20..22].copy_from_slice(&self.source.port().to_be_bytes());
            bytes[22..24].copy_from_slice(&self.destination.port().to_be_bytes());
            let whole = !pseudo_sum(&bytes, 6);
            if let Some(place) = bytes.get_mut(IP + TCP + TCP_SUM..IP + TCP + TCP_SUM + 2) {
                place.copy_from_slice(&whole.to_be_bytes());
            }
        } else if self.protocol == Protocol::Icmp {
            let is_request = self.destination.port() == 0;
            let (kind, id) = if is_request {
                (ECHO_REQUEST, self.source.port())
            } else {
                (ECHO_REPLY, self.destination.port())
            };
            (bytes[9], bytes[20]) = (1, kind);
            bytes[24..26].copy_from_slice(&id.to_be_bytes());
            let whole = !sum(&bytes[IP..], 0);
            bytes[22..24].copy_from_slice(&whole.to_be_bytes());
        } else {
            bytes[9] = 17;
            bytes[20..22].copy_from_slice(&self.source.port().to_be_bytes());
            bytes[22..24].copy_from_slice(&self.destination.port().to_be_bytes());
            bytes[24..26].copy_from_slice(&((length - IP) as u16).to_be_bytes());
            let whole = match !pseudo_sum(&bytes, 17) {
                0 => u16::MAX,
                sum => sum,
            };
            bytes[26..28].copy_from_slice(&whole.to_be_bytes());
        }
        let header = sum(&bytes[..IP], 0);
        bytes[10..12].copy_from_slice(&(!header).to_be_bytes());
        bytes
    }

    /// Reads a packet; `None` where it is not well formed, a checksum is wrong, or it is neither UDP, TCP nor an echo.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let short = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
        let whole = bytes.len() >= IP
            && bytes[0] == 0x45
            && usize::from(short(2)?) == bytes.len()
            && sum(&bytes[..IP], 0) == u16::MAX;
        if !whole {
            return None;
        }
        let (protocol, header, ports) = match bytes[9] {
            17 if usize::from(short(24)?) == bytes.len() - IP && pseudo_sum(bytes, 17) == u16::MAX => {
                (Protocol::Udp, UDP, (short(20)?, short(22)?))
            }
            6 if bytes.len() >= IP + TCP + TCP_REST && pseudo_sum(bytes, 6) == u16::MAX => {
                (Protocol::Tcp, TCP, (short(20)?, short(22)?))
            }
            1 if sum(&bytes[IP..], 0) == u16::MAX && bytes.get(21) == Some(&0) => {
                let id = short(24)?;
                match bytes[20] {
                    ECHO_REQUEST if id != 0 => (Protocol::Icmp, ICMP, (id, 0)),
                    ECHO_REPLY if id != 0 => (Protocol::Icmp, ICMP, (0, id)),
                    _ => return None,
                }
            }
            _ => return None,
        };
        let address = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]].into();
        let mut payload = bytes.get(IP + header..)?.to_vec();
        if protocol == Protocol::Tcp {
            // Whoever changes an address or a port need not mind it.
            payload.get_mut(TCP_SUM..TCP_SUM + 2)?.fill(0);
        }
        Some(Self {
            protocol,
            source: SocketAddrV4::new(address(12), ports.0),
            destination: SocketAddrV4::new(address(16), ports.1),
            payload,
        })
    }
}

/// A UDP datagram in IPv6 (RFC 8200, RFC 768) as bytes.
pub(crate) fn emit_v6(source: SocketAddrV6, destination: SocketAddrV6, payload: &[u8]) -> Vec<u8> {
    const HEADER: usize = 40;
    let length = (UDP + payload.len()) as u16;
    let mut bytes = vec![0; HEADER + UDP];
    bytes[0] = 0x60;
    bytes[4..6].copy_from_slice(&length.to_be_bytes());
    (bytes[6], bytes[7]) = (17, 64);
    bytes[8..24].copy_from_slice(&source.ip().octets());
    bytes[24..40].copy_from_slice(&destination.ip().octets());
    bytes[40..42].copy_from_slice(&source.port().to_be_bytes());
    bytes[42..44].copy_from_slice(&destination.port().to_be_bytes());
    bytes[44..46].copy_from_slice(&length.to_be_bytes());
    bytes.extend(payload);
    // The pseudo header of RFC 8200, section 8.1, has the same words as that of IPv4.
    let whole = match !sum(&bytes[8..], 17 + u32::from(length)) {
        0 => u16::MAX,
        sum => sum,
    };
    bytes[46..48].copy_from_slice(&whole.to_be_bytes());
    bytes
}

/// What a TCP segment, which is carried as in [`Packet::payload`], does to a connection.
pub(crate) fn segment(payload: &[u8]) -> Segment {
    const FIN_OR_RST: u8 = 0x05;
    const SYN: u8 = 0x02;
    match payload.get(TCP_FLAGS) {
        Some(flags) if flags & FIN_OR_RST != 0 => Segment::Close,
        Some(flags) if flags & SYN != 0 => Segment::Open,
        _ => Segment::Data,
    }
}

/// The sequence number of a TCP segment, and how many bytes it carries.
pub(crate) fn stretch(payload: &[u8]) -> Option<(u32, usize)> {
    let sequence = u32::from_be_bytes(*payload.first_chunk()?);
    let header = usize::from(payload.get(TCP_FLAGS - 1)? >> 4) * 4;
    Some((sequence, (payload.len() + TCP).checked_sub(header)?))
}

/// The sum over the pseudo header and what follows the header of a packet of `protocol`.
fn pseudo_sum(packet: &[u8], protocol: u32) -> u16 {
    let length = packet.len() - IP;
    sum(&packet[12..], protocol + length as u32)
}

/// The ones' complement sum (RFC 1071).
fn sum(bytes: &[u8], start: u32) -> u16 {
    checksum::fold(checksum::sum(bytes, start.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_in_ipv6_has_a_right_checksum() {
        let at = |text: &str| text.parse::<SocketAddrV6>().unwrap();
        let bytes = emit_v6(at("[2001:db8::1]:4330"), at("[2001:db8::2]:7"), b"odd");
        assert_eq!((bytes.len(), sum(&bytes[8..], 17 + 11)), (51, u16::MAX));
    }

    #[test]
    fn segments_say_what_they_are() {
        // Of RFC 9293, section 3.1: number 1, acknowledging 2, five words of header, the flags, a window.
        let of = |flags: u8, data: &[u8]| {
            [&[0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0, 0, 0, 0][..], data].concat()
        };
        assert_eq!(segment(&of(0x12, b"")), Segment::Open);
        assert_eq!(segment(&of(0x10, b"data")), Segment::Data);
        assert_eq!([0x11, 0x04].map(|flags| segment(&of(flags, b""))), [Segment::Close; 2]);
        assert_eq!((stretch(&of(0x10, b"data")), stretch(b"")), (Some((1, 4)), None));
    }

    #[test]
    fn packets_round_trip_and_a_changed_bit_is_noticed() {
        let ends = [
            (Protocol::Udp, 40_000, 7),
            (Protocol::Tcp, 40_000, 80),
            (Protocol::Icmp, 40_000, 0),
            (Protocol::Icmp, 0, 40_000),
        ];
        for (protocol, source, destination) in ends {
            for carried in [&b""[..], b"odd", b"even"] {
                let header: &[u8] = if protocol == Protocol::Tcp { &[0; TCP_REST] } else { &[] };
                let payload = [header, carried].concat();
                let packet = Packet {
                    protocol,
                    source: SocketAddrV4::new([198, 18, 0, 1].into(), source),
                    destination: SocketAddrV4::new([198, 18, 0, 2].into(), destination),
                    payload,
                };
                let bytes = packet.emit();
                assert_eq!(Packet::parse(&bytes), Some(packet.clone()));
                for bit in 0..bytes.len() * 8 {
                    let mut bad = bytes.clone();
                    bad[bit / 8] ^= 1 << (bit % 8);
                    assert_eq!(Packet::parse(&bad), None, "{packet:?} bit {bit}");
                }
                for cut in 0..bytes.len() {
                    assert_eq!(Packet::parse(&bytes[..cut]), None);
                }
            }
        }
    }
}
