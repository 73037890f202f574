//! Two nodes of one machine as if they were two hosts: each has processors of its own, for its applications and for every program in it, until this is over.
//!
//! On one processor a kernel hands over from one program to the next without waking anybody; between two it must wake one. Which of both happens is luck where the
//! scheduler places two hosts' programs, and what is measured is then luck as well.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::unistd::Pid;

use crate::processors::{OWN, keep, usable};
use crate::world::space::Space;

/// Which end a program is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that begins.
    Client,
    /// The one that is called.
    Server,
}

impl Side {
    /// Its half of `usable` processors, the client's the first; where there is but one, it is both ends'.
    fn half(self, usable: &[usize]) -> &[usize] {
        match self {
            Self::Client => &usable[..usable.len().div_ceil(2)],
            Self::Server => &usable[usable.len() / 2..],
        }
    }
}

/// Puts this thread on one processor of `side`: the first of all, or the last. Where it cannot be, it runs wherever the kernel puts it.
pub fn settle(side: Side) {
    let usable = usable(OWN);
    let half = side.half(&usable);
    let chosen = match side {
        Side::Client => half.first(),
        Side::Server => half.last(),
    };
    if let Some(cpu) = chosen {
        let _ = keep(OWN, &[*cpu]);
    }
}

/// The programs of a node, kept to its side's processors; they are free again when this is dropped.
#[derive(Debug)]
pub struct Apart(BTreeMap<i32, Vec<usize>>);

impl Apart {
    /// Keeps the programs that run in `space` now, and what they start, to the processors of `side`.
    pub fn keep(space: &Space, side: Side) -> Self {
        let of_node = |file: fs::Metadata| (file.dev(), file.ino());
        let network = space.network().metadata().map(of_node).ok();
        let pids = numbers("/proc").into_iter().filter(|pid| {
            network.is_some() && fs::metadata(format!("/proc/{pid}/ns/net")).map(of_node).ok() == network
        });
        Self::all(pids, side)
    }

    /// What has ended meanwhile, or is not ours to place, runs where it runs.
    fn all(pids: impl Iterator<Item = i32>, side: Side) -> Self {
        let mut free = BTreeMap::new();
        for pid in pids {
            let before = usable(Pid::from_raw(pid));
            if !before.is_empty() {
                place(pid, side.half(&before));
                free.insert(pid, before);
            }
        }
        Self(free)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.0.iter().for_each(|(pid, before)| place(*pid, before));
    }
}

/// All threads of `pid` run on these processors, and those that they start.
fn place(pid: i32, processors: &[usize]) {
    for thread in numbers(&format!("/proc/{pid}/task")) {
        let _ = keep(Pid::from_raw(thread), processors);
    }
}

/// The entries of a folder that are numbers.
fn numbers(folder: &str) -> Vec<i32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn each_side_has_its_half() {
        let halves = |usable: &[usize]| [Side::Client, Side::Server].map(|side| side.half(usable).to_vec());
        assert_eq!(halves(&[0, 1]), [[0], [1]]);
        assert_eq!(halves(&[2, 3, 6, 7]), [[2, 3], [6, 7]]);
        assert_eq!(halves(&[5]), [[5], [5]]);
        assert_eq!(halves(&[0, 1, 2]), [[0, 1], [1, 2]], "one is shared");
        assert_eq!(halves(&[]), [[], []] as [[usize; 0]; 2]);
    }

    #[test]
    fn both_ends_have_a_processor_each_where_there_are_two() {
        let settled = |side| {
            let work = move || {
                settle(side);
                usable(OWN)
            };
            std::thread::spawn(work).join().unwrap()
        };
        let (client, server) = (settled(Side::Client), settled(Side::Server));
        assert_eq!((client.len(), server.len()), (1, 1));
        let several = std::thread::available_parallelism().is_ok_and(|count| count.get() > 1);
        assert_eq!(client != server, several);
    }

    /// A program of an end stays on that end's processors for so long, and no longer.
    #[test]
    fn a_program_is_kept_apart_and_free_again() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = child.id() as i32;
        let of_child = || usable(Pid::from_raw(pid));
        let before = of_child();
        for side in [Side::Client, Side::Server] {
            let apart = Apart::all([pid, i32::MAX].into_iter(), side);
            assert_eq!(of_child(), side.half(&before));
            drop(apart);
            assert_eq!(of_child(), before);
        }
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
    }
}
