//! The processor time that a process has used, from `/proc/PID/stat`.

use std::fs;

use nix::unistd::{SysconfVar, sysconf};

/// Seconds, in user space and in the kernel, of all its threads; nothing if it is gone.
pub(super) fn seconds(pid: u32) -> Option<f64> {
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
    fn a_process_that_works_uses_time_and_one_that_is_not_there_none() {
        let before = seconds(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while seconds(std::process::id()).unwrap() < before + 0.03 {
            sum = sum.wrapping_add((0..100_000).fold(sum, |sum, n| sum.rotate_left(3) ^ n));
        }
        assert_eq!(seconds(u32::MAX), None, "{sum}");
    }
}
