//! What is said on a path's tunnels: requests, the answers to them, and what follows from silence.

use std::net::SocketAddr;

use super::Path;
use super::Signal;
use super::direct::Direct;
use crate::observe::What;
use crate::session::{LONGEST, Mail};
use crate::time::Instant;
use crate::wire::{
    Header, Kind, Message, PathKeepAlive, PathKeepAliveAnswer, Reason, Refusal, RequestId, TunnelRequest,
    TunnelResponse,
};

/// A request under way on a tunnel.
pub(super) enum Ask {
    LegTunnel(Message),
    LegAlive(Message),
    DirectTunnel(SocketAddr, Message),
    DirectAlive(SocketAddr, Message),
    /// Shows the relay this end's new address.
    LegShow(Message),
    /// Shows the peer this end's new address, or proves the way to the peer's.
    DirectShow(SocketAddr, Message),
    /// Finds out whether the peer answers at the new address while the old one is still there.
    DirectProbe(SocketAddr, Message),
}

impl Ask {
    /// Whether this is a Path Keep-alive, of the leg to the relay or of the direct way.
    fn holds_open(&self, leg: bool) -> bool {
        match self {
            Ask::LegAlive(_) => leg,
            Ask::DirectAlive(..) => !leg,
            _ => false,
        }
    }

    /// Whether it is about a new address of an end.
    pub(super) fn is_show(&self) -> bool {
        matches!(self, Ask::LegShow(_) | Ask::DirectShow(..) | Ask::DirectProbe(..))
    }

    /// Whether it is to prove the direct way.
    fn is_try(&self) -> bool {
        matches!(self, Ask::DirectTunnel(..))
    }
}

/// A way on which so many Path Keep-alives in a row, each repeated, were not answered when the next is due works no more: it is left
/// within one more period than that, however long the round trip.
const MOST_UNANSWERED: usize = 2;

impl Path {
    pub(super) fn ask_relay(&mut self, now: Instant, mail: &mut Mail) {
        let Some(leg) = &mut self.leg else { return };
        let request = mail.request_id();
        let (message, address) = (leg.request(request, false), leg.address);
        mail.send_on(leg.sending(message.kind()), address, &message, 1, now);
        self.pending.sent(request, Ask::LegTunnel(message), now, self.pace.wait);
    }

    /// Asks the peer wherever it may be, to prove the direct way; where no relay serves and nobody knows where that is, the peer has to ask, for as
    /// long as this end would.
    pub(super) fn try_direct(&mut self, now: Instant, mail: &mut Mail) {
        let addresses = self.direct.as_mut().map(Direct::try_all).unwrap_or_default();
        if addresses.is_empty() && self.leg.is_none() {
            self.awaited_until = Some(now + LONGEST);
        }
        self.ask_peer(&addresses, now, mail);
    }

    fn ask_peer(&mut self, addresses: &[SocketAddr], now: Instant, mail: &mut Mail) {
        let Some(direct) = &mut self.direct else { return };
        for &address in addresses {
            if !direct.may_ask() {
                return;
            }
            let request = mail.request_id();
            let message: Message = TunnelRequest { request, moved: false, common_key: None }.into();
            mail.send_on(&mut direct.session, address, &message, 1, now);
            self.pending.sent(request, Ask::DirectTunnel(address, message), now, self.pace.wait);
        }
    }

