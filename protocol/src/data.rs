//! The data tables: which packets go where, under which keys.
//!
//! Role machines never see data packets. They emit [`DataUpdate`]s; whoever moves packets owns one table for each direction
//! and applies the updates between batches. So the packet path takes no lock, allocates nothing, and costs the same however many
//! paths there are. A real node has its tables on two threads; the simulation holds both in one.
//!
//! Packets come in batches, and a batch costs much less than its packets one by one: [`Outbound::place`] each, then
//! [`Outbound::seal_placed`]; [`Inbound::judge_all`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foldhash::fast::FixedState;

use crate::addr::PathId;
use crate::crypto::{DataKeys, OPENED_AT_ONCE, ReplayWindow, inner_at, open_all};
use crate::inner::icmp::{self, Unreachable};
use crate::inner::reset;
use crate::slots::{Keyed, Slots};
use crate::wire::{HEADER_LEN, Header, ID_AT, Kind, Reason, Refusal, Role};

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
/// the path, or was started again and remembers nothing. So counting starts at one of 2⁶³ numbers, drawn each time. That two such starts come
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
    /// Packets of `path` keep to the interface that has this address, until keys of another epoch take over; without one they go as the
    /// system routes them. So the old network carries them while the path is being directed anew in another.
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

struct Sending {
    keys: Arc<DataKeys>,
    next: u64,
    way: Way,
    /// Whether the path is lost.
    lost: bool,
    /// The longest inner packet.
    mtu: u16,
    usage: Option<Usage>,
}

/// The longest inner packet to `remote`.
fn mtu_to(remote: SocketAddr) -> u16 {
    if remote.is_ipv6() { V6_MTU } else { u16::MAX }
}

/// How a datagram leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// Where to.
    pub remote: SocketAddr,
    /// From which of this node's addresses, and by the interface that has it; none leaves both to the system.
    pub local: Option<IpAddr>,
}

impl From<SocketAddr> for Way {
    fn from(remote: SocketAddr) -> Self {
        Self { remote, local: None }
    }
}

/// The table for packets from the virtual interface to the network.
#[derive(Default)]
pub struct Outbound {
    /// The first is in use; of another path there is one only where both ends called each other.
    flows: HashMap<Flow, Vec<Sending>, FixedState>,
    /// The flows of each path, one as a rule: a change of a path costs the same however many flows there are.
    paths: HashMap<PathId, Vec<Flow>, FixedState>,
    paused: bool,
    /// Whose keys the packets have that were placed and are not sealed yet, in their order.
    placed: Vec<Run>,
}

/// Consecutive packets under the same keys.
struct Run {
    keys: Arc<DataKeys>,
    count: usize,
}

/// Why an inner packet was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotSent {
    /// It is no well-formed IPv4 packet.
    Malformed,
    /// No path leads there.
    NoPath(Flow),
    /// The path that led there is lost: the application is to know that its connection has ended.
    Lost(Flow),
    /// It is larger than the buffer.
    TooLarge,
    /// It is longer than the path's MTU: it is to be cut up, or its sender told (RFC 1191).
    TooBig {
        /// The MTU, in bytes.
        mtu: u16,
    },
}

impl NotSent {
    /// Writes to `out` what tells the sender of `inner`, the packet that was not sent: its length. It comes as if from the packet's destination. `None` where nobody may be
    /// told, or there is nothing to tell.
    pub fn answer(self, inner: &[u8], out: &mut [u8; icmp::MAX_LEN]) -> Option<usize> {
        match self {
            Self::TooBig { mtu } => icmp::answer(inner, Unreachable::TooBig { mtu }, out),
            #[cfg(feature = "mutants")]
            Self::NoPath(flow) if crate::mutants::Mutant::ResetTooSoon.is_here() => {
                Self::Lost(flow).answer(inner, out)
            }
            // A hint to what stands, and the end of an attempt to connect.
            Self::NoPath(_) => icmp::answer(inner, Unreachable::Host, out),
            // The end of a connection, at once (T4.2.5-b).
            Self::Lost(_) => {
                reset::answer(inner, out).or_else(|| icmp::answer(inner, Unreachable::Prohibited, out))
            }
            Self::Malformed | Self::TooLarge => None,
        }
    }
}

