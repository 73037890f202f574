//! What the trace shows of a message's body: every value but keys. A key shows nothing, so no message can show one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::List;
use crate::addr::{Fqdn, NodeId, PathId, Vip, VipRange};
use crate::crypto::SharedKey;

/// The values of a body or of a part of it, by field.
pub type Fields = BTreeMap<Cow<'static, str>, Shown>;

/// A value as the trace shows it; plain JSON.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Shown {
    /// True or false.
    Truth(bool),
    /// A number.
    Number(u64),
    /// A name, an address, a duration with its unit.
    Text(String),
    /// Several.
    List(Vec<Shown>),
    /// A part with fields of its own.
    Table(Fields),
}

/// A value of a message body that may be shown, or not.
pub trait Show {
    /// The value; `None` where there is nothing to show: an absent value, or a key.
    fn show(&self) -> Option<Shown>;
}

impl Show for SharedKey {
    fn show(&self) -> Option<Shown> {
        None
    }
}

impl Show for bool {
    fn show(&self) -> Option<Shown> {
        Some(Shown::Truth(*self))
    }
}

impl<T: Show> Show for Option<T> {
    fn show(&self) -> Option<Shown> {
        self.as_ref()?.show()
    }
}

impl<T: Show, const N: usize> Show for List<T, N> {
    fn show(&self) -> Option<Shown> {
        Some(Shown::List(self.iter().filter_map(Show::show).collect()))
    }
}

impl Show for Duration {
    fn show(&self) -> Option<Shown> {
        Some(Shown::Text(format!("{} ms", self.as_millis())))
    }
}

macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Show for $type {
            fn show(&self) -> Option<Shown> {
                Some(Shown::Number((*self).into()))
            }
        }
    )*};
}

macro_rules! texts {
    ($($type:ty),*) => {$(
        impl Show for $type {
            fn show(&self) -> Option<Shown> {
                Some(Shown::Text(self.to_string()))
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64);
texts!(IpAddr, SocketAddr, Vip, VipRange, Fqdn, PathId, NodeId);
