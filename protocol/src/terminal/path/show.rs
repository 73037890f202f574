//! `handover = "fast"`: an end that is at another address shows it at once on every tunnel that stands, while it registers and the path is
//! directed anew (T4.1.4-a, T4.2.5-a), which then takes the place of all that is done here.
//!
//! It does so by a Tunnel Request that says `moved`, under the key of the tunnel: so nobody else can, nobody can again, and of two the newer
//! one counts in whatever order they come. A relay sends to where it came from. A peer does so as well if there is no relay; else the
//! relay carries the traffic, as ever until a direct way is proved in both directions (T4.1.2-b), which the peer asks for at once.
//! While the old address is still there, a peer is shown the new one only when it was found to answer there: its NAT may let nothing
//! in from elsewhere, and then packets keep to the old one until the path is directed anew.

use std::net::{IpAddr, SocketAddr};

use super::Path;
use super::asks::Ask;
use super::direct::Direct;
use crate::observe::RouteName;
use crate::session::Mail;
use crate::time::Instant;
use crate::wire::{PathKeepAlive, RequestId, TunnelRequest};

impl Path {
    /// This end's addresses are `addresses` now, the preferred first, and packets came to another one so far.
    pub(in crate::terminal) fn show(&mut self, addresses: &[IpAddr], now: Instant, mail: &mut Mail) {
        self.forget_shows(now);
        let reaches = |to: &SocketAddr| addresses.iter().any(|address| address.is_ipv4() == to.is_ipv4());
        if let Some(leg) = self.leg.as_mut().filter(|leg| leg.stands && reaches(&leg.address)) {
            let request = mail.request_id();
            let (message, address) = (leg.request(request, true), leg.address);
            mail.send_on(leg.sending(message.kind()), address, &message, 1, now);
            self.pending.sent(request, Ask::LegShow(message), now, self.pace.wait / 2);
        }
        let Some(address) = self.direct.as_ref().and_then(Direct::proved).filter(reaches) else { return };
        if self.kept.is_some() {
            let request = mail.request_id();
            let message = PathKeepAlive { request }.into();
            self.ask_directly(request, Ask::DirectProbe(address, message), now, mail);
            return;
        }
        self.direct.iter_mut().for_each(|direct| direct.doubted = true);
        self.show_peer(address, true, now, mail);
        // The relay passes on what comes from anywhere; the peer's NAT may not.
        if let (RouteName::Direct, Some(leg)) = (self.route, self.leg.as_ref().filter(|leg| leg.stands)) {
            let (route, remote) = (leg.mode.into(), leg.address);
            self.go(route, remote, "this end is at another address", now, mail);
        }
    }

    fn show_peer(&mut self, address: SocketAddr, moved: bool, now: Instant, mail: &mut Mail) {
        let request = mail.request_id();
        let message = TunnelRequest { request, moved, common_key: None }.into();
        self.ask_directly(request, Ask::DirectShow(address, message), now, mail);
    }

    fn ask_directly(&mut self, request: RequestId, ask: Ask, now: Instant, mail: &mut Mail) {
        if let (Some(direct), Ask::DirectShow(to, message) | Ask::DirectProbe(to, message)) =
            (&mut self.direct, &ask)
        {
            mail.send_on(&mut direct.session, *to, message, 1, now);
            self.pending.sent(request, ask, now, self.pace.wait / 2);
        }
    }

    /// What was asked about an address of before is wanted no more.
    fn forget_shows(&mut self, now: Instant) {
        self.asks_of(Ask::is_show).into_iter().for_each(|id| drop(self.pending.answered(id, now)));
    }

    /// The relay sends to the new address.
    pub(super) fn shown_to_relay(&mut self, now: Instant, mail: &mut Mail) {
        self.choose("the relay answers at the new address", now, mail);
        if self.kept.is_some() && self.remote == self.leg.as_ref().map(|leg| leg.address) {
            self.set_kept(None);
        }
    }

    /// The peer answered at `address` since an end moved: both directions are proved.
    pub(super) fn shown_to_peer(&mut self, address: SocketAddr, now: Instant, mail: &mut Mail) {
        let Some(direct) = self.direct.as_mut().filter(|direct| direct.proved() == Some(address)) else {
            return;
        };
        direct.doubted = false;
        self.choose("the peer answers at the new address", now, mail);
    }

    /// The peer answered the request `id` from the new address, if that is what it was for: its NAT lets packets in from there, and it is shown
    /// where to send its own.
    pub(super) fn probed(&mut self, id: RequestId, now: Instant, mail: &mut Mail) {
        if !matches!(self.pending.get(id), Some(Ask::DirectProbe(..))) {
            return;
        }
        if let Some((Ask::DirectProbe(address, _), _)) = self.pending.answered(id, now) {
            self.set_kept(None);
            self.show_peer(address, true, now, mail);
        }
    }

    /// The peer says in its message `sequence` that it is at `from` now.
    pub(super) fn peer_moved(&mut self, sequence: u64, from: SocketAddr, now: Instant, mail: &mut Mail) {
        let Some(direct) = &mut self.direct else { return };
        if direct.peer_moved(sequence, from) {
            self.forget_shows_to_peer(now);
            self.show_peer(from, false, now, mail);
            self.choose("the peer is at another address", now, mail);
        } else {
            self.asked_by_peer(from, now, mail);
        }
    }

    fn forget_shows_to_peer(&mut self, now: Instant) {
        let such = self.asks_of(|ask| matches!(ask, Ask::DirectShow(..) | Ask::DirectProbe(..)));
        such.into_iter().for_each(|id| drop(self.pending.answered(id, now)));
    }

    /// The direct way was not proved anew: beside a relay it is tried again later.
    pub(super) fn doubt_remains(&mut self, now: Instant) {
        if self.leg.is_some() && self.direct.as_ref().is_some_and(|direct| direct.doubted) {
            self.direct_failed(now);
        }
    }
}
