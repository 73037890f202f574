//! One path of a terminal: its tunnels, which of them carries the traffic, and whether they still work.
//!
//! A path is directed by a Route Direction, stands when a Tunnel Response came, is optimised where a direct way can be proved
//! (T4.1.2-b), is held open by Path Keep-alives, and falls back to the RS, or asks to be directed anew, when they stay unanswered.
//!
//! [`leg`] is the way through a relay, [`direct`](mod@direct) the one from end to end, [`choice`] which of them packets take, and why.

mod choice;
mod direct;
mod leg;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use crate::addr::{Fqdn, NodeId, PathId, Vip};
use crate::crypto::{DataKeys, Purpose, SharedKey, Suite};
use crate::data::{DataUpdate, Flow, Usage};
use crate::expiry::earliest;
use crate::observe::{RouteName, What};
use crate::relay::table::newer;
use crate::session::{Expired, Mail, Pending, TunnelSession};
use crate::time::{Duration, Instant};
use crate::wire::{
    Addresses, Epoch, Header, Kind, Message, PathKeepAlive, PathKeepAliveAnswer, Reason, Refusal, RelayMode,
    Renewal, RequestId, Role, Route, RouteDirection, TunnelRequest, TunnelResponse,
};

use direct::Direct;
use leg::Leg;

/// What a path tells the terminal.
#[derive(Debug)]
pub(super) enum Signal {
    /// Change the data tables.
    Data(DataUpdate),
    /// Packets can flow.
    Stands,
    /// No way works: direct the path anew.
    Broken,
    /// Nobody used it for its lifetime: it is over, until somebody wants it again.
    Unused,
    /// The tunnel was never built.
    Failed,
    /// The relay that must stay does not answer, though the DC says that it is ready.
    Lost,
}

/// How long a terminal waits between two Path Keep-alives, and for answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Between two Path Keep-alives.
    pub(super) keep_alive: Duration,
    /// Before a Tunnel Request is repeated.
    pub(super) wait: Duration,
    /// How long a path stays that nobody uses.
    pub(super) lifetime: Duration,
}

/// The most names of one peer that are remembered; one that is forgotten costs a new direction.
const MOST_ALIASES: usize = 16;

/// A request under way on a tunnel.
enum Ask {
    LegTunnel(Message),
    LegAlive(Message),
    DirectTunnel(SocketAddr, Message),
    DirectAlive(SocketAddr, Message),
}

impl Ask {
    /// Whether this is a Path Keep-alive, of the leg to the relay or of the direct way.
    fn holds_open(&self, leg: bool) -> bool {
        match self {
            Ask::LegAlive(_) => leg,
            Ask::DirectAlive(..) => !leg,
            Ask::LegTunnel(_) | Ask::DirectTunnel(..) => false,
        }
    }

    /// Whether it is to prove the direct way.
    fn is_try(&self) -> bool {
        matches!(self, Ask::DirectTunnel(..))
    }
}

/// A way on which so many Path Keep-alives in a row, each repeated, were not answered when the next is due works no more: it is left
/// within one more period than that, however long the round trip.
const MOST_UNANSWERED: usize = 2;

/// What tells a direction from another of the same epoch: the path's key, or where there is none the temporary one.
fn key_of(direction: &RouteDirection) -> Option<&SharedKey> {
    match (&direction.path_key, &direction.route) {
        (Some(key), _) | (None, Route::Relayed { temp_key: key, .. }) => Some(key),
        (None, Route::Direct { .. }) => None,
    }
}

