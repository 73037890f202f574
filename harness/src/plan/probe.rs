//! Addresses for the hosts that probe the routers.

use std::net::Ipv4Addr;

use super::{Plan, VIRTUAL};
use crate::scenario::prefix::Prefix;

/// Sixteen addresses that nobody in the world has: two for the server outside, and eight for a network of the same addresses behind each
/// router, whose hosts never meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeNet(Prefix);

/// Where these may be, by preference: blocks that are for documentation or out of use.
const BLOCKS: [Prefix; 3] = [
    Prefix::new(Ipv4Addr::new(192, 88, 99, 0), 24),
    Prefix::new(Ipv4Addr::new(192, 0, 0, 0), 24),
    Prefix::new(Ipv4Addr::new(198, 51, 100, 0), 24),
];

impl ProbeNet {
    /// The first that no network of `plan` overlaps; `None` if there is none.
    pub fn beside(plan: &Plan) -> Option<Self> {
        let hosts = plan.hosts.iter().flat_map(|host| host.interfaces.iter().map(|interface| interface.net));
        let routers = plan.routers.iter().map(|router| router.inner);
        let taken: Vec<Prefix> = hosts.chain(routers).chain([plan.internet, VIRTUAL]).collect();
        let parts = |block: Prefix| {
            (0..16).map(move |n| Prefix::new(Ipv4Addr::from_bits(block.base().to_bits() + n * 16), 28))
        };
        let free = |part: &Prefix| taken.iter().all(|net| !net.overlaps(*part));
        BLOCKS.into_iter().flat_map(parts).find(free).map(Self)
    }

    fn at(self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.0.base().to_bits() + n)
    }

    /// The two addresses outside.
    pub fn outer(self) -> [Ipv4Addr; 2] {
        [self.at(1), self.at(2)]
    }

    /// The network inside.
    pub fn inner(self) -> Prefix {
        Prefix::new(self.at(8), 29)
    }

    /// The router there.
    pub fn gateway(self) -> Ipv4Addr {
        self.at(9)
    }

    /// The two hosts there.
    pub fn hosts(self) -> [Ipv4Addr; 2] {
        [self.at(10), self.at(11)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::address;
    use crate::scenario::{check, source::Source};

    #[test]
    fn nobody_else_has_its_addresses() {
        let net = |routers: &str| {
            let text = format!("schema = 1\nname = \"t\"\nabout = \"t\"\n{routers}");
            let scenario =
                check(&Source { name: "t".into(), text }).unwrap_or_else(|message| panic!("{message}"));
            ProbeNet::beside(&address::plan(&scenario).unwrap()).unwrap()
        };
        let plain = net("");
        let [a, b] = plain.hosts();
        assert_eq!(
            (plain.inner().to_string(), a.to_string()),
            ("192.88.99.8/29".into(), "192.88.99.10".into())
        );
        assert!(plain.inner().has_host(plain.gateway()) && plain.inner().has_host(b));
        assert!(plain.outer().iter().all(|outer| !plain.inner().has_host(*outer)));
        let beside = net("[router.r]\nnat = \"symmetric\"\nsubnet = \"192.88.99.0/25\"\n");
        assert_eq!(beside.inner().to_string(), "192.88.99.136/29");
        let elsewhere = net("[internet]\nprefix = \"192.88.0.0/16\"\n");
        assert_eq!(elsewhere.inner().to_string(), "192.0.0.8/29");
    }
}
