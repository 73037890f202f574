//! What a relay's tables cost with 1, 1,000 and 1,000,000 entries: finding where a data packet of one of them goes, renewing an entry's end, and
//! forgetting one and taking another.
//!
//! `cargo bench -p ntm-protocol --bench relay_table`. With a million entries the tables leave the caches, and nothing else changes.

use std::net::SocketAddr;
use std::ops::Range;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use ntm_protocol::addr::PathId;
use ntm_protocol::data::{DataUpdate, Inbound, Verdict};
use ntm_protocol::expiry::{Idle, Place};
use ntm_protocol::time::{Duration, Instant};

fn main() {
    divan::main();
}

const ENTRIES: [u64; 3] = [1, 1000, 1_000_000];
/// Operations of one sample, each on an entry that has nothing to do with the one before.
const STEPS: u64 = 1024;
/// Datagrams that the data thread judges together.
const BATCH: usize = 32;

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

fn index(entries: u64) -> (Idle<PathId>, Vec<Place>) {
    let mut index = Idle::new(Duration::from_secs(300));
    let places = (0..entries).map(|n| index.begin(path(n), Instant::from_nanos(n))).collect();
    (index, places)
}

/// Where the data packets of a batch go, each of another path, as a relay's data thread asks it.
#[divan::bench(args = ENTRIES)]
fn look_up(bencher: Bencher, entries: u64) {
    let mut table = table(entries);
    let places: Vec<Range<usize>> = (0..BATCH).map(|n| n * 248..(n + 1) * 248).collect();
    let mut buffer = vec![0; BATCH * 248];
    places.iter().for_each(|place| buffer[place.start..place.start + 2].copy_from_slice(&[1, 0x30]));
    let (mut n, mut verdicts) = (0, Vec::new());
    bencher.counter(ItemsCount::new(STEPS)).bench_local(|| {
        for _ in 0..STEPS / BATCH as u64 {
            for place in &places {
                n += 1;
                buffer[place.start + 16..place.start + 32].copy_from_slice(&path(mixed(n) % entries).0);
            }
            table.judge_all(black_box(&mut buffer), &places, &mut verdicts);
            assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Forward(_))));
        }
    });
}

/// Where a data packet goes that came alone.
#[divan::bench(args = ENTRIES)]
fn look_up_alone(bencher: Bencher, entries: u64) {
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
    let (mut index, places) = index(entries);
    let mut n = entries;
    bencher.counter(ItemsCount::new(STEPS)).bench_local(|| {
        for _ in 0..STEPS {
            n += 1;
            let now = Instant::from_nanos(n);
            index.used(black_box(places[(mixed(n) % entries) as usize]), now);
            assert_eq!(index.due(now), None);
        }
    });
}

/// An entry ends, and another is made, in both tables.
#[divan::bench(args = ENTRIES)]
fn replace(bencher: Bencher, entries: u64) {
    let (mut table, (mut index, mut places)) = (table(entries), index(entries));
    let mut n = entries;
    bencher.counter(ItemsCount::new(STEPS)).bench_local(|| {
        for _ in 0..STEPS {
            let (old, new) = (path(n - entries), path(n));
            let place = &mut places[(n % entries) as usize];
            n += 1;
            index.clear(*place);
            table.apply(&DataUpdate::Forget { path: old });
            *place = index.begin(new, Instant::from_nanos(n));
            table.apply(&switch(new));
        }
    });
}
