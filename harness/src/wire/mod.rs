//! Links with rate, delay, jitter, loss, duplication and reordering on real packets, in user space: for kernels without netem.
//!
//! A link that is to be impaired is not one veth pair but two, and their inner ends lie in a namespace where nothing else is:
//!
//! ```text
//! node ── wlan0 ═══ a ── wire ── b ═══ mn.wlan0 ── bridge of its network
//!        (outer)  (inner)     (inner)  (outer)
//! ```
//!
//! The wire reads each frame that comes out of an inner end, asks [`ntm_sim::impair`] what becomes of it, and writes it into the other
//! inner end when it is due. The machine that decides is the simulation's; here it meets a kernel's scheduler, so what was achieved is
//! measured for every frame: [`Report`].
//!
//! * [`Wire`]: starts the thread, changes links, reports. One thread serves all links.
//! * [`Trains`]: the longest train of packets that the outer ends may be given. **The caller sets it** (`gso_max_size`, `gso_max_segs`), as
//!   only it knows the outer ends.
//! * Inside: `drive` is the thread's loop, `transit` holds the frames under way and decides how to wait, `frame` measures frames, `socket` makes
//!   the system calls.
//!
//! # Precision
//!
//! A frame's time counts from the kernel's receive timestamp, so that waking up late to read it costs nothing. For sending, the thread sets its
//! alarm early and watches the clock for the rest, for at most a twelfth of the time; a busy link sleeps to 40 µs instead.
//! Where the machine allows it the thread runs as SCHED_FIFO.
//!
//! # Limits
//!
//! * Carrier does not pass: when a node's interface goes down, the bridge at the other side does not hear of it, as with a real access point.
//! * A frame with a VLAN tag loses it: veth hands tags over beside the frame. The harness makes no VLANs.
//! * The inner ends' namespace must have IPv6 switched off, or its kernel speaks on the link too.

mod drive;
mod frame;
mod histogram;
mod report;
mod socket;
mod transit;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns};
use nix::sys::eventfd::{EfdFlags, EventFd};
use ntm_sim::impair::{Impairment, Line};
use thiserror::Error;

use self::drive::{Command, Driver};
use self::socket::End;

pub use self::frame::Trains;
pub use self::histogram::{Histogram, Summary};
pub use self::report::{Achieved, Busiest, Dropped, LinkReport, Report};

/// Where an inner end is.
#[derive(Debug)]
pub struct Inner {
    /// The network namespace.
    pub netns: OwnedFd,
    /// The interface.
    pub interface: String,
}

/// A link to be made between two inner ends.
#[derive(Debug)]
pub struct LinkSpec {
    /// For messages and reports.
    pub name: String,
    /// The node's side.
    pub a: Inner,
    /// The network's side.
    pub b: Inner,
    /// From `a` to `b`.
    pub up: Impairment,
    /// From `b` to `a`.
    pub down: Impairment,
    /// Where its chance comes from. Links of one wire may share it: each link's chance, and each direction's, is its own.
    pub seed: u64,
}

/// A direction of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From `a` to `b`.
    Up,
    /// From `b` to `a`.
    Down,
}

/// Why a wire cannot be made or used.
#[derive(Debug, Error)]
pub enum WireError {
    /// The thread could not be started.
    #[error("the wire's thread cannot be started: {0}")]
    Thread(io::Error),
    /// An end of a link could not be opened.
    #[error(
        "link `{link}`: {interface} cannot be opened: {error}; a wire needs CAP_NET_RAW and CAP_SYS_ADMIN over its namespace"
    )]
    End {
        /// Its name.
        link: String,
        /// The inner end.
        interface: String,
        /// What the kernel said.
        error: io::Error,
    },
    /// There is no link of that number.
    #[error("the wire has no link {0}")]
    NoLink(usize),
    /// The thread ended, which the log explains.
    #[error("the wire has ended")]
    Ended,
}

/// Links in operation, until it is dropped.
#[derive(Debug)]
pub struct Wire {
    /// Taken only to be dropped: that is how the thread learns of the end.
    commands: Option<Sender<Command>>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
    links: usize,
}

impl Wire {
    /// Makes `links`, and returns when packets pass. The inner ends must be there, up or not.
    pub fn start(links: Vec<LinkSpec>) -> Result<Self, WireError> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let wake = Arc::new(wake.map_err(|error| WireError::Thread(error.into()))?);
        let (commands, inbox) = channel();
        let (started, has_started) = channel();
        let count = links.len();
        let its = Arc::clone(&wake);
        let work = move || match prepare(links, inbox, its) {
            Err(error) => {
                let _ = started.send(Err(error));
            }
            Ok(driver) => {
                // Whoever started it waits for this.
                let _ = started.send(Ok(()));
                if let Err(error) = driver.run() {
                    tracing::error!("the wire has ended, and no link carries packets any more: {error}");
                }
            }
        };
        let thread = thread::Builder::new().name("wire".into()).spawn(work).map_err(WireError::Thread)?;
        has_started.recv().unwrap_or(Err(WireError::Ended))?;
        Ok(Self { commands: Some(commands), wake, thread: Some(thread), links: count })
    }

    /// From now on, the link numbered `link` (as given, from 0) does `asked` to packets in `direction`.
    pub fn set(&self, link: usize, direction: Direction, asked: Impairment) -> Result<(), WireError> {
        if link >= self.links {
            return Err(WireError::NoLink(link));
        }
        self.command(Command::Set(link * 2 + usize::from(direction == Direction::Down), asked))
    }

    /// Begins to count anew what is achieved.
    pub fn forget(&self) -> Result<(), WireError> {
        self.command(Command::Forget)
    }

    /// What was achieved so far. Waits for the thread, which takes well under a millisecond.
    pub fn report(&self) -> Result<Report, WireError> {
        let (to, from) = channel();
        self.command(Command::Report(to))?;
        from.recv().map_err(|_| WireError::Ended)
    }

    fn command(&self, command: Command) -> Result<(), WireError> {
        let commands = self.commands.as_ref().ok_or(WireError::Ended)?;
        commands.send(command).map_err(|_| WireError::Ended)?;
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        // It fails only when the counter is full, and then the thread is awake.
        let _ = self.wake.write(1);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.commands = None;
        self.wake();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// Opens all ends, on the wire's own thread, which may change its namespace.
fn prepare(
    links: Vec<LinkSpec>,
    commands: Receiver<Command>,
    wake: Arc<EventFd>,
) -> Result<Driver, WireError> {
    let mut names = Vec::new();
    let mut ways = Vec::new();
    for (number, link) in (0..).zip(links) {
        for (direction, inner, asked) in [(0, &link.a, link.up), (1, &link.b, link.down)] {
            let end = setns(&inner.netns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
            let end = end.and_then(|()| End::open(&inner.interface)).map_err(|error| WireError::End {
                link: link.name.clone(),
                interface: inner.interface.clone(),
                error,
            })?;
            ways.push((end, Line::new(asked, seed(link.seed, number, direction))));
        }
        names.push(link.name);
    }
    Driver::new(names, ways, commands, wake).map_err(WireError::Thread)
}

fn seed(given: u64, link: u64, direction: u8) -> [u8; 32] {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&given.to_le_bytes());
    seed[8..16].copy_from_slice(&link.to_le_bytes());
    seed[16] = direction;
    seed
}
