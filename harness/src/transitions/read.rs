//! Sightings from a run's capture files.
//!
//! Files, not memory: a run's packets are too many to keep whole.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::Arc;

use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::{Block, PcapNgReader};

use super::sighting::{Point, Sighting};
use crate::capture::point::{Framing, INBOUND};
use crate::clock;
use crate::plan::Plan;
use crate::plan::config::{OUTSIDE, TUN};

/// Reads all that was captured in the world of `plan` into the files of `folder`; times are of the run's clock, and in order.
pub fn run(folder: &Path, plan: &Plan) -> io::Result<Vec<Sighting>> {
    let mut sightings = Vec::new();
    let mut add = |node: &str, interface: &str, point: Point, framing: Framing| {
        let path = folder.join(format!("{node}.{interface}.pcapng"));
        // A terminal that never came up has none.
        if path.exists() {
            sightings.extend(file(node, point, framing, &path)?);
        }
        Ok::<(), io::Error>(())
    };
    for host in &plan.hosts {
        if host.is_terminal() {
            add(&host.name, TUN, Point::Application, Framing::Ip)?;
        }
        for interface in &host.interfaces {
            add(&host.name, &interface.name, Point::Real, Framing::Ethernet)?;
        }
    }
    for router in &plan.routers {
        add(&router.name, OUTSIDE, Point::Outside, Framing::Ethernet)?;
    }
    // Captures tell the wall clock's time.
    let offset = clock::wall().wrapping_sub(clock::now().as_nanos());
    for sighting in &mut sightings {
        sighting.t = sighting.t.wrapping_sub(offset);
    }
    sightings.sort_by_key(|sighting| sighting.t);
    Ok(sightings)
}

/// Reads what was captured at `point` of `node` into `file`; times are in nanoseconds since 1970. A file that ends in the middle of a
/// packet is read to there.
fn file(node: &str, point: Point, framing: Framing, file: &Path) -> io::Result<Vec<Sighting>> {
    let mut reader = PcapNgReader::new(BufReader::new(File::open(file)?)).map_err(io::Error::other)?;
    let (node, mut out) = (Arc::from(node), Vec::new());
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
        out.extend(bytes.into_iter().flat_map(|bytes| Sighting::read(t, &node, point, !inbound, bytes)));
    }
    Ok(out)
}
