//! ICMP errors (RFC 792) that answer a packet.

use super::{DONT_FRAGMENT, IPV4_LEN, OFFSET, checksum, complete, header};

/// The longest error, in bytes (RFC 1812, section 4.3.2.3).
pub const MAX_LEN: usize = 576;

const ICMP: u8 = 1;
const ICMP_LEN: usize = 8;
const HEADERS: usize = IPV4_LEN + ICMP_LEN;
const UNREACHABLE: u8 = 3;

/// Why a packet does not reach its destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unreachable {
    /// No way leads to the host. For an established connection and for UDP this is a hint only (RFC 1122, section 4.2.3.9).
    Host,
    /// No way may lead to the host any more (RFC 1122, section 3.2.2.1: communication is prohibited). Sockets are told.
    Prohibited,
    /// The packet is longer than `mtu` bytes, and must not be cut up (RFC 1191).
    TooBig {
        /// What would pass, in bytes.
        mtu: u16,
    },
}

/// Writes to `out` the error that tells the sender of the IPv4 packet `packet`; its length. It is sent as if by the packet's destination, so
/// it travels the packet's own path backwards, through whatever translates on it.
///
/// `None` where none may be sent (RFC 1122, section 3.2.2): about an ICMP error, about a fragment that is not the first, about a packet from
/// or to no single host; and about what is no IPv4 packet.
pub fn answer(packet: &[u8], why: Unreachable, out: &mut [u8; MAX_LEN]) -> Option<usize> {
    let (length, fragment) = header(packet)?;
    let (source, destination) = (&packet[12..16], &packet[16..20]);
    if fragment & OFFSET != 0
        || !is_host(source)
        || !is_host(destination)
        || is_error(&packet[9..], length - 9)
    {
        return None;
    }
    let quoted = packet.len().min(MAX_LEN - HEADERS);
    let total = HEADERS + quoted;
    let (ip, rest) = out[..total].split_at_mut(IPV4_LEN);
    ip.copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, ICMP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    ip[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    ip[12..16].copy_from_slice(destination);
    ip[16..20].copy_from_slice(source);
    complete(ip);

    let (code, mtu) = match why {
        Unreachable::Host => (1, 0),
        Unreachable::Prohibited => (10, 0),
        Unreachable::TooBig { mtu } => (4, mtu),
    };
    rest[..ICMP_LEN].copy_from_slice(&[UNREACHABLE, code, 0, 0, 0, 0, 0, 0]);
    rest[6..8].copy_from_slice(&mtu.to_be_bytes());
    rest[ICMP_LEN..].copy_from_slice(&packet[..quoted]);
    let checksum = !checksum::fold(checksum::sum(rest, 0));
    rest[2..4].copy_from_slice(&checksum.to_be_bytes());
    Some(total)
}

/// Neither "this network" nor a group nor everybody.
fn is_host(address: &[u8]) -> bool {
    !matches!(address[0], 0 | 224..)
}

/// Whether the packet, given from its protocol field on, is an ICMP message that is no question.
fn is_error(from_protocol: &[u8], content: usize) -> bool {
    // Echo, router discovery, timestamp, information and address mask may be answered; what is cut off is not known.
    let question = |kind: &u8| matches!(kind, 0 | 8..=10 | 13..=18);
    from_protocol[0] == ICMP && !from_protocol.get(content).is_some_and(question)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{is_right, udp};
    use super::*;

    #[test]
    fn a_packet_too_big_is_answered_with_its_beginning_and_what_would_pass() {
        let packet = udp(&[], 1450);
        let mut out = [0xee; MAX_LEN];
        let length = answer(&packet, Unreachable::TooBig { mtu: 1424 }, &mut out).expect("an answer");
        assert_eq!(length, MAX_LEN);
        assert_eq!(out[12..20], [198, 18, 0, 2, 198, 18, 0, 1], "back to the sender");
        assert_eq!((out[20], out[21], u16::from_be_bytes([out[26], out[27]])), (3, 4, 1424));
        assert_eq!(out[28..], packet[..MAX_LEN - 28]);
        assert!(is_right(&out[..20]) && is_right(&out[20..]));
    }

    #[test]
    fn a_short_packet_is_quoted_whole() {
        let packet = udp(&[], 1);
        let mut out = [0; MAX_LEN];
        let length = answer(&packet, Unreachable::Host, &mut out).expect("an answer");
        assert_eq!((length, &out[20..22], &out[28..length]), (28 + packet.len(), &[3, 1][..], &packet[..]));
        assert!(is_right(&out[..20]) && is_right(&out[20..length]));
    }

    /// RFC 1122, section 3.2.2: errors about errors, or many errors about one packet, would never end.
    #[test]
    fn what_must_not_be_answered_is_not() {
        let answered = |change: fn(&mut [u8])| {
            let mut packet = udp(&[], 100);
            change(&mut packet);
            answer(&packet, Unreachable::Host, &mut [0; MAX_LEN]).is_some()
        };
        assert!(answered(|_| {}));
        assert!(answered(|packet| packet[6] = 0x20));
        assert!(!answered(|packet| packet[7] = 1), "not the first fragment");
        assert!(answered(|packet| (packet[9], packet[20]) = (ICMP, 8)), "an echo request");
        assert!(!answered(|packet| (packet[9], packet[20]) = (ICMP, 3)), "an error");
        assert!(!answered(|packet| packet[16] = 224), "to a group");
        assert!(!answered(|packet| packet[12] = 0), "from nobody");
        assert!(!answered(|packet| packet[0] = 0x65));
    }

    #[test]
    fn whatever_the_bytes_it_never_panics() {
        let mut packet = udp(&[1; 4], 3);
        for at in 0..packet.len() {
            for value in [0, 1, 0x45, 0x4f, 0xff] {
                let kept = std::mem::replace(&mut packet[at], value);
                for end in 0..=packet.len() {
                    let _ = answer(&packet[..end], Unreachable::Host, &mut [0; MAX_LEN]);
                }
                packet[at] = kept;
            }
        }
    }
}
