//! What travels: UDP, TCP, ICMP echoes and ICMP errors in IPv4 and IPv6 (RFC 768, RFC 791, RFC 792, RFC 4443, RFC 8200, RFC 9293), with checksums that are
//! checked.

use std::net::{IpAddr, SocketAddr};

pub use ntm_nat::Protocol;
use ntm_nat::{Flow, Segment};
use ntm_protocol::inner::checksum;

use crate::trouble::Trouble;

/// Lengths of headers, in bytes.
const V4: usize = 20;
const V6: usize = 40;
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
/// Type, code, checksum and what else an ICMP error says, before the packet that it quotes.
const ERROR: usize = 8;
/// Flags of IPv4: not to be cut up.
const DONT_FRAGMENT: u16 = 0x4000;

/// A packet under way, as it is at this point of the way.
///
/// Of an ICMP echo the query identifier stands where the port of the one who asks would, as in [`ntm_nat::Flow`]; the other port is 0. Of an ICMP error both are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// UDP, TCP or ICMP.
    pub protocol: Protocol,
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
    /// Whether it must not be cut up on its way: it has "don't fragment", or, in IPv6, was not cut up by its sender.
    pub whole: bool,
    /// What it carries; of an ICMP echo the sequence number first, of TCP the header behind the ports, without its checksum. Of an ICMP error all but the
    /// checksum.
    pub payload: Vec<u8>,
}

/// By their numbers: what asks for an echo, and what answers.
fn echoes(address: IpAddr) -> (u8, u8) {
    if address.is_ipv4() { (8, 0) } else { (128, 129) }
}

fn number(protocol: Protocol, address: IpAddr) -> u8 {
    match protocol {
        Protocol::Udp => 17,
        Protocol::Tcp => 6,
        Protocol::Icmp if address.is_ipv4() => 1,
        Protocol::Icmp => 58,
    }
}

impl Packet {
    /// A UDP datagram that may be cut up.
    pub fn udp(source: SocketAddr, destination: SocketAddr, payload: Vec<u8>) -> Self {
        Self { protocol: Protocol::Udp, source, destination, whole: false, payload }
    }

    /// What an echo application answers with: the same, turned round.
    pub(crate) fn turned(self) -> Self {
        Self { source: self.destination, destination: self.source, ..self }
    }

    /// Whether it is an ICMP error.
    pub fn is_error(&self) -> bool {
        self.protocol == Protocol::Icmp && (self.source.port(), self.destination.port()) == (0, 0)
    }

    /// As a NAT sees it; of an ICMP error that is the packet that it quotes.
    pub(crate) fn flow(&self) -> Option<Flow> {
        if self.is_error() {
            return Some(Trouble::of(self)?.quoted);
        }
        let Self { protocol, source, destination, .. } = *self;
        let segment = if protocol == Protocol::Tcp { segment(&self.payload) } else { Segment::Data };
        Some(Flow { protocol, source, destination, segment })
    }

    /// The same with the addresses and ports that a NAT gave it, or, to an ICMP error, the packet that it quotes.
    pub(crate) fn translated(self, flow: Flow) -> Self {
        match self.is_error() {
            true => Trouble::requoted(self, flow),
            false => Self { source: flow.source, destination: flow.destination, ..self },
        }
    }

    /// The length of its IP header, in bytes.
    fn ip(&self) -> usize {
        if self.destination.is_ipv4() { V4 } else { V6 }
    }

    /// What of the header behind that of IP is no part of what it carries, in bytes.
    fn header(&self) -> usize {
        match self.protocol {
            Protocol::Udp => UDP,
            Protocol::Tcp => TCP,
            // The checksum.
            Protocol::Icmp if self.is_error() => 2,
            Protocol::Icmp => ICMP,
        }
    }

    /// Its length in bytes, whole, with the IP header.
    pub(crate) fn length(&self) -> usize {
        self.ip() + self.header() + self.payload.len()
    }

    /// The packet as bytes.
    pub fn emit(&self) -> Vec<u8> {
        self.emit_as(0)
    }

