//! From what the kernel hands over in one read of the TUN to the packets it means: a train of up to 64 KiB is split into packets of the
//! MTU, and partial checksums are completed. After this every packet is one that any wire could carry.

use std::mem;

use ntm_protocol::inner::checksum::{fold, pseudo, sum};

use crate::vnet::{Gso, Vnet};

/// Why a train cannot be split.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotSplit {
    /// Lengths that contradict each other, or a fragment of a packet.
    Malformed,
    /// A train over IPv6: no virtual address is an IPv6 address.
    NotIpv4,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Calls `each` with every packet of `packet`, in order, in two parts: its headers, or all of it, and what follows. So nothing of a train is
/// copied but to where its packets go.
pub(crate) fn split(vnet: Vnet, packet: &mut [u8], mut each: impl FnMut([&[u8]; 2])) -> Result<(), NotSplit> {
    match vnet.gso {
        Gso::None => {
            if let Some((start, offset)) = vnet.partial {
                complete(packet, start.into(), offset.into()).ok_or(NotSplit::Malformed)?;
            }
            each([packet, &[]]);
            Ok(())
        }
        Gso::Tcp4 | Gso::Udp if packet.first().is_some_and(|byte| byte >> 4 == 4) => {
            let train = Train::of(packet, vnet).ok_or(NotSplit::Malformed)?;
            train.segments(each);
            Ok(())
        }
        Gso::Tcp4 | Gso::Tcp6 | Gso::Udp => Err(NotSplit::NotIpv4),
    }
}

/// Completes a checksum whose field holds the sum of the pseudo-header.
fn complete(packet: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let is_udp = packet.get(9) == Some(&UDP);
    let covered = packet.get_mut(start..)?;
    let checksum = !fold(sum(covered, 0));
    // In UDP a zero says that there is no checksum (RFC 768).
    let checksum = if is_udp && checksum == 0 { 0xffff } else { checksum };
    covered.get_mut(offset..offset + 2)?.copy_from_slice(&checksum.to_be_bytes());
    Some(())
}

/// A train over IPv4 whose lengths were checked.
struct Train<'a> {
    headers: &'a mut [u8],
    payload: &'a [u8],
    /// Length of the IPv4 header.
    ip_len: usize,
    /// Payload of each segment but the last, which may have less.
    size: usize,
    protocol: u8,
}

impl<'a> Train<'a> {
    fn of(packet: &'a mut [u8], vnet: Vnet) -> Option<Self> {
        let ip = packet.first_chunk::<20>()?;
        let ip_len = usize::from(ip[0] & 15) * 4;
        let is_fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
        let protocol = ip[9];
        let transport = packet.get(ip_len..)?;
        let transport_len = match (vnet.gso, protocol) {
            (Gso::Tcp4, TCP) => usize::from(transport.get(12)? >> 4) * 4,
            (Gso::Udp, UDP) => 8,
            _ => return None,
        };
        let least = if protocol == TCP { 20 } else { 8 };
        let size = usize::from(vnet.gso_size);
        let split = ip_len + transport_len;
        if ip_len < 20 || is_fragment || transport_len < least || packet.len() <= split || size == 0 {
            return None;
        }
        let (headers, payload) = packet.split_at_mut(split);
        // The IPv4 length field has 16 bits.
        (split + size.min(payload.len()) <= 0xffff).then_some(Self {
            headers,
            payload,
            ip_len,
            size,
            protocol,
        })
    }

