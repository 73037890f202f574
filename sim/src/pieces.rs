//! What IP cuts up (RFC 791, RFC 8200): how long the pieces are, what they are as bytes, and how a host puts them together again.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ntm_protocol::inner::fragments;
use ntm_protocol::time::{Duration, Instant};

use crate::packet::{Packet, short};

/// The longest packet on Ethernet, in bytes.
pub(crate) const ETHERNET: u16 = 1500;
/// How long a host waits for the missing pieces of a packet: Linux's `net.ipv4.ipfrag_time`.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many packets a host puts together at once; Linux keeps 4 MB of pieces.
const AT_ONCE: usize = 64;
/// Flags and offset of IPv4: others follow, and the place in units of eight bytes.
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
const V4: usize = 20;
const V6: usize = 40;
/// The Fragment header of IPv6, and the number that announces it.
const FRAGMENT: usize = 8;
const ANNOUNCES: u8 = 44;

/// The lengths of what `packet` is cut up into where packets have at most `mtu` bytes, of which there is one at least.
pub(crate) fn lengths(packet: &Packet, mtu: u16) -> impl Iterator<Item = usize> + use<> {
    let (length, mtu) = (packet.length(), usize::from(mtu));
    let (header, piece) = match packet.destination.is_ipv4() {
        true => (V4, V4),
        false => (V6, V6 + FRAGMENT),
    };
    let (rest, step) = match length <= mtu {
        true => (0, 1),
        false => (length - header, (mtu - piece) / 8 * 8),
    };
    let whole = (rest == 0).then_some(length);
    whole.into_iter().chain((0..rest).step_by(step).map(move |from| piece + step.min(rest - from)))
}

impl Packet {
    /// Shows `each` piece of the packet as it is on a wire that takes packets of at most `mtu` bytes: as bytes, and one unless it is longer.
    pub fn on_wire(&self, mtu: u16, mut each: impl FnMut(&[u8])) {
        if self.length() <= mtu.into() {
            return each(&self.emit());
        }
        let whole = Packet { whole: false, ..self.clone() }.emit();
        let pieces = match self.destination.is_ipv4() {
            true => cut(whole, mtu),
            false => cut_v6(&whole, mtu),
        };
        pieces.iter().for_each(|piece| each(piece));
    }
}

/// What the IPv4 packet `packet`, which may be cut up, is in packets of at most `mtu` bytes.
pub(crate) fn cut(packet: Vec<u8>, mtu: u16) -> Vec<Vec<u8>> {
    if packet.len() <= mtu.into() {
        return vec![packet];
    }
    let mut out = Vec::new();
    fragments::cut(&packet, &mut vec![0; mtu.into()], |piece| out.push(piece.to_vec()));
    out
}

/// What the IPv6 packet `packet` is in packets of at most `mtu` bytes, which it is longer than.
fn cut_v6(packet: &[u8], mtu: u16) -> Vec<Vec<u8>> {
    let Some((header, carried)) = packet.split_at_checked(V6) else { return vec![packet.to_vec()] };
    let step = (usize::from(mtu) - V6 - FRAGMENT) / 8 * 8;
    let count = carried.len().div_ceil(step);
    let piece = |(index, carried): (usize, &[u8])| {
        let [high, low] = ((index * step) as u16 | u16::from(index + 1 < count)).to_be_bytes();
        let mut piece = [header, &[header[6], 0, high, low, 0, 0, 0, 0], carried].concat();
        piece[4..6].copy_from_slice(&((FRAGMENT + carried.len()) as u16).to_be_bytes());
        piece[6] = ANNOUNCES;
        piece
    };
    carried.chunks(step).enumerate().map(piece).collect()
}

/// What tells the pieces of one packet from those of others.
type Name = (Ipv4Addr, Ipv4Addr, u8, u16);

/// A packet of which there are pieces.
struct Parts {
    since: Instant,
    header: Vec<u8>,
    /// What it carries, each stretch by its place.
    stretches: BTreeMap<usize, Vec<u8>>,
    /// The length of all that it carries, once its end is there.
    length: Option<usize>,
}

