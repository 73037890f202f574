//! The Relay Table (appendix A): what the relay needs to forward, and when it learned it.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::fast::FixedState;
use serde::Serialize;

use crate::addr::{NodeId, PathId, Vip};
use crate::crypto::{DataKeys, Entropy, Purpose, SharedKey, Suite};
use crate::data::{DataUpdate, Flow, first_sequence};
use crate::expiry::{Idle, Place};
use crate::observe::{TableChange, What};
use crate::session::{Mail, TunnelSession};
use crate::time::{Duration, Instant};
use crate::wire::{
    Header, Message, PathKeepAliveAnswer, Reason, Refusal, RelayAnswer, RelayDirection, RelayMode,
    RelayOrder, RequestId, Role, TunnelResponse,
};

/// Whether epoch `a` is newer than `b`; epochs count modulo 16.
pub fn newer(a: u8, b: u8) -> bool {
    (1..8).contains(&(a.wrapping_sub(b) & 0x0f))
}

/// Whether epoch `a`, which is not newer than `b`, is no late one either: that is at most four behind. Where both ends moved often and did
/// not hear each other, or took no relay meanwhile, the epochs in between came to nobody, and the half circle tells nothing.
pub fn is_astray(a: u8, b: u8) -> bool {
    (5..=8).contains(&(b.wrapping_sub(a) & 0x0f))
}

/// Temporary keys of two directions may be under way, when both ends move at once. That of the tunnel which stands is kept as well: by it an
/// end shows that it is at another address.
const TEMP_KEYS_KEPT: usize = 2;

/// One side of a path: the tunnel between an end and the relay.
struct Side {
    /// Key_DC MN–RS, newest first.
    temp: Vec<TunnelSession>,
    temp_at: Instant,
    /// Key_MN–RS, with the epoch that brought it.
    common: Option<Common>,
    /// RIP_NAT MN and Port_NAT MN.
    tunnel: Option<(SocketAddr, Instant)>,
    /// A Tunnel Request that was told that the other side is not there yet.
    waiting: Option<(RequestId, u8)>,
    /// When the end was heard last.
    heard: Instant,
}

struct Common {
    key: SharedKey,
    epoch: u8,
    leg: TunnelSession,
    at: Instant,
    /// The highest sequence number of what the end said in this epoch, under either key. Only what is newer moves the tunnel, so that nothing
    /// that is late moves it back.
    newest: u64,
}

impl Side {
    fn new(now: Instant) -> Self {
        Self { temp: Vec::new(), temp_at: now, common: None, tunnel: None, waiting: None, heard: now }
    }

    /// A repeated direction brings the keys that are there already, and their numbers go on.
    fn direct(&mut self, path: PathId, epoch: u8, end: Role, key: &SharedKey, now: Instant) {
        let standing = self.common.as_ref().map(|common| common.epoch);
        let mut others = 0;
        self.temp.retain(|session| {
            others += usize::from(session.epoch() != epoch);
            session.epoch() != epoch && (others < TEMP_KEYS_KEPT || Some(session.epoch()) == standing)
        });
        self.temp.insert(0, TunnelSession::new(key, Purpose::Tunnel, path, epoch, true, end.other()));
        (self.temp_at, self.heard) = (now, now);
    }

    fn reached(&self, epoch: u8) -> bool {
        self.common
            .as_ref()
            .is_some_and(|common| !newer(epoch, common.epoch) && !self.overtakes(epoch, common.epoch))
    }

    /// Whether the DC directed `epoch` after `standing`, which the half circle takes for the newer.
    fn overtakes(&self, epoch: u8, standing: u8) -> bool {
        let place = |epoch| self.temp.iter().position(|session| session.epoch() == epoch);
        is_astray(epoch, standing) && place(epoch) < place(standing).or(Some(usize::MAX))
    }
}

enum Peers {
    Switch { vips: [Vip; 2] },
    Translate { terminal: Vip, general: Vip, real: IpAddr, suite: Suite },
}

