//! Whether the machine disturbed a run. PURE but for [`watch`]: what was sampled in, stretches of disturbance out.
//!
//! While a run lasts the machine is [watched](watch): how busy its processors are, how much of them the hypervisor took away, how long
//! programs waited for memory, whether its kernel dropped packets for reasons of its own, and whether processors [stood still](pulse); and the links in user space tell how late they were. Where any of it went beyond its [`Bounds`], what was
//! measured in that time is not to be relied on: an expectation that fails on it alone is inconclusive ([`crate::judge::excuse`]).

pub(crate) mod again;
pub mod pulse;
pub mod watch;

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::wire::{Achieved, Report};

/// `[disturbance]`: beyond what a run counts as disturbed. A share of 1 is never exceeded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bounds {
    /// The length of time over which shares are taken.
    pub window: Duration,
    /// Share of the processors' time that the hypervisor gave to others.
    pub steal: f64,
    /// Share of the processors' time that was used, where a link is to be the bottleneck.
    pub busy: f64,
    /// Share of time in which some program waited for memory.
    pub memory: f64,
    /// How late a link in user space may deliver more than a twentieth of its frames.
    pub late: Duration,
    /// How long a processor may stand still.
    pub still: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            window: Duration::from_millis(500),
            steal: 0.05,
            busy: 0.95,
            memory: 0.1,
            late: Duration::from_millis(1),
            still: Duration::from_millis(20),
        }
    }
}

/// What the machine's counters showed at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sample {
    /// Nanoseconds of the run's clock.
    pub t: u64,
    /// All processors' time so far, in ticks.
    pub total: u64,
    /// Of this, with nothing to do.
    pub idle: u64,
    /// Of this, taken away by the hypervisor.
    pub steal: u64,
    /// Microseconds in which some program waited for memory, where the kernel tells (PSI).
    pub waited: Option<u64>,
    /// How often the kernel found its tables of neighbours full, where it tells.
    pub neighbours: Option<u64>,
    /// Packets that it dropped because a processor's queue of them was full.
    pub backlog: Option<u64>,
}

/// What disturbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The hypervisor gave the processors to others.
    Steal,
    /// All processors were busy.
    Busy,
    /// Programs waited for memory.
    Memory,
    /// A link in user space delivered late.
    Late,
    /// A processor ran nothing at all: the hypervisor halted it, or its kernel was held up.
    Still,
    /// The kernel's tables of neighbours (ARP, NDP), which all network namespaces share, were full.
    Neighbours,
    /// A processor's queue of received packets, which all network namespaces share, was full.
    Backlog,
}

impl Cause {
    const ALL: [Self; 7] =
        [Self::Steal, Self::Busy, Self::Memory, Self::Late, Self::Still, Self::Neighbours, Self::Backlog];

    fn words(self) -> &'static str {
        match self {
            Self::Steal => "the hypervisor took processors away",
            Self::Busy => "all processors were busy",
            Self::Memory => "programs waited for memory",
            Self::Late => "the links in user space were late",
            Self::Still => "a processor stood still",
            Self::Neighbours => {
                "packets were lost, for the kernel's table of neighbours, which all worlds share, was full (raise net.ipv4.neigh.default.gc_thresh3, or run fewer at once)"
            }
            Self::Backlog => {
                "packets were lost, for the kernel's queue of them, which all worlds share, was full (raise net.core.netdev_max_backlog)"
            }
        }
    }
}

/// A stretch of time in which the run was disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Disturbance {
    /// By what.
    pub cause: Cause,
    /// From when on, in nanoseconds of the trace's clock.
    pub from: u64,
    /// Until when.
    pub to: u64,
    /// The worst of it: a share; with `late` and `still` seconds; with `neighbours` and `backlog` how often in a window.
    pub worst: f64,
    /// What it went beyond, the same.
    pub bound: f64,
}

