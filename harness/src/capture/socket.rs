//! A packet socket on one interface, read in batches.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

/// Packets a system call takes at most.
const BATCH: usize = 64;
/// Room in the kernel. A packet counts whole there, however little of it is read: this is half a second at 2 Gbit/s.
const QUEUE: usize = 128 << 20;
/// Room for one timestamp as ancillary data.
const CONTROL: usize = 64;

/// An interface's packets, as long as the socket is open.
pub(super) struct PacketSocket {
    fd: OwnedFd,
}

/// One packet as the kernel gave it.
pub(super) struct Raw<'a> {
    /// Nanoseconds since 1970.
    pub(super) wall: u64,
    /// Whether this node sent it.
    pub(super) outgoing: bool,
    /// The index of its interface.
    pub(super) interface: u32,
    /// Whether it begins with an Ethernet header; else with that of IP.
    pub(super) has_link: bool,
    /// Its length on the wire.
    pub(super) length: usize,
    /// Its first bytes, from the link's header on.
    pub(super) bytes: &'a [u8],
}

/// Buffers that batches are read into.
pub(super) struct Batch<const SNAP: usize> {
    /// SNAP bytes for each packet.
    data: Box<[u8]>,
    control: Box<[Aligned; BATCH]>,
    from: Box<[libc::sockaddr_ll; BATCH]>,
}

/// Ancillary data begins with a `cmsghdr`, whose alignment is that of a `size_t`.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Aligned([u8; CONTROL]);

impl<const SNAP: usize> Batch<SNAP> {
    pub(super) fn new() -> Self {
        // SAFETY: a sockaddr_ll is integers and arrays of them; all zero is a value of it.
        let empty: libc::sockaddr_ll = unsafe { mem::zeroed() };
        Self {
            // Bytes, whose zeros the system gives: what no packet fills takes no memory, and is not copied when a process is started.
            data: vec![0; SNAP * BATCH].into_boxed_slice(),
            control: Box::new([Aligned([0; CONTROL]); BATCH]),
            from: Box::new([empty; BATCH]),
        }
    }
}

impl PacketSocket {
    /// Opens a socket for all packets of the interface `index` of the namespace that the thread is in; of every interface, if it is 0.
    pub(super) fn open(index: u32) -> io::Result<Self> {
        // Without a protocol nothing is received until the socket is bound to its interface.
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        setsockopt(&fd, sockopt::ReceiveTimestampns, &true)?;
        // Beyond the limit of unprivileged sockets where we may; otherwise as much as is allowed.
        if setsockopt(&fd, sockopt::RcvBufForce, &QUEUE).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &QUEUE)?;
        }
        // SAFETY: all zero is a value of sockaddr_ll; the length given is its own.
        let bound = unsafe {
            let mut address: libc::sockaddr_ll = mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            address.sll_ifindex = index as i32;
            let length = mem::size_of_val(&address) as u32;
            libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length)
        };
        if bound == 0 { Ok(Self { fd }) } else { Err(io::Error::last_os_error()) }
    }

    /// Hands every packet that waits, up to one batch, to `take`; returns how many there were.
    pub(super) fn receive<const SNAP: usize>(
        &self,
        batch: &mut Batch<SNAP>,
        mut take: impl FnMut(Raw<'_>),
    ) -> io::Result<usize> {
        // SAFETY: iovec and mmsghdr are integers and pointers; all zero is a value of them.
        let (mut parts, mut headers): ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) =
            unsafe { mem::zeroed() };
        for (n, (header, room)) in headers.iter_mut().zip(batch.data.chunks_exact_mut(SNAP)).enumerate() {
            parts[n] = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
            let message = &mut header.msg_hdr;
            message.msg_iov = &raw mut parts[n];
            message.msg_iovlen = 1;
            message.msg_control = batch.control[n].0.as_mut_ptr().cast();
            message.msg_controllen = CONTROL as _;
            message.msg_name = (&raw mut batch.from[n]).cast();
            message.msg_namelen = mem::size_of::<libc::sockaddr_ll>() as u32;
        }
        // MSG_TRUNC: lengths are those of the wire, not of the buffers.
        let flags = (libc::MSG_DONTWAIT | libc::MSG_TRUNC) as _;
        // SAFETY: the pointers set above are to `batch`, which outlives the call, and each length is that of its buffer; no timeout is given.
        let count = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as u32,
                flags,
                std::ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                // The interface went down. It may come up again, and then packets come again.
                Some(libc::ENETDOWN | libc::EAGAIN | libc::EINTR) => Ok(0),
                _ => Err(error),
            };
        };
        for (n, header) in headers.iter().enumerate().take(count) {
            let length = header.msg_len as usize;
            take(Raw {
                wall: timestamp(&header.msg_hdr).unwrap_or_else(crate::clock::wall),
                outgoing: batch.from[n].sll_pkttype == libc::PACKET_OUTGOING,
                interface: batch.from[n].sll_ifindex as u32,
                has_link: batch.from[n].sll_hatype != libc::ARPHRD_NONE,
                length,
                bytes: &batch.data[n * SNAP..][..length.min(SNAP)],
            });
        }
        Ok(count)
    }

    /// Packets that the kernel had no room for, since the last call.
    pub(super) fn dropped(&self) -> io::Result<u32> {
        // SAFETY: all zero is a value of tpacket_stats; the length given is its own.
        unsafe {
            let mut stats: libc::tpacket_stats = mem::zeroed();
            let mut length = mem::size_of_val(&stats) as u32;
            let got = libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut stats).cast(),
                &raw mut length,
            );
            if got == 0 { Ok(stats.tp_drops) } else { Err(io::Error::last_os_error()) }
        }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// When the kernel took a frame, in nanoseconds, where `SO_TIMESTAMPNS` had it say so.
