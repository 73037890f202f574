//! The values by which nodes, addresses and paths are named.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

/// The UDP port of every NTMobile node unless configured otherwise.
pub const NTM_PORT: u16 = 4330;

/// A virtual IP address (T3.1-b): what applications see, for a terminal (VIP_MN, VIP_CN) or a general node (VIP_GN).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Vip(pub Ipv4Addr);

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vip({})", self.0)
    }
}

/// An IPv4 prefix, the form in which a DC owns virtual addresses (T3.1-a): `198.18.0.0/16`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VipRange {
    base: u32,
    prefix: u8,
}

/// Why a text is not a [`VipRange`].
#[derive(Debug, Error, PartialEq, Eq)]
pub enum VipRangeError {
    /// Not of the form `a.b.c.d/n`.
    #[error("'{0}' is not an IPv4 range: write it as 198.18.0.0/16")]
    Syntax(String),
    /// The prefix length is not of use: ranges hold between 8 and 2^24 addresses.
    #[error("/{0} is no usable range of virtual addresses: choose a prefix length from 8 to 29")]
    Prefix(u8),
    /// Bits are set after the prefix.
    #[error("{address}/{prefix} has bits set after its prefix: did you mean {base}/{prefix}?")]
    HostBits {
        /// The address given.
        address: Ipv4Addr,
        /// The prefix length given.
        prefix: u8,
        /// The network's address.
        base: Ipv4Addr,
    },
}

impl VipRange {
    /// The range `address/prefix`; errors as in [`VipRangeError`].
    pub fn new(address: Ipv4Addr, prefix: u8) -> Result<Self, VipRangeError> {
        if !(8..=29).contains(&prefix) {
            return Err(VipRangeError::Prefix(prefix));
        }
        let bits = u32::from(address);
        let base = bits & (u32::MAX << (32 - prefix));
        if base != bits {
            return Err(VipRangeError::HostBits { address, prefix, base: Ipv4Addr::from(base) });
        }
        Ok(Self { base, prefix })
    }

    /// The network's address.
    pub fn base(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.base)
    }

    /// The prefix length.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// How many addresses there are, the first and last included.
    pub fn size(&self) -> u32 {
        1 << (32 - self.prefix)
    }

    /// Whether `vip` is in the range.
    pub fn contains(&self, vip: Vip) -> bool {
        u32::from(vip.0) & (u32::MAX << (32 - self.prefix)) == self.base
    }

    /// Whether the two ranges share an address.
    pub fn overlaps(&self, other: &VipRange) -> bool {
        let prefix = self.prefix.min(other.prefix);
        let mask = u32::MAX << (32 - prefix);
        self.base & mask == other.base & mask
    }

    /// The address at `index`, from 0 to `size() - 1`.
    pub fn at(&self, index: u32) -> Option<Vip> {
        (index < self.size()).then(|| Vip(Ipv4Addr::from(self.base + index)))
    }

    /// The range's lower and upper half; a DC gives the lower to its terminals, the upper to general nodes.
    pub fn halves(&self) -> (VipRange, VipRange) {
        let prefix = self.prefix + 1;
        (Self { base: self.base, prefix }, Self { base: self.base + self.size() / 2, prefix })
    }
}

impl FromStr for VipRange {
    type Err = VipRangeError;

    fn from_str(text: &str) -> Result<Self, VipRangeError> {
        let syntax = || VipRangeError::Syntax(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(syntax)?;
        Self::new(address.parse().map_err(|_| syntax())?, prefix.parse().map_err(|_| syntax())?)
    }
}

impl TryFrom<String> for VipRange {
    type Error = VipRangeError;

    fn try_from(text: String) -> Result<Self, VipRangeError> {
        text.parse()
    }
}

impl From<VipRange> for String {
    fn from(range: VipRange) -> String {
        range.to_string()
    }
}

impl fmt::Display for VipRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base(), self.prefix)
    }
}

impl fmt::Debug for VipRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VipRange({self})")
    }
}

/// A fully qualified domain name in canonical form: lower case, no final dot, labels of letters, digits, `-` and `_`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fqdn(Box<str>);

/// Why a text is not an [`Fqdn`].
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FqdnError {
    /// The root, or nothing at all.
    #[error("a name is empty")]
    Empty,
    /// Longer than 253 characters (RFC 1035, section 2.3.4).
    #[error("a name has {0} characters; 253 are allowed")]
    TooLong(usize),
    /// A label is empty or longer than 63 characters.
    #[error("the label '{0}' of a name must have 1 to 63 characters")]
    Label(String),
    /// A character that no host name has.
    #[error("the character {0:?} cannot stand in a name")]
    Character(char),
}

impl Fqdn {
    /// The longest name, in characters.
    pub const MAX: usize = 253;

