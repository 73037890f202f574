//! A network namespace without a name, its loopback interface up: every address 127.x.y.z and every port is the test's own, port 53
//! too. It goes with its last process, thread and descriptor, whatever ends the test.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};

use crate::process::PATIENCE;

/// The namespace while the test holds it.
#[derive(Clone)]
pub(crate) struct Space(Arc<File>);

impl Space {
    /// A new one.
    pub(crate) fn new() -> Self {
        // A thread of its own: the namespace is the thread's, and the test's own stays as it is.
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("this test makes network namespaces: run it as root, on a kernel that has them");
            File::open("/proc/thread-self/ns/net").expect("the namespace as a file")
        });
        let space = Self(Arc::new(made.join().expect("a network namespace: see above")));
        let mut ip = Command::new("ip");
        ip.args(["link", "set", "lo", "up"]);
        let up = space.within(|| ip.status().expect("this test needs ip: apt-get install iproute2"));
        assert!(up.success(), "the loopback interface does not come up: {up}");
        space
    }

    /// Takes the calling thread inside, for good.
    pub(crate) fn enter(&self) {
        setns(&*self.0, CloneFlags::CLONE_NEWNET).expect("entering a namespace of ours");
    }

    /// Runs `work` inside. Sockets and processes made there stay there.
    pub(crate) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter();
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A UDP socket inside that waits for a datagram as long as a test may take.
    pub(crate) fn udp(&self, address: IpAddr, port: u16) -> UdpSocket {
        let at = SocketAddr::new(address, port);
        let deadline = Instant::now() + PATIENCE;
        let socket = loop {
            match self.within(|| UdpSocket::bind(at)) {
                // A process that another test starts has a copy of a socket that was closed just now, until it executes its program.
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(2));
                }
                bound => break bound.unwrap_or_else(|error| panic!("{at}: {error}")),
            }
        };
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    }
}
