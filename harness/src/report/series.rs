//! What is plotted over time, from the run's recordings: each flow's bytes at the node that gets them, and the round trips of pings.
//! PURE.

use serde::Serialize;

use crate::capture::Packet;
use crate::capture::packet::Content;

/// The shortest bin.
const BIN_MS: u64 = 50;
/// A curve has at most so many bins; longer runs have longer bins.
const MOST: u64 = 12_000;
const MS: u64 = 1_000_000;

/// `series.json`: curves over time, which begins with the run's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Series {
    /// Milliseconds of a bin.
    pub bin_ms: u64,
    /// One for each flow and direction that carried data.
    pub throughput: Vec<Throughput>,
    /// One for each ping.
    pub rtt: Vec<RoundTrips>,
}

/// A flow's data in one direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Throughput {
    /// The flow.
    pub flow: String,
    /// The node that sent.
    pub from: String,
    /// The node that got, where it was measured.
    pub to: String,
    /// Bytes of data in each bin, as the application got them.
    pub bytes: Vec<u64>,
}

/// A ping's round trips.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoundTrips {
    /// The flow.
    pub flow: String,
    /// Who asked.
    pub from: String,
    /// Who answered.
    pub to: String,
    /// When a request was sent, in milliseconds, and how many it took; `None` without an answer.
    pub points: Vec<(f64, Option<f64>)>,
}

/// The length of bins for a run of `nanos`, in milliseconds.
pub fn bin_ms(nanos: u64) -> u64 {
    (nanos / MS / MOST / BIN_MS + 1) * BIN_MS
}

/// Which way data goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the node whose server has the flow's port.
    ToServer,
    /// From there to the client.
    ToClient,
}

/// Bytes of data that came in `packets`, those of the receiver's interfaces, with a flow's server `port`; bins from `start` on.
pub fn bytes<'a>(
    packets: impl Iterator<Item = &'a Packet>,
    port: u16,
    way: Way,
    start: u64,
    bin_ms: u64,
) -> Vec<u64> {
    let mut out = Vec::new();
    for packet in packets.filter(|packet| !packet.outgoing && packet.t >= start) {
        let own = match way {
            Way::ToServer => packet.destination.port(),
            Way::ToClient => packet.source.port(),
        };
        let (Content::Tcp { data, .. } | Content::Udp(data)) = packet.content else { continue };
        if own != port || data == 0 {
            continue;
        }
        let bin = usize::try_from((packet.t - start) / (bin_ms * MS)).unwrap_or(usize::MAX);
        // A clock that jumps must not cost memory.
        if bin >= 2 * MOST as usize {
            continue;
        }
        if out.len() <= bin {
            out.resize(bin + 1, 0);
        }
        out[bin] += u64::from(data);
    }
    out
}

/// The round trips that `ping -D` printed: each line has the wall clock's time of the answer. `offset` is that clock less the run's, in
/// nanoseconds, `interval` the time between requests, in milliseconds.
pub fn round_trips(printed: &str, offset: u64, start: u64, interval: f64) -> Vec<(f64, Option<f64>)> {
    let mut out: Vec<(f64, Option<f64>)> = Vec::new();
    let mut last = None;
    let mut answers: Vec<(u64, f64, f64)> = printed.lines().filter_map(answer).collect();
    // Answers may overtake one another.
    answers.sort_by_key(|(sequence, ..)| *sequence);
    answers.dedup_by_key(|(sequence, ..)| *sequence);
    for (sequence, wall, rtt) in answers {
        let sent = (wall * 1e9 - offset as f64 - start as f64) / 1e6 - rtt;
        if let Some((before, at)) = last {
            let lost =
                (before + 1..sequence).map(|number: u64| (at + (number - before) as f64 * interval, None));
            out.extend(lost);
        }
        out.push((sent, Some(rtt)));
        last = Some((sequence, sent));
    }
    out
}

/// `[1795590775.123456] 64 bytes from 198.18.128.1: icmp_seq=1 ttl=63 time=5.30 ms`: sequence number, time, milliseconds.
fn answer(line: &str) -> Option<(u64, f64, f64)> {
    let (wall, rest) = line.strip_prefix('[')?.split_once(']')?;
    let after = |name: &str| rest.split_once(name)?.1.split_whitespace().next();
    Some((after("icmp_seq=")?.parse().ok()?, wall.parse().ok()?, after("time=")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_where_they_arrive_and_one_way() {
        let packet = |t: u64, outgoing: bool, ports: (u16, u16), data: u32| Packet {
            t,
            outgoing,
            source: format!("10.0.0.1:{}", ports.0).parse().unwrap(),
            destination: format!("10.0.0.2:{}", ports.1).parse().unwrap(),
            content: Content::Tcp { opens: false, data },
        };
        let packets = [
            packet(5, false, (9, 5201), 1000),
            packet(10 * MS, false, (9, 5201), 100),
            packet(20 * MS, true, (5201, 9), 7),
            packet(70 * MS, false, (5201, 9), 30),
            packet(170 * MS, false, (9, 5201), 5),
            packet(170 * MS, false, (9, 5202), 5),
        ];
        let to = |way: Way| bytes(packets.iter(), 5201, way, 10, 50);
        assert_eq!(to(Way::ToServer), [100, 0, 0, 5], "what came before time began does not count");
        assert_eq!(to(Way::ToClient), [0, 30]);
    }

    #[test]
    fn a_request_without_an_answer_is_shown_at_its_time() {
        let printed = "PING x (198.18.0.2) 56(84) bytes of data.\n\
            [100.010] 64 bytes from 198.18.0.2: icmp_seq=1 ttl=63 time=10.0 ms\n\
            [100.220] 64 bytes from 198.18.0.2: icmp_seq=3 ttl=63 time=20.0 ms\n";
        let rounded = round_trips(printed, 90_000_000_000, 9_000_000_000, 100.0)
            .into_iter()
            .map(|(at, rtt)| (at.round(), rtt))
            .collect::<Vec<_>>();
        assert_eq!(rounded, [(1000.0, Some(10.0)), (1100.0, None), (1200.0, Some(20.0))]);
    }

    #[test]
    fn long_runs_have_longer_bins() {
        assert_eq!((bin_ms(10_000 * MS), bin_ms(1_800_000 * MS)), (50, 200));
    }
}
