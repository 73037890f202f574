//! The relay's role machine: RS-S and RS-N in one (T5.1.1-a).
//!
//! It registers at its DCs, takes Relay Directions into its [`table`], answers Tunnel Requests and Path Keep-alives, and tells the data
//! tables what to switch and what to open. It never holds the key between the ends of an RS-S path (T4.1.3-a).

mod meters;
pub mod table;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use rand_core::Rng;

use crate::addr::{Fqdn, NodeId, PathId, Vip};
use crate::crypto::SharedKey;
use crate::data::DataUpdate;
use crate::observe::{TableChange, What};
use crate::registration::{Registrar, RegistrarConfig};
use crate::session::{Mail, Transmit};
use crate::time::{Duration, Instant};
use crate::wire::{
    Addresses, Header, Kind, Message, NodeKind, Reason, Refusal, RelayAnswer, RelayDirection, RelayMode,
    RelayOrder, RelayResponse, RequestId,
};

use meters::Meters;
use table::RelayTable;

/// What a relay is told at its start.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Its name.
    pub fqdn: Fqdn,
    /// Its real addresses and port.
    pub addresses: Addresses,
    /// Its DCs: name, real addresses and port, shared key.
    pub coordinators: Vec<(Fqdn, Addresses, SharedKey)>,
    /// How long an entry stays that nobody uses.
    pub lifetime: Duration,
    /// The most entries it takes.
    pub capacity: usize,
    /// The seed of its randomness.
    pub seed: [u8; 32],
    /// The first sequence number: above all that it used before.
    pub first_sequence: u64,
}

/// What the relay's driver has to do.
#[derive(Clone, Debug)]
pub enum Event {
    /// Change the data tables.
    Data(DataUpdate),
    /// Translate packets to VIP_GN into packets to RIP_GN from now on, and say by [`Relay::handle_translated`] whether it is so.
    Translate {
        /// VIP_GN.
        general: Vip,
        /// RIP_GN.
        real: IpAddr,
    },
    /// Translate them no more.
    Untranslate {
        /// VIP_GN.
        general: Vip,
    },
}

/// Where a translation stands.
struct Translation {
    real: IpAddr,
    ready: bool,
    /// How many entries need it.
    entries: usize,
    /// Relay Directions to answer once it is ready.
    waiting: Vec<(NodeId, RequestId)>,
}

/// The role machine. See the crate's documentation for how to drive it.
pub struct Relay {
    registrars: BTreeMap<NodeId, Registrar>,
    /// For terminals that measure their way to this relay.
    meters: Meters,
    addresses: Addresses,
    table: RelayTable,
    translations: BTreeMap<Vip, Translation>,
    mail: Mail,
    events: VecDeque<Event>,
}

impl Relay {
    /// A relay that registers at its DCs at `now`.
    pub fn new(config: RelayConfig, now: Instant) -> Self {
        let mut mail = Mail::new(config.seed, config.first_sequence);
        let life = mail.rng.next_u32();
        let registrars = config.coordinators.iter().map(|(coordinator, addresses, key)| {
            let registrar = Registrar::new(RegistrarConfig {
                fqdn: config.fqdn.clone(),
                kind: NodeKind::Relay,
                life,
                coordinator: coordinator.clone(),
                coordinator_addresses: addresses.clone(),
                key: key.clone(),
                first_sequence: config.first_sequence,
            });
            (NodeId::of(coordinator), registrar)
        });
        let keys = config.coordinators.iter().map(|(_, _, key)| key.clone()).collect();
        let mut relay = Self {
            registrars: registrars.collect(),
            meters: Meters::new(NodeId::of(&config.fqdn), keys, config.first_sequence),
            addresses: config.addresses,
            table: RelayTable::new(config.lifetime, config.capacity),
            translations: BTreeMap::new(),
            mail,
            events: VecDeque::new(),
        };
        for registrar in relay.registrars.values_mut() {
            registrar.load = Some(0);
            registrar.register(relay.addresses.clone(), now, &mut relay.mail);
        }
        relay
    }

    /// The Relay Table (TA-c).
    pub fn table(&self) -> &RelayTable {
        &self.table
    }

    /// Whether every DC has registered this relay.
    pub fn is_registered(&self) -> bool {
        self.registrars.values().all(|registrar| registrar.granted().is_some())
    }

    /// Its DCs, and whether each has registered it.
    pub fn registrations(&self) -> impl Iterator<Item = (NodeId, bool)> {
        self.registrars.iter().map(|(coordinator, registrar)| (*coordinator, registrar.granted().is_some()))
    }

    /// How many inputs were refused so far.
    pub fn refused(&self) -> u64 {
        self.mail.journal.refused()
    }

