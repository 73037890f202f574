//! The daemon as a process.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::peers::{DC_NAME, KEY, RELAY_NAME};
use crate::world::{DC, Namespace, PATIENCE, RELAY, RELAY6, steadily, until};

/// The daemon in a folder of its own, in the relay's namespace; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    notify: UnixDatagram,
    folder: TempDir,
}

impl Daemon {
    /// Starts it.
    pub(crate) fn start(namespace: &Namespace) -> Self {
        Self::start_with(namespace, "")
    }

    /// Starts it with `line` in its configuration.
    pub(crate) fn start_with(namespace: &Namespace, line: &str) -> Self {
        Self::spawn(namespace, Command::new(env!("CARGO_BIN_EXE_ntm-relay")), line, &[RELAY.into()])
    }

    /// Starts it with an address of each family.
    pub(crate) fn start_with_both(namespace: &Namespace) -> Self {
        let command = Command::new(env!("CARGO_BIN_EXE_ntm-relay"));
        Self::spawn(namespace, command, "", &[RELAY.into(), RELAY6.into()])
    }

    /// Starts it by `command`, to which its arguments are added.
    pub(crate) fn start_as(namespace: &Namespace, command: Command) -> Self {
        Self::spawn(namespace, command, "", &[RELAY.into()])
    }

    fn spawn(namespace: &Namespace, mut command: Command, line: &str, addresses: &[IpAddr]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        let config = format!(
            "name = 'rs1'\nfqdn = '{RELAY_NAME}'\naddress = {addresses:?}\nkeys = 'keys.toml'\ncontrol = 'control'\n\
             trace = 'trace'\n{line}\n[[coordinator]]\nfqdn = '{DC_NAME}'\naddress = '{DC}:4330'\n"
        );
        fs::write(folder.path().join("relay.toml"), config).expect("a configuration");
        let keys = folder.path().join("keys.toml");
        let digits: String = KEY.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(&keys, format!("[[key]]\npeer = '{DC_NAME}'\nkind = 'coordinator'\nkey = '{digits}'\n"))
            .expect("a key file");
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).expect("chmod");
        let notify = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        notify.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        command.arg("--config").arg(folder.path().join("relay.toml"));
        command.env("NOTIFY_SOCKET", folder.path().join("notify")).env("NTM_LOG", "info");
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let child = namespace.run(|| command.spawn()).expect("the daemon starts");
        Self { child, notify, folder }
    }

    /// What it tells next to whoever started it.
    pub(crate) fn told(&mut self) -> String {
        let mut text = [0; 1024];
        let length = steadily(|| self.notify.recv(&mut text)).unwrap_or_else(|error| {
            let status = self.child.try_wait();
            panic!("the daemon tells nothing more: {error} ({status:?}): {}", self.log());
        });
        String::from_utf8_lossy(&text[..length]).trim_end().to_owned()
    }

    /// Its log, once it has ended; it is killed for that.
    fn log(&mut self) -> String {
        let _ = self.child.kill();
        let mut text = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            let _ = stderr.read_to_string(&mut text);
        }
        text
    }

    /// The answer to `command` on the control socket.
    pub(crate) fn ask(&self, command: &str) -> Value {
        let mut stream = UnixStream::connect(self.folder.path().join("control")).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        writeln!(stream, "{{\"command\":\"{command}\"}}").expect("sent");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).expect("JSON")
    }

    /// What `status` says.
    pub(crate) fn status(&self) -> Value {
        self.ask("status")["ok"].take()
    }

    /// The trace as it is now.
    pub(crate) fn trace(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("trace")).expect("the trace");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Ends it by the signal `name`: its exit status and its log.
    pub(crate) fn end(self, name: &str) -> (ExitStatus, String) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs");
        assert!(sent.success());
        self.wait()
    }

    /// Its exit status and its log, when it ends.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let mut ended = None;
        until(|| {
            ended = self.child.try_wait().expect("its state");
            ended.is_some()
        });
        (ended.expect("it ended"), self.log())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
