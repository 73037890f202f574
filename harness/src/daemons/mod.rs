//! The daemons of a run: started as binaries, awaited by their readiness message, watched, asked for their status, and ended.
//!
//! [`ready`] hears `READY=1`, [`control`] asks, `cpu` looks at what they use; this module holds the processes.

pub mod control;
pub mod ready;
mod usage;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

pub use usage::Usage;

use crate::exit::Failure;
use crate::plan::config::{Daemon, Folders};
use crate::world::enter::SOCKETS;
use crate::world::space::Space;

/// A daemon that is not ready by then will not be.
const READY_WITHIN: Duration = Duration::from_secs(15);
/// A daemon that has not ended this long after SIGTERM is killed, and that is reported: the kernel takes its interfaces away one after the other,
/// with one lock for all namespaces, so that on a busy machine many worlds' ends wait for each other.
pub const END_WITHIN: Duration = Duration::from_secs(10);
/// The same where somebody waits for the end: he interrupted the run.
pub const END_SOON: Duration = Duration::from_millis(1500);
/// So much of a log is shown when its daemon dies.
const TAIL_LINES: usize = 12;

/// A daemon that ended by itself during the run.
#[derive(Debug, Clone)]
pub struct Death {
    /// On which node.
    pub node: String,
    /// What to tell the user: who, how, and the last lines of the log.
    pub message: String,
}

/// The running daemons.
pub struct Daemons {
    running: Vec<Running>,
    deaths: mpsc::UnboundedReceiver<Death>,
    report_death: mpsc::UnboundedSender<Death>,
}

struct Running {
    node: String,
    program: &'static str,
    pid: Option<u32>,
    log: PathBuf,
    stop: oneshot::Sender<Stop>,
    ended: JoinHandle<Ended>,
}

/// How a daemon is told to end.
#[derive(Debug, Clone, Copy)]
enum Stop {
    /// SIGTERM, and SIGKILL if it has not ended this long after it.
    Within(Duration),
    /// SIGKILL.
    AtOnce,
}

enum Ended {
    /// By itself, before it was told to.
    Early,
    /// After SIGTERM.
    Told(ExitStatus),
    /// Not after SIGTERM, but by SIGKILL.
    Killed,
    /// Its status could not be had.
    Unknown(io::Error),
}

impl Default for Daemons {
    fn default() -> Self {
        let (report_death, deaths) = mpsc::unbounded_channel();
        Self { running: Vec::new(), deaths, report_death }
    }
}

/// Tells how much of the processors some processes use.
#[derive(Debug, Clone)]
pub struct Meter(Vec<u32>);

impl Meter {
    /// Seconds of a processor that all of them have used so far; nothing once one of them is gone.
    pub fn seconds(&self) -> Option<f64> {
        self.0.iter().map(|pid| Some(Usage::of(*pid)?.cpu_s)).sum()
    }
}

/// A daemon that is ready.
pub struct Started {
    daemon: Daemon,
    child: Child,
    log: PathBuf,
}

/// Writes a daemon's files, starts it in `space`, and waits until it is ready.
pub async fn start(
    daemon: Daemon,
    binaries: &Path,
    space: &Space,
    folders: &Folders,
    logs: &Path,
) -> Result<Started, Failure> {
    let (node, program) = (daemon.node.clone(), daemon.program);
    let binary = binaries.join(program);
    if !binary.is_file() {
        return Err(Failure::unable(format!(
            "{program} is not at {}: build the workspace first (cargo build --release)",
            binary.display()
        )));
    }
    let folder = folders.of(&node);
    let config = folder.join(format!("{program}.toml"));
    write_files(&daemon, &folder, &config).map_err(Failure::during(format!("files of `{node}`")))?;
    let log = logs.join(format!("{node}.log"));
    // One that is started again writes on.
    let output =
        OpenOptions::new().create(true).append(true).open(&log).map_err(Failure::during(log.display()))?;
    let errors = output.try_clone().map_err(Failure::during(log.display()))?;
    let socket = Path::new(SOCKETS).join(format!("{node}.ready"));
    // That of an earlier start.
    let _ = fs::remove_file(&socket);
    let ready = ready::Listener::bind(&socket).map_err(Failure::during(socket.display()))?;
    let mut command = Space::command(&binary);
    command.arg("--config").arg(&config).env("NOTIFY_SOCKET", &socket);
    command.current_dir("/").stdout(output).stderr(errors);
    let mut child = space
        .start(&mut command)
        .map_err(Failure::during(format!("{program} on `{node}` cannot be started")))?;
    let waited = tokio::select! {
        heard = ready.wait() => heard.map_err(Failure::during(socket.display())),
        status = child.wait() => Err(Failure::error(format!(
            "{program} on `{node}` ended before it was ready ({}){}", shown(status.as_ref().ok()), tail(&log)))),
        () = tokio::time::sleep(READY_WITHIN) => Err(Failure::error(format!(
            "{program} on `{node}` was not ready within {READY_WITHIN:?}{}", tail(&log)))),
    };
    waited.map(|()| Started { daemon, child, log })
}

