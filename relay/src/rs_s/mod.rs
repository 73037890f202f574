//! RS-S by the kernel (T4.1.3-a): a program at the ingress of the relay's interfaces switches data packets before the network stack sees them, from a
//! table that is kept in step with the Relay Table. Where this machine has it not, or the traffic is better served so, the data thread does it:
//! both do the same to every packet.
//!
//! * [`choice`]: which of the two; a pure rule.
//! * `rs_s.c`, `rs_s.o`: the program, and what clang makes of it (`build`). `kernel` loads it and writes its tables.
//! * `route`: how the kernel would send a datagram, which the program must be told.

pub mod choice;
mod kernel;
mod route;

use std::collections::HashSet;
use std::net::SocketAddr;

use foldhash::fast::FixedState;
use ntm_protocol::addr::PathId;
use ntm_protocol::data::DataUpdate;
use ntm_protocol::time::Instant;
use ntm_protocol::wire::Role;
use ntm_tunnel::{Counts, Udp};
use serde::{Deserialize, Serialize};

use choice::{Choice, PERIOD, Passed, Switcher};
use kernel::{Hop, Kernel, KernelCounts};
use route::Routes;

/// What a configuration says of who switches.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The kernel where it can, unless the traffic is better served otherwise.
    #[default]
    Auto,
    /// The data thread.
    Userspace,
    /// The kernel where it can.
    Tcx,
}

/// Who switches, and the kernel's share of it.
pub(crate) struct RsS {
    mode: Mode,
    udp: Udp,
    /// Or why this machine has none.
    kernel: Result<Kernel, String>,
    /// What a program that is gone had counted.
    former: KernelCounts,
    choice: Choice,
    /// Whether the program switches, and the socket takes no trains.
    active: bool,
    /// The paths that are switched.
    paths: HashSet<PathId, FixedState>,
    routes: Routes,
    due: Option<Instant>,
}

impl RsS {
    /// For the relay whose socket `udp` is bound to `port`, and which speaks to `peers`. Where these are reached, ends of paths will be.
    pub(crate) fn open(
        mode: Mode,
        udp: Udp,
        port: u16,
        capacity: usize,
        peers: impl Iterator<Item = SocketAddr>,
    ) -> Self {
        let mut routes = Routes::default();
        let kernel = match mode {
            Mode::Userspace => Err("the configuration says so".to_owned()),
            Mode::Auto | Mode::Tcx => Kernel::load(port, capacity).and_then(|mut kernel| {
                peers.filter_map(|peer| routes.to(peer)).try_for_each(|way| kernel.attach(way.link))?;
                Ok(kernel)
            }),
        };
        match (&kernel, mode) {
            (Err(why), Mode::Tcx) => tracing::warn!("tunnels are switched in user space (RS-S): {why}"),
            (Err(why), Mode::Auto) => tracing::info!("tunnels are switched in user space (RS-S): {why}"),
            _ => {}
        }
        Self {
            mode,
            udp,
            kernel,
            former: KernelCounts::default(),
            choice: Choice::default(),
            active: false,
            paths: HashSet::default(),
            routes,
            due: None,
        }
    }

