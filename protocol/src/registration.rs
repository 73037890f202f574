//! Registration and keep-alive, as terminals and relays do them at a DC (T3.2.1-a, T3.2.1-b).

use std::net::SocketAddr;

use rand_core::Rng;

use crate::addr::{Fqdn, NodeId};
use crate::crypto::SharedKey;
use crate::expiry::earliest;
use crate::family::Families;
use crate::observe::What;
use crate::session::{Expired, Mail, Pending, Rtt, Session};
use crate::time::{Duration, Instant};
use crate::wire::{
    Addresses, ErrorCode, Header, KeepAlive, List, MAX_RELAYS, Message, NodeKind, Reason, Refusal,
    RegistrationRequest, RegistrationResponse, RelayRtt, RequestId,
};

/// Every so many Keep-alives a node asks at the preferred address of a DC that was silent there, and serves it elsewhere meanwhile.
const TRIED_AGAIN: u32 = 4;

/// What became of the registration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Registered, with what the DC granted.
    Registered(RegistrationResponse),
    /// The DC names other relays to measure; they stand in what it granted.
    Relays,
    /// The address that the DC sees is another one now: the NAT's mapping moved.
    Moved,
    /// The DC does not answer, or answers where it is to be spoken to again; registration goes on by itself.
    Lost,
}

/// Keeps a node registered at one DC.
pub struct Registrar {
    fqdn: Fqdn,
    kind: NodeKind,
    life: u32,
    /// The DC's addresses, and the one in use: of a family that the node has.
    coordinators: Addresses,
    coordinator: Option<SocketAddr>,
    /// How often the DC did not answer at one of its addresses since the node's own changed: each time another is tried.
    unanswered: usize,
    /// How many Keep-alives were sent.
    kept_alive: u32,
    /// The conversation with the DC; other requests travel in it, too.
    pub session: Session,
    /// The round-trip time to the DC.
    pub rtt: Rtt,
    addresses: Addresses,
    first_sequence: u64,
    pending: Pending<Message>,
    granted: Option<RegistrationResponse>,
    next_keep_alive: Option<Instant>,
    /// A relay's load, reported in each Keep-alive.
    pub load: Option<u16>,
    /// A terminal's RTTs to relays, told in each registration.
    pub rtts: List<RelayRtt, MAX_RELAYS>,
    /// The highest of the DC's numbers that was taken; and when the registration was asked for.
    highest: [u64; 2],
    /// Whether the DC registered this node with a number as low as one that came before it was asked, since this was looked at: it has lost its
    /// records.
    pub forgot: bool,
}

/// Who a [`Registrar`] registers, and where.
#[derive(Clone, Debug)]
pub struct RegistrarConfig {
    /// The node's own name.
    pub fqdn: Fqdn,
    /// What it is.
    pub kind: NodeKind,
    /// A number drawn for this life of the node, at its start.
    pub life: u32,
    /// The DC's name.
    pub coordinator: Fqdn,
    /// The DC's real addresses and port, of one family or both.
    pub coordinator_addresses: Addresses,
    /// The key shared with the DC.
    pub key: SharedKey,
    /// The first sequence number: above all that were used before.
    pub first_sequence: u64,
}

impl Registrar {
    /// Not registered, and not trying to be.
    pub fn new(config: RegistrarConfig) -> Self {
        let (local, peer) = (NodeId::of(&config.fqdn), NodeId::of(&config.coordinator));
        Self {
            session: Session::new(&config.key, local, peer, config.first_sequence),
            fqdn: config.fqdn,
            kind: config.kind,
            life: config.life,
            coordinators: config.coordinator_addresses,
            coordinator: None,
            unanswered: 0,
            kept_alive: 0,
            rtt: Rtt::default(),
            addresses: Addresses::default(),
            first_sequence: config.first_sequence.max(1),
            pending: Pending::default(),
            granted: None,
            next_keep_alive: None,
            load: None,
            rtts: List::default(),
            highest: [0; 2],
            forgot: false,
        }
    }

    /// The DC's real address and port in use; `None` where the node has no address of a family that the DC has.
    pub fn coordinator(&self) -> Option<SocketAddr> {
        self.coordinator
    }

    /// Sends `message` to the DC, for the `attempt`th time; nowhere while there is no way to it.
    pub fn tell(&mut self, message: &Message, attempt: u32, now: Instant, mail: &mut Mail) {
        if let Some(to) = self.coordinator {
            mail.send(&mut self.session, to, message, attempt, now);
        }
    }

