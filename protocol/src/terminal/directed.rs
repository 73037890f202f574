//! Paths as they are directed, and what becomes of them.

use std::net::SocketAddr;

use super::path::{Path, Signal};
use super::queries::Errand;
use super::unused::Ended;
use super::{Event, Terminal};
use crate::addr::{Fqdn, NodeId, PathId};
use crate::data::DataUpdate;
use crate::observe::{RouteName, What};
use crate::time::Instant;
use crate::wire::{
    DnsError, Reason, Refusal, RelayMode, Renewal, RequestId, Route, RouteDirection, RouteResponse,
};

impl Terminal {
    /// A Route Direction came: the answer to a request of this terminal, or the DC's word that a peer calls (T3.2.3-a).
    pub(super) fn directed(
        &mut self,
        direction: RouteDirection,
        from: SocketAddr,
        now: Instant,
    ) -> Result<(), Refusal> {
        let own_vip = self.vip.ok_or(Refusal::new("type", Reason::Unexpected))?;
        if direction.target != NodeId::of(&self.fqdn) {
            return Err(Refusal::new("target", Reason::Stranger));
        }
        let (id, request, answers, seen, peer) =
            (direction.path, direction.request, direction.answers, direction.seen, direction.peer.clone());
        if let Some(answers) = answers {
            // An answer that came twice, or to a request that is wanted no more: nothing is to do.
            if self.requests.answered(answers, now).is_none() {
                return Ok(());
            }
            self.renewals.clear(id);
        }
        // The peer mends a path that this end gave up, and another stands: that one serves, and the peer will find so.
        if answers.is_none()
            && direction.epoch.number() != 0
            && !self.paths.contains_key(&id)
            && self.paths.values().any(|path| path.peer_vip == direction.peer_vip && path.stands())
        {
            let response = RouteResponse { request, accepted: false }.into();
            self.mail.send(&mut self.registrar.session, from, &response, 1, now);
            return Ok(());
        }
        // The life before may have used its keys, and this one counts anew: the peer would take its numbers for old ones, and this end what was sent
        // to the life before for new. Nothing of it is taken, but what it says of the path has that directed anew.
        if answers.is_none() && direction.life != self.registrar.life() {
            let response = RouteResponse { request, accepted: false }.into();
            self.mail.send(&mut self.registrar.session, from, &response, 1, now);
            self.inherit(direction, now);
            return Ok(());
        }
        // The name was asked for while another path to it came to stand, through another relay: that one goes on (T4.2.5-b).
        if let Some(kept) = self.translated_elsewhere(&direction) {
            self.serve_by(kept, now);
            self.recalled(now);
            return Ok(());
        }
        let pace = self.pace();
        // The peer has another VIP than it had: its DC has lost its records. What leads to the old one is over, and this takes its place.
        let replaced = self.paths.get(&id).is_some_and(|path| path.leads_to_former_vip(&direction));
        if replaced {
            self.forget(id);
        }
        let taken = match self.paths.get_mut(&id) {
            Some(path) => path.redirect(direction, pace, now, &mut self.mail),
            None => Path::directed(direction, own_vip, pace, now, &mut self.mail)
                .map(|path| self.adopt(path, now)),
        };
        if replaced && taken.is_err() {
            self.end(id, now);
        }
        match answers {
            Some(_) => {
                if let Some(wish) = self.wishes.get_mut(&peer) {
                    (wish.path, wish.directed) = (Some(id), true);
                }
            }
            None => {
                let response = RouteResponse { request, accepted: taken.is_ok() }.into();
                self.mail.send(&mut self.registrar.session, from, &response, 1, now);
            }
        }
        self.recalled(now);
        taken?;
        // It was decided before the DC knew where this terminal is, and so was what the peer was told: it serves until one that knows is there.
        if answers.is_none() && self.registrar.granted().is_some_and(|granted| granted.seen != seen) {
            // A request of before would be answered with an epoch of before.
            self.unask(id, now);
            self.request(Errand::Renewal(id), now);
        }
        self.heed(id, now);
        for (from, datagram) in self.early.take(id, now) {
            self.handle_datagram(from, &datagram, now);
        }
        Ok(())
    }

