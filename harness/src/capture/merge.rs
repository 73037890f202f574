//! One capture of a run from those of its points: an interface for each, packets sorted by time, addresses with names.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcapng::blocks::Block;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::name_resolution::{Ipv4Record, Ipv6Record, NameResolutionBlock, Record};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgBlock, PcapNgReader, PcapNgWriter};

/// What a point's file holds.
#[derive(Debug, Clone)]
pub struct Part {
    /// The point's capture: one interface.
    pub file: PathBuf,
    /// What is said of the interface: whose it is, and where.
    pub about: String,
}

/// Writes the packets of all `parts` to `to`, with `names` for addresses. What a part that was cut short holds is taken as far as it goes,
/// and named in the result.
pub fn merge(parts: &[Part], names: &[(IpAddr, String)], to: &Path) -> io::Result<Vec<String>> {
    let section = SectionHeaderBlock {
        options: vec![SectionHeaderOption::UserApplication(Cow::Borrowed(concat!(
            "harness ",
            env!("CARGO_PKG_VERSION")
        )))],
        ..Default::default()
    };
    let out = BufWriter::new(File::create(to)?);
    let mut writer = PcapNgWriter::with_section_header(out, section).map_err(io::Error::other)?;
    let mut sources = Vec::with_capacity(parts.len());
    let mut complaints = Vec::new();
    for part in parts {
        let mut source = Source {
            reader: PcapNgReader::new(BufReader::new(File::open(&part.file)?)).map_err(io::Error::other)?,
            broken: None,
        };
        let first = source.next();
        let mut interface =
            source.reader.interfaces().first().cloned().unwrap_or_else(|| InterfaceDescriptionBlock {
                linktype: pcap_file::DataLink::ETHERNET,
                snaplen: 0,
                options: Vec::new(),
            });
        interface.options.push(InterfaceDescriptionOption::IfDescription(Cow::Owned(part.about.clone())));
        writer.write_block(&interface.into_block()).map_err(io::Error::other)?;
        sources.push((source, first));
    }
    if !names.is_empty() {
        writer.write_pcapng_block(resolution(names)).map_err(io::Error::other)?;
    }
    let mut waiting: BinaryHeap<Reverse<(Duration, usize)>> = BinaryHeap::new();
    let mut next: Vec<Option<EnhancedPacketBlock<'static>>> = Vec::new();
    for (index, (_, first)) in sources.iter_mut().enumerate() {
        next.push(first.take());
        waiting.extend(next[index].as_ref().map(|packet| Reverse((packet.timestamp, index))));
    }
    while let Some(Reverse((_, index))) = waiting.pop() {
        let Some(mut packet) = next[index].take() else { continue };
        packet.interface_id = index as u32;
        writer.write_pcapng_block(packet).map_err(io::Error::other)?;
        next[index] = sources[index].0.next();
        waiting.extend(next[index].as_ref().map(|packet| Reverse((packet.timestamp, index))));
    }
    for (part, (source, _)) in parts.iter().zip(&sources) {
        complaints.extend(source.broken.as_ref().map(|why| format!("{}: {why}", part.file.display())));
    }
    writer.into_inner().flush()?;
    Ok(complaints)
}

struct Source {
    reader: PcapNgReader<BufReader<File>>,
    broken: Option<String>,
}

impl Source {
    /// Its next packet; none at its end, or where it is broken.
    fn next(&mut self) -> Option<EnhancedPacketBlock<'static>> {
        while self.broken.is_none() {
            match self.reader.next_block()? {
                Ok(Block::EnhancedPacket(packet)) => return Some(packet.into_owned()),
                Ok(_) => {}
                Err(error) => self.broken = Some(error.to_string()),
            }
        }
        None
    }
}

