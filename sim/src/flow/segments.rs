//! What becomes of the segments of a connection between the TCPs of its two hosts: each is known again where it comes out, for translations change
//! addresses and ports only.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;

use ntm_nat::Segment::Open as Opens;
use ntm_protocol::time::Instant;

use crate::packet::{self, Packet, is_reset};

/// A segment that an end's TCP sent; the same bytes sent again are another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Whether the client sent it.
    pub by_client: bool,
    /// Of which connection it is, by their numbers in the order in which the client opened them; none of which the server had heard nothing.
    pub connection: Option<usize>,
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

/// The segments of a flow's connections, but for resets: a host gives its own TCP one where no way leads to the peer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Segments {
    /// Those that were sent, in their order.
    pub sent: Vec<Segment>,
    /// How many came more often than they were sent.
    pub again: u32,
    /// How many came to a host that is no end.
    pub astray: u32,
    /// From where the server saw each connection come, and since when.
    pub sources: Vec<(Instant, usize, SocketAddr)>,
    /// The client's port of each connection, and the digest of what opened it.
    opened: Vec<(u16, u64)>,
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
        if is_reset(&packet.payload) {
            return;
        }
        let digest = digest(&packet.payload);
        let is_first = by_client && packet::segment(&packet.payload) == Opens;
        if is_first && self.opened.iter().all(|(_, known)| *known != digest) {
            self.opened.push((packet.source.port(), digest));
        }
        let connection = if by_client {
            self.opened.iter().rposition(|(port, _)| *port == packet.source.port())
        } else {
            let to = self.sources.iter().rev().find(|(_, _, source)| *source == packet.destination);
            to.map(|(_, connection, _)| *connection)
        };
        let (came, too_long, length) = (None, false, packet.length());
        self.sent.push(Segment { by_client, connection, sent: now, came, too_long, length, digest });
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
        let digest = digest(&packet.payload);
        let is_it = |it: &&mut Segment| it.came.is_none() && (it.by_client, it.digest) == (by_client, digest);
        match self.sent.iter_mut().rfind(is_it) {
            Some(segment) => {
                segment.came = Some(now);
                let source = segment.connection.filter(|_| by_client).map(|it| (it, packet.source));
                if let Some((connection, source)) = source
                    && self.sources.iter().all(|(_, it, known)| (*it, *known) != (connection, source))
                {
                    self.sources.push((now, connection, source));
                }
            }
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
    fn each_connection_has_a_source_of_its_own() {
        let (mut segments, now) = (Segments::default(), Instant::ZERO);
        let answer = |to: u16| Packet {
            destination: SocketAddr::from(([203, 0, 113, 5], to)),
            ..segment(0, 0x10, b"answer")
        };
        // From one port, the first one's opening sent twice; translated to one, and then to another.
        for (isn, source) in [(b"1", 4000), (b"1", 4000), (b"2", 4001)] {
            let syn = segment(7000, 0x02, isn);
            segments.leaves(true, &syn, now);
            let translated = Packet { source: SocketAddr::from(([203, 0, 113, 5], source)), ..syn };
            segments.comes(true, false, &translated, now);
            segments.leaves(false, &answer(source), now);
        }
        segments.leaves(false, &answer(4002), now);
        let of: Vec<_> = segments.sent.iter().map(|it| (it.by_client, it.connection)).collect();
        let (client, server) = ([Some(0), Some(0), Some(1)], [Some(0), Some(0), Some(1)]);
        let both: Vec<_> =
            client.into_iter().zip(server).flat_map(|(a, b)| [(true, a), (false, b)]).collect();
        assert_eq!(of, [&both[..], &[(false, None)]].concat());
        let sources: Vec<_> = segments.sources.iter().map(|(_, it, source)| (*it, source.port())).collect();
        assert_eq!(sources, [(0, 4000), (1, 4001)]);
    }

    #[test]
    fn what_comes_is_known_again_and_what_comes_too_often_is_counted() {
        let (mut segments, now) = (Segments::default(), Instant::ZERO);
        let (one, two) = (segment(7000, 0x10, b"one"), segment(7000, 0x10, b"two"));
        let syn = segment(7000, 0x02, b"");
        for packet in [&syn, &one, &two, &one] {
            segments.leaves(true, packet, now);
        }
        segments.comes(true, false, &syn, now);
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
        assert_eq!((segments.again, segments.sent.len()), (2, 5));
    }
}
