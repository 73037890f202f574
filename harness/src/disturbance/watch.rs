//! Watches the machine while a run lasts: a thread that reads the kernel's counters now and then.

use std::fs;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Sample;
use crate::clock;

/// A machine that is being watched.
#[derive(Debug)]
pub struct Watch {
    /// Dropped, it ends the thread.
    end: Sender<()>,
    thread: JoinHandle<Vec<Sample>>,
}

impl Watch {
    /// Takes a sample now, one in each `window`, and one at the end.
    pub fn start(window: Duration) -> io::Result<Self> {
        let (end, ended) = channel();
        let watch = move || {
            let mut samples = Vec::new();
            loop {
                samples.extend(sample());
                match ended.recv_timeout(window) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            samples.extend(sample());
            samples
        };
        Ok(Self { end, thread: thread::Builder::new().name("watch".into()).spawn(watch)? })
    }

    /// What was sampled.
    pub fn end(self) -> Vec<Sample> {
        drop(self.end);
        self.thread.join().unwrap_or_default()
    }
}

fn sample() -> Option<Sample> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let pressure = fs::read_to_string("/proc/pressure/memory").unwrap_or_default();
    read(clock::now().as_nanos(), &stat, &pressure)
}

/// From `/proc/stat` (`cpu user nice system idle iowait irq softirq steal …`, proc(5)) and `/proc/pressure/memory`, which not every kernel
/// has.
fn read(t: u64, stat: &str, pressure: &str) -> Option<Sample> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = all.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let [_, _, _, idle, waiting, _, _, steal] = ticks.as_slice() else { return None };
    let some = pressure.lines().find(|line| line.starts_with("some "));
    let waited = some.and_then(|line| line.split_once("total=")?.1.trim().parse().ok());
    Some(Sample { t, total: ticks.iter().sum(), idle: idle + waiting, steal: *steal, waited })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_counters_are_read() {
        let stat = "cpu  10 1 5 100 4 0 2 3 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n";
        let wanted = Sample { t: 7, total: 125, idle: 104, steal: 3, waited: Some(1234) };
        assert_eq!(read(7, stat, pressure), Some(wanted));
        assert_eq!(read(7, stat, ""), Some(Sample { waited: None, ..wanted }));
        assert_eq!(read(7, "cpu 1 2 3\n", ""), None);
    }

    #[test]
    fn a_watch_takes_a_sample_at_its_beginning_and_at_its_end() {
        let samples = Watch::start(Duration::from_secs(60)).unwrap().end();
        assert_eq!(samples.len(), 2);
        assert!(samples[0].t <= samples[1].t && samples[0].total <= samples[1].total);
    }
}
