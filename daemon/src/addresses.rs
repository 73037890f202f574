//! Where a node is reached: an address, or one in IPv4 and one in IPv6 (T3.1-d).

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::str::FromStr;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// An address, with or without a port.
pub trait Address: Copy + fmt::Display + FromStr<Err: fmt::Display> {
    /// Without a port.
    fn ip(&self) -> IpAddr;
}

impl Address for IpAddr {
    fn ip(&self) -> IpAddr {
        *self
    }
}

impl Address for SocketAddr {
    fn ip(&self) -> IpAddr {
        SocketAddr::ip(self)
    }
}

/// One address or two, of a family each. In a configuration `"203.0.113.5"`, or `["203.0.113.5", "2001:db8::5"]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Addresses<A>(Vec<A>);

impl<A: Address> Addresses<A> {
    fn new(addresses: Vec<A>) -> Result<Self, String> {
        let mut known: Vec<A> = Vec::with_capacity(addresses.len());
        for address in addresses {
            if let Some(other) = known.iter().find(|other| other.ip().is_ipv4() == address.ip().is_ipv4()) {
                return Err(format!("{other} and {address} are of one family: give one address of each"));
            }
            known.push(address);
        }
        if known.is_empty() { Err("an address is needed".to_owned()) } else { Ok(Self(known)) }
    }

    /// The one in IPv4, without its port.
    pub fn v4(&self) -> Option<Ipv4Addr> {
        self.0.iter().find_map(|address| match address.ip() {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        })
    }

    /// The one in IPv6, without its port.
    pub fn v6(&self) -> Option<Ipv6Addr> {
        self.0.iter().find_map(|address| match address.ip() {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        })
    }
}

impl Addresses<IpAddr> {
    /// The same with `port`.
    pub fn with_port(&self, port: u16) -> Addresses<SocketAddr> {
        Addresses(self.0.iter().map(|address| SocketAddr::new(*address, port)).collect())
    }
}

impl<A> From<A> for Addresses<A> {
    fn from(address: A) -> Self {
        Self(vec![address])
    }
}

impl<A> Deref for Addresses<A> {
    type Target = [A];

    fn deref(&self) -> &[A] {
        &self.0
    }
}

impl<A: fmt::Display> fmt::Display for Addresses<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, address) in self.0.iter().enumerate() {
            write!(f, "{}{address}", if n == 0 { "" } else { " and " })?;
        }
        Ok(())
    }
}

impl<'de, A: Address> Deserialize<'de> for Addresses<A> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OneOrTwo<A>(PhantomData<A>);

        impl<'de, A: Address> Visitor<'de> for OneOrTwo<A> {
            type Value = Addresses<A>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or a list of one in IPv4 and one in IPv6")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Addresses<A>, E> {
                text.parse::<A>().map(Addresses::from).map_err(E::custom)
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Addresses<A>, S::Error> {
                let mut addresses = Vec::new();
                while let Some(text) = list.next_element::<String>()? {
                    addresses
                        .push(text.parse().map_err(|error| S::Error::custom(format!("'{text}': {error}")))?);
                }
                Addresses::new(addresses).map_err(S::Error::custom)
            }
        }

        from.deserialize_any(OneOrTwo(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[derive(Debug, Deserialize)]
    struct Config {
        at: Addresses<SocketAddr>,
    }

    fn parse(text: &str) -> Result<Addresses<SocketAddr>, String> {
        config::parse::<Config>(text).map(|config| config.at).map_err(|place| place.to_string())
    }

    #[test]
    fn one_address_or_one_of_each_family() {
        let one = parse("at = '203.0.113.5:4330'").expect("an address");
        assert_eq!((one.to_string().as_str(), one.v6()), ("203.0.113.5:4330", None));
        let two = parse("at = ['[2001:db8::5]:4330', '203.0.113.5:4330']").expect("two addresses");
        assert_eq!(two.to_string(), "[2001:db8::5]:4330 and 203.0.113.5:4330");
        assert_eq!((two.v4(), two.v6()), (Some([203, 0, 113, 5].into()), "2001:db8::5".parse().ok()));
    }

    #[test]
    fn what_is_wrong_is_shown_in_its_place() {
        insta::assert_snapshot!(parse("at = '203.0.113.5'").unwrap_err(), @"
        1:6: invalid socket address syntax
          1 | at = '203.0.113.5'
            |      ^^^^^^^^^^^^^
        ");
        insta::assert_snapshot!(parse("at = ['203.0.113.5:1', '203.0.113.6:1']").unwrap_err(), @"
        1:6: 203.0.113.5:1 and 203.0.113.6:1 are of one family: give one address of each
          1 | at = ['203.0.113.5:1', '203.0.113.6:1']
            |      ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
        ");
        insta::assert_snapshot!(parse("at = []").unwrap_err(), @"
        1:6: an address is needed
          1 | at = []
            |      ^^
        ");
        insta::assert_snapshot!(parse("at = 4").unwrap_err(), @"
        1:6: invalid type: integer `4`, expected an address, or a list of one in IPv4 and one in IPv6
          1 | at = 4
            |      ^
        ");
    }
}
