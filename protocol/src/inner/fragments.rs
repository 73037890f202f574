//! Cutting up a packet that may be cut up (RFC 791, section 3.2).

use super::{DONT_FRAGMENT, OFFSET, complete, header};

/// Of the flags and the offset: others follow.
const MORE_FRAGMENTS: u16 = 0x2000;

/// Calls `each` with the fragments, in order and none longer than `buffer`, of the IPv4 packet `packet`, which may be one itself. Each is written
/// to `buffer`, with the packet's options. False, and nothing happens, where it must not be cut up or is no packet.
pub fn cut(packet: &[u8], buffer: &mut [u8], mut each: impl FnMut(&[u8])) -> bool {
    let Some((length, fragment)) = header(packet).filter(|(_, flags)| flags & DONT_FRAGMENT == 0) else {
        return false;
    };
    let step = buffer.len().saturating_sub(length) / 8 * 8;
    if step == 0 {
        return false;
    }
    let count = (packet.len() - length).div_ceil(step);
    // The offset counts units of eight bytes in 13 bits.
    if usize::from(fragment & OFFSET) + count * (step / 8) > usize::from(OFFSET) + step / 8 {
        return false;
    }
    for (index, payload) in packet[length..].chunks(step).enumerate() {
        let piece = &mut buffer[..length + payload.len()];
        piece[..length].copy_from_slice(&packet[..length]);
        piece[length..].copy_from_slice(payload);
        let more = if index + 1 < count { MORE_FRAGMENTS } else { 0 };
        let place = (fragment + (index * step / 8) as u16) | more;
        let total = piece.len() as u16;
        piece[2..4].copy_from_slice(&total.to_be_bytes());
        piece[6..8].copy_from_slice(&place.to_be_bytes());
        complete(&mut piece[..length]);
        each(piece);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::tests::{is_right, udp};
    use super::*;
    use proptest::prelude::*;

    fn pieces(packet: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
        let mut pieces = Vec::new();
        cut(packet, &mut vec![0; mtu], |piece| pieces.push(piece.to_vec())).then_some(pieces)
    }

    /// Puts fragments together again: what all of them carry, and the flags and offset that the whole had.
    fn joined(pieces: &[Vec<u8>], length: usize) -> (Vec<u8>, u16) {
        let place = |piece: &[u8]| u16::from_be_bytes([piece[6], piece[7]]);
        let first = place(&pieces[0]) & OFFSET;
        let mut payload = Vec::new();
        for piece in pieces {
            assert!(is_right(&piece[..length]));
            assert_eq!(usize::from(place(piece) & OFFSET), usize::from(first) + payload.len() / 8);
            payload.extend(&piece[length..]);
        }
        assert!(pieces[..pieces.len() - 1].iter().all(|piece| place(piece) & MORE_FRAGMENTS != 0));
        (payload, first | place(pieces.last().unwrap()) & MORE_FRAGMENTS)
    }

    proptest! {
        #[test]
        fn fragments_give_the_packet_again(size in 1..3000usize, mtu in 60..1500usize, twice in 60..1500usize, options in any::<bool>()) {
            let packet = udp(if options { &[1; 4] } else { &[] }, size);
            let length = if options { 24 } else { 20 };
            let once = pieces(&packet, mtu).unwrap();
            prop_assert!(once.iter().all(|piece| piece.len() <= mtu));
            prop_assert_eq!(joined(&once, length), (packet[length..].to_vec(), 0));
            let again: Vec<_> = once.iter().flat_map(|piece| pieces(piece, twice).unwrap()).collect();
            prop_assert_eq!(joined(&again, length), (packet[length..].to_vec(), 0));
        }
    }

    #[test]
    fn what_must_not_be_cut_up_is_not() {
        let mut packet = udp(&[], 100);
        assert_eq!(pieces(&packet, 27), None, "no room for anything");
        assert_eq!(pieces(&packet[..50], 60), None, "no packet");
        packet[6] = 0x40;
        assert_eq!(pieces(&packet, 60), None);
        (packet[6], packet[7]) = (0x1f, 0xff);
        assert_eq!(pieces(&packet, 60), None, "it would end beyond what an offset can say");
    }
}
