//! Datagrams in batches and in trains: `recvmmsg` with `UDP_GRO`, `sendmmsg` with `UDP_SEGMENT`.
//!
//! All of the crate's unsafe code is here. The safe faces of these calls that `nix` has give all messages of a call the same control
//! messages, and trains differ in the size of their segments.

use std::array;
use std::io;
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use ntm_protocol::data::Local;
use socket2::{SockAddr, SockAddrStorage, Socket};

use crate::interfaces::Interfaces;
use crate::trains::{Train, Trains};
use crate::udp::Udp;

/// Messages received by one call.
const SLOTS: usize = 32;
/// Room of one message: the longest train that `UDP_GRO` makes.
const SLOT: usize = 1 << 16;
/// Messages sent by one call, and the parts that all of them have together.
const SEND_MESSAGES: usize = 16;
const SEND_PARTS: usize = 256;
/// What a call is given is laid out anew each time: where packets come one by one, for so few messages or parts, which takes less time.
const FEW: usize = 4;

/// Room for one control message with an `int`, with its alignment.
type Control = [u64; 4];
/// Room for those that go with a train: the size of its segments, and the interface and address that it leaves by.
type SendControl = [u64; 8];

/// Asks for `size` bytes of buffer each way: beyond the system's limit where we may, else as far as the limit goes.
pub(crate) fn enlarge_buffers(socket: &Socket, size: usize) {
    let size = libc::c_int::try_from(size).unwrap_or(libc::c_int::MAX);
    for (forced, limited) in
        [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)]
    {
        let enlarged = set_option(socket, libc::SOL_SOCKET, forced, size)
            .or_else(|_| set_option(socket, libc::SOL_SOCKET, limited, size));
        if let Err(error) = enlarged {
            tracing::debug!("the UDP socket keeps its small buffers: {error}");
        }
    }
}

/// Lets routers cut datagrams up over IPv4, and this machine too, whatever ICMP says of the way: a sealed packet that is too long for a narrow
/// link is then not lost, and nobody can make it shorter by a forged error. Over IPv6 only senders cut up; the kernel does it.
pub(crate) fn allow_fragments(socket: &Socket) {
    // An IPv6 socket has the option for the IPv4 addresses that it speaks to.
    if let Err(error) = set_option(socket, libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT) {
        tracing::debug!("datagrams must not be cut up on the way: {error}");
    }
}

/// Switches `UDP_GRO` on and asks whether `UDP_SEGMENT` is known: (received, sent) in trains.
pub(crate) fn enable_offload(socket: &Socket) -> (bool, bool) {
    let gro = set_gro(socket, true).is_ok();
    // Zero sets no size for the socket as a whole; a kernel without the option refuses it.
    let gso = set_option(socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
    (gro, gso)
}

/// Switches `UDP_GRO`.
pub(crate) fn set_gro(socket: &impl AsRawFd, on: bool) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, libc::UDP_GRO, on.into())
}

fn set_option(
    socket: &impl AsRawFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the option's value is an int that lives over the call, and its size is told.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, ptr::from_ref(&value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The datagrams of one call.
#[derive(Debug)]
pub(crate) struct Receiver {
    arena: Box<[u8]>,
    messages: Vec<Message>,
    /// Whether the last call brought few messages.
    few: bool,
}

/// A train received: datagrams of `segment` bytes but for the last, which may be shorter.
#[derive(Clone, Debug)]
struct Message {
    place: Range<usize>,
    segment: usize,
    from: SocketAddr,
}

/// What a call brought besides datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Received {
    /// Messages that were cut off, and dropped.
    pub(crate) truncated: usize,
    /// Whether more may wait.
    pub(crate) is_full: bool,
    /// Whether the socket ended receiving.
    pub(crate) has_ended: bool,
}

impl Receiver {
    pub(crate) fn new() -> Self {
        Self { arena: vec![0; SLOTS * SLOT].into(), messages: Vec::with_capacity(SLOTS), few: true }
    }

