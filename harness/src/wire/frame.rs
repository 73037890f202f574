//! Frames as packet sockets with `PACKET_VNET_HDR` give and take them: the kernel's note on work still to be done (virtio 1.2,
//! section 5.1.6), then the frame from its Ethernet header on. PURE.
//!
//! A frame may be a *train*: one set of headers and the payload of many packets, which whoever sends it on a real wire cuts up.

use ntm_protocol::time::Duration;
use ntm_sim::impair::Impairment;

/// Size of the kernel's note.
pub(super) const NOTE: usize = 10;
/// The longest frame: an IP packet's 65535 bytes behind an Ethernet header with one tag, and the note.
pub(super) const LONGEST: usize = NOTE + 18 + 65535;

const ETHERNET: usize = 14;
const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// A bit beside the kinds: the train carries an ECN congestion mark.
const GSO_ECN: u8 = 0x80;
/// On a link with a rate no train is longer than this, or its first packet would wait for its last.
const TRAIN: Duration = Duration::from_micros(250);

/// What a frame is on a wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Size {
    /// Packets; one unless it is a train.
    pub(super) packets: u64,
    /// Bytes, from the Ethernet header of each packet on.
    pub(super) bytes: usize,
}

/// Measures `frame`, note included, and corrects the length of headers in the note, which the kernel gives as a hint that suits
/// its own buffers. `None` if the frame is too short for what the note says.
pub(super) fn measure(frame: &mut [u8]) -> Option<Size> {
    let (note, packet) = frame.split_first_chunk_mut::<NOTE>()?;
    // The note is in the machine's own byte order.
    let field = |at: usize| usize::from(u16::from_ne_bytes([note[at], note[at + 1]]));
    let (kind, segment) = (note[1] & !GSO_ECN, field(4));
    if packet.len() < ETHERNET {
        return None;
    }
    if kind == 0 || segment == 0 {
        note[2..4].fill(0);
        return Some(Size { packets: 1, bytes: packet.len() });
    }
    let transport = if note[0] & NEEDS_CSUM != 0 { field(6) } else { transport(packet)? };
    let headers = match kind {
        GSO_TCPV4 | GSO_TCPV6 => transport + usize::from(*packet.get(transport + 12)? >> 4) * 4,
        GSO_UDP_L4 => transport + 8,
        _ => return None,
    };
    let payload = packet.len().checked_sub(headers)?;
    note[2..4].copy_from_slice(&u16::try_from(headers).ok()?.to_ne_bytes());
    let packets = payload.div_ceil(segment).max(1);
    Some(Size { packets: packets as u64, bytes: payload + packets * headers })
}

/// Where the transport header begins, in an IP packet without extension headers.
fn transport(packet: &[u8]) -> Option<usize> {
    let first = *packet.get(ETHERNET)?;
    match first >> 4 {
        4 => Some(ETHERNET + usize::from(first & 15) * 4),
        6 => Some(ETHERNET + 40),
        _ => None,
    }
}

/// The longest train that the kernel may hand to a link: the `gso_max_size` and `gso_max_segs` of the links' outer ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trains {
    /// `gso_max_size`, in bytes: frames that reach it are cut up.
    pub bytes: u32,
    /// `gso_max_segs`, in packets.
    pub packets: u32,
}

impl Trains {
    /// What the kernel allows without being told.
    pub const ANY: Self = Self { bytes: 65536, packets: 65535 };

    /// For a link of `mtu` that does `asked` to packets. Where packets are lost, doubled or reordered each must come by itself; where there
    /// is a rate, a train is sent in at most 250 µs.
    pub fn for_link(asked: &Impairment, mtu: u32) -> Self {
        if asked.loss > 0.0 || asked.duplicate > 0.0 || asked.reorder > 0.0 {
            return Self::of(1, mtu);
        }
        let Some(rate) = asked.rate else { return Self::ANY };
        let bytes = u128::from(rate.get()) * TRAIN.as_nanos() / 8_000_000_000;
        let packets = bytes / u128::from(mtu.saturating_add(14));
        match u32::try_from(packets) {
            Ok(packets) if packets.saturating_mul(mtu) < Self::ANY.bytes => Self::of(packets.max(1), mtu),
            _ => Self::ANY,
        }
    }

