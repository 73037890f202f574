//! IPv4 prefixes of real networks.

use std::fmt;
use std::net::Ipv4Addr;
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
}
