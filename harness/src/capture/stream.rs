//! A live capture as pcapng, readable by Wireshark and tshark while it goes on: an interface is described when its first packet comes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::time::Duration;

use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriter};

use super::merge::resolution;
use super::point::{INBOUND, OUTBOUND};
use super::tap::{Frame, SNAP};

/// A capture that is being written.
pub struct Stream<W: Write> {
    node: String,
    writer: PcapNgWriter<W>,
    interfaces: HashMap<String, u32>,
}

impl<W: Write> Stream<W> {
    /// Begins a capture of `node`'s packets with `names` for addresses.
    pub fn begin(out: W, node: &str, names: &[(IpAddr, String)]) -> io::Result<Self> {
        let mut writer = PcapNgWriter::new(out).map_err(io::Error::other)?;
        if !names.is_empty() {
            writer.write_pcapng_block(resolution(names)).map_err(io::Error::other)?;
        }
        Ok(Self { node: node.to_owned(), writer, interfaces: HashMap::new() })
    }

    /// Writes a packet.
    pub fn write(&mut self, frame: &Frame<'_>) -> io::Result<()> {
        let interface_id = match self.interfaces.get(frame.interface) {
            Some(id) => *id,
            None => self.describe(frame)?,
        };
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(frame.wall),
            original_len: frame.length as u32,
            data: Cow::Borrowed(frame.bytes),
            options: vec![EnhancedPacketOption::Flags(if frame.outgoing { OUTBOUND } else { INBOUND })],
        };
        self.writer.write_pcapng_block(block).map_err(io::Error::other)?;
        Ok(())
    }

    fn describe(&mut self, frame: &Frame<'_>) -> io::Result<u32> {
        let description = InterfaceDescriptionBlock {
            linktype: frame.framing.link_type(),
            snaplen: SNAP as u32,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(format!("{} {}", self.node, frame.interface))),
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        };
        self.writer.write_block(&description.into_block()).map_err(io::Error::other)?;
        let id = self.interfaces.len() as u32;
        self.interfaces.insert(frame.interface.to_owned(), id);
        Ok(id)
    }

    /// Hands on what was written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.get_mut().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::point::Framing;
    use pcap_file::pcapng::{Block, PcapNgReader};

    #[test]
    fn every_interface_is_described_once_and_before_its_packets() {
        let names = [("203.0.113.7".parse().unwrap(), "rs".to_owned())];
        let mut out = Vec::new();
        let mut stream = Stream::begin(&mut out, "rs", &names).unwrap();
        for (interface, framing) in
            [("eth0", Framing::Ethernet), ("ntm0", Framing::Ip), ("eth0", Framing::Ethernet)]
        {
            let frame = Frame {
                interface,
                framing,
                wall: 1_795_590_000_000_000_007,
                outgoing: true,
                length: 1500,
                bytes: &[7; 60],
            };
            stream.write(&frame).unwrap();
        }
        stream.flush().unwrap();
        let mut reader = PcapNgReader::new(out.as_slice()).unwrap();
        let mut seen = Vec::new();
        while let Some(block) = reader.next_block() {
            if let Block::EnhancedPacket(packet) = block.unwrap() {
                seen.push((packet.interface_id, packet.original_len, packet.timestamp.as_nanos() % 1000));
            }
        }
        assert_eq!(seen, [(0, 1500, 7), (1, 1500, 7), (0, 1500, 7)]);
        let described: Vec<_> =
            reader.interfaces().iter().map(|one| format!("{:?} {:?}", one.linktype, one.options)).collect();
        assert!(described[0].contains("ETHERNET") && described[0].contains("rs eth0"), "{described:?}");
        assert!(described[1].contains("RAW") && described[1].contains("rs ntm0"), "{described:?}");
    }
}
