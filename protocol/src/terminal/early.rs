//! Tunnel Requests that come before their Route Direction.
//!
//! MN hears from the DC earlier than CN, whose Route Direction travels through DC_CN; so MN's Tunnel Request may be at CN first. It is
//! refused, for nobody has said yet that it may be believed; but a few are kept for a moment, to be looked at again when the direction
//! is there. Else the path would wait for the repetition.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crate::addr::PathId;
use crate::time::{Duration, Instant};
use crate::wire::Header;

/// How many are kept; the oldest makes room.
const KEPT: usize = 8;
/// How long one is of use: after that it was repeated.
const MOMENT: Duration = Duration::from_secs(1);
/// The longest datagram that a Tunnel Request is.
const MAX_LEN: usize = 256;

/// What came early.
#[derive(Default)]
pub(super) struct Early(VecDeque<(Instant, SocketAddr, Vec<u8>)>);

impl Early {
    /// Keeps `datagram`, which came from `from` at `now`.
    pub(super) fn keep(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        if datagram.len() > MAX_LEN {
            return;
        }
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((now, from, datagram.to_vec()));
    }

    /// Takes out what came for `path` within the last moment, in order.
    pub(super) fn take(&mut self, path: PathId, now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        self.0.retain(|(at, _, _)| now.since(*at) < MOMENT);
        let is_its = |datagram: &[u8]| Header::parse(datagram).is_ok_and(|header| header.id == path.0);
        let (its, others) = self.0.drain(..).partition(|(_, _, datagram)| is_its(datagram));
        self.0 = others;
        let its: VecDeque<_> = its;
        its.into_iter().map(|(_, from, datagram)| (from, datagram)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::header;
    use crate::wire::{Flags, Kind};

    fn datagram(path: u8, sequence: u64) -> Vec<u8> {
        header(Kind::TunnelRequest, Flags::default(), 0, sequence, [path; 16]).emit().to_vec()
    }

    #[test]
    fn only_the_paths_own_and_only_for_a_moment() {
        let (from, now) = ("192.0.2.1:1".parse().unwrap(), Instant::from_nanos(5));
        let mut early = Early::default();
        early.keep(from, &datagram(1, 1), now);
        early.keep(from, &datagram(2, 1), now);
        early.keep(from, &[0; MAX_LEN + 1], now);
        assert_eq!(early.take(PathId([1; 16]), now), [(from, datagram(1, 1))]);
        assert_eq!(early.take(PathId([1; 16]), now), []);
        assert_eq!(early.take(PathId([2; 16]), now + MOMENT), []);
        for sequence in 0..20 {
            early.keep(from, &datagram(3, sequence), now);
        }
        let kept = early.take(PathId([3; 16]), now);
        assert_eq!((kept.len(), &kept[0].1), (KEPT, &datagram(3, 20 - KEPT as u64)));
    }
}
