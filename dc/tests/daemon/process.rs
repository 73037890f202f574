//! `ntm-dc` as a process, its files, and what it says of itself.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ntm_dc::store::{Snapshot, Store};
use ntm_protocol::addr::{Fqdn, NTM_PORT, NodeId, Vip};
use serde_json::Value;

use crate::space::Space;

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Does `call` until no signal interrupts it: the kernel restarts no call on a socket that has a timeout.
pub(crate) fn steadily<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A loopback address by its last byte.
pub(crate) const fn loopback(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, last))
}

/// `text` as a name.
pub(crate) fn fqdn(text: &str) -> Fqdn {
    text.parse().expect("a name")
}

/// The key of which `between` is the name.
pub(crate) fn key(between: &str) -> [u8; 32] {
    let half = NodeId::of(&fqdn(between)).0;
    let mut key = [0; 32];
    key[..16].copy_from_slice(&half);
    key[16..].copy_from_slice(&half);
    key
}

/// A DC of these tests.
#[derive(Clone, Copy)]
pub(crate) struct Site {
    /// Its zone; its own name is `ns` in it.
    pub(crate) zone: &'static str,
    /// The last byte of its address.
    pub(crate) address: u8,
    pub(crate) vips: &'static str,
    /// The ranges of other DCs, as they stand in its configuration.
    pub(crate) neighbours: &'static str,
    /// Whom it shares a key with: name, kind, the key's name.
    pub(crate) peers: &'static [(&'static str, &'static str, &'static str)],
}

/// The DC of most tests.
pub(crate) const SITE: Site = Site {
    zone: "dc.test",
    address: 10,
    vips: "198.18.0.0/24",
    neighbours: "\"ns.lab.test\" = \"198.18.1.0/24\"",
    peers: &[
        ("mn.dc.test", "terminal", "mn.dc.test"),
        ("cn.dc.test", "terminal", "cn.dc.test"),
        ("late.dc.test", "terminal", "late.dc.test"),
        ("rs1.dc.test", "relay", "rs1.dc.test"),
        ("ns.lab.test", "coordinator", "both.test"),
    ],
};

/// Another one, which shares a key with the first.
pub(crate) const LAB: Site = Site {
    zone: "lab.test",
    address: 20,
    vips: "198.18.1.0/24",
    neighbours: "\"ns.dc.test\" = \"198.18.0.0/24\"",
    peers: &[("cn.lab.test", "terminal", "cn.lab.test"), ("ns.dc.test", "coordinator", "both.test")],
};

impl Site {
    /// Its own name.
    pub(crate) fn fqdn(&self) -> Fqdn {
        fqdn(&format!("ns.{}", self.zone))
    }

    /// Where it receives.
    pub(crate) fn socket(&self) -> SocketAddr {
        SocketAddr::new(loopback(self.address), NTM_PORT)
    }

    fn config(&self) -> String {
        format!(
            "name = \"dc\"\nfqdn = \"ns.{0}\"\nzone = \"{0}\"\naddress = \"{1}\"\nvips = \"{2}\"\nstore = \"store\"\n\
             roots = [\"127.0.0.1\"]\nkeys = \"keys.toml\"\ntrace = \"trace\"\ncontrol = \"control\"\n\
             keepalive = \"1h\"\nneighbours = {{ {3} }}\n",
            self.zone,
            loopback(self.address),
            self.vips,
            self.neighbours
        )
    }

    fn keys(&self) -> String {
        let entry = |(peer, kind, name): &(&str, &str, &str)| {
            let digits: String = key(name).iter().map(|byte| format!("{byte:02x}")).collect();
            format!("[[key]]\npeer = \"{peer}\"\nkind = \"{kind}\"\nkey = \"{digits}\"\n")
        };
        self.peers.iter().map(entry).collect()
    }
}

/// A VIP of [`SITE`], by its last byte.
pub(crate) fn vip(d: u8) -> Vip {
    Vip([198, 18, 0, d].into())
}

/// Every record of `lines` that says `what`.
pub(crate) fn traced<'t>(lines: &'t [Value], what: &str) -> Vec<&'t Value> {
    lines.iter().filter(|line| line["what"] == what).collect()
}

/// A folder with a DC's configuration, keys, store and trace; it outlives the process.
pub(crate) struct Files(tempfile::TempDir);

impl Files {
    /// Those of `site`.
    pub(crate) fn new(site: &Site) -> Self {
        let files = Self(tempfile::tempdir().expect("a folder"));
        files.write("dc.toml", &site.config());
        files.write("keys.toml", &site.keys());
        files
    }

    /// The same with `from` in the configuration replaced by `to`.
    pub(crate) fn with(self, from: &str, to: &str) -> Self {
        let text = fs::read_to_string(self.path("dc.toml")).expect("the configuration");
        assert_eq!(text.matches(from).count(), 1, "{from}");
        self.write("dc.toml", &text.replace(from, to));
        self
    }

