//! What links achieved, under the names that the scenario describes them by.

use ntm_protocol::time::Duration;

use super::Job;
use super::result::Record;
use crate::flow::{Quantities, unmeasured};
use crate::judge::catalogue;
use crate::judge::expr::Value;
use crate::wire::{Achieved, Histogram};

/// The quantities of each link of the scenario that is measured, in each direction.
pub(super) fn quantities(job: &Job, record: &Record) -> Quantities {
    let mut out = Quantities::new();
    for name in catalogue::links(&job.scenario) {
        let owners: Vec<String> = job
            .plan
            .on_link(name)
            .into_iter()
            .map(|(node, interface, _)| format!("{node}.{interface}"))
            .collect();
        let (mut up, mut down, mut seen) = (Achieved::default(), Achieved::default(), false);
        for link in record.links.iter().flat_map(|report| &report.links) {
            if owners.contains(&link.name) {
                up.merge(&link.up);
                down.merge(&link.down);
                seen = true;
            }
        }
        for (way, achieved) in [("up", &up), ("down", &down)] {
            let measured = if seen { of(achieved) } else { unseen() };
            out.extend(
                measured.into_iter().map(|(what, value)| (format!("link.{name}.{way}.{what}"), value)),
            );
        }
    }
    out
}

fn unseen() -> Quantities {
    let names: Vec<&str> = catalogue::LINK.iter().map(|(name, ..)| *name).collect();
    unmeasured(
        &names,
        "the kernel's netem made this link, which nothing measures: with `netem = false` a line in user space makes it, and is measured",
    )
}

/// The quantities of one direction.
fn of(achieved: &Achieved) -> Quantities {
    let number = |value: f64| Ok(Value::Number(value));
    let time = |histogram: &Histogram, share: f64| {
        let time: Duration = histogram.quantile(share);
        if histogram.count() == 0 {
            Err("no packet passed".to_owned())
        } else {
            number(time.as_secs_f64() * 1e3)
        }
    };
    let dropped = &achieved.dropped;
    let missed = dropped.memory + dropped.oversize + dropped.refused + dropped.unread;
    [
        ("delay_p05_ms", time(&achieved.travel, 0.05)),
        ("delay_p50_ms", time(&achieved.travel, 0.5)),
        ("delay_p95_ms", time(&achieved.travel, 0.95)),
        ("total_p50_ms", time(&achieved.delay, 0.5)),
        ("total_p95_ms", time(&achieved.delay, 0.95)),
        ("late_p50_ms", time(&achieved.lateness, 0.5)),
        ("late_p95_ms", time(&achieved.lateness, 0.95)),
        ("mbits", number(achieved.rate() / 1e6)),
        ("peak_mbits", number(achieved.busiest.rate() / 1e6)),
        ("packets", number(achieved.packets as f64)),
        ("lost", number(dropped.lost as f64)),
        ("queue_dropped", number(dropped.queue as f64)),
        ("missed", number(missed as f64)),
        ("duplicated", number(achieved.duplicated as f64)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ntm_protocol::time::Instant;

    /// Whatever the catalogue promises is there, and nothing else.
    #[test]
    fn what_is_promised_is_measured() {
        let promised: Vec<&str> = catalogue::LINK.iter().map(|(name, ..)| *name).collect();
        for measured in [of(&Achieved::default()), unseen()] {
            assert_eq!(measured.len(), promised.len());
            assert!(promised.iter().all(|name| measured.contains_key(*name)), "{measured:?}");
        }
        assert!(of(&Achieved::default())["delay_p50_ms"].is_err(), "nothing passed");
    }

    #[test]
    fn the_delay_is_without_the_waiting() {
        let mut way = Achieved { packets: 1, ..Achieved::default() };
        way.travel.add(Duration::from_millis(4));
        way.delay.add(Duration::from_millis(30));
        way.busiest.add(Instant::ZERO, 1_000_000);
        let measured = of(&way);
        let near = |name: &str, wanted: f64| match measured[name] {
            Ok(Value::Number(value)) => assert!((value / wanted - 1.0).abs() < 0.035, "{name}: {value}"),
            ref other => panic!("{name}: {other:?}"),
        };
        near("delay_p50_ms", 4.0);
        near("total_p50_ms", 30.0);
        near("peak_mbits", 32.0);
    }
}