impl Outbound {
    /// Applies a change; those of the other direction are none here.
    pub fn apply(&mut self, update: &DataUpdate) {
        match update {
            DataUpdate::Send { flow, remote, keys, first } => {
                let known = self.paths.entry(keys.path()).or_default();
                if !known.contains(flow) {
                    known.push(*flow);
                }
                let sendings = self.flows.entry(*flow).or_default();
                sendings.retain(|old| old.keys.path() != keys.path());
                sendings.insert(
                    0,
                    Sending {
                        keys: Arc::clone(keys),
                        next: *first,
                        way: Way::from(*remote),
                        lost: false,
                        mtu: mtu_to(*remote),
                        usage: None,
                    },
                );
            }
            DataUpdate::Remote { flow, path, remote } => {
                let sendings = self.flows.get_mut(flow).map_or(&mut [][..], Vec::as_mut_slice);
                if let Some(at) = sendings.iter().position(|sending| sending.keys.path() == *path) {
                    let sending = &mut sendings[at];
                    (sending.way.remote, sending.lost, sending.mtu) = (*remote, false, mtu_to(*remote));
                    sendings[..=at].rotate_right(1);
                }
            }
            DataUpdate::Narrow { path } => {
                self.of_each(*path, |sending| sending.mtu = V6_MTU);
            }
            DataUpdate::Keep { path, local } => {
                self.of_each(*path, |sending| sending.way.local = *local);
            }
            DataUpdate::Watch { path, sent, .. } => {
                self.of_each(*path, |sending| sending.usage = Some(sent.clone()));
            }
            DataUpdate::Lose { path } => {
                self.of_each(*path, |sending| sending.lost = true);
            }
            DataUpdate::Forget { path } => {
                for flow in self.paths.remove(path).unwrap_or_default() {
                    if let Some(sendings) = self.flows.get_mut(&flow) {
                        sendings.retain(|sending| sending.keys.path() != *path);
                        if sendings.is_empty() {
                            self.flows.remove(&flow);
                        }
                    }
                }
            }
            DataUpdate::Pause => self.paused = true,
            DataUpdate::Resume => self.paused = false,
            DataUpdate::Receive { .. } | DataUpdate::Switch { .. } | DataUpdate::Translate { .. } => {}
        }
    }

    fn of_each(&mut self, path: PathId, mut change: impl FnMut(&mut Sending)) {
        for flow in self.paths.get(&path).into_iter().flatten() {
            let sendings = self.flows.get_mut(flow).into_iter().flatten();
            sendings.filter(|sending| sending.keys.path() == path).for_each(&mut change);
        }
    }

    /// Whether packets are to wait: take none from the virtual interface until an update says otherwise.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Seals `inner` into `out`: the datagram's length and the way that it takes. Nothing else is placed and not sealed yet.
    pub fn seal(&mut self, inner: &[u8], out: &mut [u8]) -> Result<(usize, Way), NotSent> {
        let (length, way) = self.place(inner, out)?;
        self.seal_placed(out, std::slice::from_ref(&(0..length)));
        Ok((length, way))
    }

