//! The thread from the network to the TUN, and, at an RS-S, back to the network.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;

use ntm_protocol::data::Verdict;
use tokio::sync::mpsc;

use crate::coalesce::{Coalescer, MAX_SEGMENTS, Write};
use crate::counters::Counters;
use crate::mmsg::Receiver;
use crate::outlet::Outlet;
use crate::plane::{Failed, Notice, Notify};
use crate::table::{Ingress, Pending};
use crate::tun::Tun;
use crate::udp::Udp;
use crate::wake::Waiter;

/// Datagrams that are judged together: a call may bring much more than the caches hold, and what is opened is soon read again.
const JUDGED_AT_ONCE: usize = 32;

/// The thread's state.
pub(crate) struct Inward<I: Ingress> {
    tun: Option<Tun>,
    udp: Udp,
    table: I,
    pending: Pending<I::Update>,
    control: mpsc::Sender<(Vec<u8>, SocketAddr)>,
    notify: Notify,
    waiter: Waiter,
    receiver: Receiver,
    coalescer: Coalescer,
    outlet: Outlet,
    /// Where the batch's datagrams stand.
    places: Vec<Range<usize>>,
    verdicts: Vec<Verdict>,
}

impl<I: Ingress> Inward<I> {
    pub(crate) fn new(
        tun: Option<Tun>,
        udp: Udp,
        table: I,
        pending: Pending<I::Update>,
        control: mpsc::Sender<(Vec<u8>, SocketAddr)>,
        notify: Notify,
        waiter: Waiter,
    ) -> Self {
        let takes = |what: fn(&Tun) -> bool| tun.as_ref().is_some_and(what);
        let coalescer = Coalescer::new(takes(Tun::has_offload), takes(Tun::takes_udp_trains));
        let outlet = Outlet::new(udp.clone());
        let receiver = Receiver::new();
        Self {
            tun,
            udp,
            table,
            pending,
            control,
            notify,
            waiter,
            receiver,
            coalescer,
            outlet,
            places: Vec::new(),
            verdicts: Vec::new(),
        }
    }

    /// Runs until the end is told.
    pub(crate) fn run(mut self) -> Result<(), Failed> {
        let mut is_empty = false;
        loop {
            // To wait in the call costs a call less than to wait before it.
            let wait = is_empty && !self.waiter.spins();
            match self.receiver.receive(&self.udp, wait) {
                Ok(received) if received.has_ended && self.waiter.is_stopped() => return Ok(()),
                Ok(received) => {
                    let counters = &self.notify.counters;
                    counters.udp_receives.add(1);
                    counters.drop_truncated.add(received.truncated);
                    // After the receipt: a datagram that is received after an update sees it.
                    self.pending.drain(|update| self.table.apply(update));
                    self.batch();
                    self.waiter.worked();
                    if received.is_full && self.waiter.is_stopped() {
                        return Ok(());
                    }
                    // A call that brought less than it has room for found no more: another would be in vain.
                    is_empty = !received.is_full;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => is_empty = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_of_the_network(&error) => self.notify.counters.network_errors.add(1),
                Err(source) => return Err(Failed { what: "receiving datagrams", source }),
            }
        }
    }

    fn batch(&mut self) {
        let Self {
            tun, table, control, notify, waiter, receiver, coalescer, outlet, places, verdicts, ..
        } = self;
        let counters = &*notify.counters;
        places.clear();
        places.extend(receiver.datagrams());
        counters.udp_in_packets.add(places.len());
        counters.udp_in_bytes.add(places.iter().map(Range::len).sum());

        for places in places.chunks(JUDGED_AT_ONCE) {
            table.judge_all(receiver.arena_mut(), places, verdicts);
            for (place, verdict) in places.iter().zip(verdicts.drain(..)) {
                let arena = receiver.arena_mut();
                match verdict {
                    Verdict::Deliver(inner) if tun.is_some() => {
                        coalescer.push(arena, place, inner);
                    }
                    Verdict::Translate(inner) if tun.is_some() => {
                        if !coalescer.push_for_v6(arena, place, inner) {
                            counters.drop_not_translated.add(1);
                        }
                    }
                    Verdict::Deliver(_) | Verdict::Translate(_) => counters.drop_not_delivered.add(1),
                    Verdict::Forward(to) => outlet.push(arena, place.clone(), &to.into()),
                    Verdict::Control => {
                        let datagram = arena[place.clone()].to_vec();
                        match control.try_send((datagram, receiver.sender(place))) {
                            Ok(()) => counters.control_packets.add(1),
                            Err(_) => counters.drop_control_full.add(1),
                        }
                    }
                    Verdict::Refused(refusal) => {
                        counters.drop_refused.add(1);
                        notify.tell(Notice::Refused { refusal, from: receiver.sender(place) });
                    }
                }
            }
        }

        let sent = outlet.flush(receiver.arena_mut(), waiter, counters);
        counters.forwarded_packets.add(sent.packets);
        counters.forwarded_bytes.add(sent.bytes);
        if let Some(tun) = tun {
            coalescer.finish(receiver.arena_mut(), |arena, write| deliver(tun, arena, write, counters));
        }
    }
}

/// Writes a packet or a train to the TUN.
fn deliver(tun: &Tun, arena: &[u8], write: &Write<'_>, counters: &Counters) {
    let mut slices = [IoSlice::new(&[]); 1 + MAX_SEGMENTS];
    let mut used = 0;
    if tun.has_offload() {
        slices[0] = IoSlice::new(&write.vnet);
        used = 1;
    }
    for (slice, part) in slices[used..].iter_mut().zip(write.parts) {
        *slice = IoSlice::new(&arena[part.clone()]);
    }
    used += write.parts.len();
    match tun.write(&slices[..used]) {
        Ok(()) => {
            counters.tun_writes.add(1);
            counters.tun_out_packets.add(write.packets);
            counters.tun_out_bytes.add(write.bytes);
        }
        // The interface is down, or out of memory: as on any wire, the packet is lost.
        Err(error) => {
            tracing::trace!("{} packets are not delivered: {error}", write.packets);
            counters.drop_not_delivered.add(write.packets);
        }
    }
}

/// Whether `error` is what an earlier datagram of ours met (an ICMP message, a link that went away), or passes by itself.
fn is_of_the_network(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ENETDOWN
                | libc::EHOSTDOWN
                | libc::ENOPROTOOPT
                | libc::EMSGSIZE
                | libc::ENOBUFS
                | libc::ENOMEM
        )
    )
}