    /// Takes a change of the data tables, before the data threads do.
    pub(crate) fn apply(&mut self, update: &DataUpdate, now: Instant) {
        if self.kernel.is_err() {
            return;
        }
        let done = match update {
            DataUpdate::Switch { path, ends: [Some(initiator), Some(responder)] } => {
                self.switch(*path, [*initiator, *responder], now)
            }
            DataUpdate::Switch { path, .. } | DataUpdate::Forget { path } => {
                self.forget(*path);
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(why) = done {
            self.give_up(why);
        }
    }

    fn switch(&mut self, path: PathId, ends: [SocketAddr; 2], now: Instant) -> Result<(), String> {
        let is_new = self.paths.insert(path);
        self.due.get_or_insert(now + PERIOD);
        if self.choice.switcher() == Switcher::Tcx && !self.active {
            self.activate(now)?;
        }
        let Ok(kernel) = &mut self.kernel else { return Ok(()) };
        // Between two families, or beside any Ethernet, the data thread switches.
        let ways = (ends[0].is_ipv4() == ends[1].is_ipv4()).then(|| ends.map(|end| self.routes.to(end)));
        let Some([Some(initiator), Some(responder)]) = ways else {
            kernel.remove(path);
            return Ok(());
        };
        let is_new = is_new && self.active;
        let onward = Hop { to: ends[1], way: responder, at: initiator.from };
        let back = Hop { to: ends[0], way: initiator, at: responder.from };
        kernel.set(path, Role::Initiator, &onward, is_new, now)?;
        kernel.set(path, Role::Responder, &back, is_new, now)?;
        for link in [initiator.link, responder.link] {
            kernel.attach(link)?;
        }
        Ok(())
    }

    fn forget(&mut self, path: PathId) {
        if !self.paths.remove(&path) {
            return;
        }
        if let Ok(kernel) = &mut self.kernel {
            kernel.remove(path);
        }
        if self.paths.is_empty() {
            self.deactivate();
            self.due = None;
        }
    }

    /// Has the kernel switch from here on.
    fn activate(&mut self, now: Instant) -> Result<(), String> {
        let Ok(kernel) = &mut self.kernel else { return Ok(()) };
        // First: packets that interfaces joined may be of several paths.
        self.udp.receive_trains(false).map_err(|error| format!("UDP_GRO stays on: {error}"))?;
        kernel.begin(now)?;
        self.active = true;
        Ok(())
    }

    /// Has the data thread switch from here on. What the program switched is ahead of what the thread will.
    fn deactivate(&mut self) {
        if !std::mem::take(&mut self.active) {
            return;
        }
        if let Ok(Err(why)) = self.kernel.as_mut().map(Kernel::end) {
            tracing::debug!("{why}");
        }
        if let Err(error) = self.udp.receive_trains(true) {
            tracing::debug!("UDP_GRO stays off: {error}");
        }
    }

    #[cold]
    fn give_up(&mut self, why: String) {
        tracing::warn!("tunnels are switched in user space from now on (RS-S): {why}");
        self.deactivate();
        self.former = self.kernel_counts();
        self.kernel = Err(why);
        self.paths.clear();
        self.due = None;
    }

    /// When [`RsS::handle_timeout`] is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }

    /// Does what is due at `now`; `counts` are what the data threads counted.
    pub(crate) fn handle_timeout(&mut self, counts: &Counts, now: Instant) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        self.due = Some(now + PERIOD);
        self.routes.forget();
        let switched = counts.forwarded_packets + self.kernel_counts().packets;
        let passed = Passed { switched, translated: counts.tun_out_packets };
        if self.mode != Mode::Auto || !self.choice.period(passed) {
            return;
        }
        let done = match self.choice.switcher() {
            Switcher::Tcx => self.activate(now),
            Switcher::Userspace => {
                self.deactivate();
                Ok(())
            }
        };
        tracing::info!("tunnels are switched by {} (RS-S): {}", self.status().path, self.status().why);
        if let Err(why) = done {
            self.give_up(why);
        }
    }

    fn kernel_counts(&self) -> KernelCounts {
        self.kernel.as_ref().map_or(self.former, Kernel::counts)
    }

    /// What the data threads counted, with what the kernel switched.
    pub(crate) fn counts(&self, mut counts: Counts) -> Counts {
        let kernel = self.kernel_counts();
        counts.forwarded_packets += kernel.packets;
        counts.forwarded_bytes += kernel.bytes;
        counts
    }

    /// What `status` says of it.
    pub(crate) fn status(&self) -> RsSStatus {
        let KernelCounts { packets, bytes, trains, up, failed } = self.kernel_counts();
        let (path, why) = match (&self.kernel, self.mode, self.choice.switcher()) {
            (Err(why), ..) => ("userspace", why.clone()),
            (Ok(_), Mode::Tcx, _) => ("tcx", "the configuration says so".to_owned()),
            (Ok(_), _, Switcher::Tcx) => ("tcx", "the kernel can".to_owned()),
            (Ok(_), _, Switcher::Userspace) => ("userspace", "most packets are of RS-N".to_owned()),
        };
        let interfaces = self.kernel.as_ref().map(Kernel::interfaces).unwrap_or_default();
        let program_ns = self.kernel.as_ref().ok().and_then(Kernel::nanoseconds);
        RsSStatus {
            path,
            why,
            interfaces,
            paths: self.paths.len(),
            packets,
            bytes,
            trains,
            up,
            failed,
            program_ns,
        }
    }
}

/// What `status` says of RS-S.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RsSStatus {
    /// Who switches: `tcx` or `userspace`.
    pub path: &'static str,
    /// Why.
    pub why: String,
    /// The interfaces at whose ingress the kernel's program stands.
    pub interfaces: Vec<String>,
    /// The paths that it was told of.
    pub paths: usize,
    /// Packets that the kernel's program switched.
    pub packets: u64,
    /// Bytes of them, of UDP payload.
    pub bytes: u64,
    /// In how many packets and trains they came.
    pub trains: u64,
    /// Packets for the relay's port that it left to the relay: control messages, and data that are not for it.
    pub up: u64,
    /// Packets that it lost because they could not be written.
    pub failed: u64,
    /// How long it ran in all, where the machine measures that (`kernel.bpf_stats_enabled`).
    pub program_ns: Option<u64>,
}
