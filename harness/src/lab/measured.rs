//! A handover in a lab, measured as one of a run: by the packets of the node that moves and by what its daemon notes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use serde_json::Value as Json;

use super::talk::{Moved, Spent};
use crate::capture::packet::{Content, NtmKind, Packet};
use crate::capture::tap::Tap;
use crate::clock;
use crate::exit::Failure;
use crate::report::breakdown;
use crate::timeline::Handover;
use crate::trace::Trace;
use crate::world::space::Space;

/// A handover that takes longer is told as far as it came.
const PATIENCE: Duration = Duration::from_secs(10);
/// Once the path stands, data of an application that sends every second comes within this.
const DATA_WITHIN: Duration = Duration::from_millis(1500);
/// How often it is looked whether a stage has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How soon a watch notices that it shall end.
const TICK: Duration = Duration::from_millis(20);
/// So many packets are remembered.
const MOST: usize = 1_000_000;

type Seen = Arc<Mutex<Vec<(String, Packet)>>>;

/// The packets of all interfaces of a node, from when it was started.
pub struct Watch {
    seen: Seen,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to watch; on return nothing is missed any more.
    pub fn start(place: &Space) -> Result<Self, Failure> {
        let during = |what: &'static str| Failure::during(format!("{what} of `{}`", place.name));
        let network = place.network().try_clone().map_err(during("the network"))?;
        let (seen, stop) = (Seen::default(), Arc::new(AtomicBool::new(false)));
        let (its, told) = (Arc::clone(&seen), Arc::clone(&stop));
        let (opened, is_open) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name(format!("watch {}", place.name)).spawn(move || {
            let tap = setns(network.as_fd(), CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .and_then(|()| Tap::open());
            match tap {
                Ok(tap) => {
                    let _ = opened.send(Ok(()));
                    watch(tap, &its, &told);
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                }
            }
        });
        let thread = thread.map_err(during("a thread for the packets"))?;
        let open = is_open.recv().unwrap_or_else(|_| Err(io::Error::other("its thread panicked")));
        open.map_err(during("the packets"))?;
        Ok(Self { seen, stop, thread: Some(thread) })
    }

    /// When the first packet that `counts` passed `interface`, not before `from`.
    fn first(&self, interface: &str, from: u64, counts: impl Fn(&Packet) -> bool) -> Option<u64> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |(at, packet): &&(String, Packet)| at == interface && packet.t >= from && counts(packet);
        seen.iter().find(fits).map(|(_, packet)| packet.t)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(mut tap: Tap, seen: &Seen, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        let offset = clock::wall().wrapping_sub(clock::now().as_nanos());
        let taken = tap.wait(TICK).and_then(|()| {
            tap.take(|frame| {
                let Some(packet) = frame.packet(offset) else { return Ok(()) };
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.len() < MOST {
                    seen.push((frame.interface.to_owned(), packet));
                }
                Ok(())
            })
        });
        if taken.is_err() {
            return;
        }
    }
}

/// A place in a daemon's trace, from which it is read.
pub struct Mark {
    file: PathBuf,
    from: u64,
}

impl Mark {
    /// The end of `file`, as it is now.
    pub fn of(file: &Path) -> Self {
        Self { file: file.to_owned(), from: std::fs::metadata(file).map_or(0, |meta| meta.len()) }
    }

    /// The records since. A line that is being written is left out.
    fn records(&self) -> Vec<Json> {
        let read = || -> io::Result<String> {
            let mut file = File::open(&self.file)?;
            file.seek(SeekFrom::Start(self.from))?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(text)
        };
        read().unwrap_or_default().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

/// Follows a handover that was done to the first data packet in the new network, as far as there is any; the result has no paths.
///
/// A terminal without paths has nothing to direct anew: it is followed to its registration.
pub async fn follow(
    done: &Handover,
    watch: &Watch,
    mark: &Mark,
    own: &Trace,
    is_terminal: bool,
    has_paths: bool,
) -> Moved {
    let counts = |packet: &Packet| !is_terminal || packet.content == Content::Ntm(NtmKind::Data);
    let time = |record: &Json| record["t"].as_u64().unwrap_or(0);
    let started = tokio::time::Instant::now();
    let mut stood: Option<tokio::time::Instant> = None;
    let told = loop {
        let mut trace: Vec<Json> =
            own.all().into_iter().filter(|record| time(record) >= done.began()).collect();
        // Its link came up before that, where the networks overlap.
        trace.extend(
            own.all().into_iter().rfind(|record| record["what"] == "link-up" && time(record) < done.began()),
        );
        trace.extend(mark.records());
        trace.sort_by_key(time);
        let told = breakdown::of(done, &trace, watch.first(&done.to, done.began(), counts));
        let ended = |name: &str| !told.missing.contains(&name);
        if ended("tunnel") && stood.is_none() {
            stood = Some(tokio::time::Instant::now());
        }
        let enough = match (is_terminal, has_paths) {
            (false, _) => true,
            (true, false) => ended("registration"),
            (true, true) => {
                ended("tunnel") && (ended("first data") || stood.is_some_and(|at| at.elapsed() > DATA_WITHIN))
            }
        };
        if enough || started.elapsed() > PATIENCE {
            break told;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    };
    Moved {
        node: done.node.clone(),
        from: done.from.clone(),
        to: done.to.clone(),
        stages: told.stages.iter().map(Spent::from).collect(),
        missing: told.missing.iter().map(|name| (*name).to_owned()).collect(),
        paths: Json::Null,
    }
}
