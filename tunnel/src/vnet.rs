//! The header that the kernel puts ahead of each packet of a TUN opened with `IFF_VNET_HDR` (virtio 1.2, section 5.1.6): what of
//! the packet's work is still to be done.

/// Its size, in bytes.
pub(crate) const VNET_LEN: usize = 10;

const NEEDS_CSUM: u8 = 1;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// A bit beside the kinds: the train carries an ECN congestion mark.
const GSO_ECN: u8 = 0x80;

/// How a packet is to be segmented.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Gso {
    /// Not at all.
    #[default]
    None,
    /// A train of TCP segments over IPv4.
    Tcp4,
    /// A train of TCP segments over IPv6.
    Tcp6,
    /// A train of UDP datagrams.
    Udp,
}

/// The header's values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Vnet {
    /// Where the part that the checksum covers starts and where in that part the checksum stands, both in bytes; `None` if nothing
    /// is to be completed. The field holds the folded sum of the pseudo-header.
    pub(crate) partial: Option<(u16, u16)>,
    /// How to segment it.
    pub(crate) gso: Gso,
    /// The payload of each segment, in bytes.
    pub(crate) gso_size: u16,
    /// The headers' length, in bytes; a hint only.
    pub(crate) header_len: u16,
}

impl Vnet {
    /// Splits `bytes` into the header and the packet; `None` if they are too short, or ask for what we never offered.
    pub(crate) fn parse(bytes: &mut [u8]) -> Option<(Self, &mut [u8])> {
        let (header, packet) = bytes.split_first_chunk_mut::<VNET_LEN>()?;
        // A legacy header is in the machine's own byte order.
        let field = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let gso = match header[1] & !GSO_ECN {
            0 => Gso::None,
            GSO_TCPV4 => Gso::Tcp4,
            GSO_TCPV6 => Gso::Tcp6,
            GSO_UDP_L4 => Gso::Udp,
            _ => return None,
        };
        let partial = (header[0] & NEEDS_CSUM != 0).then(|| (field(6), field(8)));
        Some((Self { partial, gso, gso_size: field(4), header_len: field(2) }, packet))
    }

    /// The header's bytes.
    pub(crate) fn emit(&self) -> [u8; VNET_LEN] {
        let mut bytes = [0; VNET_LEN];
        if let Some((start, offset)) = self.partial {
            bytes[0] = NEEDS_CSUM;
            bytes[6..8].copy_from_slice(&start.to_ne_bytes());
            bytes[8..10].copy_from_slice(&offset.to_ne_bytes());
        }
        bytes[1] = match self.gso {
            Gso::None => 0,
            Gso::Tcp4 => GSO_TCPV4,
            Gso::Tcp6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
        };
        bytes[2..4].copy_from_slice(&self.header_len.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back() {
        let vnet = Vnet { partial: Some((20, 16)), gso: Gso::Tcp4, gso_size: 1372, header_len: 52 };
        let mut bytes = vnet.emit().to_vec();
        bytes.push(0x45);
        assert_eq!(Vnet::parse(&mut bytes), Some((vnet, &mut [0x45][..])));
        assert_eq!(Vnet::default().emit(), [0; VNET_LEN]);
    }

    #[test]
    fn what_was_never_offered_is_refused() {
        assert_eq!(Vnet::parse(&mut [0; VNET_LEN - 1]), None);
        let mut ufo = [0; VNET_LEN];
        ufo[1] = 3;
        assert_eq!(Vnet::parse(&mut ufo), None);
        let mut ecn = [0; VNET_LEN];
        ecn[1] = GSO_TCPV4 | GSO_ECN;
        assert_eq!(Vnet::parse(&mut ecn).map(|(vnet, _)| vnet.gso), Some(Gso::Tcp4));
    }
}