impl Peers {
    /// Whether these are the same ends.
    fn are(&self, others: &Self) -> bool {
        match (self, others) {
            (Self::Switch { vips: old }, Self::Switch { vips: new }) => old == new,
            (
                Self::Translate { terminal: t0, general: g0, real: r0, .. },
                Self::Translate { terminal: t1, general: g1, real: r1, .. },
            ) => (t0, g0, r0) == (t1, g1, r1),
            _ => false,
        }
    }
}

struct Entry {
    coordinator: NodeId,
    /// The Relay Direction stored last, so that a repetition changes nothing.
    request: RequestId,
    peers: Peers,
    /// Of initiator and responder; a general node has none.
    sides: Vec<Side>,
    made: Instant,
    used: Instant,
    /// Where its end stands.
    end: Place,
}

impl Entry {
    fn mode(&self) -> RelayMode {
        match self.peers {
            Peers::Switch { .. } => RelayMode::Switch,
            Peers::Translate { .. } => RelayMode::Translate,
        }
    }

    fn ended(&self, path: PathId) -> Ended {
        let general = match self.peers {
            Peers::Switch { .. } => None,
            Peers::Translate { general, .. } => Some(general),
        };
        Ended { path, mode: self.mode(), general }
    }
}

/// An entry that is there no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ended {
    pub(super) path: PathId,
    pub(super) mode: RelayMode,
    pub(super) general: Option<Vip>,
}

/// A Relay Direction that was stored.
pub(super) struct Taken {
    /// Whether the entry is new.
    pub(super) new: bool,
    /// The entries that it replaced: another path between the same two, and the path itself between others.
    pub(super) replaced: Vec<Ended>,
}

/// The table. Keys: Path ID, and (VIP_MN, VIP_GN) (TA-a).
pub struct RelayTable {
    capacity: usize,
    entries: HashMap<PathId, Entry, FixedState>,
    /// (VIP_MN, VIP_GN) → Path ID.
    general: BTreeMap<(Vip, Vip), PathId>,
    expiry: Idle<PathId>,
}

