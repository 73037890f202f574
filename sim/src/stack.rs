//! A host's TCP: smoltcp's, over the packets of the world. What it sends leaves the host as any application's packets do, and its time is the world's.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use ntm_protocol::time::Instant;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer};
use smoltcp::time::Instant as Micros;
use smoltcp::wire::{HardwareAddress, IpCidr};

use crate::packet::{Packet, Protocol, stretch};

/// The time as smoltcp has it. It rounds down, so what is due at a fraction of a microsecond is asked for once more.
fn micros(at: Instant) -> Micros {
    Micros::from_micros(i64::try_from(at.as_nanos() / 1000).unwrap_or(i64::MAX))
}

/// What is between smoltcp and the host.
struct Queues {
    mtu: usize,
    received: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut packet = vec![0; length];
        let result = fill(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Micros) -> Option<(Received, Sending<'_>)> {
        let packet = self.received.pop_front()?;
        Some((Received(packet), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Micros) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut out = DeviceCapabilities::default();
        out.medium = Medium::Ip;
        out.max_transmission_unit = self.mtu;
        out.checksum = ChecksumCapabilities::default();
        out
    }
}

fn interface(device: &mut Queues, seed: u64, now: Instant) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    Interface::new(config, device, micros(now))
}

/// A host's TCP.
pub(crate) struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    device: Queues,
    /// When the world is to wake it.
    pub(crate) wake: Option<Instant>,
    /// Of each connection, by its two ports and the peer's address: the number behind what was sent so far, and how many segments were sent again.
    sent: BTreeMap<(u16, SocketAddr), (u32, u64)>,
}

impl Stack {
    /// Of a host whose interface takes packets of `mtu` bytes.
    pub(crate) fn new(addresses: &[IpAddr], mtu: usize, seed: u64, now: Instant) -> Self {
        let mut device = Queues { mtu, received: VecDeque::new(), sent: Vec::new() };
        let interface = interface(&mut device, seed, now);
        let mut stack = Self {
            interface,
            sockets: SocketSet::new(Vec::new()),
            device,
            wake: None,
            sent: BTreeMap::new(),
        };
        stack.readdress(addresses);
        stack
    }

    /// The host has these addresses from now on, the first of each family as its own. Everything is reached directly: networks are the world's affair.
    pub(crate) fn readdress(&mut self, addresses: &[IpAddr]) {
        let first = |v4: bool| addresses.iter().copied().find(|address| address.is_ipv4() == v4);
        self.interface.update_ip_addrs(|known| {
            known.clear();
            for address in [first(true), first(false)].into_iter().flatten() {
                // There is room for one of each.
                let _ = known.push(IpCidr::new(address.into(), 0));
            }
        });
    }

    /// A packet was too long for its way: the host's are not longer than `mtu` bytes from now on, wherever they go.
    pub(crate) fn narrow(&mut self, mtu: u16, seed: u64, now: Instant) {
        if usize::from(mtu) < self.device.mtu {
            self.device.mtu = mtu.into();
            // An interface asks for the MTU once. Connections are the sockets' affair.
            let addresses: Vec<IpAddr> =
                self.interface.ip_addrs().iter().map(|known| known.address().into()).collect();
            self.interface = interface(&mut self.device, seed, now);
            self.readdress(&addresses);
        }
    }

    fn add(&mut self, window: usize) -> (SocketHandle, &mut Socket<'static>) {
        let buffer = || SocketBuffer::new(vec![0; window]);
        let mut socket = Socket::new(buffer(), buffer());
        // All its arithmetic is of integers, and so the same on every machine.
        socket.set_congestion_control(CongestionControl::Reno);
        let handle = self.sockets.add(socket);
        (handle, self.sockets.get_mut(handle))
    }

    /// A socket that takes one connection at `port`.
    pub(crate) fn listen(&mut self, port: u16, window: usize) -> SocketHandle {
        let (handle, socket) = self.add(window);
        socket.listen(port).expect("a new socket, and a port that is not 0");
        handle
    }

    /// A connection from `port` to `remote`, begun now; `None` where it has no address or there is none to go to.
    pub(crate) fn connect(&mut self, port: u16, remote: SocketAddr, window: usize) -> Option<SocketHandle> {
        let handle = self.add(window).0;
        let socket = self.sockets.get_mut::<Socket>(handle);
        match socket.connect(self.interface.context(), remote, port) {
            Ok(()) => Some(handle),
            Err(_) => {
                self.sockets.remove(handle);
                None
            }
        }
    }

    /// A socket.
    pub(crate) fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// How many segments with data were sent again from `port` to `remote`.
    pub(crate) fn retransmits(&self, port: u16, remote: SocketAddr) -> u64 {
        self.sent.get(&(port, remote)).map_or(0, |(_, again)| *again)
    }

    /// A TCP packet came for the host.
    pub(crate) fn receive(&mut self, packet: &Packet) {
        self.device.received.push_back(packet.emit());
    }

    /// Does what is to be done at `now`: what it sends, and whether sockets have changed.
    pub(crate) fn poll(&mut self, now: Instant) -> (Vec<Packet>, bool) {
        let polled = self.interface.poll(micros(now), &mut self.device, &mut self.sockets);
        let sent = std::mem::take(&mut self.device.sent);
        let packets: Vec<Packet> = sent.iter().filter_map(|bytes| Packet::parse(bytes)).collect();
        packets.iter().for_each(|packet| self.count(packet));
        (packets, polled == PollResult::SocketStateChanged)
    }

    fn count(&mut self, packet: &Packet) {
        let Some((sequence, length)) = stretch(&packet.payload).filter(|(_, length)| *length > 0) else {
            return;
        };
        debug_assert_eq!(packet.protocol, Protocol::Tcp);
        let end = sequence.wrapping_add(length as u32);
        let key = (packet.source.port(), packet.destination);
        let (highest, again) = self.sent.entry(key).or_insert((sequence, 0));
        // In the order of RFC 9293, section 3.4.
        if end.wrapping_sub(*highest) as i32 > 0 {
            *highest = end;
        } else {
            *again += 1;
        }
    }

    /// When [`poll`](Self::poll) is due.
    pub(crate) fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        let due = self.interface.poll_at(micros(now), &self.sockets)?;
        Some(Instant::from_nanos(u64::try_from(due.total_micros()).unwrap_or(0) * 1000).max(now))
    }
}
