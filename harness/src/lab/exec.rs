//! Runs a command in a node of a lab, as if it had been typed there: terminal, input, signals and exit code are those of who calls.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::{Pid, getpgrp};

use super::talk::{NAMESPACES, Talk};
use crate::exit::Failure;
use crate::state::Lab;
use crate::world::space::programs;

/// What a shell says of a command that is not there, and of one that is no program.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// Enters `namespaces` of `node` with this process, which has one thread. The connection that is returned ends with the lab.
pub fn enter(lab: &Lab, node: &str, namespaces: &[&str]) -> Result<Talk, Failure> {
    let mut talk = Talk::to(lab)?;
    let descriptors = talk.enter(node)?;
    let here = std::env::current_dir();
    // All that are of this process's own are known before the first is entered: afterwards /proc is another.
    let wanted: Vec<(&str, OwnedFd)> = NAMESPACES
        .into_iter()
        .zip(descriptors)
        .filter(|(name, descriptor)| namespaces.contains(name) && !is_own(name, descriptor))
        .collect();
    for (name, descriptor) in wanted {
        setns(descriptor.as_fd(), CloneFlags::empty()).map_err(|error| {
            Failure::error(format!("the {name} namespace of `{node}` cannot be entered: {error}"))
        })?;
    }
    if let Ok(here) = here {
        // A folder that the world does not have is left for its root.
        let _ = std::env::set_current_dir(here);
    }
    Ok(talk)
}

fn is_own(name: &str, descriptor: &OwnedFd) -> bool {
    let of = |file: std::io::Result<File>| {
        file.and_then(|file| file.metadata()).map(|meta| (meta.dev(), meta.ino()))
    };
    let theirs = of(descriptor.try_clone().map(File::from));
    of(File::open(Path::new("/proc/self/ns").join(name))).ok() == theirs.ok()
}

/// Runs `command` in `node`, or a shell without one; its exit code, or 128 and the signal that ended it.
pub fn run(lab: &Lab, node: &str, command: &[String]) -> Result<u8, Failure> {
    // Asked by the namespaces' files while /proc is still ours.
    let shell;
    let (program, arguments) = match command.split_first() {
        Some((program, arguments)) => (program.as_str(), arguments),
        None => {
            shell = self::shell();
            (shell.0, shell.1.as_slice())
        }
    };
    let _lab = enter(lab, node, &NAMESPACES)?;
    let heard = [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .chain([Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTTOU])
        .collect::<SigSet>();
    heard.thread_block().map_err(Failure::during("signals cannot be held back"))?;
    let mut process = Command::new(program);
    process.args(arguments).env("PATH", programs()).env("NTM_NODE", node);
    if command.is_empty() {
        process.env("PS1", format!("{node}:\\w\\$ "));
    }
    // SAFETY: two system calls, and nothing allocated, as is needed between fork and exec.
    unsafe {
        process.pre_exec(|| {
            set_pdeathsig(Signal::SIGHUP)?;
            SigSet::empty().thread_set_mask()?;
            Ok(())
        });
    }
    let mut child = match process.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("error: {program} on `{node}`: {error}");
            return Ok(if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN });
        }
    };
    let status = attend(&mut child, &heard).map_err(Failure::during(format!("waiting for {program}")))?;
    if std::io::stdin().is_terminal() {
        // A shell took it for itself, and cannot give it back to a process that its namespace does not show.
        // SAFETY: a system call on two integers.
        unsafe { libc::tcsetpgrp(libc::STDIN_FILENO, getpgrp().as_raw()) };
    }
    Ok(code(status))
}

/// Waits for the child's end, and passes on what is sent to this process alone. What the terminal sends, it sends to the child as well.
fn attend(child: &mut Child, heard: &SigSet) -> std::io::Result<ExitStatus> {
    loop {
        // SAFETY: both pointers are to values of their types that live during the call.
        let (number, from_kernel) = unsafe {
            let mut told: libc::siginfo_t = std::mem::zeroed();
            (libc::sigwaitinfo(heard.as_ref(), &raw mut told), told.si_code == libc::SI_KERNEL)
        };
        match Signal::try_from(number) {
            Ok(Signal::SIGCHLD) => {
                if let Some(status) = child.try_wait()? {
                    return Ok(status);
                }
            }
            Ok(Signal::SIGTTOU) => {}
            Ok(signal) if !from_kernel => {
                let pid = i32::try_from(child.id()).map_err(std::io::Error::other)?;
                // It may just have ended.
                let _ = kill(Pid::from_raw(pid), signal);
            }
            // Interrupted by a stop and its end, or from the terminal.
            _ => {}
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// bash without its configuration, so that the prompt says where one is; where there is none, sh.
fn shell() -> (&'static str, Vec<String>) {
    match Path::new("/bin/bash").exists() {
        true => ("/bin/bash", vec!["--norc".to_owned(), "--noprofile".to_owned()]),
        false => ("/bin/sh", Vec::new()),
    }
}