/// Where a host puts pieces together. PURE.
#[derive(Default)]
pub(crate) struct Joiner {
    waiting: BTreeMap<Name, Parts>,
}

impl Joiner {
    /// A packet of IPv4 has come: the whole, as soon as it is there.
    pub(crate) fn take<'a>(&mut self, packet: &'a [u8], now: Instant) -> Option<Cow<'a, [u8]>> {
        let fixed = packet.first_chunk::<V4>()?;
        let flags = short(fixed, 6)?;
        if flags & (MORE | OFFSET) == 0 {
            return Some(Cow::Borrowed(packet));
        }
        let address = |at: usize| Ipv4Addr::new(fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]);
        let name = (address(12), address(16), fixed[9], short(fixed, 4)?);
        self.waiting.retain(|_, parts| now.since(parts.since) < PATIENCE);
        if self.waiting.len() >= AT_ONCE && !self.waiting.contains_key(&name) {
            return None;
        }
        let header = || fixed.to_vec();
        let parts = self.waiting.entry(name).or_insert_with(|| Parts {
            since: now,
            header: header(),
            stretches: BTreeMap::new(),
            length: None,
        });
        let (at, carried) = (usize::from(flags & OFFSET) * 8, &packet[V4..]);
        if flags & MORE == 0 {
            parts.length = Some(at + carried.len());
        }
        parts.stretches.insert(at, carried.to_vec());
        let mut whole = parts.header.clone();
        for (at, stretch) in &parts.stretches {
            if V4 + at != whole.len() {
                return None;
            }
            whole.extend(stretch);
        }
        if Some(whole.len() - V4) != parts.length {
            return None;
        }
        self.waiting.remove(&name);
        let length = u16::try_from(whole.len()).ok()?;
        whole[2..4].copy_from_slice(&length.to_be_bytes());
        whole[6..8].fill(0);
        whole[10..12].fill(0);
        let sum = !crate::packet::sum(&whole[..V4], 0);
        whole[10..12].copy_from_slice(&sum.to_be_bytes());
        Some(Cow::Owned(whole))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(v4: bool, size: usize) -> Packet {
        let ends = if v4 { ["192.0.2.1:5", "192.0.2.2:7"] } else { ["[2001:db8::1]:5", "[2001:db8::2]:7"] };
        let [source, destination] = ends.map(|end| end.parse().unwrap());
        Packet::udp(source, destination, (0..size).map(|n| n as u8).collect())
    }

    #[test]
    fn pieces_are_as_long_as_was_told() {
        for v4 in [true, false] {
            for size in [1, 1450, 1472, 1473, 3000, 60_000] {
                let packet = packet(v4, size);
                for mtu in [1280, 1400, 1500] {
                    let mut lengths_seen = Vec::new();
                    packet.on_wire(mtu, |piece| lengths_seen.push(piece.len()));
                    let told: Vec<usize> = lengths(&packet, mtu).collect();
                    assert_eq!(lengths_seen, told, "{v4} {size} {mtu}");
                    assert!(told.iter().all(|length| *length <= mtu.into()));
                }
            }
        }
    }

    #[test]
    fn pieces_in_any_order_are_the_packet_again() {
        let (first, second) = (packet(true, 5000).emit_as(1), packet(true, 4000).emit_as(2));
        let mut pieces = [cut(first.clone(), 1424), cut(second.clone(), 1424)].concat();
        pieces.reverse();
        pieces.insert(2, pieces[0].clone());
        let mut joiner = Joiner::default();
        let whole: Vec<_> = pieces.iter().filter_map(|piece| joiner.take(piece, Instant::ZERO)).collect();
        assert_eq!(whole, [second, first.clone()]);
        // One is missing, and comes too late.
        let pieces = cut(first, 1424);
        let late = Instant::ZERO + PATIENCE;
        assert!(pieces[1..].iter().all(|piece| joiner.take(piece, Instant::ZERO).is_none()));
        assert_eq!(joiner.take(&pieces[0], late), None);
    }
}
