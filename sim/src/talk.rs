//! What applications do: ask for a name, send numbered packets there, and count what comes back.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use ntm_protocol::addr::{Fqdn, Vip};
use ntm_protocol::time::{Duration, Instant};
use ntm_protocol::wire::DnsError;

use crate::HostId;
use crate::flow::FlowId;
use crate::packet::{Packet, Protocol};

/// The port on which every host's application sends back what comes (RFC 862).
pub(crate) const ECHO: u16 = 7;
/// What an ICMP echo carries, as iputils' ping has it, behind its sequence number.
const PING: usize = 56;
/// The port of the first conversation; the others follow.
const FIRST_PORT: u16 = 40_000;

/// Names a conversation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TalkId(pub(crate) usize);

/// One numbered packet of a conversation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Numbered {
    /// When it was sent.
    pub sent: Instant,
    /// Whether there was a path for it.
    pub had_path: bool,
    /// When it came to the peer.
    pub arrived: Option<Instant>,
    /// When the peer's echo came back.
    pub returned: Option<Instant>,
}

/// An application's conversation with a peer: a DNS query, then packets, each of which the peer sends back.
#[derive(Clone, Debug)]
pub struct Talk {
    /// Who began it.
    pub host: HostId,
    /// The peer's name.
    pub peer: Fqdn,
    /// When the name was asked for.
    pub asked: Instant,
    /// The answer and when it came: a virtual address at a terminal, a real one elsewhere.
    pub answer: Option<(Instant, Result<Ipv4Addr, DnsError>)>,
    /// UDP to the peer's echo application, or ICMP.
    pub protocol: Protocol,
    /// The time between two packets; none are sent where there is none.
    pub period: Option<Duration>,
    /// How many packets are sent at most.
    pub limit: Option<usize>,
    /// Every packet so far.
    pub packets: Vec<Numbered>,
    /// How many packets came again, at either end.
    pub again: u32,
    /// How many echoes came to another host or port than the one that they are for.
    pub astray: u32,
    /// How many ICMP errors told that no way leads to the peer.
    pub unreachable: u32,
    /// By a real address, past whatever NTMobile does.
    pub(crate) real: bool,
    /// To which hosts' applications its packets came.
    pub reached: BTreeSet<HostId>,
    /// The flow whose last question it is.
    pub(crate) flow: Option<FlowId>,
    pub(crate) port: u16,
    pub(crate) ended: bool,
}

impl Talk {
    pub(crate) fn new(
        id: TalkId,
        host: HostId,
        peer: Fqdn,
        (protocol, period, limit): (Protocol, Option<Duration>, Option<usize>),
        asked: Instant,
    ) -> Self {
        // Conversations beyond the ports that there are share one; they are told apart by what they carry.
        let port = FIRST_PORT + (id.0 % 20_000) as u16;
        let (answer, packets) = (None, Vec::new());
        Self {
            host,
            peer,
            asked,
            answer,
            protocol,
            period,
            limit,
            packets,
            again: 0,
            astray: 0,
            unreachable: 0,
            real: false,
            reached: BTreeSet::new(),
            flow: None,
            port,
            ended: false,
        }
    }

    /// The address that the application was told.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.answer.and_then(|(_, answer)| answer.ok())
    }

    /// The VIP that a terminal's application was told.
    pub fn vip(&self) -> Option<Vip> {
        self.address().map(Vip)
    }

    /// Whether it has sent all that it is to send.
    pub fn has_sent_all(&self) -> bool {
        self.ended || self.limit.is_some_and(|limit| self.packets.len() >= limit)
    }

    /// How many packets came back.
    pub fn returned(&self) -> usize {
        self.packets.iter().filter(|packet| packet.returned.is_some()).count()
    }

    /// When the last packet came back.
    pub fn last_return(&self) -> Option<Instant> {
        self.packets.iter().filter_map(|packet| packet.returned).max()
    }

    /// When the first packet that was sent at `from` or later came back.
    pub fn first_return_of_sent_since(&self, from: Instant) -> Option<Instant> {
        self.packets.iter().filter(|packet| packet.sent >= from).filter_map(|packet| packet.returned).min()
    }

    /// The longest time from `from` to `to` without a packet coming back.
    pub fn longest_silence(&self, from: Instant, to: Instant) -> Duration {
        let mut times: Vec<Instant> = self.packets.iter().filter_map(|packet| packet.returned).collect();
        times.retain(|time| (from..to).contains(time));
        times.extend([from, to]);
        times.sort();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Its packet of that number, from an application at `own` to one at `peer`.
    pub(crate) fn packet(&self, id: TalkId, number: usize, own: Ipv4Addr, peer: Ipv4Addr) -> Packet {
        let mut named = (id.0 as u32).to_be_bytes().to_vec();
        named.extend_from_slice(&(number as u32).to_be_bytes());
        let (port, payload) = match self.protocol {
            Protocol::Icmp => {
                named.resize(PING, 0);
                (0, [&(number as u16).to_be_bytes()[..], &named].concat())
            }
            _ => (ECHO, named),
        };
        let (source, destination) =
            (SocketAddr::new(own.into(), self.port), SocketAddr::new(peer.into(), port));
        Packet { protocol: self.protocol, source, destination, whole: true, payload }
    }
}

/// The conversation and the number of what [`Talk::packet`] made.
pub(crate) fn parse(packet: &Packet) -> Option<(TalkId, usize)> {
    let named = match packet.protocol {
        Protocol::Icmp => packet.payload.get(2..)?,
        _ => &packet.payload,
    };
    let (id, rest) = named.split_first_chunk::<4>()?;
    let number = rest.first_chunk::<4>()?;
    Some((TalkId(u32::from_be_bytes(*id) as usize), u32::from_be_bytes(*number) as usize))
}

/// Whether a packet asks for an echo.
pub(crate) fn is_request(packet: &Packet) -> bool {
    let asked = if packet.protocol == Protocol::Icmp { 0 } else { ECHO };
    packet.destination.port() == asked && !packet.is_error()
}
