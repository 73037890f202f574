//! Which way packets take: directly where both directions are proved, else through the relay (T4.1.2-b); and why.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::direct::Direct;
use super::{Path, Signal};
use crate::crypto::DataKeys;
use crate::data::DataUpdate;
use crate::observe::{RouteName, What};
use crate::session::Mail;
use crate::time::{Duration, Instant};

impl Path {
    /// Sends packets the best way that works: directly where that is proved, else through the relay (T4.1.2-b).
    pub(super) fn choose(&mut self, cause: &'static str, now: Instant, mail: &mut Mail) {
        let direct = self.direct.as_ref();
        let relayed = self.leg.as_ref().filter(|leg| leg.stands);
        let proved = direct.and_then(Direct::proved);
        let (route, remote) = match (proved, relayed) {
            (Some(address), None) => (RouteName::Direct, Some(address)),
            (Some(address), Some(_)) if !direct.is_some_and(|direct| direct.doubted) => {
                (RouteName::Direct, Some(address))
            }
            (_, Some(leg)) => (leg.mode.into(), Some(leg.address)),
            (None, None) => match direct.and_then(|direct| direct.provisional) {
                Some(address) => (RouteName::Direct, Some(address)),
                None => (RouteName::None, None),
            },
        };
        match remote {
            Some(remote) => {
                self.next_keep_alive.get_or_insert(now + self.pace.keep_alive);
                (self.stood, self.lost) = (true, false);
                self.go(route, remote, cause, now, mail);
                self.signals.push_back(Signal::Stands);
                return;
            }
            // A path that once stood is worth directing anew; one that never did has failed.
            None if self.stood => {
                let signal = self.broken(now);
                self.signals.push_back(signal);
            }
            None => self.signals.push_back(Signal::Failed),
        }
        self.note_way(route, remote, cause, now, mail);
    }

    /// Packets take the way `route` to `remote` from now on.
    pub(super) fn go(
        &mut self,
        route: RouteName,
        remote: SocketAddr,
        cause: &'static str,
        now: Instant,
        mail: &mut Mail,
    ) {
        self.send_to(remote);
        self.note_way(route, Some(remote), cause, now, mail);
    }

    fn note_way(
        &mut self,
        route: RouteName,
        remote: Option<SocketAddr>,
        cause: &'static str,
        now: Instant,
        mail: &mut Mail,
    ) {
        if (route, remote) != (self.route, self.remote) || !self.noted {
            (self.route, self.remote, self.noted) = (route, remote, true);
            self.cause = cause;
            let (path, epoch) = (self.id, self.epoch);
            mail.journal.note(now, What::PathChanged { path, route, remote, epoch, reason: cause.into() });
        }
    }

    /// From now on packets go to `remote`.
    pub(super) fn send_to(&mut self, remote: SocketAddr) {
        let flow = self.flow();
        // Fresh keys keep to nothing.
        if !self.sending {
            self.kept = None;
        }
        let update = if std::mem::replace(&mut self.sending, true) {
            DataUpdate::Remote { flow, path: self.id, remote }
        } else {
            let keys = DataKeys::new(&self.data_key, self.id, self.epoch, self.suite, self.role);
            DataUpdate::Send { flow, remote, keys: Arc::new(keys), first: self.first }
        };
        let fresh = matches!(update, DataUpdate::Send { .. });
        self.signals.push_back(Signal::Data(update));
        if self.leg.as_ref().is_some_and(|leg| leg.narrow && leg.address == remote) {
            self.signals.push_back(Signal::Data(DataUpdate::Narrow { path: self.id }));
        }
        if fresh {
            self.watch();
        }
    }

    /// Has the tables note which way packets pass.
    pub(super) fn watch(&mut self) {
        let [sent, received] = self.usage.clone();
        self.signals.push_back(Signal::Data(DataUpdate::Watch { path: self.id, sent, received }));
    }

    /// For how long no packet passed, either way; a packet counts from when this is asked.
    fn unused_for(&mut self, now: Instant) -> Duration {
        if self.usage.iter().fold(false, |used, usage| usage.take() | used) {
            self.used = now;
        }
        now.since(self.used)
    }

    /// Whether nobody used the path for its lifetime; then it is over.
    pub(super) fn is_unused(&mut self, now: Instant) -> bool {
        let unused = self.unused_for(now) >= self.pace.lifetime;
        if unused {
            self.signals.push_back(Signal::Unused);
        }
        unused
    }

    /// No way works. One that somebody uses is directed anew. The peer of one that nobody used for long may have ended it a moment ago.
    fn broken(&mut self, now: Instant) -> Signal {
        if self.unused_for(now) >= self.pace.lifetime / 2 { Signal::Unused } else { Signal::Broken }
    }

    /// The preferred address is another one now, and `old` is still there: packets keep to it until the path is directed anew.
    pub(in crate::terminal) fn keep_to(&mut self, old: IpAddr) {
        // An address of the other family sends nothing that way.
        let sends = self.remote.is_some_and(|remote| remote.is_ipv4() == old.is_ipv4());
        if sends && self.kept.is_none() {
            self.set_kept(Some(old));
        }
    }

    /// Packets keep to no address that is not one of `addresses`: whether they did.
    pub(in crate::terminal) fn keep_within(&mut self, addresses: &[IpAddr]) -> bool {
        let left = self.kept.is_some_and(|kept| !addresses.contains(&kept));
        if left {
            self.set_kept(None);
        }
        left
    }

    pub(super) fn set_kept(&mut self, local: Option<IpAddr>) {
        self.kept = local;
        self.signals.push_back(Signal::Data(DataUpdate::Keep { path: self.id, local }));
    }

    /// The way in use, and where packets go.
    pub(in crate::terminal) fn way(&self) -> (RouteName, Option<SocketAddr>) {
        (self.route, self.remote)
    }

    /// Why packets take the way that they take.
    pub(in crate::terminal) fn reason(&self) -> String {
        if !self.noted && self.remote.is_some() {
            return "it is directed anew: packets take the way of before until the new one stands".into();
        }
        let direct = self.direct.as_ref();
        match (self.route, &self.leg) {
            (RouteName::Direct, _) => match direct.map(|direct| (direct.proved(), direct.provisional)) {
                Some((Some(address), _)) if direct.is_some_and(|direct| direct.doubted) => {
                    format!(
                        "there is no relay, and an end is at another address: {address} is not proved anew yet"
                    )
                }
                Some((Some(address), _)) => {
                    format!("the peer answers at {address}: both directions are proved")
                }
                Some((None, Some(address))) => {
                    format!(
                        "there is no relay, and the peer's Tunnel Request came from {address}; ours is not answered yet"
                    )
                }
                Some((None, None)) | None => self.cause.into(),
            },
            (RouteName::Translated, _) => "the peer is a general node: a relay translates addresses".into(),
            (RouteName::Switched, _) => direct.map_or_else(|| self.cause.into(), Direct::why_not),
            (RouteName::None, _) if self.lost => {
                format!(
                    "lost: {}; applications are told so, and who asks for the name anew gets another",
                    self.cause
                )
            }
            (RouteName::None, _) if self.stood => {
                format!("broken: {}; it is to be directed anew", self.cause)
            }
            (RouteName::None, Some(leg)) if leg.met => {
                format!("the tunnel to the relay {} is there; the peer's is not yet", leg.address)
            }
            (RouteName::None, Some(leg)) => format!("the tunnel to the relay {} is being built", leg.address),
            (RouteName::None, None) => "the tunnel to the peer is being built".into(),
        }
    }
}
