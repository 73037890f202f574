//! What the data threads count.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

macro_rules! counters {
    ($($(#[doc = $doc:expr])+ $name:ident,)+) => {
        /// Counters that the data threads raise and anyone may read.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($(#[doc = $doc])+ pub(crate) $name: Counter,)+
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Counts {
                Counts { $($name: self.$name.get(),)+ }
            }
        }

        /// What the data threads counted since the plane started. Bytes of inner packets are those of whole IPv4 packets, bytes of
        /// datagrams those of UDP payload.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
        pub struct Counts {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }
    };
}

counters! {
    /// Reads of the TUN; each brings a packet or a train.
    tun_reads,
    /// Packets from the TUN, trains split.
    tun_in_packets,
    /// Bytes of them.
    tun_in_bytes,
    /// Writes to the TUN; each takes a packet or a train.
    tun_writes,
    /// Packets to the TUN.
    tun_out_packets,
    /// Bytes of them.
    tun_out_bytes,
    /// Calls that received datagrams.
    udp_receives,
    /// Datagrams received, those of the control side included.
    udp_in_packets,
    /// Bytes of them.
    udp_in_bytes,
    /// Calls that sent datagrams.
    udp_sends,
    /// Sealed datagrams sent.
    udp_out_packets,
    /// Bytes of them.
    udp_out_bytes,
    /// Datagrams passed on unchanged (RS-S).
    forwarded_packets,
    /// Bytes of them.
    forwarded_bytes,
    /// Datagrams handed to the control side.
    control_packets,
    /// Trains that the kernel would not send as one, and that were sent packet by packet.
    trains_resent,
    /// Dropped from the TUN: no path leads to the destination.
    drop_no_path,
    /// Dropped from the TUN: the path to the destination is lost.
    drop_lost,
    /// Packets from the TUN that were cut up, for they were longer than their path's MTU.
    cut_up,
    /// Dropped from the TUN: longer than the path's MTU, and not to be cut up; its sender is told.
    drop_too_big,
    /// Answers to the senders of packets that were not sent.
    answers,
    /// Dropped from the TUN: no well-formed IPv4 packet.
    drop_malformed,
    /// Dropped from the TUN: too large to seal.
    drop_too_large,
    /// Dropped from the network: the table refused it.
    drop_refused,
    /// Dropped from the network: it did not fit the buffer.
    drop_truncated,
    /// Dropped from the network: the control side was behind.
    drop_control_full,
    /// Dropped from the network: for a general node that has only IPv6, and of a kind that IPv6 does not carry.
    drop_not_translated,
    /// Dropped from the network: for the TUN, and this node has none, or the TUN would not take it.
    drop_not_delivered,
    /// Dropped to the network: the kernel would not send it.
    drop_not_sent,
    /// Errors of the network that the kernel told the socket of (port or host unreachable).
    network_errors,
    /// Notices of single drops that the control side was too slow to take.
    notices_lost,
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, by: usize) {
        // Read by people only: no other value hangs on it.
        self.0.fetch_add(by as u64, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