    /// The peer has a path to the life before of this terminal: it is asked for, as one is that ended because nobody used it.
    fn inherit(&mut self, direction: RouteDirection, now: Instant) {
        let RouteDirection { path, epoch, role, peer, peer_vip, .. } = direction;
        if self.paths.values().any(|known| known.id == path || known.peer_vip == peer_vip) {
            return;
        }
        let renewal = Renewal { path, role, epoch, peer_vip, keep_relay: None };
        self.unused.keep(Ended { names: vec![peer.clone()], renewal });
        self.bring_back(peer, now);
    }

    /// The path that stands to the general node that `direction` leads a new path to, if another relay than that one's translates for it.
    fn translated_elsewhere(&self, direction: &RouteDirection) -> Option<PathId> {
        let Route::Relayed { relay, mode: RelayMode::Translate, .. } = &direction.route else { return None };
        let is_it = |path: &&Path| {
            path.id != direction.path
                && path.peer_vip == direction.peer_vip
                && path.is_called(&direction.peer)
                && path.stands()
                && path.translator().is_some_and(|node| node != *relay)
        };
        self.paths.values().find(is_it).map(|path| path.id)
    }

    /// Takes in a new path. A relay translates one path for each pair of terminal and general node, so it ended the one before: a second
    /// name of the general node led to it.
    fn adopt(&mut self, mut path: Path, now: Instant) {
        let replaced: Vec<PathId> = self
            .paths
            .values()
            .filter(|old| path.is_translated() && old.is_translated() && old.peer_vip == path.peer_vip)
            .map(|old| old.id)
            .collect();
        // By its ID as well: the peer may have another VIP than it had then.
        let ended = self.unused.take(path.peer_vip).into_iter().chain(self.unused.take_path(path.id));
        // Other names are of a general node: a terminal has one, and what had its VIP before was another.
        for ended in ended {
            if path.is_translated() {
                path.replace(ended.names);
            }
        }
        for id in replaced {
            let Some(old) = self.paths.remove(&id) else { continue };
            self.renewals.clear(old.id);
            self.unask(old.id, now);
            self.events.push_back(Event::Data(DataUpdate::Forget { path: old.id }));
            self.wishes
                .values_mut()
                .filter(|wish| wish.path == Some(old.id))
                .for_each(|wish| wish.path = Some(path.id));
            path.replace(old.names());
        }
        self.paths.insert(path.id, path);
    }

    /// Asks no more to have a path directed anew.
    fn unask(&mut self, path: PathId, now: Instant) {
        let its = |(_, (errand, _)): &(RequestId, &(Errand, _))| *errand == Errand::Renewal(path);
        let asked: Vec<RequestId> = self.requests.iter().filter(its).map(|(id, _)| id).collect();
        asked.into_iter().for_each(|id| drop(self.requests.answered(id, now)));
    }

    /// Packets flow again: a way stands in the new network, or there is none to wait for.
    pub(super) fn resume(&mut self) {
        if std::mem::take(&mut self.paused) {
            self.events.push_back(Event::Data(DataUpdate::Resume));
        }
    }

    /// Acts on what a path signals.
    pub(super) fn heed(&mut self, id: PathId, now: Instant) {
        while let Some(signal) = self.paths.get_mut(&id).and_then(Path::poll_signal) {
            match signal {
                Signal::Data(update) => self.events.push_back(Event::Data(update)),
                Signal::Stands => {
                    self.resume();
                    self.serve_by(id, now);
                }
                // Both ends called each other: the other path serves.
                Signal::Broken if self.has_rival(id) => self.end(id, now),
                // While unregistered there is nobody to ask; registration has every path directed anew.
                Signal::Broken if self.is_registered() => {
                    if let Some(relay) = self.paths.get(&id).and_then(Path::silent_relay) {
                        self.measure.doubt(relay, now, &mut self.mail);
                    }
                    self.request(Errand::Renewal(id), now);
                }
                Signal::Broken => {}
                Signal::Failed => self.end(id, now),
                Signal::Lost => self.lose(id, now),
                Signal::Unused => self.end_unused(id, now),
            }
        }
    }

    /// A path stands: it serves who waits for it, and who asked for the peer's name before it was known. What the DC was asked for meanwhile still
    /// comes: the peer is told of it as well, and may use it.
    fn serve_by(&mut self, id: PathId, now: Instant) {
        let Some(path) = self.paths.get(&id).filter(|_| !self.wishes.is_empty()) else { return };
        let (vip, names) = (path.peer_vip, path.names());
        self.answer_path(id, Ok(vip), now);
        names.iter().for_each(|name| self.answer_all(name, Ok(vip), now));
    }

