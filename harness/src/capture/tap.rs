//! The packets of all interfaces of a node, as they come: what a live capture shows.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::packet::{self, Packet};
use super::point::Framing;
use super::socket::{Batch, PacketSocket};

/// So much of each packet is read. One that segmentation offload has not cut up yet can be longer.
pub const SNAP: usize = 9216;

/// A packet as an interface had it.
pub struct Frame<'a> {
    /// The interface's name.
    pub interface: &'a str,
    /// What it begins with.
    pub framing: Framing,
    /// Nanoseconds since 1970.
    pub wall: u64,
    /// Whether the node sent it.
    pub outgoing: bool,
    /// Its length on the wire.
    pub length: usize,
    /// Its first bytes, from the link's header on.
    pub bytes: &'a [u8],
}

impl Frame<'_> {
    /// What measurements need of it; none of what is not IP. `offset` is what the wall clock is ahead of the run's.
    pub fn packet(&self, offset: u64) -> Option<Packet> {
        packet::parse(self.wall.wrapping_sub(offset), self.outgoing, self.framing.ip(self.bytes)?)
    }
}

/// All interfaces of a namespace, those that come later included.
pub struct Tap {
    socket: PacketSocket,
    batch: Batch<SNAP>,
    names: HashMap<u32, String>,
}

impl Tap {
    /// Taps the namespace that the thread is in, and stays in.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: PacketSocket::open(0)?, batch: Batch::new(), names: HashMap::new() })
    }

    /// Waits for packets, at most for `time`.
    pub fn wait(&self, time: Duration) -> io::Result<()> {
        let mut ready = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Hands every packet that waits, up to one batch, to `take`; returns how many there were.
    pub fn take(&mut self, mut take: impl FnMut(Frame<'_>) -> io::Result<()>) -> io::Result<usize> {
        let names = &mut self.names;
        let mut result = Ok(());
        let count = self.socket.receive(&mut self.batch, |raw| {
            let interface: &str = names.entry(raw.interface).or_insert_with(|| name(raw.interface));
            let framing = if raw.has_link { Framing::Ethernet } else { Framing::Ip };
            let (wall, outgoing, length, bytes) = (raw.wall, raw.outgoing, raw.length, raw.bytes);
            if result.is_ok() {
                result = take(Frame { interface, framing, wall, outgoing, length, bytes });
            }
        })?;
        result.map(|()| count)
    }

    /// Packets that the kernel had no room for, since the last call.
    pub fn dropped(&self) -> io::Result<u32> {
        self.socket.dropped()
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The name of an interface; its number, if it is gone already.
fn name(index: u32) -> String {
    let mut buffer = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer is as long as the call asks for, and the call ends what it writes with a zero.
    let named = unsafe { libc::if_indextoname(index, buffer.as_mut_ptr()) };
    if named.is_null() {
        return index.to_string();
    }
    let bytes: Vec<u8> = buffer.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_named_or_numbered() {
        assert_eq!(name(nix::net::if_::if_nametoindex("lo").unwrap()), "lo");
        assert_eq!(name(i32::MAX as u32), i32::MAX.to_string());
    }
}
