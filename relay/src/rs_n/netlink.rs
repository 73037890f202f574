//! One conversation with the kernel's Netfilter by netlink: changes of nf_tables, conntrack's connections.
//!
//! The kernel does what a message asks for before the sending returns, and has answered by then. So nothing here waits: where no
//! answer stands ready, none will come.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::conntrack::ConntrackMessage;
use netlink_packet_netfilter::nftables::NfTablesMessage;
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use ntm_protocol::family::Family;

/// `NFNL_SUBSYS_NFTABLES` of `linux/netfilter/nfnetlink.h`: whom a batch is for.
const NFNL_SUBSYS_NFTABLES: u16 = 10;

/// The kernel fills at most 32 KiB of a listing at once.
const RECEIVE: usize = 64 * 1024;

/// The socket.
pub(super) struct Netlink {
    socket: Socket,
    /// The sequence number of the last message sent.
    sequence: u32,
    received: Vec<u8>,
}

impl Netlink {
    /// A socket in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket, sequence: 0, received: Vec::with_capacity(RECEIVE) })
    }

    /// Has nf_tables make `change` in `family`, with `flags` (such as `NLM_F_CREATE`), as a transaction of its own.
    pub(super) fn commit(&mut self, family: Family, change: NfTablesMessage, flags: u16) -> io::Result<()> {
        let control = |message| {
            let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES);
            NetfilterMessage::new(header, message)
        };
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        self.append(&mut bytes, control(ControlMessage::BatchBegin), NLM_F_REQUEST);
        self.append(&mut bytes, of(family, change), NLM_F_REQUEST | NLM_F_ACK | flags);
        self.append(&mut bytes, control(ControlMessage::BatchEnd), NLM_F_REQUEST);
        self.send(&bytes)?;
        // An error may concern any of the three; the only acknowledgement is the change's, and comes after the commit.
        self.answer(first, |_| Ok(()))
    }

    /// Has conntrack do what `message` says, in `family`.
    pub(super) fn conntrack(&mut self, family: Family, message: ConntrackMessage) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, of(family, message), NLM_F_REQUEST | NLM_F_ACK);
        self.send(&bytes)?;
        self.answer(self.sequence, |_| Ok(()))
    }

    /// Lists what `message` asks conntrack for, in `family`.
    pub(super) fn connections(
        &mut self,
        family: Family,
        message: ConntrackMessage,
        mut each: impl FnMut(ConntrackMessage),
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, of(family, message), NLM_F_REQUEST | NLM_F_DUMP);
        self.send(&bytes)?;
        self.answer(self.sequence, |message| {
            if let NetfilterMessageInner::Conntrack(message) = message.inner {
                each(message);
            }
            Ok(())
        })
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: NetfilterMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        (header.flags, header.sequence_number) = (flags, self.sequence);
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let start = bytes.len();
        // Messages of a batch stand at multiples of four (NLMSG_ALIGN).
        bytes.resize((start + message.buffer_len()).next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..start + message.buffer_len()]);
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send(bytes, 0).map(drop)
    }

    /// Reads the answers to the messages sent from the sequence number `first` on, until the last one.
    fn answer(
        &mut self,
        first: u32,
        mut each: impl FnMut(NetfilterMessage) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            self.received.clear();
            self.socket.recv(&mut self.received, 0)?;
            let mut rest = &self.received[..];
            while !rest.is_empty() {
                let message =
                    NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                // What an earlier conversation left unread.
                if message.header.sequence_number.wrapping_sub(first) > self.sequence.wrapping_sub(first) {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::InnerMessage(message) => each(message)?,
                    _ => {}
                }
            }
        }
    }
}

fn of(family: Family, message: impl Into<NetfilterMessageInner>) -> NetfilterMessage {
    let family = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}
