//! Who is in the world, and where.

use std::net::{Ipv4Addr, Ipv6Addr};

use ntm_nat::Behaviour;
use ntm_protocol::addr::{Fqdn, VipRange};
use ntm_protocol::coordinator::lookup::DC_RECORD;
use ntm_protocol::wire::{Addresses, NodeKind};

use super::{World, fqdn_of};
use crate::HostId;
use crate::host::{Attached, Host, Interface, Part};
use crate::link::Link;
use crate::network::{INTERNET, NetworkId};

/// Where servers of zones are that no DC has.
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
const SERVER_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xd5, 0, 0, 0, 0, 0x53);

/// The interfaces of a host with `addresses` on the public network.
fn public(addresses: &[impl AsRef<str>], link: Link) -> Vec<Interface> {
    let interface = |address: &str| {
        let address = address.parse().expect("an IP address");
        Interface { network: INTERNET, address, link }
    };
    addresses.iter().map(|address| interface(address.as_ref())).collect()
}

impl World {
    fn add(&mut self, name: &str, fqdn: Fqdn, part: Part, interfaces: &[Interface]) -> HostId {
        let id = HostId(self.hosts.len());
        let attached = interfaces.iter().map(|interface| self.attach(id, interface)).collect();
        self.hosts.push(Host::new(name, fqdn, part, attached));
        id
    }

    /// An interface of a host comes up.
    pub(super) fn attach(&mut self, id: HostId, interface: &Interface) -> Attached {
        let (seed, Interface { network, address, link }) = (self.bytes(), *interface);
        let wire = self.networks.attach((network, address), id, &link, seed);
        Attached { network, address, wire }
    }

    /// Delegates `zone`, and the zones above it, to servers of their own.
    fn delegate(&mut self, zone: &Fqdn) {
        for above in std::iter::successors(zone.parent(), Fqdn::parent) {
            let data = self.dns.zone(&above);
            if data.servers.is_empty() {
                data.servers = vec![(fqdn_of(&format!("ns.{above}")), vec![SERVER.into(), SERVER_6.into()])];
            }
        }
    }

    /// A DC called `fqdn` for `zone`, which needs an interface. All DCs share keys with each other. What the DNS knows of it, [`dns`](Self::dns)
    /// is to be told.
    pub fn add_coordinator(
        &mut self,
        name: &str,
        fqdn: Fqdn,
        (zone, vips): (Fqdn, VipRange),
        at: &[Interface],
    ) -> HostId {
        let mut acquaintances = Vec::new();
        for host in &mut self.hosts {
            if let Part::Coordinator { acquaintances: theirs, vips: known, .. } = &mut host.part {
                theirs.push((fqdn.clone(), NodeKind::Coordinator, Some(vips)));
                acquaintances.push((host.fqdn.clone(), NodeKind::Coordinator, Some(*known)));
            }
        }
        self.add(name, fqdn, Part::Coordinator { zone, vips, acquaintances }, at)
    }

    /// A DC for `zone` on the public network, to which the DNS delegates its zone.
    pub fn coordinator(&mut self, name: &str, zone: &str, vips: &str, address: &str, link: Link) -> HostId {
        self.coordinator_at(name, zone, vips, &[address], link)
    }

    /// The same, with several addresses.
    pub fn coordinator_at(
        &mut self,
        name: &str,
        zone: &str,
        vips: &str,
        addresses: &[impl AsRef<str>],
        link: Link,
    ) -> HostId {
        let (zone, interfaces) = (fqdn_of(zone), public(addresses, link));
        let fqdn = fqdn_of(&format!("{name}.{zone}"));
        self.delegate(&zone);
        let data = self.dns.zone(&zone);
        data.servers = vec![(fqdn.clone(), interfaces.iter().map(|interface| interface.address).collect())];
        data.texts = vec![DC_RECORD.to_owned()];
        data.names.insert(fqdn.clone(), interfaces.iter().map(|interface| interface.address).collect());
        let serves = (zone, vips.parse().expect("a range of VIPs"));
        self.add_coordinator(name, fqdn, serves, &interfaces)
    }

