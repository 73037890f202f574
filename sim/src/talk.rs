//! What applications do: ask for a name, send numbered packets there, and count what comes back.

use std::net::{SocketAddr, SocketAddrV4};

use ntm_protocol::addr::{Fqdn, Vip};
use ntm_protocol::time::{Duration, Instant};
use ntm_protocol::wire::DnsError;

use crate::HostId;

/// The port on which every host's application sends back what comes (RFC 862).
pub(crate) const ECHO: u16 = 7;
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
    /// The answer and when it came.
    pub answer: Option<(Instant, Result<Vip, DnsError>)>,
    /// The time between two packets; none are sent where there is none.
    pub period: Option<Duration>,
    /// Every packet so far.
    pub packets: Vec<Numbered>,
    /// How many packets came again, at either end.
    pub again: u32,
    /// How many echoes came to another host or port than the one that they are for.
    pub astray: u32,
    pub(crate) port: u16,
    pub(crate) ended: bool,
}

impl Talk {
    pub(crate) fn new(
        id: TalkId,
        host: HostId,
        peer: Fqdn,
        period: Option<Duration>,
        asked: Instant,
    ) -> Self {
        // Conversations beyond the ports that there are share one; they are told apart by what they carry.
        let port = FIRST_PORT + (id.0 % 20_000) as u16;
        let (answer, packets) = (None, Vec::new());
        Self { host, peer, asked, answer, period, packets, again: 0, astray: 0, port, ended: false }
    }

    /// The VIP that the application was told.
    pub fn vip(&self) -> Option<Vip> {
        self.answer.and_then(|(_, answer)| answer.ok())
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

    /// The source of its packets, for an application at `own`.
    pub(crate) fn source(&self, own: Vip) -> SocketAddrV4 {
        SocketAddrV4::new(own.0, self.port)
    }
}

/// What a packet of conversation `id` carries.
pub(crate) fn payload(id: TalkId, number: usize) -> Vec<u8> {
    let mut bytes = (id.0 as u32).to_be_bytes().to_vec();
    bytes.extend_from_slice(&(number as u32).to_be_bytes());
    bytes
}

/// What [`payload`] made.
pub(crate) fn parse(payload: &[u8]) -> Option<(TalkId, usize)> {
    let (id, number) = payload.split_first_chunk::<4>()?;
    let number: [u8; 4] = number.try_into().ok()?;
    Some((TalkId(u32::from_be_bytes(*id) as usize), u32::from_be_bytes(number) as usize))
}

/// Whether a packet is for the echo application.
pub(crate) fn is_request(destination: SocketAddr) -> bool {
    destination.port() == ECHO
}
