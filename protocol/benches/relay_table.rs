//! What a relay's tables cost with 1, 1,000 and 1,000,000 entries: finding where a data packet of one of them goes, renewing an entry's end, and
//! forgetting one and taking another.
//!
//! `cargo bench -p ntm-protocol --bench relay_table`. With a million entries the tables leave the caches, and nothing else changes.

use std::net::SocketAddr;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use ntm_protocol::addr::PathId;
use ntm_protocol::data::{DataUpdate, Inbound, Verdict};
use ntm_protocol::expiry::Idle;
use ntm_protocol::time::{Duration, Instant};

fn main() {
    divan::main();
}

const ENTRIES: [u64; 3] = [1, 1000, 1_000_000];
/// Operations of one sample, each on an entry that has nothing to do with the one before.
const STEPS: u64 = 1000;

/// The `n`th Path ID: as random as those of a DC.
fn path(n: u64) -> PathId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&mixed(n).to_le_bytes());
    bytes[8..].copy_from_slice(&mixed(!n).to_le_bytes());
    PathId(bytes)
}

/// SplitMix64.
fn mixed(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn end(port: u16) -> Option<SocketAddr> {
    Some(SocketAddr::from(([192, 0, 2, 1], port)))
}

fn switch(path: PathId) -> DataUpdate {
    DataUpdate::Switch { path, ends: [end(1), end(2)] }
}

fn table(entries: u64) -> Inbound {
    let mut table = Inbound::default();
    (0..entries).for_each(|n| table.apply(&switch(path(n))));
    table
}

fn index(entries: u64) -> Idle<PathId> {
    let mut index = Idle::new(Duration::from_secs(300));
    (0..entries).for_each(|n| index.used(path(n), Instant::from_nanos(n)));
    index
}

/// Where a data packet goes.
#[divan::bench(args = ENTRIES)]
fn look_up(bencher: Bencher, entries: u64) {
    let mut table = table(entries);
    let mut datagram = [0; 248];
    datagram[..2].copy_from_slice(&[1, 0x30]);
    let mut n = 0;
    bencher.counter(ItemsCount::new(STEPS)).bench_local(|| {
        for _ in 0..STEPS {
            n += 1;
            datagram[16..32].copy_from_slice(&path(mixed(n) % entries).0);
            assert!(matches!(table.judge(black_box(&mut datagram)), Verdict::Forward(_)));
        }
    });
}

/// An entry is used: it ends later, and what is due is asked for.
#[divan::bench(args = ENTRIES)]
fn renew(bencher: Bencher, entries: u64) {
    let mut index = index(entries);
    let mut n = entries;
    bencher.counter(ItemsCount::new(STEPS)).bench_local(|| {
        for _ in 0..STEPS {
            n += 1;
            let now = Instant::from_nanos(n);
            index.used(black_box(path(mixed(n) % entries)), now);
            assert_eq!(index.due(now), None);
        }
    });
}

/// An entry ends, and another is made, in both tables.
#[divan::bench(args = ENTRIES)]
fn replace(bencher: Bencher, entries: u64) {
    let (mut table, mut index) = (table(entries), index(entries));
    let mut n = entries;
    bencher.counter(ItemsCount::new(STEPS)).bench_local(|| {
        for _ in 0..STEPS {
            let (old, new) = (path(n - entries), path(n));
            n += 1;
            index.clear(old);
            table.apply(&DataUpdate::Forget { path: old });
            index.used(new, Instant::from_nanos(n));
            table.apply(&switch(new));
        }
    });
}