    /// What tells this life of the node from those before.
    pub fn life(&self) -> u32 {
        self.life
    }

    /// What the node was is over, though it goes on: the DC is told of another life.
    pub fn begin_anew(&mut self, now: Instant, mail: &mut Mail) {
        self.life = mail.rng.next_u32();
        self.register(self.addresses.clone(), now, mail);
    }

    /// What the DC granted, while the node is registered.
    pub fn granted(&self) -> Option<&RegistrationResponse> {
        self.granted.as_ref()
    }

    /// Registers `addresses`, whatever was under way before; without an address in which the DC can be reached it waits for one.
    pub fn register(&mut self, addresses: Addresses, now: Instant, mail: &mut Mail) {
        if addresses != self.addresses {
            self.unanswered = 0;
        }
        self.addresses = addresses;
        self.highest[1] = self.highest[0];
        self.granted = None;
        self.next_keep_alive = None;
        self.pending = Pending::default();
        let usable = self.usable();
        self.coordinator = usable.get(self.unanswered % usable.len().max(1)).copied();
        if self.coordinator.is_none() {
            return;
        }
        let request = RegistrationRequest {
            request: mail.request_id(),
            fqdn: self.fqdn.clone(),
            kind: self.kind,
            life: self.life,
            addresses: self.addresses.clone(),
            rtts: self.rtts.clone(),
            vips: None,
        };
        self.ask(request.request, request.into(), self.coordinator, now, mail);
    }

    /// Where the DC can be spoken to, the preferred first.
    fn usable(&self) -> Vec<SocketAddr> {
        let families: Families = self.addresses.iter().collect();
        families.usable(self.coordinators.iter().copied())
    }

    /// The preferred of these, where another is in use.
    fn better(&self) -> Option<SocketAddr> {
        self.usable().first().copied().filter(|preferred| self.coordinator != Some(*preferred))
    }

    fn ask(
        &mut self,
        id: RequestId,
        message: Message,
        to: Option<SocketAddr>,
        now: Instant,
        mail: &mut Mail,
    ) {
        self.session.mark();
        if let Some(to) = to {
            mail.send(&mut self.session, to, &message, 1, now);
        }
        self.pending.sent(id, message, now, self.rtt.timeout());
    }

    /// Opens a control message from the DC and checks that it is fresh. Registration Responses, Keep-alive Answers and Errors
    /// are dealt with here; any other message is handed back for its own machine.
    pub fn handle(
        &mut self,
        header: &Header,
        datagram: &[u8],
        from: SocketAddr,
        now: Instant,
        mail: &mut Mail,
    ) -> Result<(Option<Outcome>, Option<Message>), Refusal> {
        let message = self.session.open(header, datagram)?;
        let unexpected = Refusal::new("request", Reason::Unexpected);
        match &message {
            // The only message that opens the window: it proves to be fresh by the ID of a request under way.
            Message::RegistrationResponse(response) => {
                if !matches!(self.pending.get(response.request), Some(Message::RegistrationRequest(_))) {
                    return Err(unexpected);
                }
                // Our newest request is what it answers: this registration, or what was asked since.
                if self.session.fell_back(None, header.sequence) {
                    self.session.close();
                } else if self.session.is_open() {
                    self.session.accept(header.sequence)?;
                }
                self.session.open_above(header.sequence);
                self.forgot |= header.sequence <= self.highest[1];
                self.highest = [header.sequence; 2];
                mail.received(header, &message, from, now);
                self.measure(response.request, now);
                self.next_keep_alive = Some(now + response.keep_alive);
                self.granted = Some(response.clone());
                let (fqdn, vip, seen) = (self.fqdn.clone(), response.vip, response.seen);
                mail.journal.note(now, What::Registered { fqdn, vip, seen });
                Ok((Some(Outcome::Registered(response.clone())), None))
            }
            Message::Error(error) => {
                // About a message of this life, or nothing that concerns us.
                if error.sequence < self.first_sequence || error.sequence >= self.session.next_sequence() {
                    return Err(Refusal::new("sequence", Reason::Unexpected));
                }
                if self.session.fell_back(Some(error.sequence), header.sequence) {
                    self.session.close();
                } else if self.session.is_open() {
                    self.take(header.sequence)?;
                }
                mail.received(header, &message, from, now);
                match error.code {
                    ErrorCode::Stale { floor } => {
                        self.session.skip_above(floor);
                        // What was asked before may be remembered where it was answered.
                        mail.skip_above(floor);
                        let ids: Vec<_> = self.pending.iter().map(|(id, _)| id).collect();
                        ids.into_iter().for_each(|id| self.pending.hasten(id, now));
                        Ok((None, None))
                    }
                    ErrorCode::NotRegistered if self.granted.is_some() => {
                        Ok((Some(self.lose(now, mail)), None))
                    }
                    // Only DCs have ranges that may overlap.
                    ErrorCode::NotRegistered | ErrorCode::Overlap { .. } => Ok((None, None)),
                }
            }
            Message::KeepAliveAnswer(answer) => {
                self.take(header.sequence)?;
                mail.received(header, &message, from, now);
                if self.measure(answer.request, now).is_none() {
                    return Ok((None, None));
                }
                // Only there does the DC see what NATs show, which others need to reach this node.
                if self.better() == Some(from) {
                    self.unanswered = 0;
                    self.register(self.addresses.clone(), now, mail);
                    return Ok((Some(Outcome::Lost), None));
                }
                let Some(granted) = &mut self.granted else { return Ok((None, None)) };
                let moved = std::mem::replace(&mut granted.seen, answer.seen) != answer.seen;
                if !answer.relays.is_empty() {
                    granted.relays = answer.relays.clone();
                    return Ok((Some(Outcome::Relays), None));
                }
                Ok((moved.then_some(Outcome::Moved), None))
            }
            _ => {
                self.take(header.sequence)?;
                mail.received(header, &message, from, now);
                Ok((None, Some(message)))
            }
        }
    }