    /// Takes a message of one of the path's tunnels.
    pub(in crate::terminal) fn handle(
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
                if request.moved {
                    self.peer_moved(header.sequence, from, now, mail);
                } else {
                    self.asked_by_peer(from, now, mail);
                }
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
                self.probed(answer.request, now, mail);
            }
            _ => return Err(Refusal::new("type", Reason::Unexpected)),
        }
        Ok(())
    }

    /// The peer's request came through, from `from`: our own will, too, if its NAT lets answers in there.
    pub(super) fn asked_by_peer(&mut self, from: SocketAddr, now: Instant, mail: &mut Mail) {
        (self.start_at, self.awaited_until) = (None, None);
        let relayed = self.leg.is_some();
        let Some(direct) = self.direct.as_mut().filter(|direct| direct.proved().is_none()) else { return };
        direct.heard(from);
        #[cfg(feature = "mutants")]
        if crate::mutants::Mutant::DirectUnproved.is_here() && relayed && direct.prove(from, now) {
            return self.choose("the peer's Tunnel Request came through", now, mail);
        }
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
            Some(Ask::LegTunnel(_) | Ask::LegShow(_)) if !response.peer_ready => {
                // The tunnel to the relay is there; it says so again when the peer's is.
                self.leg.iter_mut().for_each(|leg| leg.met = true);
                return;
            }
            Some(Ask::LegTunnel(_) | Ask::DirectTunnel(..) | Ask::LegShow(_) | Ask::DirectShow(..)) => {}
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
            Some((Ask::LegShow(_), _)) => self.shown_to_relay(now, mail),
            Some((Ask::DirectShow(address, _), _)) => self.shown_to_peer(address, now, mail),
            _ => {}
        }
    }

    /// The requests under way that are `such`.
    pub(super) fn asks_of(&self, such: impl Fn(&Ask) -> bool) -> Vec<RequestId> {
        self.pending.iter().filter(|(_, ask)| such(ask)).map(|(id, _)| id).collect()
    }

    /// The Path Keep-alives of a way that are under way.
    fn keep_alives(&self, leg: bool) -> Vec<RequestId> {
        self.asks_of(|ask| ask.holds_open(leg))
    }

    /// Forgets them; the newest is handed back.
    pub(super) fn forget_keep_alives(&mut self, leg: bool, now: Instant) -> Option<Ask> {
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

    pub(super) fn hold_open(&mut self, now: Instant, mail: &mut Mail) {
        self.leave_the_silent(now, mail);
        // Several sendings fit in a period, so that one lost datagram is not taken for silence.
        let wait = self.pace.wait.min(self.pace.keep_alive / 5);
        let request = mail.request_id();
        if let Some(leg) = self.leg.as_mut().filter(|leg| leg.stands) {
            let message: Message = PathKeepAlive { request }.into();
            let address = leg.address;
            mail.send_on(leg.sending(message.kind()), address, &message, 1, now);
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

    pub(super) fn repeat(&mut self, id: RequestId, attempt: u32, now: Instant, mail: &mut Mail) {
        match (self.pending.get(id), &mut self.leg, &mut self.direct) {
            (
                Some(Ask::LegTunnel(message) | Ask::LegAlive(message) | Ask::LegShow(message)),
                Some(leg),
                _,
            ) => {
                let address = leg.address;
                mail.send_on(leg.sending(message.kind()), address, message, attempt, now);
            }
            (
                Some(
                    Ask::DirectTunnel(to, message)
                    | Ask::DirectAlive(to, message)
                    | Ask::DirectShow(to, message)
                    | Ask::DirectProbe(to, message),
                ),
                _,
                Some(direct),
            ) => mail.send_on(&mut direct.session, *to, message, attempt, now),
            _ => {}
        }
    }

    pub(super) fn unanswered(&mut self, ask: Ask, now: Instant, mail: &mut Mail) {
        let relay = self.leg.as_ref().map(|leg| leg.address);
        let (message, to) = match &ask {
            Ask::LegTunnel(message) | Ask::LegAlive(message) | Ask::LegShow(message) => {
                (message.kind(), relay)
            }
            Ask::DirectTunnel(to, message)
            | Ask::DirectAlive(to, message)
            | Ask::DirectShow(to, message)
            | Ask::DirectProbe(to, message) => (message.kind(), Some(*to)),
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
            // The procedure goes on; and Path Keep-alives find out whether the way works.
            Ask::LegShow(_) | Ask::DirectProbe(..) => {}
            Ask::DirectShow(..) => self.doubt_remains(now),
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
    pub(super) fn direct_failed(&mut self, now: Instant) {
        let relayed = self.leg.is_some();
        let Some(direct) = &mut self.direct else { return };
        direct.fail(now);
        if relayed {
            direct.try_later(self.pace.keep_alive, now);
        }
    }
}
