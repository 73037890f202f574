//! How the kernel would send a datagram: from which of its addresses, and by which interface.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_indextoname;
use ntm_tunnel::Interfaces;

/// The hardware type of Ethernet (`ARPHRD_ETHER`).
const ETHERNET: u16 = 1;

/// The way of datagrams to one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Way {
    /// The address that they leave from.
    pub(super) from: IpAddr,
    /// The interface, which is an Ethernet.
    pub(super) link: u32,
}

/// What was asked so far.
#[derive(Debug, Default)]
pub(super) struct Routes {
    interfaces: Interfaces,
    /// Interfaces by their index, and whether each is an Ethernet.
    kinds: Vec<(u32, bool)>,
}

impl Routes {
    /// How datagrams go to `remote`; none where there is no route, or not by an Ethernet.
    pub(super) fn to(&mut self, remote: SocketAddr) -> Option<Way> {
        let any: IpAddr = match remote {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // Connecting a UDP socket sends nothing: the kernel only looks the route up.
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(remote).ok()?;
        let from = socket.local_addr().ok()?.ip();
        let link = self.interfaces.index_of(from)?;
        self.is_ethernet(link).then_some(Way { from, link })
    }

    /// Asks for interfaces and their addresses anew from now on.
    pub(super) fn forget(&mut self) {
        self.interfaces.forget();
        self.kinds.clear();
    }

    fn is_ethernet(&mut self, link: u32) -> bool {
        if let Some((_, is_ethernet)) = self.kinds.iter().find(|(known, _)| *known == link) {
            return *is_ethernet;
        }
        let kind = getifaddrs().ok().and_then(|all| {
            let mut hardware =
                all.filter_map(|one| one.address?.as_link_addr().map(|it| (it.ifindex(), it.hatype())));
            hardware.find(|(index, _)| u32::try_from(*index) == Ok(link)).map(|(_, kind)| kind)
        });
        self.kinds.push((link, kind == Some(ETHERNET)));
        kind == Some(ETHERNET)
    }
}

/// The name of the interface with this index.
pub(super) fn name(link: u32) -> Option<String> {
    if_indextoname(link).ok()?.into_string().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_through_no_ethernet_has_no_way_here() {
        let mut routes = Routes::default();
        for _ in 0..2 {
            assert_eq!(routes.to("127.0.0.1:4330".parse().unwrap()), None);
        }
        assert_eq!(routes.kinds.len(), 1, "asked once");
        assert_eq!(routes.kinds.first().and_then(|(link, _)| name(*link)).as_deref(), Some("lo"));
        routes.forget();
        assert!(routes.kinds.is_empty());
    }
}
