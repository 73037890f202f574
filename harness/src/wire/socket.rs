//! A packet socket at one inner end of a link: whole frames in and out, trains and unfinished checksums unharmed.
//!
//! All of the wire's unsafe code is here.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};

use super::frame::LONGEST;
use super::transit::Frame;
use crate::capture::timestamp;

/// Frames that a system call takes at most.
pub(super) const BATCH: usize = 32;
/// Room in the kernel each way: a tenth of a second at 1 Gbit/s, with the bookkeeping.
const BUFFER: usize = 32 << 20;
/// Room for a timestamp as ancillary data, aligned as a `cmsghdr`.
type Control = [u64; 8];

/// An inner end.
pub(super) struct End {
    fd: OwnedFd,
}

/// A frame as it was read.
pub(super) struct Read<'a> {
    /// The kernel's note and the frame.
    pub(super) bytes: &'a mut [u8],
    /// When it came in, in nanoseconds since 1970.
    pub(super) wall: Option<u64>,
    /// Whether it was longer than the buffer.
    pub(super) is_cut: bool,
}

/// Buffers that frames are read into.
pub(super) struct Slots {
    data: Vec<u8>,
    control: [Control; BATCH],
}

impl Slots {
    pub(super) fn new() -> Self {
        Self { data: vec![0; BATCH * LONGEST], control: [[0; 8]; BATCH] }
    }
}

