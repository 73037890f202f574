//! A router's real packets, and sockets of the hosts.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use ntm_nat::Protocol;
use socket2::{Domain, Socket, Type};

use crate::world::{Host, PATIENCE, Router, World};
use crate::{End, Nat};

pub(crate) struct Kernel<'a> {
    world: &'a World,
    router: &'a Router,
    protocol: Protocol,
    /// UDP sockets, and for TCP those that listen.
    udp: BTreeMap<SocketAddr, (End, UdpSocket)>,
    tcp: BTreeMap<SocketAddr, (End, TcpListener)>,
    /// Both ends of connections that are to live on.
    open: Vec<TcpStream>,
    /// How many packets the router had refused when it was asked last, and how many of them because two hosts were given one port.
    refused: (u64, u64),
}

/// Between two looks whether something has come or been refused.
const GLANCE: Duration = Duration::from_millis(1);

impl<'a> Kernel<'a> {
    pub(crate) fn new(world: &'a World, router: &'a Router, protocol: Protocol) -> Self {
        Self {
            world,
            router,
            protocol,
            udp: BTreeMap::new(),
            tcp: BTreeMap::new(),
            open: Vec::new(),
            refused: (0, 0),
        }
    }

    /// There is a socket at `end`.
    fn ready(&mut self, end: End) {
        let at = end.0.at(end.1);
        match self.protocol {
            Protocol::Tcp if !self.tcp.contains_key(&at) => {
                let socket = tcp_socket(self.world, end);
                socket.listen(8).expect("listening");
                socket.set_nonblocking(true).expect("an option");
                self.tcp.insert(at, (end, socket.into()));
            }
            Protocol::Udp if !self.udp.contains_key(&at) => {
                let socket = self.world.udp(end.0, end.1);
                socket.set_nonblocking(true).expect("an option");
                self.udp.insert(at, (end, socket));
            }
            _ => {}
        }
    }

    /// Sends a first packet, and says where it arrives and from where, or `None` once the router has counted it as refused.
    fn send(&mut self, from: End, to: SocketAddr) -> Option<(End, SocketAddr)> {
        self.ready(from);
        // Held until it is known what becomes of it; a connection that is not made is given up then, and not tried again.
        let connecting = match self.protocol {
            Protocol::Tcp => {
                let socket = tcp_socket(self.world, from);
                socket.set_nonblocking(true).expect("an option");
                // It goes on in the background.
                let begun = socket.connect(&to.into());
                let goes_on = |error: &io::Error| error.raw_os_error() == Some(Errno::EINPROGRESS as i32);
                assert!(
                    begun.as_ref().err().is_none_or(goes_on),
                    "{from:?} cannot connect to {to}: {begun:?}"
                );
                Some(socket)
            }
            _ => {
                self.udp[&from.0.at(from.1)].1.send_to(b"packet", to).expect("sent");
                None
            }
        };
        let end = Instant::now() + PATIENCE;
        let mut glances = 0_u32;
        loop {
            // A refusal is looked for first: what has arrived by then is there. But most packets arrive at once.
            let former = self.refused;
            if glances % 8 == 7 {
                self.refused = self.router.refused();
            }
            glances += 1;
            if let Some(arrived) = self.arrived() {
                if let Some(socket) = connecting {
                    socket.set_nonblocking(false).expect("an option");
                    self.open.push(socket.into());
                }
                return Some(arrived);
            }
            if self.refused.1 > former.1 {
                // Chance gave a port that another has: the next packet tries again, as a host's would.
                drop(connecting);
                return self.send(from, to);
            }
            if self.refused.0 > former.0 {
                return None;
            }
            assert!(
                Instant::now() < end,
                "a packet has neither come nor been refused: {}, {:?}",
                self.router.status(),
                connecting.map(|socket| socket.take_error())
            );
            thread::sleep(GLANCE);
        }
    }

    /// What has come to any socket.
    fn arrived(&mut self) -> Option<(End, SocketAddr)> {
        let mut bytes = [0; 16];
        for (end, socket) in self.udp.values() {
            if let Ok((_, from)) = socket.recv_from(&mut bytes) {
                return Some((*end, from));
            }
        }
        for (end, listener) in self.tcp.values() {
            if let Ok((stream, from)) = listener.accept() {
                Socket::from(stream.try_clone().expect("a socket"))
                    .set_linger(Some(Duration::ZERO))
                    .expect("an option");
                self.open.push(stream);
                return Some((*end, from));
            }
        }
        None
    }
}

/// A socket that ends without lingering, and shares its port with others of its host.
fn tcp_socket(world: &World, (host, port): End) -> Socket {
    world.within(host, move || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(socket2::Protocol::TCP)).expect("a socket");
        socket.set_reuse_address(true).expect("an option");
        socket.set_reuse_port(true).expect("an option");
        socket.set_linger(Some(Duration::ZERO)).expect("an option");
        socket.bind(&host.at(port).into()).expect("a port");
        socket
    })
}

impl Nat for Kernel<'_> {
    fn out(&mut self, from: End, to: End) -> SocketAddr {
        self.ready(to);
        let (got, seen) = self.send(from, to.0.at(to.1)).expect("it passes");
        assert_eq!(got, to);
        seen
    }

    fn into(&mut self, from: End, outer: SocketAddr) -> Option<End> {
        for host in [Host::A, Host::B] {
            // So that whoever it is led to is there.
            self.ready((host, outer.port()));
        }
        let (got, seen) = self.send(from, outer)?;
        assert_eq!(seen, from.0.at(from.1), "the source of what comes in is not touched");
        Some(got)
    }

    fn turn(&mut self, from: End, outer: SocketAddr) -> Option<(End, SocketAddr)> {
        self.send(from, outer)
    }

    fn wait(&mut self, time: Duration) {
        thread::sleep(time);
    }
}
