//! One path of a terminal: its tunnels, which of them carries the traffic, and whether they still work.
//!
//! A path is directed by a Route Direction, stands when a Tunnel Response came, is optimised where a direct way can be proved
//! (T4.1.2-b), is held open by Path Keep-alives, and falls back to the RS, or asks to be directed anew, when they stay unanswered.
//!
//! [`leg`] is the way through a relay, [`direct`](mod@direct) the one from end to end, [`choice`] which of them packets take, and why;
//! [`asks`] is what is said on both, and [`show`] what is said at once where an end is at another address.

mod asks;
mod choice;
mod direct;
mod leg;
mod show;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::addr::{Fqdn, NodeId, PathId, Vip};
use crate::crypto::{DataKeys, Purpose, SharedKey, Suite};
use crate::data::{DataUpdate, Flow, Usage, first_sequence};
use crate::expiry::earliest;
use crate::observe::{RouteName, What};
use crate::relay::table::{is_astray, newer};
use crate::session::{Expired, Mail, Pending, TunnelSession};
use crate::time::{Duration, Instant};
use crate::wire::{
    Addresses, Epoch, Reason, Refusal, RelayMode, Renewal, RequestId, Role, Route, RouteDirection,
};

use asks::Ask;
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
    /// The DC's request that brought it: those that came before have lower numbers.
    directed_in: RequestId,
    /// The key of this epoch's data packets.
    data_key: SharedKey,
    /// The number of the first packet that this end sends under it.
    first: u64,
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
    /// Until when the peer may ask for the tunnel, where this end knows no address to ask at and no relay serves: then the path has failed.
    awaited_until: Option<Instant>,
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
            directed_in: RequestId(0),
            data_key: SharedKey::new([0; 32]),
            first: 0,
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
            awaited_until: None,
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
        if epoch != self.epoch && !newer(epoch, self.epoch) && !self.yields_to(&direction) {
            return Err(Refusal::new("epoch", Reason::Unknown(epoch.into())));
        }
        self.pace = pace;
        self.begin(direction, now, mail)
    }

    /// Whether this end leaves its own epoch for one that is half a circle away. When both ends moved often and did not hear each other,
    /// neither may take the other's for newer, and both would have the path directed anew for ever: then the responder follows the peer.
    /// What is only late is nearer than that; or its DC told it before the one that the path follows.
    fn yields_to(&self, direction: &RouteDirection) -> bool {
        let astray = is_astray(direction.epoch.number(), self.epoch) && direction.request > self.directed_in;
        !self.stands() && self.role == Role::Responder && direction.answers.is_none() && astray
    }

    /// Whether `direction` is a newer one of this path, to the same peer at another VIP.
    pub(super) fn leads_to_former_vip(&self, direction: &RouteDirection) -> bool {
        self.peer == direction.peer
            && self.role == direction.role
            && self.peer_vip != direction.peer_vip
            && newer(direction.epoch.number(), self.epoch)
    }

    fn begin(&mut self, direction: RouteDirection, now: Instant, mail: &mut Mail) -> Result<(), Refusal> {
        let key_wanted = Refusal::new("path_key", Reason::Unexpected);
        let directed_key = key_of(&direction).cloned().ok_or(key_wanted.clone())?;
        let RouteDirection { request, path, epoch, role, path_key, suite, route, .. } = direction;
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
                let mut leg =
                    Leg::new((*relay, *address, *mode), temp_key, (path, epoch, role), &mut mail.rng);
                // The DC names where the peer was seen, if that is in a family of ours; the peer was seen in IPv6 only if it has no IPv4.
                leg.narrow = *mode == RelayMode::Switch && !optimise.iter().any(SocketAddr::is_ipv4);
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
        (self.directed_key, self.directed_in, self.sending, self.noted) =
            (directed_key, request, false, false);
        self.first = first_sequence(&mut mail.rng);
        self.pending = Pending::default();
        self.next_keep_alive = None;
        (self.start_at, self.awaited_until) = (None, None);
        // The peer may be faster: what it sends under the new keys is opened from now on.
        let keys = DataKeys::new(&self.data_key, path, epoch, suite, role.other());
        self.signals.push_back(Signal::Data(DataUpdate::Receive {
            flow: self.flow().reversed(),
            keys: Arc::new(keys),
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
        self.translator().is_some()
    }

    /// The relay that translates addresses for it.
    pub(super) fn translator(&self) -> Option<NodeId> {
        self.leg.as_ref().filter(|leg| leg.mode == RelayMode::Translate).map(|leg| leg.node)
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
        Renewal {
            path: self.id,
            role: self.role,
            epoch: Epoch::new(self.epoch),
            peer_vip: self.peer_vip,
            keep_relay: self.translator(),
        }
    }

    /// The next thing that the terminal must know.
    pub(super) fn poll_signal(&mut self) -> Option<Signal> {
        self.signals.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let again = self.direct.as_ref().and_then(Direct::again);
        earliest([
            self.pending.poll_timeout(),
            self.next_keep_alive,
            self.start_at,
            self.awaited_until,
            again,
        ])
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
        if self.awaited_until.is_some_and(|until| until <= now) {
            self.awaited_until = None;
            self.direct_failed(now);
            self.choose("the peer did not ask", now, mail);
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
}
