//! What each input means to the terminal's machine, and what the machine has to say to applications, trace and status.
//!
//! It has no clock and no input of its own: [`drive`](mod@crate::drive) hands it what came, and takes what goes out.

use std::net::{IpAddr, SocketAddr};

use ntm_daemon::control::Request;
use ntm_daemon::trace::TraceSink;
use ntm_protocol::addr::{Fqdn, Vip};
use ntm_protocol::data::NotSent;
use ntm_protocol::observe::Observation;
use ntm_protocol::session::Transmit;
use ntm_protocol::terminal::{Event, QueryId, Terminal, TerminalConfig};
use ntm_protocol::time::Instant;
use ntm_protocol::wire::DnsError;
use ntm_tunnel::{Counts, Notice};

use crate::config::Config;
use crate::standing::Standing;
use crate::status::Status;
use crate::stub::message::{self, Asked};
use crate::stub::waiting::{Admission, Waiting};
use crate::stub::{Received, Way};

/// The machine with what its shell knows.
pub(crate) struct Node {
    name: String,
    fqdn: Fqdn,
    terminal: Terminal,
    trace: TraceSink,
    waiting: Waiting<Way>,
    /// The usable real addresses, once they are known.
    addresses: Option<Vec<IpAddr>>,
    not_sent: u64,
}

impl Node {
    /// A node whose machine begins with randomness from `seed` and the sequence number `first_sequence`, which is above all that
    /// it used before.
    pub(crate) fn new(config: &Config, trace: TraceSink, seed: [u8; 32], first_sequence: u64) -> Self {
        let terminal = Terminal::new(TerminalConfig {
            fqdn: config.fqdn.clone(),
            port: config.port,
            coordinator: config.coordinator.clone(),
            coordinator_addresses: config.coordinator_addresses.iter().copied().collect(),
            key: config.key.clone(),
            patience: config.patience,
            lifetime: config.lifetime,
            handover: config.handover,
            seed,
            first_sequence,
        });
        Self {
            name: config.name.clone(),
            fqdn: config.fqdn.clone(),
            terminal,
            trace,
            waiting: Waiting::default(),
            addresses: None,
            not_sent: 0,
        }
    }

    /// The usable real addresses are these now.
    pub(crate) fn handle_addresses(&mut self, addresses: Vec<IpAddr>, now: Instant) {
        self.terminal.handle_addresses(&addresses, now);
        self.addresses = Some(addresses);
    }

