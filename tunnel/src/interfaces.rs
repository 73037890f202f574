//! Which link has an address, by the link's index: asked once after each change of the tables, not for each packet.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::SockaddrStorage;

/// What was asked so far.
#[derive(Debug, Default)]
pub struct Interfaces(Vec<(IpAddr, Option<u32>)>);

impl Interfaces {
    /// The index of the link that has `address`; none where none has it.
    pub fn index_of(&mut self, address: IpAddr) -> Option<u32> {
        if let Some((_, index)) = self.0.iter().find(|(known, _)| *known == address) {
            return *index;
        }
        let index = ask(address);
        self.0.push((address, index));
        index
    }

    /// Asks anew from now on.
    pub fn forget(&mut self) {
        self.0.clear();
    }
}

fn ask(address: IpAddr) -> Option<u32> {
    let has_it = |storage: SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip()))) == Some(address)
    };
    let all = getifaddrs().inspect_err(|error| tracing::debug!("interfaces are not known: {error}")).ok()?;
    let link = all.into_iter().find(|link| link.address.is_some_and(has_it))?;
    if_nametoindex(link.interface_name.as_str()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_leads_to_its_link() {
        let mut interfaces = Interfaces::default();
        let loopback = if_nametoindex("lo").expect("a loopback interface");
        for _ in 0..2 {
            assert_eq!(interfaces.index_of([127, 0, 0, 1].into()), Some(loopback));
            assert_eq!(interfaces.index_of([192, 0, 2, 77].into()), None);
        }
        assert_eq!(interfaces.0.len(), 2, "asked once");
        interfaces.forget();
        assert!(interfaces.0.is_empty());
    }
}
