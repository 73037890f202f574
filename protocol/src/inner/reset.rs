//! TCP resets (RFC 9293, section 3.10.7.1) that answer a segment as if nobody had its connection.

use super::{DONT_FRAGMENT, IPV4_LEN, OFFSET, checksum, complete, header};

/// An answer's length, in bytes.
pub const LEN: usize = IPV4_LEN + TCP_LEN;

const TCP: u8 = 6;
const TCP_LEN: usize = 20;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Writes to the front of `out` the reset that ends the connection of `packet`, an IPv4 packet, at its sender; its length. It comes as if from
/// the packet's destination, and the sender takes it: it carries the number that the segment acknowledges, or acknowledges the segment.
///
/// `None` for what is no TCP segment, for a fragment that is not the first, and for a reset: that is never answered.
pub fn answer(packet: &[u8], out: &mut [u8]) -> Option<usize> {
    let (length, fragment) = header(packet)?;
    let (tcp, out) = (packet[length..].first_chunk::<TCP_LEN>()?, out.first_chunk_mut::<LEN>()?);
    let (offset, flags) = (usize::from(tcp[12] >> 4) * 4, tcp[13]);
    let whole = packet.len() - length;
    if packet[9] != TCP || fragment & OFFSET != 0 || !(TCP_LEN..=whole).contains(&offset) || flags & RST != 0
    {
        return None;
    }
    let (ip, segment) = out.split_at_mut(IPV4_LEN);
    ip.copy_from_slice(&[0x45, 0, 0, LEN as u8, 0, 0, 0, 0, 64, TCP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    ip[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    ip[12..16].copy_from_slice(&packet[16..20]);
    ip[16..20].copy_from_slice(&packet[12..16]);
    complete(ip);

    segment.fill(0);
    segment[..2].copy_from_slice(&tcp[2..4]);
    segment[2..4].copy_from_slice(&tcp[..2]);
    segment[12] = (TCP_LEN as u8 / 4) << 4;
    if flags & ACK != 0 {
        segment[4..8].copy_from_slice(&tcp[8..12]);
        segment[13] = RST;
    } else {
        let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let length = (whole - offset) as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        segment[8..12].copy_from_slice(&sequence.wrapping_add(length).to_be_bytes());
        segment[13] = RST | ACK;
    }
    let mut addresses = [0; 8];
    addresses.copy_from_slice(&ip[12..20]);
    let checksum = !checksum::fold(checksum::sum(segment, checksum::pseudo(&addresses, TCP, TCP_LEN)));
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    Some(LEN)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{is_right, udp};
    use super::*;

    /// A segment from port 40000 to port 7, with 4 bytes of TCP options and this payload.
    fn tcp(flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = udp(&[1; 4], 16 + payload.len());
        packet[9] = TCP;
        let segment = &mut packet[24..];
        segment[4..8].copy_from_slice(&0xffff_fffeu32.to_be_bytes());
        segment[8..12].copy_from_slice(&77u32.to_be_bytes());
        (segment[12], segment[13]) = (6 << 4, flags);
        segment[24..].copy_from_slice(payload);
        packet
    }

    fn answered(packet: &[u8]) -> Option<[u8; LEN]> {
        let mut out = [0xee; 100];
        let length = answer(packet, &mut out)?;
        assert_eq!(length, LEN);
        out.first_chunk().copied()
    }

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    }

    #[test]
    fn the_sender_finds_its_connection_in_the_reset() {
        // Flags, payload, and of the reset: flags, number, acknowledgement.
        for (flags, payload, wanted) in [
            (SYN, &b""[..], (RST | ACK, 0, 0xffff_ffff)),
            (SYN | FIN, b"abc", (RST | ACK, 0, 3)),
            (0, b"abcd", (RST | ACK, 0, 2)),
            (ACK, b"", (RST, 77, 0)),
            (ACK | FIN, b"abc", (RST, 77, 0)),
            (SYN | ACK, b"", (RST, 77, 0)),
        ] {
            let reset = answered(&tcp(flags, payload)).expect("a reset");
            assert_eq!(
                (reset[33], word(&reset, 24), word(&reset, 28)),
                wanted,
                "to {flags:#x} with {payload:?}"
            );
            assert_eq!(reset[12..20], [198, 18, 0, 2, 198, 18, 0, 1], "back to the sender");
            assert_eq!(reset[20..24], [0, 7, 0x9c, 0x40]);
            assert!(is_right(&reset[..20]));
            let mut covered = reset[12..20].to_vec();
            covered.extend([0, TCP, 0, 20]);
            covered.extend(&reset[20..]);
            assert!(is_right(&covered));
        }
    }

    #[test]
    fn what_must_not_be_answered_is_not() {
        let changed = |change: fn(&mut Vec<u8>)| {
            let mut packet = tcp(ACK, b"x");
            change(&mut packet);
            answered(&packet).is_some()
        };
        assert!(changed(|_| {}));
        assert!(!changed(|packet| packet[24 + 13] |= RST), "a reset");
        assert!(!changed(|packet| packet[9] = 17), "no TCP");
        assert!(!changed(|packet| packet[7] = 1), "not the first fragment");
        assert!(!changed(|packet| packet[24 + 12] = 15 << 4), "shorter than it says");
        assert!(!changed(|packet| packet[24 + 12] = 4 << 4), "no whole header");
        assert!(!changed(|packet| packet.truncate(48)));
        assert_eq!(answer(&tcp(ACK, b""), &mut [0; LEN - 1]), None, "no room");
    }
}
