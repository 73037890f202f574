//! Data packets of NTMobile as anybody on their way sees them: named by their headers, their bytes told by a digest.
//!
//! A digest is made when a packet is captured, so that every packet can be compared whole with what it was elsewhere (T4.1.3-a), and none
//! need be kept.

use foldhash::quality::FixedState;
use std::hash::BuildHasher;

use ntm_protocol::addr::{NTM_PORT, PathId};
use ntm_protocol::crypto::{Suite, sealed_len};
use ntm_protocol::wire::{Header, Kind};

use super::packet;

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

/// A data packet that passed a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seal {
    /// Its name.
    pub key: Key,
    /// When, on the clock of the packet that it was in.
    pub t: u64,
    /// Tells its bytes: NTM header, ciphertext, MAC. The same for the same bytes within this process.
    pub digest: u64,
}

/// A data packet in a UDP payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Its name.
    pub key: Key,
    /// What it is sealed with.
    pub suite: Suite,
    /// The length of the application's packet in it.
    pub length: usize,
    /// All of it: NTM header, ciphertext, MAC.
    pub bytes: &'a [u8],
}

/// The data packets of a UDP payload. Most are one; packets that left their node as one train, to be cut up by its network device, are as many.
/// What follows the last that can be told belongs to it.
pub fn train(mut bytes: &[u8]) -> impl Iterator<Item = Datagram<'_>> {
    std::iter::from_fn(move || {
        let (datagram, rest) = first(bytes)?;
        bytes = rest;
        Some(datagram)
    })
}

/// The data packets in the IP packet `bytes`, which passed at `t`; none where it is a fragment, or not whole.
pub fn seals(t: u64, bytes: &[u8]) -> impl Iterator<Item = Seal> {
    let payload = packet::whole(bytes).and_then(|ip| ip.between(NTM_PORT)).unwrap_or_default();
    train(payload).map(move |Datagram { key, bytes, .. }| Seal {
        key,
        t,
        digest: FixedState::default().hash_one(bytes),
    })
}

/// The data packet at the front, and what follows it.
fn first(bytes: &[u8]) -> Option<(Datagram<'_>, &[u8])> {
    let data = |bytes: &[u8]| Header::parse(bytes).ok().filter(|header| header.kind == Kind::Data);
    let Header { flags, suite, epoch, length, sequence, id, .. } = data(bytes)?;
    let key = Key { path: PathId(id), back: flags.responder, epoch, sequence };
    let (suite, length) = (Suite::from_u8(suite)?, usize::from(length));
    let (bytes, rest) = match bytes.split_at_checked(sealed_len(suite, length)) {
        Some((datagram, rest)) if data(rest).is_some() => (datagram, rest),
        _ => (bytes, &[][..]),
    };
    Some((Datagram { key, suite, length, bytes }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data packet as it looks from outside.
    fn sealed(sequence: u8, length: u16) -> Vec<u8> {
        let mut bytes = vec![1, 0x30, 1, 1];
        bytes.extend(length.to_be_bytes());
        bytes.resize(sealed_len(Suite::Aes128Cbc, length.into()), sequence);
        (bytes[6], bytes[7]) = (0, 0);
        bytes
    }

    /// `payload` in UDP and IPv4, from and to NTMobile's port.
    fn outer(payload: &[u8]) -> Vec<u8> {
        let [total, udp] =
            [28 + payload.len(), 8 + payload.len()].map(|length| (length as u16).to_be_bytes());
        let mut bytes = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        bytes.extend([0x10, 0xea, 0x10, 0xea, udp[0], udp[1], 0, 0]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn a_train_is_its_packets_and_what_follows_the_last_belongs_to_it() {
        let (one, two) = (sealed(7, 20), sealed(8, 33));
        let whole = [&one[..], &two, b"more"].concat();
        let parts: Vec<_> =
            train(&whole).map(|it| (it.key.sequence as u8, it.length, it.bytes.to_vec())).collect();
        assert_eq!(parts, [(7, 20, one), (8, 33, [&two[..], b"more"].concat())]);
    }

    /// T4.1.3-a: of the longest packet, too, no byte changes unseen; in a train it has the digest that it has alone; and the outer
    /// headers are no part of it.
    #[test]
    fn a_digest_is_of_every_byte() {
        let of = |bytes: &[u8]| seals(3, bytes).collect::<Vec<_>>();
        let (one, two) = (sealed(7, 1424), sealed(8, 1424));
        let alone = [of(&outer(&one)), of(&outer(&two))].concat();
        assert_eq!(alone.len(), 2);
        assert_eq!(of(&outer(&[&one[..], &two].concat())), alone);
        let mut elsewhere = outer(&one);
        (elsewhere[8], elsewhere[15], elsewhere[20]) = (63, 9, 7);
        assert_eq!(of(&elsewhere), alone[..1]);
        // From the Path ID on any byte may be another one and it is still a data packet.
        for at in 16..one.len() {
            let mut changed = one.clone();
            changed[at] ^= 1;
            assert_ne!(of(&outer(&changed)), alone[..1], "byte {at}");
        }
    }

    #[test]
    fn fragments_and_what_is_not_whole_are_left_out() {
        let whole = outer(&sealed(7, 1424));
        assert_eq!(seals(3, &whole).count(), 1);
        for cut in 0..whole.len() {
            assert_eq!(seals(3, &whole[..cut]).count(), 0, "{cut}");
        }
        for (at, value) in [(6, 0x20), (7, 1), (21, 0), (0, 0x4f), (28, 2)] {
            let mut other = whole.clone();
            // A port that is not NTMobile's, at either end.
            other[23] = if at == 21 { 0 } else { other[23] };
            other[at] = value;
            assert_eq!(seals(3, &other).count(), 0, "byte {at} is {value}");
        }
    }
}
