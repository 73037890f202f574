//! The terminal's role machine.
//!
//! It keeps itself registered ([`registration`](crate::registration)), turns an application's DNS query into a Direction Request and
//! answers it when the tunnel stands (T3.2.2-a, T3.2.3-b), keeps each path working, and on a handover registers its new addresses
//! and has every path directed anew (T4.1.4-a, T4.2.5-a).

mod directed;
mod early;
mod measure;
mod path;
mod queries;
mod unused;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use rand_core::Rng;
use serde::{Deserialize, Serialize};

use crate::addr::{Fqdn, NodeId, PathId, Vip};
use crate::crypto::SharedKey;
use crate::data::DataUpdate;
use crate::expiry::{Expiry, earliest};
use crate::observe::{RouteName, What};
use crate::registration::{Outcome, Registrar, RegistrarConfig};
use crate::relay::table::newer;
use crate::session::{Mail, Pending, Transmit, next_of};
use crate::time::{Duration, Instant};
use crate::wire::{
    Addresses, DirectionRequest, DnsError, Header, Kind, List, Message, NodeKind, Reason, Refusal,
};

use early::Early;
use measure::Measure;
pub use measure::RelayStatus;
use path::{Pace, Path};
pub use queries::QueryId;
use queries::{Errand, Wish};
use unused::Unused;

/// What a terminal does on a handover.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Handover {
    /// It registers, and every path is directed anew, step by step (T4.1.4-a, T4.2.5-a).
    #[default]
    Thesis,
    /// The same; and meanwhile it shows its new address to relays and peers on the tunnels that stand, so that packets flow one round trip
    /// after the address is there. An extension of the thesis.
    Fast,
}

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
    /// What it does on a handover.
    pub handover: Handover,
    /// The seed of its randomness.
    pub seed: [u8; 32],
    /// The first sequence number: above all that it used before.
    pub first_sequence: u64,
}

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

/// The role machine. See the crate's documentation for how to drive it.
pub struct Terminal {
    fqdn: Fqdn,
    port: u16,
    patience: Duration,
    lifetime: Duration,
    handover: Handover,
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
    /// Whether the DC lost its records, and was not yet told by the requests for all paths what VIPs general nodes had.
    recalls: bool,
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
        let mut mail = Mail::new(config.seed, config.first_sequence);
        let registrar = Registrar::new(RegistrarConfig {
            fqdn: config.fqdn.clone(),
            kind: NodeKind::Terminal,
            life: mail.rng.next_u32(),
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
            handover: config.handover,
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
            recalls: false,
            mail,
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

    /// What it does on a handover.
    pub fn handover(&self) -> Handover {
        self.handover
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
        let moved = old.first() != addresses.first();
        if moved {
            self.requests = Pending::default();
            self.moved = true;
            // What was measured elsewhere, and who was silent there, tells nothing here.
            self.registrar.rtts = List::default();
            self.measure.moved(!addresses.is_empty(), now, &mut self.mail);
            self.paths.values_mut().for_each(Path::moved);
            if let Some(old) = old.first().filter(|old| addresses.contains(old)) {
                self.paths.values_mut().for_each(|path| path.keep_to(*old));
            }
        }
        for path in self.paths.values_mut() {
            let left = path.keep_within(addresses);
            if self.handover == Handover::Fast && (moved || left) {
                path.show(addresses, now, &mut self.mail);
            }
        }
        ids.into_iter().for_each(|id| self.heed(id, now));
        if addresses.is_empty() {
            self.events.push_back(Event::Data(DataUpdate::Pause));
            self.paused = true;
        }
        let addresses = addresses.iter().map(|address| SocketAddr::new(*address, self.port)).collect();
        self.registrar.register(addresses, now, &mut self.mail);
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
                // The DC knows no more whose VIPs those were that paths lead to. Of those that stand it hears before new ones are asked for.
                if std::mem::take(&mut self.registrar.forgot) {
                    self.unused = Unused::default();
                    (self.moved, self.recalls) = (true, true);
                }
                if let Some(vip) = granted.vip
                    && self.vip != Some(vip)
                {
                    // The DC has lost its records: what leads from the old address leads nobody's packets, and what was decided for it, which may still
                    // come, would not either.
                    let begins_anew = self.vip.is_some();
                    if begins_anew {
                        self.registrar.begin_anew(now, &mut self.mail);
                        let paths: Vec<PathId> = self.paths.keys().copied().collect();
                        paths.into_iter().for_each(|path| self.end(path, now));
                        self.unused = Unused::default();
                        self.moved = true;
                    }
                    self.vip = Some(vip);
                    self.events.push_back(Event::Vip(vip));
                    if begins_anew {
                        return;
                    }
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
                self.recalls &= self.is_renewing();
                names.into_iter().for_each(|name| self.serve(name, now));
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
        self.ask_again(now);
        while let Some(path) = self.renewals.due(now) {
            if self.is_registered() {
                self.request(Errand::Renewal(path), now);
            }
        }
        self.lose_patience(now);
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

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.mail.poll_transmit()
    }

    /// What the driver has to do next.
    pub fn poll_event(&mut self) -> Option<Event> {
        next_of(&mut self.events)
    }

    /// Observes nothing from now on: nobody reads it.
    pub fn close_journal(&mut self) {
        self.mail.journal.close();
    }

    /// The oldest observation not yet taken.
    pub fn poll_observation(&mut self) -> Option<(Instant, What)> {
        self.mail.journal.poll()
    }
}
