//! What a data packet costs: sealing and opening, alone and in batches, for each suite and for short and full packets; and the
//! checksums inside.
//!
//! `cargo bench -p ntm-protocol --bench packets`. Only ratios within one run mean anything on a machine that does other things besides.

use std::ops::Range;
use std::sync::Arc;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use ntm_protocol::addr::PathId;
use ntm_protocol::crypto::{DataKeys, SharedKey, Suite, sealed_len};
use ntm_protocol::data::{DataUpdate, Flow, Inbound, Outbound, Verdict};
use ntm_protocol::inner::checksum::sum;
use ntm_protocol::wire::{HEADER_LEN, Role};

fn main() {
    divan::main();
}

const SUITES: [Suite; 3] = Suite::ALL;
/// Inner packets of a batch: what one read of the TUN brings at most.
const BATCH: usize = 44;

fn keys(suite: Suite) -> Arc<DataKeys> {
    Arc::new(DataKeys::new(&SharedKey::new([9; 32]), PathId([5; 16]), 0, suite, Role::Initiator))
}

fn flow() -> Flow {
    Flow { source: [198, 18, 0, 1].into(), destination: [198, 18, 0, 2].into() }
}

/// An inner packet of `length` bytes.
fn packet(length: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; length];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    packet[12..16].copy_from_slice(&flow().source.octets());
    packet[16..20].copy_from_slice(&flow().destination.octets());
    packet
}

fn sender(suite: Suite) -> Outbound {
    let mut out = Outbound::default();
    let remote = "192.0.2.1:4330".parse().expect("an address");
    out.apply(&DataUpdate::Send { flow: flow(), remote, keys: keys(suite), first: 1 });
    out
}

/// A batch of sealed datagrams, one behind the other, and their places.
fn sealed(suite: Suite, length: usize) -> (Vec<u8>, Vec<Range<usize>>) {
    let (mut out, inner) = (sender(suite), packet(length));
    let size = sealed_len(suite, length);
    let mut buffer = vec![0; size * BATCH];
    let places: Vec<_> = (0..BATCH).map(|n| n * size..(n + 1) * size).collect();
    for place in &places {
        out.seal(&inner, &mut buffer[place.clone()]).expect("sealed");
    }
    (buffer, places)
}

#[divan::bench(args = SUITES, consts = [200, 1424])]
fn seal_alone<const LENGTH: usize>(bencher: Bencher, suite: &Suite) {
    let (mut out, inner) = (sender(*suite), packet(LENGTH));
    let mut buffer = vec![0; 2000];
    bencher.counter(BytesCount::new(LENGTH)).bench_local(|| out.seal(black_box(&inner), &mut buffer).is_ok());
}

#[divan::bench(args = SUITES, consts = [200, 1424])]
fn seal_a_batch<const LENGTH: usize>(bencher: Bencher, suite: &Suite) {
    let (mut out, inner) = (sender(*suite), packet(LENGTH));
    let (mut buffer, places) = sealed(*suite, LENGTH);
    bencher.counter(BytesCount::new(LENGTH * BATCH)).bench_local(|| {
        for place in &places {
            let datagram = &mut buffer[place.clone()];
            datagram[HEADER_LEN..HEADER_LEN + LENGTH].copy_from_slice(black_box(&inner));
            out.place(LENGTH, datagram).expect("placed");
        }
        out.seal_placed(&mut buffer, &places);
    });
}

#[divan::bench(args = SUITES, consts = [200, 1424])]
fn open_alone<const LENGTH: usize>(bencher: Bencher, suite: &Suite) {
    let (buffer, places) = sealed(*suite, LENGTH);
    let datagram = buffer[places[0].clone()].to_vec();
    bencher
        .counter(BytesCount::new(LENGTH))
        .with_inputs(|| (receiver(*suite), datagram.clone()))
        .bench_local_refs(|(table, datagram)| table.judge(datagram) != Verdict::Control);
}

#[divan::bench(args = SUITES, consts = [200, 1424])]
fn open_a_batch<const LENGTH: usize>(bencher: Bencher, suite: &Suite) {
    let (buffer, places) = sealed(*suite, LENGTH);
    let mut verdicts = Vec::new();
    bencher
        .counter(BytesCount::new(LENGTH * BATCH))
        .with_inputs(|| (receiver(*suite), buffer.clone()))
        .bench_local_refs(|(table, buffer)| {
            table.judge_all(buffer, &places, &mut verdicts);
            assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Deliver(_))));
        });
}

/// Of a header alone, a short packet and a full one.
#[divan::bench(args = [20, 200, 1400])]
fn checksum(bencher: Bencher, length: usize) {
    let packet = packet(length);
    bencher
        .counter(BytesCount::new(length * BATCH))
        .bench_local(|| (0..BATCH).fold(0, |total, _| total ^ sum(black_box(&packet), 0)));
}

fn receiver(suite: Suite) -> Inbound {
    let mut table = Inbound::default();
    table.apply(&DataUpdate::Receive { flow: flow(), keys: keys(suite) });
    table
}