/// The block that names addresses.
pub(super) fn resolution(names: &[(IpAddr, String)]) -> NameResolutionBlock<'_> {
    let record = |(address, name): &'_ (IpAddr, String)| {
        let names = vec![Cow::Owned(name.clone())];
        match address {
            IpAddr::V4(address) => {
                Record::Ipv4(Ipv4Record { ip_addr: Cow::Owned(address.octets().to_vec()), names })
            }
            IpAddr::V6(address) => {
                Record::Ipv6(Ipv6Record { ip_addr: Cow::Owned(address.octets().to_vec()), names })
            }
        }
    };
    NameResolutionBlock { records: names.iter().map(record).collect(), options: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::DataLink;

    fn part(folder: &Path, name: &str, linktype: DataLink, times: &[u64]) -> Part {
        let file = folder.join(format!("{name}.pcapng"));
        let mut writer = PcapNgWriter::new(File::create(&file).unwrap()).unwrap();
        let options = vec![
            InterfaceDescriptionOption::IfName(name.to_owned().into()),
            InterfaceDescriptionOption::IfTsResol(9),
        ];
        writer.write_pcapng_block(InterfaceDescriptionBlock { linktype, snaplen: 134, options }).unwrap();
        for time in times {
            let packet = EnhancedPacketBlock {
                interface_id: 0,
                timestamp: Duration::from_nanos(1_795_590_000_000_000_000 + time),
                original_len: 1500,
                data: Cow::Owned(vec![*time as u8; 7]),
                options: Vec::new(),
            };
            writer.write_pcapng_block(packet).unwrap();
        }
        Part { file, about: format!("about {name}") }
    }

    /// Interface, nanoseconds and data of each packet, and what stands ahead of them.
    fn read(file: &Path) -> (Vec<(u32, u128, u8)>, Vec<String>) {
        let mut reader = PcapNgReader::new(File::open(file).unwrap()).unwrap();
        let (mut packets, mut named) = (Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.unwrap() {
                Block::EnhancedPacket(packet) => packets.push((
                    packet.interface_id,
                    packet.timestamp.as_nanos() - 1_795_590_000_000_000_000,
                    packet.data[0],
                )),
                Block::NameResolution(block) => named.push(format!("{:?}", block.records[0])),
                _ => {}
            }
        }
        named.extend(
            reader
                .interfaces()
                .iter()
                .map(|interface| format!("{:?} {:?}", interface.linktype, interface.options)),
        );
        (packets, named)
    }

    #[test]
    fn packets_of_all_points_come_in_the_order_of_time_and_keep_their_interface() {
        let folder = tempfile::tempdir().unwrap();
        let parts = [
            part(folder.path(), "mn wlan0", DataLink::ETHERNET, &[1, 5, 6]),
            part(folder.path(), "mn ntm0", DataLink::RAW, &[]),
            part(folder.path(), "rs eth0", DataLink::ETHERNET, &[2, 3, 9]),
        ];
        let to = folder.path().join("run.pcapng");
        let names = [("203.0.113.7".parse().unwrap(), "rs".to_owned())];
        assert_eq!(merge(&parts, &names, &to).unwrap(), Vec::<String>::new());
        let (packets, named) = read(&to);
        assert_eq!(packets, [(0, 1, 1), (2, 2, 2), (2, 3, 3), (0, 5, 5), (0, 6, 6), (2, 9, 9)]);
        assert_eq!(named.len(), 4);
        assert!(
            named[0].contains("\"rs\"") && named[2].contains("RAW") && named[2].contains("about mn ntm0"),
            "{named:?}"
        );
    }

    /// A capture ends in the middle of a packet where the harness was killed.
    #[test]
    fn what_a_broken_part_holds_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let broken = part(folder.path(), "a", DataLink::ETHERNET, &[1, 2]);
        let whole = std::fs::read(&broken.file).unwrap();
        std::fs::write(&broken.file, &whole[..whole.len() - 5]).unwrap();
        let to = folder.path().join("run.pcapng");
        let parts = [broken, part(folder.path(), "b", DataLink::ETHERNET, &[3])];
        assert_eq!(merge(&parts, &[], &to).unwrap().len(), 1);
        assert_eq!(read(&to).0, [(0, 1, 1), (1, 3, 3)]);
    }
}