    /// No way leads on a path through a relay that must stay: applications are told, and who waits for its name gets a new one.
    pub(super) fn lose(&mut self, id: PathId, now: Instant) {
        if !self.paths.get_mut(&id).is_some_and(|path| path.lose(now, &mut self.mail)) {
            return;
        }
        self.heed(id, now);
        let waiting: Vec<Fqdn> = self
            .wishes
            .iter_mut()
            .filter(|(_, wish)| wish.path == Some(id))
            .map(|(name, wish)| {
                wish.path = None;
                name.clone()
            })
            .collect();
        waiting.into_iter().for_each(|name| self.request(Errand::Name(name), now));
    }

    /// Whether another path to the same peer stands.
    fn has_rival(&self, id: PathId) -> bool {
        let peer = self.paths.get(&id).map(|path| path.peer_vip);
        self.paths.values().any(|path| path.id != id && Some(path.peer_vip) == peer && path.stands())
    }

    /// Nobody used the path: no keep-alives hold it open any more, and the relay's entry ends in its time. It can come back.
    fn end_unused(&mut self, id: PathId, now: Instant) {
        let Some(path) = self.paths.get(&id) else { return };
        // What is lost for good does not come back.
        if path.is_lost() {
            return self.end(id, now);
        }
        self.unused.keep(Ended { names: path.names(), renewal: path.renewal() });
        let (route, reason, epoch) =
            (RouteName::None, "nobody used it for its lifetime".into(), path.epoch());
        self.mail.journal.note(now, What::PathChanged { path: id, route, remote: None, epoch, reason });
        self.end(id, now);
    }

    /// Nothing of a path stays.
    fn forget(&mut self, id: PathId) {
        self.paths.remove(&id);
        self.renewals.clear(id);
        self.events.push_back(Event::Data(DataUpdate::Forget { path: id }));
    }