    /// Lays the datagram of `inner` out in `out`, to be sealed by [`seal_placed`](Self::seal_placed): its length and the way that it takes.
    pub fn place(&mut self, inner: &[u8], out: &mut [u8]) -> Result<(usize, Way), NotSent> {
        let flow = Flow::of(inner).map_err(|_| NotSent::Malformed)?;
        let sendings = self.flows.get_mut(&flow).map(Vec::as_mut_slice);
        let Some([sending, ..]) = sendings else { return Err(NotSent::NoPath(flow)) };
        if sending.lost {
            return Err(NotSent::Lost(flow));
        }
        if inner.len() > usize::from(sending.mtu) {
            return Err(NotSent::TooBig { mtu: sending.mtu });
        }
        let room = out.get_mut(HEADER_LEN..HEADER_LEN + inner.len()).ok_or(NotSent::TooLarge)?;
        room.copy_from_slice(inner);
        let length = sending.keys.place(sending.next, inner.len(), out).ok_or(NotSent::TooLarge)?;
        sending.next += 1;
        if let Some(usage) = &sending.usage {
            usage.note();
        }
        match self.placed.last_mut() {
            Some(run) if Arc::ptr_eq(&run.keys, &sending.keys) => run.count += 1,
            _ => self.placed.push(Run { keys: Arc::clone(&sending.keys), count: 1 }),
        }
        Ok((length, sending.way))
    }

    /// Seals all that was placed: the datagrams stand at `places` of `buffer`, in the order in which they were placed.
    pub fn seal_placed(&mut self, buffer: &mut [u8], places: &[Range<usize>]) {
        let mut rest = places;
        for run in self.placed.drain(..) {
            let (these, others) = rest.split_at(run.count);
            run.keys.seal_all(buffer, these);
            rest = others;
        }
    }
}

/// Keys of one epoch that still open packets.
struct Opening {
    keys: Arc<DataKeys>,
    window: ReplayWindow,
}

/// What becomes of a path's datagrams. A relay has a million of these, and reads one for every datagram: it is a line of memory, and what is
/// longer stands elsewhere.
#[repr(align(64))]
struct Inlet {
    path: PathId,
    does: Does,
}

enum Does {
    Open(Box<Open>),
    Switch([Option<End>; 2]),
}

const _: () = assert!(size_of::<Option<Inlet>>() == 64);

impl Keyed for Inlet {
    type Key = PathId;

    fn key(&self) -> PathId {
        self.path
    }
}

/// The path ends here. The last three epochs are kept: packets of an old one may be under way while both ends, having moved at
/// once, each had the path directed anew.
struct Open {
    flow: Flow,
    epochs: Vec<Opening>,
    usage: Option<Usage>,
    /// Whether its packets are for a node that has only IPv6.
    translated: bool,
}

/// An end's address and port, without what messages never carry: an IPv6 address's scope and flow label.
#[derive(Clone, Copy)]
struct End {
    /// An IPv4 address as one of IPv6 (RFC 4291, section 2.5.5.2).
    address: [u8; 16],
    port: u16,
    is_v4: bool,
}

impl From<SocketAddr> for End {
    fn from(end: SocketAddr) -> Self {
        let address = match end.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self { address: address.octets(), port: end.port(), is_v4: end.is_ipv4() }
    }
}

impl From<End> for SocketAddr {
    fn from(End { address, port, is_v4 }: End) -> Self {
        let [.., a, b, c, d] = address;
        let ip = if is_v4 { [a, b, c, d].into() } else { address.into() };
        SocketAddr::new(ip, port)
    }
}

const EPOCHS_KEPT: usize = 3;

/// The table for datagrams from the network.
#[derive(Default)]
pub struct Inbound {
    paths: Slots<Inlet>,
    /// The datagrams of a batch that are to be opened.
    sealed: Vec<Candidate>,
}

/// A datagram whose path ends here, and that may be good.
struct Candidate {
    /// Which of the batch it is.
    index: usize,
    header: Header,
    keys: Arc<DataKeys>,
}

/// What is found out about a datagram before it is opened.
enum Look {
    Decided(Verdict),
    Sealed(Header, Arc<DataKeys>),
}

