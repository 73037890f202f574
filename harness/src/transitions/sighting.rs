//! One packet at one place, as far as the tables need it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ntm_protocol::addr::{NTM_PORT, PathId};
use ntm_protocol::crypto::{Suite, sealed_len};
use ntm_protocol::wire::{HEADER_LEN, Header, Kind};

/// Where packets are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// A terminal's virtual interface: what its applications see.
    Application,
    /// A host's real interface.
    Real,
    /// The outer side of a router.
    Outside,
}

/// Names a data packet from its sealing to its opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its path.
    pub path: PathId,
    /// Whether it goes from the path's responder to its initiator.
    pub back: bool,
    /// Its key's epoch.
    pub epoch: u8,
    /// Its number under that key.
    pub sequence: u64,
}

/// A packet that passed a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// When: nanoseconds of any clock that all sightings share.
    pub t: u64,
    /// Whose interface.
    pub node: String,
    /// Which.
    pub point: Point,
    /// Whether the node sent it.
    pub outgoing: bool,
    /// Its source there.
    pub source: IpAddr,
    /// Its destination there.
    pub destination: IpAddr,
    /// What it is.
    pub body: Body,
}

/// Names a control message between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    /// Its type.
    pub kind: Kind,
    /// Its sequence number.
    pub sequence: u64,
}

/// What a packet is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A control message of NTMobile.
    Control(Message),
    /// A data packet of NTMobile.
    Sealed {
        /// Its name.
        key: Key,
        /// The length of the application's packet in it.
        length: usize,
        /// Source and destination of the application's packet, where the suite leaves it readable.
        inner: Option<(IpAddr, IpAddr)>,
        /// The whole datagram: NTM header, ciphertext, MAC.
        datagram: Vec<u8>,
    },
    /// An application's packet.
    Open {
        /// Its length.
        length: usize,
        /// What translation leaves as it is: protocol and transport header without ports and checksum, and what follows.
        carried: Vec<u8>,
    },
}

impl Sighting {
    /// Reads the IP packet `bytes`; nothing where it is not whole, or a fragment. Data packets that
    /// left their node as one train, to be cut up by its network device, are as many.
    pub fn read(t: u64, node: &str, point: Point, outgoing: bool, bytes: &[u8]) -> Vec<Self> {
        let all = || {
            let (source, destination, protocol, transport) = ip(bytes)?;
            let port = |at: usize| Some(u16::from_be_bytes([*transport.get(at)?, *transport.get(at + 1)?]));
            let is_ntm = protocol == 17 && [port(0)?, port(2)?].contains(&NTM_PORT);
            let bodies = if is_ntm && point != Point::Application {
                let datagram = transport.get(8..)?;
                match Header::parse(datagram).ok()? {
                    Header { kind: Kind::Data, .. } => train(datagram),
                    Header { kind, sequence, .. } => vec![Body::Control(Message { kind, sequence })],
                }
            } else {
                vec![Body::Open { length: bytes.len(), carried: carried(protocol, transport)? }]
            };
            let node = || node.to_owned();
            let of = |body| Self { t, node: node(), point, outgoing, source, destination, body };
            Some(bodies.into_iter().map(of).collect())
        };
        all().unwrap_or_default()
    }

    /// The length of the application's packet; of a control message 0.
    pub fn length(&self) -> usize {
        match &self.body {
            Body::Sealed { length, .. } | Body::Open { length, .. } => *length,
            Body::Control(_) => 0,
        }
    }
}

/// Source, destination, protocol and what follows the header of a whole, unfragmented IP packet.
fn ip(bytes: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    let short = |at: usize| Some(usize::from(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])));
    match bytes.first()? >> 4 {
        4 => {
            let header = usize::from(bytes[0] & 15) * 4;
            let whole = header >= 20 && short(2)? == bytes.len() && short(6)? & 0x3fff == 0;
            let address = |at: usize| Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?));
            let (source, destination) = (address(12)?, address(16)?);
            whole.then_some((source.into(), destination.into(), bytes[9], bytes.get(header..)?))
        }
        6 => {
            let address = |at: usize| Some(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?));
            let (source, destination) = (address(8)?, address(24)?);
            let whole = short(4)? + 40 == bytes.len();
            whole.then_some((source.into(), destination.into(), bytes[6], bytes.get(40..)?))
        }
        _ => None,
    }
}

