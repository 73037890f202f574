//! What became of the probes of one direction. PURE.

use serde::{Deserialize, Serialize};

use crate::flow::{Quantities, unmeasured};
use crate::judge::expr::Value;
use crate::statistics::statistic;
use crate::timeline::Handover;

const MS: f64 = 1e6;
/// A probe belongs to a handover if it was sent so long before the handover began, so long after probes came again, or between: what was
/// under way then is part of it. In nanoseconds.
const AROUND: u64 = 250_000_000;

/// The probes of one direction; times in nanoseconds of the run's clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// When each was sent, by its number. One that the kernel refused, for there was no network, was sent, too.
    pub sent: Vec<u64>,
    /// What arrived, in that order: number and time.
    pub arrived: Vec<(u32, u64)>,
}

/// Probes, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    sent: u64,
    /// Each number once.
    arrived: u64,
    /// Came behind one with a greater number (RFC 4737, section 3).
    reordered: u64,
    /// Came once more.
    duplicated: u64,
}

impl Counts {
    fn named(&self) -> [(&'static str, u64); 5] {
        [
            ("sent", self.sent),
            ("arrived", self.arrived),
            ("lost", self.sent.saturating_sub(self.arrived)),
            ("reordered", self.reordered),
            ("duplicated", self.duplicated),
        ]
    }
}

impl Way {
    /// Takes note of a probe that says it is `number`, sent at `stamp`, and came at `t`; false if no such was sent.
    pub fn take(&mut self, number: u32, stamp: u64, t: u64) -> bool {
        let is_ours = self.sent.get(number as usize) == Some(&stamp);
        if is_ours {
            self.arrived.push((number, t));
        }
        is_ours
    }

    /// Whether each arrived.
    pub fn is_whole(&self) -> bool {
        self.arrived.len() >= self.sent.len() && self.counts(0, u64::MAX).arrived == self.sent.len() as u64
    }

    /// Counts the probes that were sent from `from` to `until`.
    fn counts(&self, from: u64, until: u64) -> Counts {
        let counts =
            |number: u32| self.sent.get(number as usize).is_some_and(|sent| (from..=until).contains(sent));
        let mut out = Counts {
            sent: self.sent.iter().filter(|sent| (from..=until).contains(*sent)).count() as u64,
            ..Counts::default()
        };
        let mut seen = vec![false; self.sent.len()];
        let mut next = 0;
        for (number, _) in &self.arrived {
            let is_counted = u64::from(counts(*number));
            match seen.get_mut(*number as usize) {
                Some(seen) if !*seen => {
                    *seen = true;
                    out.arrived += is_counted;
                    out.reordered += if *number < next { is_counted } else { 0 };
                }
                _ => out.duplicated += is_counted,
            }
            next = next.max(number.saturating_add(1));
        }
        out
    }

    /// When each arrived, by time.
    fn arrivals(&self) -> Vec<u64> {
        let mut times: Vec<u64> = self.arrived.iter().map(|(_, t)| *t).collect();
        times.sort_unstable();
        times
    }

    /// The longest time without an arrival of those that end after `from` and begin before `until`: its begin and its end. `None` where nothing
    /// came any more, or nothing had come.
    fn silence(&self, from: u64, until: u64) -> Option<(u64, u64)> {
        let times = self.arrivals();
        let pairs = times.windows(2).map(|pair| (pair[0], pair[1]));
        let longest = pairs
            .filter(|(begin, end)| *end > from && *begin < until)
            .max_by_key(|(begin, end)| end.saturating_sub(*begin))?;
        // Probes that were under way when the network went may come after `from`, and yet be the last.
        let last_sent = self.sent.iter().rev().find(|sent| **sent < until);
        let unbroken = times.last().zip(last_sent).map_or(0, |(last, sent)| sent.saturating_sub(*last));
        (unbroken < longest.1 - longest.0).then_some(longest)
    }

    /// The quantities of a flow in this direction, whose names begin with `way`.
    pub fn quantities(&self, way: &str) -> Quantities {
        let mut out = Quantities::new();
        for (name, count) in self.counts(0, u64::MAX).named() {
            out.insert(format!("{way}_{name}"), Ok(Value::Number(count as f64)));
        }
        let sent = |number: &u32| self.sent.get(*number as usize).copied().unwrap_or_default();
        let delays: Vec<f64> =
            self.arrived.iter().map(|(number, t)| t.saturating_sub(sent(number)) as f64 / MS).collect();
        for (name, which) in [("delay_p50_ms", "p50"), ("delay_p95_ms", "p95")] {
            let delay = statistic(&delays, which).map(Value::Number);
            out.insert(format!("{way}_{name}"), delay.map_err(|_| "no probe arrived".to_owned()));
        }
        let stall = self.arrivals().windows(2).map(|pair| pair[1] - pair[0]).max();
        out.insert(
            format!("{way}_longest_stall_ms"),
            stall
                .map(|stall| Value::Number(stall as f64 / MS))
                .ok_or_else(|| "less than two probes arrived".to_owned()),
        );
        out
    }