impl Daemons {
    /// Watches a daemon from now on.
    pub fn watch(&mut self, started: Started) {
        let Started { daemon, mut child, log } = started;
        let (stop, stopped) = oneshot::channel::<Stop>();
        let pid = child.id();
        let (node, program, deaths, its_log) =
            (daemon.node.clone(), daemon.program, self.report_death.clone(), log.clone());
        let ended = tokio::spawn(async move {
            tokio::select! {
                status = child.wait() => {
                    let status = status.as_ref().ok();
                    let message = format!("{program} on `{node}` ended during the run ({}){}", shown(status), tail(&its_log));
                    // Nobody listens any more once the run ends.
                    let _ = deaths.send(Death { node, message });
                    Ended::Early
                }
                how = stopped => end(&mut child, how.unwrap_or(Stop::Within(END_SOON))).await,
            }
        });
        self.running.push(Running { node: daemon.node, program: daemon.program, pid, log, stop, ended });
    }

    /// Waits for the next death; for ever if all live.
    pub async fn death(&mut self) -> Death {
        match self.deaths.recv().await {
            Some(death) => death,
            // This value holds a sender, so the channel never closes.
            None => std::future::pending().await,
        }
    }

    /// Kills the daemon of `node` as `kill -9` does; it is gone on return.
    pub async fn kill(&mut self, node: &str) -> Result<(), Failure> {
        let at = self.running.iter().position(|running| running.node == node);
        let at = at.ok_or_else(|| Failure::error(format!("`{node}` runs no daemon")))?;
        let Running { stop, ended, .. } = self.running.remove(at);
        // One that has just ended by itself is told as a death.
        let _ = stop.send(Stop::AtOnce);
        match ended.await {
            Ok(Ended::Killed) => Ok(()),
            _ => {
                Err(Failure::error(format!("the daemon of `{node}` could not be killed: it ended by itself")))
            }
        }
    }

    /// Seconds of a processor that each node's daemon has used so far, with its process.
    pub fn used(&self) -> BTreeMap<String, (u32, Usage)> {
        let of = |running: &Running| {
            let pid = running.pid?;
            Some((running.node.clone(), (pid, Usage::of(pid)?)))
        };
        self.running.iter().filter_map(of).collect()
    }

    /// What tells how much of the processors those daemons use that run now, and these `others`.
    pub fn meter(&self, others: impl Iterator<Item = u32>) -> Meter {
        Meter(self.running.iter().filter_map(|running| running.pid).chain(others).collect())
    }

    /// Knows nothing any more of the daemon of `node`, which has ended.
    pub fn forget(&mut self, node: &str) {
        self.running.retain(|running| running.node != node);
    }

    /// The names of the nodes with a daemon.
    pub fn nodes(&self) -> Vec<String> {
        self.running.iter().map(|running| running.node.clone()).collect()
    }

    /// Ends all, and says which did not end cleanly `within` this time.
    pub async fn end(self, within: Duration) -> Vec<String> {
        let ending: Vec<_> = self
            .running
            .into_iter()
            .map(|Running { node, program, log, stop, ended, .. }| {
                // A receiver that is gone means that the daemon is.
                let _ = stop.send(Stop::Within(within));
                (node, program, log, ended)
            })
            .collect();
        let mut complaints = Vec::new();
        for (node, program, log, ended) in ending {
            let what = match ended.await {
                Ok(Ended::Early) => continue,
                Ok(Ended::Told(status)) if status.success() => continue,
                Ok(Ended::Told(status)) => format!("ended with {}", shown(Some(&status))),
                Ok(Ended::Killed) => format!("did not end within {within:?} of SIGTERM and was killed"),
                Ok(Ended::Unknown(error)) => format!("could not be waited for: {error}"),
                Err(error) => format!("was lost: {error}"),
            };
            complaints.push(format!("{program} on `{node}` {what}{}", tail(&log)));
        }
        complaints
    }
}

async fn end(child: &mut Child, how: Stop) -> Ended {
    let Stop::Within(time) = how else {
        return child.kill().await.map_or_else(Ended::Unknown, |()| Ended::Killed);
    };
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // It may just have ended; its status tells.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    match tokio::time::timeout(time, child.wait()).await {
        Ok(Ok(status)) => Ended::Told(status),
        Ok(Err(error)) => Ended::Unknown(error),
        Err(_) => match child.kill().await {
            Ok(()) => Ended::Killed,
            Err(error) => Ended::Unknown(error),
        },
    }
}

fn write_files(daemon: &Daemon, folder: &Path, config: &Path) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let files = daemon.files.iter().map(|(name, text)| (folder.join(name), text));
    for (path, text) in files.chain([(config.to_owned(), &daemon.config)]) {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
    }
    Ok(())
}

fn shown(status: Option<&ExitStatus>) -> String {
    status.map_or_else(|| "status unknown".to_owned(), ExitStatus::to_string)
}

/// The last lines of a log, ready to be appended to a message.
fn tail(log: &Path) -> String {
    const AT_MOST: u64 = 8192;
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(AT_MOST)))?;
        let mut bytes = Vec::new();
        file.take(AT_MOST).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    if last.is_empty() {
        return format!("; its log {} is empty", log.display());
    }
    let shown: String = last.iter().map(|line| format!("\n  | {line}")).collect();
    format!("; the end of {}:{shown}", log.display())
}

#[cfg(test)]
mod tests {
    use super::tail;

    #[test]
    fn the_end_of_a_log_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("x.log");
        std::fs::write(&log, (0..5000).map(|n| format!("line {n}\n")).collect::<String>()).unwrap();
        let text = tail(&log);
        assert_eq!(text.lines().count(), 13);
        assert!(text.ends_with("| line 4999"), "{text}");
        assert!(tail(&folder.path().join("none")).contains("is empty"));
    }
}