/// What to do with a datagram.
#[derive(PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It was opened: the inner packet stands here.
    Deliver(Range<usize>),
    /// The same, for a general node that has only IPv6: it is to be translated (RS-N, T3.1-d).
    Translate(Range<usize>),
    /// It goes on unchanged to this address (RS-S).
    Forward(SocketAddr),
    /// It is for the role machine.
    Control,
    /// It is refused.
    Refused(Refusal),
}

impl Inbound {
    /// Applies a change; those of the other direction are none here.
    pub fn apply(&mut self, update: &DataUpdate) {
        match update {
            DataUpdate::Receive { flow, keys } => {
                let opening = Opening { keys: Arc::clone(keys), window: ReplayWindow::default() };
                match self.open_mut(keys.path()) {
                    Some(Open { flow: known, epochs, .. }) if known == flow => {
                        epochs.retain(|old| old.keys.epoch() != keys.epoch());
                        epochs.truncate(EPOCHS_KEPT - 1);
                        epochs.insert(0, opening);
                    }
                    _ => {
                        let epochs = vec![opening];
                        let open = Open { flow: *flow, epochs, usage: None, translated: false };
                        self.paths.insert(Inlet { path: keys.path(), does: Does::Open(Box::new(open)) });
                    }
                }
            }
            DataUpdate::Watch { path, received, .. } => {
                if let Some(open) = self.open_mut(*path) {
                    open.usage = Some(received.clone());
                }
            }
            DataUpdate::Translate { path } => {
                if let Some(open) = self.open_mut(*path) {
                    open.translated = true;
                }
            }
            DataUpdate::Switch { path, ends } => {
                let ends = ends.map(|end| end.map(End::from));
                self.paths.insert(Inlet { path: *path, does: Does::Switch(ends) });
            }
            DataUpdate::Forget { path } => {
                self.paths.remove(path);
            }
            DataUpdate::Send { .. }
            | DataUpdate::Remote { .. }
            | DataUpdate::Keep { .. }
            | DataUpdate::Narrow { .. }
            | DataUpdate::Lose { .. }
            | DataUpdate::Pause
            | DataUpdate::Resume => {}
        }
    }

    fn open_mut(&mut self, path: PathId) -> Option<&mut Open> {
        match &mut self.paths.get_mut(&path)?.does {
            Does::Open(open) => Some(open),
            Does::Switch(_) => None,
        }
    }

    /// Has the entries of these datagrams brought near: a relay of a million paths then waits for memory once, and not for each.
    fn ask_for(&self, buffer: &[u8], places: &[Range<usize>]) {
        let mut last = None;
        for place in places {
            let id = buffer[place.clone()].get(ID_AT).and_then(|id| id.first_chunk());
            if let Some(id) = id.filter(|id| last != Some(*id)) {
                self.paths.ask_for(&PathId(*id));
                last = Some(id);
            }
        }
    }

    /// Judges `datagram`, opening it in place where its path ends here.
    pub fn judge(&mut self, datagram: &mut [u8]) -> Verdict {
        match self.look(datagram) {
            Look::Decided(verdict) => verdict,
            Look::Sealed(header, keys) => {
                let opened = keys.open(datagram);
                self.take(&header, opened, datagram)
            }
        }
    }

    /// Judges the datagrams at `places` of `buffer` as [`judge`](Self::judge) does, in their order; `verdicts` are theirs.
    pub fn judge_all(&mut self, buffer: &mut [u8], places: &[Range<usize>], verdicts: &mut Vec<Verdict>) {
        verdicts.clear();
        if self.paths.is_far() {
            self.ask_for(buffer, places);
        }
        let mut sealed = std::mem::take(&mut self.sealed);
        for (index, place) in places.iter().enumerate() {
            match self.look(&buffer[place.clone()]) {
                Look::Decided(verdict) => verdicts.push(verdict),
                Look::Sealed(header, keys) => {
                    sealed.push(Candidate { index, header, keys });
                    // Its own comes below.
                    verdicts.push(Verdict::Control);
                }
            }
        }
        for some in sealed.chunks(OPENED_AT_ONCE) {
            let datagrams = some.iter().map(|one| (&*one.keys, places[one.index].clone()));
            let opened = open_all(buffer, datagrams);
            for (Candidate { index, header, .. }, opened) in some.iter().zip(opened) {
                verdicts[*index] = self.take(header, opened, &buffer[places[*index].clone()]);
            }
        }
        sealed.clear();
        self.sealed = sealed;
    }