    /// Makes the headers those of each segment in turn. What is the same in all of them is summed once.
    fn segments(self, mut each: impl FnMut([&[u8]; 2])) {
        let Self { headers, payload, ip_len, size, protocol } = self;
        let count = payload.len().div_ceil(size);
        let is_tcp = protocol == TCP;
        let (ip, transport) = headers.split_at_mut(ip_len);
        let mut addresses = [0; 8];
        addresses.copy_from_slice(&ip[12..20]);
        let id = u16::from_be_bytes([ip[4], ip[5]]);
        ip[2..6].fill(0);
        ip[10..12].fill(0);
        let ip_sum = sum(ip, 0);
        let sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
        let checksum_at = if is_tcp { 16 } else { 6 };
        transport[4..8].fill(0);
        transport[checksum_at..checksum_at + 2].fill(0);
        let flags = if is_tcp { mem::take(&mut transport[13]) } else { 0 };
        let transport_sum = sum(transport, pseudo(&addresses, protocol, 0));

        for (index, payload) in payload.chunks(size).enumerate() {
            let length = headers.len() + payload.len();
            let (ip, transport) = headers.split_at_mut(ip_len);
            let id = id.wrapping_add(index as u16);
            ip[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            ip[4..6].copy_from_slice(&id.to_be_bytes());
            let checksum = !fold(ip_sum + length as u64 + u64::from(id));
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());

            let length = length - ip_len;
            let own = if is_tcp {
                let sequence = sequence.wrapping_add((index * size) as u32);
                // The end of the train is the end of the stream or of a write; the congestion window was reduced once.
                let last_only = if index + 1 < count { FIN | PSH } else { 0 };
                let first_only = if index > 0 { CWR } else { 0 };
                let flags = flags & !(last_only | first_only);
                transport[4..8].copy_from_slice(&sequence.to_be_bytes());
                transport[13] = flags;
                u64::from(sequence) + u64::from(flags)
            } else {
                transport[4..6].copy_from_slice(&(length as u16).to_be_bytes());
                length as u64
            };
            let checksum = !fold(sum(payload, transport_sum + length as u64 + own));
            let checksum = if protocol == UDP && checksum == 0 { 0xffff } else { checksum };
            transport[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());
            each([headers, payload]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::is_right;
    use crate::packets::{Tcp, udp};
    use proptest::prelude::*;

    fn pieces(vnet: Vnet, mut packet: Vec<u8>) -> Result<Vec<Vec<u8>>, NotSplit> {
        let mut pieces = Vec::new();
        split(vnet, &mut packet, |parts| pieces.push(parts.concat()))?;
        Ok(pieces)
    }

    fn tcp_train(gso_size: u16) -> Vnet {
        Vnet { partial: Some((20, 16)), gso: Gso::Tcp4, gso_size, header_len: 52 }
    }

    proptest! {
        #[test]
        fn a_tcp_train_becomes_the_packets_that_a_plain_stack_sends(
            tcp: Tcp, payload in prop::collection::vec(any::<u8>(), 1..20_000), gso_size in 1u16..3000,
        ) {
            prop_assume!(payload.len() / usize::from(gso_size) < 200);
            let pieces = pieces(tcp_train(gso_size), tcp.packet(&payload)).expect("a train");
            let size = usize::from(gso_size);
            let count = payload.len().div_ceil(size);
            let expected: Vec<_> = payload.chunks(size).enumerate().map(|(i, chunk)| {
                let mut one = tcp.clone();
                one.id = tcp.id.wrapping_add(i as u16);
                one.sequence = tcp.sequence.wrapping_add((i * size) as u32);
                if i > 0 { one.flags &= !CWR; }
                if i + 1 < count { one.flags &= !(FIN | PSH); }
                one.packet(chunk)
            }).collect();
            prop_assert!(pieces.iter().all(|piece| is_right(piece)));
            prop_assert_eq!(pieces, expected);
        }

        #[test]
        fn a_udp_train_becomes_datagrams(payload in prop::collection::vec(any::<u8>(), 1..9000), gso_size in 50u16..2000) {
            let vnet = Vnet { partial: Some((20, 6)), gso: Gso::Udp, gso_size, header_len: 28 };
            let pieces = pieces(vnet, udp(7, &payload)).expect("a train");
            let expected: Vec<_> = payload.chunks(gso_size.into()).enumerate().map(|(i, chunk)| udp(7 + i as u16, chunk)).collect();
            prop_assert!(pieces.iter().all(|piece| is_right(piece)));
            prop_assert_eq!(pieces, expected);
        }

        #[test]
        fn a_partial_checksum_is_completed(tcp: Tcp, payload in prop::collection::vec(any::<u8>(), 0..2000)) {
            let right = tcp.packet(&payload);
            let mut partial = right.clone();
            let mut addresses = [0; 8];
            addresses.copy_from_slice(&right[12..20]);
            let start = fold(pseudo(&addresses, TCP, right.len() - 20));
            partial[36..38].copy_from_slice(&start.to_be_bytes());
            let vnet = Vnet { partial: Some((20, 16)), ..Vnet::default() };
            let pieces = pieces(vnet, partial).expect("a packet");
            prop_assert!(is_right(&pieces[0]));
            // But for the two zeros of one's complement, the bytes are those of the sender that completes its own.
            prop_assert_eq!(&pieces[0][..36], &right[..36]);
            prop_assert_eq!(&pieces[0][38..], &right[38..]);
        }

        #[test]
        fn nothing_breaks_it(mut packet in prop::collection::vec(any::<u8>(), 0..200), gso in 0..4u8, sizes: (u16, u16, u16)) {
            let gso = [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp][usize::from(gso)];
            if let Some(first) = packet.first_mut() { *first = 0x40 | (*first & 15); }
            if let Some(protocol) = packet.get_mut(9) { *protocol = if gso == Gso::Udp { UDP } else { TCP }; }
            let vnet = Vnet { partial: Some((sizes.0 % 256, sizes.1 % 256)), gso, gso_size: sizes.2 % 64, header_len: 0 };
            let _ = pieces(vnet, packet);
        }
    }

    #[test]
    fn a_plain_packet_passes_unchanged() {
        let packet = vec![0x60, 1, 2, 3];
        assert_eq!(pieces(Vnet::default(), packet.clone()), Ok(vec![packet]));
    }

    #[test]
    fn a_udp_checksum_of_zero_is_written_as_ones() {
        // The two bytes of payload are chosen so that the sum is all ones.
        let mut packet = udp(1, &[0, 0]);
        packet[26..28].fill(0);
        let mut addresses = [0; 8];
        addresses.copy_from_slice(&packet[12..20]);
        let start = pseudo(&addresses, UDP, 10);
        let rest = !fold(sum(&packet[20..], start));
        packet[28..].copy_from_slice(&rest.to_be_bytes());
        packet[26..28].copy_from_slice(&fold(start).to_be_bytes());
        let vnet = Vnet { partial: Some((20, 6)), ..Vnet::default() };
        assert_eq!(pieces(vnet, packet).expect("a packet")[0][26..28], [0xff, 0xff]);
    }

    #[test]
    fn a_train_that_contradicts_itself_is_refused() {
        let tcp = Tcp::default();
        let good = tcp.packet(&[1; 100]);
        assert_eq!(pieces(tcp_train(0), good.clone()), Err(NotSplit::Malformed));
        assert_eq!(pieces(tcp_train(10), tcp.packet(&[])), Err(NotSplit::Malformed));
        let mut fragment = good.clone();
        fragment[6] |= 0x20;
        assert_eq!(pieces(tcp_train(10), fragment), Err(NotSplit::Malformed));
        let mut short_header = good.clone();
        short_header[0] = 0x44;
        assert_eq!(pieces(tcp_train(10), short_header), Err(NotSplit::Malformed));
        let mut other_protocol = good.clone();
        other_protocol[9] = UDP;
        assert_eq!(pieces(tcp_train(10), other_protocol), Err(NotSplit::Malformed));
        let mut version = good;
        version[0] = 0x65;
        assert_eq!(pieces(tcp_train(10), version), Err(NotSplit::NotIpv4));
        let partial = Vnet { partial: Some((9, 9)), ..Vnet::default() };
        assert_eq!(pieces(partial, vec![0x45; 19]), Err(NotSplit::Malformed));
    }
}
