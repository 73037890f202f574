//! Places for the hosts that probe the routers: made in a world that was built, and gone before the scenario begins.

use std::collections::BTreeMap;

use futures::future::try_join_all;

use super::build::{COMMON, WITHOUT_IPV6, World};
use super::net::Net;
use super::space::{Names, Space};
use crate::exit::Failure;
use crate::plan::config::INSIDE;
use crate::plan::{ProbeNet, RouterPlan};

/// A namespace in the LAN of each router that is probed, and two addresses outside.
pub struct Grounds {
    net: ProbeNet,
    /// By router.
    spaces: BTreeMap<String, Space>,
}

/// The port of the probe's hosts on a router's bridge, and their own interface.
const PORT: &str = "probe";
const LINK: &str = "eth0";

impl Grounds {
    /// The namespace of the hosts behind `router`.
    pub fn behind(&self, router: &str) -> Result<&Space, Failure> {
        self.spaces.get(router).ok_or_else(|| Failure::error(format!("nobody probes `{router}`")))
    }
}

impl World {
    /// The namespace in which the addresses outside are.
    pub fn outside(&self) -> &Space {
        &self.core
    }

    /// Makes the places of the probe's hosts.
    pub async fn open_grounds(&self, net: ProbeNet, routers: &[&RouterPlan]) -> Result<Grounds, Failure> {
        let core = self.core.net()?;
        for address in net.outer() {
            core.add_address(LOOPBACK, address.into(), 32).await?;
        }
        let mut spaces = BTreeMap::new();
        for router in routers {
            // No node can be called so.
            let space =
                Space::make(&format!("-{}", router.name), &Names { resolver: None, hosts: Vec::new() })?;
            space.sysctl(WITHOUT_IPV6)?;
            space.sysctl(COMMON)?;
            spaces.insert(router.name.clone(), space);
        }
        try_join_all(spaces.iter().map(|(router, space)| self.open_ground(net, router, space))).await?;
        Ok(Grounds { net, spaces })
    }

    async fn open_ground(&self, net: ProbeNet, router: &str, space: &Space) -> Result<(), Failure> {
        let its = self.net_of(router)?;
        let lan = its.index(INSIDE).await?;
        its.add_address(lan, net.gateway().into(), net.inner().length()).await?;
        its.add_pair(PORT, Some(lan), LINK, space.network()).await?;
        let own = space.net()?;
        let link = own.index(LINK).await?;
        own.set_up(link, true).await?;
        own.settle(LINK).await?;
        // The port first: a bridge whose only port it is has no carrier before.
        its.settle(PORT).await?;
        its.settle(INSIDE).await?;
        for address in net.hosts() {
            own.add_address(link, address.into(), net.inner().length()).await?;
        }
        own.add_route(None, net.gateway().into()).await
    }

    /// Takes them away again.
    pub async fn close_grounds(&self, grounds: Grounds) -> Result<(), Failure> {
        let Grounds { net, spaces } = grounds;
        for (router, space) in spaces {
            let its = self.net_of(&router)?;
            its.remove_link(its.index(PORT).await?).await?;
            let lan = its.index(INSIDE).await?;
            its.remove_address(lan, net.gateway(), net.inner().length()).await?;
            space.remove()?;
        }
        let core = self.core.net()?;
        for address in net.outer() {
            core.remove_address(LOOPBACK, address, 32).await?;
        }
        Ok(())
    }

    fn net_of(&self, router: &str) -> Result<&Net, Failure> {
        self.nets.get(router).ok_or_else(|| Failure::error(format!("no router `{router}`")))
    }
}

/// The index of `lo`.
const LOOPBACK: u32 = 1;
