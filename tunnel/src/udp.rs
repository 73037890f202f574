//! The node's one UDP socket, for control and data: the NAT mapping that the DC sees is the one that peers use.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use crate::mmsg;

/// How the socket is opened.
#[derive(Clone, Debug)]
pub struct UdpConfig {
    /// The address and port bound: `0.0.0.0:4330`.
    pub bind: SocketAddr,
    /// Whether datagrams are sent and received in trains (`UDP_SEGMENT`, `UDP_GRO`) where the kernel can.
    pub offload: bool,
}

impl UdpConfig {
    /// All addresses of the machine at `port`, in trains.
    pub fn port(port: u16) -> Self {
        Self { bind: SocketAddr::from(([0, 0, 0, 0], port)), offload: true }
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
        io::ErrorKind::AddrNotAvailable => " (no interface has this address: bind 0.0.0.0)",
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
    gso: bool,
}

impl Udp {
    /// Opens and binds the socket.
    pub fn bind(config: &UdpConfig) -> Result<Self, UdpError> {
        let socket = Socket::new(Domain::for_address(config.bind), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        mmsg::enlarge_buffers(&socket, BUFFER);
        mmsg::allow_fragments(&socket);
        socket.bind(&config.bind.into()).map_err(|source| UdpError::Bind { address: config.bind, source })?;
        let (gro, gso) = if config.offload { mmsg::enable_offload(&socket) } else { (false, false) };
        tracing::debug!("UDP {}: UDP_GRO {gro}, UDP_SEGMENT {gso}", config.bind);
        Ok(Self(Arc::new(Inner { socket: socket.into(), gso })))
    }

    /// The address bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.socket.local_addr()
    }

    /// Sends one datagram: a control message. It never blocks. An error is the network's (no route, a full buffer), and a role machine
    /// repeats what got lost: count it and go on.
    pub fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        let sent = self.0.socket.send_to(datagram, to);
        match sent {
            // An answer to an earlier datagram, told here and only once: this one was not sent yet.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.0.socket.send_to(datagram, to).map(drop)
            }
            other => other.map(drop),
        }
    }

    /// Whether the kernel can take trains.
    pub(crate) fn has_gso(&self) -> bool {
        self.0.gso
    }
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
