//! The suites: what hides the packet inside a data packet, and what shows that nobody changed it.

use serde::{Deserialize, Serialize};

use super::packet::BLOCK;
use crate::wire::{Codec, HEADER_LEN, MAC_LEN, Reader, Reason, Refusal, Show, Shown, Writer};

/// The cipher suite of data packets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Suite {
    /// MAC only ("not encrypted" in Table 6.4).
    None = 0,
    /// AES-128-CBC and the MAC: the thesis's.
    #[default]
    #[serde(rename = "aes-128-cbc")]
    Aes128Cbc = 1,
    /// AES-128-GCM, whose tag stands in the MAC's place: an extension, never a default.
    #[serde(rename = "aes-128-gcm")]
    Aes128Gcm = 2,
}

impl Suite {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Aes128Cbc, Self::Aes128Gcm];

    /// The suite of a header's number.
    pub fn from_u8(value: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| *suite as u8 == value)
    }

    /// Bytes of the body on the wire for an inner packet of `len` bytes.
    pub(super) fn padded(self, len: usize) -> usize {
        match self {
            // Neither needs whole blocks.
            Self::None | Self::Aes128Gcm => len,
            Self::Aes128Cbc => len.next_multiple_of(BLOCK),
        }
    }
}

impl Codec for Suite {
    fn encode(&self, to: &mut Writer) {
        (*self as u8).encode(to);
    }

    fn decode(from: &mut Reader<'_>, field: &'static str) -> Result<Self, Refusal> {
        let value = u8::decode(from, field)?;
        Suite::from_u8(value).ok_or(Refusal::new(field, Reason::Unknown(value.into())))
    }
}

impl Show for Suite {
    fn show(&self) -> Option<Shown> {
        let name = match self {
            Self::None => "none",
            Self::Aes128Cbc => "aes-128-cbc",
            Self::Aes128Gcm => "aes-128-gcm",
        };
        Some(Shown::Text(name.to_owned()))
    }
}

/// Bytes of the datagram for an inner packet of `len` bytes: header, padded body, MAC or tag.
pub fn sealed_len(suite: Suite, len: usize) -> usize {
    HEADER_LEN + suite.padded(len) + MAC_LEN
}