/// The stretches in which `samples`, sorted by time, went beyond `bounds`. Busy processors count only from `carries` on, when links carry
/// what is measured; `None` where no link is to be the bottleneck.
pub fn find(samples: &[Sample], bounds: &Bounds, carries: Option<u64>) -> Vec<Disturbance> {
    let mut out = Vec::new();
    for cause in [Cause::Steal, Cause::Busy, Cause::Memory, Cause::Neighbours, Cause::Backlog] {
        let mut open: Option<Disturbance> = None;
        for pair in samples.windows(2) {
            let [from, to] = pair else { continue };
            let spent = to.total.saturating_sub(from.total) as f64;
            let of = |part: fn(&Sample) -> u64| part(to).saturating_sub(part(from)) as f64;
            let told = |part: fn(&Sample) -> Option<u64>| {
                part(to).zip(part(from)).map_or(0.0, |(to, from)| to.saturating_sub(from) as f64)
            };
            let (worst, bound) = match cause {
                Cause::Steal if spent > 0.0 => (of(|it| it.steal) / spent, bounds.steal),
                Cause::Busy if spent > 0.0 && carries.is_some_and(|since| from.t >= since) => {
                    (1.0 - of(|it| it.idle) / spent, bounds.busy)
                }
                Cause::Memory => {
                    let length = to.t.saturating_sub(from.t) as f64 / 1e3;
                    ((told(|it| it.waited) / length.max(1.0)).min(1.0), bounds.memory)
                }
                Cause::Neighbours => (told(|it| it.neighbours), 0.0),
                Cause::Backlog => (told(|it| it.backlog), 0.0),
                _ => (0.0, 1.0),
            };
            match &mut open {
                Some(stretch) if worst > bound => {
                    (stretch.to, stretch.worst) = (to.t, stretch.worst.max(worst));
                }
                _ if worst > bound => {
                    open = Some(Disturbance { cause, from: from.t, to: to.t, worst, bound });
                }
                _ => out.extend(open.take()),
            }
        }
        out.extend(open);
    }
    out
}

/// The links in user space that delivered later than they may, each from its first frame to its last.
pub fn late(links: &Report, bounds: &Bounds) -> Vec<Disturbance> {
    let of = |way: &Achieved| {
        let late = way.lateness.quantile(0.95);
        (late > bounds.late).then_some(Disturbance {
            cause: Cause::Late,
            from: way.first?.as_nanos(),
            to: way.last?.as_nanos(),
            worst: late.as_secs_f64(),
            bound: bounds.late.as_secs_f64(),
        })
    };
    links.links.iter().flat_map(|link| [of(&link.up), of(&link.down)]).flatten().collect()
}