    /// A datagram that is no data packet.
    pub(crate) fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        self.terminal.handle_datagram(from, datagram, now);
    }

    /// The data plane dropped a packet.
    pub(crate) fn handle_notice(&mut self, notice: Notice, now: Instant) {
        match notice {
            Notice::Refused { refusal, from } => self.terminal.refuse(from, &refusal, now),
            Notice::NotSent(NotSent::NoPath(flow)) => self.terminal.handle_no_path(flow, now),
            // The plane's counters have it.
            Notice::NotSent(why) => tracing::debug!("a packet of an application is not sent: {why:?}"),
        }
    }

    /// An application asks.
    pub(crate) fn handle_query(&mut self, received: Received, now: Instant) {
        let Received { bytes, client, way } = received;
        match message::read(&bytes) {
            Asked::Nothing => {}
            Asked::Answered(answer) => way.send(answer),
            Asked::Pointer(question, address) => {
                way.send(question.named(self.name_of(Vip(address)).as_ref()))
            }
            Asked::Address(question, name) => match self.waiting.admit(client, question, way) {
                Admission::New(id) => self.terminal.handle_query(id, name, now),
                Admission::Repeated => {}
                Admission::Full(question, way) => way.send(question.resolved(Err(DnsError::ServFail))),
            },
        }
    }

    /// The name that has `vip`, if it is this terminal's or a path leads there.
    fn name_of(&self, vip: Vip) -> Option<Fqdn> {
        if self.terminal.vip() == Some(vip) {
            return Some(self.fqdn.clone());
        }
        self.terminal.paths().into_iter().find(|path| path.peer_vip == vip).map(|path| path.peer)
    }

    /// The machine answers a query.
    pub(crate) fn answer(&mut self, query: QueryId, answer: Result<Vip, DnsError>) {
        if let Some((question, way)) = self.waiting.take(query) {
            way.send(question.resolved(answer));
        }
    }

    /// A request came over the control socket.
    pub(crate) fn handle_request(&self, request: Request, data: Counts) {
        match request.command() {
            "status" => request.answer(&self.status(data)),
            _ => request.refuse_unknown(&["status"]),
        }
    }

    fn status(&self, data: Counts) -> Status<'_> {
        Status {
            name: &self.name,
            fqdn: &self.fqdn,
            vip: self.terminal.vip(),
            registered: self.terminal.is_registered(),
            addresses: self.addresses.as_deref().unwrap_or_default(),
            paths: self.terminal.paths(),
            relays: self.terminal.relays(),
            handover: self.terminal.handover(),
            queries_waiting: self.waiting.len(),
            refused: self.terminal.refused(),
            not_sent: self.not_sent,
            trace_lost: self.trace.lost(),
            data,
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.terminal.poll_timeout()
    }

    /// Does what is due at `now`.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.terminal.handle_timeout(now);
    }

    /// What is to be done next.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.terminal.poll_event()
    }

    /// The next datagram to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.terminal.poll_transmit()
    }

    /// The system would not send a datagram: the machine repeats what is not answered.
    pub(crate) fn not_sent(&mut self, to: SocketAddr, error: &std::io::Error) {
        self.not_sent += 1;
        tracing::debug!("a control datagram to {to} is not sent: {error}");
    }

    /// Writes what the machine has observed to the trace.
    pub(crate) fn record(&mut self) {
        while let Some((t, what)) = self.terminal.poll_observation() {
            self.trace.write(&Observation { t, node: self.name.clone(), what });
        }
        self.trace.flush();
    }

    /// How the terminal stands with the network.
    pub(crate) fn standing(&self) -> Standing {
        match (&self.addresses, self.terminal.vip()) {
            (None, _) => Standing::Starting,
            (Some(addresses), _) if addresses.is_empty() => Standing::NoNetwork,
            (Some(_), Some(vip)) if self.terminal.is_registered() => Standing::Registered(vip),
            (Some(_), _) => Standing::Registering,
        }
    }

    /// The terminal's own name.
    pub(crate) fn fqdn(&self) -> &Fqdn {
        &self.fqdn
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
    use hickory_proto::rr::{Name, RecordType};
    use ntm_protocol::crypto::SharedKey;
    use ntm_protocol::terminal::Handover;
    use ntm_protocol::wire::{Reason, Refusal};
    use std::time::Duration;
    use tokio::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(3);

    fn node() -> Node {
        let config = Config {
            name: "mn".into(),
            fqdn: "mn.dc.test".parse().expect("a name"),
            port: 4330,
            tun: "ntm0".into(),
            vips: "198.18.0.0/15".parse().expect("a range"),
            mtu: 1424,
            dns_listen: "127.0.0.53:53".parse().expect("an address"),
            patience: PATIENCE,
            lifetime: Duration::from_secs(300),
            spin: Duration::ZERO,
            handover: Handover::Thesis,
            coordinator: "ns.dc.test".parse().expect("a name"),
            coordinator_addresses: "203.0.113.4:4330"
                .parse::<SocketAddr>()
                .map(Into::into)
                .expect("an address"),
            key: SharedKey::new([7; 32]),
            control: None,
            trace: None,
        };
        Node::new(&config, TraceSink::open(None).expect("a sink"), [1; 32], 1)
    }

    /// A client that asks for `name`; its answers come to the channel.
    fn client() -> (impl Fn(&str, RecordType) -> Received, mpsc::Receiver<Vec<u8>>) {
        let (way, answers) = mpsc::channel(8);
        let ask = move |name: &str, kind| {
            let mut message = Message::new(9, MessageType::Query, OpCode::Query);
            message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
            let bytes = message.to_vec().expect("a message");
            Received {
                bytes,
                client: "127.0.0.1:5000".parse().expect("an address"),
                way: Way::Tcp(way.clone()),
            }
        };
        (ask, answers)
    }

    fn at(millis: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(millis)
    }

    fn codes(answers: &mut mpsc::Receiver<Vec<u8>>) -> Vec<ResponseCode> {
        std::iter::from_fn(|| answers.try_recv().ok())
            .map(|bytes| Message::from_vec(&bytes).expect("a message").response_code)
            .collect()
    }

    #[test]
    fn a_query_waits_for_the_machine_and_its_repetition_with_it() {
        let (mut node, (ask, mut answers)) = (node(), client());
        node.handle_query(ask("cn.dc.test.", RecordType::A), at(0));
        node.handle_query(ask("cn.dc.test.", RecordType::A), at(1000));
        assert_eq!((node.waiting.len(), codes(&mut answers)), (1, vec![]));
        assert_eq!(node.poll_timeout(), Some(Instant::ZERO + PATIENCE), "the first asker's patience counts");
        node.handle_timeout(Instant::ZERO + PATIENCE);
        while let Some(event) = node.poll_event() {
            let Event::Answer { query, answer } = event else { panic!("{event:?}") };
            node.answer(query, answer);
        }
        assert_eq!((node.waiting.len(), codes(&mut answers)), (0, vec![ResponseCode::ServFail]));
    }

    #[test]
    fn what_the_machine_need_not_know_is_answered_at_once() {
        let (mut node, (ask, mut answers)) = (node(), client());
        for (name, kind) in [
            ("localhost.", RecordType::A),
            ("cn.dc.test.", RecordType::AAAA),
            ("printer.", RecordType::A),
            ("1.0.18.198.in-addr.arpa.", RecordType::PTR),
        ] {
            node.handle_query(ask(name, kind), at(0));
        }
        let (ok, none) = (ResponseCode::NoError, ResponseCode::NXDomain);
        assert_eq!((node.waiting.len(), codes(&mut answers)), (0, vec![ok, ok, none, none]));
        assert_eq!(node.poll_timeout(), None);
    }

    #[test]
    fn refusals_of_the_data_plane_are_counted() {
        let mut node = node();
        let refusal = Refusal::new("mac", Reason::Mac);
        node.handle_notice(
            Notice::Refused { refusal, from: "192.0.2.1:1".parse().expect("an address") },
            at(0),
        );
        node.handle_datagram("192.0.2.1:1".parse().expect("an address"), b"garbage", at(0));
        assert_eq!(node.status(Counts::default()).refused, 2);
    }

    #[test]
    fn it_registers_when_it_has_an_address() {
        let mut node = node();
        assert_eq!(node.standing(), Standing::Starting);
        node.handle_addresses(vec![], at(0));
        assert_eq!((node.standing(), node.poll_transmit()), (Standing::NoNetwork, None));
        node.handle_addresses(vec!["192.168.1.2".parse().expect("an address")], at(1));
        assert_eq!(node.standing(), Standing::Registering);
        assert_eq!(node.poll_transmit().expect("a request").to.to_string(), "203.0.113.4:4330");
    }
}
