//! The thread from the TUN to the network.

use std::io::{self, IoSlice};
use std::mem;
use std::ops::Range;

use ntm_protocol::data::{NotSent, V6_MTU};
use ntm_protocol::inner::{fragments, icmp, siit};
use ntm_protocol::wire::HEADER_LEN;

use crate::counters::Counters;
use crate::outlet::Outlet;
use crate::plane::{Failed, Notice, Notify, PlaneOptions};
use crate::split::{NotSplit, split};
use crate::table::{Egress, Pending};
use crate::tun::Tun;
use crate::udp::Udp;
use crate::vnet::{Gso, VNET_LEN, Vnet};
use crate::wake::{Waited, Waiter};

/// The longest read: a train of 64 KiB and its virtio header.
const READ: usize = VNET_LEN + (1 << 16);
/// What sealing may add to a packet, and more: header 32, MAC 16, padding 15.
const OVERHEAD: usize = 128;
/// Sealed bytes that are sent at the latest: four full trains. More would leave the caches, and keep the first packet waiting.
const BATCH_BYTES: usize = 256 * 1024;
/// Reads of one batch: small packets are sent at the latest after so many.
const BATCH_READS: usize = 64;

/// The thread's state.
pub(crate) struct Outward<E: Egress> {
    tun: Tun,
    pending: Pending<E::Update>,
    waiter: Waiter,
    sealer: Sealer<E>,
    translate: bool,
    /// The number of the next packet from IPv6 that may be cut up.
    id: u16,
}

/// Where packets are placed, sealed and sent from.
struct Sealer<E> {
    table: E,
    outlet: Outlet,
    notify: Notify,
    /// Where senders are told of packets that are not sent.
    tun: Tun,
    /// Whether they are told, too, of those that have no way.
    answer: bool,
    /// Whether the packet in hand came as one of IPv6.
    from_v6: bool,
    buffer: Box<[u8]>,
    used: usize,
    /// Where the datagrams of the batch stand, which are yet to be sealed.
    places: Vec<Range<usize>>,
    /// Room for a packet that is refused, or cut up.
    aside: Vec<u8>,
}

impl<E: Egress> Outward<E> {
    pub(crate) fn new(
        tun: Tun,
        udp: Udp,
        table: E,
        pending: Pending<E::Update>,
        notify: Notify,
        waiter: Waiter,
        options: PlaneOptions,
    ) -> Self {
        // One packet beyond the limit always fits.
        let buffer = vec![0; BATCH_BYTES + READ + OVERHEAD].into();
        let sealer = Sealer {
            table,
            outlet: Outlet::new(udp),
            notify,
            tun: tun.clone(),
            answer: options.answer,
            from_v6: false,
            buffer,
            used: 0,
            places: Vec::new(),
            aside: Vec::new(),
        };
        Self { tun, pending, waiter, sealer, translate: options.translate, id: 0 }
    }

    /// Runs until the end is told.
    pub(crate) fn run(mut self) -> Result<(), Failed> {
        let mut read = vec![0; READ];
        loop {
            if self.is_stopped_while_paused()? {
                return Ok(());
            }
            let (mut reads, mut is_empty) = (0, false);
            while reads < BATCH_READS && self.sealer.used < BATCH_BYTES && !self.sealer.table.is_paused() {
                match self.tun.read(&mut read) {
                    Ok(len) => {
                        // After the read: a packet that is read after an update sees it.
                        self.pending.drain(|update| self.sealer.apply(update));
                        reads += 1;
                        self.packet(&mut read[..len]);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        is_empty = true;
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(source) => return Err(Failed { what: "reading the TUN", source }),
                }
            }
            if reads > 0 {
                self.counters().tun_reads.add(reads);
                self.sealer.flush(&self.waiter);
                self.waiter.worked();
                if reads == BATCH_READS && self.waiter.is_stopped() {
                    return Ok(());
                }
            }
            if reads > 0 && !is_empty {
                continue;
            }
            match self.waiter.readable(&self.tun) {
                Ok(Waited::Again) => {}
                Ok(Waited::Stopped) => return Ok(()),
                Err(source) => return Err(Failed { what: "waiting for the TUN", source }),
            }
        }
    }

    /// Lets packets wait in the TUN while the table is paused; true where the end was told meanwhile.
    fn is_stopped_while_paused(&mut self) -> Result<bool, Failed> {
        self.pending.drain(|update| self.sealer.apply(update));
        while self.sealer.table.is_paused() {
            match self.waiter.rung(&self.pending.bell) {
                Ok(Waited::Again) => self.pending.drain(|update| self.sealer.apply(update)),
                Ok(Waited::Stopped) => return Ok(true),
                Err(source) => return Err(Failed { what: "waiting for an update", source }),
            }
        }
        Ok(false)
    }

    fn counters(&self) -> &Counters {
        &self.sealer.notify.counters
    }

    /// Places what one read brought.
    fn packet(&mut self, bytes: &mut [u8]) {
        let parsed = if self.tun.has_offload() { Vnet::parse(bytes) } else { Some((Vnet::default(), bytes)) };
        let (mut packets, mut bytes) = (0, 0);
        let result = match parsed.and_then(|(vnet, packet)| self.in_ipv4(vnet, packet)) {
            Some((vnet, packet)) => split(vnet, packet, |parts| {
                packets += 1;
                bytes += parts[0].len() + parts[1].len();
                self.sealer.place(parts, &self.waiter);
            }),
            None => Err(NotSplit::Malformed),
        };
        // Once a read: an atomic addition costs as much as a packet's headers.
        self.counters().tun_in_packets.add(packets);
        self.counters().tun_in_bytes.add(bytes);
        if result.is_err() {
            self.sealer.dropped(NotSent::Malformed);
        }
    }

    /// What one read brought as a packet or train over IPv4, translated if it is of IPv6 (T3.1-d).
    fn in_ipv4<'a>(&mut self, vnet: Vnet, packet: &'a mut [u8]) -> Option<(Vnet, &'a mut [u8])> {
        let is_v6 = self.translate && packet.first().is_some_and(|byte| byte >> 4 == 6);
        self.sealer.from_v6 = is_v6;
        if !is_v6 {
            return Some((vnet, packet));
        }
        let segment = (vnet.gso != Gso::None).then_some(usize::from(vnet.gso_size));
        let place = siit::to_v4(packet, segment, &mut self.id)?;
        // The prefix weighs nothing in checksums, so what is partial stays; it only stands elsewhere.
        let begin = place.start as u16;
        let partial = match vnet.partial {
            Some((start, offset)) => Some((start.checked_sub(begin)?, offset)),
            None => None,
        };
        let gso = if vnet.gso == Gso::Tcp6 { Gso::Tcp4 } else { vnet.gso };
        Some((Vnet { partial, gso, ..vnet }, &mut packet[place]))
    }
}

