//! What becomes of the segments of a connection between the TCPs of its two hosts: each is known again where it comes out, for translations change
//! addresses and ports only.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use ntm_protocol::time::Instant;

use crate::packet::{Packet, is_reset};

/// A segment that an end's TCP sent; the same bytes sent again are another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Whether the client sent it.
    pub by_client: bool,
    /// When.
    pub sent: Instant,
    /// When it came to the other end.
    pub came: Option<Instant>,
    /// Whether its sender was told that it is too long for its way (RFC 1191): what it carries goes again in shorter ones.
    pub too_long: bool,
    /// As an IP packet, in bytes.
    length: usize,
    /// Of what it says.
    digest: u64,
}

/// The segments of a flow's connection, but for resets: a host gives its own TCP one where no way leads to the peer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Segments {
    /// Those that were sent, in their order.
    pub sent: Vec<Segment>,
    /// How many came more often than they were sent.
    pub again: u32,
    /// How many came to a host that is no end.
    pub astray: u32,
    /// From where the server saw the client, and since when.
    pub sources: Vec<(Instant, SocketAddr)>,
}

fn digest(payload: &[u8]) -> u64 {
    // Its keys are always the same.
    let mut hasher = DefaultHasher::new();
    payload.hash(&mut hasher);
    hasher.finish()
}

impl Segments {
    /// How many were sent again, byte for byte.
    pub fn repeated(&self) -> u64 {
        let different: BTreeSet<(bool, u64)> = self.sent.iter().map(|it| (it.by_client, it.digest)).collect();
        (self.sent.len() - different.len()) as u64
    }

    /// An end sent a segment.
    pub(crate) fn leaves(&mut self, by_client: bool, packet: &Packet, now: Instant) {
        if !is_reset(&packet.payload) {
            let digest = digest(&packet.payload);
            let (came, too_long, length) = (None, false, packet.length());
            self.sent.push(Segment { by_client, sent: now, came, too_long, length, digest });
        }
    }

    /// An end was told that packets of more than `mtu` bytes do not pass.
    pub(crate) fn narrows(&mut self, by_client: bool, mtu: u16) {
        let under_way = self.sent.iter_mut().filter(|it| it.by_client == by_client && it.came.is_none());
        under_way.for_each(|it| it.too_long |= it.length > mtu.into());
    }

    /// A segment of the client's, or of the server's, came to a host: to the other end, unless it is `astray`.
    pub(crate) fn comes(&mut self, by_client: bool, astray: bool, packet: &Packet, now: Instant) {
        if is_reset(&packet.payload) {
            return;
        }
        if astray {
            self.astray += 1;
            return;
        }
        if by_client && self.sources.iter().all(|(_, source)| *source != packet.source) {
            self.sources.push((now, packet.source));
        }
        let digest = digest(&packet.payload);
        let is_it = |it: &&mut Segment| it.came.is_none() && (it.by_client, it.digest) == (by_client, digest);
        match self.sent.iter_mut().rfind(is_it) {
            Some(segment) => segment.came = Some(now),
            None => self.again += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ntm_nat::Protocol;

    /// A segment that carries `data` to `port`, with these flags.
    fn segment(port: u16, flags: u8, data: &[u8]) -> Packet {
        let payload = [&[0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0, 0, 0, 0][..], data].concat();
        let [source, destination] = [4000, port].map(|port| SocketAddr::from(([198, 18, 0, 1], port)));
        Packet { protocol: Protocol::Tcp, source, destination, whole: true, payload }
    }

    #[test]
    fn what_comes_is_known_again_and_what_comes_too_often_is_counted() {
        let (mut segments, now) = (Segments::default(), Instant::ZERO);
        let (one, two) = (segment(7000, 0x10, b"one"), segment(7000, 0x10, b"two"));
        for packet in [&one, &two, &one] {
            segments.leaves(true, packet, now);
        }
        assert_eq!(segments.repeated(), 1);
        // Translated, and out of order.
        let elsewhere = Packet { source: SocketAddr::from(([203, 0, 113, 5], 4001)), ..one.clone() };
        segments.comes(true, false, &two, now);
        segments.comes(true, false, &elsewhere, now);
        segments.comes(true, false, &elsewhere, now);
        let lost = segments.sent.iter().filter(|segment| segment.came.is_none()).count();
        assert_eq!((lost, segments.again, segments.astray, segments.sources.len()), (0, 0, 0, 2));
        segments.comes(true, false, &one, now);
        assert_eq!(segments.again, 1, "it was sent twice");
        segments.comes(false, false, &two, now);
        assert_eq!(segments.again, 2, "of the other direction");
        segments.leaves(false, &two, now);
        let told = [(false, 43), (true, 42), (false, 42)].map(|(by_client, mtu)| {
            segments.narrows(by_client, mtu);
            segments.sent.iter().filter(|segment| segment.too_long).count()
        });
        assert_eq!(told, [0, 0, 1], "43 bytes, of the server's");
        segments.comes(true, true, &two, now);
        assert_eq!((segments.again, segments.astray), (2, 1));
        // A reset is no segment of the stream.
        segments.comes(true, false, &segment(7000, 0x14, b""), now);
        assert_eq!((segments.again, segments.sent.len()), (2, 4));
    }
}