    /// At most so many packets of `mtu`.
    pub fn of(packets: u32, mtu: u32) -> Self {
        // The kernel cuts up what is as long as this, and counts the Ethernet header.
        Self { bytes: (packets * mtu + ETHERNET as u32 + 1).min(Self::ANY.bytes), packets }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use super::*;

    /// A frame of `payload` bytes behind Ethernet, IPv4 and TCP with timestamps (66 bytes), or UDP (42 bytes).
    fn frame(kind: u8, segment: u16, partial: bool, payload: usize) -> Vec<u8> {
        let headers = if kind == GSO_UDP_L4 { 42 } else { 66 };
        let mut frame = vec![0; NOTE + headers + payload];
        frame[0] = u8::from(partial);
        frame[1] = kind;
        frame[2..4].copy_from_slice(&999u16.to_ne_bytes());
        frame[4..6].copy_from_slice(&segment.to_ne_bytes());
        if partial {
            frame[6..8].copy_from_slice(&34u16.to_ne_bytes());
        }
        frame[NOTE + 14] = 0x45;
        if headers == 66 {
            frame[NOTE + 34 + 12] = 8 << 4;
        }
        frame
    }

    fn hint(frame: &[u8]) -> u16 {
        u16::from_ne_bytes([frame[2], frame[3]])
    }

    #[test]
    fn a_single_packet_is_as_long_as_it_is() {
        let mut frame = frame(0, 0, true, 1448);
        assert_eq!(measure(&mut frame), Some(Size { packets: 1, bytes: 1514 }));
        assert_eq!(hint(&frame), 0);
    }

    #[test]
    fn each_packet_of_a_train_has_headers() {
        for partial in [true, false] {
            let mut tcp = frame(GSO_TCPV4 | GSO_ECN, 1448, partial, 3 * 1448 + 1);
            assert_eq!(measure(&mut tcp), Some(Size { packets: 4, bytes: 3 * 1514 + 67 }));
            assert_eq!(hint(&tcp), 66, "the kernel's hint is corrected");
            let mut udp = frame(GSO_UDP_L4, 1472, partial, 44 * 1472);
            assert_eq!(measure(&mut udp), Some(Size { packets: 44, bytes: 44 * 1514 }));
            assert_eq!(hint(&udp), 42);
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(measure(&mut []), None);
        assert_eq!(measure(&mut [0; NOTE + 13]), None);
        assert_eq!(
            measure(&mut frame(3, 1000, true, 5000)),
            None,
            "fragments of UDP are no train that we know"
        );
        let mut short = frame(GSO_TCPV4, 1448, true, 0);
        short.truncate(NOTE + 40);
        assert_eq!(measure(&mut short), None);
    }

    #[test]
    fn trains_are_as_short_as_the_link_needs() {
        let rate =
            |mbit: u64| Impairment { rate: NonZeroU64::new(mbit * 1_000_000), ..Impairment::default() };
        let trains = |asked: &Impairment| Trains::for_link(asked, 1500);
        assert_eq!(trains(&Impairment::default()), Trains::ANY);
        assert_eq!(
            trains(&Impairment { delay: Duration::from_millis(4), ..Impairment::default() }),
            Trains::ANY
        );
        assert_eq!(trains(&rate(150)), Trains { bytes: 4515, packets: 3 });
        assert_eq!(trains(&rate(1)), Trains { bytes: 1515, packets: 1 });
        assert_eq!(trains(&rate(100_000)), Trains::ANY);
        assert_eq!(trains(&Impairment { loss: 0.01, ..rate(1000) }).packets, 1);
    }
}
