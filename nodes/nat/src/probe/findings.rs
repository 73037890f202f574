//! What a probe has seen, and where that is not what was declared.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use serde::{Serialize, Serializer};
use thiserror::Error;

use crate::behaviour::{Allocation, Axes, Dependence, PortRange};
use crate::duration;

/// How a router behaved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The address that it shows.
    pub external: Ipv4Addr,
    /// Which destinations share a mapping.
    pub mapping: Dependent,
    /// Who may send to a mapping.
    pub filtering: Dependent,
    /// Whether the hosts reach each other by their outer addresses. `None` where hosts cannot find out: with endpoint-dependent mapping
    /// *and* filtering, no host knows the port by which its partner would let it in.
    pub hairpin: Option<bool>,
    /// How ports are chosen.
    pub allocation: Allocation,
    /// From the least to the greatest port that was seen.
    pub ports: PortRange,
    /// Of a UDP mapping that nobody renews; `None` where the timeout is too long to wait for.
    pub lifetime: Option<Lifetime>,
    /// What no NAT should do, however it was declared.
    pub faults: Vec<Fault>,
    /// Inner and outer port of each socket's first mapping, in the order in which they were made.
    #[serde(skip)]
    pub firsts: Vec<(u16, u16)>,
}

/// What was the same, or passed, told from what the first port of the first address showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dependent {
    /// For the other port of the same address, too.
    pub other_port: bool,
    /// For the other address, too.
    pub other_address: bool,
}

/// How long a mapping lived that nobody renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lifetime {
    /// It had ended at 4/5 of its declared time.
    Shorter,
    /// It was there at 4/5 of its declared time, and had ended at 5/4.
    AsDeclared,
    /// It was still there at 5/4 of its declared time.
    Longer,
}

/// What no NAT should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// RFC 4787, REQ-3: no port overloading.
    #[error("two hosts have one outer port, {0}")]
    SharedPort(SocketAddrV4),
    /// One destination saw one socket at two ports.
    #[error("one destination saw one socket as {0} and as {1}")]
    Unstable(SocketAddrV4, SocketAddrV4),
    /// RFC 4787, REQ-2: all mappings of the probe's hosts have one address.
    #[error("it shows two addresses, {0} and {1}")]
    TwoAddresses(Ipv4Addr, Ipv4Addr),
    /// A packet to a port that no mapping has reached a host.
    #[error("what came for port {0}, which no mapping had, reached a host")]
    Unmapped(u16),
    /// A filter was opened by what another host had sent.
    #[error("what one host sent opened the mapping {0} of the other")]
    CrossOpened(SocketAddrV4),
    /// A packet from outside changed the mapping that was made after it.
    #[error("an early packet of a peer moved a mapping from {0} to {1}")]
    Moved(SocketAddrV4, SocketAddrV4),
    /// RFC 4787, REQ-9: what turns back shows the outer address.
    #[error("what turned back came from {0}, not from an outer address")]
    InnerAddressShown(SocketAddrV4),
}

/// A way in which a router is not what it was declared to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// Which axis of the behaviour, in a few words.
    pub axis: &'static str,
    /// What was declared.
    pub declared: String,
    /// What was observed.
    pub observed: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: declared {}, observed {}", self.axis, self.declared, self.observed)
    }
}

impl Findings {
    /// Every way in which this is not the NAT at `external` that `declared` describes.
    pub fn mismatches(&self, declared: &Axes, external: Ipv4Addr) -> Vec<Mismatch> {
        let mut out = Vec::new();
        let mut differ =
            |axis, declared: String, observed: String| out.push(Mismatch { axis, declared, observed });
        if self.external != external {
            differ("outer address", external.to_string(), self.external.to_string());
        }
        if self.mapping.dependence() != Some(declared.mapping) {
            differ("mapping", declared.mapping.to_string(), self.mapping.to_string());
        }
        if self.filtering.dependence() != Some(declared.filtering) {
            differ("filtering", declared.filtering.to_string(), self.filtering.to_string());
        }
        if let Some(hairpin) = self.hairpin
            && hairpin != declared.hairpin
        {
            differ("hairpin", declared.hairpin.to_string(), hairpin.to_string());
        }
        if self.allocation != declared.allocation {
            differ("allocation", declared.allocation.to_string(), self.allocation.to_string());
        }
        if let Some(observed) = self.ports_beside(declared) {
            differ("ports", declared.ports.to_string(), observed);
        }
        let udp = || duration::show(declared.timeouts.udp);
        match self.lifetime {
            Some(Lifetime::Shorter) => differ("UDP timeout", udp(), "a shorter one".to_owned()),
            Some(Lifetime::Longer) => differ("UDP timeout", udp(), "a longer one".to_owned()),
            Some(Lifetime::AsDeclared) | None => {}
        }
        for fault in &self.faults {
            differ("soundness", "a NAT".to_owned(), fault.to_string());
        }
        out
    }

