//! What links do to packets: which queueing disciplines, or which line in user space, give a link its rate, delay and loss on this
//! machine.
//!
//! A link's direction is shaped where packets leave for it: `up` at the node's own end, `down` at the network's end.

use std::num::NonZeroU64;

use ntm_sim::impair;

use super::space::Space;
use crate::exit::Failure;
use crate::scenario::model::Shape;

/// How delays, jitter and losses are made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Impairment {
    /// By the kernel's netem.
    Netem,
    /// By a line in user space ([`crate::wire`]): the kernel has no netem, or the scenario wants none.
    Line,
}

impl Impairment {
    /// What this kernel can do, by trying it on the loopback of `scratch`, which nobody else uses. Without `netem` that is not asked.
    pub async fn choose(netem: bool, scratch: &Space) -> Result<Self, Failure> {
        if !netem {
            return Ok(Self::Line);
        }
        let words = ["qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"];
        let output = scratch.output(Space::command("tc").args(words)).await;
        Ok(match output {
            Ok(output) if output.status.success() => Self::Netem,
            _ => Self::Line,
        })
    }
}

/// What a line in user space does for `shape`. Its queue is that of the token bucket below.
pub fn line(shape: &Shape) -> impair::Impairment {
    impair::Impairment {
        rate: shape.rate.and_then(NonZeroU64::new),
        delay: shape.delay,
        jitter: shape.jitter,
        loss: shape.loss,
        reorder: shape.reorder,
        duplicate: shape.duplicate,
        ..impair::Impairment::default()
    }
}

/// The commands of `tc`, each a list of words, that shape what leaves by `device`. The first replaces what was there.
pub fn commands(device: &str, shape: &Shape) -> Vec<Vec<String>> {
    let mut out = Vec::new();
    let mut parent = vec!["root".to_owned(), "handle".to_owned(), "1:".to_owned()];
    let mut add = |parent: &[String], discipline: Vec<String>| {
        let words = ["qdisc", "replace", "dev", device].map(str::to_owned);
        out.push(words.into_iter().chain(parent.iter().cloned()).chain(discipline).collect());
    };
    if let Some(rate) = shape.rate {
        add(&parent, token_bucket(rate));
        parent = vec!["parent".to_owned(), "1:1".to_owned(), "handle".to_owned(), "2:".to_owned()];
    }
    if shape.impairs() {
        add(&parent, netem(shape));
    }
    out
}

/// A burst of one millisecond, so that timer granularity does not eat the rate; a queue of 50 ms, as an access point has.
fn token_bucket(rate: u64) -> Vec<String> {
    let bytes = |time_ms: u64, least: u64| (rate / 8 * time_ms / 1000).max(least).to_string();
    let (burst, limit) = (bytes(1, 16_000), bytes(50, 64_000));
    ["tbf", "rate", &format!("{rate}bit"), "burst", &burst, "limit", &limit].map(str::to_owned).to_vec()
}

/// The limit must hold what is under way: rate × delay, twice, in packets of 1500 bytes.
fn netem(shape: &Shape) -> Vec<String> {
    let under_way =
        shape.rate.unwrap_or(1_000_000_000) as f64 / 8.0 * (shape.delay + 4 * shape.jitter).as_secs_f64();
    let limit = (2.0 * under_way / 1500.0).max(1000.0) as u64;
    let mut words = vec!["netem".to_owned(), "limit".to_owned(), limit.to_string()];
    if !shape.delay.is_zero() || !shape.jitter.is_zero() {
        words.extend(["delay".to_owned(), format!("{}us", shape.delay.as_micros())]);
    }
    if !shape.jitter.is_zero() {
        words.extend([
            format!("{}us", shape.jitter.as_micros()),
            "distribution".to_owned(),
            "normal".to_owned(),
        ]);
    }
    if shape.loss > 0.0 {
        words.extend(["loss".to_owned(), format!("{}%", shape.loss * 100.0)]);
    }
    for (word, share) in [("duplicate", shape.duplicate), ("reorder", shape.reorder)] {
        if share > 0.0 {
            words.extend([word.to_owned(), format!("{}%", share * 100.0)]);
        }
    }
    words
}

/// Shapes what leaves by `device` in `space`.
pub async fn apply(space: &Space, device: &str, shape: &Shape) -> Result<(), Failure> {
    for words in commands(device, shape) {
        let output = space.output(Space::command("tc").args(&words)).await;
        let output = output.map_err(Failure::during("tc cannot be run"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(Failure::error(format!("`{}`: tc {}: {}", space.name, words.join(" "), said.trim())));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn disciplines_follow_the_shape() {
        let shown = |shape: Shape| {
            commands("wlan0", &shape).iter().map(|words| words.join(" ")).collect::<Vec<_>>().join("\n")
        };
        let rate = Some(150_000_000);
        let delay = Duration::from_micros(3900);
        assert_eq!(shown(Shape::default()), "");
        assert_eq!(
            shown(Shape { rate, ..Shape::default() }),
            "qdisc replace dev wlan0 root handle 1: tbf rate 150000000bit burst 18750 limit 937500"
        );
        assert_eq!(
            shown(Shape { rate, delay, jitter: Duration::from_millis(1), loss: 0.01, ..Shape::default() }),
            "qdisc replace dev wlan0 root handle 1: tbf rate 150000000bit burst 18750 limit 937500\n\
             qdisc replace dev wlan0 parent 1:1 handle 2: netem limit 1000 delay 3900us 1000us distribution normal loss 1%"
        );
        assert_eq!(
            shown(Shape { delay, reorder: 0.05, duplicate: 0.25, ..Shape::default() }),
            "qdisc replace dev wlan0 root handle 1: netem limit 1000 delay 3900us duplicate 25% reorder 5%"
        );
        assert_eq!(
            shown(Shape { delay, ..Shape::default() }),
            "qdisc replace dev wlan0 root handle 1: netem limit 1000 delay 3900us"
        );
    }
}
