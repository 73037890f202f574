//! How often which length of time occurred. PURE.

use serde::Serialize;

use ntm_protocol::time::Duration;

/// Each doubling is cut into this many equal parts, so that a value is known to 3 %.
const PARTS: usize = 1 << PART_BITS;
const PART_BITS: u32 = 5;
/// Longer times than about a minute count as that.
const BUCKETS: usize = 32 * PARTS;

/// Lengths of time, counted. Adding one costs the same however many there are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(into = "Summary")]
pub struct Histogram {
    counts: Vec<u64>,
    count: u64,
    sum: u128,
    least: u64,
    most: u64,
}

/// What a report shows of a histogram, in microseconds.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Summary {
    /// How many there were. Without any, all else is zero.
    pub count: u64,
    /// The shortest.
    pub min_us: f64,
    /// The mean.
    pub mean_us: f64,
    /// A twentieth was shorter.
    pub p05_us: f64,
    /// Half was shorter.
    pub p50_us: f64,
    /// All but a twentieth were shorter.
    pub p95_us: f64,
    /// All but a hundredth were shorter.
    pub p99_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], count: 0, sum: 0, least: u64::MAX, most: 0 }
    }
}

impl Histogram {
    /// Counts one more.
    pub fn add(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.count += 1;
        self.sum += u128::from(nanos);
        self.least = self.least.min(nanos);
        self.most = self.most.max(nanos);
    }

    /// Counts all that `other` did.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.count += other.count;
        self.sum += other.sum;
        self.least = self.least.min(other.least);
        self.most = self.most.max(other.most);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The time that the share `share` (0 to 1) did not exceed, to 3 %; zero if none was counted.
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        let nanos = found.map_or(0, |bucket| middle(bucket).clamp(self.least, self.most));
        Duration::from_nanos(nanos)
    }

    /// The share (0 to 1) that did not exceed `time`, to the histogram's precision; 1 if none was counted.
    pub fn within(&self, time: Duration) -> f64 {
        let last = bucket(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        let seen: u64 = self.counts[..=last].iter().sum();
        if self.count == 0 { 1.0 } else { seen as f64 / self.count as f64 }
    }

    /// What a report shows.
    pub fn summary(&self) -> Summary {
        if self.count == 0 {
            return Summary::default();
        }
        let us = |nanos: u64| nanos as f64 / 1e3;
        let at = |share| self.quantile(share).as_nanos() as f64 / 1e3;
        Summary {
            count: self.count,
            min_us: us(self.least),
            mean_us: self.sum as f64 / self.count as f64 / 1e3,
            p05_us: at(0.05),
            p50_us: at(0.5),
            p95_us: at(0.95),
            p99_us: at(0.99),
            max_us: us(self.most),
        }
    }
}

impl From<Histogram> for Summary {
    fn from(histogram: Histogram) -> Self {
        histogram.summary()
    }
}

/// Small values have a bucket each; above, the doubling and the part of it.
fn bucket(nanos: u64) -> usize {
    if nanos < PARTS as u64 {
        return nanos as usize;
    }
    let doubling = nanos.ilog2() - PART_BITS;
    let part = (nanos >> doubling) as usize - PARTS;
    ((doubling as usize + 1) * PARTS + part).min(BUCKETS - 1)
}

/// The middle of a bucket's values.
fn middle(bucket: usize) -> u64 {
    let (row, part) = (bucket / PARTS, (bucket % PARTS) as u64);
    match row.checked_sub(1) {
        None => part,
        Some(doubling) => ((PARTS as u64 + part) << doubling) + (1 << doubling) / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_again_to_three_per_cent() {
        for nanos in (0..36).flat_map(|shift| [1u64 << shift, (1 << shift) + (1 << shift) / 3]) {
            let found = middle(bucket(nanos)) as f64;
            assert!((found - nanos as f64).abs() <= 0.032 * nanos as f64, "{nanos}: {found}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_and_shares_are_those_of_what_was_added() {
        let mut histogram = Histogram::default();
        for us in 1..=1000 {
            histogram.add(Duration::from_micros(us));
        }
        let near = |value: f64, wanted: f64| {
            assert!((value / wanted - 1.0).abs() < 0.035, "{value} is not {wanted}")
        };
        let summary = histogram.summary();
        assert_eq!(
            (summary.count, summary.min_us, summary.max_us, summary.mean_us),
            (1000, 1.0, 1000.0, 500.5)
        );
        near(summary.p05_us, 50.0);
        near(summary.p50_us, 500.0);
        near(summary.p99_us, 990.0);
        near(histogram.within(Duration::from_micros(200)), 0.2);
        assert_eq!(histogram.within(Duration::from_secs(1)), 1.0);
    }

    #[test]
    fn an_empty_one_is_all_zero() {
        let histogram = Histogram::default();
        assert_eq!((histogram.summary(), histogram.quantile(0.5)), (Summary::default(), Duration::ZERO));
    }
}