    /// How the ports are not those of the declared range, if they are not.
    fn ports_beside(&self, declared: &Axes) -> Option<String> {
        let range = declared.ports;
        if let Some((inner, outer)) = self.firsts.iter().find(|(_, outer)| !range.contains(*outer)) {
            return Some(format!("port {outer} for the inner port {inner}"));
        }
        if !range.contains(self.ports.first()) || !range.contains(self.ports.last()) {
            return Some(format!("ports from {}", self.ports));
        }
        match self.allocation {
            Allocation::Preserve if declared.allocation == Allocation::Preserve => {
                let mut wanted = self.firsts.iter().filter(|(inner, _)| range.contains(*inner));
                let (inner, outer) = wanted.find(|(inner, outer)| inner != outer)?;
                Some(format!("port {outer} for the inner port {inner}, which is in the range"))
            }
            Allocation::Random if is_narrow(&self.firsts, range) => {
                let outer = self.firsts.iter().map(|(_, outer)| *outer);
                let (least, most) = (outer.clone().min()?, outer.max()?);
                Some(format!("only ports from {least} to {most}"))
            }
            _ => None,
        }
    }

    /// Compares the time after which the router itself says that a fresh UDP mapping ends, in whole seconds.
    pub fn told_timeout(declared: Duration, told: u64) -> Option<Mismatch> {
        (told != declared.as_secs()).then(|| Mismatch {
            axis: "UDP timeout",
            declared: duration::show(declared),
            observed: format!("{told}s"),
        })
    }
}

/// Whether ports that are as near to each other as these would come by chance from the whole `range` once in a thousand million times.
fn is_narrow(firsts: &[(u16, u16)], range: PortRange) -> bool {
    let outer = firsts.iter().map(|(_, outer)| *outer);
    let (Some(least), Some(most)) = (outer.clone().min(), outer.max()) else { return false };
    let spread = f64::from(u32::from(most) - u32::from(least) + 1) / f64::from(range.size());
    let count = firsts.len() as f64;
    // At most the chance that all others fall within a spread of any one of them.
    count * spread.powf(count - 1.0) < 1e-9
}

/// How ports are chosen, from the first mappings of some sockets in their order. `range` is where inner ports are expected to be kept.
pub(super) fn allocation(firsts: &[(u16, u16)], range: PortRange) -> Allocation {
    let inside = firsts.iter().filter(|(inner, _)| range.contains(*inner));
    let kept = inside.clone().filter(|(inner, outer)| inner == outer).count();
    if kept * 2 > inside.count() {
        return Allocation::Preserve;
    }
    let breaks = firsts.windows(2).filter(|pair| pair[1].1 != pair[0].1.wrapping_add(1)).count();
    // After the last port the first comes.
    if breaks <= 1 { Allocation::Contiguous } else { Allocation::Random }
}

impl Dependent {
    /// Which value of RFC 4787 this is; `None` if it is none.
    pub fn dependence(&self) -> Option<Dependence> {
        match (self.other_port, self.other_address) {
            (true, true) => Some(Dependence::EndpointIndependent),
            (true, false) => Some(Dependence::AddressDependent),
            (false, false) => Some(Dependence::AddressAndPortDependent),
            (false, true) => None,
        }
    }
}

impl fmt::Display for Dependent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dependence() {
            Some(dependence) => dependence.fmt(f),
            None => f.write_str("port-dependent alone"),
        }
    }
}

impl Serialize for Dependent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
