//! What is said at a lab's control socket: requests, answers, and how a command asks.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, IoSliceMut, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::exit::Failure;
use crate::report::breakdown::Stage;
use crate::report::topology::Topology;
use crate::state::Lab;

/// What a lab can be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What was built, and where: [`About`].
    About,
    /// How everything is now: [`Status`].
    Status,
    /// The namespaces of a node: file descriptors beside the answer, in the order of [`NAMESPACES`].
    Enter {
        /// Its name.
        node: String,
    },
    /// Something that shall happen, as the entry of a scenario's timeline that says so; the answer is [`Done`].
    Act {
        /// `kill = { node = "rs" }`
        entry: String,
    },
    /// A node's move, measured: [`Moved`].
    Handover {
        /// Who moves.
        node: String,
        /// The interface it goes on with.
        to: String,
        /// Time without any network, as scenario files write it.
        gap: Option<String>,
        /// Time in both networks.
        overlap: Option<String>,
    },
    /// Ends the lab; the answer comes before the end.
    Down,
}

/// The namespaces that [`Request::Enter`] hands out, by their files in /proc/PID/ns.
pub const NAMESPACES: [&str; 4] = ["user", "pid", "mnt", "net"];

/// What a lab is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// The lab's name.
    pub lab: String,
    /// The scenario's.
    pub scenario: String,
    /// What it is about.
    pub about: String,
    /// Networks, routers, hosts.
    pub topology: Topology,
    /// What links do to packets, in words.
    pub links: BTreeMap<String, String>,
    /// Names of virtual addresses that are known so far.
    pub virtual_names: Vec<(IpAddr, String)>,
    /// Where configurations, traces, logs and keys are.
    pub folder: PathBuf,
}

/// How a lab is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// What it is made of.
    pub about: About,
    /// Seconds since everything was ready.
    pub seconds: f64,
    /// Each daemon's node and how it is.
    pub daemons: BTreeMap<String, Daemon>,
    /// Interfaces that are up, by host, the preferred one last.
    pub up: BTreeMap<String, Vec<String>>,
    /// What each daemon says of itself.
    pub said: Json,
}

/// A daemon of a lab.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Daemon {
    /// Its program.
    pub program: String,
    /// Why it does not run; `None` if it does.
    pub dead: Option<String>,
}

/// Something was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// When, in nanoseconds of the lab's clock.
    pub t: u64,
}

/// A handover that was done and measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    /// Who moved.
    pub node: String,
    /// The interface it left.
    pub from: String,
    /// The interface it went on with.
    pub to: String,
    /// Where its time went.
    pub stages: Vec<Spent>,
    /// Stages whose end was not observed.
    pub missing: Vec<String>,
    /// The paths when it was over, as the terminal tells them; nothing of a node without NTMobile.
    pub paths: Json,
}

/// A part of a handover.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spent {
    /// On what.
    pub name: String,
    /// What ended it.
    pub until: String,
    /// How long it took, in milliseconds.
    pub ms: f64,
}

impl From<&Stage> for Spent {
    fn from(stage: &Stage) -> Self {
        let ms = stage.end.saturating_sub(stage.begin) as f64 / 1e6;
        Self { name: stage.name.to_owned(), until: stage.until.to_owned(), ms }
    }
}

/// A connection to a lab.
pub struct Talk {
    lab: String,
    stream: UnixStream,
}

impl Talk {
    /// Connects.
    pub fn to(lab: &Lab) -> Result<Self, Failure> {
        let connect = || UnixStream::connect(super::short(&lab.socket)?.1);
        // It may be on its way up or down.
        let gone = |error| Failure::error(format!("the lab {} does not answer: {error}", lab.name));
        Ok(Self { lab: lab.name.clone(), stream: connect().map_err(gone)? })
    }

    /// Asks.
    pub fn ask<T: DeserializeOwned>(&mut self, request: &Request) -> Result<T, Failure> {
        self.send(request)?;
        let mut line = String::new();
        BufReader::new(&self.stream).read_line(&mut line).map_err(self.failed())?;
        self.answer(&line)
    }

    /// Asks for a node's namespaces, in the order of [`NAMESPACES`].
    pub fn enter(&mut self, node: &str) -> Result<Vec<OwnedFd>, Failure> {
        self.send(&Request::Enter { node: node.to_owned() })?;
        let (mut descriptors, mut line) = (Vec::new(), Vec::new());
        while !line.ends_with(b"\n") {
            let mut buffer = [0; 4096];
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let mut room = cmsg_space!([i32; NAMESPACES.len()]);
            let flags = MsgFlags::MSG_CMSG_CLOEXEC;
            let got = recvmsg::<()>(self.stream.as_raw_fd(), &mut parts, Some(&mut room), flags)
                .map_err(|error| self.failed()(error.into()))?;
            for message in got.cmsgs().map_err(|error| self.failed()(error.into()))? {
                if let ControlMessageOwned::ScmRights(received) = message {
                    // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows them.
                    descriptors.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
            }
            let count = got.bytes;
            if count == 0 {
                break;
            }
            line.extend_from_slice(&buffer[..count]);
        }
        self.answer::<Json>(&String::from_utf8_lossy(&line))?;
        if descriptors.len() == NAMESPACES.len() {
            Ok(descriptors)
        } else {
            Err(Failure::error(format!("the lab {} handed out no namespaces", self.lab)))
        }
    }

    fn send(&mut self, request: &Request) -> Result<(), Failure> {
        let text = serde_json::to_string(request).map_err(Failure::during("a request"))?;
        self.stream.write_all((text + "\n").as_bytes()).map_err(self.failed())
    }

    fn answer<T: DeserializeOwned>(&self, line: &str) -> Result<T, Failure> {
        if line.is_empty() {
            return Err(Failure::error(format!("the lab {} ended before it answered", self.lab)));
        }
        let mut answer: Json = serde_json::from_str(line).map_err(Failure::during("its answer"))?;
        match answer.get_mut("ok").map(Json::take) {
            Some(ok) => serde_json::from_value(ok).map_err(Failure::during("its answer")),
            // What it refuses was asked wrongly.
            None => Err(Failure::usage(answer["error"].as_str().unwrap_or("it gave no answer"))),
        }
    }

    fn failed(&self) -> impl Fn(std::io::Error) -> Failure + use<> {
        let lab = self.lab.clone();
        move |error| Failure::error(format!("the lab {lab}: {error}"))
    }

    /// Returns when the lab has closed its end.
    pub fn wait_for_end(mut self) {
        // Whatever is read, or fails to be, it is gone then.
        let _ = std::io::copy(&mut self.stream, &mut std::io::sink());
    }
}

impl AsFd for Talk {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