    /// Checks and canonicalises `text`; one final dot is allowed.
    pub fn new(text: &str) -> Result<Self, FqdnError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() {
            return Err(FqdnError::Empty);
        }
        if text.len() > Self::MAX {
            return Err(FqdnError::TooLong(text.len()));
        }
        for label in text.split('.') {
            if label.is_empty() || label.len() > 63 {
                return Err(FqdnError::Label(label.to_owned()));
            }
            if let Some(c) = label.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))) {
                return Err(FqdnError::Character(c));
            }
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its first label; `None` where that leaves the root.
    pub fn parent(&self) -> Option<Fqdn> {
        self.0.split_once('.').map(|(_, rest)| Fqdn(rest.into()))
    }

    /// Whether `self` is `zone` or below it.
    pub fn is_in(&self, zone: &Fqdn) -> bool {
        self.0.strip_suffix(&*zone.0).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }
}

impl FromStr for Fqdn {
    type Err = FqdnError;

    fn from_str(text: &str) -> Result<Self, FqdnError> {
        Self::new(text)
    }
}

impl TryFrom<String> for Fqdn {
    type Error = FqdnError;

    fn try_from(text: String) -> Result<Self, FqdnError> {
        Self::new(&text)
    }
}

impl From<Fqdn> for String {
    fn from(name: Fqdn) -> String {
        name.0.into()
    }
}

impl fmt::Display for Fqdn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Fqdn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fqdn({})", self.0)
    }
}

/// Sixteen bytes shown as hexadecimal.
macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; 16]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = HexError;

            fn try_from(text: String) -> Result<Self, HexError> {
                decode_hex(&text).map(Self)
            }
        }
    };
}

id16! {
    /// Names the path between two ends; 16 random bytes from the DC, kept over a handover.
    PathId
}

id16! {
    /// Names a node in control messages.
    NodeId
}

impl NodeId {
    /// The Node ID of the node called `name`: the first 16 bytes of SHA-256 over a label and the name. So that two who share a
    /// key need to configure nothing but each other's name.
    pub fn of(name: &Fqdn) -> Self {
        let digest = Sha256::new().chain_update(b"NTMobile Node ID\0").chain_update(name.as_str()).finalize();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }
}

/// A text is not the hexadecimal form that was wanted.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("expected {wanted} hexadecimal digits")]
pub struct HexError {
    wanted: usize,
}

/// Decodes exactly `N` bytes of hexadecimal.
pub fn decode_hex<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let error = HexError { wanted: 2 * N };
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(error);
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return Err(error) };
        *byte = (high * 16 + low) as u8;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_canonical_and_checked() {
        let name = Fqdn::new("MN.dc.NTM.test.").unwrap();
        assert_eq!(name.as_str(), "mn.dc.ntm.test");
        assert!(name.is_in(&"ntm.test".parse().unwrap()) && name.is_in(&name));
        assert!(!name.is_in(&"m.test".parse().unwrap()), "a suffix of a label is no zone");
        assert_eq!(name.parent().unwrap().as_str(), "dc.ntm.test");
        assert_eq!(Fqdn::new("test").unwrap().parent(), None);
        assert_eq!(Fqdn::new("."), Err(FqdnError::Empty));
        assert_eq!(Fqdn::new("a..b"), Err(FqdnError::Label(String::new())));
        assert_eq!(Fqdn::new("a b"), Err(FqdnError::Character(' ')));
        assert!(matches!(Fqdn::new(&"a.".repeat(200)), Err(FqdnError::TooLong(_))));
    }

    #[test]
    fn ranges_say_what_is_wrong_with_them() {
        let range: VipRange = "198.18.0.0/16".parse().unwrap();
        assert!(
            range.contains(Vip([198, 18, 255, 255].into())) && !range.contains(Vip([198, 19, 0, 0].into()))
        );
        assert!(range.overlaps(&"198.18.4.0/24".parse().unwrap()));
        assert!(!range.overlaps(&"198.19.0.0/16".parse().unwrap()));
        let (terminals, general) = range.halves();
        assert_eq!(
            (terminals.to_string(), general.to_string()),
            ("198.18.0.0/17".into(), "198.18.128.0/17".into())
        );
        assert_eq!(
            "198.18.0.1/16".parse::<VipRange>().unwrap_err().to_string(),
            "198.18.0.1/16 has bits set after its prefix: did you mean 198.18.0.0/16?"
        );
        assert!("198.18.0.0/33".parse::<VipRange>().is_err() && "nonsense".parse::<VipRange>().is_err());
    }

    #[test]
    fn node_ids_follow_the_canonical_name() {
        assert_eq!(NodeId::of(&"MN.test".parse().unwrap()), NodeId::of(&"mn.test.".parse().unwrap()));
        let id = NodeId::of(&"mn.test".parse().unwrap());
        assert_eq!(NodeId::try_from(id.to_string()), Ok(id));
        assert!(NodeId::try_from("zz".repeat(16)).is_err());
    }
}