    /// Notes input that the data tables refused.
    pub fn refuse(&mut self, from: SocketAddr, refusal: &Refusal, now: Instant) {
        self.mail.journal.refuse(now, from, refusal);
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
            Kind::TunnelRequest | Kind::PathKeepAlive => {
                let patience = self.patience();
                let changes = self.table.handle(&header, datagram, from, patience, now, &mut self.mail)?;
                self.events.extend(changes.into_iter().map(Event::Data));
                Ok(())
            }
            _ => {
                let node = NodeId(header.id);
                let Some(registrar) = self.registrars.get_mut(&node) else {
                    return match header.kind {
                        Kind::KeepAlive => {
                            let load = self.table.load();
                            self.meters.handle(&header, datagram, from, load, now, &mut self.mail)
                        }
                        _ => Err(Refusal::new("node id", Reason::Stranger)),
                    };
                };
                match registrar.handle(&header, datagram, from, now, &mut self.mail)?.1 {
                    None => Ok(()),
                    Some(Message::RelayDirection(direction)) => {
                        self.direct(node, direction, now);
                        Ok(())
                    }
                    Some(_) => Err(Refusal::new("type", Reason::Unexpected)),
                }
            }
        }
    }

    /// How long an end may be silent: so long as a DC believes in a node that sends no Keep-alive.
    fn patience(&self) -> Duration {
        let granted = self.registrars.values().filter_map(Registrar::granted);
        granted.map(|granted| granted.keep_alive).max().unwrap_or(Duration::from_secs(5)) * 7 / 2
    }

    /// T4.1.2-a: everything that forwarding needs is stored before the answer goes out.
    fn direct(&mut self, coordinator: NodeId, direction: RelayDirection, now: Instant) {
        let (request, path) = (direction.request, direction.path);
        if let RelayOrder::Translate { general, real, .. } = &direction.order
            && self.translations.get(general).is_some_and(|known| known.real != *real)
        {
            return self.answer(coordinator, request, RelayAnswer::Conflict, now);
        }
        let mode = match direction.order {
            RelayOrder::Switch { .. } => RelayMode::Switch,
            RelayOrder::Translate { .. } => RelayMode::Translate,
        };
        let translation = match &direction.order {
            RelayOrder::Switch { .. } => None,
            RelayOrder::Translate { general, real, .. } => Some((*general, *real)),
        };
        let taken = match self.table.direct(coordinator, direction, now) {
            Ok(taken) => taken,
            Err(answer) => return self.answer(coordinator, request, answer, now),
        };
        taken.replaced.into_iter().for_each(|replaced| self.ended(replaced, now));
        let change = if taken.new { TableChange::Made } else { TableChange::Renewed };
        self.mail.journal.note(now, What::RelayTable { path, change, mode });
        let Some((general, real)) = translation else {
            return self.answer(coordinator, request, RelayAnswer::Ready, now);
        };
        let known = self.translations.entry(general).or_insert_with(|| {
            self.events.push_back(Event::Translate { general, real });
            Translation { real, ready: false, entries: 0, waiting: Vec::new() }
        });
        known.entries += usize::from(taken.new);
        if known.ready {
            self.answer(coordinator, request, RelayAnswer::Ready, now);
        } else if !known.waiting.contains(&(coordinator, request)) {
            known.waiting.push((coordinator, request));
        }
    }

    fn answer(&mut self, coordinator: NodeId, request: RequestId, answer: RelayAnswer, now: Instant) {
        if let Some(registrar) = self.registrars.get_mut(&coordinator) {
            registrar.tell(&RelayResponse { request, answer }.into(), 1, now, &mut self.mail);
        }
    }

    /// Says that packets to `general` are translated now, or that this machine cannot do it.
    pub fn handle_translated(&mut self, general: Vip, done: bool, now: Instant) {
        let Some(translation) = self.translations.get_mut(&general) else { return };
        translation.ready = done;
        let waiting = std::mem::take(&mut translation.waiting);
        let answer = if done { RelayAnswer::Ready } else { RelayAnswer::CannotTranslate };
        for (coordinator, request) in waiting {
            self.answer(coordinator, request, answer, now);
        }
        if !done {
            self.translations.remove(&general);
            for ended in self.table.remove_general(general) {
                self.forgotten(ended.path, ended.mode, now);
            }
        }
    }

    fn ended(&mut self, ended: table::Ended, now: Instant) {
        self.forgotten(ended.path, ended.mode, now);
        let Some(general) = ended.general else { return };
        let Some(translation) = self.translations.get_mut(&general) else { return };
        translation.entries = translation.entries.saturating_sub(1);
        // A translation that is still being made is wanted by the entry that waits for it.
        if translation.entries == 0 && translation.ready {
            self.translations.remove(&general);
            self.events.push_back(Event::Untranslate { general });
        }
    }

    fn forgotten(&mut self, path: PathId, mode: RelayMode, now: Instant) {
        self.mail.journal.note(now, What::RelayTable { path, change: TableChange::Ended, mode });
        self.events.push_back(Event::Data(DataUpdate::Forget { path }));
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let registrars = self.registrars.values().filter_map(Registrar::poll_timeout);
        registrars.chain(self.table.poll_timeout()).min()
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let load = self.table.load();
        for registrar in self.registrars.values_mut() {
            registrar.load = Some(load);
            registrar.handle_timeout(now, &mut self.mail);
        }
        while let Some(ended) = self.table.expired(now) {
            self.ended(ended, now);
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.mail.poll_transmit()
    }

    /// What the driver has to do next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
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
