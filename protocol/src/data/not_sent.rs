//! What a sender is told of a packet that was not sent.

use crate::inner::icmp::{self, Unreachable};
use crate::inner::reset;

use super::Flow;

/// Why an inner packet was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotSent {
    /// It is no well-formed IPv4 packet.
    Malformed,
    /// No path leads there.
    NoPath(Flow),
    /// The path that led there is lost: the application is to know that its connection has ended.
    Lost(Flow),
    /// It is larger than the buffer.
    TooLarge,
    /// It is longer than the path's MTU: it is to be cut up, or its sender told (RFC 1191).
    TooBig {
        /// The MTU, in bytes.
        mtu: u16,
    },
}

impl NotSent {
    /// Writes to `out` what tells the sender of `inner`, the packet that was not sent: its length. It comes as if from the packet's destination. `None` where nobody may be
    /// told, or there is nothing to tell.
    pub fn answer(self, inner: &[u8], out: &mut [u8; icmp::MAX_LEN]) -> Option<usize> {
        match self {
            Self::TooBig { mtu } => icmp::answer(inner, Unreachable::TooBig { mtu }, out),
            #[cfg(feature = "mutants")]
            Self::NoPath(flow) if crate::mutants::Mutant::ResetTooSoon.is_here() => {
                Self::Lost(flow).answer(inner, out)
            }
            // A hint to what stands, and the end of an attempt to connect.
            Self::NoPath(_) => icmp::answer(inner, Unreachable::Host, out),
            // The end of a connection, at once (T4.2.5-b).
            Self::Lost(_) => {
                reset::answer(inner, out).or_else(|| icmp::answer(inner, Unreachable::Prohibited, out))
            }
            Self::Malformed | Self::TooLarge => None,
        }
    }
}