impl End {
    /// Opens the interface `interface` of the namespace that the thread is in.
    pub(super) fn open(interface: &str) -> io::Result<Self> {
        let index = if_nametoindex(interface)?;
        // Without a protocol nothing is received until the socket is bound to its interface.
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        setsockopt(&fd, sockopt::ReceiveTimestampns, &true)?;
        // Beyond the limit of unprivileged sockets where we may; otherwise as much as is allowed.
        if setsockopt(&fd, sockopt::RcvBufForce, &BUFFER).is_err() {
            setsockopt(&fd, sockopt::RcvBuf, &BUFFER)?;
        }
        if setsockopt(&fd, sockopt::SndBufForce, &BUFFER).is_err() {
            setsockopt(&fd, sockopt::SndBuf, &BUFFER)?;
        }
        let on: libc::c_int = 1;
        packet_option(&fd, libc::PACKET_VNET_HDR, &on)?;
        packet_option(&fd, libc::PACKET_IGNORE_OUTGOING, &on)?;
        packet_option(&fd, libc::PACKET_QDISC_BYPASS, &on)?;
        // SAFETY: all zero is a value of sockaddr_ll; the length given is its own.
        let bound = unsafe {
            let mut address: libc::sockaddr_ll = mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
            address.sll_ifindex = index as i32;
            libc::bind(fd.as_raw_fd(), (&raw const address).cast(), mem::size_of_val(&address) as u32)
        };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        // Frames are for the node at the other side, not for this interface's address.
        let membership = libc::packet_mreq {
            mr_ifindex: index as i32,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        packet_option(&fd, libc::PACKET_ADD_MEMBERSHIP, &membership)?;
        Ok(Self { fd })
    }

    /// Hands every frame that waits, up to one batch, to `take`; returns how many there were.
    pub(super) fn receive(&self, slots: &mut Slots, mut take: impl FnMut(Read<'_>)) -> io::Result<usize> {
        let (mut parts, mut headers) = nothing();
        for (n, slot) in slots.data.chunks_exact_mut(LONGEST).enumerate() {
            parts[n] = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: LONGEST };
            let message = &mut headers[n].msg_hdr;
            message.msg_iov = &raw mut parts[n];
            message.msg_iovlen = 1;
            message.msg_control = slots.control[n].as_mut_ptr().cast();
            message.msg_controllen = mem::size_of::<Control>() as _;
        }
        let flags = libc::MSG_DONTWAIT as _;
        // SAFETY: the pointers set above are to `slots`, which outlives the call, and each length is that of its buffer; no timeout is given.
        let count = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH as u32,
                flags,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (header, slot) in headers[..count].iter().zip(slots.data.chunks_exact_mut(LONGEST)) {
            take(Read {
                bytes: &mut slot[..(header.msg_len as usize).min(LONGEST)],
                wall: timestamp(&header.msg_hdr),
                is_cut: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            });
        }
        Ok(count)
    }

    /// Sends as many of `frames` as the kernel takes, at most a batch: how many it took, at least one. An error is the first frame's.
    pub(super) fn send(&self, frames: &[Frame]) -> io::Result<usize> {
        let (mut parts, mut headers) = nothing();
        let count = frames.len().min(BATCH);
        for (n, frame) in frames[..count].iter().enumerate() {
            parts[n] =
                libc::iovec { iov_base: frame.bytes.as_ptr().cast_mut().cast(), iov_len: frame.bytes.len() };
            headers[n].msg_hdr.msg_iov = &raw mut parts[n];
            headers[n].msg_hdr.msg_iovlen = 1;
        }
        let flags = libc::MSG_DONTWAIT as _;
        // SAFETY: every pointer leads to a live buffer of the length that stands beside it. The kernel only reads what is sent; the C structure
        // has no const.
        let sent = unsafe { libc::sendmmsg(self.fd.as_raw_fd(), headers.as_mut_ptr(), count as u32, flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Frames that the kernel had no room for, since the last call.
    pub(super) fn unread(&self) -> io::Result<u64> {
        // SAFETY: all zero is a value of tpacket_stats; the length given is its own.
        unsafe {
            let mut stats: libc::tpacket_stats = mem::zeroed();
            let mut length = mem::size_of_val(&stats) as u32;
            let (level, name) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
            let got =
                libc::getsockopt(self.fd.as_raw_fd(), level, name, (&raw mut stats).cast(), &raw mut length);
            if got == 0 { Ok(u64::from(stats.tp_drops)) } else { Err(io::Error::last_os_error()) }
        }
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Headers of a batch that lead to no buffer yet.
fn nothing() -> ([libc::iovec; BATCH], [libc::mmsghdr; BATCH]) {
    // SAFETY: iovec and mmsghdr are integers and pointers; all zero is a value of them.
    unsafe { mem::zeroed() }
}

fn packet_option<T: Copy>(fd: &OwnedFd, name: libc::c_int, value: &T) -> io::Result<()> {
    let size = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the value lives over the call, is plain data as the kernel's structures are, and its size is told.
    let set = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_PACKET, name, std::ptr::from_ref(value).cast(), size)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, poll};

    use super::super::frame::NOTE;
    use super::*;
    use crate::clock::{now, wall};
    use crate::world::space::with_loopback;

    /// What was read, each with its time.
    fn read(end: &End, slots: &mut Slots) -> Vec<(u64, Vec<u8>)> {
        let mut found = Vec::new();
        let take = |read: Read<'_>| {
            assert!(!read.is_cut);
            found.push((read.wall.expect("the kernel's time"), read.bytes.to_vec()));
        };
        let count = end.receive(slots, take).unwrap_or(0);
        assert_eq!(count, found.len());
        found
    }

    /// The loopback interface gives back what is sent by it: a frame that is read and sent comes once more.
    #[test]
    fn frames_come_whole_and_go_as_they_came() {
        with_loopback(|loopback| {
            let (end, mut slots) = (End::open("lo").unwrap(), Slots::new());
            assert!(read(&end, &mut slots).is_empty(), "nothing waits");
            loopback.until_noted(|| read(&end, &mut slots).into_iter().map(|(at, _)| at).collect());
            let begin = wall();
            (0..BATCH as u8 + 8).for_each(|n| loopback.pass(&[n; 2000]));
            let whole = begin..=wall();
            let (first, second) = (read(&end, &mut slots), read(&end, &mut slots));
            assert_eq!((first.len(), second.len()), (BATCH, 8), "what goes out is left out");
            let frames = first.into_iter().chain(second).enumerate().map(|(n, (at, bytes))| {
                assert!(whole.contains(&at), "{at} {whole:?}");
                assert_eq!(bytes.len(), NOTE + 14 + 20 + 8 + 2000);
                assert_eq!(bytes[NOTE + 42..], [n as u8; 2000]);
                let (direction, packets, length) = (0, 1, bytes.len() - NOTE);
                Frame {
                    at: now(),
                    entered: now(),
                    sent: None,
                    direction,
                    packets,
                    length,
                    bytes: bytes.into(),
                }
            });
            let frames: Vec<Frame> = frames.collect();
            assert_eq!(end.send(&frames).unwrap(), BATCH, "a batch at most");
            assert_eq!(end.send(&frames[BATCH..]).unwrap(), 8);
            let mut again = Vec::new();
            while again.len() < frames.len() {
                let mut waits = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
                assert_eq!(poll(&mut waits, 10_000u16), Ok(1), "{} came", again.len());
                again.extend(read(&end, &mut slots));
            }
            assert_eq!(again.len(), frames.len());
            for (frame, (_, bytes)) in frames.iter().zip(again) {
                assert_eq!(bytes[NOTE..], frame.bytes[NOTE..]);
            }
            assert_eq!(end.unread().unwrap(), 0);

            while !read(&end, &mut slots).is_empty() {}
            setsockopt(&end.fd, sockopt::RcvBuf, &1).unwrap();
            (0..BATCH).for_each(|_| loopback.pass(&[0; 2000]));
            let came = read(&end, &mut slots).len() as u64;
            assert!(came < BATCH as u64);
            assert_eq!((came + end.unread().unwrap(), end.unread().unwrap()), (BATCH as u64, 0));
        });
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        with_loopback(|_| {
            let end = End::open("lo").unwrap();
            let short = Frame {
                at: now(),
                entered: now(),
                sent: None,
                direction: 0,
                packets: 1,
                length: 4,
                bytes: Box::new([0; 4]),
            };
            assert_eq!(end.send(&[short]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
            assert!(End::open("nowhere").is_err());
        });
    }
}
