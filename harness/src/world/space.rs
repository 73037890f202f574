//! The place of one node: a network namespace (netns-rs) and a mount namespace in which name resolution is the node's own.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::thread;

use netns_rs::{Env, NetNs};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;

use super::net::Net;
use crate::exit::Failure;

/// Where network namespaces have names, as for `ip netns`; private to the world.
pub const NAMED: &str = "/run/netns";

/// Tells netns-rs about [`NAMED`].
#[derive(Debug, Clone, Copy)]
pub struct Private;

impl Env for Private {
    fn persist_dir(&self) -> PathBuf {
        NAMED.into()
    }
}

/// How a node's applications find names.
#[derive(Debug, Clone)]
pub struct Names {
    /// The server in /etc/resolv.conf; without one, names are found in /etc/hosts only.
    pub resolver: Option<Ipv4Addr>,
    /// What /etc/hosts says besides localhost.
    pub hosts: Vec<(IpAddr, String)>,
}

/// The namespaces of one node.
pub struct Space {
    /// The node's name.
    pub name: String,
    netns: NetNs<Private>,
    mounts: File,
}

impl Space {
    /// Makes the namespaces of the node `name`. Blocks; safe to call from several threads at once.
    pub fn make(name: &str, names: &Names) -> Result<Self, Failure> {
        let netns = NetNs::new_with_env(name, Private)
            .map_err(Failure::during(format!("network namespace of `{name}`")))?;
        let mounts = thread::scope(|scope| scope.spawn(|| mounts(name, names)).join())
            .map_err(|_| {
                Failure::error(format!("mount namespace of `{name}`: the thread that makes it panicked"))
            })?
            .map_err(Failure::during(format!("mount namespace of `{name}`")))?;
        Ok(Self { name: name.to_owned(), netns, mounts })
    }

    /// Takes the namespaces away, as soon as nothing is left in them.
    pub fn remove(self) -> Result<(), Failure> {
        let during = Failure::during(format!("removing the namespaces of `{}`", self.name));
        // The file system under its files ends with its last user.
        drop(self.mounts);
        self.netns.remove().map_err(during)
    }

    /// The network namespace, as a file.
    pub fn network(&self) -> &File {
        self.netns.file()
    }

    /// The mount namespace, as a file.
    pub fn mounts(&self) -> &File {
        &self.mounts
    }

    /// Runs `work` on this thread inside the network namespace. Must not wait for anything.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> Result<T, Failure> {
        self.netns
            .run(|_| work())
            .map_err(Failure::during(format!("entering the namespace of `{}`", self.name)))
    }

    /// A netlink socket in the namespace.
    pub fn net(&self) -> Result<Net, Failure> {
        self.within(|| Net::open(&self.name))?
    }

    /// Sets kernel parameters (`net/ipv4/ip_forward`); those that this kernel does not have are left out.
    pub fn sysctl(&self, values: &[(&str, &str)]) -> Result<(), Failure> {
        self.within(|| {
            for (name, value) in values {
                match fs::write(Path::new("/proc/sys").join(name), value) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(Failure::error(format!("`{}`: {name} = {value}: {error}", self.name)));
                    }
                    _ => {}
                }
            }
            Ok(())
        })?
    }

    /// A command for [`start`](Self::start): in a process group of its own, with nothing on its input.
    pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true).env("PATH", programs());
        command
    }

    /// Starts `command` in the node's namespaces. Within a runtime.
    ///
    /// A thread goes there and starts it, instead of its process between fork and exec: a fork copies the tables of all of this process's
    /// memory, and so takes ever longer, the more a world has that is captured; without work for the child there is none (vfork).
    pub fn start(&self, command: &mut Command) -> io::Result<Child> {
        let runtime = Handle::current();
        let start = || {
            let _entered = runtime.enter();
            // Its own working directory and root, without which a thread cannot change its mounts.
            unshare(CloneFlags::CLONE_FS)?;
            setns(self.mounts.as_fd(), CloneFlags::CLONE_NEWNS)?;
            setns(self.network().as_fd(), CloneFlags::CLONE_NEWNET)?;
            command.spawn()
        };
        thread::scope(|scope| scope.spawn(start).join())
            .unwrap_or_else(|_| Err(io::Error::other("the thread that starts it panicked")))
    }

    /// What `command` prints until it ends. Within a runtime.
    pub async fn output(&self, command: &mut Command) -> io::Result<Output> {
        self.start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?.wait_with_output().await
    }
}

