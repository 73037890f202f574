//! The terminal's role machine.
//!
//! It keeps itself registered ([`registration`](crate::registration)), turns an application's DNS query into a Direction Request and
//! answers it when the tunnel stands (T3.2.2-a, T3.2.3-b), keeps each path working, and on a handover registers its new addresses
//! and has every path directed anew (T4.1.4-a, T4.2.5-a).

mod early;
mod measure;
mod path;
mod unused;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::addr::{Fqdn, NodeId, PathId, Vip};
use crate::crypto::SharedKey;
use crate::data::{DataUpdate, Flow};
use crate::expiry::{Expiry, earliest};
use crate::observe::{RouteName, What};
use crate::registration::{Outcome, Registrar, RegistrarConfig};
use crate::relay::table::newer;
use crate::session::{Expired, Mail, Pending, Transmit};
use crate::time::{Duration, Instant};
use crate::wire::{
    Addresses, DirectionRequest, DnsError, Header, Kind, List, Message, NodeKind, Reason, Refusal, RequestId,
    RouteDirection, RouteResponse,
};

use early::Early;
use measure::Measure;
pub use measure::RelayStatus;
use path::{Pace, Path, Signal};
use unused::{Ended, Unused};

/// What a terminal is told at its start.
#[derive(Clone, Debug)]
pub struct TerminalConfig {
    /// Its name.
    pub fqdn: Fqdn,
    /// Its UDP port.
    pub port: u16,
    /// Its DC's name.
    pub coordinator: Fqdn,
    /// Its DC's real addresses and port, of one family or both.
    pub coordinator_addresses: Addresses,
    /// The key that it shares with its DC.
    pub key: SharedKey,
    /// How long an application's query may wait.
    pub patience: Duration,
    /// How long a path stays that nobody uses.
    pub lifetime: Duration,
    /// The seed of its randomness.
    pub seed: [u8; 32],
    /// The first sequence number: above all that it used before.
    pub first_sequence: u64,
}

/// Names an application's query, until it is answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueryId(pub u64);

/// What the terminal's driver has to do.
#[derive(Clone, Debug)]
pub enum Event {
    /// This is the terminal's virtual address.
    Vip(Vip),
    /// Answer an application's query.
    Answer {
        /// Which.
        query: QueryId,
        /// With VIP_CN or VIP_GN, or with an error.
        answer: Result<Vip, DnsError>,
    },
    /// Change the data tables.
    Data(DataUpdate),
}

/// An application's wish for a name.
#[derive(Default)]
struct Wish {
    queries: Vec<QueryId>,
    /// The path that was directed for it.
    path: Option<PathId>,
}

/// What a Direction Request under way is for.
#[derive(PartialEq)]
enum Errand {
    /// For applications that wait.
    Name(Fqdn),
    /// For a path that is to be directed anew.
    Renewal(PathId),
}

/// The role machine. See the crate's documentation for how to drive it.
pub struct Terminal {
    fqdn: Fqdn,
    port: u16,
    patience: Duration,
    lifetime: Duration,
    registrar: Registrar,
    measure: Measure,
    addresses: Vec<IpAddr>,
    vip: Option<Vip>,
    wishes: BTreeMap<Fqdn, Wish>,
    impatience: Expiry<QueryId>,
    requests: Pending<(Errand, DirectionRequest)>,
    paths: BTreeMap<PathId, Path>,
    /// Paths to be directed anew at some time, because it failed before.
    renewals: Expiry<PathId>,
    /// Whether every path is to be directed anew once the DC has registered this terminal.
    moved: bool,
    /// Whether packets wait for a way in a new network.
    paused: bool,
    early: Early,
    /// Paths that nobody used, and that may be wanted again.
    unused: Unused,
    mail: Mail,
    events: VecDeque<Event>,
}

/// A path as `status` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PathStatus {
    /// The path.
    pub path: PathId,
    /// The peer's name.
    pub peer: Fqdn,
    /// The peer's VIP.
    pub peer_vip: Vip,
    /// The way in use.
    pub route: RouteName,
    /// Where packets go.
    pub remote: Option<SocketAddr>,
    /// The key epoch.
    pub epoch: u8,
    /// Why it is that way.
    pub reason: String,
}

