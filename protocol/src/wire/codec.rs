//! One small codec: every value of a message body is written and read here, big-endian, every length bounded.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::{Reason, Refusal};
use crate::addr::{Fqdn, NodeId, PathId, Vip, VipRange};
use crate::crypto::SharedKey;

/// A value with a form on the wire. `decode` accepts exactly what `encode` writes.
pub trait Codec: Sized {
    /// Appends the value's bytes.
    fn encode(&self, to: &mut Writer);
    /// Reads the value; `field` is the name to put in a refusal.
    fn decode(from: &mut Reader<'_>, field: &'static str) -> Result<Self, Refusal>;
}

/// Collects the bytes of a body.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// A writer whose first bytes are `front`.
    pub fn after(front: Vec<u8>) -> Self {
        Self(front)
    }

    /// Appends raw bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// What was written.
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Reads a body from front to back.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self(body)
    }

    fn take(&mut self, n: usize, field: &'static str) -> Result<&'a [u8], Refusal> {
        let (front, rest) = self.0.split_at_checked(n).ok_or(Refusal::new(field, Reason::Truncated))?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Refusal> {
        let (front, rest) = self.0.split_first_chunk().ok_or(Refusal::new(field, Reason::Truncated))?;
        self.0 = rest;
        Ok(*front)
    }

    /// Refuses bytes that are left over.
    pub fn end(self) -> Result<(), Refusal> {
        if self.0.is_empty() { Ok(()) } else { Err(Refusal::new("body", Reason::Trailing(self.0.len()))) }
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Codec for $type {
            fn encode(&self, to: &mut Writer) {
                to.bytes(&self.to_be_bytes());
            }

            fn decode(from: &mut Reader<'_>, field: &'static str) -> Result<Self, Refusal> {
                from.array(field).map(<$type>::from_be_bytes)
            }
        }
    )*};
}

integers!(u8, u16, u32, u64);

impl Codec for bool {
    fn encode(&self, to: &mut Writer) {
        u8::from(*self).encode(to);
    }

    fn decode(from: &mut Reader<'_>, field: &'static str) -> Result<Self, Refusal> {
        match u8::decode(from, field)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(Refusal::new(field, Reason::Unknown(other.into()))),
        }
    }
}

impl<T: Codec> Codec for Option<T> {
    fn encode(&self, to: &mut Writer) {
        self.is_some().encode(to);
        if let Some(value) = self {
            value.encode(to);
        }
    }

    fn decode(from: &mut Reader<'_>, field: &'static str) -> Result<Self, Refusal> {
        bool::decode(from, field)?.then(|| T::decode(from, field)).transpose()
    }
}

/// A list of at most `N` values.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List<T, const N: usize>(Vec<T>);

impl<T, const N: usize> Default for List<T, N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// Takes the first `N` values; what is over the bound is left out.
impl<T, const N: usize> FromIterator<T> for List<T, N> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self(values.into_iter().take(N).collect())
    }
}

impl<T, const N: usize> std::ops::Deref for List<T, N> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Codec, const N: usize> Codec for List<T, N> {
    fn encode(&self, to: &mut Writer) {
        // The bound of a list is at most 255, so its length fits a byte.
        const { assert!(N <= 255) };
        (self.0.len() as u8).encode(to);
        self.0.iter().for_each(|value| value.encode(to));
    }

    fn decode(from: &mut Reader<'_>, field: &'static str) -> Result<Self, Refusal> {
        let n = usize::from(u8::decode(from, field)?);
        if n > N {
            return Err(Refusal::new(field, Reason::Length(n)));
        }
        (0..n).map(|_| T::decode(from, field)).collect::<Result<_, _>>().map(Self)
    }
}

impl Codec for IpAddr {
    fn encode(&self, to: &mut Writer) {
        match self {
            IpAddr::V4(a) => {
                4u8.encode(to);
                to.bytes(&a.octets());
            }
            IpAddr::V6(a) => {
                6u8.encode(to);
                to.bytes(&a.octets());
            }
        }
    }

    fn decode(from: &mut Reader<'_>, field: &'static str) -> Result<Self, Refusal> {
        match u8::decode(from, field)? {
            4 => from.array(field).map(|a: [u8; 4]| Ipv4Addr::from(a).into()),
            6 => from.array(field).map(|a: [u8; 16]| Ipv6Addr::from(a).into()),
            other => Err(Refusal::new(field, Reason::Unknown(other.into()))),
        }
    }
}

impl Codec for SocketAddr {
    fn encode(&self, to: &mut Writer) {
        self.ip().encode(to);
        self.port().encode(to);
    }

    fn decode(from: &mut Reader<'_>, field: &'static str) -> Result<Self, Refusal> {
        Ok(SocketAddr::new(IpAddr::decode(from, field)?, u16::decode(from, field)?))
    }
}

impl Codec for Vip {
    fn encode(&self, to: &mut Writer) {
        to.bytes(&self.0.octets());
    }

    fn decode(from: &mut Reader<'_>, field: &'static str) -> Result<Self, Refusal> {
        from.array(field).map(|a: [u8; 4]| Vip(a.into()))
    }
}

impl Codec for VipRange {
    fn encode(&self, to: &mut Writer) {
        to.bytes(&self.base().octets());
        self.prefix().encode(to);
    }

    fn decode(from: &mut Reader<'_>, field: &'static str) -> Result<Self, Refusal> {
        let base: [u8; 4] = from.array(field)?;
        VipRange::new(base.into(), u8::decode(from, field)?)
            .map_err(|error| Refusal::new(field, Reason::Malformed(error.to_string())))
    }
}

