//! The data tables: which packets go where, under which keys.
//!
//! Role machines never see data packets. They emit [`DataUpdate`]s; whoever moves packets owns one table for each direction
//! and applies the updates between batches. So the packet path takes no lock, allocates nothing, and costs the same however many
//! paths there are. A real node has its tables on two threads; the simulation holds both in one.
//!
//! Packets come in batches, and a batch costs much less than its packets one by one: [`Outbound::place`] each, then
//! [`Outbound::seal_placed`]; [`Inbound::judge_all`].

mod inbound;
mod not_sent;
mod outbound;
mod routes;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::addr::PathId;
use crate::crypto::DataKeys;
use crate::wire::{Reason, Refusal};

pub use inbound::{Inbound, Verdict};
pub use not_sent::NotSent;
pub use outbound::{Local, Outbound, Way};
pub use routes::Routes;

/// The addresses of an inner packet, which select a path: at a terminal (VIP_MN, VIP_CN); at an RS-N, for packets from a
/// general node, (VIP_GN, VIP_MN), so that one MN can talk to two GNs (TA-a).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Flow {
    /// The inner packet's source.
    pub source: Ipv4Addr,
    /// The inner packet's destination.
    pub destination: Ipv4Addr,
}

impl Flow {
    /// The way back.
    pub fn reversed(self) -> Flow {
        Flow { source: self.destination, destination: self.source }
    }

    /// The flow of an IPv4 packet; its version and length are checked.
    pub fn of(packet: &[u8]) -> Result<Flow, Refusal> {
        let header = packet.first_chunk::<20>().ok_or(Refusal::new("inner packet", Reason::Truncated))?;
        if header[0] >> 4 != 4 {
            return Err(Refusal::new("inner version", Reason::Unknown(u64::from(header[0] >> 4))));
        }
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if length != packet.len() {
            return Err(Refusal::new("inner length", Reason::Length(length)));
        }
        let address = |at: usize| Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]);
        Ok(Flow { source: address(12), destination: address(16) })
    }
}

/// The longest inner packet, in bytes, that travels whole in IPv6 outside (T3.1-d): 1500 less IPv6 40, UDP 8, NTM header 32 and MAC 16 are
/// 1404, of which the suites' padding takes what is beyond a multiple of 16.
pub const V6_MTU: u16 = 1392;

/// The sequence number of the first packet under fresh keys.
///
/// No number may come twice under one key: it makes the IV, or the nonce. In one table it does not, for numbers are only counted up. But an end
/// may take the same direction, with the same key, a second time, and count anew: a DC repeats what was not answered, and meanwhile the end ended
/// the path. So counting starts at one of 2⁶³ numbers, drawn each time. That two such starts come
/// so near that one runs into the other's numbers has, where each sends 2³⁰ packets, a chance of 2⁻³²: no more than SP 800-38D, 8, allows.
pub fn first_sequence(rng: &mut impl rand_core::Rng) -> u64 {
    (rng.next_u64() >> 1).max(1)
}

/// A change of the data tables.
#[derive(Clone)]
pub enum DataUpdate {
    /// Packets of `flow` go to `remote`, sealed under `keys`. Keys of the same path end.
    Send {
        /// Which inner packets.
        flow: Flow,
        /// Where the datagrams go.
        remote: SocketAddr,
        /// Fresh keys: never handed out before.
        keys: Arc<DataKeys>,
        /// The sequence number of the first packet: see [`first_sequence`].
        first: u64,
    },
    /// Packets of `flow` go on `path` and to another address, under the keys that it has.
    Remote {
        /// Which inner packets.
        flow: Flow,
        /// Which path: two ends that called each other at once have two.
        path: PathId,
        /// Where the datagrams go.
        remote: SocketAddr,
    },
    /// Packets of `path` travel over IPv6 behind the address that they go to now: none longer than [`V6_MTU`] is sent. A
    /// [`Send`](Self::Send) or [`Remote`](Self::Remote) of the path ends that.
    Narrow {
        /// The path.
        path: PathId,
    },
    /// The system's routes to these addresses, none where none leads there: packets leave by them until another word. Which those are to
    /// be is for [`Routes`] to say.
    Routes {
        /// Each address that has another route than before.
        to: Arc<[(IpAddr, Option<Local>)]>,
    },
    /// Packets of `path` that leave by this address, or of whose route nothing is known, keep to it, until keys of another epoch take over; without
    /// one they go as the system routes them. So the old network carries them while the path is being directed anew in another.
    Keep {
        /// The path.
        path: PathId,
        /// The address of this node that the datagrams come from.
        local: Option<IpAddr>,
    },
    /// Packets of `path` that pass are noted, in each direction, for as long as it is in the tables.
    Watch {
        /// The path.
        path: PathId,
        /// Notes packets that are sent.
        sent: Usage,
        /// Notes packets that are received.
        received: Usage,
    },
    /// Datagrams of these keys' path and epoch are opened; `flow` is what their inner packets must show.
    Receive {
        /// The inner packets' addresses.
        flow: Flow,
        /// Fresh keys.
        keys: Arc<DataKeys>,
    },
    /// Datagrams of `path` are passed on: those from the initiator to the second address, those from the responder to
    /// the first (RS-S, T4.1.3-a).
    Switch {
        /// The path.
        path: PathId,
        /// The tunnel addresses of initiator and responder, as far as known.
        ends: [Option<SocketAddr>; 2],
    },
    /// Packets that come on `path` are for a node that has only IPv6: whoever delivers them translates them (T3.1-d).
    Translate {
        /// The path.
        path: PathId,
    },
    /// No way leads on `path` any more, nor will one soon: its packets are not sent, and applications are to be told. A [`Send`](Self::Send)
    /// or [`Remote`](Self::Remote) of the path ends that.
    Lose {
        /// The path.
        path: PathId,
    },
    /// The path ended, in both directions.
    Forget {
        /// The path.
        path: PathId,
    },
    /// There is no network: packets wait in the virtual interface's queue. TCP sends a probe soon after answers stay away; one that waits
    /// instead of being lost shows both ends what is missing as soon as there is a way, where else a timeout of 200 ms would.
    Pause,
    /// There is a way again.
    Resume,
}

