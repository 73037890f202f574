//! Stateless translation between IPv4 and IPv6 (RFC 7915), for general nodes that have only IPv6 (T3.1-d): virtual addresses stay IPv4,
//! and a relay's Netfilter translates addresses of one family only. So between the tunnel and Netfilter each virtual address
//! becomes the IPv6 address that holds it ([`embed`], RFC 6052), and back. Everything happens in place.
//!
//! The prefix is such that TCP's and UDP's checksums stay what they are, those of trains too, which the kernel completes. Hops are
//! counted by the kernel that forwards the packet, not here. A packet may be cut up on its way in IPv4 and not in IPv6: what is too long
//! there comes back as an ICMP error. The tunnel's packets are shorter than any Ethernet's, so nothing is cut to 1280 bytes beforehand.
//!
//! As the RFC says: options of IPv4 and extension headers of IPv6 are not carried; ICMP in fragments, and fragments of datagrams
//! without a checksum, are dropped, for their checksums cannot be known.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::{DONT_FRAGMENT, OFFSET, checksum};

/// `fd4e:2b1::/96`, a site's own (RFC 4193). Its words add up to nothing in one's complement, so an address in it weighs as much in a
/// checksum as the IPv4 address that it holds.
const PREFIX: [u8; 12] = [0xfd, 0x4e, 0x02, 0xb1, 0, 0, 0, 0, 0, 0, 0, 0];
/// Its length in bits.
pub const PREFIX_LEN: u8 = 96;

/// By how much longer an IPv6 packet is than the IPv4 packet that it comes from, unless it is a fragment, in bytes.
pub const LONGER: usize = V6 - V4;

const V4: usize = super::IPV4_LEN;
const V6: usize = 40;
const FRAGMENT: usize = 8;
const ICMP_HEADER: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT_HEADER: u8 = 44;
const ICMP6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;

const MORE_FRAGMENTS: u16 = 0x2000;
/// The least MTU of IPv6.
const LEAST_MTU: usize = 1280;
/// Up to this length an IPv4 packet may be cut up: no IPv6 node reacts to a smaller MTU than [`LEAST_MTU`] (RFC 7915, section 5.1).
const MAY_BE_CUT: usize = LEAST_MTU - LONGER;

/// The IPv6 address that holds `address`.
pub fn embed(address: Ipv4Addr) -> Ipv6Addr {
    let mut bytes = [0; 16];
    bytes[..12].copy_from_slice(&PREFIX);
    bytes[12..].copy_from_slice(&address.octets());
    bytes.into()
}

/// The IPv4 address that `address` holds.
pub fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    extract(&address.octets()).map(Ipv4Addr::from)
}