impl Codec for Fqdn {
    fn encode(&self, to: &mut Writer) {
        // A name has at most 253 characters.
        (self.as_str().len() as u8).encode(to);
        to.bytes(self.as_str().as_bytes());
    }

    fn decode(from: &mut Reader<'_>, field: &'static str) -> Result<Self, Refusal> {
        let malformed = |why: String| Refusal::new(field, Reason::Malformed(why));
        let n = u8::decode(from, field)?;
        let text = std::str::from_utf8(from.take(n.into(), field)?).map_err(|e| malformed(e.to_string()))?;
        let name = Fqdn::new(text).map_err(|e| malformed(e.to_string()))?;
        // One name has one form, so that equal messages have equal bytes.
        if name.as_str() == text {
            Ok(name)
        } else {
            Err(malformed("the name is not in canonical form".into()))
        }
    }
}

/// In whole milliseconds, up to 49 days.
impl Codec for Duration {
    fn encode(&self, to: &mut Writer) {
        u32::try_from(self.as_millis()).unwrap_or(u32::MAX).encode(to);
    }

    fn decode(from: &mut Reader<'_>, field: &'static str) -> Result<Self, Refusal> {
        u32::decode(from, field).map(|ms| Duration::from_millis(ms.into()))
    }
}

macro_rules! arrays {
    ($($type:ident),*) => {$(
        impl Codec for $type {
            fn encode(&self, to: &mut Writer) {
                to.bytes(&self.0);
            }

            fn decode(from: &mut Reader<'_>, field: &'static str) -> Result<Self, Refusal> {
                from.array(field).map($type)
            }
        }
    )*};
}

arrays!(PathId, NodeId);

impl Codec for SharedKey {
    fn encode(&self, to: &mut Writer) {
        to.bytes(self.bytes());
    }

    fn decode(from: &mut Reader<'_>, field: &'static str) -> Result<Self, Refusal> {
        from.array(field).map(SharedKey::new)
    }
}

/// Defines a struct whose fields go onto the wire in the order in which they stand.
macro_rules! wire_struct {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident : $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct $name {
            $($(#[$fmeta])* pub $field: $type,)*
        }

        impl $crate::wire::Codec for $name {
            #[allow(unused_variables)]
            fn encode(&self, to: &mut $crate::wire::Writer) {
                $($crate::wire::Codec::encode(&self.$field, to);)*
            }

            #[allow(unused_variables)]
            fn decode(from: &mut $crate::wire::Reader<'_>, field: &'static str) -> Result<Self, $crate::wire::Refusal> {
                Ok(Self { $($field: $crate::wire::Codec::decode(from, stringify!($field))?,)* })
            }
        }

        impl $crate::wire::Show for $name {
            fn show(&self) -> Option<$crate::wire::Shown> {
                let fields = [$((stringify!($field), $crate::wire::Show::show(&self.$field)),)*];
                let shown = fields.into_iter().filter_map(|(name, value)| Some((name.into(), value?)));
                Some($crate::wire::Shown::Table(shown.collect()))
            }
        }
    };
}

/// Defines an enum that goes onto the wire as a tag byte and the variant's fields. The trace shows a variant by its name, or as what
/// stands after `as`.
macro_rules! wire_enum {
    (@name $variant:ident) => { stringify!($variant) };
    (@name $variant:ident $shown:literal) => { $shown };
    ($(#[$meta:meta])* $name:ident {
        $($(#[$vmeta:meta])* $variant:ident = $tag:literal $(as $shown:literal)? $({ $($(#[$fmeta:meta])* $field:ident : $type:ty,)* })?,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub enum $name {
            $($(#[$vmeta])* $variant $({ $($(#[$fmeta])* $field: $type,)* })?,)*
        }

        impl $crate::wire::Codec for $name {
            fn encode(&self, to: &mut $crate::wire::Writer) {
                match self {
                    $(Self::$variant $({ $($field,)* })? => {
                        let tag: u8 = $tag;
                        $crate::wire::Codec::encode(&tag, to);
                        $($($crate::wire::Codec::encode($field, to);)*)?
                    })*
                }
            }

            fn decode(from: &mut $crate::wire::Reader<'_>, field: &'static str) -> Result<Self, $crate::wire::Refusal> {
                match <u8 as $crate::wire::Codec>::decode(from, field)? {
                    $($tag => Ok(Self::$variant $({
                        $($field: $crate::wire::Codec::decode(from, stringify!($field))?,)*
                    })?),)*
                    other => Err($crate::wire::Refusal::new(field, $crate::wire::Reason::Unknown(other.into()))),
                }
            }
        }

        impl $crate::wire::Show for $name {
            fn show(&self) -> Option<$crate::wire::Shown> {
                use $crate::wire::Shown;
                #[allow(unused_mut)]
                match self {
                    $(Self::$variant $({ $($field,)* })? => {
                        let name = Shown::Text($crate::wire::codec::wire_enum!(@name $variant $($shown)?).to_owned());
                        let mut fields = $crate::wire::Fields::new();
                        $($(
                            if let Some(value) = $crate::wire::Show::show($field) {
                                fields.insert(stringify!($field).into(), value);
                            }
                        )*)?
                        if fields.is_empty() {
                            return Some(name);
                        }
                        fields.insert("kind".into(), name);
                        Some(Shown::Table(fields))
                    })*
                }
            }
        }
    };
}

pub(crate) use {wire_enum, wire_struct};