    /// The same with a number, by which what it is cut up into is put together again.
    pub(crate) fn emit_as(&self, id: u16) -> Vec<u8> {
        let (ip, length) = (self.ip(), self.length());
        let mut bytes = vec![0; length];
        let (sum_at, body) = match self.protocol {
            Protocol::Udp => {
                bytes[ip + 4..ip + 6].copy_from_slice(&((length - ip) as u16).to_be_bytes());
                (6, UDP)
            }
            Protocol::Tcp => (TCP + TCP_SUM, TCP),
            Protocol::Icmp => (2, ICMP),
        };
        if self.is_error() {
            bytes[ip..ip + 2].copy_from_slice(&self.payload[..2]);
            bytes[ip + 4..].copy_from_slice(&self.payload[2..]);
        } else {
            bytes[ip + body..].copy_from_slice(&self.payload);
        }
        if self.protocol == Protocol::Icmp && !self.is_error() {
            let (request, reply) = echoes(self.destination.ip());
            let is_request = self.destination.port() == 0;
            let (kind, id) =
                if is_request { (request, self.source.port()) } else { (reply, self.destination.port()) };
            bytes[ip] = kind;
            bytes[ip + 4..ip + 6].copy_from_slice(&id.to_be_bytes());
        } else if self.protocol != Protocol::Icmp {
            bytes[ip..ip + 2].copy_from_slice(&self.source.port().to_be_bytes());
            bytes[ip + 2..ip + 4].copy_from_slice(&self.destination.port().to_be_bytes());
        }
        self.write_ip(&mut bytes, id);
        let whole = match !transport_sum(&bytes, ip) {
            0 if self.protocol == Protocol::Udp => u16::MAX,
            sum => sum,
        };
        if let Some(place) = bytes.get_mut(ip + sum_at..ip + sum_at + 2) {
            place.copy_from_slice(&whole.to_be_bytes());
        }
        bytes
    }

    fn write_ip(&self, bytes: &mut [u8], id: u16) {
        let (length, number) = (bytes.len(), number(self.protocol, self.destination.ip()));
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes[0] = 0x60;
                bytes[4..6].copy_from_slice(&((length - V6) as u16).to_be_bytes());
                (bytes[6], bytes[7]) = (number, 64);
                bytes[8..24].copy_from_slice(&source.octets());
                bytes[24..V6].copy_from_slice(&destination.octets());
            }
            (source, destination) => {
                bytes[0] = 0x45;
                bytes[2..4].copy_from_slice(&(length as u16).to_be_bytes());
                bytes[4..6].copy_from_slice(&id.to_be_bytes());
                let flags = if self.whole { DONT_FRAGMENT } else { 0 };
                bytes[6..8].copy_from_slice(&flags.to_be_bytes());
                (bytes[8], bytes[9]) = (64, number);
                for (at, address) in [(12, source), (16, destination)] {
                    if let IpAddr::V4(address) = address {
                        bytes[at..at + 4].copy_from_slice(&address.octets());
                    }
                }
                let header = sum(&bytes[..V4], 0);
                bytes[10..12].copy_from_slice(&(!header).to_be_bytes());
            }
        }
    }

    /// Reads a packet; `None` where it is not well formed, a checksum is wrong, it is a fragment, or it is neither UDP, TCP, an echo nor an ICMP error.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (ip, number, source, destination, whole) = match bytes.first()? >> 4 {
            4 => {
                let fixed = bytes.first_chunk::<V4>()?;
                let flags = short(fixed, 6)?;
                let is_whole = fixed[0] == 0x45
                    && usize::from(short(fixed, 2)?) == bytes.len()
                    && sum(fixed, 0) == u16::MAX
                    && flags & !DONT_FRAGMENT == 0;
                let address =
                    |at: usize| IpAddr::from([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
                is_whole.then_some((V4, fixed[9], address(12), address(16), flags != 0))?
            }
            6 => {
                let fixed = bytes.first_chunk::<V6>()?;
                let address = |at: usize| fixed[at..].first_chunk::<16>().map(|octets| IpAddr::from(*octets));
                let is_whole = V6 + usize::from(short(fixed, 4)?) == bytes.len();
                is_whole.then_some((V6, fixed[6], address(8)?, address(24)?, true))?
            }
            _ => return None,
        };
        let transport = bytes.get(ip..)?;
        if transport_sum(bytes, ip) != u16::MAX {
            return None;
        }
        let ports = || Some((short(transport, 0)?, short(transport, 2)?));
        let (protocol, header, ports) = match number {
            17 if usize::from(short(transport, 4)?) == transport.len() => (Protocol::Udp, UDP, ports()?),
            6 if transport.len() >= TCP + TCP_REST => (Protocol::Tcp, TCP, ports()?),
            1 | 58 if (number == 1) == source.is_ipv4() => {
                let (request, reply) = echoes(source);
                let id = short(transport, 4)?;
                match (*transport.first()?, *transport.get(1)?) {
                    (kind, 0) if kind == request && id != 0 => (Protocol::Icmp, ICMP, (id, 0)),
                    (kind, 0) if kind == reply && id != 0 => (Protocol::Icmp, ICMP, (0, id)),
                    _ if Trouble::is(transport, source) && transport.len() >= ERROR => {
                        (Protocol::Icmp, 2, (0, 0))
                    }
                    _ => return None,
                }
            }
            _ => return None,
        };
        let mut payload = transport.get(header..)?.to_vec();
        if protocol == Protocol::Tcp {
            // Whoever changes an address or a port need not mind it.
            payload.get_mut(TCP_SUM..TCP_SUM + 2)?.fill(0);
        }
        if protocol == Protocol::Icmp && header == 2 {
            payload[..2].copy_from_slice(&transport[..2]);
        }
        let (source, destination) = (SocketAddr::new(source, ports.0), SocketAddr::new(destination, ports.1));
        Some(Self { protocol, source, destination, whole, payload })
    }
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

