//! Sending trains, with the way back where the kernel refuses one.

use std::io;
use std::ops::Range;

use ntm_protocol::data::Way;
use ntm_protocol::wire::ID_AT;

use crate::counters::Counters;
use crate::interfaces::Interfaces;
use crate::mmsg;
use crate::trains::{Train, Trains};
use crate::udp::Udp;
use crate::wake::{Waited, Waiter};

/// Batches that are sent without trains after the kernel refused one. Whether it takes trains depends on the route, and routes change
/// with a handover: so it is asked again, at the price of one call in so many.
const PLAIN_BATCHES: u32 = 1024;

/// Sends the datagrams of one batch.
#[derive(Debug)]
pub(crate) struct Outlet {
    trains: Trains,
    udp: Udp,
    interfaces: Interfaces,
    /// Batches yet to be sent plainly.
    plain: u32,
}

/// How many datagrams and bytes went out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sent {
    pub(crate) packets: usize,
    pub(crate) bytes: usize,
}

impl Outlet {
    pub(crate) fn new(udp: Udp) -> Self {
        Self { trains: Trains::new(udp.has_gso()), udp, interfaces: Interfaces::default(), plain: 0 }
    }

    /// Adds the datagram at `place` of `buffer`.
    pub(crate) fn push(&mut self, buffer: &[u8], place: Range<usize>, way: &Way) {
        let mut path = [0; 16];
        // What stands there in other datagrams parts trains just as well.
        if let Some(id) = buffer[place.clone()].get(ID_AT) {
            path.copy_from_slice(id);
        }
        self.trains.push(place, way, &path);
    }

    /// Forgets which interface has which address: it may be another by now.
    pub(crate) fn forget_interfaces(&mut self) {
        self.interfaces.forget();
    }

    /// Sends all that was added. What the kernel does not send is dropped and counted.
    pub(crate) fn flush(&mut self, buffer: &[u8], waiter: &Waiter, counters: &Counters) -> Sent {
        let mut sent = Sent::default();
        let mut at = 0;
        while let Some(train) = self.trains.as_slice().get(at) {
            if self.plain > 0 && train.count > 1 {
                sent += one_by_one(
                    &self.udp,
                    buffer,
                    &self.trains,
                    train,
                    &mut self.interfaces,
                    waiter,
                    counters,
                );
                at += 1;
                continue;
            }
            // Up to the next train that must go plainly; all of them while the kernel takes trains.
            let rest = &self.trains.as_slice()[at..];
            let run = if self.plain > 0 {
                rest.iter().position(|train| train.count > 1).unwrap_or(rest.len())
            } else {
                rest.len()
            };
            match send(&self.udp, buffer, &self.trains, &rest[..run], &mut self.interfaces, waiter, counters)
            {
                Ok(taken) => {
                    for train in &rest[..taken] {
                        sent += Sent { packets: train.count, bytes: train.bytes };
                    }
                    at += taken;
                }
                Err(error) if train.count > 1 && refuses_trains(&error) => {
                    tracing::debug!("{}: no trains for now ({error})", train.way.remote);
                    counters.trains_resent.add(1);
                    self.plain = PLAIN_BATCHES;
                }
                Err(error) => {
                    drop_train(train, &error, counters);
                    at += 1;
                }
            }
        }
        if !self.trains.is_empty() {
            self.plain = self.plain.saturating_sub(1);
        }
        self.trains.clear();
        sent
    }
}

impl std::ops::AddAssign for Sent {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// Some paths refuse a train that they would take in single datagrams: no checksum offload (EIO), a segment beyond the MTU (EMSGSIZE,
/// EINVAL), IPsec or an old driver (EOPNOTSUPP).
fn refuses_trains(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::ENOPROTOOPT)
    )
}

fn drop_train(train: &Train, error: &io::Error, counters: &Counters) {
    tracing::trace!("{}: {} datagrams are not sent: {error}", train.way.remote, train.count);
    counters.drop_not_sent.add(train.count);
}

/// One call, repeated while the socket's buffer is full; how many trains it took.
fn send(
    udp: &Udp,
    buffer: &[u8],
    all: &Trains,
    trains: &[Train],
    interfaces: &mut Interfaces,
    waiter: &Waiter,
    counters: &Counters,
) -> io::Result<usize> {
    loop {
        counters.udp_sends.add(1);
        match mmsg::send(udp, buffer, all, trains, interfaces) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => match waiter.writable(udp)? {
                Waited::Again => {}
                Waited::Stopped => return Err(error),
            },
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // An answer to an earlier datagram, told once: this one was not sent yet.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => counters.network_errors.add(1),
            other => return other,
        }
    }
}

fn one_by_one(
    udp: &Udp,
    buffer: &[u8],
    trains: &Trains,
    train: &Train,
    interfaces: &mut Interfaces,
    waiter: &Waiter,
    counters: &Counters,
) -> Sent {
    let mut alone = Trains::new(false);
    trains.datagrams(train).for_each(|place| alone.push(place, &train.way, &[0; 16]));
    let mut sent = Sent::default();
    let mut rest = alone.as_slice();
    while let Some(first) = rest.first() {
        match send(udp, buffer, &alone, rest, interfaces, waiter, counters) {
            Ok(taken) => {
                for train in &rest[..taken] {
                    sent += Sent { packets: 1, bytes: train.bytes };
                }
                rest = &rest[taken..];
            }
            Err(error) => {
                drop_train(first, &error, counters);
                rest = &rest[1..];
            }
        }
    }
    sent
}