    fn look(&self, datagram: &[u8]) -> Look {
        // What has no good header is the role machine's to refuse: refusals of control and data are told in one place.
        let Ok(header) = Header::parse(datagram) else { return Look::Decided(Verdict::Control) };
        if header.kind != Kind::Data {
            return Look::Decided(Verdict::Control);
        }
        let refused = |field, reason| Look::Decided(Verdict::Refused(Refusal::new(field, reason)));
        match self.paths.get(&PathId(header.id)).map(|inlet| &inlet.does) {
            None => refused("path id", Reason::Stranger),
            Some(Does::Switch(ends)) => {
                let to = if header.flags.responder { Role::Initiator } else { Role::Responder };
                match ends[to.index()] {
                    Some(remote) => Look::Decided(Verdict::Forward(remote.into())),
                    None => refused("path id", Reason::Unexpected),
                }
            }
            Some(Does::Open(open)) => {
                let Some(opening) = open.epochs.iter().find(|o| o.keys.epoch() == header.epoch) else {
                    return refused("epoch", Reason::Unknown(header.epoch.into()));
                };
                if !opening.window.check(header.sequence) {
                    return refused("sequence", Reason::Replayed(header.sequence));
                }
                match opening.keys.check(&header, datagram) {
                    Ok(()) => Look::Sealed(header, Arc::clone(&opening.keys)),
                    Err(refusal) => Look::Decided(Verdict::Refused(refusal)),
                }
            }
        }
    }

