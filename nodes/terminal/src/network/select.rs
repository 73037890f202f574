//! Which real addresses the terminal can be reached at: a pure function of what the kernel says.

use std::net::IpAddr;

use ntm_protocol::addr::{Vip, VipRange};
use ntm_protocol::family::Family;

/// What the kernel said of links, addresses and routes at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct View {
    /// The links that carry packets: up, with carrier, and no loopback.
    pub(crate) links: Vec<u32>,
    /// Every address.
    pub(crate) addresses: Vec<Address>,
    /// The route to each of the DC's addresses.
    pub(crate) routes: Vec<Route>,
}

/// A route to the DC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Route {
    /// The family of the DC's address.
    pub(crate) to: Family,
    /// The source address that a packet to it would have; none where no route leads there.
    pub(crate) source: Option<IpAddr>,
}

/// An address of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    /// The index of its link.
    pub(crate) link: u32,
    /// The address.
    pub(crate) address: IpAddr,
    /// Whether it is usable beyond its link: its scope is global, and it is the machine's own, and not about to go.
    pub(crate) is_global: bool,
}

/// What is never a real address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Virtual {
    /// The index of the TUN.
    pub(crate) tun: u32,
    /// The range of all VIPs.
    pub(crate) vips: VipRange,
}

/// The usable real addresses: first those that packets to the DC have, IPv4 before IPv6; then the others in ascending order, so that the
/// same addresses are always the same list.
///
/// In a family in which no route leads to the DC there is none: an address comes before its route, and a registration between the two
/// would be lost. Where the DC has no address of a family, another's is of use all the same, to reach peers and relays; but alone it
/// is not, for nobody would learn of it.
pub(crate) fn usable(view: &View, hidden: &Virtual) -> Vec<IpAddr> {
    let is_virtual = |address| matches!(address, IpAddr::V4(address) if hidden.vips.contains(Vip(address)));
    let is_real = |it: &&Address| {
        it.is_global && it.link != hidden.tun && view.links.contains(&it.link) && !is_virtual(it.address)
    };
    let mut usable: Vec<IpAddr> = view.addresses.iter().filter(is_real).map(|it| it.address).collect();
    usable.sort_unstable();
    usable.dedup();
    let mut preferred: Vec<IpAddr> = view.routes.iter().filter_map(|route| route.source).collect();
    preferred.sort_unstable();
    preferred.retain(|source| usable.binary_search(source).is_ok());
    if preferred.is_empty() {
        return Vec::new();
    }
    usable.retain(|address| {
        let same = |other: IpAddr| Family::of(other) == Family::of(*address);
        let reached = preferred.iter().any(|source| same(*source));
        let asked = view.routes.iter().any(|route| route.to == Family::of(*address));
        !preferred.contains(address) && (reached || !asked)
    });
    preferred.extend(usable);
    preferred
}

#[cfg(test)]
mod tests {
    use super::*;

    const TUN: u32 = 9;

    fn address(link: u32, text: &str) -> Address {
        Address { link, address: text.parse().expect("an address"), is_global: true }
    }

    /// A laptop on two networks: 2 is wlan0, 3 is wlan1.
    fn laptop() -> View {
        View {
            links: vec![2, 3, TUN],
            addresses: vec![
                Address { is_global: false, ..address(1, "127.0.0.1") },
                address(2, "192.168.1.2"),
                address(3, "10.0.0.7"),
                address(TUN, "198.18.0.1"),
            ],
            routes: route_from("192.168.1.2"),
        }
    }

    /// The route to a DC that has only IPv4.
    fn route_from(source: &str) -> Vec<Route> {
        vec![Route { to: Family::V4, source: source.parse().ok() }]
    }

    /// The routes to a DC that has both families.
    fn routes_from(v4: &str, v6: &str) -> Vec<Route> {
        [route_from(v4), vec![Route { to: Family::V6, source: v6.parse().ok() }]].concat()
    }

    fn shown(view: &View) -> String {
        let hidden = Virtual { tun: TUN, vips: "198.18.0.0/15".parse().expect("a range") };
        let all: Vec<String> = usable(view, &hidden).iter().map(ToString::to_string).collect();
        all.join(" ")
    }

    #[test]
    fn the_address_of_the_route_to_the_dc_stands_first() {
        assert_eq!(shown(&laptop()), "192.168.1.2 10.0.0.7");
        let other = View { routes: route_from("10.0.0.7"), ..laptop() };
        assert_eq!(shown(&other), "10.0.0.7 192.168.1.2");
    }

    #[test]
    fn an_address_without_a_route_to_the_dc_is_not_usable_yet() {
        assert_eq!(shown(&View { routes: route_from(""), ..laptop() }), "");
    }

    #[test]
    fn a_link_without_carrier_has_no_usable_address() {
        assert_eq!(shown(&View { links: vec![2, TUN], ..laptop() }), "192.168.1.2");
        // The kernel may keep a route over a dead link.
        assert_eq!(shown(&View { links: vec![3, TUN], ..laptop() }), "");
    }

    #[test]
    fn virtual_and_local_addresses_are_none() {
        let mut view = laptop();
        view.addresses.push(address(2, "198.19.4.4"));
        view.addresses.push(address(TUN, "10.9.9.9"));
        view.addresses.push(Address { is_global: false, ..address(2, "169.254.1.1") });
        assert_eq!(shown(&view), "192.168.1.2 10.0.0.7");
        for tunnel in ["198.18.0.1", "10.9.9.9", "127.0.0.1"] {
            let view = View { routes: route_from(tunnel), ..view.clone() };
            assert_eq!(shown(&view), "", "the DC is not behind {tunnel:?}");
        }
    }

    #[test]
    fn the_kernels_order_changes_nothing() {
        let mut view = laptop();
        view.addresses.push(address(2, "192.168.1.9"));
        view.addresses.push(address(3, "192.168.1.9"));
        let before = shown(&view);
        view.addresses.reverse();
        assert_eq!((shown(&view), before.as_str()), (before.clone(), "192.168.1.2 10.0.0.7 192.168.1.9"));
    }

    /// T3.1-d: addresses of both families, those that the DC sees first.
    #[test]
    fn both_families_are_usable_where_routes_lead_to_the_dc() {
        let mut view = laptop();
        view.addresses.push(address(2, "2001:db8::2"));
        view.addresses.push(Address { is_global: false, ..address(2, "fe80::2") });
        assert_eq!(shown(&view), "192.168.1.2 10.0.0.7 2001:db8::2", "a DC with IPv4 alone");
        let with = |v4, v6| shown(&View { routes: routes_from(v4, v6), ..view.clone() });
        assert_eq!(with("192.168.1.2", "2001:db8::2"), "192.168.1.2 2001:db8::2 10.0.0.7");
        assert_eq!(with("", "2001:db8::2"), "2001:db8::2", "a network that has only IPv6");
        assert_eq!(with("10.0.0.7", ""), "10.0.0.7 192.168.1.2", "the route is not there yet");
        assert_eq!(with("", ""), "");
        let before = Address { is_global: false, ..address(2, "2001:db8::2") };
        let tentative =
            View { addresses: vec![before], routes: routes_from("", "2001:db8::2"), ..view.clone() };
        assert_eq!(shown(&tentative), "", "it may be somebody else's");
    }
}
