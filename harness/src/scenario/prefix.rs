//! Prefixes of real networks.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: its address and the length of its prefix, 8 to 30.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    base: u32,
    length: u8,
}

impl Prefix {
    /// The network at `base`, which is cut to `length` bits.
    pub const fn new(base: Ipv4Addr, length: u8) -> Self {
        let bits = base.to_bits() & (u32::MAX << (32 - length));
        Self { base: bits, length }
    }

    /// The length of the prefix.
    pub fn length(self) -> u8 {
        self.length
    }

    /// The network's address.
    pub fn base(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base)
    }

    /// The host numbered `n`, from 1; `None` at the broadcast address and beyond.
    pub fn host(self, n: u32) -> Option<Ipv4Addr> {
        (n >= 1 && n < (1 << (32 - self.length)) - 1).then(|| Ipv4Addr::from_bits(self.base + n))
    }

    /// Whether `address` can be a host's in this network.
    pub fn has_host(self, address: Ipv4Addr) -> bool {
        self.host(address.to_bits().wrapping_sub(self.base)) == Some(address)
    }

    /// Whether the two share an address.
    pub fn overlaps(self, other: Prefix) -> bool {
        let mask = u32::MAX << (32 - self.length.min(other.length));
        self.base & mask == other.base & mask
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let syntax = || format!("{text:?} is not a network: write it as 10.1.2.0/24");
        let (base, length) = text.split_once('/').ok_or_else(syntax)?;
        let base: Ipv4Addr = base.parse().map_err(|_| syntax())?;
        let length: u8 = length.parse().map_err(|_| syntax())?;
        if !(8..=30).contains(&length) {
            return Err(format!("/{length} is no usable network: choose a prefix length from 8 to 30"));
        }
        let prefix = Prefix::new(base, length);
        if prefix.base() != base {
            return Err(format!("{text} has bits set after its prefix: did you mean {prefix}?"));
        }
        Ok(prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.length)
    }
}

/// All IPv6 networks of a scenario: a prefix of 48 bits, cut into networks of 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site6(u128);

impl Site6 {
    /// Bits of the whole.
    const LENGTH: u8 = 48;

    /// The prefix for documentation (RFC 3849), cut to 48 bits.
    pub const DOCUMENTATION: Self = Self(0x2001_0db8 << 96);

    /// The network numbered `n`.
    pub fn network(self, n: u16) -> Net6 {
        Net6(self.0 | u128::from(n) << 64)
    }
}

impl FromStr for Site6 {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let syntax = || format!("{text:?} is no prefix of IPv6 networks: write it as 2001:db8::/48");
        let (base, length) = text.split_once('/').ok_or_else(syntax)?;
        let base: Ipv6Addr = base.parse().map_err(|_| syntax())?;
        if length != "48" {
            return Err(format!("/{length} cannot be: the prefix has 48 bits, each network in it 64"));
        }
        let cut = base.to_bits() & (u128::MAX << (128 - Self::LENGTH));
        if cut != base.to_bits() {
            let near = Ipv6Addr::from_bits(cut);
            return Err(format!("{text} has bits set after its prefix: did you mean {near}/48?"));
        }
        Ok(Self(cut))
    }
}

/// An IPv6 network, of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net6(u128);

impl Net6 {
    /// Bits of its prefix.
    pub const LENGTH: u8 = 64;

    /// The network's address.
    pub fn base(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.0)
    }

    /// The host numbered `n`, from 1.
    pub fn host(self, n: u16) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.0 | u128::from(n))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_leave_out_both_ends() {
        let net: Prefix = "192.0.2.0/30".parse().unwrap();
        assert_eq!(net.host(0), None);
        assert_eq!(net.host(2), Some([192, 0, 2, 2].into()));
        assert_eq!(net.host(3), None);
        assert!(!net.has_host([192, 0, 2, 3].into()) && !net.has_host([192, 0, 3, 1].into()));
    }

    #[test]
    fn overlap_is_that_of_the_shorter_prefix() {
        let parse = |text: &str| text.parse::<Prefix>().unwrap();
        assert!(parse("10.0.0.0/8").overlaps(parse("10.9.0.0/24")));
        assert!(!parse("10.8.0.0/24").overlaps(parse("10.9.0.0/24")));
        assert!("10.0.0.1/24".parse::<Prefix>().unwrap_err().contains("did you mean 10.0.0.0/24?"));
    }

    #[test]
    fn ipv6_networks_are_cut_from_their_prefix() {
        let site: Site6 = "2001:db8:7::/48".parse().unwrap();
        assert_eq!(site.network(2).host(9).to_string(), "2001:db8:7:2::9");
        assert_eq!("2001:db8::/48".parse::<Site6>().unwrap(), Site6::DOCUMENTATION);
        let error = |text: &str| text.parse::<Site6>().unwrap_err();
        assert!(error("2001:db8::1/48").contains("did you mean 2001:db8::/48?"));
        assert!(
            error("2001:db8::/64").contains("has 48 bits") && error("10.0.0.0/48").contains("write it as")
        );
    }
}
