//! One packet at one place, as far as the tables need it.

use std::hash::{BuildHasher, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::quality::FixedState;
use ntm_protocol::addr::NTM_PORT;
use ntm_protocol::crypto::Suite;
use ntm_protocol::wire::{HEADER_LEN, Header, Kind};

use crate::capture::packet::{self, Whole};
use crate::capture::sealed::{self, Datagram, Key};

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

/// A packet that passed a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// When: nanoseconds of any clock that all sightings share.
    pub t: u64,
    /// Whose interface.
    pub node: Arc<str>,
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
    },
    /// An application's packet.
    Open {
        /// Its length.
        length: usize,
        /// Tells what translation leaves as it is: protocol and transport header without ports and checksum, and what follows. The same for the same
        /// bytes.
        carried: u64,
    },
}

impl Sighting {
    /// Reads the IP packet `bytes`; nothing where it is not whole, or a fragment. Data packets that
    /// left their node as one train, to be cut up by its network device, are as many.
    pub fn read(
        t: u64,
        node: &Arc<str>,
        point: Point,
        outgoing: bool,
        bytes: &[u8],
    ) -> impl Iterator<Item = Self> {
        packet::whole(bytes).into_iter().flat_map(move |ip| {
            let datagram = ip.between(NTM_PORT).filter(|_| point != Point::Application);
            let alone = match datagram {
                Some(datagram) => control(datagram),
                None => carried(ip.protocol, ip.transport)
                    .map(|carried| Body::Open { length: bytes.len(), carried }),
            };
            let sealed = datagram.into_iter().flat_map(sealed::train).map(Body::from);
            let Whole { source, destination, .. } = ip;
            let of = move |body| Self { t, node: node.clone(), point, outgoing, source, destination, body };
            alone.into_iter().chain(sealed).map(of)
        })
    }

    /// The length of the application's packet; of a control message 0.
    pub fn length(&self) -> usize {
        match &self.body {
            Body::Sealed { length, .. } | Body::Open { length, .. } => *length,
            Body::Control(_) => 0,
        }
    }
}

impl From<Datagram<'_>> for Body {
    fn from(Datagram { key, suite, length, bytes }: Datagram<'_>) -> Self {
        let inner = bytes.get(HEADER_LEN..HEADER_LEN + length).filter(|_| suite == Suite::None);
        let inner = inner.and_then(packet::whole).map(|ip| (ip.source, ip.destination));
        Self::Sealed { key, length, inner }
    }
}

/// The control message that a datagram of NTMobile is; nothing of a data packet.
fn control(datagram: &[u8]) -> Option<Body> {
    let Header { kind, sequence, .. } = Header::parse(datagram).ok()?;
    (kind != Kind::Data).then_some(Body::Control(Message { kind, sequence }))
}

fn carried(protocol: u8, transport: &[u8]) -> Option<u64> {
    let parts: &[std::ops::Range<usize>] = match protocol {
        // Sequence numbers, flags and window; not the checksum.
        6 => &[4..16, 18..transport.len()],
        17 => &[4..6, 8..transport.len()],
        // Type, code; not checksum and identifier.
        1 => &[0..2, 6..transport.len()],
        _ => return None,
    };
    let mut hasher = FixedState::default().build_hasher();
    hasher.write_u8(protocol);
    for part in parts {
        hasher.write(transport.get(part.clone())?);
    }
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_bytes_it_never_panics() {
        let mut whole = vec![0x45, 0, 0, 76, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        whole.extend([0x10, 0xea, 0x10, 0xea, 0, 56, 0, 0]);
        whole.extend([1, 0x30, 0, 0, 0, 20]);
        whole.resize(76, 0);
        let node = Arc::from("mn");
        for point in [Point::Application, Point::Real] {
            assert_eq!(Sighting::read(0, &node, point, true, &whole).count(), 1);
            for cut in 0..whole.len() {
                for first in [0x45, 0x4f, 0x40, 0x60, 0xff] {
                    let mut bytes = whole[..cut].to_vec();
                    if let Some(byte) = bytes.first_mut() {
                        *byte = first;
                    }
                    assert_eq!(Sighting::read(0, &node, point, true, &bytes).next(), None);
                }
            }
        }
    }
}
