//! The node's one UDP socket, for control and data: the NAT mapping that the DC sees is the one that peers use.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use thiserror::Error;

use crate::mmsg;

/// How the socket is opened.
#[derive(Clone, Debug)]
pub struct UdpConfig {
    /// The address and port bound. `[::]:4330` is every address of both families (T3.1-d), or of IPv4 alone where the kernel has no IPv6.
    pub bind: SocketAddr,
    /// Whether datagrams are sent and received in trains (`UDP_SEGMENT`, `UDP_GRO`) where the kernel can.
    pub offload: bool,
}

impl UdpConfig {
    /// All addresses of the machine at `port`, of both families, in trains.
    pub fn port(port: u16) -> Self {
        Self { bind: SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), offload: true }
    }
}

/// Why the socket cannot be opened.
#[derive(Debug, Error)]
pub enum UdpError {
    /// The address cannot be bound.
    #[error("UDP {address} cannot be bound: {source}{}", advice(source))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Any other step failed.
    #[error("the UDP socket cannot be opened: {0}")]
    Socket(#[from] io::Error),
}

fn advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => " (another process has this port: end it, or configure another port)",
        io::ErrorKind::AddrNotAvailable => " (no interface has this address: bind [::])",
        _ => "",
    }
}

/// Room that the kernel is asked to keep for datagrams each way, in bytes: at 5 Gbit/s, 13 ms.
const BUFFER: usize = 8 << 20;

/// The socket; clones are handles of the same socket.
#[derive(Clone, Debug)]
pub struct Udp(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: UdpSocket,
    gro: bool,
    gso: bool,
    /// Whether IPv4 addresses are written as IPv6 ones to it (RFC 4291, section 2.5.5.2): it speaks both families.
    mapped: bool,
}

impl Udp {
    /// Opens and binds the socket.
    pub fn bind(config: &UdpConfig) -> Result<Self, UdpError> {
        let (socket, bind) = open(config.bind)?;
        if bind.is_ipv6() && bind.ip().is_unspecified() {
            socket.set_only_v6(false)?;
        }
        mmsg::enlarge_buffers(&socket, BUFFER);
        mmsg::allow_fragments(&socket);
        socket.bind(&bind.into()).map_err(|source| UdpError::Bind { address: bind, source })?;
        let (gro, gso) = if config.offload { mmsg::enable_offload(&socket) } else { (false, false) };
        tracing::debug!("UDP {bind}: UDP_GRO {gro}, UDP_SEGMENT {gso}");
        Ok(Self(Arc::new(Inner { socket: socket.into(), gro, gso, mapped: bind.is_ipv6() })))
    }

    /// The address bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.socket.local_addr()
    }

    /// Sends one datagram: a control message. It never blocks. An error is the network's (no route, a full buffer), and a role machine
    /// repeats what got lost: count it and go on.
    pub fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        let to = self.written(to);
        let (socket, to) = (SockRef::from(&self.0.socket), to.into());
        let send = || socket.send_to_with_flags(datagram, &to, libc::MSG_DONTWAIT);
        match send() {
            // An answer to an earlier datagram, told here and only once: this one was not sent yet.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => send().map(drop),
            other => other.map(drop),
        }
    }

    /// Whether datagrams are received in trains from now on, where the kernel can and the configuration does not forbid it. A train that came before is
    /// received as one.
    pub fn receive_trains(&self, on: bool) -> io::Result<()> {
        if self.0.gro { mmsg::set_gro(&self.0.socket, on) } else { Ok(()) }
    }

    /// Ends the wait of a thread that receives, and every wait to come. What waits in the socket is still received, and sending goes on.
    pub(crate) fn end_receiving(&self) {
        // Of a socket without a peer it is an error; waiting threads are woken before it is told.
        let _ = SockRef::from(&self.0.socket).shutdown(Shutdown::Read);
    }

    /// The form in which the socket takes the address `to`.
    pub(crate) fn written(&self, to: SocketAddr) -> SocketAddr {
        match to {
            SocketAddr::V4(to) if self.0.mapped => SocketAddr::from((to.ip().to_ipv6_mapped(), to.port())),
            other => other,
        }
    }

    /// Whether the kernel can take trains.
    pub(crate) fn has_gso(&self) -> bool {
        self.0.gso
    }
}

/// A socket for `bind`, and what it is bound to: every address of IPv4, if every address is meant and the kernel has no IPv6.
fn open(bind: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    let socket =
        |bind| Socket::new(Domain::for_address(bind), Type::DGRAM, Some(Protocol::UDP)).map(|it| (it, bind));
    socket(bind).or_else(|error| {
        if bind.ip() != Ipv6Addr::UNSPECIFIED || error.raw_os_error() != Some(libc::EAFNOSUPPORT) {
            return Err(error);
        }
        socket(SocketAddr::from((Ipv4Addr::UNSPECIFIED, bind.port())))
    })
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_what_to_do() {
        let loopback = |port| UdpConfig { bind: SocketAddr::from(([127, 0, 0, 1], port)), offload: true };
        let udp = Udp::bind(&loopback(0)).expect("a socket");
        let address = udp.local_addr().expect("an address");
        let error = Udp::bind(&loopback(address.port())).unwrap_err();
        assert!(matches!(&error, UdpError::Bind { address: bound, .. } if *bound == address));
        assert!(error.to_string().ends_with("end it, or configure another port)"), "{error}");
    }

    /// T3.1-d: one socket speaks both families, and an IPv4 address stays one.
    #[test]
    fn both_families_are_spoken() {
        let udp = Udp::bind(&UdpConfig::port(0)).expect("a socket");
        let port = udp.local_addr().expect("an address").port();
        let mut receiver = mmsg::Receiver::new();
        for loopback in ["127.0.0.1", "::1"] {
            let at = |port| SocketAddr::new(loopback.parse().expect("an address"), port);
            let peer = UdpSocket::bind(at(0)).expect("a peer");
            let address = peer.local_addr().expect("an address");
            udp.send_to(b"hello", address).expect("sent");
            let mut buffer = [0; 9];
            assert_eq!(peer.recv_from(&mut buffer).expect("received"), (5, at(port)));
            peer.send_to(b"back", at(port)).expect("sent");
            receiver.receive(&udp, true).expect("received");
            let mut heard = Vec::new();
            for place in receiver.datagrams().collect::<Vec<_>>() {
                let from = receiver.sender(&place);
                heard.push((receiver.arena_mut()[place].to_vec(), from));
            }
            assert_eq!(heard, [(b"back".to_vec(), address)]);
        }
    }

    #[test]
    fn control_datagrams_are_sent() {
        let config = UdpConfig { bind: SocketAddr::from(([127, 0, 0, 1], 0)), offload: false };
        let udp = Udp::bind(&config).expect("a socket");
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a peer");
        udp.clone().send_to(b"hello", peer.local_addr().expect("an address")).expect("sent");
        let mut buffer = [0; 9];
        let (len, from) = peer.recv_from(&mut buffer).expect("received");
        assert_eq!((&buffer[..len], from), (&b"hello"[..], udp.local_addr().expect("an address")));
    }
}
