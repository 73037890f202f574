//! A private world: new PID, mount, network, IPC and UTS namespaces whose first process dies with the harness.
//!
//! The harness forks; its child is process 1 of the new PID namespace, and does all the work. Whatever kills the parent kills
//! the child (PR_SET_PDEATHSIG), and the kernel then ends every process of the namespace and takes down its networks, tables
//! and mounts. So nothing of a run is ever visible on the host or left on it, and two runs never meet.
//!
//! Without root, a user namespace comes first, where the machine allows it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getegid, geteuid, pipe, read, write};

use crate::exit::{Exit, Failure};

/// Where the world's sockets are; on a file system of its own, so that paths are short and nothing is left.
pub const SOCKETS: &str = "/run/ntm";

/// What namespaces cannot be had without, for `doctor` and errors.
const HELP: &str = "run it as root, or allow user namespaces: sysctl kernel.unprivileged_userns_clone=1 (Debian), \
    kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu); in a container, give it CAP_SYS_ADMIN";

/// Runs `inside` as the first process of a private world, and returns its exit code. `forked` is told the child's PID before it starts,
/// and can still stop it.
///
/// The calling process must have one thread. SIGINT and SIGTERM are passed on to the child, where they are held back until `inside` lets
/// them through ([`release_signals`]): the first process of a PID namespace never hears of one that it does not heed.
pub fn world(
    forked: impl FnOnce(Pid) -> Result<(), Failure>,
    inside: impl FnOnce() -> u8,
) -> Result<u8, Failure> {
    let unable = |what: &str, error: Errno| {
        Failure::unable(format!("namespaces cannot be made here: {what}: {error}; {HELP}"))
    };
    let (uid, gid) = (geteuid(), getegid());
    if !uid.is_root() || !may_unshare() {
        unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| unable("user namespace", error))?;
        map_ids(uid.as_raw(), gid.as_raw())
            .map_err(|error| Failure::unable(format!("the user namespace gets no IDs: {error}; {HELP}")))?;
    }
    unshare(CloneFlags::CLONE_NEWPID).map_err(|error| unable("PID namespace", error))?;

    let signals = hold_signals()?;
    let (armed_read, armed_write) = pipe().map_err(Failure::during("no pipe"))?;
    let (go_read, go_write) = pipe().map_err(Failure::during("no pipe"))?;

    // SAFETY: this process has one thread, so the child may do all that the parent may.
    match unsafe { fork() }.map_err(Failure::during("the world's first process cannot be started"))? {
        ForkResult::Child => {
            drop((armed_read, go_write));
            let code = child(armed_write, go_read, inside);
            std::process::exit(code.into());
        }
        ForkResult::Parent { child } => {
            drop((armed_write, go_read));
            let mut byte = [0];
            let told = match read(armed_read.as_fd(), &mut byte) {
                Ok(1) => forked(child),
                _ => Ok(()),
            };
            if told.is_ok() {
                // A child that died meanwhile is noticed by its wait status.
                let _ = write(go_write.as_fd(), &byte);
            }
            drop(go_write);
            let waited = wait_for(child, &signals);
            told.and(waited)
        }
    }
}

/// Holds back the signals that end a run, from before the fork, so that none is lost between it and the handlers. A run does it before it
/// has anything that should not be left behind.
pub fn hold_signals() -> Result<SigSet, Failure> {
    let signals = ending();
    signals.thread_block().map_err(Failure::during("signals cannot be held back"))?;
    Ok(signals)
}

/// Lets the signals through that are held back, once something heeds them.
pub fn release_signals() -> Result<(), Failure> {
    ending().thread_unblock().map_err(Failure::during("signals cannot be let through"))
}

fn ending() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD].into_iter().collect()
}

/// Root without CAP_SYS_ADMIN, as in most containers, is told by trying the cheapest namespace.
fn may_unshare() -> bool {
    unshare(CloneFlags::CLONE_NEWUTS).is_ok()
}

fn map_ids(uid: u32, gid: u32) -> io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// The parent's whole life after the fork.
fn wait_for(child: Pid, signals: &SigSet) -> Result<u8, Failure> {
    loop {
        let signal = signals.wait().map_err(Failure::during("waiting for the world"))?;
        if signal != Signal::SIGCHLD {
            // It may just have ended.
            let _ = kill(child, if signal == Signal::SIGHUP { Signal::SIGTERM } else { signal });
            continue;
        }
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(u8::try_from(code).unwrap_or(Exit::Error as u8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                return Err(Failure::error(format!("the world's first process was ended by {signal}")));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(Failure::error(format!("waiting for the world: {error}"))),
        }
    }
}

fn child(armed: OwnedFd, go: OwnedFd, inside: impl FnOnce() -> u8) -> u8 {
    let ready = set_pdeathsig(Signal::SIGKILL).is_ok() && write(armed.as_fd(), &[1]) == Ok(1);
    drop(armed);
    // End of file instead of a byte: the parent died before the kernel knew what to do then.
    let mut byte = [0];
    if !ready || read(go.as_fd(), &mut byte) != Ok(1) {
        return Exit::Error as u8;
    }
    if let Err(failure) = furnish() {
        eprintln!("error: {failure}");
        return failure.exit as u8;
    }
    inside()
}

/// Gives the world its own mounts and network.
fn furnish() -> Result<(), Failure> {
    let unable = |what: &'static str| {
        move |error: Errno| Failure::unable(format!("this machine gives the run no {what}: {error}; {HELP}"))
    };
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    unshare(flags).map_err(unable("mount and network namespaces"))?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(unable("mounts of its own"))?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), quiet, none).map_err(unable("/proc of its own"))?;
    // What /run would say of the host is not true here: its resolver, its name cache, its namespaces.
    let resolver = resolver_file();
    mount(Some("ntm"), "/run", Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0755"))
        .map_err(unable("/run of its own"))?;
    for folder in [super::space::NAMED, SOCKETS] {
        fs::create_dir_all(folder).map_err(Failure::during(folder))?;
    }
    mount(Some("ntm"), super::space::NAMED, Some("tmpfs"), quiet, none)
        .map_err(unable("place for namespaces"))?;
    // Where resolv.conf is a link into /run, its end must be there for the nodes' own to be laid over it.
    if resolver.starts_with("/run") {
        let made =
            resolver.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&resolver, ""));
        made.map_err(Failure::during(resolver.display()))?;
    }
    Ok(())
}

/// Where /etc/resolv.conf leads, even if nothing is there.
fn resolver_file() -> PathBuf {
    let file = Path::new("/etc/resolv.conf");
    match fs::read_link(file) {
        Ok(target) => {
            let mut out = PathBuf::new();
            for part in Path::new("/etc").join(target).components() {
                match part {
                    std::path::Component::ParentDir => {
                        out.pop();
                    }
                    other => out.push(other),
                }
            }
            out
        }
        Err(_) => file.to_owned(),
    }
}