pub(super) struct Path {
    pub(super) id: PathId,
    pub(super) role: Role,
    pub(super) peer: Fqdn,
    /// Other names by which an application asked for the same peer.
    aliases: Vec<Fqdn>,
    pub(super) peer_vip: Vip,
    own_vip: Vip,
    epoch: u8,
    suite: Suite,
    /// Of the newest epoch. None where the path was replaced or has no relay.
    leg: Option<Leg>,
    direct: Option<Direct>,
    /// The key that the direction brought: the same again is the same direction.
    directed_key: SharedKey,
    /// The key of this epoch's data packets.
    data_key: SharedKey,
    /// Whether the data table sends under that key.
    sending: bool,
    /// The address of this end that packets keep to.
    kept: Option<IpAddr>,
    /// Whether packets passed: those sent, and those received.
    usage: [Usage; 2],
    /// When they were found to have passed last.
    used: Instant,
    /// Whether packets ever flowed.
    stood: bool,
    /// Whether applications are told that no way leads there.
    lost: bool,
    route: RouteName,
    remote: Option<SocketAddr>,
    /// What led to it.
    cause: &'static str,
    /// Whether the way was noted since the path was directed last.
    noted: bool,
    pending: Pending<Ask>,
    next_keep_alive: Option<Instant>,
    pace: Pace,
    /// When this end, which does not start, asks all the same.
    start_at: Option<Instant>,
    signals: VecDeque<Signal>,
}

impl Path {
    /// A path that no Route Direction has reached yet; [`direct`](Self::direct) follows.
    fn new(direction: &RouteDirection, own_vip: Vip, pace: Pace, now: Instant) -> Self {
        Self {
            id: direction.path,
            role: direction.role,
            peer: direction.peer.clone(),
            aliases: Vec::new(),
            peer_vip: direction.peer_vip,
            own_vip,
            epoch: direction.epoch.number(),
            suite: direction.suite,
            leg: None,
            direct: None,
            directed_key: SharedKey::new([0; 32]),
            data_key: SharedKey::new([0; 32]),
            sending: false,
            kept: None,
            usage: Default::default(),
            used: now,
            stood: false,
            lost: false,
            route: RouteName::None,
            remote: None,
            cause: "it was directed",
            noted: false,
            pending: Pending::default(),
            next_keep_alive: None,
            pace,
            start_at: None,
            signals: VecDeque::new(),
        }
    }

    /// A new path, as directed.
    pub(super) fn directed(
        direction: RouteDirection,
        own_vip: Vip,
        pace: Pace,
        now: Instant,
        mail: &mut Mail,
    ) -> Result<Self, Refusal> {
        let mut path = Self::new(&direction, own_vip, pace, now);
        path.begin(direction, now, mail)?;
        Ok(path)
    }

    /// Directs the path anew (T4.1.4-a). A direction that was taken before changes nothing; one for other ends is refused.
    pub(super) fn redirect(
        &mut self,
        direction: RouteDirection,
        pace: Pace,
        now: Instant,
        mail: &mut Mail,
    ) -> Result<(), Refusal> {
        if direction.peer_vip != self.peer_vip || direction.role != self.role {
            return Err(Refusal::new("path id", Reason::Conflict));
        }
        let epoch = direction.epoch.number();
        if epoch == self.epoch && key_of(&direction) == Some(&self.directed_key) {
            return Ok(());
        }
        // One of the same epoch and another key takes the place of one that never reached the peer.
        if epoch != self.epoch && !newer(epoch, self.epoch) {
            return Err(Refusal::new("epoch", Reason::Unknown(epoch.into())));
        }
        self.pace = pace;
        self.begin(direction, now, mail)
    }