/// The PATH with the folders of administration, which an ordinary user's may lack.
pub fn programs() -> std::ffi::OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    path.push(":/usr/sbin:/sbin");
    path
}

/// Makes a mount namespace on a thread of its own, which ends with it; the open file holds it.
fn mounts(name: &str, names: &Names) -> io::Result<File> {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let folder = Path::new("/run/etc").join(name);
    fs::create_dir_all(&folder)?;
    let resolver =
        names.resolver.map(|server| format!("nameserver {server}\noptions timeout:5 attempts:2\n"));
    let hosts: String = names.hosts.iter().map(|(address, name)| format!("{address} {name}\n")).collect();
    // Modules of nsswitch other than these would ask the host's services past the node's resolver.
    let switch =
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nprotocols: files\nservices: files\n";
    for (file, text) in [
        ("resolv.conf", resolver.unwrap_or_default()),
        ("hosts", format!("127.0.0.1 localhost\n{hosts}")),
        ("nsswitch.conf", switch.to_owned()),
    ] {
        let (own, target) = (folder.join(file), Path::new("/etc").join(file));
        fs::write(&own, text)?;
        match mount(Some(&own), &target, none, MsFlags::MS_BIND, none) {
            // A machine without the file has the C library's defaults, which are these.
            Err(nix::errno::Errno::ENOENT) if file != "resolv.conf" => {}
            Err(error) => return Err(io::Error::other(format!("{}: {error}", target.display()))),
            Ok(()) => {}
        }
    }
    File::open("/proc/thread-self/ns/mnt")
}

/// For tests of sockets: runs `work` on a thread in a network namespace of its own, where nothing is but a loopback interface that is up.
#[cfg(test)]
pub(crate) fn with_loopback<T: Send>(work: impl FnOnce(&Loopback) -> T + Send) -> T {
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace, as root");
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .env("PATH", programs())
            .status();
        assert!(up.is_ok_and(|status| status.success()), "the loopback interface comes up");
        work(&Loopback::open())
    };
    thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Two ends whose datagrams pass the loopback interface.
#[cfg(test)]
pub(crate) struct Loopback {
    sender: std::net::UdpSocket,
    receiver: std::net::UdpSocket,
}

#[cfg(test)]
impl Loopback {
    /// How long a kernel may take for what it does in its own time.
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

    fn open() -> Self {
        let socket = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (sender, receiver) = (socket(), socket());
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        receiver.set_read_timeout(Some(Self::PATIENCE)).unwrap();
        Self { sender, receiver }
    }

    /// Has a datagram pass. Packet sockets have seen it then: they do before its receiver. That it was sent would not tell that it came.
    pub(crate) fn pass(&self, payload: &[u8]) {
        assert_eq!(self.sender.send(payload).unwrap(), payload.len());
        let mut came = vec![0; payload.len() + 1];
        assert_eq!(self.receiver.recv(&mut came).unwrap(), payload.len());
    }

    /// Returns when the kernel notes the times at which packets come, which `read` reads. It begins with that in its own time after the first
    /// socket asked for it; a packet of before has the time at which it is read.
    pub(crate) fn until_noted(&self, mut read: impl FnMut() -> Vec<u64>) {
        let begin = std::time::Instant::now();
        loop {
            self.pass(&[0]);
            let passed = crate::clock::wall();
            let times = read();
            assert!(!times.is_empty(), "what passed was read");
            if times.iter().all(|at| *at <= passed) {
                return;
            }
            assert!(begin.elapsed() < Self::PATIENCE, "the kernel notes no time: {passed} {times:?}");
        }
    }
}