/// The data packets of a train, which is one in most cases. What follows the last that can be told belongs to it.
fn train(mut bytes: &[u8]) -> Vec<Body> {
    let mut out = Vec::new();
    while let Some((body, rest)) = sealed(bytes) {
        out.push(body);
        bytes = rest;
    }
    out
}

/// The data packet at the front, and what follows it.
fn sealed(bytes: &[u8]) -> Option<(Body, &[u8])> {
    let data = |bytes: &[u8]| Header::parse(bytes).ok().filter(|header| header.kind == Kind::Data);
    let Header { flags, suite, epoch, length, sequence, id, .. } = data(bytes)?;
    let key = Key { path: PathId(id), back: flags.responder, epoch, sequence };
    let (suite, length) = (Suite::from_u8(suite)?, usize::from(length));
    let end = sealed_len(suite, length);
    let (datagram, rest) = match bytes.split_at_checked(end) {
        Some((datagram, rest)) if data(rest).is_some() => (datagram, rest),
        _ => (bytes, &[][..]),
    };
    let inner = datagram.get(HEADER_LEN..HEADER_LEN + length).filter(|_| suite == Suite::None);
    let inner = inner.and_then(ip).map(|(source, destination, ..)| (source, destination));
    Some((Body::Sealed { key, length, inner, datagram: datagram.to_vec() }, rest))
}

fn carried(protocol: u8, transport: &[u8]) -> Option<Vec<u8>> {
    let parts: &[std::ops::Range<usize>] = match protocol {
        // Sequence numbers, flags and window; not the checksum.
        6 => &[4..16, 18..transport.len()],
        17 => &[4..6, 8..transport.len()],
        // Type, code; not checksum and identifier.
        1 => &[0..2, 6..transport.len()],
        _ => return None,
    };
    let mut out = vec![protocol];
    for part in parts {
        out.extend(transport.get(part.clone())?);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_train_is_its_packets_and_what_follows_the_last_belongs_to_it() {
        let packet = |sequence: u8, length: u8| {
            let mut bytes = vec![1, 0x30, 1, 1, 0, length];
            bytes.resize(sealed_len(Suite::Aes128Cbc, length.into()), sequence);
            (bytes[6], bytes[7]) = (0, 0);
            bytes
        };
        let (first, second) = (packet(7, 20), packet(8, 33));
        let whole = [&first[..], &second, b"more"].concat();
        let parts: Vec<_> = train(&whole)
            .into_iter()
            .map(|body| match body {
                Body::Sealed { key, length, datagram, .. } => (key.sequence as u8, length, datagram),
                other => panic!("{other:?} is no data packet"),
            })
            .collect();
        assert_eq!(parts, [(7, 20, first), (8, 33, [&second[..], b"more"].concat())]);
    }

    #[test]
    fn whatever_the_bytes_it_never_panics() {
        let mut whole = vec![0x45, 0, 0, 76, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        whole.extend([0x10, 0xea, 0x10, 0xea, 0, 56, 0, 0]);
        whole.extend([1, 0x30, 0, 0, 0, 20]);
        whole.resize(76, 0);
        for point in [Point::Application, Point::Real] {
            assert_eq!(Sighting::read(0, "mn", point, true, &whole).len(), 1);
            for cut in 0..whole.len() {
                for first in [0x45, 0x4f, 0x40, 0x60, 0xff] {
                    let mut bytes = whole[..cut].to_vec();
                    if let Some(byte) = bytes.first_mut() {
                        *byte = first;
                    }
                    assert_eq!(Sighting::read(0, "mn", point, true, &bytes), []);
                }
            }
        }
    }
}
