//! The DC's UDP sockets: one for each of its addresses, and so one for each family that it has (T3.1-d).

use std::io;
use std::net::SocketAddr;

use futures::future::select_all;
use ntm_daemon::queue;
use ntm_protocol::family::Family;
use tokio::net::UdpSocket;

/// The sockets, each with the family that it is of; at least one.
pub(crate) struct Sockets(Vec<(Family, UdpSocket)>);

impl Sockets {
    /// Binds every one of `addresses`; an error says which cannot be bound.
    pub(crate) async fn bind(addresses: &[SocketAddr]) -> Result<Self, (SocketAddr, io::Error)> {
        let mut sockets = Vec::new();
        for &address in addresses {
            let socket = UdpSocket::bind(address).await.map_err(|error| (address, error))?;
            queue::widen(&socket).map_err(|error| (address, error))?;
            // Until the runtime has heard of its readiness it would take nothing without blocking.
            socket.writable().await.map_err(|error| (address, error))?;
            sockets.push((Family::of(address.ip()), socket));
        }
        Ok(Self(sockets))
    }

    /// Sends without blocking, from the address of the destination's family.
    pub(crate) fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        let family = Family::of(to.ip());
        let of_its_family = self.0.iter().find(|(own, _)| *own == family);
        let (_, socket) = of_its_family.ok_or(io::ErrorKind::NetworkUnreachable)?;
        socket.try_send_to(bytes, to).map(drop)
    }

    /// Waits until there is something to receive, and says at which socket. May be dropped and called again.
    pub(crate) async fn readable(&self) -> io::Result<&UdpSocket> {
        if let [(_, only)] = &self.0[..] {
            return only.readable().await.map(|()| only);
        }
        let (ready, at, _) = select_all(self.0.iter().map(|(_, socket)| Box::pin(socket.readable()))).await;
        ready.map(|()| &self.0[at].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_family_has_its_socket() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let sockets = Sockets::bind(&[at("127.0.0.1:0"), at("[::1]:0")]).await.unwrap();
        for (n, address) in ["127.0.0.1:0", "[::1]:0"].into_iter().enumerate() {
            let peer = UdpSocket::bind(at(address)).await.unwrap();
            let own = sockets.0[n].1.local_addr().unwrap();
            sockets.send(b"x", peer.local_addr().unwrap()).unwrap();
            let mut buffer = [0; 2];
            assert_eq!(peer.recv_from(&mut buffer).await.unwrap(), (1, own));
            peer.send_to(b"y", own).await.unwrap();
            let received = loop {
                // Readiness may be told too early.
                match sockets.readable().await.unwrap().try_recv_from(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    other => break other.unwrap(),
                }
            };
            assert_eq!(received, (1, peer.local_addr().unwrap()));
        }
        let alone = Sockets::bind(&[at("127.0.0.1:0")]).await.unwrap();
        assert_eq!(alone.send(b"x", at("[::1]:1")).unwrap_err().kind(), io::ErrorKind::NetworkUnreachable);
    }
}
