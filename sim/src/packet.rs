//! What applications send: UDP and ICMP echo in IPv4 (RFC 768, RFC 791, RFC 792), with checksums that are checked.

use std::net::{SocketAddr, SocketAddrV4};

use crate::network::Datagram;

pub use ntm_nat::Protocol;

const IP: usize = 20;
const UDP: usize = 8;
/// Type, code, checksum and identifier; the sequence number counts as part of what is carried.
const ICMP: usize = 6;
const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// A packet as applications see it.
///
/// Of an ICMP echo the query identifier stands where the port of the one who asks would, as in [`ntm_nat::Flow`]; the other port is 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// UDP or ICMP.
    pub protocol: Protocol,
    /// Source address and port.
    pub source: SocketAddrV4,
    /// Destination address and port.
    pub destination: SocketAddrV4,
    /// What it carries; of an ICMP echo the sequence number first.
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
    ///
    /// # Panics
    ///
    /// If it is TCP, of which there is none here.
    pub fn emit(&self) -> Vec<u8> {
        let header = match self.protocol {
            Protocol::Udp => UDP,
            Protocol::Icmp => ICMP,
            Protocol::Tcp => panic!("no application here sends TCP"),
        };
        let length = IP + header + self.payload.len();
        let mut bytes = vec![0; length];
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        bytes[8] = 64;
        bytes[12..16].copy_from_slice(&self.source.ip().octets());
        bytes[16..20].copy_from_slice(&self.destination.ip().octets());
        bytes[IP + header..].copy_from_slice(&self.payload);
        if self.protocol == Protocol::Icmp {
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
            let whole = match !udp_sum(&bytes) {
                0 => u16::MAX,
                sum => sum,
            };
            bytes[26..28].copy_from_slice(&whole.to_be_bytes());
        }
        let header = sum(&bytes[..IP], 0);
        bytes[10..12].copy_from_slice(&(!header).to_be_bytes());
        bytes
    }

    /// Reads a packet; `None` where it is not well formed, a checksum is wrong, or it is neither UDP nor an echo.
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
            17 if usize::from(short(24)?) == bytes.len() - IP && udp_sum(bytes) == u16::MAX => {
                (Protocol::Udp, UDP, (short(20)?, short(22)?))
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
        Some(Self {
            protocol,
            source: SocketAddrV4::new(address(12), ports.0),
            destination: SocketAddrV4::new(address(16), ports.1),
            payload: bytes.get(IP + header..)?.to_vec(),
        })
    }
}

/// The sum over the pseudo header and the UDP datagram.
fn udp_sum(packet: &[u8]) -> u16 {
    let length = packet.len() - IP;
    sum(&packet[12..], 17 + length as u32)
}

/// The ones' complement sum (RFC 1071).
fn sum(bytes: &[u8], start: u32) -> u16 {
    let words =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum = words.fold(start, |sum, word| sum + word);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_round_trip_and_a_changed_bit_is_noticed() {
        let ends = [(Protocol::Udp, 40_000, 7), (Protocol::Icmp, 40_000, 0), (Protocol::Icmp, 0, 40_000)];
        for (protocol, source, destination) in ends {
            for payload in [&b""[..], b"odd", b"even"] {
                let packet = Packet {
                    protocol,
                    source: SocketAddrV4::new([198, 18, 0, 1].into(), source),
                    destination: SocketAddrV4::new([198, 18, 0, 2].into(), destination),
                    payload: payload.to_vec(),
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
