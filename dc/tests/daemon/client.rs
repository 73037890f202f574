//! Terminals and relays: their role machines, each on a real socket.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ntm_daemon::clock;
use ntm_protocol::addr::{NTM_PORT, Vip};
use ntm_protocol::crypto::SharedKey;
use ntm_protocol::observe::What;
use ntm_protocol::relay::{self, Relay, RelayConfig};
use ntm_protocol::session::Transmit;
use ntm_protocol::terminal::{self, Handover, QueryId, Terminal, TerminalConfig};
use ntm_protocol::time::Instant;
use ntm_protocol::wire::DnsError;

use crate::process::{PATIENCE, Site, fqdn, key, loopback};
use crate::space::Space;

/// A terminal's patience with a query: more than its DC's, so that the answer is always the DC's.
const QUERY: Duration = Duration::from_secs(15);

enum Machine {
    Terminal(Box<Terminal>),
    Relay(Box<Relay>),
}

/// A node that does what its machine wants while [`run`] runs, and nothing else ever.
pub(crate) struct Client {
    machine: Machine,
    socket: UdpSocket,
    /// What the machine noted so far.
    pub(crate) noted: Vec<What>,
    /// The answers to queries so far.
    pub(crate) answers: Vec<(QueryId, Result<Vip, DnsError>)>,
}

impl Client {
    /// A terminal of `site` at 127.0.0.`address`, that wants to be registered.
    pub(crate) fn terminal(space: &Space, site: &Site, name: &str, address: u8) -> Self {
        Self::terminal_but(space, site, name, address, |_| {})
    }

    /// The same, configured otherwise.
    pub(crate) fn terminal_but(
        space: &Space,
        site: &Site,
        name: &str,
        address: u8,
        change: impl FnOnce(&mut TerminalConfig),
    ) -> Self {
        let mut config = TerminalConfig {
            fqdn: fqdn(name),
            port: NTM_PORT,
            coordinator: site.fqdn(),
            coordinator_addresses: [site.socket()].into_iter().collect(),
            key: SharedKey::new(key(name)),
            patience: QUERY,
            lifetime: Duration::from_secs(300),
            handover: Handover::Thesis,
            seed: [address; 32],
            first_sequence: 1,
        };
        change(&mut config);
        let mut terminal = Terminal::new(config);
        terminal.handle_addresses(&[loopback(address)], clock::now());
        Self::new(space, Machine::Terminal(Box::new(terminal)), address)
    }

    /// A relay of `site`.
    pub(crate) fn relay(space: &Space, site: &Site, name: &str, address: u8) -> Self {
        let config = RelayConfig {
            fqdn: fqdn(name),
            addresses: [SocketAddr::new(loopback(address), NTM_PORT)].into_iter().collect(),
            coordinators: vec![(
                site.fqdn(),
                [site.socket()].into_iter().collect(),
                SharedKey::new(key(name)),
            )],
            lifetime: Duration::from_secs(300),
            capacity: 16,
            seed: [address; 32],
            first_sequence: 1,
        };
        let relay = Relay::new(config, clock::now());
        Self::new(space, Machine::Relay(Box::new(relay)), address)
    }

    fn new(space: &Space, machine: Machine, address: u8) -> Self {
        let socket = space.udp(loopback(address), NTM_PORT);
        socket.set_nonblocking(true).expect("a socket that does not block");
        Self { machine, socket, noted: Vec::new(), answers: Vec::new() }
    }

    /// Whether its DC has registered it.
    pub(crate) fn is_registered(&self) -> bool {
        match &self.machine {
            Machine::Terminal(terminal) => terminal.is_registered(),
            Machine::Relay(relay) => relay.is_registered(),
        }
    }

    /// Its VIP.
    pub(crate) fn vip(&self) -> Option<Vip> {
        match &self.machine {
            Machine::Terminal(terminal) => terminal.vip(),
            Machine::Relay(_) => None,
        }
    }

    /// How many registrations it noted so far.
    pub(crate) fn registrations(&self) -> usize {
        self.noted.iter().filter(|what| matches!(what, What::Registered { .. })).count()
    }

    /// An application on it asks for `name`.
    pub(crate) fn query(&mut self, id: u64, name: &str) {
        match &mut self.machine {
            Machine::Terminal(terminal) => terminal.handle_query(QueryId(id), fqdn(name), clock::now()),
            Machine::Relay(_) => panic!("a relay has no applications"),
        }
    }

    /// The answer to query `id`, once there is one.
    pub(crate) fn answer(&self, id: u64) -> Option<Result<Vip, DnsError>> {
        self.answers.iter().find(|(known, _)| *known == QueryId(id)).map(|(_, answer)| *answer)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match &self.machine {
            Machine::Terminal(terminal) => terminal.poll_timeout(),
            Machine::Relay(relay) => relay.poll_timeout(),
        }
    }

    /// Takes what came, does what is due, sends what is to be sent.
    fn step(&mut self) {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            match &mut self.machine {
                Machine::Terminal(terminal) => {
                    terminal.handle_datagram(from, &buffer[..length], clock::now())
                }
                Machine::Relay(relay) => relay.handle_datagram(from, &buffer[..length], clock::now()),
            }
        }
        let now = clock::now();
        let is_due = self.poll_timeout().is_some_and(|at| at <= now);
        match &mut self.machine {
            Machine::Terminal(terminal) => {
                if is_due {
                    terminal.handle_timeout(now);
                }
                while let Some(event) = terminal.poll_event() {
                    if let terminal::Event::Answer { query, answer } = event {
                        self.answers.push((query, answer));
                    }
                }
                self.noted.extend(std::iter::from_fn(|| terminal.poll_observation()).map(|(_, what)| what));
            }
            Machine::Relay(relay) => {
                if is_due {
                    relay.handle_timeout(now);
                }
                while let Some(event) = relay.poll_event() {
                    if let relay::Event::Translate { general, .. } = event {
                        relay.handle_translated(general, true, now);
                    }
                }
                self.noted.extend(std::iter::from_fn(|| relay.poll_observation()).map(|(_, what)| what));
            }
        }
        while let Some(Transmit { to, bytes }) = self.poll_transmit() {
            self.socket.send_to(&bytes, to).expect("sent");
        }
    }

    fn poll_transmit(&mut self) -> Option<Transmit> {
        match &mut self.machine {
            Machine::Terminal(terminal) => terminal.poll_transmit(),
            Machine::Relay(relay) => relay.poll_transmit(),
        }
    }
}

/// Runs `clients` until `done`.
#[track_caller]
pub(crate) fn run<const N: usize>(mut clients: [&mut Client; N], done: impl Fn(&[&mut Client; N]) -> bool) {
    let end = clock::now() + PATIENCE;
    loop {
        clients.iter_mut().for_each(|client| client.step());
        if done(&clients) {
            return;
        }
        let now = clock::now();
        let noted: Vec<_> = clients.iter().map(|client| &client.noted).collect();
        assert!(now < end, "it never came to that: {noted:#?}");
        let wake = clients.iter().filter_map(|client| client.poll_timeout()).fold(end, Instant::min);
        // Rounded up: a machine is woken at its time, not before.
        let wait = u16::try_from(wake.since(now).as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        let mut sockets =
            clients.each_ref().map(|client| PollFd::new(client.socket.as_fd(), PollFlags::POLLIN));
        match poll(&mut sockets, PollTimeout::from(wait)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// Runs `clients` until all are registered.
#[track_caller]
pub(crate) fn register<const N: usize>(clients: [&mut Client; N]) {
    run(clients, |clients| clients.iter().all(|client| client.is_registered()));
}
