//! What passed the interfaces of hosts, as a capture there would show it.

use std::net::IpAddr;
use std::sync::Arc;

use ntm_protocol::time::Instant;

use crate::HostId;
use crate::network::RouterId;
use crate::packet::Packet;
use crate::pieces::ETHERNET;
use crate::tables::VIRTUAL;
use crate::world::World;

/// Where a packet was seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Point {
    /// At the real interface that has this address.
    Real(IpAddr),
    /// At a terminal's virtual interface.
    Virtual,
}

/// A packet that passed an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Captured {
    /// When.
    pub at: Instant,
    /// Whose interface.
    pub host: HostId,
    /// Which.
    pub point: Point,
    /// Whether the host sent it.
    pub outgoing: bool,
    /// As it was there.
    pub packet: Packet,
    /// The longest packet that the interface takes, in bytes: a longer one passed it in pieces.
    pub mtu: u16,
}

/// A packet that passed the outer side of a router.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CapturedOutside {
    /// When.
    pub at: Instant,
    /// How many packets had passed interfaces of hosts before: what happens at one instant has an order, too.
    pub after: usize,
    /// The router's name.
    pub router: Arc<str>,
    /// Whether it left the router.
    pub outgoing: bool,
    /// As it was there.
    pub packet: Packet,
    /// The longest packet that the router passes on, in bytes: a longer one came or went in pieces.
    pub mtu: u16,
}

impl World {
    /// Keeps what passes every interface from now on.
    pub fn capture_all(&mut self) {
        self.captures.get_or_insert_default();
        self.captures_outside.get_or_insert_default();
    }

    /// What passed since it was last taken, at hosts and outside routers: who takes it often needs no memory for all of it.
    pub fn take_captured(&mut self) -> (Vec<Captured>, Vec<CapturedOutside>) {
        let at_hosts = self.captures.as_mut().map(std::mem::take).unwrap_or_default();
        (at_hosts, self.captures_outside.as_mut().map(std::mem::take).unwrap_or_default())
    }

    /// What passed the outer sides of routers, in the order of time.
    pub fn captured_outside(&self) -> &[CapturedOutside] {
        self.captures_outside.as_deref().unwrap_or_default()
    }

    pub(crate) fn capture_outside(&mut self, router: RouterId, outgoing: bool, packet: &Packet) {
        if let Some(captures) = &mut self.captures_outside {
            let (at, after) = (self.now, self.captures.as_ref().map_or(0, Vec::len));
            let mtu = if outgoing { self.networks.limit(router) } else { ETHERNET };
            let (router, packet) = (self.networks.name(router).clone(), packet.clone());
            captures.push(CapturedOutside { at, after, router, outgoing, packet, mtu });
        }
    }

    /// What passed since [`capture_all`](Self::capture_all), in the order of time.
    pub fn captured(&self) -> &[Captured] {
        self.captures.as_deref().unwrap_or_default()
    }

    pub(crate) fn capture(&mut self, host: HostId, point: Point, outgoing: bool, packet: &Packet) {
        if let Some(captures) = &mut self.captures {
            let mtu = if point == Point::Virtual { VIRTUAL } else { ETHERNET };
            captures.push(Captured { at: self.now, host, point, outgoing, packet: packet.clone(), mtu });
        }
    }

    /// As [`capture`](Self::capture), at the virtual interface, where the host has one.
    pub(crate) fn capture_virtual(&mut self, host: HostId, outgoing: bool, packet: &Packet) {
        if self.is_terminal(host) {
            self.capture(host, Point::Virtual, outgoing, packet);
        }
    }
}
