//! A network namespace without a name: it goes with its last process, thread and descriptor, whatever ends the test.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// The namespace while the test holds it.
pub(crate) struct Space(File);

impl Space {
    /// A new one, in which even the loopback interface is down.
    pub(crate) fn new() -> Self {
        // A thread of its own: the namespace is the thread's, and the test's own stays as it is.
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("this test makes network namespaces: run it as root, on a kernel that has them");
            File::open("/proc/thread-self/ns/net").expect("the namespace as a file")
        });
        Self(made.join().expect("a network namespace"))
    }

    /// Runs `work` inside. Sockets and processes made there stay there.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("entering a namespace of ours");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Where other processes find it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs `ip` with `arguments` inside, and returns what it prints.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let output = self.within(|| {
            let mut ip = Command::new("ip");
            ip.args(arguments.split(' ')).output().expect("this test needs ip: apt-get install iproute2")
        });
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {arguments}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}
