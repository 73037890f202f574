//! The program in the kernel: `rs_s.c`, its maps, and the interfaces that it is attached to.
//!
//! Keys and values are written as bytes, as the structures of `rs_s.c` lie in memory.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::{fs, io};

use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use ntm_protocol::addr::PathId;
use ntm_protocol::time::{Duration, Instant};
use ntm_protocol::wire::Role;

use super::route::{Way, name};

static OBJECT: &[u8] = include_bytes_aligned!("rs_s.o");

const KEY: usize = 20;
const HOP: usize = 72;
const SETTINGS: usize = 24;
const COUNTS: usize = 40;

type Key = [u8; KEY];
type HopBytes = [u8; HOP];

/// How long nothing of a path may have gone through the data thread before the program switches it: much longer than the thread has a packet in
/// hand, so none is overtaken.
const GAP: Duration = Duration::from_millis(100);

/// The side that packets come from, and what becomes of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hop {
    /// Where they go.
    pub(super) to: SocketAddr,
    /// How.
    pub(super) way: Way,
    /// The relay's address that they come to.
    pub(super) at: IpAddr,
}

/// What the program counted on all processors. Bytes are those of UDP payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct KernelCounts {
    /// Packets switched, trains split.
    pub(super) packets: u64,
    /// Bytes of them.
    pub(super) bytes: u64,
    /// The packets and trains in which they came.
    pub(super) trains: u64,
    /// Packets for the relay's port that it left to the relay.
    pub(super) up: u64,
    /// Packets lost because they could not be written.
    pub(super) failed: u64,
}

/// The program, loaded. All of it goes when this is dropped.
pub(super) struct Kernel {
    hops: HashMap<MapData, Key, HopBytes>,
    settings: Array<MapData, [u8; SETTINGS]>,
    counts: PerCpuArray<MapData, [u8; COUNTS]>,
    links: Vec<(u32, SchedClassifierLink)>,
    /// The last one.
    generation: u32,
    port: u16,
    program: Ebpf,
}

impl Kernel {
    /// Loads the program for a relay at `port` with room for `capacity` paths; or why this machine cannot.
    pub(super) fn load(port: u16, capacity: usize) -> Result<Self, String> {
        let entries = u32::try_from(capacity.saturating_mul(2)).unwrap_or(u32::MAX);
        // The program needs nothing of the kernel's types, which are long to read.
        let loaded = EbpfLoader::new().btf(None).map_max_entries("hops", entries).load(OBJECT);
        let mut program = loaded.map_err(|error| why(&error, "loading"))?;
        let map =
            |program: &mut Ebpf, name| program.take_map(name).ok_or("the object lacks a map".to_owned());
        let broken = |error: aya::maps::MapError| why(&error, "opening the maps of");
        let hops = HashMap::try_from(map(&mut program, "hops")?).map_err(broken)?;
        let settings = Array::try_from(map(&mut program, "settings")?).map_err(broken)?;
        let counts = PerCpuArray::try_from(map(&mut program, "counts")?).map_err(broken)?;
        let mut kernel = Self { hops, settings, counts, links: Vec::new(), generation: 0, port, program };
        kernel.classifier()?.load().map_err(|error| why(&error, "loading"))?;
        Ok(kernel)
    }

    fn classifier(&mut self) -> Result<&mut SchedClassifier, String> {
        let program = self.program.program_mut("rs_s").ok_or("the object lacks its program")?;
        program.try_into().map_err(|error: aya::programs::ProgramError| error.to_string())
    }

    fn link(&mut self, interface: &str) -> Result<SchedClassifierLink, String> {
        let classifier = self.classifier()?;
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        let attached = classifier.attach_with_options(interface, TcAttachType::Ingress, options);
        attached.and_then(|id| classifier.take_link(id)).map_err(|error| why(&error, "attaching"))
    }

    /// From here on packets may be switched, those of a path once none of it was in the data thread's hands for a while. Before the first
    /// generation none was.
    pub(super) fn begin(&mut self, now: Instant) -> Result<(), String> {
        let since = if self.generation == 0 { 0 } else { now.as_nanos() };
        self.generation = self.generation.wrapping_add(1).max(1);
        self.put(since, self.generation)
    }

    /// From here on all packets are left to the relay. What was switched has left already.
    pub(super) fn end(&mut self) -> Result<(), String> {
        self.put(0, 0)
    }

    fn put(&mut self, since: u64, generation: u32) -> Result<(), String> {
        let mut bytes = [0; SETTINGS];
        bytes[..8].copy_from_slice(&since.to_ne_bytes());
        bytes[8..16].copy_from_slice(&(GAP.as_nanos() as u64).to_ne_bytes());
        bytes[16..20].copy_from_slice(&generation.to_ne_bytes());
        bytes[20..22].copy_from_slice(&self.port.to_be_bytes());
        self.settings.set(0, bytes, 0).map_err(|error| why(&error, "setting up"))
    }

