//! For tests: packets as a plain stack makes them, checksums by the oracle.

use proptest::prelude::*;

use crate::oracle::naive;

/// A TCP segment's headers; the addresses are fixed.
#[derive(Clone, Debug)]
pub(crate) struct Tcp {
    pub(crate) source_port: u16,
    pub(crate) id: u16,
    pub(crate) tos: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// A multiple of four bytes, 40 at most.
    pub(crate) options: Vec<u8>,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            source_port: 1000,
            id: 5,
            tos: 0,
            dont_fragment: true,
            sequence: 100,
            acknowledgement: 9,
            flags: 0x10,
            window: 512,
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        }
    }
}

impl Arbitrary for Tcp {
    type Parameters = ();
    type Strategy = BoxedStrategy<Self>;

    fn arbitrary_with((): ()) -> Self::Strategy {
        let numbers = any::<(u16, u16, u8, bool, u32, u32, u8, u16)>();
        (numbers, prop::collection::vec(any::<[u8; 4]>(), 0..=10))
            .prop_map(
                |((source_port, id, tos, dont_fragment, sequence, acknowledgement, flags, window), words)| {
                    Self {
                        source_port,
                        id,
                        tos,
                        dont_fragment,
                        sequence,
                        acknowledgement,
                        flags,
                        window,
                        options: words.concat(),
                    }
                },
            )
            .boxed()
    }
}

impl Tcp {
    /// The packet with `payload`.
    pub(crate) fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.source_port.to_be_bytes());
        segment.extend(5001u16.to_be_bytes());
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledgement.to_be_bytes());
        segment.push(((20 + self.options.len()) as u8 / 4) << 4);
        segment.push(self.flags);
        segment.extend(self.window.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(&self.options);
        segment.extend(payload);
        ipv4(self.id, self.tos, self.dont_fragment, 6, 16, segment)
    }
}

/// A UDP packet.
pub(crate) fn udp(id: u16, payload: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(1000u16.to_be_bytes());
    segment.extend(5001u16.to_be_bytes());
    segment.extend((8 + payload.len() as u16).to_be_bytes());
    segment.extend([0; 2]);
    segment.extend(payload);
    ipv4(id, 0, true, 17, 6, segment)
}

fn ipv4(
    id: u16,
    tos: u8,
    dont_fragment: bool,
    protocol: u8,
    checksum_at: usize,
    mut segment: Vec<u8>,
) -> Vec<u8> {
    let addresses = [198, 18, 0, 1, 198, 18, 0, 2];
    let mut covered = addresses.to_vec();
    covered.extend([0, protocol]);
    covered.extend((segment.len() as u16).to_be_bytes());
    covered.extend(&segment);
    let checksum = match !naive(&covered) {
        0 if protocol == 17 => 0xffff,
        checksum => checksum,
    };
    segment[checksum_at..checksum_at + 2].copy_from_slice(&checksum.to_be_bytes());

    let mut packet = vec![0x45, tos];
    packet.extend((20 + segment.len() as u16).to_be_bytes());
    packet.extend(id.to_be_bytes());
    packet.extend([if dont_fragment { 0x40 } else { 0 }, 0, 64, protocol, 0, 0]);
    packet.extend(addresses);
    let checksum = !naive(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(segment);
    packet
}