    fn begin(&mut self, direction: RouteDirection, now: Instant, mail: &mut Mail) -> Result<(), Refusal> {
        let key_wanted = Refusal::new("path_key", Reason::Unexpected);
        let directed_key = key_of(&direction).cloned().ok_or(key_wanted.clone())?;
        let RouteDirection { path, epoch, role, path_key, suite, route, .. } = direction;
        let epoch = epoch.number();
        let direct = |key: &SharedKey, named: &Addresses| {
            let session = TunnelSession::new(key, Purpose::Tunnel, path, epoch, false, role);
            Direct::new(session, named.to_vec())
        };
        let (leg, direct, data_key) = match &route {
            Route::Direct { addresses, .. } => {
                let key = path_key.ok_or(key_wanted)?;
                (None, Some(direct(&key, addresses)), key)
            }
            Route::Relayed { relay, address, mode, temp_key, optimise } => {
                let leg = Leg::new((*relay, *address, *mode), temp_key, (path, epoch, role), &mut mail.rng);
                match mode {
                    RelayMode::Switch => {
                        let key = path_key.ok_or(key_wanted)?;
                        (Some(leg), Some(direct(&key, optimise)), key)
                    }
                    RelayMode::Translate => {
                        let key = leg.common_key.clone();
                        (Some(leg), None, key)
                    }
                }
            }
        };
        (self.epoch, self.suite, self.leg, self.direct, self.data_key) =
            (epoch, suite, leg, direct, data_key);
        (self.directed_key, self.sending, self.noted) = (directed_key, false, false);
        self.pending = Pending::default();
        self.next_keep_alive = None;
        self.start_at = None;
        // The peer may be faster: what it sends under the new keys is opened from now on.
        let keys = DataKeys::new(&self.data_key, path, epoch, suite, role.other());
        self.signals.push_back(Signal::Data(DataUpdate::Receive {
            flow: self.flow().reversed(),
            keys: Box::new(keys),
        }));
        self.watch();
        // Who is called may be asked as soon as the peer or the relay has answered its Tunnel Request, and before it has looked at that
        // answer; or at the relay's word that both tunnels stand. Who calls waits: the application's DNS answer does.
        let asked_from = match &route {
            Route::Direct { start: true, addresses } => addresses.first().copied(),
            Route::Relayed { mode: RelayMode::Switch, address, .. } => Some(*address),
            Route::Direct { .. } | Route::Relayed { .. } => None,
        };
        if let (Role::Responder, false, Some(address)) = (role, self.stood, asked_from) {
            self.send_to(address);
        }
        match route {
            Route::Direct { start: true, .. } => self.try_direct(now, mail),
            // The peer starts; if its request does not get through, ours may.
            Route::Direct { start: false, .. } => self.start_at = Some(now + self.pace.wait * 2),
            Route::Relayed { .. } => self.ask_relay(now, mail),
        }
        Ok(())
    }

    fn flow(&self) -> Flow {
        Flow { source: self.own_vip.0, destination: self.peer_vip.0 }
    }

    /// The key epoch.
    pub(super) fn epoch(&self) -> u8 {
        self.epoch
    }

    /// Whether an application that asks for `name` means this path.
    pub(super) fn is_called(&self, name: &Fqdn) -> bool {
        self.peer == *name || self.aliases.contains(name)
    }

    /// Whether a relay translates addresses for it.
    pub(super) fn is_translated(&self) -> bool {
        self.leg.as_ref().is_some_and(|leg| leg.mode == RelayMode::Translate)
    }

    /// Takes over the names of a path that this one replaces.
    pub(super) fn replace(&mut self, names: Vec<Fqdn>) {
        let names = names.into_iter().filter(|name| *name != self.peer);
        self.aliases.extend(names.take(MOST_ALIASES));
    }

    /// Its names: the one that it was directed by first.
    pub(super) fn names(&self) -> Vec<Fqdn> {
        std::iter::once(&self.peer).chain(&self.aliases).cloned().collect()
    }

    /// Whether packets can flow.
    pub(super) fn stands(&self) -> bool {
        self.remote.is_some()
    }

    /// Whether packets could flow before, and cannot now.
    pub(super) fn is_broken(&self) -> bool {
        self.stood && !self.stands()
    }

    /// Whether applications are told that no way leads there.
    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// The relay that was found silent, where the terminal is now.
    pub(super) fn silent_relay(&self) -> Option<NodeId> {
        self.leg.as_ref().filter(|leg| leg.silent).map(|leg| leg.node)
    }

    /// The terminal is in another network, or in none: silence there said nothing of the relay.
    pub(super) fn moved(&mut self) {
        self.leg.iter_mut().for_each(|leg| leg.silent = false);
    }