    /// Receives what is there; where nothing is, `wait`s for something, or fails with `WouldBlock`. Nothing comes, too, when the socket
    /// [ended receiving](Udp::end_receiving). Forgets the batch before.
    pub(crate) fn receive(&mut self, socket: &impl AsFd, wait: bool) -> io::Result<Received> {
        if self.few {
            self.receive_up_to::<FEW>(socket, wait)
        } else {
            self.receive_up_to::<SLOTS>(socket, wait)
        }
    }

    fn receive_up_to<const SLOTS: usize>(&mut self, socket: &impl AsFd, wait: bool) -> io::Result<Received> {
        self.messages.clear();
        let mut names: [SockAddrStorage; SLOTS] = array::from_fn(|_| SockAddrStorage::zeroed());
        let mut controls: [Control; SLOTS] = [[0; 4]; SLOTS];
        // SAFETY: these are plain C structures of integers and pointers, for which zeros are a value: no buffer, no length.
        let mut vectors: [libc::iovec; SLOTS] = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut headers: [libc::mmsghdr; SLOTS] = unsafe { mem::zeroed() };
        for (n, slot) in self.arena.chunks_exact_mut(SLOT).take(SLOTS).enumerate() {
            vectors[n] = libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT };
            let header = &mut headers[n].msg_hdr;
            header.msg_name = ptr::from_mut(&mut names[n]).cast();
            header.msg_namelen = names[n].size_of();
            header.msg_iov = &mut vectors[n];
            header.msg_iovlen = 1;
            header.msg_control = controls[n].as_mut_ptr().cast();
            header.msg_controllen = mem::size_of::<Control>() as _;
        }
        // SAFETY: every pointer leads to a live buffer of the length that stands beside it, and no two buffers overlap.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                SLOTS as libc::c_uint,
                (if wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT }) as _,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        self.few = count < FEW;
        let mut received = Received { is_full: count == SLOTS, ..Received::default() };
        for (n, (header, name)) in headers[..count].iter().zip(names).enumerate() {
            let len = header.msg_len as usize;
            if header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
                received.truncated += 1;
                continue;
            }
            // SAFETY: the storage was zeroed and the kernel wrote an address of this length into it.
            let name = unsafe { SockAddr::new(name, header.msg_hdr.msg_namelen) };
            let Some(from) = name.as_socket().map(plain) else {
                // Only the end of all has no sender.
                received.has_ended = true;
                continue;
            };
            // SAFETY: the header and its control buffer are as the kernel left them, and both live.
            let segment = unsafe { segment_size(&header.msg_hdr) };
            let place = n * SLOT..n * SLOT + len;
            self.messages.push(Message { place, segment: segment.unwrap_or(len).max(1), from });
        }
        Ok(received)
    }

    /// The place of every datagram of the batch in the buffer.
    pub(crate) fn datagrams(&self) -> impl Iterator<Item = Range<usize>> {
        self.messages.iter().flat_map(|Message { place, segment, .. }| {
            // At least one: an empty datagram is a datagram.
            let count = place.len().div_ceil(*segment).max(1);
            (0..count).map(move |n| {
                let start = place.start + n * segment;
                start..place.end.min(start + segment)
            })
        })
    }

    /// Where the datagram of the batch at `place` came from. Few need to know.
    pub(crate) fn sender(&self, place: &Range<usize>) -> SocketAddr {
        let after = self.messages.partition_point(|message| message.place.start <= place.start);
        self.messages[after - 1].from
    }

    /// The buffer that holds the datagrams.
    pub(crate) fn arena_mut(&mut self) -> &mut [u8] {
        &mut self.arena
    }
}

/// The address itself: a socket for both families shows IPv4 addresses as IPv6 ones.
fn plain(from: SocketAddr) -> SocketAddr {
    match from {
        SocketAddr::V6(from) => SocketAddr::new(from.ip().to_canonical(), from.port()),
        from => from,
    }
}