impl Terminal {
    /// A terminal that is nowhere yet: tell it its addresses.
    pub fn new(config: TerminalConfig) -> Self {
        let registrar = Registrar::new(RegistrarConfig {
            fqdn: config.fqdn.clone(),
            kind: NodeKind::Terminal,
            coordinator: config.coordinator,
            coordinator_addresses: config.coordinator_addresses,
            key: config.key,
            first_sequence: config.first_sequence,
        });
        Self {
            measure: Measure::new(NodeId::of(&config.fqdn)),
            fqdn: config.fqdn,
            port: config.port,
            patience: config.patience,
            lifetime: config.lifetime,
            registrar,
            addresses: Vec::new(),
            vip: None,
            wishes: BTreeMap::new(),
            impatience: Expiry::default(),
            requests: Pending::default(),
            paths: BTreeMap::new(),
            renewals: Expiry::default(),
            moved: false,
            paused: false,
            early: Early::default(),
            unused: Unused::default(),
            mail: Mail::new(config.seed, config.first_sequence),
            events: VecDeque::new(),
        }
    }

    /// The terminal's virtual address, once it has one.
    pub fn vip(&self) -> Option<Vip> {
        self.vip
    }

    /// Whether the DC has registered its present addresses.
    pub fn is_registered(&self) -> bool {
        self.registrar.granted().is_some()
    }

    /// The paths and their ways.
    pub fn paths(&self) -> Vec<PathStatus> {
        let status = |path: &Path| {
            let (route, remote) = path.way();
            PathStatus {
                path: path.id,
                peer: path.peer.clone(),
                peer_vip: path.peer_vip,
                route,
                remote,
                epoch: path.epoch(),
                reason: path.reason(),
            }
        };
        self.paths.values().map(status).collect()
    }

    /// The relays that it measures.
    pub fn relays(&self) -> Vec<RelayStatus> {
        self.measure.status()
    }

    /// How many inputs were refused so far.
    pub fn refused(&self) -> u64 {
        self.mail.journal.refused()
    }

    /// Notes input that the data tables refused.
    pub fn refuse(&mut self, from: SocketAddr, refusal: &Refusal, now: Instant) {
        self.mail.journal.refuse(now, from, refusal);
    }

    /// The terminal's usable real addresses are these now, the preferred first. Another preferred one is a handover: every path is
    /// directed anew, and keeps to the old address meanwhile if that is still there, so that nothing is lost. Any other change is for
    /// the DC to know.
    pub fn handle_addresses(&mut self, addresses: &[IpAddr], now: Instant) {
        if addresses == self.addresses {
            return;
        }
        let old = std::mem::replace(&mut self.addresses, addresses.to_vec());
        self.mail.journal.note(now, What::Addresses { addresses: addresses.to_vec() });
        let ids: Vec<PathId> = self.paths.keys().copied().collect();
        let has_moved = old.first() != addresses.first();
        if has_moved {
            self.requests = Pending::default();
            self.moved = true;
            if let Some(old) = old.first().filter(|old| addresses.contains(old)) {
                self.paths.values_mut().for_each(|path| path.keep_to(*old));
            }
        }
        self.paths.values_mut().for_each(|path| path.keep_within(addresses));
        ids.into_iter().for_each(|id| self.heed(id, now));
        if addresses.is_empty() {
            self.events.push_back(Event::Data(DataUpdate::Pause));
            self.paused = true;
        }
        let addresses: Addresses =
            addresses.iter().map(|address| SocketAddr::new(*address, self.port)).collect();
        let is_somewhere = !addresses.is_empty();
        if has_moved {
            self.paths.values_mut().for_each(Path::moved);
            // What was measured elsewhere is not true here.
            self.registrar.rtts = List::default();
        }
        self.registrar.register(addresses, now, &mut self.mail);
        if has_moved {
            self.measure.moved(is_somewhere, now, &mut self.mail);
        }
    }

    /// An application asks for the address of `name`.
    pub fn handle_query(&mut self, query: QueryId, name: Fqdn, now: Instant) {
        self.mail.journal.note(now, What::Query { name: name.clone() });
        if name == self.fqdn
            && let Some(vip) = self.vip
        {
            return self.answer(query, &name, Ok(vip), now);
        }
        let known = self.paths.values().filter(|path| path.is_called(&name)).max_by_key(|path| path.stands());
        let path = match known {
            Some(path) if path.stands() => {
                let vip = path.peer_vip;
                return self.answer(query, &name, Ok(vip), now);
            }
            // One that is lost serves nobody any more; one that is being built or mended is waited for.
            known => known.filter(|path| !path.is_lost()).map(|path| path.id),
        };
        self.impatience.set(query, now + self.patience);
        let wish = self.wishes.entry(name.clone()).or_default();
        wish.queries.push(query);
        wish.path = path.or(wish.path);
        if wish.path.is_none() && self.is_registered() {
            self.request(Errand::Name(name), now);
        }
    }

