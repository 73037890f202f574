//! A node without a machine: its test writes each message by hand, keeps the datagrams, and sends what it likes.

use std::net::{SocketAddr, UdpSocket};

use ntm_protocol::addr::{Fqdn, NTM_PORT, NodeId};
use ntm_protocol::crypto::{Entropy, SharedKey};
use ntm_protocol::session::Session;
use ntm_protocol::wire::{
    Header, KeepAlive, List, Message, NodeKind, RegistrationRequest, RegistrationResponse, RequestId,
};

use crate::process::{Site, fqdn, key, loopback, steadily};
use crate::space::Space;

/// The node.
pub(crate) struct Hand {
    pub(crate) fqdn: Fqdn,
    pub(crate) address: SocketAddr,
    pub(crate) socket: UdpSocket,
    session: Session,
    entropy: Entropy,
    dc: SocketAddr,
}

impl Hand {
    /// The terminal `name` of `site`, at 127.0.0.`address`. Its first message has the number `first`.
    pub(crate) fn new(space: &Space, site: &Site, name: &str, address: u8, first: u64) -> Self {
        Self::with_key(space, site, name, key(name), address, first)
    }

    /// The same under a key of the test's choice.
    pub(crate) fn with_key(
        space: &Space,
        site: &Site,
        name: &str,
        key: [u8; 32],
        address: u8,
        first: u64,
    ) -> Self {
        let (local, peer) = (NodeId::of(&fqdn(name)), NodeId::of(&site.fqdn()));
        Self {
            fqdn: fqdn(name),
            address: SocketAddr::new(loopback(address), NTM_PORT),
            socket: space.udp(loopback(address), NTM_PORT),
            session: Session::new(&SharedKey::new(key), local, peer, first),
            entropy: Entropy::new([address; 32]),
            dc: site.socket(),
        }
    }

    /// The datagram of `message`, not sent.
    pub(crate) fn seal(&mut self, message: impl Into<Message>) -> Vec<u8> {
        self.session.seal(&message.into(), &mut self.entropy).0
    }

    /// Sends `datagram` to the DC.
    pub(crate) fn send(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.dc).expect("sent");
    }

    /// The DC's next message.
    pub(crate) fn receive(&self) -> Message {
        let mut buffer = [0; 2048];
        let length = steadily(|| self.socket.recv(&mut buffer)).expect("the DC says something");
        let header = Header::parse(&buffer[..length]).expect("a header");
        self.session.open(&header, &buffer[..length]).expect("a message")
    }

    /// A right Registration Request.
    pub(crate) fn registration(&self, request: u64) -> RegistrationRequest {
        RegistrationRequest {
            request: RequestId(request),
            fqdn: self.fqdn.clone(),
            kind: NodeKind::Terminal,
            life: 1,
            addresses: [self.address].into_iter().collect(),
            rtts: List::default(),
            vips: None,
        }
    }

    /// Registers: the request's datagram, and the answer.
    pub(crate) fn register(&mut self, request: u64) -> (Vec<u8>, RegistrationResponse) {
        let datagram = self.seal(self.registration(request));
        self.send(&datagram);
        match self.receive() {
            Message::RegistrationResponse(response) => (datagram, response),
            other => panic!("{other:?} is no Registration Response"),
        }
    }

    /// Sends a Registration Request; whether it is answered within `patience`.
    pub(crate) fn tries_to_register(&mut self, request: u64, patience: std::time::Duration) -> bool {
        let datagram = self.seal(self.registration(request));
        self.send(&datagram);
        self.socket.set_read_timeout(Some(patience)).expect("a timeout");
        let answered = steadily(|| self.socket.recv(&mut [0; 2048])).is_ok();
        self.socket.set_read_timeout(Some(crate::process::PATIENCE)).expect("a timeout");
        answered
    }

    /// Sends a Keep-alive and waits for its answer: the datagram.
    pub(crate) fn keep_alive(&mut self, request: u64) -> Vec<u8> {
        let datagram =
            self.seal(KeepAlive { request: RequestId(request), load: None, rtts: List::default() });
        self.send(&datagram);
        match self.receive() {
            Message::KeepAliveAnswer(answer) => {
                assert_eq!((answer.request, answer.seen), (RequestId(request), self.address));
            }
            other => panic!("{other:?} is no Keep-alive Answer"),
        }
        datagram
    }
}