/// Whether packets passed since it was asked last. A data table has one handle and a role machine the other: a packet costs one relaxed
/// store to a line of memory that nobody else writes, and is read every few seconds.
#[derive(Clone, Debug, Default)]
pub struct Usage(Arc<Mark>);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Mark(AtomicBool);

impl Usage {
    /// A packet passed.
    pub fn note(&self) {
        self.0.0.store(true, Ordering::Relaxed);
    }

    /// Whether one passed since this was called last.
    pub fn take(&self) -> bool {
        self.0.0.swap(false, Ordering::Relaxed)
    }
}

impl std::fmt::Debug for DataUpdate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Send { flow, remote, keys, .. } => {
                write!(f, "Send {flow:?} to {remote} in epoch {}", keys.epoch())
            }
            Self::Remote { flow, path, remote } => write!(f, "Remote {flow:?} of {path} to {remote}"),
            Self::Narrow { path } => write!(f, "Narrow {path}"),
            Self::Routes { to } => write!(f, "Routes {to:?}"),
            Self::Keep { path, local: Some(local) } => write!(f, "Keep {path} to {local}"),
            Self::Keep { path, local: None } => write!(f, "Keep {path} to no address"),
            Self::Watch { path, .. } => write!(f, "Watch {path}"),
            Self::Receive { flow, keys } => write!(f, "Receive {flow:?} in epoch {}", keys.epoch()),
            Self::Switch { path, ends } => write!(f, "Switch {path} between {ends:?}"),
            Self::Translate { path } => write!(f, "Translate {path}"),
            Self::Lose { path } => write!(f, "Lose {path}"),
            Self::Forget { path } => write!(f, "Forget {path}"),
            Self::Pause => f.write_str("Pause"),
            Self::Resume => f.write_str("Resume"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{SharedKey, Suite, sealed_len};
    use crate::wire::Role;

    pub(super) const PATH: PathId = PathId([1; 16]);

    pub(super) fn keys(epoch: u8, from: Role) -> Arc<DataKeys> {
        Arc::new(DataKeys::new(&SharedKey::new([epoch; 32]), PATH, epoch, Suite::Aes128Cbc, from))
    }

    pub(super) fn flow() -> Flow {
        Flow { source: [198, 18, 0, 1].into(), destination: [198, 18, 0, 2].into() }
    }

    pub(super) fn packet(flow: Flow, payload: usize) -> Vec<u8> {
        let mut packet = vec![0u8; 20 + payload];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(20 + payload as u16).to_be_bytes());
        packet[12..16].copy_from_slice(&flow.source.octets());
        packet[16..20].copy_from_slice(&flow.destination.octets());
        packet
    }

    pub(super) fn ends(epoch: u8) -> (Outbound, Inbound) {
        let (mut out, mut inb) = (Outbound::default(), Inbound::default());
        let remote = "192.0.2.1:4330".parse().unwrap();
        out.apply(&DataUpdate::Send { flow: flow(), remote, keys: keys(epoch, Role::Initiator), first: 1 });
        inb.apply(&DataUpdate::Receive { flow: flow(), keys: keys(epoch, Role::Initiator) });
        (out, inb)
    }

    pub(super) fn sealed(out: &mut Outbound, inner: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0; sealed_len(Suite::Aes128Cbc, inner.len())];
        let (n, _) = out.seal(inner, &mut buffer).unwrap();
        buffer.truncate(n);
        buffer
    }

    #[test]
    fn a_packet_comes_out_as_it_went_in() {
        let (mut out, mut inb) = ends(0);
        let inner = packet(flow(), 100);
        let mut datagram = sealed(&mut out, &inner);
        let copy = datagram.clone();
        let Verdict::Deliver(at) = inb.judge(&mut datagram) else { panic!("not delivered") };
        assert_eq!(datagram[at], inner[..], "T3.2.4-a");
        assert_eq!(
            inb.judge(&mut copy.clone()),
            Verdict::Refused(Refusal::new("sequence", Reason::Replayed(1)))
        );
    }

    #[test]
    fn packets_that_pass_are_noted_in_their_direction() {
        let (mut out, mut inb) = ends(0);
        let (sent, received) = (Usage::default(), Usage::default());
        let watch = DataUpdate::Watch { path: PATH, sent: sent.clone(), received: received.clone() };
        out.apply(&watch);
        inb.apply(&watch);
        let datagram = sealed(&mut out, &packet(flow(), 1));
        assert_eq!((sent.take(), sent.take(), received.take()), (true, false, false));
        assert!(matches!(inb.judge(&mut datagram.clone()), Verdict::Deliver(_)));
        assert_eq!((sent.take(), received.take(), received.take()), (false, true, false));
        // What is refused is no use of a path.
        assert!(matches!(inb.judge(&mut datagram.clone()), Verdict::Refused(_)));
        assert!(!received.take());
    }
}