    /// Writes one file, for its owner alone.
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
        self.protect(name, 0o600);
    }

    /// Gives one file its mode.
    pub(crate) fn protect(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).expect("its mode");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The names of all files, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("the folder");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ntm-dc"));
        command.arg("--config").arg(self.path("dc.toml")).stdin(Stdio::null());
        command.env_remove("NOTIFY_SOCKET").env("NTM_LOG", "info");
        command
    }

    /// Runs the daemon with `--check`: exit code, stdout, stderr, without the folder's name.
    pub(crate) fn check(&self) -> (Option<i32>, String, String) {
        self.texts(&self.command().arg("--check").output().expect("the daemon runs"))
    }

    /// Runs the daemon in `space`, where it must end by itself: the same.
    pub(crate) fn run(&self, space: &Space) -> (Option<i32>, String, String) {
        // If it does not, it is stopped, lest a fault hold up all tests.
        let mut command = Command::new("timeout");
        let daemon = self.command();
        command.arg(PATIENCE.as_secs().to_string()).arg(daemon.get_program()).args(daemon.get_args());
        command.env_remove("NOTIFY_SOCKET").env("NTM_LOG", "warn");
        self.texts(&space.within(|| command.output().expect("timeout (coreutils) runs")))
    }

    fn texts(&self, output: &Output) -> (Option<i32>, String, String) {
        let text = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            text.replace(&format!("{}/", self.0.path().display()), "").trim_end().to_owned()
        };
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    /// The bytes of the store: database and log.
    pub(crate) fn store_bytes(&self) -> [Vec<u8>; 2] {
        ["store", "store-wal"].map(|name| fs::read(self.path(name)).expect("the store"))
    }

    /// What the store holds. No process may have it open.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Store::open(&self.path("store")).expect("the store opens").1
    }

    /// The trace so far, of all runs.
    pub(crate) fn trace(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("trace")).expect("the trace");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The log so far, of all runs.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).expect("the log")
    }
}

/// A running DC; killed when dropped.
pub(crate) struct Dc {
    process: Child,
    notify: UnixDatagram,
    space: Space,
    pub(crate) files: Files,
}

impl Dc {
    /// Starts one in `space`, and waits until it says that it serves.
    pub(crate) fn start(space: &Space, files: Files) -> Self {
        let notify = UnixDatagram::bind(files.path("notify")).expect("a socket");
        notify.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let process = spawn(space, &files);
        let dc = Self { process, notify, space: space.clone(), files };
        dc.await_ready();
        dc
    }

    /// Starts it again, after its end, with the same files.
    pub(crate) fn restart(&mut self) {
        self.process = spawn(&self.space, &self.files);
        self.await_ready();
    }

    fn await_ready(&self) {
        let told = self.told();
        assert!(told.starts_with("READY=1\nSTATUS=dc serves the zone "), "{told}\n{}", self.files.log());
    }

    /// What it tells next to whoever started it.
    pub(crate) fn told(&self) -> String {
        let mut text = [0; 512];
        let length = steadily(|| self.notify.recv(&mut text))
            .unwrap_or_else(|error| panic!("{error}\n{}", self.files.log()));
        String::from_utf8_lossy(&text[..length]).into_owned()
    }

    /// The answer to `line` on the control socket.
    pub(crate) fn request(&self, line: &str) -> Value {
        let mut stream = UnixStream::connect(self.files.path("control")).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        writeln!(stream, "{line}").expect("sent");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).expect("JSON")
    }

    /// What `status` says.
    pub(crate) fn status(&self) -> Value {
        let mut answer = self.request("{\"command\":\"status\"}");
        assert!(answer["ok"].is_object(), "{answer}");
        answer["ok"].take()
    }

    /// Asks again until `holds`.
    #[track_caller]
    pub(crate) fn await_status(&self, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "it never came to that: {status}\n{}", self.files.log());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("it still runs");
        assert_eq!(self.process.wait().expect("it ended").code(), None, "it was killed");
    }

    /// Sends `signal` and waits for the end.
    pub(crate) fn end(&mut self, signal: Signal) -> ExitStatus {
        let id = Pid::from_raw(self.process.id().try_into().expect("a process ID"));
        kill(id, signal).expect("it still runs");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().expect("its status") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end\n{}", self.files.log());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn spawn(space: &Space, files: &Files) -> Child {
    let log = fs::File::options().create(true).append(true).open(files.path("log")).expect("a log");
    let mut command = files.command();
    command.env("NOTIFY_SOCKET", files.path("notify")).stderr(log);
    space.within(|| command.spawn().expect("the daemon starts"))
}

impl Drop for Dc {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
