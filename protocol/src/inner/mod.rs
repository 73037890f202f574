//! Inner packets beyond the addresses that select their path: checksums, and the ICMP errors and TCP resets that answer what a node cannot carry, so that
//! nothing is lost in silence. Everything works on bytes, in the caller's buffers.

pub mod checksum;
pub mod fragments;
pub mod icmp;
pub mod reset;
pub mod siit;

/// Bytes of an IPv4 header without options.
const IPV4_LEN: usize = 20;
/// Of the flags and the offset: not to be cut up.
const DONT_FRAGMENT: u16 = 0x4000;
/// Of the flags and the offset: the place of a fragment's payload, in units of eight bytes.
const OFFSET: u16 = 0x1fff;

/// Length of the header of `packet`, and its flags and offset; `None` if it is no well-formed IPv4 packet of its length.
fn header(packet: &[u8]) -> Option<(usize, u16)> {
    let fixed = packet.first_chunk::<IPV4_LEN>()?;
    let length = usize::from(fixed[0] & 15) * 4;
    let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    let is_whole =
        fixed[0] >> 4 == 4 && length >= IPV4_LEN && length <= packet.len() && total == packet.len();
    is_whole.then_some((length, u16::from_be_bytes([fixed[6], fixed[7]])))
}

/// Writes the header's checksum.
fn complete(header: &mut [u8]) {
    header[10..12].fill(0);
    let checksum = !checksum::fold(checksum::sum(header, 0));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP datagram between two virtual addresses, whose payload counts up.
    pub(super) fn udp(options: &[u8], payload: usize) -> Vec<u8> {
        let header = IPV4_LEN + options.len();
        let total = (header + 8 + payload) as u16;
        let mut packet = vec![0x40 | (header / 4) as u8, 0, 0, 0, 0x12, 0x34, 0, 0, 64, 17, 0, 0];
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet.extend([198, 18, 0, 1, 198, 18, 0, 2]);
        packet.extend(options);
        packet.extend([0x9c, 0x40, 0, 7, 0, 0, 0, 0]);
        packet.extend((0..payload).map(|n| n as u8));
        complete(&mut packet[..header]);
        packet
    }

    pub(super) fn is_right(bytes: &[u8]) -> bool {
        checksum::fold(checksum::sum(bytes, 0)) == 0xffff
    }
}
