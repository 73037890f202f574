//! Those whom a relay speaks to: a DC, and a terminal whose virtual interface is real.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use ntm_protocol::addr::{Fqdn, NodeId, PathId, Vip};
use ntm_protocol::crypto::{DataKeys, Purpose, SharedKey, Suite};
use ntm_protocol::data::{DataUpdate, Flow, Inbound, Outbound};
use ntm_protocol::session::{Mail, Session, TunnelSession};
use ntm_protocol::wire::{
    Epoch, Header, List, Message, RegistrationResponse, RelayAnswer, RelayDirection, RelayOrder, RequestId,
    Role, TunnelRequest, TunnelResponse,
};
use ntm_tunnel::{Event, Plane, PlaneOptions, Tun, TunConfig, Udp, UdpConfig};
use tokio::runtime::Runtime;

use crate::world::{DC, Namespace, PATIENCE, RELAY, steadily};

/// The DC's name.
pub(crate) const DC_NAME: &str = "dc.ntm.test";
/// The relay's.
pub(crate) const RELAY_NAME: &str = "rs1.ntm.test";
/// What the two share.
pub(crate) const KEY: [u8; 32] = [0x5a; 32];
/// VIP_MN.
pub(crate) const VIP_MN: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// VIP_GN of two general nodes.
pub(crate) const VIP_GN: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 18, 128, 1), Ipv4Addr::new(198, 18, 128, 2)];
/// Where a relay listens.
pub(crate) const RELAY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(RELAY), 4330);

/// Never repeated by itself within a test.
const KEEP_ALIVE: Duration = Duration::from_secs(3600);

fn name(text: &str) -> Fqdn {
    text.parse().expect("a name")
}

/// A path that a test directs.
#[derive(Clone, Copy)]
pub(crate) struct Path {
    pub(crate) id: PathId,
    pub(crate) epoch: u8,
}

impl Path {
    /// One of many, by its number.
    pub(crate) fn new(number: u8) -> Self {
        Self { id: PathId([number; 16]), epoch: 0 }
    }

    /// The key that the DC gives `end` and the relay: this byte again and again.
    pub(crate) fn temp_byte(self, end: Role) -> u8 {
        self.id.0[0] ^ (end.index() as u8 + 1) << 6
    }

    /// The key that `end` gives the relay in this epoch, likewise.
    pub(crate) fn common_byte(self, end: Role) -> u8 {
        self.id.0[0] ^ (end.index() as u8 + 1) << 5 ^ 0x0f ^ self.epoch << 2
    }

    /// The key that the DC gives `end` and the relay.
    pub(crate) fn temp_key(self, end: Role) -> SharedKey {
        SharedKey::new([self.temp_byte(end); 32])
    }

    fn common_key(self, end: Role) -> SharedKey {
        SharedKey::new([self.common_byte(end); 32])
    }

    /// What a DC orders for it: packets of VIP_MN to `general` go to `real`.
    pub(crate) fn translate(self, general: Ipv4Addr, real: impl Into<IpAddr>) -> RelayOrder {
        RelayOrder::Translate {
            temp_key: self.temp_key(Role::Initiator),
            terminal: Vip(VIP_MN),
            general: Vip(general),
            real: real.into(),
            suite: Suite::Aes128Cbc,
        }
    }
}

/// A DC that gives one relay what a test wants.
pub(crate) struct Dc {
    socket: UdpSocket,
    session: Session,
    mail: Mail,
    request: u64,
    /// The last datagram that it sent.
    pub(crate) sent: Vec<u8>,
}

impl Dc {
    pub(crate) fn new(others: &Namespace) -> Self {
        let [local, peer] = [DC_NAME, RELAY_NAME].map(|text| NodeId::of(&name(text)));
        let socket = others.udp((DC, 4330));
        let session = Session::new(&SharedKey::new(KEY), local, peer, 1);
        Self { socket, session, mail: Mail::new([1; 32], 1), request: 0, sent: Vec::new() }
    }

    fn receive(&mut self) -> (Message, SocketAddr) {
        let mut buffer = [0; 2048];
        let (length, from) =
            steadily(|| self.socket.recv_from(&mut buffer)).expect("the relay says something to its DC");
        let datagram = &buffer[..length];
        let header = Header::parse(datagram).expect("a header");
        (self.session.open(&header, datagram).expect("a message"), from)
    }

    fn send(&mut self, message: impl Into<Message>) {
        self.sent = self.session.seal(&message.into(), &mut self.mail.rng).0;
        self.socket.send_to(&self.sent, RELAY_PORT).expect("sent");
    }