    fn take(&mut self, sequence: u64) -> Result<(), Refusal> {
        self.session.accept(sequence)?;
        self.highest[0] = self.highest[0].max(sequence);
        Ok(())
    }

    fn keep_alive(&mut self, rtts: List<RelayRtt, MAX_RELAYS>, now: Instant, mail: &mut Mail) {
        let period = self.granted.as_ref().map_or(Duration::from_secs(5), |granted| granted.keep_alive);
        self.next_keep_alive = Some(now + period);
        #[cfg(feature = "mutants")]
        if crate::mutants::Mutant::KeepAliveTimer.is_here() && !rtts.is_empty() {
            self.next_keep_alive = None;
        }
        let message = KeepAlive { request: mail.request_id(), load: self.load, rtts };
        self.kept_alive = self.kept_alive.wrapping_add(1);
        let is_due = self.kept_alive.is_multiple_of(TRIED_AGAIN);
        // A repetition goes where the DC answers.
        let to = self.better().filter(|_| is_due).or(self.coordinator);
        self.ask(message.request, message.into(), to, now, mail);
    }

    /// Tells the DC the RTTs to relays, in a Keep-alive at once, and in later registrations.
    pub fn report(&mut self, rtts: List<RelayRtt, MAX_RELAYS>, now: Instant, mail: &mut Mail) {
        self.rtts = rtts.clone();
        self.keep_alive(rtts, now, mail);
    }

    fn measure(&mut self, id: RequestId, now: Instant) -> Option<Message> {
        let (message, sample) = self.pending.answered(id, now)?;
        if let Some(sample) = sample {
            self.rtt.measured(sample);
        }
        Some(message)
    }

    fn lose(&mut self, now: Instant, mail: &mut Mail) -> Outcome {
        mail.journal.note(now, What::Unregistered { fqdn: self.fqdn.clone() });
        self.register(self.addresses.clone(), now, mail);
        Outcome::Lost
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        earliest([self.pending.poll_timeout(), self.next_keep_alive])
    }

    /// Repeats what is unanswered, and keeps the way through the NAT open.
    pub fn handle_timeout(&mut self, now: Instant, mail: &mut Mail) -> Option<Outcome> {
        if self.next_keep_alive.is_some_and(|at| at <= now) {
            self.keep_alive(List::default(), now, mail);
        }
        while let Some(expired) = self.pending.expired(now) {
            match expired {
                Expired::Repeat { id, attempt } => {
                    if attempt == 2 {
                        self.rtt.timed_out();
                    }
                    if let Some(message) = self.pending.get(id).cloned() {
                        self.tell(&message, attempt, now, mail);
                    }
                }
                Expired::GaveUp(_, message) => {
                    if let Some(to) = self.coordinator {
                        mail.journal.note(now, What::GaveUp { message: message.kind(), to });
                    }
                    // A DC whose store was lost starts its numbers anew: take its next answer as the first.
                    self.session.close();
                    self.rtt = Rtt::default();
                    self.unanswered += 1;
                    return Some(self.lose(now, mail));
                }
            }
        }
        None
    }
}
