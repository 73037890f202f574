//! ICMP errors (RFC 792, RFC 4443): what tells a sender that its packet did not get there. They quote it, and NATs translate the quotation.

use std::net::{IpAddr, SocketAddr};

use ntm_nat::{Flow, Protocol, Segment};
use ntm_protocol::inner::checksum;

use crate::packet::{Packet, short};

/// Type, code and four bytes more, which stand in [`Packet::payload`] before the packet that is quoted.
const HEAD: usize = 6;
/// The most that is quoted, so that an error has 576 bytes (RFC 1812, section 4.3.2.3), and 1280 in IPv6 (RFC 4443, section 2.4).
const QUOTED: usize = 548;
const QUOTED_V6: usize = 1232;

/// What has happened to a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// Nobody listens at its port.
    Port,
    /// It is longer than `mtu` bytes, and must not be cut up.
    TooBig { mtu: u16 },
    /// Whatever else.
    Other,
}

/// What an ICMP error tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Trouble {
    pub(crate) why: Why,
    /// The packet that it is about.
    pub(crate) quoted: Flow,
}

/// Where what names the ends stands in a packet, and what it is.
struct Quoted {
    is_v4: bool,
    protocol: Protocol,
    /// Where the IP header has the source; the destination follows.
    addresses: usize,
    /// Where what the packet carries begins.
    transport: usize,
}

impl Quoted {
    fn read(packet: &[u8]) -> Option<Self> {
        let (is_v4, number, addresses, transport) = match packet.first()? >> 4 {
            4 => (true, *packet.get(9)?, 12, usize::from(packet[0] & 15) * 4),
            6 => (false, *packet.get(6)?, 8, 40),
            _ => return None,
        };
        let protocol = match number {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            1 | 58 => Protocol::Icmp,
            _ => return None,
        };
        let is_whole = transport >= if is_v4 { 20 } else { 40 } && packet.len() >= transport + 8;
        is_whole.then_some(Self { is_v4, protocol, addresses, transport })
    }

    fn address(&self, packet: &[u8], second: bool) -> Option<IpAddr> {
        let at = self.addresses + usize::from(second) * if self.is_v4 { 4 } else { 16 };
        Some(match self.is_v4 {
            true => IpAddr::from(*packet.get(at..)?.first_chunk::<4>()?),
            false => IpAddr::from(*packet.get(at..)?.first_chunk::<16>()?),
        })
    }

    /// Where the ports stand; of an echo there is one, that of the one who asked.
    fn ports(&self, packet: &[u8]) -> [Option<usize>; 2] {
        let at = self.transport;
        match (self.protocol, packet[at]) {
            (Protocol::Icmp, 8 | 128) => [Some(at + 4), None],
            (Protocol::Icmp, _) => [None, Some(at + 4)],
            _ => [Some(at), Some(at + 2)],
        }
    }

    fn flow(&self, packet: &[u8]) -> Option<Flow> {
        let ports = self.ports(packet).map(|at| at.and_then(|at| short(packet, at)).unwrap_or(0));
        let end =
            |second: bool| Some(SocketAddr::new(self.address(packet, second)?, ports[usize::from(second)]));
        Some(Flow {
            protocol: self.protocol,
            source: end(false)?,
            destination: end(true)?,
            segment: Segment::Data,
        })
    }

