//! One capture point: a thread that reads an interface's packets into memory and into a pcapng file.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use pcap_file::DataLink;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{PcapNgBlock, PcapNgWriter};

use super::packet::{self, Content, NtmKind, Packet};
use super::sealed::{self, Seal};
use super::socket::{Batch, PacketSocket, Raw};
use crate::clock;

/// Packets up to this length are kept whole in the file: control messages, echoes, what opens and acknowledges transfers.
const WHOLE: usize = 14 + 700;
/// So much of a longer one: all headers, and of a tunnelled packet the outer ones and the NTM header.
const SNAP: usize = 14 + packet::NEEDED;
/// So much is read at a real interface: all of the longest frame, for the digests of data packets.
const LONGEST: usize = 14 + 65_535;
/// The flags of a packet's block in the file, where the node received it and where it sent it.
pub const INBOUND: u32 = 1;
pub(super) const OUTBOUND: u32 = 2;
/// So many packets of one point are kept in memory (about 300 MB); the file goes on.
const MOST: usize = 6_000_000;
/// How soon a point notices that it shall end.
const TICK_MS: u8 = 50;

/// What an interface's packets begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// An Ethernet header.
    Ethernet,
    /// The IP packet itself: a TUN device.
    Ip,
}

impl Framing {
    /// The IP packet in `frame`; none of other frames.
    pub fn ip(self, frame: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Ip => Some(frame),
            Self::Ethernet if matches!(frame.get(12..14), Some(&[0x08, 0x00] | &[0x86, 0xdd])) => {
                frame.get(14..)
            }
            Self::Ethernet => None,
        }
    }

    /// As capture files call it.
    pub(super) fn link_type(self) -> DataLink {
        match self {
            Self::Ethernet => DataLink::ETHERNET,
            Self::Ip => DataLink::RAW,
        }
    }
}

/// A running capture.
pub struct Point {
    /// The node.
    pub node: String,
    /// The interface.
    pub interface: String,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Recording>>,
}

/// What a capture point saw.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// IP packets in the order of time.
    pub packets: Vec<Packet>,
    /// Data packets that passed a real interface whole, in the order of time.
    pub seals: Vec<Seal>,
    /// Packets that are in neither memory nor file, or only in the file.
    pub lost: u64,
}

impl Point {
    /// Starts to capture at the interface numbered `index` of the namespace that the calling thread is in.
    pub fn start(node: &str, interface: &str, index: u32, framing: Framing, file: &Path) -> io::Result<Self> {
        let socket = PacketSocket::open(index)?;
        let writer = begin(node, interface, framing, file)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread =
            std::thread::Builder::new().name(format!("capture {node}")).spawn(move || match framing {
                Framing::Ethernet => record::<LONGEST>(&socket, framing, writer, &stopped),
                Framing::Ip => record::<WHOLE>(&socket, framing, writer, &stopped),
            })?;
        Ok(Self { node: node.to_owned(), interface: interface.to_owned(), stop, thread })
    }

    /// Tells the capture to end. It takes a while, in which others can be told.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Waits until the capture has ended; what waits in the kernel is still read.
    pub fn end(self) -> io::Result<Recording> {
        self.stop();
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the capture's thread panicked")))
    }
}

type Writer = PcapNgWriter<BufWriter<File>>;

fn begin(node: &str, interface: &str, framing: Framing, file: &Path) -> io::Result<Writer> {
    let mut writer = PcapNgWriter::new(BufWriter::new(File::create(file)?)).map_err(io::Error::other)?;
    let description = InterfaceDescriptionBlock {
        linktype: framing.link_type(),
        snaplen: WHOLE as u32,
        options: vec![
            InterfaceDescriptionOption::IfName(Cow::Owned(format!("{node} {interface}"))),
            InterfaceDescriptionOption::IfTsResol(9),
        ],
    };
    writer.write_block(&description.into_block()).map_err(io::Error::other)?;
    Ok(writer)
}

fn record<const READ: usize>(
    socket: &PacketSocket,
    framing: Framing,
    mut writer: Writer,
    stop: &AtomicBool,
) -> io::Result<Recording> {
    let mut out = Recording::default();
    let mut batch = Batch::<READ>::new();
    loop {
        let last = stop.load(Ordering::Acquire);
        let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(socket), PollFlags::POLLIN)];
        if !last {
            match poll(&mut ready, PollTimeout::from(TICK_MS)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // The kernel stamps packets with the wall clock; the run's clock is read beside it for each batch.
        let offset = clock::wall().wrapping_sub(clock::now().as_nanos());
        let mut failed = None;
        let count = socket.receive(&mut batch, |raw| {
            if let Err(error) = keep(&raw, framing, offset, &mut out, &mut writer) {
                failed = Some(error);
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if last && count == 0 {
            break;
        }
    }
    out.lost += u64::from(socket.dropped()?);
    writer.into_inner().flush()?;
    Ok(out)
}

fn keep(
    raw: &Raw<'_>,
    framing: Framing,
    offset: u64,
    out: &mut Recording,
    writer: &mut Writer,
) -> io::Result<()> {
    let kept = if raw.length <= WHOLE { raw.bytes } else { &raw.bytes[..raw.bytes.len().min(SNAP)] };
    let block = EnhancedPacketBlock {
        interface_id: 0,
        timestamp: Duration::from_nanos(raw.wall),
        original_len: raw.length as u32,
        data: Cow::Borrowed(kept),
        options: vec![EnhancedPacketOption::Flags(if raw.outgoing { OUTBOUND } else { INBOUND })],
    };
    writer.write_pcapng_block(block).map_err(io::Error::other)?;
    let bytes = framing.ip(raw.bytes).unwrap_or_default();
    let Some(packet) = packet::parse(raw.wall.wrapping_sub(offset), raw.outgoing, bytes) else {
        return Ok(());
    };
    if out.packets.len() >= MOST || out.seals.len() >= MOST {
        out.lost += 1;
        return Ok(());
    }
    if framing == Framing::Ethernet && packet.content == Content::Ntm(NtmKind::Data) {
        out.seals.extend(sealed::seals(packet.t, bytes));
    }
    out.packets.push(packet);
    Ok(())
}