    /// What `handover` did to this direction; `until` is when the next one began. The names begin with `way`.
    pub fn handover(&self, handover: &Handover, until: u64, way: &str) -> Quantities {
        let names = HANDOVER.map(|name| format!("{way}_{name}"));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let began = handover.began();
        if !self.sent.iter().any(|sent| *sent < began) || !self.sent.iter().any(|sent| *sent > began) {
            return unmeasured(&names, "no probes were sent before and after the handover");
        }
        // What is under way when the next one begins is the next one's.
        let until = until.saturating_sub(AROUND);
        let silence = self.silence(began, until);
        let resumed = silence.map_or(until, |(_, end)| end.max(handover.joined).saturating_add(AROUND));
        let counts = self.counts(began.saturating_sub(AROUND), resumed.min(until));
        let mut out: Quantities = counts
            .named()
            .into_iter()
            .filter(|(name, _)| HANDOVER.contains(name))
            .map(|(name, count)| (format!("{way}_{name}"), Ok(Value::Number(count as f64))))
            .collect();
        let interruption = silence
            .map(|(begin, end)| Value::Number(((end - begin) as f64 - handover.gap.as_nanos() as f64) / MS))
            .ok_or_else(|| "no probe came before and after the handover".to_owned());
        out.insert(format!("{way}_interruption_ms"), interruption);
        out
    }
}

/// What a handover does to a direction.
const HANDOVER: [&str; 4] = ["interruption_ms", "lost", "reordered", "duplicated"];

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const MILLI: u64 = 1_000_000;

    /// A probe every 10 ms for 2 s, each of which takes 4 ms, but for those that `fate` gives another time or none.
    fn way(fate: impl Fn(u64) -> Option<u64>) -> Way {
        let sent: Vec<u64> = (0..200).map(|number| 1000 * MILLI + number * 10 * MILLI).collect();
        let mut out = Way { sent: sent.clone(), arrived: Vec::new() };
        let mut coming: Vec<(u64, u32)> = (0..200)
            .filter_map(|number| Some((sent[number as usize] + fate(number)? * MILLI, number as u32)))
            .collect();
        coming.sort_unstable();
        for (t, number) in coming {
            assert!(out.take(number, sent[number as usize], t));
        }
        out
    }

    /// MN leaves at 2000 ms, and is in its new network 102 ms later.
    fn moved() -> Handover {
        Handover {
            node: "mn".into(),
            from: "a".into(),
            to: "b".into(),
            gap: Duration::from_millis(100),
            left: 2000 * MILLI,
            joined: 2102 * MILLI,
        }
    }

    fn number(quantities: &Quantities, name: &str) -> f64 {
        match &quantities[name] {
            Ok(Value::Number(number)) => *number,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn the_interruption_is_the_silence_without_the_gap() {
        // Sent from 1990 to 2140 ms: lost. The last before comes at 1984, the first after at 2154.
        let way = way(|number| (!(99..=114).contains(&number)).then_some(4));
        let measured = way.handover(&moved(), u64::MAX, "out");
        assert_eq!(number(&measured, "out_interruption_ms"), 170.0 - 100.0);
        assert_eq!((number(&measured, "out_lost"), number(&measured, "out_reordered")), (16.0, 0.0));
    }

    #[test]
    fn what_is_lost_elsewhere_is_not_the_handovers() {
        let lost = |number: u64| number != 20 && number != 180 && !(100..=113).contains(&number);
        let way = way(|number| lost(number).then_some(4));
        assert_eq!(number(&way.handover(&moved(), u64::MAX, "in"), "in_lost"), 14.0);
        assert_eq!(number(&way.quantities("in"), "in_lost"), 16.0);
    }

    #[test]
    fn one_that_is_overtaken_is_reordered_and_one_that_comes_again_duplicated() {
        let mut way = way(|number| Some(if number == 110 { 45 } else { 4 }));
        way.arrived.push((150, 2600 * MILLI));
        let measured = way.handover(&moved(), u64::MAX, "out");
        assert_eq!((number(&measured, "out_reordered"), number(&measured, "out_duplicated")), (1.0, 0.0));
        let all = way.quantities("out");
        assert_eq!((number(&all, "out_reordered"), number(&all, "out_duplicated")), (1.0, 1.0));
        assert_eq!((number(&all, "out_arrived"), number(&all, "out_lost")), (200.0, 0.0));
        assert_eq!(number(&all, "out_delay_p50_ms"), 4.0);
    }

    /// Of two handovers each has its own losses and its own silence.
    #[test]
    fn a_silence_of_the_next_handover_is_not_this_ones() {
        let second = Handover { left: 2600 * MILLI, joined: 2702 * MILLI, ..moved() };
        let way =
            way(|number| (!(100..=112).contains(&number) && !(160..=190).contains(&number)).then_some(4));
        let first = way.handover(&moved(), second.left, "out");
        assert_eq!((number(&first, "out_interruption_ms"), number(&first, "out_lost")), (40.0, 13.0));
        let second = way.handover(&second, u64::MAX, "out");
        assert_eq!((number(&second, "out_interruption_ms"), number(&second, "out_lost")), (220.0, 31.0));
    }

    #[test]
    fn a_path_that_does_not_come_back_has_no_interruption() {
        // One was under way when the network went.
        let way = way(|number| (number <= 100).then_some(4));
        let measured = way.handover(&moved(), u64::MAX, "out");
        assert!(measured["out_interruption_ms"].is_err());
        assert_eq!(number(&measured, "out_lost"), 99.0);
        let before = Handover { left: 500 * MILLI, joined: 600 * MILLI, ..moved() };
        assert!(way.handover(&before, u64::MAX, "out").values().all(Result::is_err));
    }

    #[test]
    fn a_strangers_datagram_is_not_taken() {
        let mut way = way(|_| Some(4));
        assert!(!way.take(3, 17, 5) && !way.take(7000, 17, 5) && way.is_whole());
    }
}
