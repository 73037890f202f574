//! A node's data tables and its virtual interface: what is sealed and opened, and what a kernel and a data plane do around that.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::IpAddr;

use ntm_protocol::crypto::{Suite, sealed_len};
use ntm_protocol::data::{DataUpdate, Inbound, Local, NotSent, Outbound, Routes, Way};
use ntm_protocol::inner::{fragments, icmp};
use ntm_protocol::time::Instant;

use crate::host::Outgoing;
use crate::packet::Packet;
use crate::pieces::{Joiner, cut};

/// The MTU of a virtual interface, in bytes.
pub(crate) const VIRTUAL: u16 = 1424;
/// How many packets a virtual interface's queue holds, as Linux's does.
const QUEUE: usize = 500;

#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) inbound: Inbound,
    pub(crate) outbound: Outbound,
    routes: Routes,
    /// The virtual interface's queue, for as long as the table is paused.
    waiting: VecDeque<Packet>,
    joiner: Joiner,
    /// The number of the last packet that could be cut up.
    id: u16,
}

/// A packet that was not sent, or not all of it: why, and what tells its sender.
pub(crate) struct Refused {
    pub(crate) why: NotSent,
    pub(crate) answer: Option<Packet>,
}

impl Tables {
    /// Applies a change at a node that sends as its routes lead.
    pub(crate) fn apply(&mut self, update: &DataUpdate) {
        self.inbound.apply(update);
        self.outbound.apply(update);
    }

    /// Applies a change at a node whose packets leave by the routes that it heard of: `route` tells them.
    pub(crate) fn apply_routed(&mut self, update: &DataUpdate, route: impl Fn(IpAddr) -> Option<Local>) {
        let wanted = self.routes.wanted(update);
        if let Some(routes) = self.routes.learn(wanted.map(|to| (to, route(to)))) {
            self.apply(&routes);
        }
        self.apply(update);
    }

    /// The node heard of a change of its routes: `route` tells how they are now.
    pub(crate) fn reroute(&mut self, route: impl Fn(IpAddr) -> Option<Local>) {
        let remotes: Vec<IpAddr> = self.routes.remotes().collect();
        if let Some(routes) = self.routes.learn(remotes.into_iter().map(|to| (to, route(to)))) {
            self.apply(&routes);
        }
    }

    /// A packet that was opened: what it is, as soon as all pieces of it are there.
    pub(crate) fn opened<'a>(&mut self, inner: &'a [u8], now: Instant) -> Option<Cow<'a, [u8]>> {
        self.joiner.take(inner, now)
    }

    /// Lets a packet wait for as long as the table is paused; false where it is not.
    pub(crate) fn keep(&mut self, packet: &Packet) -> bool {
        let is_paused = self.outbound.is_paused();
        if is_paused && self.waiting.len() < QUEUE {
            self.waiting.push_back(packet.clone());
        }
        is_paused
    }

    /// What waited and waits no longer.
    pub(crate) fn released(&mut self) -> VecDeque<Packet> {
        if self.outbound.is_paused() { VecDeque::new() } else { std::mem::take(&mut self.waiting) }
    }

    /// Sends a packet of IPv4 through the virtual interface, whose kernel cuts it up where it is longer.
    pub(crate) fn send(&mut self, packet: &Packet, sent: &mut Vec<Outgoing>) -> Result<(), Refused> {
        self.id = self.id.wrapping_add(u16::from(!packet.whole));
        let mut result = Ok(());
        for piece in cut(packet.emit_as(if packet.whole { 0 } else { self.id }), VIRTUAL) {
            if let Err(why) = self.seal(&piece, sent) {
                let mut room = [0; icmp::MAX_LEN];
                let answer = why.answer(&piece, &mut room);
                let answer = answer.and_then(|length| Packet::parse(&room[..length]));
                result = result.and(Err(Refused { why, answer }));
            }
        }
        result
    }

    /// Seals a packet, or what it is cut up into where the path takes less and it may be, as the data plane does.
    fn seal(&mut self, inner: &[u8], sent: &mut Vec<Outgoing>) -> Result<(), NotSent> {
        let (mtu, why) = match self.seal_whole(inner) {
            Err(why @ NotSent::TooBig { mtu }) => (mtu, why),
            sealed => return sealed.map(|outgoing| sent.push(outgoing)),
        };
        let mut failed = None;
        let is_cut = fragments::cut(inner, &mut vec![0; mtu.into()], |piece| match self.seal_whole(piece) {
            Ok(outgoing) => sent.push(outgoing),
            Err(why) => failed = Some(why),
        });
        match failed {
            None if is_cut => Ok(()),
            failed => Err(failed.unwrap_or(why)),
        }
    }

    fn seal_whole(&mut self, inner: &[u8]) -> Result<Outgoing, NotSent> {
        // No suite needs more room than the thesis's.
        let mut datagram = vec![0; sealed_len(Suite::Aes128Cbc, inner.len())];
        let (length, Way { remote, local }) = self.outbound.seal(inner, &mut datagram)?;
        datagram.truncate(length);
        let local = local.map(|local| local.address);
        Ok(Outgoing { local, ..Outgoing::ntm(remote, datagram) })
    }
}