    /// A path is over. Who asked for a name while it was there already is not told of its end: another path to the same peer serves, or one
    /// that is asked for now (T3.2.2-a). Who had it built is.
    pub(super) fn end(&mut self, id: PathId, now: Instant) {
        self.forget(id);
        let waiting =
            self.wishes.iter_mut().filter(|(_, wish)| wish.path == Some(id) && wish.is_served_anew());
        let names: Vec<Fqdn> = waiting
            .map(|(name, wish)| {
                wish.path = None;
                name.clone()
            })
            .collect();
        self.answer_path(id, Err(DnsError::ServFail), now);
        names.into_iter().for_each(|name| self.serve(name, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Vip;
    use crate::crypto::{Entropy, SharedKey, Suite};
    use crate::session::{Session, Transmit};
    use crate::terminal::{Handover, TerminalConfig};
    use crate::time::Duration;
    use crate::wire::{
        Epoch, Error, ErrorCode, Header, Message, RegistrationRequest, RegistrationResponse, Role,
    };

    const NOW: Instant = Instant::from_nanos(1_000_000_000);
    const VIP: Vip = Vip(std::net::Ipv4Addr::new(198, 18, 0, 9));

    /// CN's DC, by hand, and CN, which is registered there.
    struct Called {
        dc: Session,
        rng: Entropy,
        cn: Terminal,
        life: u32,
    }

    impl Called {
        fn new() -> Self {
            let [fqdn, coordinator] = ["cn.dc.test", "ns.dc.test"].map(|name| Fqdn::new(name).unwrap());
            let key = SharedKey::new([1; 32]);
            let dc = Session::new(&key, NodeId::of(&coordinator), NodeId::of(&fqdn), 1);
            let mut cn = Terminal::new(TerminalConfig {
                fqdn,
                port: 4330,
                coordinator,
                coordinator_addresses: [address(1)].into_iter().collect(),
                key,
                patience: Duration::from_secs(4),
                lifetime: Duration::from_secs(300),
                handover: Handover::Thesis,
                seed: [2; 32],
                first_sequence: 1,
            });
            cn.handle_addresses(&[address(2).ip()], NOW);
            let mut called = Self { dc, rng: Entropy::new([3; 32]), cn, life: 0 };
            let [Message::RegistrationRequest(request)] = &called.said()[..] else { panic!("it registers") };
            let request = request.clone();
            called.register(&request, 2);
            called
        }

        /// Grants the VIP that ends in `vip`.
        fn register(&mut self, request: &RegistrationRequest, vip: u8) {
            self.life = request.life;
            self.tell(RegistrationResponse {
                request: request.request,
                vip: Some(Vip([198, 18, 0, vip].into())),
                seen: address(2),
                keep_alive: Duration::from_secs(5),
                relays: Default::default(),
                vips: None,
            });
        }

        fn tell(&mut self, message: impl Into<Message>) {
            let datagram = self.dc.seal(&message.into(), &mut self.rng).0;
            self.cn.handle_datagram(address(1), &datagram, NOW);
        }

        /// What CN says to its DC.
        fn said(&mut self) -> Vec<Message> {
            let said = std::iter::from_fn(|| self.cn.poll_transmit());
            let to_dc: Vec<Transmit> = said.filter(|it| it.to == address(1)).collect();
            let open = |it: Transmit| self.dc.open(&Header::parse(&it.bytes).unwrap(), &it.bytes).unwrap();
            to_dc.into_iter().map(open).collect()
        }
    }

    fn address(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 4330))
    }

    /// A peer calls, as was decided for the `life` of CN.
    fn call(path: u8, life: u32) -> RouteDirection {
        RouteDirection {
            request: RequestId(u64::from(path)),
            answers: None,
            target: NodeId::of(&Fqdn::new("cn.dc.test").unwrap()),
            life,
            seen: address(2),
            path: PathId([path; 16]),
            epoch: Epoch::new(2),
            role: Role::Responder,
            peer: Fqdn::new("mn.dc.test").unwrap(),
            peer_vip: VIP,
            path_key: Some(SharedKey::new([path; 32])),
            suite: Suite::Aes128Cbc,
            route: Route::Direct { addresses: [address(9)].into_iter().collect(), start: false },
        }
    }

    #[test]
    fn a_direction_for_the_life_before_is_not_taken_and_the_path_is_asked_for_anew() {
        let mut called = Called::new();
        let late = call(7, called.life ^ 1);
        called.tell(late.clone());
        assert!(called.cn.paths().is_empty());
        let [Message::RouteResponse(response), Message::DirectionRequest(request)] = &called.said()[..]
        else {
            panic!("it refuses, and asks");
        };
        assert_eq!((response.request, response.accepted), (late.request, false));
        let renewal = Renewal {
            path: late.path,
            role: late.role,
            epoch: late.epoch,
            peer_vip: late.peer_vip,
            keep_relay: None,
        };
        assert_eq!((&request.fqdn, request.renewal.as_ref()), (&late.peer, Some(&renewal)));
        // Once more: that is under way.
        called.tell(late);
        assert!(matches!(called.said()[..], [Message::RouteResponse(_)]));
        assert!(called.cn.paths().is_empty());
    }

    /// A DC that has lost its records may give another VIP: what was decided for the one before is of a life before, too.
    #[test]
    fn another_vip_is_another_life() {
        let mut called = Called::new();
        let (first, late) = (called.life, call(7, called.life));
        called.tell(Error { code: ErrorCode::NotRegistered, sequence: 1 });
        let [Message::RegistrationRequest(again)] = &called.said()[..] else { panic!("it registers") };
        assert_eq!(again.life, first);
        called.register(&again.clone(), 3);
        let [Message::RegistrationRequest(anew)] = &called.said()[..] else { panic!("it registers anew") };
        assert_ne!(anew.life, first);
        called.register(&anew.clone(), 3);
        called.said();
        called.tell(late.clone());
        assert!(called.cn.paths().is_empty());
        let is_refused = |message: &Message| match message {
            Message::RouteResponse(response) => response.request == late.request && !response.accepted,
            _ => false,
        };
        assert!(called.said().iter().any(is_refused));
    }

    #[test]
    fn a_direction_for_the_life_before_changes_no_path_of_this_one() {
        let mut called = Called::new();
        let (now, late) = (call(7, called.life), call(8, called.life ^ 1));
        called.tell(now);
        assert!(matches!(&called.said()[..], [Message::RouteResponse(response)] if response.accepted));
        let before = called.cn.paths();
        called.tell(late);
        assert!(matches!(&called.said()[..], [Message::RouteResponse(response)] if !response.accepted));
        assert_eq!((called.cn.paths(), before.len()), (before, 1));
    }
}
