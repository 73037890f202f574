//! Room for what comes to a server faster than it takes it.

use std::io;
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};

/// Bytes that may wait in a socket: a thousand terminals may come at once (a train that changes its cell), and what finds no room is repeated
/// only a second later. A small datagram takes about a kilobyte.
const ROOM: usize = 8 << 20;

/// Gives `socket` that room to receive: beyond the system's limit with the privilege, else up to it.
pub fn widen(socket: &impl AsFd) -> io::Result<()> {
    setsockopt(socket, sockopt::RcvBufForce, &ROOM)
        .or_else(|_| setsockopt(socket, sockopt::RcvBuf, &ROOM))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::getsockopt;

    #[test]
    fn a_socket_gets_more_room() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let room = |socket| getsockopt(socket, sockopt::RcvBuf).unwrap();
        setsockopt(&socket, sockopt::RcvBuf, &4096).unwrap();
        let before = room(&socket);
        widen(&socket).unwrap();
        assert!(room(&socket) > 10 * before);
    }
}