impl RelayTable {
    pub(super) fn new(lifetime: Duration, capacity: usize) -> Self {
        Self { capacity, entries: HashMap::default(), general: BTreeMap::new(), expiry: Idle::new(lifetime) }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How full it is, in thousandths.
    pub fn load(&self) -> u16 {
        u16::try_from(self.entries.len() * 1000 / self.capacity.max(1)).unwrap_or(1000)
    }

    /// Stores what a Relay Direction brings (TA-b), or says why not.
    pub(super) fn direct(
        &mut self,
        coordinator: NodeId,
        direction: RelayDirection,
        now: Instant,
    ) -> Result<Taken, RelayAnswer> {
        let RelayDirection { request, path, epoch, order } = direction;
        let epoch = epoch.number();
        let known = self.entries.get(&path);
        if known.is_none() && self.entries.len() >= self.capacity {
            return Err(RelayAnswer::Full);
        }
        let (peers, keys) = match order {
            RelayOrder::Switch { initiator_key, responder_key, initiator, responder } => {
                (Peers::Switch { vips: [initiator, responder] }, vec![initiator_key, responder_key])
            }
            RelayOrder::Translate { temp_key, terminal, general, real, suite } => {
                (Peers::Translate { terminal, general, real, suite }, vec![temp_key])
            }
        };
        let mut replaced = Vec::new();
        // Its DC lost its records and gave the ends other VIPs: the entry is made anew.
        if known.is_some_and(|entry| entry.coordinator == coordinator && !entry.peers.are(&peers)) {
            replaced.extend(self.remove(path));
        }
        let new = !self.entries.contains_key(&path);
        match self.entries.get_mut(&path) {
            // Whoever directs a path anew must mean the same two ends; no DC touches another's translation.
            Some(entry) => {
                let touches = entry.mode() == RelayMode::Switch || entry.coordinator == coordinator;
                if !(entry.peers.are(&peers) && touches) {
                    return Err(RelayAnswer::Conflict);
                }
            }
            None => {
                if let Peers::Translate { terminal, general, .. } = &peers {
                    let pair = (*terminal, *general);
                    if let Some(old) = self.general.get(&pair).copied() {
                        if self.entries.get(&old).is_some_and(|entry| entry.coordinator != coordinator) {
                            return Err(RelayAnswer::Conflict);
                        }
                        replaced.extend(self.remove(old));
                    }
                    self.general.insert(pair, path);
                }
            }
        }
        let sides = keys.len();
        let entry = self.entries.entry(path).or_insert_with(|| Entry {
            coordinator,
            request,
            peers,
            sides: (0..sides).map(|_| Side::new(now)).collect(),
            made: now,
            used: now,
            end: self.expiry.begin(path, now),
        });
        if new || entry.request != request || entry.coordinator != coordinator {
            (entry.request, entry.coordinator) = (request, coordinator);
            for ((side, key), end) in
                entry.sides.iter_mut().zip(&keys).zip([Role::Initiator, Role::Responder])
            {
                side.direct(path, epoch, end, key, now);
            }
        }
        entry.used = now;
        if !new {
            self.expiry.used(entry.end, now);
        }
        Ok(Taken { new, replaced })
    }

    /// Takes a Tunnel Request or Path Keep-alive from an end: answers it, and says what the data tables are to change. Where the way has led
    /// nowhere for longer than `patience`, a Path Keep-alive is not answered: only so will this end have it directed anew.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn handle(
        &mut self,
        header: &Header,
        datagram: &[u8],
        from: SocketAddr,
        patience: Duration,
        now: Instant,
        mail: &mut Mail,
    ) -> Result<Vec<DataUpdate>, Refusal> {
        let path = PathId(header.id);
        if !header.flags.leg {
            return Err(Refusal::new("flags", Reason::Unexpected));
        }
        let entry = self.entries.get_mut(&path).ok_or(Refusal::new("path id", Reason::Stranger))?;
        let end = if header.flags.responder { Role::Responder } else { Role::Initiator };
        let mode = entry.mode();
        let leads_nowhere = entry.leads_nowhere(end, patience, now);
        let Some(side) = entry.sides.get_mut(end.index()) else {
            return Err(Refusal::new("flags", Reason::Unexpected));
        };
        let mut fresh_key = None;
        let request = match header.kind {
            crate::wire::Kind::PathKeepAlive => {
                let common = side.common.as_mut().ok_or(Refusal::new("path id", Reason::Unexpected))?;
                let message = common.leg.open(header, datagram)?;
                let Message::PathKeepAlive(keep_alive) = &message else {
                    return Err(Refusal::new("type", Reason::Unexpected));
                };
                mail.received(header, &message, from, now);
                if !leads_nowhere {
                    let answer = PathKeepAliveAnswer { request: keep_alive.request, seen: from }.into();
                    mail.send_on(&mut common.leg, from, &answer, 1, now);
                }
                None
            }
            _ => {
                let standing = side.common.as_ref().map(|common| common.epoch);
                let overtakes = standing.is_some_and(|standing| side.overtakes(header.epoch, standing));
                let session = side
                    .temp
                    .iter_mut()
                    .find(|session| session.epoch() == header.epoch)
                    .ok_or(Refusal::new("epoch", Reason::Unknown(header.epoch.into())))?;
                let message = session.open(header, datagram)?;
                let Message::TunnelRequest(request) = &message else {
                    return Err(Refusal::new("type", Reason::Unexpected));
                };
                let Some(key) = &request.common_key else {
                    return Err(Refusal::new("common_key", Reason::Unexpected));
                };
                if standing.is_some_and(|standing| newer(standing, header.epoch) && !overtakes) {
                    return Err(Refusal::new("epoch", Reason::Unknown(header.epoch.into())));
                }
                mail.received(header, &message, from, now);
                // A repeated request brings the key that is there already: its numbers go on.
                if side.common.as_ref().is_none_or(|common| common.key != *key) {
                    let leg = TunnelSession::new(key, Purpose::Leg, path, header.epoch, true, end.other());
                    let (at, epoch, newest) = (now, header.epoch, 0);
                    side.common = Some(Common { key: key.clone(), epoch, leg, at, newest });
                    fresh_key = Some(key.clone());
                }
                Some(request.request)
            }
        };
        side.heard = now;
        let is_newest = side.common.as_mut().is_none_or(|common| {
            let newer = header.sequence > common.newest;
            common.newest = common.newest.max(header.sequence);
            newer
        });
        let moved = is_newest && side.tunnel.is_none_or(|(address, _)| address != from);
        if moved {
            side.tunnel = Some((from, now));
            let change = TableChange::Tunnel { side: end, address: from };
            mail.journal.note(now, What::RelayTable { path, change, mode });
        }
        entry.used = now;
        self.expiry.used(entry.end, now);
        let updates = entry.updates(path, header.epoch, from, fresh_key, moved, &mut mail.rng);
        if let Some(request) = request {
            entry.respond(end, request, header.epoch, from, now, mail);
        }
        Ok(updates)
    }