pub(crate) fn timestamp(message: &libc::msghdr) -> Option<u64> {
    // SAFETY: the kernel wrote the ancillary data that the header describes, so its macros may walk it; a timespec may be
    // unaligned there, so it is read as such.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_TIMESTAMPNS {
                let time: libc::timespec = std::ptr::read_unaligned(libc::CMSG_DATA(header).cast());
                return Some(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64);
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::wall;
    use crate::world::space::with_loopback;

    /// What was read: when, which way, by which interface, its length, and its first bytes.
    fn read(socket: &PacketSocket, batch: &mut Batch<64>) -> Vec<(u64, bool, u32, usize, Vec<u8>)> {
        let mut found = Vec::new();
        let take = |raw: Raw<'_>| {
            assert!(raw.has_link);
            found.push((raw.wall, raw.outgoing, raw.interface, raw.length, raw.bytes.to_vec()));
        };
        let count = socket.receive(batch, take).unwrap();
        assert_eq!(count, found.len());
        found
    }

    #[test]
    fn packets_are_read_in_batches_with_the_kernels_time() {
        let lo = nix::net::if_::if_nametoindex("lo").unwrap();
        with_loopback(|loopback| {
            let (socket, mut batch) = (PacketSocket::open(0).unwrap(), Batch::new());
            assert!(read(&socket, &mut batch).is_empty(), "nothing waits");
            loopback.until_noted(|| read(&socket, &mut batch).into_iter().map(|(at, ..)| at).collect());
            let begin = wall();
            (0..40).for_each(|n| loopback.pass(&[n; 1000]));
            let end = wall();
            // Each goes out and comes in.
            let (first, second) = (read(&socket, &mut batch), read(&socket, &mut batch));
            assert_eq!((first.len(), second.len()), (BATCH, 80 - BATCH));
            assert!(read(&socket, &mut batch).is_empty());
            for (n, (at, outgoing, interface, length, bytes)) in first.into_iter().chain(second).enumerate() {
                assert!((begin..=end).contains(&at), "{begin} {at} {end}");
                assert_eq!((outgoing, interface, length), (n % 2 == 0, lo, 14 + 20 + 8 + 1000));
                assert_eq!(bytes.len(), 64, "as many as were asked for");
                assert_eq!(bytes[42..], [n as u8 / 2; 22]);
            }
            assert_eq!(socket.dropped().unwrap(), 0);

            setsockopt(&socket.fd, sockopt::RcvBuf, &1).unwrap();
            (0..40).for_each(|_| loopback.pass(&[0; 1000]));
            let read = read(&socket, &mut batch).len();
            assert_eq!((read + socket.dropped().unwrap() as usize, socket.dropped().unwrap()), (80, 0));
            assert!(read < 80);
        });
    }

    #[test]
    fn an_interface_that_is_not_there_cannot_be_opened() {
        with_loopback(|_| {
            let error = PacketSocket::open(4711).err().and_then(|error| error.raw_os_error());
            assert_eq!(error, Some(libc::ENODEV));
        });
    }
}
