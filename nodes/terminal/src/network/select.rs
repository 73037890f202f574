//! Which real addresses the terminal can be reached at: a pure function of what the kernel says.

use std::net::Ipv4Addr;

use ntm_protocol::addr::{Vip, VipRange};

/// What the kernel said of links, addresses and routes at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct View {
    /// The links that carry packets: up, with carrier, and no loopback.
    pub(crate) links: Vec<u32>,
    /// Every IPv4 address.
    pub(crate) addresses: Vec<Address>,
    /// The source address that a packet to the DC would have; none where no route leads there.
    pub(crate) source: Option<Ipv4Addr>,
}

/// An IPv4 address of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Address {
    /// The index of its link.
    pub(crate) link: u32,
    /// The address.
    pub(crate) address: Ipv4Addr,
    /// Whether its scope is global: usable beyond its link.
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

/// The usable real addresses, the one first that packets to the DC have; the others in ascending order, so that the same addresses
/// are always the same list.
///
/// Where no route leads to the DC there is none: an address comes before its route, and a registration between the two would be lost.
pub(crate) fn usable(view: &View, hidden: &Virtual) -> Vec<Ipv4Addr> {
    let is_real = |it: &&Address| {
        it.is_global
            && it.link != hidden.tun
            && view.links.contains(&it.link)
            && !hidden.vips.contains(Vip(it.address))
    };
    let mut usable: Vec<Ipv4Addr> = view.addresses.iter().filter(is_real).map(|it| it.address).collect();
    usable.sort_unstable();
    usable.dedup();
    let preferred = view.source.and_then(|source| usable.binary_search(&source).ok());
    match preferred {
        Some(at) => {
            usable[..=at].rotate_right(1);
            usable
        }
        None => Vec::new(),
    }
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
            source: Some([192, 168, 1, 2].into()),
        }
    }

    fn shown(view: &View) -> String {
        let hidden = Virtual { tun: TUN, vips: "198.18.0.0/15".parse().expect("a range") };
        let all: Vec<String> = usable(view, &hidden).iter().map(ToString::to_string).collect();
        all.join(" ")
    }

    #[test]
    fn the_address_of_the_route_to_the_dc_stands_first() {
        assert_eq!(shown(&laptop()), "192.168.1.2 10.0.0.7");
        let other = View { source: Some([10, 0, 0, 7].into()), ..laptop() };
        assert_eq!(shown(&other), "10.0.0.7 192.168.1.2");
    }

    #[test]
    fn an_address_without_a_route_to_the_dc_is_not_usable_yet() {
        assert_eq!(shown(&View { source: None, ..laptop() }), "");
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
        for tunnel in [[198, 18, 0, 1], [10, 9, 9, 9], [127, 0, 0, 1]] {
            let view = View { source: Some(tunnel.into()), ..view.clone() };
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
}