    /// An application's packet found no path. Where one ended because nobody used it, the terminal asks for it again.
    pub fn handle_no_path(&mut self, flow: Flow, now: Instant) {
        if self.vip.is_none_or(|vip| vip.0 != flow.source) {
            return;
        }
        let Some(name) = self.unused.name_of(Vip(flow.destination)).cloned() else { return };
        // One that is under way is waited for.
        if !self.wishes.contains_key(&name) {
            self.wishes.insert(name.clone(), Wish::default());
            if self.is_registered() {
                self.request(Errand::Name(name), now);
            }
        }
    }

    fn answer(&mut self, query: QueryId, name: &Fqdn, answer: Result<Vip, DnsError>, now: Instant) {
        self.impatience.clear(query);
        let (vip, error) = (answer.ok(), answer.err());
        self.mail.journal.note(now, What::Answer { name: name.clone(), vip, error });
        self.events.push_back(Event::Answer { query, answer });
    }

    /// Answers everybody who waits for `path`.
    fn answer_path(&mut self, path: PathId, answer: Result<Vip, DnsError>, now: Instant) {
        let waiting = self.wishes.iter().filter(|(_, wish)| wish.path == Some(path));
        let names: Vec<Fqdn> = waiting.map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.answer_all(name, answer, now));
    }

    fn answer_all(&mut self, name: &Fqdn, answer: Result<Vip, DnsError>, now: Instant) {
        for query in self.wishes.remove(name).map(|wish| wish.queries).unwrap_or_default() {
            self.answer(query, name, answer, now);
        }
    }

    /// Sends a Direction Request (T3.2.2-a), for a name or to direct a path anew (T4.1.4-a, T4.2.5-a). One that is under way is not
    /// sent beside it, for that would lead to two paths: it is repeated at once.
    fn request(&mut self, errand: Errand, now: Instant) {
        let under_way = self.requests.iter().find(|(_, (known, _))| *known == errand).map(|(id, _)| id);
        if let Some(id) = under_way {
            return self.requests.hasten(id, now);
        }
        let (fqdn, renewal, avoid) = match &errand {
            Errand::Name(name) => match self.unused.called(name) {
                Some(Ended { names, renewal }) => (names[0].clone(), Some(renewal.clone()), None),
                None => {
                    let lost = self.paths.values().find(|path| path.is_called(name) && path.is_lost());
                    (name.clone(), None, lost.and_then(Path::silent_relay))
                }
            },
            Errand::Renewal(path) => {
                let Some(path) = self.paths.get(path) else { return };
                (path.peer.clone(), Some(path.renewal()), path.silent_relay())
            }
        };
        let request = DirectionRequest { request: self.mail.request_id(), fqdn, renewal, avoid };
        let (id, message) = (request.request, request.clone().into());
        self.registrar.tell(&message, 1, now, &mut self.mail);
        // The answer takes the round trips of a whole sequence, not of one message.
        self.requests.sent(id, (errand, request), now, self.registrar.rtt.timeout() * 4);
    }

    /// Takes a datagram that is no data packet.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        if let Err(refusal) = self.take(from, datagram, now) {
            self.mail.journal.refuse(now, from, &refusal);
        }
    }

    fn take(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Result<(), Refusal> {
        let header = Header::parse(datagram)?;
        match header.kind {
            Kind::TunnelRequest | Kind::TunnelResponse | Kind::PathKeepAlive | Kind::PathKeepAliveAnswer => {
                let id = PathId(header.id);
                if header.kind == Kind::TunnelRequest
                    && self.paths.get(&id).is_none_or(|path| newer(header.epoch, path.epoch()))
                {
                    self.early.keep(from, datagram, now);
                }
                let path = self.paths.get_mut(&id).ok_or(Refusal::new("path id", Reason::Stranger))?;
                path.handle(&header, datagram, from, now, &mut self.mail)?;
                self.heed(id, now);
                Ok(())
            }
            Kind::KeepAliveAnswer if self.measure.knows(NodeId(header.id)) => {
                self.measure.handle(&header, datagram, from, now, &mut self.mail)?;
                self.report(now);
                Ok(())
            }
            _ => self.take_control(&header, datagram, from, now),
        }
    }

    /// Tells the DC what relays' round trips are, if that is due.
    fn report(&mut self, now: Instant) {
        if let Some(rtts) = self.measure.due_report(self.registrar.granted().is_some(), now) {
            self.registrar.report(rtts, now, &mut self.mail);
        }
    }

    /// Measures the relays that the DC named.
    fn measure(&mut self, now: Instant) {
        let Some(granted) = self.registrar.granted() else { return };
        let (relays, pace) = (granted.relays.clone(), granted.keep_alive);
        // Its number is above all that this terminal used before, which the DC tells it if its clock went back.
        let first = self.registrar.session.next_sequence();
        self.measure.named(&relays, pace, first, now, &mut self.mail);
    }

    fn take_control(
        &mut self,
        header: &Header,
        datagram: &[u8],
        from: SocketAddr,
        now: Instant,
    ) -> Result<(), Refusal> {
        let (outcome, message) = self.registrar.handle(header, datagram, from, now, &mut self.mail)?;
        if let Some(outcome) = outcome {
            self.registration(outcome, now);
        }
        match message {
            None => Ok(()),
            Some(Message::RouteDirection(direction)) => self.directed(direction, from, now),
            Some(Message::DirectionRefusal(refusal)) => {
                if let Some(((errand, _), _)) = self.requests.answered(refusal.request, now) {
                    let path = match errand {
                        Errand::Renewal(path) => Some(path),
                        Errand::Name(_) => None,
                    };
                    self.undirected(errand, refusal.error, now);
                    path.into_iter().for_each(|path| self.lose(path, now));
                }
                Ok(())
            }
            Some(_) => Err(Refusal::new("type", Reason::Unexpected)),
        }
    }

    fn registration(&mut self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::Registered(granted) => {
                if let Some(vip) = granted.vip
                    && self.vip != Some(vip)
                {
                    self.vip = Some(vip);
                    self.events.push_back(Event::Vip(vip));
                }
                self.measure(now);
                // Ahead of the requests: the DC knows what was measured so far when it picks a relay for them.
                if let Some(rtts) = self.measure.report() {
                    self.registrar.report(rtts, now, &mut self.mail);
                }
                let names: Vec<Fqdn> = self
                    .wishes
                    .iter()
                    .filter(|(_, wish)| wish.path.is_none())
                    .map(|(name, _)| name.clone())
                    .collect();
                let moved = std::mem::take(&mut self.moved);
                let stale = self.paths.values().filter(|path| moved || path.is_broken());
                let paths: Vec<PathId> = stale.map(|path| path.id).collect();
                paths.into_iter().for_each(|path| self.request(Errand::Renewal(path), now));
                names.into_iter().for_each(|name| self.request(Errand::Name(name), now));
            }
            Outcome::Relays => self.measure(now),
            // Paths hold themselves open; what the DC sees is for the next direction.
            Outcome::Moved => {}
            Outcome::Lost => self.moved = true,
        }
    }

    fn pace(&self) -> Pace {
        let keep_alive =
            self.registrar.granted().map_or(Duration::from_secs(5), |granted| granted.keep_alive);
        Pace { keep_alive, wait: self.registrar.rtt.timeout() * 2, lifetime: self.lifetime }
    }

    fn directed(&mut self, direction: RouteDirection, from: SocketAddr, now: Instant) -> Result<(), Refusal> {
        let own_vip = self.vip.ok_or(Refusal::new("type", Reason::Unexpected))?;
        if direction.target != NodeId::of(&self.fqdn) {
            return Err(Refusal::new("target", Reason::Stranger));
        }
        let (id, request, answers, peer) =
            (direction.path, direction.request, direction.answers, direction.peer.clone());
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
        let pace = self.pace();
        let taken = match self.paths.get_mut(&id) {
            Some(path) => path.redirect(direction, pace, now, &mut self.mail),
            None => Path::directed(direction, own_vip, pace, now, &mut self.mail)
                .map(|path| self.adopt(path, now)),
        };
        match answers {
            Some(_) => {
                if let Some(wish) = self.wishes.get_mut(&peer) {
                    wish.path = Some(id);
                }
            }
            None => {
                let response = RouteResponse { request, accepted: taken.is_ok() }.into();
                self.mail.send(&mut self.registrar.session, from, &response, 1, now);
            }
        }
        taken?;
        self.heed(id, now);
        for (from, datagram) in self.early.take(id, now) {
            self.handle_datagram(from, &datagram, now);
        }
        Ok(())
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
        if let Some(ended) = self.unused.take(path.peer_vip) {
            path.replace(ended.names);
        }
        for old in replaced.into_iter().filter_map(|id| self.paths.remove(&id)) {
            self.renewals.clear(old.id);
            let its = |(_, (errand, _)): &(RequestId, &(Errand, _))| *errand == Errand::Renewal(old.id);
            let asked: Vec<RequestId> = self.requests.iter().filter(its).map(|(id, _)| id).collect();
            asked.into_iter().for_each(|id| drop(self.requests.answered(id, now)));
            self.events.push_back(Event::Data(DataUpdate::Forget { path: old.id }));
            self.wishes
                .values_mut()
                .filter(|wish| wish.path == Some(old.id))
                .for_each(|wish| wish.path = Some(path.id));
            path.replace(old.names());
        }
        self.paths.insert(path.id, path);
    }

    /// Packets flow again: a way stands in the new network, or there is none to wait for.
    fn resume(&mut self) {
        if std::mem::take(&mut self.paused) {
            self.events.push_back(Event::Data(DataUpdate::Resume));
        }
    }

    fn undirected(&mut self, errand: Errand, error: DnsError, now: Instant) {
        self.resume();
        match errand {
            Errand::Name(name) => {
                // The path of before may be what cannot be had: its relay may be gone.
                let before = self.unused.called(&name).map(|ended| ended.renewal.peer_vip);
                match before.and_then(|peer| self.unused.take(peer)) {
                    Some(_) if self.wishes.contains_key(&name) => self.request(Errand::Name(name), now),
                    _ => self.answer_all(&name, Err(error), now),
                }
            }
            // The path may still carry traffic, and the cause may pass.
            Errand::Renewal(path) => self.renewals.set(path, now + self.pace().keep_alive),
        }
    }

    /// Acts on what a path signals.
    fn heed(&mut self, id: PathId, now: Instant) {
        while let Some(signal) = self.paths.get_mut(&id).and_then(Path::poll_signal) {
            match signal {
                Signal::Data(update) => self.events.push_back(Event::Data(update)),
                Signal::Stands => {
                    self.resume();
                    if let Some(vip) = self.paths.get(&id).map(|path| path.peer_vip) {
                        self.answer_path(id, Ok(vip), now);
                    }
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

    /// No way leads on a path through a relay that must stay: applications are told, and who waits for its name gets a new one.
    fn lose(&mut self, id: PathId, now: Instant) {
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

    fn end(&mut self, id: PathId, now: Instant) {
        self.paths.remove(&id);
        self.renewals.clear(id);
        self.events.push_back(Event::Data(DataUpdate::Forget { path: id }));
        self.answer_path(id, Err(DnsError::ServFail), now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let paths = self.paths.values().filter_map(Path::poll_timeout).min();
        earliest([
            self.registrar.poll_timeout(),
            self.requests.poll_timeout(),
            self.impatience.next(),
            self.renewals.next(),
            self.measure.poll_timeout(),
            paths,
        ])
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(outcome) = self.registrar.handle_timeout(now, &mut self.mail) {
            self.registration(outcome, now);
        }
        self.measure.handle_timeout(now, &mut self.mail);
        self.report(now);
        while let Some(expired) = self.requests.expired(now) {
            match expired {
                Expired::Repeat { id, attempt } => self.repeat(id, attempt, now),
                Expired::GaveUp(_, (errand, _)) => {
                    if let Some(to) = self.registrar.coordinator() {
                        self.mail.journal.note(now, What::GaveUp { message: Kind::DirectionRequest, to });
                    }
                    self.undirected(errand, DnsError::ServFail, now);
                }
            }
        }
        while let Some(path) = self.renewals.due(now) {
            if self.is_registered() {
                self.request(Errand::Renewal(path), now);
            }
        }
        while let Some(query) = self.impatience.due(now) {
            let name = self.wishes.iter_mut().find_map(|(name, wish)| {
                let at = wish.queries.iter().position(|waiting| *waiting == query)?;
                wish.queries.remove(at);
                Some(name.clone())
            });
            if let Some(name) = name {
                if self.wishes.get(&name).is_some_and(|wish| wish.queries.is_empty()) {
                    self.wishes.remove(&name);
                }
                self.answer(query, &name, Err(DnsError::ServFail), now);
            }
        }
        let due: Vec<PathId> = self
            .paths
            .values()
            .filter(|path| path.poll_timeout().is_some_and(|at| at <= now))
            .map(|path| path.id)
            .collect();
        for id in due {
            if let Some(path) = self.paths.get_mut(&id) {
                path.handle_timeout(now, &mut self.mail);
            }
            self.heed(id, now);
        }
    }

    fn repeat(&mut self, id: RequestId, attempt: u32, now: Instant) {
        let Some((_, request)) = self.requests.get(id) else { return };
        self.registrar.tell(&request.clone().into(), attempt, now, &mut self.mail);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.mail.poll_transmit()
    }

    /// What the driver has to do next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The oldest observation not yet taken.
    pub fn poll_observation(&mut self) -> Option<(Instant, What)> {
        self.mail.journal.poll()
    }
}
