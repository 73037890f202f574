//! IPv4 and IPv6 outside the tunnels (T3.1-d): who can reach whom. Inside them there is IPv4 alone, for VIPs are.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of `address`.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// The families that a node has addresses of.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Families {
    v4: bool,
    v6: bool,
}

impl Families {
    /// Whether `family` is among them.
    pub fn has(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// Those that both nodes have.
    pub fn shared(self, other: Self) -> Self {
        Self { v4: self.v4 && other.v4, v6: self.v6 && other.v6 }
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Those of the addresses by which somebody can be reached that a node with addresses of these families can use: IPv4 first, for
    /// there a full packet fits the thesis's MTU (T6.3-a); of one family in their order.
    pub fn usable(self, addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
        let usable = addresses.into_iter().filter(|address| self.has(Family::of(address.ip())));
        let mut usable: Vec<_> = usable.collect();
        usable.sort_by_key(|address| Family::of(address.ip()));
        usable
    }

    /// The first of the [`usable`](Self::usable).
    pub fn choose(self, addresses: impl IntoIterator<Item = SocketAddr>) -> Option<SocketAddr> {
        self.usable(addresses).first().copied()
    }
}

impl FromIterator<IpAddr> for Families {
    fn from_iter<I: IntoIterator<Item = IpAddr>>(addresses: I) -> Self {
        addresses.into_iter().fold(Self::default(), |known, address| match Family::of(address) {
            Family::V4 => Self { v4: true, ..known },
            Family::V6 => Self { v6: true, ..known },
        })
    }
}

impl<'a> FromIterator<&'a SocketAddr> for Families {
    fn from_iter<I: IntoIterator<Item = &'a SocketAddr>>(addresses: I) -> Self {
        addresses.into_iter().map(SocketAddr::ip).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T3.1-d.
    #[test]
    fn an_address_is_chosen_in_a_family_that_the_node_has() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let both = [at("[2001:db8::1]:1"), at("203.0.113.1:1"), at("203.0.113.2:1"), at("[2001:db8::2]:1")];
        let families = |ends: &[&str]| ends.iter().map(|end| at(end).ip()).collect::<Families>();
        assert_eq!(families(&["10.0.0.1:1"]).choose(both), Some(both[1]));
        assert_eq!(families(&["[fd00::1]:1"]).choose(both), Some(both[0]));
        assert_eq!(families(&["[fd00::1]:1", "10.0.0.1:1"]).choose(both), Some(both[1]));
        assert_eq!(families(&["10.0.0.1:1"]).choose([both[0], both[3]]), None);
        assert_eq!(families(&[]).choose(both), None);
        let (v4, v6) = (families(&["10.0.0.1:1"]), families(&["[fd00::1]:1"]));
        assert!(v4.shared(v6).is_empty() && !v4.shared(both.iter().collect()).is_empty());
    }
}
