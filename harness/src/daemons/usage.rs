//! What a process uses of processors and memory, from `/proc/PID`.

use std::fs;

use nix::unistd::{SysconfVar, sysconf};

/// What a process used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Seconds of a processor.
    pub cpu_s: f64,
    /// Megabytes (10^6 bytes) of memory that it holds, those included that it shares with others: its program, libraries.
    pub memory_mb: f64,
}

impl Usage {
    /// That of a process until now; nothing if it is gone.
    pub(super) fn of(pid: u32) -> Option<Self> {
        Some(Self { cpu_s: seconds(pid)?, memory_mb: megabytes(pid)? })
    }
}

fn megabytes(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    // Pages: all, resident, shared with files.
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    let size = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    Some((pages * u64::try_from(size).ok()?) as f64 / 1e6)
}

/// Seconds, in user space and in the kernel, of all its threads.
fn seconds(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = sysconf(SysconfVar::CLK_TCK).ok()??;
    Some(ticks_in(&text)? as f64 / ticks as f64)
}

/// `utime` and `stime`, fields 14 and 15 of proc(5). The name before them may hold anything.
fn ticks_in(stat: &str) -> Option<u64> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 75 0 0 20 0 4 0 1000 1 1";
        assert_eq!(ticks_in(stat), Some(325));
        assert_eq!(ticks_in("7 (a) S 1"), None);
    }

    #[test]
    fn the_memory_is_that_of_its_pages() {
        let held = vec![1_u8; 50_000_000];
        let with = megabytes(std::process::id()).unwrap();
        assert!(with > 50.0 && with < 5000.0, "{with} MB with {}", held[7]);
        drop(held);
        assert!(megabytes(std::process::id()).unwrap() < with - 40.0);
    }

    #[test]
    fn a_process_that_works_uses_time_and_one_that_is_not_there_none() {
        let before = seconds(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while seconds(std::process::id()).unwrap() < before + 0.03 {
            sum = sum.wrapping_add((0..100_000).fold(sum, |sum, n| sum.rotate_left(3) ^ n));
        }
        assert_eq!(seconds(u32::MAX), None, "{sum}");
    }
}