/// In words, what disturbed the time between `from` and `to`: a line for each cause. `start` is the zero of the times that are told.
pub fn reasons(all: &[Disturbance], from: u64, to: u64, start: u64) -> Vec<String> {
    let mut out = Vec::new();
    for cause in Cause::ALL {
        let within = |it: &&Disturbance| it.cause == cause && it.from < to && it.to > from;
        let its: Vec<&Disturbance> = all.iter().filter(within).collect();
        let Some(first) = its.first() else { continue };
        let worst = its.iter().map(|it| it.worst).fold(0.0, f64::max);
        let shown = |value: f64| match cause {
            Cause::Late | Cause::Still => format!("{:.2} ms", value * 1e3),
            Cause::Neighbours | Cause::Backlog => format!("{value} times"),
            _ => format!("{:.0} %", value * 100.0),
        };
        let seconds = |t: u64| (t as f64 - start as f64) / 1e9;
        let stretches = if its.len() == 1 { String::new() } else { format!(", in {} stretches", its.len()) };
        let last = its.iter().map(|it| it.to).max().unwrap_or(first.to);
        out.push(format!(
            "{}: up to {} (at most {}) from {:.1} s to {:.1} s{stretches}",
            cause.words(),
            shown(worst),
            shown(first.bound),
            seconds(first.from),
            seconds(last)
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample each half second, of two processors with 100 ticks a second: (used, stolen, waited in milliseconds) in each.
    fn samples(spent: &[(u64, u64, u64)]) -> Vec<Sample> {
        let mut at = Sample { waited: Some(0), ..Sample::default() };
        let mut out = vec![at];
        for (used, stolen, waited) in spent {
            at.t += 500_000_000;
            at.total += 100;
            at.idle += 100 - used - stolen;
            at.steal += stolen;
            at.waited = at.waited.map(|so_far| so_far + waited * 1000);
            out.push(at);
        }
        out
    }

    const QUIET: (u64, u64, u64) = (60, 0, 0);

    #[test]
    fn a_quiet_machine_disturbs_nothing() {
        assert_eq!(find(&samples(&[QUIET; 20]), &Bounds::default(), Some(0)), []);
        assert_eq!(find(&samples(&[(95, 0, 50); 20]), &Bounds::default(), Some(0)), [], "at the bound");
        assert_eq!(find(&[], &Bounds::default(), Some(0)), []);
    }

    #[test]
    fn each_cause_has_its_stretches_with_the_worst_of_each() {
        let spent = [QUIET, (90, 6, 0), (80, 20, 0), QUIET, (99, 0, 200), (96, 0, 0), QUIET, (100, 0, 0)];
        let found = find(&samples(&spent), &Bounds::default(), Some(0));
        let seen = |cause| {
            let its = found.iter().filter(move |it| it.cause == cause);
            its.map(|it| (it.from / 500_000_000, it.to / 500_000_000, (it.worst * 100.0).round() as u64))
                .collect::<Vec<_>>()
        };
        assert_eq!(seen(Cause::Steal), [(1, 3, 20)]);
        // Taken away is not free, either.
        assert_eq!(seen(Cause::Busy), [(1, 3, 100), (4, 6, 99), (7, 8, 100)]);
        assert_eq!(seen(Cause::Memory), [(4, 5, 40)]);
    }

    #[test]
    fn what_the_kernel_drops_for_lack_of_room_disturbs_from_the_first() {
        let sample = |at: u64, neighbours, backlog| Sample {
            t: at * 500_000_000,
            neighbours: Some(neighbours),
            backlog: Some(backlog),
            ..Sample::default()
        };
        let samples = [sample(0, 7, 3), sample(1, 7, 4), sample(2, 9, 4), sample(3, 9, 4), sample(4, 12, 4)];
        let found = find(&samples, &Bounds::default(), None);
        let said = reasons(&found, 0, 2_000_000_000, 0);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].ends_with("up to 3 times (at most 0 times) from 0.5 s to 2.0 s, in 2 stretches"),
            "{said:?}"
        );
        assert!(said[1].ends_with("up to 1 times (at most 0 times) from 0.0 s to 0.5 s"), "{said:?}");
        let untold = samples.map(|sample| Sample { neighbours: None, backlog: None, ..sample });
        assert_eq!(find(&untold, &Bounds::default(), None), []);
    }

    #[test]
    fn busy_processors_count_where_a_link_carries_what_is_measured() {
        let busy = samples(&[(100, 0, 0); 4]);
        assert_eq!(find(&busy, &Bounds::default(), None), []);
        let late = find(&busy, &Bounds::default(), Some(1_000_000_000));
        assert_eq!((late.len(), late[0].from), (1, 1_000_000_000));
        let never = Bounds { busy: 1.0, ..Bounds::default() };
        assert_eq!(find(&busy, &never, Some(0)), []);
    }

    #[test]
    fn reasons_are_of_the_time_that_is_asked_for() {
        let spent = [QUIET, (100, 0, 0), QUIET, (97, 0, 0), QUIET, (80, 20, 0)];
        let all = find(&samples(&spent), &Bounds::default(), Some(0));
        assert_eq!(
            reasons(&all, 0, 2_400_000_000, 0),
            ["all processors were busy: up to 100 % (at most 95 %) from 0.5 s to 2.0 s, in 2 stretches"]
        );
        assert_eq!(reasons(&all, 0, 500_000_000, 0), Vec::<String>::new());
        assert_eq!(reasons(&all, 2_600_000_000, 9_000_000_000, 500_000_000).len(), 2);
    }

    #[test]
    fn a_late_link_disturbs_from_its_first_frame_to_its_last() {
        use crate::wire::LinkReport;
        use ntm_protocol::time::Instant;
        let at = |ns| Some(Instant::from_nanos(ns));
        let way = |lateness: &[u64]| {
            let mut way = Achieved { first: at(5), last: at(9), ..Achieved::default() };
            lateness.iter().for_each(|us| way.lateness.add(Duration::from_micros(*us)));
            way
        };
        let link = LinkReport { name: "a.eth0".into(), up: way(&[20; 40]), down: way(&[20, 20, 20, 4000]) };
        let links = Report { at: Instant::ZERO, cpu: Duration::ZERO, is_realtime: true, links: vec![link] };
        let found = late(&links, &Bounds::default());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].cause, found[0].from, found[0].to), (Cause::Late, 5, 9));
        assert!(found[0].worst > 0.003);
    }
}