fn extract(bytes: &[u8]) -> Option<[u8; 4]> {
    bytes.strip_prefix(&PREFIX)?.try_into().ok()
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What an IPv4 header and an IPv6 header with its Fragment header both say.
#[derive(Clone, Copy)]
struct Head {
    /// Type of service, or traffic class.
    class: u8,
    hops: u8,
    /// What follows, by IPv4's number.
    protocol: u8,
    /// Flags and offset as IPv4 has them.
    flags: u16,
    id: u16,
    source: [u8; 4],
    destination: [u8; 4],
}

impl Head {
    fn is_fragment(&self) -> bool {
        self.flags & (MORE_FRAGMENTS | OFFSET) != 0
    }

    /// Length of the IPv6 headers that say it.
    fn v6_len(&self) -> usize {
        V6 + if self.is_fragment() { FRAGMENT } else { 0 }
    }

    fn addresses(&self) -> [u8; 8] {
        let ([a, b, c, d], [e, f, g, h]) = (self.source, self.destination);
        [a, b, c, d, e, f, g, h]
    }

    /// That of the IPv4 packet `packet`, of which the end may be missing: with its header's length and the length that it says it has.
    fn of_v4(packet: &[u8]) -> Option<(Self, usize, usize)> {
        let fixed = packet.first_chunk::<V4>()?;
        let (length, total) = (usize::from(fixed[0] & 15) * 4, usize::from(short(fixed, 2)?));
        let options = packet.get(V4..length)?;
        if fixed[0] >> 4 != 4 || total < length || is_source_routed(options) {
            return None;
        }
        let head = Self {
            class: fixed[1],
            hops: fixed[8],
            protocol: fixed[9],
            flags: short(fixed, 6)?,
            id: short(fixed, 4)?,
            source: *fixed[12..].first_chunk()?,
            destination: *fixed[16..].first_chunk()?,
        };
        Some((head, length, total))
    }

    /// That of the IPv6 packet `packet`, of which the end may be missing, with its headers' length and the length that it says it has. A
    /// source that holds no IPv4 address is a router's, which speaks for `otherwise`.
    fn of_v6(packet: &[u8], otherwise: Option<[u8; 4]>) -> Option<(Self, usize, usize)> {
        let fixed = packet.first_chunk::<V6>()?;
        if fixed[0] >> 4 != 6 {
            return None;
        }
        let total = V6 + usize::from(short(fixed, 4)?);
        let (mut next, mut length, mut place) = (fixed[6], V6, None);
        loop {
            match next {
                HOP_BY_HOP | DESTINATION_OPTIONS | ROUTING => {
                    let header = packet.get(length..)?.first_chunk::<4>()?;
                    // It goes elsewhere first.
                    if next == ROUTING && header[3] != 0 {
                        return None;
                    }
                    (next, length) = (header[0], length + (usize::from(header[1]) + 1) * 8);
                }
                FRAGMENT_HEADER if place.is_none() => {
                    let header = packet.get(length..)?.first_chunk::<FRAGMENT>()?;
                    place = Some((short(header, 2)?, short(header, 6)?));
                    (next, length) = (header[0], length + FRAGMENT);
                }
                FRAGMENT_HEADER => return None,
                _ => break,
            }
        }
        if length > packet.len() || length > total {
            return None;
        }
        let (place, id) = place.unwrap_or_default();
        let more = if place & 1 != 0 { MORE_FRAGMENTS } else { 0 };
        let head = Self {
            class: fixed[0] << 4 | fixed[1] >> 4,
            hops: fixed[7],
            protocol: if next == ICMP6 { ICMP } else { next },
            flags: place >> 3 | more,
            id,
            source: extract(&fixed[8..24]).or(otherwise)?,
            destination: extract(&fixed[24..40])?,
        };
        Some((head, length, total))
    }

    /// Writes the IPv6 headers, [`v6_len`](Self::v6_len) bytes, of a packet whose payload has `payload` bytes.
    fn write_v6(&self, out: &mut [u8], payload: usize) -> Option<()> {
        let next = if self.protocol == ICMP { ICMP6 } else { self.protocol };
        let length = u16::try_from(self.v6_len() - V6 + payload).ok()?;
        let (fixed, fragment) = out.split_at_mut_checked(V6)?;
        fixed[..4].copy_from_slice(&[0x60 | self.class >> 4, self.class << 4, 0, 0]);
        fixed[4..6].copy_from_slice(&length.to_be_bytes());
        (fixed[6], fixed[7]) = (next, self.hops);
        fixed[8..20].copy_from_slice(&PREFIX);
        fixed[20..24].copy_from_slice(&self.source);
        fixed[24..36].copy_from_slice(&PREFIX);
        fixed[36..40].copy_from_slice(&self.destination);
        if self.is_fragment() {
            fixed[6] = FRAGMENT_HEADER;
            // The offset's unit is the same; "more" moves to the last bit.
            let place = (self.flags & OFFSET) << 3 | u16::from(self.flags & MORE_FRAGMENTS != 0);
            let ([a, b], [c, d]) = (place.to_be_bytes(), self.id.to_be_bytes());
            fragment.copy_from_slice(&[next, 0, a, b, 0, 0, c, d]);
        }
        Some(())
    }

    /// Writes the IPv4 header, 20 bytes, of a packet whose payload has `payload` bytes.
    fn write_v4(&self, out: &mut [u8], payload: usize) -> Option<()> {
        let length = u16::try_from(V4 + payload).ok()?;
        out[..2].copy_from_slice(&[0x45, self.class]);
        out[2..4].copy_from_slice(&length.to_be_bytes());
        out[4..6].copy_from_slice(&self.id.to_be_bytes());
        out[6..8].copy_from_slice(&self.flags.to_be_bytes());
        out[8..12].copy_from_slice(&[self.hops, self.protocol, 0, 0]);
        out[12..16].copy_from_slice(&self.source);
        out[16..20].copy_from_slice(&self.destination);
        super::complete(out);
        Some(())
    }
}

/// Whether the options `options` of an IPv4 header hold a route that the packet is to take: it is dropped then (RFC 7915, section 4.1).
fn is_source_routed(mut options: &[u8]) -> bool {
    while let [kind, rest @ ..] = options {
        options = match (kind, rest.first()) {
            (131 | 137, _) => return true,
            (1, _) => rest,
            (0, _) | (_, None) => return false,
            (_, Some(length)) => options.get(usize::from(*length).max(2)..).unwrap_or_default(),
        };
    }
    false
}

/// Writes the checksum of the ICMP or ICMPv6 message `message`, whose pseudo-header adds up to `pseudo`.
fn complete(message: &mut [u8], pseudo: u64) {
    message[2..4].fill(0);
    let checksum = !checksum::fold(checksum::sum(message, pseudo));
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
}

/// The type that an echo has in ICMPv6.
fn echo_to_v6(kind: u8) -> Option<u8> {
    match kind {
        8 => Some(128),
        0 => Some(129),
        _ => None,
    }
}

/// The type that an echo of ICMPv6 has in ICMP.
fn echo_to_v4(kind: u8) -> Option<u8> {
    match kind {
        128 => Some(8),
        129 => Some(0),
        _ => None,
    }
}

/// Turns the IPv4 packet at `place` of `buffer` into an IPv6 packet: where it is then. It needs 28 bytes in front of it, and cuts off
/// the end of what an ICMP error quotes if there is no room for that. `None`, with the bytes of no use, for what cannot be translated.
pub fn to_v6(buffer: &mut [u8], place: Range<usize>) -> Option<Range<usize>> {
    let (head, length, total) = Head::of_v4(buffer.get(place.clone())?)?;
    if total != place.len() {
        return None;
    }
    let body = place.start + length..place.end;
    let start = body.start.checked_sub(head.v6_len())?;
    match head.protocol {
        UDP if head.flags & OFFSET == 0 && short(&buffer[body.clone()], 6)? == 0 => {
            // IPv6 has no datagrams without a checksum; of a part it cannot be known.
            if head.is_fragment() {
                return None;
            }
            let pseudo = checksum::pseudo(&head.addresses(), UDP, body.len());
            let sum = match !checksum::fold(checksum::sum(&buffer[body.clone()], pseudo)) {
                0 => u16::MAX,
                sum => sum,
            };
            buffer[body.start + 6..body.start + 8].copy_from_slice(&sum.to_be_bytes());
        }
        ICMP if head.is_fragment() || body.len() < ICMP_HEADER => return None,
        ICMP => {
            let message = match echo_to_v6(buffer[body.start]) {
                Some(kind) => {
                    buffer[body.start] = kind;
                    body
                }
                None => error_to_v6(buffer, body)?,
            };
            let start = message.start - V6;
            let pseudo = checksum::pseudo(&head.addresses(), ICMP6, message.len());
            complete(&mut buffer[message.clone()], pseudo);
            head.write_v6(&mut buffer[start..message.start], message.len())?;
            return Some(start..message.end);
        }
        _ => {}
    }
    head.write_v6(&mut buffer[start..body.start], body.len())?;
    Some(start..body.end)
}

/// Turns the IPv4 header at `start` of `buffer`, without options and of no fragment, into an IPv6 header, whatever follows it: where that
/// begins. Of a train of TCP segments the first one's is the header of all.
pub fn header_to_v6(buffer: &mut [u8], start: usize) -> Option<usize> {
    let (head, length, total) = Head::of_v4(buffer.get(start..)?)?;
    let begin = start.checked_sub(LONGER)?;
    if length != V4 || head.is_fragment() {
        return None;
    }
    head.write_v6(&mut buffer[begin..begin + V6], total - V4)?;
    Some(begin)
}

/// Type, code and the four bytes that follow the checksum, of an ICMP error in ICMPv6 (RFC 7915, section 4.2).
fn kind_to_v6(message: &[u8; ICMP_HEADER]) -> Option<(u8, u8, u32)> {
    let mtu = usize::from(short(message, 6)?);
    Some(match (message[0], message[1]) {
        (3, 2) => (4, 1, 6),
        (3, 3) => (1, 4, 0),
        (3, 4) => (2, 0, (mtu + LONGER).max(LEAST_MTU) as u32),
        (3, 9 | 10 | 13 | 15) => (1, 1, 0),
        (3, 0..=8 | 11 | 12) => (1, 0, 0),
        (11, code) => (3, code, 0),
        (12, 0 | 2) => {
            let pointer = match message[4] {
                same @ 0..=1 => same,
                2 | 3 => 4,
                8 => 7,
                9 => 6,
                12..=15 => 8,
                16..=19 => 24,
                _ => return None,
            };
            (4, 0, pointer.into())
        }
        _ => return None,
    })
}

/// The same the other way (RFC 7915, section 5.2).
fn kind_to_v4(message: &[u8; ICMP_HEADER]) -> Option<(u8, u8, u32)> {
    let detail = u32::from_be_bytes(*message.last_chunk()?);
    Some(match (message[0], message[1]) {
        (1, 4) => (3, 3, 0),
        (1, 1) => (3, 10, 0),
        (1, 0 | 2 | 3) => (3, 1, 0),
        (2, _) => (3, 4, detail.saturating_sub(LONGER as u32).min(u16::MAX.into())),
        (3, code) => (11, code, 0),
        (4, 0) => {
            let pointer = match detail {
                same @ 0..=1 => same,
                4 | 5 => 2,
                6 => 9,
                7 => 8,
                8..=23 => 12,
                24..=39 => 16,
                _ => return None,
            };
            (12, 0, pointer << 24)
        }
        (4, 1) => (3, 2, 0),
        _ => return None,
    })
}

/// Turns the ICMP error at `body` into an ICMPv6 error but for its checksum, and the packet that it quotes: where the message is then. There
/// is room for an IPv6 header before it. Of ICMP, an error quotes echoes alone; their checksum is not looked at in a quotation.
fn error_to_v6(buffer: &mut [u8], body: Range<usize>) -> Option<Range<usize>> {
    let (kind, code, detail) = kind_to_v6(buffer[body.clone()].first_chunk()?)?;
    let quoted = body.start + ICMP_HEADER..body.end;
    let (head, length, total) = Head::of_v4(&buffer[quoted.clone()])?;
    let payload = quoted.start + length..quoted.end;
    if head.protocol == ICMP && head.flags & OFFSET == 0 {
        let kind = buffer[payload.clone()].first_mut()?;
        *kind = echo_to_v6(*kind)?;
    }
    // Where there is less room in front, what is quoted moves back, and loses its end.
    let headers = V6 + ICMP_HEADER + head.v6_len();
    let at = payload.start.max(headers);
    let kept = payload.len().min(LEAST_MTU - headers).min(buffer.len().checked_sub(at)?);
    buffer.copy_within(payload.start..payload.start + kept, at);
    let begin = at - head.v6_len();
    head.write_v6(&mut buffer[begin..at], total - length)?;
    let message = begin - ICMP_HEADER;
    buffer[message..message + 4].copy_from_slice(&[kind, code, 0, 0]);
    buffer[message + 4..begin].copy_from_slice(&detail.to_be_bytes());
    Some(message..at + kept)
}

/// Turns the IPv6 packet `packet`, or the train of packets with `segment` bytes of payload each, into one of IPv4: where it is then. `id`
/// numbers packets that may be cut up on their way.
///
/// `None`, with the bytes of no use, for what cannot be translated: what is between other addresses than those that hold an IPv4 address,
/// but for the errors of routers on the way, which speak in the name of whom the packet was for.
pub fn to_v4(packet: &mut [u8], segment: Option<usize>, id: &mut u16) -> Option<Range<usize>> {
    let is_error = packet.get(6) == Some(&ICMP6) && packet.get(V6).is_some_and(|kind| *kind < 128);
    let asked = packet.get(V6 + ICMP_HEADER + 24..V6 + ICMP_HEADER + 40).and_then(extract);
    let (mut head, length, total) = Head::of_v6(packet, asked.filter(|_| is_error))?;
    if total != packet.len() {
        return None;
    }
    let mut body = length..total;
    match head.protocol {
        ICMP if head.is_fragment() || body.len() < ICMP_HEADER => return None,
        ICMP => {
            match echo_to_v4(packet[length]) {
                Some(kind) => packet[length] = kind,
                None => body = error_to_v4(packet, body)?,
            }
            complete(&mut packet[body.clone()], 0);
        }
        _ => {}
    }
    if !head.is_fragment() {
        // A train's headers have 40 bytes at least.
        if segment.map_or(V4 + body.len(), |size| 2 * V4 + size) > MAY_BE_CUT {
            head.flags = DONT_FRAGMENT;
        } else {
            head.id = *id;
            *id = id.wrapping_add(segment.map_or(1, |size| body.len().div_ceil(size.max(1)) as u16));
        }
    }
    let start = body.start - V4;
    head.write_v4(&mut packet[start..body.start], body.len())?;
    Some(start..body.end)
}

/// Turns the ICMPv6 error at `body` into an ICMP error but for its checksum: where the message is then.
fn error_to_v4(packet: &mut [u8], body: Range<usize>) -> Option<Range<usize>> {
    let (kind, code, detail) = kind_to_v4(packet[body.clone()].first_chunk()?)?;
    let quoted = body.start + ICMP_HEADER..body.end;
    let (mut head, length, total) = Head::of_v6(&packet[quoted.clone()], None)?;
    let payload = quoted.start + length..quoted.end;
    if head.protocol == ICMP && head.flags & OFFSET == 0 {
        let kind = packet[payload.clone()].first_mut()?;
        *kind = echo_to_v4(*kind)?;
    }
    if !head.is_fragment() {
        head.flags = DONT_FRAGMENT;
    }
    // As much as an ICMP error has (RFC 1812, section 4.3.2.3).
    let kept = payload.len().min(super::icmp::MAX_LEN - 2 * V4 - ICMP_HEADER);
    let begin = payload.start - V4;
    head.write_v4(&mut packet[begin..payload.start], total - length)?;
    let message = begin - ICMP_HEADER;
    packet[message..message + 4].copy_from_slice(&[kind, code, 0, 0]);
    packet[message + 4..begin].copy_from_slice(&detail.to_be_bytes());
    Some(message..payload.start + kept)
}

#[cfg(test)]
mod tests;