    /// Attaches it to the interface `link`, if it is not there yet. That takes the kernel some 20 ms.
    pub(super) fn attach(&mut self, link: u32) -> Result<(), String> {
        if self.links.iter().all(|(known, _)| *known != link) {
            let name = name(link).ok_or_else(|| format!("there is no interface {link}"))?;
            let attached = self.link(&name)?;
            self.links.push((link, attached));
        }
        Ok(())
    }

    /// The interfaces that it is attached to.
    pub(super) fn interfaces(&self) -> Vec<String> {
        self.links.iter().filter_map(|(link, _)| name(*link)).collect()
    }

    /// Packets of `path` that come from `side` are switched so; the data thread never had one of them if it `is_new`.
    pub(super) fn set(
        &mut self,
        path: PathId,
        side: Role,
        hop: &Hop,
        is_new: bool,
        now: Instant,
    ) -> Result<(), String> {
        let (key, mut bytes) = (key(path, side), emit(hop));
        let (open, passed) = (56..60, 64..72);
        match self.hops.get(&key, 0) {
            // The program's own notes of it.
            Ok(old) if !is_new => {
                bytes[open.clone()].copy_from_slice(&old[open]);
                bytes[passed.clone()].copy_from_slice(&old[passed]);
            }
            _ if is_new => bytes[open].copy_from_slice(&self.generation.to_ne_bytes()),
            _ => bytes[passed].copy_from_slice(&now.as_nanos().to_ne_bytes()),
        }
        self.hops.insert(key, bytes, 0).map_err(|error| why(&error, "filling the table of"))
    }

    /// Packets of `path` are left to the relay.
    pub(super) fn remove(&mut self, path: PathId) {
        for side in [Role::Initiator, Role::Responder] {
            // What is not there need not go.
            let _ = self.hops.remove(&key(path, side));
        }
    }

    /// How long it has run in all, in nanoseconds; nothing where the machine does not measure programs (`kernel.bpf_stats_enabled`).
    pub(super) fn nanoseconds(&self) -> Option<u64> {
        let program: &SchedClassifier = self.program.program("rs_s")?.try_into().ok()?;
        let fd = program.fd().ok()?.as_fd().as_raw_fd();
        run_time(&fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?)
    }

    /// What it counted.
    pub(super) fn counts(&self) -> KernelCounts {
        let Ok(each) = self.counts.get(&0, 0) else { return KernelCounts::default() };
        let sum = |n: usize| {
            each.iter()
                .filter_map(|bytes| bytes[n * 8..].first_chunk().map(|it| u64::from_ne_bytes(*it)))
                .sum()
        };
        KernelCounts { packets: sum(0), bytes: sum(1), trains: sum(2), up: sum(3), failed: sum(4) }
    }
}

fn key(path: PathId, side: Role) -> Key {
    let mut bytes = [0; KEY];
    bytes[..16].copy_from_slice(&path.0);
    bytes[16..].copy_from_slice(&(side.index() as u32).to_ne_bytes());
    bytes
}

/// `struct hop`, which may not pass yet.
fn emit(hop: &Hop) -> HopBytes {
    let mut bytes = [0; HOP];
    let mut address = |at: usize, address: IpAddr| match address {
        IpAddr::V4(v4) => bytes[at..at + 4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => bytes[at..at + 16].copy_from_slice(&v6.octets()),
    };
    address(0, hop.to.ip());
    address(16, hop.at);
    address(32, hop.way.from);
    let version: u16 = if hop.to.is_ipv4() { 4 } else { 6 };
    bytes[48..50].copy_from_slice(&hop.to.port().to_be_bytes());
    bytes[50..52].copy_from_slice(&version.to_ne_bytes());
    bytes[52..56].copy_from_slice(&hop.way.link.to_ne_bytes());
    bytes
}

/// The time that a program's `fdinfo` tells.
fn run_time(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("run_time_ns:"))?;
    line.trim().parse().ok().filter(|time| *time > 0)
}

/// Why the kernel does not take the program, in a sentence.
fn why(error: &(dyn Error + 'static), doing: &str) -> String {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut last = error.to_string();
    while let Some(error) = cause {
        if let Some(system) = error.downcast_ref::<io::Error>() {
            match system.raw_os_error() {
                Some(libc::EPERM) => {
                    return "no CAP_BPF with CAP_NET_ADMIN in the machine's first user namespace".to_owned();
                }
                Some(libc::ENOSYS) => return "this kernel has no BPF".to_owned(),
                Some(libc::EINVAL) if doing == "attaching" => {
                    return "this kernel has no TCX: it came with Linux 6.6".to_owned();
                }
                _ => last = system.to_string(),
            }
        }
        cause = error.source();
    }
    format!("{doing} the program: {last}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_time_is_read() {
        let text = |time| format!("pos:\t0\nprog_type:\t3\nrun_time_ns:\t{time}\nrun_cnt:\t2\n");
        assert_eq!(run_time(&text(800)), Some(800));
        assert_eq!(run_time(&text(0)), None, "nobody measures");
        assert_eq!(run_time("pos:\t0\n"), None);
    }
}