impl<E: Egress> Sealer<E> {
    fn apply(&mut self, update: &E::Update) {
        self.table.apply(update);
        self.outlet.forget_interfaces();
    }

    /// Places the packet that `parts` make up.
    fn place(&mut self, parts: [&[u8]; 2], waiter: &Waiter) {
        if let Err(why) = self.push(parts, waiter) {
            self.not_placed(parts, why, waiter);
        }
    }

    fn push(&mut self, [first, rest]: [&[u8]; 2], waiter: &Waiter) -> Result<(), NotSent> {
        let length = first.len() + rest.len();
        // A train of tiny segments grows by its headers.
        if self.buffer.len() - self.used < length + OVERHEAD {
            self.flush(waiter);
        }
        let room = &mut self.buffer[self.used..];
        let (to, behind) = room[HEADER_LEN..HEADER_LEN + length].split_at_mut(first.len());
        to.copy_from_slice(first);
        behind.copy_from_slice(rest);
        let (len, way) = self.table.place(length, room)?;
        let place = self.used..self.used + len;
        self.used = place.end;
        self.outlet.push(&self.buffer, place.clone(), way);
        self.places.push(place);
        Ok(())
    }

    #[cold]
    fn not_placed(&mut self, parts: [&[u8]; 2], why: NotSent, waiter: &Waiter) {
        let mut inner = mem::take(&mut self.aside);
        inner.clear();
        parts.iter().for_each(|part| inner.extend_from_slice(part));
        match why {
            NotSent::TooBig { mtu } => self.too_big(&inner, mtu, waiter),
            why => self.refuse(&inner, why),
        }
        self.aside = inner;
    }

    /// Cuts `inner` up, if it may be, or tells its sender (RFC 791, RFC 1191).
    fn too_big(&mut self, inner: &[u8], mtu: u16, waiter: &Waiter) {
        let mut piece = [0; V6_MTU as usize];
        let room = piece.len().min(mtu.into());
        let mut failed = None;
        let is_cut = fragments::cut(inner, &mut piece[..room], |piece| {
            failed = self.push([piece, &[]], waiter).err().or(failed);
        });
        match failed {
            None if is_cut => self.notify.counters.cut_up.add(1),
            failed => self.refuse(inner, failed.unwrap_or(NotSent::TooBig { mtu })),
        }
    }

    fn refuse(&self, inner: &[u8], why: NotSent) {
        self.answer(inner, why);
        self.dropped(why);
    }

    /// Tells the sender of `inner` that it is not sent.
    fn answer(&self, inner: &[u8], why: NotSent) {
        /// Room for the headers of IPv6.
        const FRONT: usize = 48;
        let mut buffer = [0; FRONT + icmp::MAX_LEN];
        let Some(answer) = buffer.last_chunk_mut() else { return };
        let is_told = self.answer || matches!(why, NotSent::TooBig { .. });
        let length = is_told.then(|| why.answer(inner, answer)).flatten();
        let place = length.map(|length| FRONT..FRONT + length);
        let place = place.and_then(|place| match self.from_v6 {
            true => siit::to_v6(&mut buffer, place),
            false => Some(place),
        });
        if let Some(place) = place {
            let vnet = Vnet::default().emit();
            let parts = [IoSlice::new(&vnet), IoSlice::new(&buffer[place])];
            // One that the interface does not take is as one that is lost.
            if self.tun.write(if self.tun.has_offload() { &parts } else { &parts[1..] }).is_ok() {
                self.notify.counters.answers.add(1);
            }
        }
    }

    fn dropped(&self, why: NotSent) {
        let counters = &self.notify.counters;
        match why {
            NotSent::NoPath(_) => counters.drop_no_path.add(1),
            NotSent::Lost(_) => counters.drop_lost.add(1),
            NotSent::Malformed => counters.drop_malformed.add(1),
            NotSent::TooLarge => counters.drop_too_large.add(1),
            NotSent::TooBig { .. } => counters.drop_too_big.add(1),
        }
        self.notify.tell(Notice::NotSent(why));
    }

    fn flush(&mut self, waiter: &Waiter) {
        self.table.seal_placed(&mut self.buffer, &self.places);
        self.places.clear();
        let counters = &self.notify.counters;
        let sent = self.outlet.flush(&self.buffer, waiter, counters);
        counters.udp_out_packets.add(sent.packets);
        counters.udp_out_bytes.add(sent.bytes);
        self.used = 0;
    }
}
