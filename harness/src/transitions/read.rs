//! Sightings from a run's capture files.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};

use super::sighting::{Point, Sighting};
use crate::capture::point::{Framing, INBOUND};

/// Reads what was captured at `point` of `node` into `file`; times are in nanoseconds since 1970. A file that ends in the middle of a
/// packet is read to there.
pub fn file(node: &str, point: Point, framing: Framing, file: &Path) -> io::Result<Vec<Sighting>> {
    let mut reader = PcapNgReader::new(BufReader::new(File::open(file)?)).map_err(io::Error::other)?;
    let mut out = Vec::new();
    while let Some(Ok(block)) = reader.next_block() {
        let Block::EnhancedPacket(packet) = block else { continue };
        if packet.data.len() < packet.original_len as usize {
            continue;
        }
        let inbound =
            packet.options.iter().any(|option| matches!(option, EnhancedPacketOption::Flags(INBOUND)));
        let bytes = match framing {
            Framing::Ip => Some(&packet.data[..]),
            Framing::Ethernet => packet.data.get(14..),
        };
        let t = u64::try_from(packet.timestamp.as_nanos()).unwrap_or(u64::MAX);
        out.extend(bytes.into_iter().flat_map(|bytes| Sighting::read(t, node, point, !inbound, bytes)));
    }
    Ok(out)
}
