//! Which processors threads run on, and before whom.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// This thread, for what takes the number of one.
pub(crate) const OWN: Pid = Pid::from_raw(0);

/// The numbers of those that the thread or process `pid` may use; none where that cannot be told.
pub(crate) fn usable(pid: Pid) -> Vec<usize> {
    let Ok(set) = sched_getaffinity(pid) else { return Vec::new() };
    (0..CpuSet::count()).filter(|processor| set.is_set(*processor) == Ok(true)).collect()
}

/// Keeps the thread `pid` to these; whether that was possible.
pub(crate) fn keep(pid: Pid, processors: &[usize]) -> bool {
    let mut set = CpuSet::new();
    processors.iter().all(|processor| set.set(*processor).is_ok()) && sched_setaffinity(pid, &set).is_ok()
}

/// Lets this thread run before all ordinary ones (SCHED_FIFO), where the machine allows it, and says whether it does; its children are
/// ordinary again.
pub(crate) fn go_first() -> bool {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the structure lives over the call; zero means the calling thread.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const priority) == 0
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::{fs, thread};

    use super::*;

    /// The scheduling policy of this thread, as the kernel tells it: 0 for an ordinary one, 1 for SCHED_FIFO.
    fn policy() -> Option<u32> {
        let stat = fs::read_to_string("/proc/thread-self/stat").ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(38)?.parse().ok()
    }

    /// `chrt` is the oracle of what this machine allows.
    #[test]
    fn a_thread_goes_first_where_it_may() {
        let allowed = Command::new("chrt").args(["--fifo", "1", "true"]).status().unwrap().success();
        let first = || (policy(), go_first(), policy(), thread::spawn(policy).join().unwrap());
        let found = thread::spawn(first).join().unwrap();
        assert_eq!(found, (Some(0), allowed, Some(u32::from(allowed)), Some(0)));
    }
}