    /// Introduces a host to the DC `dc`: the DC's name and addresses.
    fn introduce(&mut self, dc: HostId, fqdn: &Fqdn, kind: NodeKind) -> (Fqdn, Addresses) {
        let host = &mut self.hosts[dc.0];
        if let Part::Coordinator { acquaintances, .. } = &mut host.part {
            acquaintances.push((fqdn.clone(), kind, None));
        }
        (host.fqdn.clone(), host.sockets())
    }

    fn zone_of(&self, dc: HostId) -> Fqdn {
        match &self.hosts[dc.0].part {
            Part::Coordinator { zone, .. } => zone.clone(),
            _ => panic!("{} is no coordinator", self.hosts[dc.0].name),
        }
    }

    /// A relay called `fqdn` that registers at `dcs`.
    pub fn add_relay(&mut self, name: &str, fqdn: Fqdn, dcs: &[HostId], at: &[Interface]) -> HostId {
        let coordinators = dcs.iter().map(|dc| self.introduce(*dc, &fqdn, NodeKind::Relay)).collect();
        self.add(name, fqdn, Part::Relay { coordinators }, at)
    }

    /// A relay on the public network that registers at `dcs`, named after the zone of the first.
    pub fn relay(&mut self, name: &str, dcs: &[HostId], address: &str, link: Link) -> HostId {
        self.relay_at(name, dcs, &[address], link)
    }

    /// The same, with several addresses.
    pub fn relay_at(
        &mut self,
        name: &str,
        dcs: &[HostId],
        addresses: &[impl AsRef<str>],
        link: Link,
    ) -> HostId {
        let fqdn = fqdn_of(&format!("{name}.{}", self.zone_of(dcs[0])));
        self.add_relay(name, fqdn, dcs, &public(addresses, link))
    }

    /// A terminal of `dc` called `fqdn`, at `at`: nowhere, if there is none.
    pub fn add_terminal(&mut self, name: &str, fqdn: Fqdn, dc: HostId, at: &[Interface]) -> HostId {
        let coordinator = self.introduce(dc, &fqdn, NodeKind::Terminal);
        self.add(name, fqdn, Part::Terminal { coordinator }, at)
    }

    /// A terminal of `dc`, at `at`.
    pub fn terminal(&mut self, name: &str, dc: HostId, at: Interface) -> HostId {
        self.terminal_at(name, dc, &[at])
    }

    /// The same at several interfaces, the preferred first.
    pub fn terminal_at(&mut self, name: &str, dc: HostId, at: &[Interface]) -> HostId {
        let fqdn = fqdn_of(&format!("{name}.{}", self.zone_of(dc)));
        self.add_terminal(name, fqdn, dc, at)
    }

    /// A host without NTMobile. It sends back what comes to port 7, and ICMP echo.
    pub fn add_general(&mut self, name: &str, fqdn: Fqdn, at: &[Interface]) -> HostId {
        self.add(name, fqdn, Part::General, at)
    }

    /// A general node, whose names are `names`.
    pub fn general(&mut self, name: &str, names: &[&str], at: Interface) -> HostId {
        self.general_at(name, names, &[at])
    }

    /// The same at several interfaces, the preferred first.
    pub fn general_at(&mut self, name: &str, names: &[&str], at: &[Interface]) -> HostId {
        for name in names {
            let fqdn = fqdn_of(name);
            self.delegate(&fqdn);
            let zone = fqdn.parent().unwrap_or_else(|| fqdn.clone());
            self.dns
                .zone(&zone)
                .names
                .entry(fqdn)
                .or_default()
                .extend(at.iter().map(|interface| interface.address));
        }
        self.add_general(name, fqdn_of(names[0]), at)
    }

    /// A NAT of `behaviour` at `external` of the network `outside`, and the network behind it.
    pub fn router(
        &mut self,
        name: &str,
        behaviour: Behaviour,
        outside: NetworkId,
        external: &str,
        uplink: Link,
    ) -> NetworkId {
        let (external, seed) = (external.parse().expect("an IP address"), self.bytes());
        self.networks.router(name, behaviour, (outside, external), &uplink, seed).1
    }
}