    /// Judges a datagram that was looked at, and opened if `opened`. Others may have been taken since: its number is judged again.
    fn take(&mut self, header: &Header, opened: bool, datagram: &[u8]) -> Verdict {
        let refused = |field, reason| Verdict::Refused(Refusal::new(field, reason));
        let Some(Open { flow, epochs, usage, translated }) = self.open_mut(PathId(header.id)) else {
            return refused("path id", Reason::Stranger);
        };
        let Some(opening) = epochs.iter_mut().find(|o| o.keys.epoch() == header.epoch) else {
            return refused("epoch", Reason::Unknown(header.epoch.into()));
        };
        if !opening.window.check(header.sequence) {
            return refused("sequence", Reason::Replayed(header.sequence));
        }
        if !opened {
            return refused("mac", Reason::Mac);
        }
        opening.window.accept(header.sequence);
        let inner = inner_at(header);
        match Flow::of(&datagram[inner.clone()]) {
            Err(refusal) => return Verdict::Refused(refusal),
            Ok(shown) if shown != *flow => return refused("inner addresses", Reason::Conflict),
            Ok(_) => {}
        }
        if let Some(usage) = usage {
            usage.note();
        }
        if *translated { Verdict::Translate(inner) } else { Verdict::Deliver(inner) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{SharedKey, Suite, sealed_len};

    const PATH: PathId = PathId([1; 16]);

    fn keys(epoch: u8, from: Role) -> Arc<DataKeys> {
        Arc::new(DataKeys::new(&SharedKey::new([epoch; 32]), PATH, epoch, Suite::Aes128Cbc, from))
    }

    fn flow() -> Flow {
        Flow { source: [198, 18, 0, 1].into(), destination: [198, 18, 0, 2].into() }
    }

    fn packet(flow: Flow, payload: usize) -> Vec<u8> {
        let mut packet = vec![0u8; 20 + payload];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(20 + payload as u16).to_be_bytes());
        packet[12..16].copy_from_slice(&flow.source.octets());
        packet[16..20].copy_from_slice(&flow.destination.octets());
        packet
    }

    fn ends(epoch: u8) -> (Outbound, Inbound) {
        let (mut out, mut inb) = (Outbound::default(), Inbound::default());
        let remote = "192.0.2.1:4330".parse().unwrap();
        out.apply(&DataUpdate::Send { flow: flow(), remote, keys: keys(epoch, Role::Initiator), first: 1 });
        inb.apply(&DataUpdate::Receive { flow: flow(), keys: keys(epoch, Role::Initiator) });
        (out, inb)
    }

    fn sealed(out: &mut Outbound, inner: &[u8]) -> Vec<u8> {
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

    /// A batch gets the verdicts that its datagrams get one by one: good ones of two paths, a copy, a changed one, strangers, other messages.
    #[test]
    fn a_batch_is_judged_as_its_datagrams_are_alone() {
        // In a small table, and in one whose entries are asked for beforehand.
        [0, 5000].into_iter().for_each(a_batch_beside);
    }

    fn a_batch_beside(others: u32) {
        let (mut out, mut inb) = ends(0);
        let (_, mut alone) = ends(0);
        for n in 0..others {
            let mut id = [3; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            inb.apply(&DataUpdate::Switch { path: PathId(id), ends: [None, None] });
        }
        assert_eq!(inb.paths.is_far(), others > 0);
        let other = PathId([2; 16]);
        let switch = DataUpdate::Switch { path: other, ends: [None, Some("192.0.2.2:2".parse().unwrap())] };
        inb.apply(&switch);
        alone.apply(&switch);
        let mut datagrams: Vec<_> = (0..9).map(|n| sealed(&mut out, &packet(flow(), n * 150))).collect();
        datagrams.insert(4, datagrams[3].clone());
        datagrams[7][40] ^= 1;
        datagrams.insert(2, vec![1, 2, 3]);
        let keys = DataKeys::new(&SharedKey::new([8; 32]), other, 0, Suite::None, Role::Initiator);
        let mut passed = vec![0; sealed_len(Suite::None, 20)];
        keys.place(1, 20, &mut passed).unwrap();
        datagrams.insert(5, passed);

        let mut places = Vec::new();
        let mut buffer: Vec<u8> = Vec::new();
        for datagram in &datagrams {
            places.push(buffer.len()..buffer.len() + datagram.len());
            buffer.extend(datagram);
        }
        let mut verdicts = vec![Verdict::Control];
        inb.judge_all(&mut buffer, &places, &mut verdicts);
        let expected: Vec<_> = datagrams.iter_mut().map(|datagram| alone.judge(datagram)).collect();
        assert_eq!(verdicts, expected);
        // What is left of a refused one, nobody looks at.
        for ((place, datagram), verdict) in places.iter().zip(&datagrams).zip(&verdicts) {
            if !matches!(verdict, Verdict::Refused(_)) {
                assert_eq!(&buffer[place.clone()], datagram);
            }
        }
        let kinds = verdicts.iter().map(|verdict| match verdict {
            Verdict::Deliver(_) | Verdict::Translate(_) => 'd',
            Verdict::Forward(_) => 'f',
            Verdict::Control => 'c',
            Verdict::Refused(_) => 'r',
        });
        assert_eq!(kinds.collect::<String>(), "ddcddfrddrdd");
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

    #[test]
    fn packets_of_the_last_epochs_are_opened_and_older_ones_not() {
        let (mut out, mut inb) = ends(0);
        let mut old = sealed(&mut out, &packet(flow(), 1));
        for epoch in 1..EPOCHS_KEPT as u8 {
            inb.apply(&DataUpdate::Receive { flow: flow(), keys: keys(epoch, Role::Initiator) });
        }
        assert!(matches!(inb.judge(&mut old.clone()), Verdict::Deliver(_)));
        inb.apply(&DataUpdate::Receive { flow: flow(), keys: keys(9, Role::Initiator) });
        assert_eq!(inb.judge(&mut old), Verdict::Refused(Refusal::new("epoch", Reason::Unknown(0))));
    }

    #[test]
    fn an_inner_packet_cannot_claim_other_addresses() {
        let (mut out, mut inb) = (Outbound::default(), Inbound::default());
        let lie = Flow { source: [198, 18, 9, 9].into(), ..flow() };
        out.apply(&DataUpdate::Send {
            flow: lie,
            remote: "192.0.2.1:1".parse().unwrap(),
            keys: keys(0, Role::Initiator),
            first: 1,
        });
        inb.apply(&DataUpdate::Receive { flow: flow(), keys: keys(0, Role::Initiator) });
        let mut datagram = sealed(&mut out, &packet(lie, 1));
        assert_eq!(
            inb.judge(&mut datagram),
            Verdict::Refused(Refusal::new("inner addresses", Reason::Conflict))
        );
    }

    /// T4.1.3-a, T5.2-a: by its Path ID an RS-S passes a packet on without a byte of it changed, to the other side than it came from.
    #[test]
    fn a_switch_forwards_unchanged_to_the_other_side() {
        let (mut out, _) = ends(0);
        let (a, b) = ("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap());
        let mut relay = Inbound::default();
        let mut datagram = sealed(&mut out, &packet(flow(), 50));
        let copy = datagram.clone();
        assert_eq!(relay.judge(&mut datagram), Verdict::Refused(Refusal::new("path id", Reason::Stranger)));
        relay.apply(&DataUpdate::Switch { path: PATH, ends: [Some(a), None] });
        assert_eq!(relay.judge(&mut datagram), Verdict::Refused(Refusal::new("path id", Reason::Unexpected)));
        relay.apply(&DataUpdate::Switch { path: PATH, ends: [Some(a), Some(b)] });
        assert_eq!(relay.judge(&mut datagram), Verdict::Forward(b));
        assert_eq!(datagram, copy);
        relay.apply(&DataUpdate::Forget { path: PATH });
        assert_eq!(relay.judge(&mut datagram), Verdict::Refused(Refusal::new("path id", Reason::Stranger)));
    }

    /// A tunnel's end is the address that it was given, of either family (T3.1-d).
    #[test]
    fn ends_are_kept_as_they_are() {
        for end in ["192.0.2.1:1", "0.0.0.0:0", "[2001:db8::1]:65535", "[::ffff:192.0.2.1]:7", "[::]:9"] {
            let end: SocketAddr = end.parse().unwrap();
            assert_eq!(SocketAddr::from(End::from(end)), end);
        }
    }

    /// Two ends that called each other at once have two paths: each keeps its own keys and address, the one named last is used.
    #[test]
    fn two_paths_of_one_flow_do_not_mix() {
        let mut out = Outbound::default();
        let at = |n: u8| SocketAddr::from(([192, 0, 2, n], 4330));
        let other = PathId([2; 16]);
        let keys = |path| {
            Arc::new(DataKeys::new(&SharedKey::new([1; 32]), path, 0, Suite::Aes128Cbc, Role::Initiator))
        };
        let used = |out: &mut Outbound| {
            let (mut buffer, inner) = ([0; 200], packet(flow(), 20));
            let remote = out.seal(&inner, &mut buffer).ok()?.1.remote;
            let header = Header::parse(&buffer).unwrap();
            Some((PathId(header.id), header.sequence, remote))
        };
        out.apply(&DataUpdate::Send { flow: flow(), remote: at(1), keys: keys(PATH), first: 1 });
        assert_eq!(used(&mut out), Some((PATH, 1, at(1))));
        out.apply(&DataUpdate::Send { flow: flow(), remote: at(2), keys: keys(other), first: 1 });
        assert_eq!(used(&mut out), Some((other, 1, at(2))));
        out.apply(&DataUpdate::Remote { flow: flow(), path: PATH, remote: at(3) });
        assert_eq!(used(&mut out), Some((PATH, 2, at(3))), "its numbers go on");
        out.apply(&DataUpdate::Forget { path: PATH });
        assert_eq!(used(&mut out), Some((other, 2, at(2))));
        out.apply(&DataUpdate::Forget { path: other });
        assert_eq!(used(&mut out), None);
    }

    /// An application is told of a path that is lost, until there is a way again; another path of the same flow is not concerned.
    #[test]
    fn what_is_lost_is_told_until_there_is_a_way_again() {
        let (mut out, _) = ends(0);
        let sent =
            |out: &mut Outbound| out.seal(&packet(flow(), 20), &mut [0; 200]).map(|(_, way)| way.remote);
        let (first, other) = ("192.0.2.1:4330".parse().unwrap(), "192.0.2.9:4330".parse().unwrap());
        assert_eq!(sent(&mut out), Ok(first));
        out.apply(&DataUpdate::Lose { path: PathId([2; 16]) });
        assert_eq!(sent(&mut out), Ok(first), "another path");
        out.apply(&DataUpdate::Lose { path: PATH });
        assert_eq!(sent(&mut out), Err(NotSent::Lost(flow())));
        out.apply(&DataUpdate::Remote { flow: flow(), path: PATH, remote: other });
        assert_eq!(sent(&mut out), Ok(other));
        out.apply(&DataUpdate::Lose { path: PATH });
        out.apply(&DataUpdate::Send {
            flow: flow(),
            remote: first,
            keys: keys(1, Role::Initiator),
            first: 1,
        });
        assert_eq!(sent(&mut out), Ok(first));
    }

    /// T3.1-d: over IPv6 outside, be it only behind the relay, what would not travel whole is refused, with what would.
    #[test]
    fn over_ipv6_outside_packets_are_shorter() {
        let (mut out, _) = ends(0);
        let longest = |out: &mut Outbound| {
            (1300..=1424).rev().find(|length| out.seal(&packet(flow(), length - 20), &mut [0; 1600]).is_ok())
        };
        let remote =
            |address: &str| DataUpdate::Remote { flow: flow(), path: PATH, remote: address.parse().unwrap() };
        assert_eq!(longest(&mut out), Some(1424));
        out.apply(&DataUpdate::Narrow { path: PATH });
        assert_eq!(longest(&mut out), Some(1392));
        out.apply(&remote("192.0.2.9:4330"));
        assert_eq!(longest(&mut out), Some(1424));
        out.apply(&remote("[2001:db8::9]:4330"));
        assert_eq!(longest(&mut out), Some(1392));
        let refused = out.seal(&packet(flow(), 1393 - 20), &mut [0; 1600]);
        assert_eq!(refused, Err(NotSent::TooBig { mtu: V6_MTU }));
        for suite in [Suite::None, Suite::Aes128Cbc] {
            assert!(40 + 8 + sealed_len(suite, V6_MTU.into()) <= 1500, "it travels whole");
        }
        assert!(
            40 + 8 + sealed_len(Suite::Aes128Cbc, usize::from(V6_MTU) + 16) > 1500,
            "a longer one would not"
        );
    }

    #[test]
    fn what_has_no_path_is_not_sent() {
        let (mut out, _) = ends(0);
        let other = Flow { destination: [198, 18, 0, 3].into(), ..flow() };
        assert_eq!(out.seal(&packet(other, 4), &mut [0; 200]), Err(NotSent::NoPath(other)));
        assert_eq!(out.seal(&packet(flow(), 400), &mut [0; 200]), Err(NotSent::TooLarge));
        assert_eq!(out.seal(&[0x60; 40], &mut [0; 200]), Err(NotSent::Malformed));
        out.apply(&DataUpdate::Forget { path: PATH });
        assert_eq!(out.seal(&packet(flow(), 4), &mut [0; 200]), Err(NotSent::NoPath(flow())));
    }
}