    /// Takes the relay's registration.
    pub(crate) fn register(&mut self) {
        let (Message::RegistrationRequest(request), seen) = self.receive() else { panic!("no registration") };
        assert_eq!(
            (&request.fqdn, seen, request.addresses.first()),
            (&name(RELAY_NAME), RELAY_PORT, Some(&RELAY_PORT))
        );
        let relays = List::default();
        self.send(RegistrationResponse {
            request: request.request,
            vip: None,
            seen,
            keep_alive: KEEP_ALIVE,
            relays,
            vips: None,
        });
    }

    /// Directs `path`, and waits for the answer.
    pub(crate) fn direct(&mut self, path: Path, order: RelayOrder) -> RelayAnswer {
        self.request += 1;
        let request = RequestId(self.request);
        self.send(RelayDirection { request, path: path.id, epoch: Epoch::new(path.epoch), order });
        loop {
            match self.receive().0 {
                Message::RelayResponse(response) if response.request == request => return response.answer,
                // A request that was repeated before its answer came.
                Message::RegistrationRequest(_) => {}
                other => panic!("{other:?} is no Relay Response"),
            }
        }
    }

    /// Sends bytes from the DC's port.
    pub(crate) fn send_bytes(&self, bytes: &[u8]) {
        self.socket.send_to(bytes, RELAY_PORT).expect("sent");
    }
}

/// The datagram of a Tunnel Request of `end`, with the key that it chose.
pub(crate) fn tunnel_request(path: Path, end: Role) -> (TunnelSession, Vec<u8>) {
    let mut session =
        TunnelSession::new(&path.temp_key(end), Purpose::Tunnel, path.id, path.epoch, true, end);
    let common_key = Some(path.common_key(end));
    let request = TunnelRequest { request: RequestId(7), moved: false, common_key };
    let mut mail = Mail::new([2; 32], 1);
    let datagram = session.seal(&request.into(), &mut mail.rng).0;
    (session, datagram)
}

/// The Tunnel Response in `datagram`.
pub(crate) fn tunnel_response(session: &mut TunnelSession, datagram: &[u8]) -> TunnelResponse {
    let header = Header::parse(datagram).expect("a header");
    match session.open(&header, datagram).expect("a message") {
        Message::TunnelResponse(response) => response,
        other => panic!("{other:?} is no Tunnel Response"),
    }
}

/// A terminal: VIP_MN on a TUN in its namespace. Any program there speaks to VIP_GN.
pub(crate) struct Terminal {
    runtime: Runtime,
    plane: Plane<DataUpdate>,
    udp: Udp,
}

impl Terminal {
    pub(crate) fn new(namespace: &Namespace) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let (plane, udp) = namespace.run(|| {
            runtime.block_on(async {
                let tun = Tun::open(&TunConfig::terminal("ntm0")).await.expect("a TUN");
                tun.add_address(VIP_MN).await.expect("an address");
                tun.add_route("198.18.0.0/15".parse().expect("a range")).await.expect("a route");
                let udp = Udp::bind(&UdpConfig::port(4330)).expect("a socket");
                let (out, inb) = (Outbound::default(), Inbound::default());
                let plane = Plane::start(Some(tun), udp.clone(), out, inb, PlaneOptions::default());
                (plane.expect("a data plane"), udp)
            })
        });
        Self { runtime, plane, udp }
    }

    /// Builds the tunnel of `path` to the relay (T4.2.2-seq's end), for packets to `general`.
    pub(crate) fn connect(&mut self, path: Path, general: Ipv4Addr) {
        let (mut session, request) = tunnel_request(path, Role::Initiator);
        self.udp.send_to(&request, RELAY_PORT).expect("sent");
        let plane = &mut self.plane;
        let datagram = self.runtime.block_on(async {
            let answer = async {
                loop {
                    if let Event::Control { datagram, .. } = plane.next().await {
                        return datagram;
                    }
                }
            };
            tokio::time::timeout(PATIENCE, answer).await.expect("a Tunnel Response")
        });
        assert!(tunnel_response(&mut session, &datagram).peer_ready);
        let flow = Flow { source: VIP_MN, destination: general };
        let key = path.common_key(Role::Initiator);
        let keys = |from| Arc::new(DataKeys::new(&key, path.id, path.epoch, Suite::Aes128Cbc, from));
        self.plane.update(DataUpdate::Receive { flow: flow.reversed(), keys: keys(Role::Responder) });
        self.plane.update(DataUpdate::Send {
            flow,
            remote: RELAY_PORT,
            keys: keys(Role::Initiator),
            first: 1,
        });
    }
}
