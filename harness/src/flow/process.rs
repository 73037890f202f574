//! Programs that flows run: their output goes to files of the run, their time is bounded.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::exit::Failure;
use crate::world::space::Space;

/// How long a program that was told to end may take for it.
const END_WITHIN: Duration = Duration::from_secs(2);
/// How long a server may take to listen.
const LISTEN_WITHIN: Duration = Duration::from_secs(5);
/// How often a server that should listen is looked at. The kernel tells nobody of it.
const LOOK_EVERY: Duration = Duration::from_millis(3);

/// What a server waits on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    /// A listening TCP socket.
    Tcp,
    /// A UDP socket.
    Udp,
}

/// A started program.
pub struct Process {
    name: String,
    child: Child,
    /// What it prints.
    pub output: PathBuf,
    /// What it complains of.
    pub errors: PathBuf,
}

impl Process {
    /// Starts `program` in `space`; its output goes to `folder/NAME.out` and `folder/NAME.err`.
    pub fn start(
        name: &str,
        space: &Space,
        program: &str,
        folder: &Path,
        arrange: impl FnOnce(&mut Command),
    ) -> Result<Self, Failure> {
        let (output, errors) = (folder.join(format!("{name}.out")), folder.join(format!("{name}.err")));
        let create = |path: &Path| File::create(path).map_err(Failure::during(path.display()));
        let mut command = Space::command(program);
        command.env("LC_ALL", "C").current_dir("/").stdout(create(&output)?).stderr(create(&errors)?);
        arrange(&mut command);
        let child = space.start(&mut command).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Failure::unable(format!(
                "{program} is not installed, and `{name}` needs it: `harness doctor` names the package"
            )),
            _ => Failure::error(format!("{program} for `{name}` cannot be started: {error}")),
        })?;
        Ok(Self { name: name.to_owned(), child, output, errors })
    }

    /// Waits until a socket of the program's network namespace takes what comes for the port.
    pub async fn listens(&mut self, socket: Socket, port: u16) -> Result<(), Failure> {
        let Some(pid) = self.child.id() else {
            return Err(Failure::error(format!(
                "the server of `{}` has ended{}",
                self.name,
                self.complaint()
            )));
        };
        let names = match socket {
            Socket::Tcp => ["tcp", "tcp6"],
            Socket::Udp => ["udp", "udp6"],
        };
        let tables = names.map(|name| PathBuf::from(format!("/proc/{pid}/net/{name}")));
        let deadline = tokio::time::Instant::now() + LISTEN_WITHIN;
        loop {
            let text: String = tables.iter().filter_map(|table| fs::read_to_string(table).ok()).collect();
            if text.lines().any(|line| is_listening(line, socket, port)) {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                let complaint = self.complaint();
                return Err(Failure::error(format!(
                    "the server of `{}` ended at once ({status}){complaint}",
                    self.name
                )));
            }
            if tokio::time::Instant::now() > deadline {
                return Err(Failure::error(format!(
                    "the server of `{}` does not listen on port {port}",
                    self.name
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Waits for its end for `time`, then tells it to end, then makes it. `None`: it had to be told.
    pub async fn finish(&mut self, time: Duration) -> Option<ExitStatus> {
        self.end(time, Signal::SIGTERM).await
    }

    /// The same with ^C's signal.
    pub async fn interrupt(&mut self, time: Duration) -> Option<ExitStatus> {
        self.end(time, Signal::SIGINT).await
    }

    async fn end(&mut self, time: Duration, signal: Signal) -> Option<ExitStatus> {
        if let Ok(Ok(status)) = tokio::time::timeout(time, self.child.wait()).await {
            return Some(status);
        }
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It may end just now.
            let _ = kill(Pid::from_raw(pid), signal);
        }
        if tokio::time::timeout(END_WITHIN, self.child.wait()).await.is_err() {
            // Nothing more can be done about it; the world's end ends it.
            let _ = self.child.kill().await;
        }
        None
    }

    /// Its process's number, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// What it printed.
    pub fn printed(&self) -> String {
        read(&self.output)
    }

    /// What it complained of, ready to be appended to a message.
    pub fn complaint(&self) -> String {
        match read(&self.errors).trim() {
            "" => String::new(),
            text => format!(": {}", text.lines().last().unwrap_or_default()),
        }
    }
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// A line of /proc/net/tcp or udp: `sl local_address rem_address st …`, hexadecimal; state 0A is a TCP socket that listens, 07 a UDP socket
/// that takes from anybody.
fn is_listening(line: &str, socket: Socket, port: u16) -> bool {
    let wanted = match socket {
        Socket::Tcp => "0A",
        Socket::Udp => "07",
    };
    let mut fields = line.split_whitespace().skip(1);
    let (local, state) = (fields.next(), fields.nth(1));
    let local_port = local.and_then(|local| local.rsplit_once(':')).map(|(_, port)| port);
    state == Some(wanted) && local_port.and_then(|text| u16::from_str_radix(text, 16).ok()) == Some(port)
}

#[cfg(test)]
mod tests {
    use super::{Socket, is_listening};

    #[test]
    fn listening_sockets_are_recognised() {
        let line =
            "   0: 00000000:1451 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1";
        assert!(is_listening(line, Socket::Tcp, 5201) && !is_listening(line, Socket::Tcp, 5202));
        assert!(!is_listening(&line.replace(" 0A ", " 01 "), Socket::Tcp, 5201));
        assert!(!is_listening("  sl  local_address rem_address   st", Socket::Tcp, 5201));
        let line = line.replace(" 0A ", " 07 ");
        assert!(is_listening(&line, Socket::Udp, 5201) && !is_listening(&line, Socket::Tcp, 5201));
    }
}