    fn remove(&mut self, path: PathId) -> Option<Ended> {
        let entry = self.entries.remove(&path)?;
        self.expiry.clear(entry.end);
        if let Peers::Translate { terminal, general, .. } = entry.peers
            && self.general.get(&(terminal, general)) == Some(&path)
        {
            self.general.remove(&(terminal, general));
        }
        Some(entry.ended(path))
    }

    /// Removes every entry for `general`.
    pub(super) fn remove_general(&mut self, general: Vip) -> Vec<Ended> {
        let paths: Vec<_> =
            self.general.iter().filter(|((_, g), _)| *g == general).map(|(_, path)| *path).collect();
        paths.into_iter().filter_map(|path| self.remove(path)).collect()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.expiry.next()
    }

    /// An entry that nobody used for its lifetime.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Ended> {
        let path = self.expiry.due(now)?;
        self.remove(path)
    }

    /// The table as appendix A shows it, in the order of Path IDs.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<_> = self.entries.iter().map(|(path, entry)| entry.row(*path)).collect();
        rows.sort_by_key(|row| row.path);
        rows
    }
}

impl Entry {
    /// Whether `end` reaches nobody, for longer than `patience`: the other end was silent, or each is in another epoch and refuses what the
    /// other sends.
    fn leads_nowhere(&self, end: Role, patience: Duration, now: Instant) -> bool {
        let common = |end: Role| self.sides.get(end.index())?.common.as_ref();
        let apart = common(end)
            .zip(common(end.other()))
            .is_some_and(|(own, others)| own.epoch != others.epoch && now - own.at.max(others.at) > patience);
        apart || self.sides.get(end.other().index()).is_some_and(|other| now - other.heard > patience)
    }

    fn updates(
        &self,
        path: PathId,
        epoch: u8,
        from: SocketAddr,
        fresh: Option<SharedKey>,
        moved: bool,
        rng: &mut Entropy,
    ) -> Vec<DataUpdate> {
        match &self.peers {
            Peers::Switch { .. } if moved => {
                let end = |i: usize| self.sides[i].tunnel.map(|(address, _)| address);
                vec![DataUpdate::Switch { path, ends: [end(0), end(1)] }]
            }
            Peers::Switch { .. } => Vec::new(),
            Peers::Translate { terminal, general, real, suite } => {
                let flow = Flow { source: terminal.0, destination: general.0 };
                match fresh {
                    Some(key) => {
                        let keys = |from| Arc::new(DataKeys::new(&key, path, epoch, *suite, from));
                        let receive = DataUpdate::Receive { flow, keys: keys(Role::Initiator) };
                        let send = DataUpdate::Send {
                            flow: flow.reversed(),
                            remote: from,
                            keys: keys(Role::Responder),
                            first: first_sequence(rng),
                        };
                        let translate = real.is_ipv6().then_some(DataUpdate::Translate { path });
                        [receive, send].into_iter().chain(translate).collect()
                    }
                    None if moved => vec![DataUpdate::Remote { flow: flow.reversed(), path, remote: from }],
                    None => Vec::new(),
                }
            }
        }
    }

