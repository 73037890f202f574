//! Whether the processors stood still: on each a thread that runs before all ordinary ones asks to be woken every few milliseconds. A
//! hypervisor that halts a machine, or a kernel that is held up, wakes it late, and need not show in any counter.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use ntm_protocol::time::Instant;

use super::{Cause, Disturbance};
use crate::{clock, processors};

/// A processor stands still for up to so long before it is seen: far less than what disturbs, and hardly any work.
const INTERVAL: Duration = Duration::from_millis(5);

/// Threads that feel whether the processors go on.
#[derive(Debug)]
pub struct Pulse {
    /// Dropped, they end the threads.
    ends: Vec<Sender<()>>,
    threads: Vec<JoinHandle<Vec<Disturbance>>>,
}

impl Pulse {
    /// Feels each processor that this program may use. What stands still for longer than `bound` disturbs. Where the machine does not let a
    /// thread run before ordinary ones nothing is felt: it would only be seen that others were busy.
    pub fn start(bound: Duration) -> io::Result<Self> {
        let mut pulse = Self { ends: Vec::new(), threads: Vec::new() };
        for processor in processors::usable(processors::OWN) {
            let (end, ended) = channel();
            let feel = move || if settle(processor) { beat(&ended, bound) } else { Vec::new() };
            pulse.threads.push(thread::Builder::new().name("pulse".into()).spawn(feel)?);
            pulse.ends.push(end);
        }
        Ok(pulse)
    }

    /// When processors stood still.
    pub fn end(self) -> Vec<Disturbance> {
        drop(self.ends);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
    }
}

/// Moves this thread to a processor, before ordinary threads; whether it may.
fn settle(processor: usize) -> bool {
    processors::keep(processors::OWN, &[processor]) && processors::go_first()
}

fn beat(ended: &Receiver<()>, bound: Duration) -> Vec<Disturbance> {
    let mut found = Vec::new();
    loop {
        let due = clock::now() + INTERVAL;
        match ended.recv_timeout(INTERVAL) {
            Err(RecvTimeoutError::Timeout) => found.extend(stood_still(due, clock::now(), bound)),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return found,
        }
    }
}

/// What it is that a thread woke now that was due before.
fn stood_still(due: Instant, now: Instant, bound: Duration) -> Option<Disturbance> {
    let late = now.since(due);
    (late > bound).then_some(Disturbance {
        cause: Cause::Still,
        from: due.as_nanos(),
        to: now.as_nanos(),
        worst: late.as_secs_f64(),
        bound: bound.as_secs_f64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_wakes_too_late_shows_that_its_processor_stood_still() {
        let (due, bound) = (Instant::from_nanos(5_000_000), Duration::from_millis(20));
        assert_eq!(stood_still(due, due + bound, bound), None, "at the bound");
        assert_eq!(stood_still(due, Instant::from_nanos(4_999_999), bound), None, "woken early");
        let found = stood_still(due, due + Duration::from_millis(86), bound).unwrap();
        assert_eq!((found.cause, found.from, found.to), (Cause::Still, 5_000_000, 91_000_000));
        assert!((found.worst - 0.086).abs() < 1e-9 && (found.bound - 0.02).abs() < 1e-9);
    }

    /// No thread wakes in no time at all, so each processor is found to stand still then.
    #[test]
    fn each_processor_is_felt() {
        let count = processors::usable(processors::OWN).len();
        let may = thread::spawn(processors::go_first).join().unwrap();
        for length in (4..).map(|n| Duration::from_millis(1 << n)) {
            let pulse = Pulse::start(Duration::ZERO).unwrap();
            assert_eq!(pulse.threads.len(), count);
            thread::sleep(length);
            let found = pulse.end();
            if found.len() >= count || !may {
                assert_eq!(found.is_empty(), !may);
                return;
            }
        }
    }
}
