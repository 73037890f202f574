//! Why something from outside was not accepted.

use std::fmt;

use thiserror::Error;

/// Input that was refused: the field that was wrong, and how. It is counted and traced; nothing else changes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {reason}")]
pub struct Refusal {
    /// The field's name as in the wire format, or the part of the datagram.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The bytes end inside it.
    Truncated,
    /// So many bytes follow where nothing should.
    Trailing(usize),
    /// A value that has no meaning here.
    Unknown(u64),
    /// A length that is over the bound, or does not fit the datagram.
    Length(usize),
    /// A text or address that is not well formed.
    Malformed(String),
    /// The MAC is not that of these bytes under the key that belongs to them.
    Mac,
    /// A sequence number that was seen before, or is too old to tell.
    Replayed(u64),
    /// Nobody whom this node shares a key with, or no path that it knows.
    Stranger,
    /// A message that this node does not take, or not now, or not from this sender.
    Unexpected,
    /// It contradicts what this node knows.
    Conflict,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the datagram ends inside it"),
            Self::Trailing(n) => write!(f, "{n} bytes too many"),
            Self::Unknown(value) => write!(f, "the value {value} has no meaning"),
            Self::Length(n) => write!(f, "a length of {n} is not allowed"),
            Self::Malformed(why) => f.write_str(why),
            Self::Mac => f.write_str("does not match"),
            Self::Replayed(n) => write!(f, "the number {n} was seen before or is too old"),
            Self::Stranger => f.write_str("not known here"),
            Self::Unexpected => f.write_str("not expected here"),
            Self::Conflict => f.write_str("contradicts what is known here"),
        }
    }
}

impl Refusal {
    /// A refusal of `field` for `reason`.
    pub const fn new(field: &'static str, reason: Reason) -> Self {
        Self { field, reason }
    }
}