/// Whether a TCP segment, carried as in [`Packet::payload`], is a reset.
pub(crate) fn is_reset(payload: &[u8]) -> bool {
    const RST: u8 = 0x04;
    payload.get(TCP_FLAGS).is_some_and(|flags| flags & RST != 0)
}

/// The sequence number of a TCP segment, and how many bytes it carries.
pub(crate) fn stretch(payload: &[u8]) -> Option<(u32, usize)> {
    let sequence = u32::from_be_bytes(*payload.first_chunk()?);
    let header = usize::from(payload.get(TCP_FLAGS - 1)? >> 4) * 4;
    Some((sequence, (payload.len() + TCP).checked_sub(header)?))
}

pub(crate) fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The sum over what follows the IP header of a packet, and over the pseudo header where the protocol has one (RFC 9293, section 3.1, RFC 8200, section 8.1).
fn transport_sum(packet: &[u8], ip: usize) -> u16 {
    let is_v4 = ip == V4;
    let (number, addresses) = if is_v4 { (packet[9], 12) } else { (packet[6], 8) };
    match number {
        1 if is_v4 => sum(&packet[ip..], 0),
        number => sum(&packet[addresses..], u32::from(number) + (packet.len() - ip) as u32),
    }
}

/// The ones' complement sum (RFC 1071).
pub(crate) fn sum(bytes: &[u8], start: u32) -> u16 {
    checksum::fold(checksum::sum(bytes, start.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let families: [[IpAddr; 2]; 2] = [
            [[198, 18, 0, 1].into(), [198, 18, 0, 2].into()],
            ["2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap()],
        ];
        let all = families.into_iter().flat_map(|family| ends.map(|ends| (family, ends)));
        for ([from, to], (protocol, source, destination)) in all {
            for carried in [&b""[..], b"odd", b"even"] {
                let header: &[u8] = if protocol == Protocol::Tcp { &[0; TCP_REST] } else { &[] };
                let payload = [header, carried].concat();
                let packet = Packet {
                    protocol,
                    source: SocketAddr::new(from, source),
                    destination: SocketAddr::new(to, destination),
                    whole: true,
                    payload,
                };
                let bytes = packet.emit();
                assert_eq!(Packet::parse(&bytes), Some(packet.clone()));
                // No checksum is over class, flow label and hops of IPv6.
                let unguarded = |bit: usize| from.is_ipv6() && matches!(bit, 0..4 | 8..32 | 56..64);
                for bit in (0..bytes.len() * 8).filter(|bit| !unguarded(*bit)) {
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