    /// Answers the Tunnel Request of `end`, and tells the other end if it was waiting for this one.
    fn respond(
        &mut self,
        end: Role,
        request: RequestId,
        epoch: u8,
        from: SocketAddr,
        now: Instant,
        mail: &mut Mail,
    ) {
        let peer_ready = self.sides.get(end.other().index()).is_none_or(|side| side.reached(epoch));
        let mut tell = |side: &mut Side, request, epoch, seen, peer_ready| {
            if let Some(session) = side.temp.iter_mut().find(|session| session.epoch() == epoch) {
                mail.send_on(session, seen, &TunnelResponse { request, seen, peer_ready }.into(), 1, now);
            }
        };
        let side = &mut self.sides[end.index()];
        side.waiting = (!peer_ready).then_some((request, epoch));
        tell(side, request, epoch, from, peer_ready);
        if let Some(other) = self.sides.get_mut(end.other().index())
            && let (Some((request, waits_for)), Some((address, _))) = (other.waiting, other.tunnel)
            && !newer(waits_for, epoch)
        {
            other.waiting = None;
            tell(other, request, waits_for, address, true);
        }
    }

    fn row(&self, path: PathId) -> Row {
        let (virtual_ip, peer_virtual_ip, peer_real_ip) = match &self.peers {
            Peers::Switch { vips } => (vips[0], vips[1], None),
            Peers::Translate { terminal, general, real, .. } => (*terminal, *general, Some(*real)),
        };
        let tunnels =
            self.sides.iter().zip([Role::Initiator, Role::Responder]).map(|(side, end)| TunnelRow {
                side: end,
                temp_key: side.temp_at,
                common_key: side.common.as_ref().map(|common| common.at),
                tunnel: side.tunnel.map(|(address, _)| address),
                tunnel_filled: side.tunnel.map(|(_, at)| at),
            });
        Row {
            path,
            mode: self.mode(),
            coordinator: self.coordinator,
            virtual_ip,
            peer_virtual_ip,
            peer_real_ip,
            made: self.made,
            used: self.used,
            tunnels: tunnels.collect(),
        }
    }
}

/// One entry as Table A.1 shows it; keys appear only by when they were filled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Row {
    /// Path ID, filled by the Relay Direction at `made`.
    pub path: PathId,
    /// RS-S or RS-N.
    pub mode: RelayMode,
    /// The DC that directed it last.
    pub coordinator: NodeId,
    /// Virtual IP (MN).
    pub virtual_ip: Vip,
    /// Virtual IP (GN), or VIP_CN.
    pub peer_virtual_ip: Vip,
    /// Real IP (GN).
    pub peer_real_ip: Option<IpAddr>,
    /// When the Relay Direction made the entry.
    pub made: Instant,
    /// When it was used last: a direction, a Tunnel Request or a Path Keep-alive.
    pub used: Instant,
    /// What Tunnel Requests filled: of the initiator's side, and in RS-S of the responder's.
    pub tunnels: Vec<TunnelRow>,
}

