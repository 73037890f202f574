//! What applications send: UDP in IPv4 (RFC 768, RFC 791), with checksums that are checked.

use std::net::SocketAddrV4;

const IP: usize = 20;
const UDP: usize = 8;

/// A UDP datagram as applications see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Source address and port.
    pub source: SocketAddrV4,
    /// Destination address and port.
    pub destination: SocketAddrV4,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Packet {
    /// The packet as bytes.
    pub fn emit(&self) -> Vec<u8> {
        let length = IP + UDP + self.payload.len();
        let mut bytes = vec![0; length];
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        (bytes[8], bytes[9]) = (64, 17);
        bytes[12..16].copy_from_slice(&self.source.ip().octets());
        bytes[16..20].copy_from_slice(&self.destination.ip().octets());
        let header = sum(&bytes[..IP], 0);
        bytes[10..12].copy_from_slice(&(!header).to_be_bytes());
        bytes[20..22].copy_from_slice(&self.source.port().to_be_bytes());
        bytes[22..24].copy_from_slice(&self.destination.port().to_be_bytes());
        bytes[24..26].copy_from_slice(&((length - IP) as u16).to_be_bytes());
        bytes[IP + UDP..].copy_from_slice(&self.payload);
        let whole = match !udp_sum(&bytes) {
            0 => u16::MAX,
            sum => sum,
        };
        bytes[26..28].copy_from_slice(&whole.to_be_bytes());
        bytes
    }

    /// Reads a packet; `None` where it is not well formed or a checksum is wrong.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let short = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let well_formed = bytes.len() >= IP + UDP
            && bytes[0] == 0x45
            && bytes[9] == 17
            && usize::from(short(2)) == bytes.len()
            && usize::from(short(24)) == bytes.len() - IP
            && sum(&bytes[..IP], 0) == u16::MAX
            && udp_sum(bytes) == u16::MAX;
        if !well_formed {
            return None;
        }
        let address = |at: usize| [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]].into();
        Some(Self {
            source: SocketAddrV4::new(address(12), short(20)),
            destination: SocketAddrV4::new(address(16), short(22)),
            payload: bytes[IP + UDP..].to_vec(),
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
        for payload in [&b""[..], b"odd", b"even"] {
            let packet = Packet {
                source: "198.18.0.1:40000".parse().unwrap(),
                destination: "198.18.0.2:7".parse().unwrap(),
                payload: payload.to_vec(),
            };
            let bytes = packet.emit();
            assert_eq!(Packet::parse(&bytes), Some(packet));
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Packet::parse(&bad), None, "bit {bit}");
            }
            for cut in 0..bytes.len() {
                assert_eq!(Packet::parse(&bytes[..cut]), None);
            }
        }
    }
}