/// The size that `UDP_GRO` tells of a train; `None` for a single datagram.
///
/// # Safety
/// `header` is as `recvmmsg` left it, and its control buffer lives.
unsafe fn segment_size(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the caller's promise; CMSG_NXTHDR stays within the control buffer's length.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while let Some(found) = message.as_ref() {
            if found.cmsg_level == libc::SOL_UDP && found.cmsg_type == libc::UDP_GRO {
                let size = ptr::read_unaligned(libc::CMSG_DATA(found).cast::<libc::c_int>());
                return usize::try_from(size).ok();
            }
            message = libc::CMSG_NXTHDR(header, found);
        }
    }
    None
}

/// Sends as many of `trains` as the kernel takes by one call, without blocking: how many it took, at least one. An error is the first
/// train's.
pub(crate) fn send(
    socket: &Udp,
    buffer: &[u8],
    all: &Trains,
    trains: &[Train],
    interfaces: &mut Interfaces,
) -> io::Result<usize> {
    match trains {
        [train] if train.parts <= FEW => send_up_to::<1, FEW>(socket, buffer, all, trains, interfaces),
        _ => send_up_to::<SEND_MESSAGES, SEND_PARTS>(socket, buffer, all, trains, interfaces),
    }
}

fn send_up_to<const MESSAGES: usize, const PARTS: usize>(
    socket: &Udp,
    buffer: &[u8],
    all: &Trains,
    trains: &[Train],
    interfaces: &mut Interfaces,
) -> io::Result<usize> {
    // SAFETY: these are plain C structures of integers and pointers, for which zeros are a value: no buffer, no length.
    let mut vectors: [libc::iovec; PARTS] = unsafe { mem::zeroed() };
    // SAFETY: as above.
    let mut headers: [libc::mmsghdr; MESSAGES] = unsafe { mem::zeroed() };
    let mut controls: [SendControl; MESSAGES] = [[0; 8]; MESSAGES];
    let mut names: [Option<SockAddr>; MESSAGES] = [const { None }; MESSAGES];
    let (mut messages, mut used) = (0, 0);
    for train in trains.iter().take(MESSAGES) {
        // The first always fits: it has at most 64 parts, or as few as there is room for.
        let Some(room) = vectors.get_mut(used..used + train.parts) else { break };
        for (vector, part) in room.iter_mut().zip(all.parts(train)) {
            let part = &buffer[part.clone()];
            // The kernel only reads what is sent; the C structure has no const.
            *vector = libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
        }
        let name = names[messages].insert(SockAddr::from(socket.written(train.way.remote)));
        let header = &mut headers[messages].msg_hdr;
        header.msg_name = name.as_ptr().cast_mut().cast();
        header.msg_namelen = name.len();
        header.msg_iovlen = train.parts as _;
        let segment = (train.count > 1).then_some(train.segment as u16);
        let local = train.way.local.and_then(|Local { address, link }| {
            Some((address, link.or_else(|| interfaces.index_of(address))?))
        });
        if segment.is_some() || local.is_some() {
            // SAFETY: the control buffer lives, in its place, as long as the header: to the end of this function.
            unsafe { put_controls(header, &mut controls[messages], segment, local) };
        }
        messages += 1;
        used += train.parts;
    }
    let mut next = vectors.as_mut_ptr();
    for (header, train) in headers[..messages].iter_mut().zip(trains) {
        header.msg_hdr.msg_iov = next;
        next = next.wrapping_add(train.parts);
    }
    // SAFETY: every pointer leads to a live buffer of the length that stands beside it.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_fd().as_raw_fd(),
            headers.as_mut_ptr(),
            messages as libc::c_uint,
            libc::MSG_DONTWAIT as _,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Makes `control` the control messages of `header`: the size of a train's segments, and the address and interface (its index) that
/// it leaves by.
///
/// # Safety
/// `control` lives, and stays in its place, as long as `header` is used.
unsafe fn put_controls(
    header: &mut libc::msghdr,
    control: &mut SendControl,
    segment: Option<u16>,
    local: Option<(IpAddr, u32)>,
) {
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of::<SendControl>() as _;
    let mut used = 0;
    // SAFETY: `control` has zeros and is aligned; of the two messages the first needs 24 bytes, the second 32 or 40, and it has 64.
    unsafe {
        let mut next = libc::CMSG_FIRSTHDR(header);
        if let Some(segment) = segment {
            used += put(next, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
            next = libc::CMSG_NXTHDR(header, next);
        }
        match local {
            Some((IpAddr::V4(address), index)) => {
                let from = libc::in_addr { s_addr: u32::from(address).to_be() };
                // What is sent has no destination here: the kernel takes the address that it comes from.
                let info = libc::in_pktinfo {
                    ipi_ifindex: index as libc::c_int,
                    ipi_spec_dst: from,
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                used += put(next, libc::SOL_IP, libc::IP_PKTINFO, info);
            }
            Some((IpAddr::V6(address), index)) => {
                let from = libc::in6_addr { s6_addr: address.octets() };
                let info = libc::in6_pktinfo { ipi6_addr: from, ipi6_ifindex: index };
                used += put(next, libc::SOL_IPV6, libc::IPV6_PKTINFO, info);
            }
            None => {}
        }
    }
    header.msg_controllen = used as _;
}

/// Writes one control message: how much room it took.
///
/// # Safety
/// At `message` there is room for one that holds a `T`.
unsafe fn put<T>(message: *mut libc::cmsghdr, level: libc::c_int, kind: libc::c_int, value: T) -> usize {
    let size = mem::size_of::<T>() as libc::c_uint;
    // SAFETY: the caller's promise.
    unsafe {
        (*message).cmsg_level = level;
        (*message).cmsg_type = kind;
        (*message).cmsg_len = libc::CMSG_LEN(size) as _;
        ptr::write_unaligned(libc::CMSG_DATA(message).cast(), value);
        libc::CMSG_SPACE(size) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::udp::UdpConfig;
    use nix::net::if_::if_nametoindex;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use ntm_protocol::data::Way;

    fn socket(address: &str, offload: bool) -> (Udp, SocketAddr) {
        let config = UdpConfig { bind: address.parse().expect("an address"), offload };
        let udp = Udp::bind(&config).expect("a socket");
        let address = udp.local_addr().expect("an address");
        (udp, address)
    }

    fn send_all(socket: &Udp, buffer: &[u8], trains: &Trains) {
        let mut rest = trains.as_slice();
        while !rest.is_empty() {
            let sent = send(socket, buffer, trains, rest, &mut Interfaces::default()).expect("sent");
            assert!(sent > 0);
            rest = &rest[sent..];
        }
    }

    fn receive_all(socket: &Udp, count: usize) -> (Vec<(Vec<u8>, SocketAddr)>, usize) {
        let mut receiver = Receiver::new();
        let mut datagrams = Vec::new();
        let mut calls = 0;
        while datagrams.len() < count {
            match receiver.receive(socket, false) {
                Ok(received) => assert_eq!(received.truncated, 0),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = poll(
                        &mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)],
                        PollTimeout::from(5000u16),
                    );
                    assert_eq!(ready, Ok(1), "{} of {count} datagrams came", datagrams.len());
                    continue;
                }
                Err(error) => panic!("{error}"),
            }
            calls += 1;
            for place in receiver.datagrams() {
                let from = receiver.sender(&place);
                datagrams.push((receiver.arena[place].to_vec(), from));
            }
        }
        (datagrams, calls)
    }

    #[test]
    fn what_is_sent_in_trains_is_received_datagram_by_datagram() {
        for (address, offload) in
            [("127.0.0.1:0", true), ("127.0.0.1:0", false), ("[::1]:0", true), ("[::]:0", true)]
        {
            let (a, from) = socket(address, offload);
            let (b, to) = socket(address, offload);
            // A socket of both families is spoken to in IPv4, which the others have tried without it.
            let at = |own: SocketAddr| match own.ip().is_unspecified() {
                true => SocketAddr::from(([127, 0, 0, 1], own.port())),
                false => own,
            };
            let (from, to) = (at(from), at(to));
            let lens = [1472, 1472, 1472, 1472, 700, 40, 40, 1200, 1200, 1, 9000];
            let mut buffer = Vec::new();
            let mut trains = Trains::new(offload && a.has_gso());
            for (n, len) in lens.into_iter().enumerate() {
                let start = buffer.len();
                buffer.resize(start + len, n as u8);
                trains.push(start..start + len, &to.into(), &[0; 16]);
            }
            send_all(&a, &buffer, &trains);
            let (datagrams, _) = receive_all(&b, lens.len());
            let expected: Vec<_> =
                lens.iter().enumerate().map(|(n, len)| (vec![n as u8; *len], from)).collect();
            assert!(datagrams == expected, "{address}, offload {offload}");
        }
    }

    #[test]
    fn an_empty_datagram_is_one() {
        let (a, from) = socket("127.0.0.1:0", true);
        let (b, to) = socket("127.0.0.1:0", true);
        a.send_to(&[], to).expect("sent");
        a.send_to(b"x", to).expect("sent");
        assert_eq!(receive_all(&b, 2).0, [(vec![], from), (b"x".to_vec(), from)]);
    }

    #[test]
    fn more_than_one_call_takes_is_sent_and_received() {
        let (a, _) = socket("127.0.0.1:0", true);
        let (b, to) = socket("127.0.0.1:0", true);
        let buffer: Vec<u8> = (0..100).collect();
        let mut trains = Trains::new(false);
        (0..100).for_each(|n| trains.push(n..n + 1, &to.into(), &[0; 16]));
        send_all(&a, &buffer, &trains);
        let (datagrams, calls) = receive_all(&b, 100);
        assert!(datagrams.iter().map(|(bytes, _)| bytes[0]).eq(0..100));
        assert!(calls >= 100 / SLOTS);
    }

    /// Datagrams leave from the address that their way names, trains too, whichever one the system would take.
    #[test]
    fn a_way_may_name_the_address_that_datagrams_come_from() {
        let (b, _) = socket("127.0.0.1:0", true);
        let to = b.local_addr().expect("an address");
        for (offload, bind) in [(true, "0.0.0.0:0"), (false, "0.0.0.0:0"), (true, "[::1]:0")] {
            let (a, _) = socket(bind, offload);
            let port = a.local_addr().expect("an address").port();
            let (b, to, local): (_, _, IpAddr) = if bind.starts_with('[') {
                let (b, to) = socket(bind, true);
                (b, to, "::1".parse().expect("an address"))
            } else {
                (b.clone(), to, [127, 0, 0, 1].into())
            };
            let buffer = [7; 30];
            for link in [None, Some(if_nametoindex("lo").expect("a loopback interface"))] {
                let mut trains = Trains::new(offload && a.has_gso());
                for place in [0..10, 10..20, 20..30] {
                    let local = Some(Local { address: local, link });
                    trains.push(place, &Way { remote: to, local }, &[0; 16]);
                }
                send_all(&a, &buffer, &trains);
                let from: Vec<_> = receive_all(&b, 3).0.into_iter().map(|(_, from)| from).collect();
                assert_eq!(from, [SocketAddr::new(local, port); 3], "{bind}, offload {offload}");
            }
        }
    }

    #[test]
    fn nothing_there_does_not_block() {
        let (a, _) = socket("127.0.0.1:0", true);
        assert_eq!(Receiver::new().receive(&a, false).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    /// A relay passes on datagrams that lie apart in its buffer, as one train.
    #[test]
    fn a_train_may_lie_in_parts() {
        let (a, _) = socket("127.0.0.1:0", true);
        let (b, to) = socket("127.0.0.1:0", true);
        let mut trains = Trains::new(true);
        let buffer: Vec<u8> = (0..250).collect();
        for place in [0..10, 100..110, 200..205] {
            trains.push(place, &to.into(), &[0; 16]);
        }
        assert_eq!(trains.as_slice().len(), 1);
        send_all(&a, &buffer, &trains);
        let (datagrams, _) = receive_all(&b, 3);
        assert!(datagrams.iter().map(|(bytes, _)| (bytes[0], bytes.len())).eq([
            (0, 10),
            (100, 10),
            (200, 5)
        ]));
    }
}