    /// Writes other ends of the same family.
    fn write(&self, packet: &mut [u8], ends: [SocketAddr; 2]) {
        for (index, (end, port)) in ends.into_iter().zip(self.ports(packet)).enumerate() {
            match end.ip() {
                IpAddr::V4(address) if self.is_v4 => {
                    let at = self.addresses + index * 4;
                    packet[at..at + 4].copy_from_slice(&address.octets());
                }
                IpAddr::V6(address) if !self.is_v4 => {
                    let at = self.addresses + index * 16;
                    packet[at..at + 16].copy_from_slice(&address.octets());
                }
                _ => {}
            }
            if let Some(at) = port {
                packet[at..at + 2].copy_from_slice(&end.port().to_be_bytes());
            }
        }
        if self.is_v4 {
            packet[10..12].fill(0);
            let sum = !checksum::fold(checksum::sum(&packet[..self.transport], 0));
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

impl Trouble {
    /// Whether the ICMP message of a packet from `source` is an error.
    pub(crate) fn is(message: &[u8], source: IpAddr) -> bool {
        let kind = message.first().copied();
        kind.is_some_and(|kind| if source.is_ipv4() { matches!(kind, 3 | 11 | 12) } else { kind < 128 })
    }

    /// What `packet` tells; `None` where it is no error, or quotes what is not understood.
    pub(crate) fn of(packet: &Packet) -> Option<Self> {
        if !packet.is_error() {
            return None;
        }
        let (head, quoted) = packet.payload.split_at_checked(HEAD)?;
        let mtu = |at: usize| short(head, at).unwrap_or(0);
        let why = match (packet.source.is_ipv4(), head[0], head[1]) {
            (true, 3, 3) | (false, 1, 4) => Why::Port,
            (true, 3, 4) | (false, 2, _) => Why::TooBig { mtu: mtu(4) },
            _ => Why::Other,
        };
        Some(Self { why, quoted: Quoted::read(quoted)?.flow(quoted)? })
    }

    /// The error that tells the sender of `packet`, from `from`; none about an error (RFC 1122, section 3.2.2).
    pub(crate) fn about(packet: &Packet, why: Why, from: IpAddr) -> Option<Packet> {
        if packet.is_error() {
            return None;
        }
        let is_v4 = from.is_ipv4();
        let (kind, code, mtu) = match (why, is_v4) {
            (Why::Port, true) => (3, 3, 0),
            (Why::Port, false) => (1, 4, 0),
            (Why::TooBig { mtu }, true) => (3, 4, mtu),
            (Why::TooBig { mtu }, false) => (2, 0, mtu),
            (Why::Other, true) => (3, 1, 0),
            (Why::Other, false) => (1, 0, 0),
        };
        let [high, low] = mtu.to_be_bytes();
        let mut payload = vec![kind, code, 0, 0, high, low];
        let mut quoted = packet.emit();
        quoted.truncate(if is_v4 { QUOTED } else { QUOTED_V6 });
        payload.extend(quoted);
        let (source, destination) = (SocketAddr::new(from, 0), SocketAddr::new(packet.source.ip(), 0));
        Some(Packet { protocol: Protocol::Icmp, source, destination, whole: true, payload })
    }

    /// The error `packet`, about the packet `flow` instead of the one that it quotes: it goes to who sent that, and comes from whom that was for, if it did before.
    pub(crate) fn requoted(mut packet: Packet, flow: Flow) -> Packet {
        let was = Self::of(&packet).map(|trouble| trouble.quoted.destination.ip());
        if let Some((_, quoted)) = packet.payload.split_at_mut_checked(HEAD)
            && let Some(read) = Quoted::read(quoted)
        {
            read.write(quoted, [flow.source, flow.destination]);
        }
        if was == Some(packet.source.ip()) {
            packet.source.set_ip(flow.destination.ip());
        }
        packet.destination.set_ip(flow.source.ip());
        packet
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Whatever the family and the protocol, an error says what it is about, as bytes too, and after a NAT it says what the NAT made of that.
    #[test]
    fn an_error_tells_what_it_is_about() {
        let ends = [
            ("192.0.2.1:40000", "192.0.2.2:7", "10.0.0.1:50000"),
            ("[2001:db8::1]:40000", "[2001:db8::2]:7", "[fd00::1]:50000"),
        ];
        for (source, destination, inside) in ends {
            for (protocol, whys) in
                [(Protocol::Udp, [Why::Port, Why::TooBig { mtu: 1400 }]), (Protocol::Tcp, [Why::Other; 2])]
            {
                for why in whys {
                    let packet =
                        Packet { protocol, ..Packet::udp(at(source), at(destination), vec![9; 1300]) };
                    let error = Trouble::about(&packet, why, at(destination).ip()).unwrap();
                    let error = Packet::parse(&error.emit()).unwrap();
                    let told = Trouble::of(&error).unwrap();
                    assert_eq!((told.why, told.quoted.protocol), (why, protocol));
                    assert_eq!((told.quoted.source, told.quoted.destination), (at(source), at(destination)));
                    assert_eq!(
                        (error.source.ip(), error.destination.ip()),
                        (at(destination).ip(), at(source).ip())
                    );
                    assert_eq!(Trouble::about(&error, why, at(source).ip()), None, "no error about an error");
                    let inward = Trouble::requoted(error, Flow { source: at(inside), ..told.quoted });
                    let inward = Packet::parse(&inward.emit()).unwrap();
                    assert_eq!(inward.destination.ip(), at(inside).ip());
                    assert_eq!(Trouble::of(&inward).unwrap().quoted.source, at(inside));
                }
            }
        }
    }

    #[test]
    fn an_error_about_an_echo_names_the_one_who_asked() {
        let mut echo = Packet::udp(at("192.0.2.1:77"), at("192.0.2.2:0"), vec![0; 20]);
        echo.protocol = Protocol::Icmp;
        let told = Trouble::of(&Trouble::about(&echo, Why::Other, at("192.0.2.9:0").ip()).unwrap()).unwrap();
        assert_eq!((told.quoted.source, told.quoted.destination), (at("192.0.2.1:77"), at("192.0.2.2:0")));
    }
}