    /// The relay that translates for this path is gone, and no other can take its place (T4.2.5-b): unless the path stands, applications are
    /// told from now on, until it stands again. True where that is new.
    pub(super) fn lose(&mut self, now: Instant, mail: &mut Mail) -> bool {
        if self.lost || self.stands() || !self.is_translated() {
            return false;
        }
        self.lost = true;
        self.cause = "the relay is gone, and no other can take its place";
        self.signals.push_back(Signal::Data(DataUpdate::Lose { path: self.id }));
        let (path, epoch, reason) = (self.id, self.epoch, self.cause.into());
        mail.journal
            .note(now, What::PathChanged { path, route: RouteName::None, remote: None, epoch, reason });
        true
    }

    /// What a Direction Request says of this path.
    pub(super) fn renewal(&self) -> Renewal {
        let keep_relay = self.leg.as_ref().filter(|leg| leg.mode == RelayMode::Translate).map(|leg| leg.node);
        Renewal {
            path: self.id,
            role: self.role,
            epoch: Epoch::new(self.epoch),
            peer_vip: self.peer_vip,
            keep_relay,
        }
    }

    fn ask_relay(&mut self, now: Instant, mail: &mut Mail) {
        let Some(leg) = &mut self.leg else { return };
        let request = mail.request_id();
        let message = leg.request(request);
        mail.send_on(&mut leg.temp, leg.address, &message, 1, now);
        self.pending.sent(request, Ask::LegTunnel(message), now, self.pace.wait);
    }

    /// Asks the peer wherever it may be, to prove the direct way.
    fn try_direct(&mut self, now: Instant, mail: &mut Mail) {
        let addresses = self.direct.as_mut().map(Direct::try_all).unwrap_or_default();
        self.ask_peer(&addresses, now, mail);
    }

    fn ask_peer(&mut self, addresses: &[SocketAddr], now: Instant, mail: &mut Mail) {
        let Some(direct) = &mut self.direct else { return };
        for &address in addresses {
            if !direct.may_ask() {
                return;
            }
            let request = mail.request_id();
            let message: Message = TunnelRequest { request, common_key: None }.into();
            mail.send_on(&mut direct.session, address, &message, 1, now);
            self.pending.sent(request, Ask::DirectTunnel(address, message), now, self.pace.wait);
        }
    }

    /// Takes a message of one of the path's tunnels.
    pub(super) fn handle(
        &mut self,
        header: &Header,
        datagram: &[u8],
        from: SocketAddr,
        now: Instant,
        mail: &mut Mail,
    ) -> Result<(), Refusal> {
        let nothing = Refusal::new("path id", Reason::Unexpected);
        let session = match (&mut self.leg, &mut self.direct) {
            (Some(leg), _) if header.flags.leg => leg.session(header.kind),
            (_, Some(direct)) if !header.flags.leg => &mut direct.session,
            _ => return Err(nothing),
        };
        let message = session.open(header, datagram)?;
        mail.received(header, &message, from, now);
        match message {
            // The relay never asks; a peer does, to prove its direction.
            Message::TunnelRequest(request) if !header.flags.leg => {
                let response =
                    TunnelResponse { request: request.request, seen: from, peer_ready: true }.into();
                mail.send_on(session, from, &response, 1, now);
                self.asked_by_peer(from, now, mail);
            }
            Message::PathKeepAlive(request) if !header.flags.leg => {
                let answer = PathKeepAliveAnswer { request: request.request, seen: from }.into();
                mail.send_on(session, from, &answer, 1, now);
            }
            Message::TunnelResponse(response) => self.answered_tunnel(&response, now, mail),
            Message::PathKeepAliveAnswer(answer) => {
                let leg = header.flags.leg;
                if self.pending.get(answer.request).is_some_and(|ask| ask.holds_open(leg)) {
                    self.forget_keep_alives(leg, now);
                }
            }
            _ => return Err(Refusal::new("type", Reason::Unexpected)),
        }
        Ok(())
    }

