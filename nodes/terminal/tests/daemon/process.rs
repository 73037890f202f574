//! The daemon's process, its files, and what it says of itself.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde_json::Value;

use super::space::Space;

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Every byte of the key that terminal and DC share.
pub(crate) const KEY: u8 = 0xab;

/// Does `call` until no signal interrupts it: the kernel restarts no call on a socket that has a timeout.
pub(crate) fn steadily<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A folder with the daemon's configuration and keys.
pub(crate) struct Files(tempfile::TempDir);

impl Files {
    /// A right configuration, with `more` as its seventh line and on.
    pub(crate) fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let key = format!("{KEY:02x}").repeat(32);
        let keys = format!("[[key]]\npeer = \"ns.dc.test\"\nkind = \"coordinator\"\nkey = \"{key}\"\n");
        let config = format!(
            "name = \"mn\"\nfqdn = \"mn.dc.test\"\nkeys = \"keys.toml\"\ncontrol = \"control\"\ntrace = \"trace\"\n\
             vips = \"198.18.0.0/15\"\n{more}[coordinator]\nfqdn = \"ns.dc.test\"\naddress = \"203.0.113.4:4330\"\n"
        );
        for (name, text) in [("keys.toml", keys), ("terminal.toml", config)] {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        }
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The daemon's command.
    pub(crate) fn command(&self) -> Command {
        self.given(Command::new(env!("CARGO_BIN_EXE_ntm-terminal")))
    }

    /// The daemon's command, started by another program.
    pub(crate) fn command_after(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).arg(env!("CARGO_BIN_EXE_ntm-terminal"));
        self.given(command)
    }

    fn given(&self, mut command: Command) -> Command {
        command.arg("--config").arg(self.path("terminal.toml")).stdin(Stdio::null());
        command.env_remove("NOTIFY_SOCKET").env("NTM_LOG", "debug,netlink_proto=info");
        command
    }

    /// Runs it with `--check`.
    pub(crate) fn check(&self) -> Output {
        self.command().arg("--check").output().expect("the daemon runs")
    }

    /// `bytes` as text, without the folder's name.
    pub(crate) fn text(&self, bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).replace(&format!("{}/", self.0.path().display()), "").trim().to_owned()
    }
}

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    process: Child,
    files: Files,
    notify: UnixDatagram,
}

impl Daemon {
    /// Starts it in `space`.
    pub(crate) fn start(space: &Space, files: Files) -> Self {
        let notify = UnixDatagram::bind(files.path("notify")).expect("a socket");
        notify.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let log = fs::File::create(files.path("log")).expect("a log");
        let process = space.within(|| {
            let mut command = files.command();
            command.env("NOTIFY_SOCKET", files.path("notify")).stderr(log);
            command.spawn().expect("the daemon starts")
        });
        Self { process, files, notify }
    }

    /// Waits until it says that it is ready: what it says.
    pub(crate) fn readiness(&self) -> String {
        let mut text = [0; 512];
        loop {
            let length = steadily(|| self.notify.recv(&mut text))
                .unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
            let text = String::from_utf8_lossy(&text[..length]);
            if text.starts_with("READY=1\n") {
                return text.into_owned();
            }
        }
    }

    /// Asks it for its status.
    pub(crate) fn status(&self) -> Value {
        let mut stream = UnixStream::connect(self.control()).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(b"{\"command\":\"status\"}\n").expect("sent");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        let mut answer: Value = serde_json::from_str(&line).expect("JSON");
        assert!(answer["ok"].is_object(), "{answer}");
        answer["ok"].take()
    }

    /// Asks again until `holds`.
    pub(crate) fn await_status(&self, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "it never came to that: {status}\n{}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Its trace so far.
    pub(crate) fn trace(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.files.path("trace")).expect("the trace");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.files.path("log")).expect("the log")
    }

    /// Where its control socket is.
    pub(crate) fn control(&self) -> PathBuf {
        self.files.path("control")
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let id = Pid::from_raw(self.process.id().try_into().expect("a process ID"));
        kill(id, Signal::SIGTERM).expect("it still runs");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().expect("its status") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end\n{}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A DNS query.
pub(crate) fn query(id: u16, name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

/// The trace's clock, in nanoseconds.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC");
    u64::try_from(time.tv_sec() * 1_000_000_000 + time.tv_nsec()).expect("since the start of the machine")
}