/// The tunnel of one side.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct TunnelRow {
    /// Whose.
    pub side: Role,
    /// When the Temp Key was filled.
    pub temp_key: Instant,
    /// When the Common Key was filled.
    pub common_key: Option<Instant>,
    /// Tunnel IP and Tunnel Port.
    pub tunnel: Option<SocketAddr>,
    /// When they were filled.
    pub tunnel_filled: Option<Instant>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Epoch, PathKeepAlive, TunnelRequest};

    const PATH: PathId = PathId([1; 16]);
    const PATIENCE: Duration = Duration::from_secs(4);
    const ENDS: [Role; 2] = [Role::Initiator, Role::Responder];

    fn temp_key(end: Role, epoch: u8) -> SharedKey {
        SharedKey::new([16 * epoch + end.index() as u8; 32])
    }

    /// A DC directs the path, in `epoch`.
    fn direct(table: &mut RelayTable, epoch: u8, now: Instant) {
        let [initiator_key, responder_key] = ENDS.map(|end| temp_key(end, epoch));
        let [initiator, responder] = [1, 2].map(|n| Vip([198, 18, 0, n].into()));
        let order = RelayOrder::Switch { initiator_key, responder_key, initiator, responder };
        let (request, epoch) = (RequestId(epoch.into()), Epoch::new(epoch));
        let direction = RelayDirection { request, path: PATH, epoch, order };
        assert!(table.direct(NodeId([9; 16]), direction, now).is_ok());
    }

    /// An end of the path in an epoch.
    struct End {
        from: SocketAddr,
        temp: TunnelSession,
        leg: TunnelSession,
        common_key: SharedKey,
    }

    impl End {
        fn new(end: Role, epoch: u8) -> Self {
            let common_key = SharedKey::new([128 + 16 * epoch + end.index() as u8; 32]);
            let session = |key: &SharedKey, purpose| TunnelSession::new(key, purpose, PATH, epoch, true, end);
            Self {
                from: SocketAddr::from(([192, 0, 2, 1 + end.index() as u8], 4330)),
                temp: session(&temp_key(end, epoch), Purpose::Tunnel),
                leg: session(&common_key, Purpose::Leg),
                common_key,
            }
        }

        /// Asks the relay for the tunnel.
        fn ask(&mut self, table: &mut RelayTable, now: Instant) {
            let common_key = Some(self.common_key.clone());
            let request = TunnelRequest { request: RequestId(1), moved: false, common_key };
            let (bytes, _) = self.temp.seal(&request.into(), &mut Entropy::new([1; 32]));
            assert!(answers(table, &bytes, self.from, now) > 0);
        }

        /// Whether the relay answers a Path Keep-alive.
        fn is_answered(&mut self, table: &mut RelayTable, now: Instant) -> bool {
            let keep_alive = PathKeepAlive { request: RequestId(2) }.into();
            let (bytes, _) = self.leg.seal(&keep_alive, &mut Entropy::new([1; 32]));
            answers(table, &bytes, self.from, now) > 0
        }
    }

    fn answers(table: &mut RelayTable, datagram: &[u8], from: SocketAddr, now: Instant) -> usize {
        let (mut mail, header) = (Mail::new([0; 32], 1), Header::parse(datagram).expect("a header"));
        table.handle(&header, datagram, from, PATIENCE, now, &mut mail).expect("it is taken");
        std::iter::from_fn(|| mail.poll_transmit()).filter(|sent| sent.to == from).count()
    }

    /// Of ends in different epochs each refuses what the other sends, and none knows: without answers both have the path directed anew. A moment
    /// of that is no fault: one end hears of a direction earlier than the other.
    #[test]
    fn ends_that_stay_in_different_epochs_are_answered_no_more() {
        let mut table = RelayTable::new(Duration::from_secs(300), 10);
        let at = |second| Instant::ZERO + Duration::from_secs(second);
        direct(&mut table, 0, at(0));
        let [mut initiator, mut responder] = ENDS.map(|end| End::new(end, 0));
        initiator.ask(&mut table, at(0));
        responder.ask(&mut table, at(0));
        for second in 1..10 {
            assert!(
                initiator.is_answered(&mut table, at(second))
                    && responder.is_answered(&mut table, at(second))
            );
        }
        direct(&mut table, 2, at(10));
        let [mut moved, mut follows] = ENDS.map(|end| End::new(end, 2));
        moved.ask(&mut table, at(10));
        let answered = (11..20).map(|second| {
            let both = [&mut moved, &mut responder].map(|end| end.is_answered(&mut table, at(second)));
            assert_eq!(both[0], both[1]);
            both[0]
        });
        assert_eq!(answered.filter(|answered| *answered).count() as u64, PATIENCE.as_secs());
        follows.ask(&mut table, at(20));
        assert!(moved.is_answered(&mut table, at(21)) && follows.is_answered(&mut table, at(21)));
    }
}