    /// The peer's request came through, from `from`: our own will, too, if its NAT lets answers in there.
    fn asked_by_peer(&mut self, from: SocketAddr, now: Instant, mail: &mut Mail) {
        self.start_at = None;
        let relayed = self.leg.is_some();
        let Some(direct) = self.direct.as_mut().filter(|direct| direct.proved().is_none()) else { return };
        direct.heard(from);
        if !relayed && direct.provisional.is_none() {
            direct.provisional = Some(from);
            self.choose("the peer's Tunnel Request came through", now, mail);
        }
        let under_way = self.pending.iter().find_map(|(id, ask)| match ask {
            Ask::DirectTunnel(address, _) if *address == from => Some(id),
            _ => None,
        });
        match under_way {
            Some(id) => self.pending.hasten(id, now),
            None => self.ask_peer(&[from], now, mail),
        }
    }

    fn answered_tunnel(&mut self, response: &TunnelResponse, now: Instant, mail: &mut Mail) {
        match self.pending.get(response.request) {
            Some(Ask::LegTunnel(_)) if !response.peer_ready => {
                // The tunnel to the relay is there; it says so again when the peer's is.
                self.leg.iter_mut().for_each(|leg| leg.met = true);
                return;
            }
            Some(Ask::LegTunnel(_) | Ask::DirectTunnel(..)) => {}
            _ => return,
        }
        match self.pending.answered(response.request, now) {
            Some((Ask::LegTunnel(_), _)) => {
                let Some(leg) = &mut self.leg else { return };
                (leg.stands, leg.met, leg.silent) = (true, true, false);
                self.choose("the tunnel to the relay stands", now, mail);
                self.try_direct(now, mail);
            }
            Some((Ask::DirectTunnel(address, _), _)) => {
                let Some(direct) = &mut self.direct else { return };
                if direct.prove(address, now) {
                    let others: Vec<RequestId> = self.asks_of(Ask::is_try);
                    others.into_iter().for_each(|id| drop(self.pending.answered(id, now)));
                    self.choose("both directions are proved", now, mail);
                }
            }
            _ => {}
        }
    }

    /// The next thing that the terminal must know.
    pub(super) fn poll_signal(&mut self) -> Option<Signal> {
        self.signals.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let again = self.direct.as_ref().and_then(Direct::again);
        earliest([self.pending.poll_timeout(), self.next_keep_alive, self.start_at, again])
    }

    /// Repeats what is unanswered, holds the tunnels open, and draws the consequences of silence.
    pub(super) fn handle_timeout(&mut self, now: Instant, mail: &mut Mail) {
        if self.start_at.is_some_and(|at| at <= now) {
            self.start_at = None;
            self.try_direct(now, mail);
        }
        if self.direct.as_ref().and_then(Direct::again).is_some_and(|at| at <= now) {
            self.try_direct(now, mail);
        }
        if self.next_keep_alive.is_some_and(|at| at <= now) {
            self.next_keep_alive = Some(now + self.pace.keep_alive);
            if self.is_unused(now) {
                return;
            }
            self.hold_open(now, mail);
        }
        while let Some(expired) = self.pending.expired(now) {
            match expired {
                Expired::Repeat { id, attempt } => self.repeat(id, attempt, now, mail),
                Expired::GaveUp(_, ask) => self.unanswered(ask, now, mail),
            }
        }
    }

    /// The requests under way that are `such`.
    fn asks_of(&self, such: impl Fn(&Ask) -> bool) -> Vec<RequestId> {
        self.pending.iter().filter(|(_, ask)| such(ask)).map(|(id, _)| id).collect()
    }

    /// The Path Keep-alives of a way that are under way.
    fn keep_alives(&self, leg: bool) -> Vec<RequestId> {
        self.asks_of(|ask| ask.holds_open(leg))
    }

    /// Forgets them; the newest is handed back.
    fn forget_keep_alives(&mut self, leg: bool, now: Instant) -> Option<Ask> {
        let asks = self.keep_alives(leg).into_iter().filter_map(|id| self.pending.answered(id, now));
        asks.last().map(|(ask, _)| ask)
    }

