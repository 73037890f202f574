//! The NTM header: 32 bytes ahead of every message and data packet.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | version = 1 |
//! | 1 | 1 | type ([`Kind`]) |
//! | 2 | 1 | flags ([`Flags`]) |
//! | 3 | 1 | cipher suite, and key epoch in the upper nibble |
//! | 4 | 2 | length of the body before padding, without a control message's IV |
//! | 6 | 2 | zero |
//! | 8 | 8 | sequence number, per key and direction, never reused |
//! | 16 | 16 | Path ID (data, tunnel and path messages) or the sender's Node ID (the rest) |

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Reason, Refusal};

/// Bytes of a header.
pub const HEADER_LEN: usize = 32;
/// Where in the header the ID stands: the Path ID of a data packet.
pub const ID_AT: Range<usize> = 16..32;
/// Bytes of a MAC: HMAC-SHA-256 cut to 16.
pub const MAC_LEN: usize = 16;
/// The version of this wire format.
pub const VERSION: u8 = 1;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// The type of a datagram: one number per message of the thesis's sequences, and data.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $name = $value,)*
        }

        impl Kind {
            /// Every kind, in the order of their numbers.
            pub const ALL: &[Kind] = &[$(Kind::$name,)*];

            fn from_u8(value: u8) -> Option<Kind> {
                match value {
                    $($value => Some(Kind::$name),)*
                    _ => None,
                }
            }

            /// The kind's name as in the trace.
            pub fn name(self) -> &'static str {
                match self {
                    $(Kind::$name => stringify!($name),)*
                }
            }
        }
    };
}

kinds! {
    /// NTM Registration Request (3.2.1).
    RegistrationRequest = 0x01,
    /// Its answer, with the VIP.
    RegistrationResponse = 0x02,
    /// Holds the way through a NAT open (T3.2.1-b).
    KeepAlive = 0x03,
    /// Its answer.
    KeepAliveAnswer = 0x04,
    /// NTM Direction Request (3.2.2).
    DirectionRequest = 0x10,
    /// The DC cannot direct a path; why, as the DNS answer to give.
    DirectionRefusal = 0x11,
    /// NTM Information Request (3.2.2).
    InformationRequest = 0x12,
    /// NTM Information Response.
    InformationResponse = 0x13,
    /// NTM Relay Direction (4.1.2).
    RelayDirection = 0x14,
    /// NTM Relay Response.
    RelayResponse = 0x15,
    /// NTM Route Direction (3.2.3).
    RouteDirection = 0x16,
    /// Says that a Route Direction arrived, so that the DC need not repeat it.
    RouteResponse = 0x17,
    /// NTM Tunnel Request (3.2.3).
    TunnelRequest = 0x20,
    /// NTM Tunnel Response.
    TunnelResponse = 0x21,
    /// Holds a tunnel open, and shows that it works.
    PathKeepAlive = 0x22,
    /// Its answer.
    PathKeepAliveAnswer = 0x23,
    /// A data packet (3.2.4).
    Data = 0x30,
    /// A control message could not be acted upon.
    Error = 0x7f,
}

/// The flags of a header; the other bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    /// 0x01: the body is encrypted.
    pub encrypted: bool,
    /// 0x02: from the side of the path's responder (CN, or an RS in its place).
    pub responder: bool,
    /// 0x04: of the leg between an end and the RS, not between the two ends. Tells whose key applies where one
    /// Path ID names both (T4.1.2-b).
    pub leg: bool,
}

impl Flags {
    fn to_u8(self) -> u8 {
        u8::from(self.encrypted) | u8::from(self.responder) << 1 | u8::from(self.leg) << 2
    }

    fn from_u8(bits: u8) -> Option<Self> {
        (bits & !0x07 == 0).then_some(Self {
            encrypted: bits & 1 != 0,
            responder: bits & 2 != 0,
            leg: bits & 4 != 0,
        })
    }
}

/// A header as a value; [`Header::parse`] and [`Header::emit`] are inverse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the datagram is.
    pub kind: Kind,
    /// Its flags.
    pub flags: Flags,
    /// The cipher suite's number, 0 to 15.
    pub suite: u8,
    /// The key epoch of the path, 0 to 15.
    pub epoch: u8,
    /// Length of the body before padding.
    pub length: u16,
    /// The sequence number.
    pub sequence: u64,
    /// Path ID or Node ID, by the kind.
    pub id: [u8; 16],
}

impl Header {
    /// Reads the header at the front of `datagram`; what follows it is not looked at.
    pub fn parse(datagram: &[u8]) -> Result<Self, Refusal> {
        let Some(bytes) = datagram.first_chunk::<HEADER_LEN>() else {
            return Err(Refusal::new("header", Reason::Truncated));
        };
        let unknown = |field, value: u64| Err(Refusal::new(field, Reason::Unknown(value)));
        if bytes[0] != VERSION {
            return unknown("version", bytes[0].into());
        }
        let Some(kind) = Kind::from_u8(bytes[1]) else { return unknown("type", bytes[1].into()) };
        let Some(flags) = Flags::from_u8(bytes[2]) else { return unknown("flags", bytes[2].into()) };
        if bytes[6] != 0 || bytes[7] != 0 {
            return unknown("reserved", u16::from_be_bytes([bytes[6], bytes[7]]).into());
        }
        let mut sequence = [0; 8];
        sequence.copy_from_slice(&bytes[8..16]);
        let mut id = [0; 16];
        id.copy_from_slice(&bytes[ID_AT]);
        Ok(Self {
            kind,
            flags,
            suite: bytes[3] & 0x0f,
            epoch: bytes[3] >> 4,
            length: u16::from_be_bytes([bytes[4], bytes[5]]),
            sequence: u64::from_be_bytes(sequence),
            id,
        })
    }

    /// The header's bytes.
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = VERSION;
        bytes[1] = self.kind as u8;
        bytes[2] = self.flags.to_u8();
        bytes[3] = self.suite & 0x0f | self.epoch << 4;
        bytes[4..6].copy_from_slice(&self.length.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[ID_AT].copy_from_slice(&self.id);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> Header {
        Header {
            kind: Kind::TunnelRequest,
            flags: Flags { encrypted: true, responder: false, leg: true },
            suite: 1,
            epoch: 15,
            length: 513,
            sequence: u64::MAX - 1,
            id: [7; 16],
        }
    }

    #[test]
    fn each_field_is_refused_by_name() {
        let good = header().emit();
        assert_eq!(Header::parse(&good), Ok(header()));
        for (offset, value, field) in
            [(0, 2, "version"), (1, 0xee, "type"), (2, 0x08, "flags"), (6, 1, "reserved"), (7, 1, "reserved")]
        {
            let mut bad = good;
            bad[offset] = value;
            assert_eq!(Header::parse(&bad).unwrap_err().field, field);
        }
        assert_eq!(Header::parse(&good[..31]), Err(Refusal::new("header", Reason::Truncated)));
    }

    proptest! {
        #[test]
        fn whatever_parses_emits_the_same_bytes(bytes in any::<[u8; HEADER_LEN]>()) {
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert_eq!(header.emit(), bytes);
            }
        }
    }
}