    /// Leaves ways that were silent for too long.
    fn leave_the_silent(&mut self, now: Instant, mail: &mut Mail) {
        for leg in [true, false] {
            if self.keep_alives(leg).len() >= MOST_UNANSWERED
                && let Some(ask) = self.forget_keep_alives(leg, now)
            {
                self.unanswered(ask, now, mail);
            }
        }
    }

    fn hold_open(&mut self, now: Instant, mail: &mut Mail) {
        self.leave_the_silent(now, mail);
        // Several sendings fit in a period, so that one lost datagram is not taken for silence.
        let wait = self.pace.wait.min(self.pace.keep_alive / 5);
        let request = mail.request_id();
        if let Some(leg) = self.leg.as_mut().filter(|leg| leg.stands) {
            let message: Message = PathKeepAlive { request }.into();
            mail.send_on(&mut leg.common, leg.address, &message, 1, now);
            self.pending.sent(request, Ask::LegAlive(message), now, wait);
        }
        let request = mail.request_id();
        if let Some(direct) = &mut self.direct
            && let Some(address) = direct.proved()
        {
            let message: Message = PathKeepAlive { request }.into();
            mail.send_on(&mut direct.session, address, &message, 1, now);
            self.pending.sent(request, Ask::DirectAlive(address, message), now, wait);
        }
    }

    fn repeat(&mut self, id: RequestId, attempt: u32, now: Instant, mail: &mut Mail) {
        match (self.pending.get(id), &mut self.leg, &mut self.direct) {
            (Some(Ask::LegTunnel(message)), Some(leg), _) => {
                mail.send_on(&mut leg.temp, leg.address, message, attempt, now);
            }
            (Some(Ask::LegAlive(message)), Some(leg), _) => {
                mail.send_on(&mut leg.common, leg.address, message, attempt, now);
            }
            (Some(Ask::DirectTunnel(to, message) | Ask::DirectAlive(to, message)), _, Some(direct)) => {
                mail.send_on(&mut direct.session, *to, message, attempt, now);
            }
            _ => {}
        }
    }

    fn unanswered(&mut self, ask: Ask, now: Instant, mail: &mut Mail) {
        let relay = self.leg.as_ref().map(|leg| leg.address);
        let (message, to) = match &ask {
            Ask::LegTunnel(message) | Ask::LegAlive(message) => (message.kind(), relay),
            Ask::DirectTunnel(to, message) | Ask::DirectAlive(to, message) => (message.kind(), Some(*to)),
        };
        if let Some(to) = to {
            mail.journal.note(now, What::GaveUp { message, to });
        }
        match ask {
            Ask::LegTunnel(_) | Ask::LegAlive(_) => {
                let is_new = message == Kind::TunnelRequest;
                let mut unmet = false;
                if let Some(leg) = &mut self.leg {
                    unmet = is_new && !leg.met;
                    (leg.stands, leg.silent) = (false, !is_new || unmet);
                }
                self.forget_keep_alives(true, now);
                self.choose("the relay does not answer", now, mail);
                if unmet && self.stood {
                    self.signals.push_back(Signal::Lost);
                }
            }
            Ask::DirectAlive(..) => {
                self.forget_keep_alives(false, now);
                self.direct_failed(now);
                self.choose("the peer does not answer directly", now, mail);
            }
            Ask::DirectTunnel(..) => {
                if self.asks_of(Ask::is_try).is_empty() {
                    self.direct_failed(now);
                    // Beside a relay this was an attempt at optimisation; without one it was the path.
                    if self.leg.is_none() {
                        self.choose("the peer does not answer", now, mail);
                    }
                }
            }
        }
    }

    /// The direct way does not work, for now: beside a relay it is tried again, without one the path is directed anew.
    fn direct_failed(&mut self, now: Instant) {
        let relayed = self.leg.is_some();
        let Some(direct) = &mut self.direct else { return };
        direct.fail(now);
        if relayed {
            direct.try_later(self.pace.keep_alive, now);
        }
    }
}
