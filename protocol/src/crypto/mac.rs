//! HMAC-SHA-256 (RFC 2104) cut to 16 bytes, of one message or of many at once.

use subtle::ConstantTimeEq;

use super::sha256::{Block, LANES, START, State, compress, compress_sixteen, compress_two, has_sixteen};
use crate::wire::MAC_LEN;

/// A MAC.
pub(super) type Tag = [u8; MAC_LEN];

/// A key, as the states that the hash has after it: nothing of it is done again for a message.
#[derive(Clone)]
pub(super) struct MacKey {
    inner: State,
    outer: State,
}

/// From how many messages on sixteen at once, the rest of them nothing, take less time than two at a time.
const WORTH_SIXTEEN: usize = 8;

/// Bytes of the key block that stands before the message, and before the inner digest.
const KEY_BLOCK: u64 = 64;

impl MacKey {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let after = |pad: u8| {
            let mut block = [pad; 64];
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            let mut state = START;
            compress(&mut state, &[block]);
            state
        };
        Self { inner: after(0x36), outer: after(0x5c) }
    }

    pub(super) fn tag(&self, bytes: &[u8]) -> Tag {
        let mut end = NO_END;
        let (mut state, mut outer) = (self.inner, self.outer);
        for blocks in padded(bytes, &mut end) {
            compress(&mut state, blocks);
        }
        compress(&mut outer, &[last(&state)]);
        cut(&outer)
    }

    /// The MACs of messages, each under its key: many take much less time than each alone. Those that are there come first.
    pub(super) fn tags(messages: &[Option<(&MacKey, &[u8])>; TAGS_AT_ONCE]) -> [Tag; TAGS_AT_ONCE] {
        if has_sixteen() && messages[WORTH_SIXTEEN - 1].is_some() {
            return tag_sixteen(messages);
        }
        let mut tags = [Tag::default(); TAGS_AT_ONCE];
        for (messages, tags) in messages.chunks(2).zip(tags.chunks_mut(2)) {
            match (messages, tags) {
                ([Some(a), Some(b)], [tag_a, tag_b]) => [*tag_a, *tag_b] = tag_two([*a, *b]),
                ([Some((key, bytes)), ..], [tag, ..]) => *tag = key.tag(bytes),
                _ => break,
            }
        }
        tags
    }

    pub(super) fn verify(&self, bytes: &[u8], tag: &[u8]) -> bool {
        equal(&self.tag(bytes), tag)
    }
}

/// How many messages [`MacKey::tags`] takes.
pub(super) const TAGS_AT_ONCE: usize = LANES;

fn tag_two(messages: [(&MacKey, &[u8]); 2]) -> [Tag; 2] {
    let [(_, first), (_, other)] = messages;
    let mut ends = [NO_END; 2];
    let [first_end, other_end] = &mut ends;
    let ([first, first_end], [other, other_end]) = (padded(first, first_end), padded(other, other_end));
    let mut states = messages.map(|(key, _)| key.inner);
    compress_two(&mut states, [first, other]);
    compress_two(&mut states, [first_end, other_end]);
    let mut outers = messages.map(|(key, _)| key.outer);
    compress_two(&mut outers, [&[last(&states[0])], &[last(&states[1])]]);
    [cut(&outers[0]), cut(&outers[1])]
}

fn tag_sixteen(messages: &[Option<(&MacKey, &[u8])>; LANES]) -> [Tag; LANES] {
    let (mut states, mut outers) = ([START; LANES], [START; LANES]);
    let mut ends = [NO_END; LANES];
    let mut parts: [[&[Block]; 2]; LANES] = [[&[], &[]]; LANES];
    for (n, ((key, bytes), end)) in messages.iter().flatten().zip(&mut ends).enumerate() {
        (states[n], outers[n]) = (key.inner, key.outer);
        parts[n] = padded(bytes, end);
    }
    compress_sixteen(&mut states, &parts);
    let mut digests = [[0; 64]; LANES];
    for ((digest, state), part) in digests.iter_mut().zip(&states).zip(&mut parts) {
        *digest = last(state);
        *part = [std::slice::from_ref(digest), &[]];
    }
    compress_sixteen(&mut outers, &parts);
    let mut tags = [Tag::default(); LANES];
    for (tag, outer) in tags.iter_mut().zip(&outers) {
        *tag = cut(outer);
    }
    tags
}

/// Whether two MACs are the same, in a time that says nothing of where they differ.
pub(super) fn equal(ours: &Tag, theirs: &[u8]) -> bool {
    // As one number, which is one comparison instead of sixteen.
    theirs
        .try_into()
        .is_ok_and(|theirs| u128::from_ne_bytes(*ours).ct_eq(&u128::from_ne_bytes(theirs)).into())
}

/// Room for the end of a message.
const NO_END: [Block; 2] = [[0; 64]; 2];

/// A message in blocks, as FIPS 180-4, 5.1.1, pads it behind a key block: those that are whole, and the one or two at its end.
fn padded<'a>(bytes: &'a [u8], end: &'a mut [Block; 2]) -> [&'a [Block]; 2] {
    let (blocks, rest) = bytes.as_chunks::<64>();
    end[0][..rest.len()].copy_from_slice(rest);
    end[0][rest.len()] = 0x80;
    let end = if rest.len() < 56 { &mut end[..1] } else { &mut end[..] };
    if let Some(last) = end.last_mut() {
        last[56..].copy_from_slice(&((KEY_BLOCK + bytes.len() as u64) * 8).to_be_bytes());
    }
    [blocks, end]
}

/// The block that holds the inner digest.
fn last(state: &State) -> Block {
    let mut block = [0; 64];
    for (bytes, word) in block.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    block[32] = 0x80;
    block[56..].copy_from_slice(&((KEY_BLOCK + 32) * 8).to_be_bytes());
    block
}

fn cut(state: &State) -> Tag {
    let mut tag = [0; MAC_LEN];
    for (bytes, word) in tag.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *bytes = word.to_be_bytes();
    }
    tag
}

#[cfg(test)]
mod tests {
    use hmac::{Hmac, KeyInit, Mac};
    use proptest::prelude::*;
    use sha2::Sha256;

    use super::*;

    /// The crates' HMAC is the oracle.
    fn oracle(key: &[u8; 32], bytes: &[u8]) -> Vec<u8> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
        mac.update(bytes);
        mac.finalize().into_bytes()[..MAC_LEN].to_vec()
    }

    /// The length of a message decides how its end is padded: every one around the bounds, alone, with another, and as one of many.
    #[test]
    fn every_length_is_as_the_crates_have_it() {
        let keys: Vec<[u8; 32]> = (0..TAGS_AT_ONCE).map(|n| [n as u8; 32]).collect();
        let made: Vec<_> = keys.iter().map(MacKey::new).collect();
        let bytes: Vec<u8> = (0..400).map(|n| n as u8).collect();
        for shift in 0..bytes.len() {
            let messages: Vec<_> = (0..TAGS_AT_ONCE).map(|n| &bytes[..(shift + 25 * n) % 400]).collect();
            let expected: Vec<_> =
                keys.iter().zip(&messages).map(|(key, message)| oracle(key, message)).collect();
            let all: Vec<_> = made.iter().zip(messages).collect();
            for count in [1, 2, 3, WORTH_SIXTEEN, TAGS_AT_ONCE] {
                let tags = MacKey::tags(&core::array::from_fn(|n| all[..count].get(n).copied()));
                assert!(tags[..count].iter().zip(&expected).all(|(tag, expected)| tag[..] == expected[..]));
            }
            assert_eq!(made[0].tag(all[0].1)[..], expected[0][..]);
        }
    }

    proptest! {
        #[test]
        fn messages_have_the_macs_that_they_have_alone(
            messages in prop::collection::vec((any::<[u8; 32]>(), prop::collection::vec(any::<u8>(), 0..1600)), 0..=TAGS_AT_ONCE),
        ) {
            let made: Vec<_> = messages.iter().map(|(key, _)| MacKey::new(key)).collect();
            let all: Vec<_> = made.iter().zip(messages.iter().map(|(_, message)| &message[..])).collect();
            let tags = MacKey::tags(&core::array::from_fn(|n| all.get(n).copied()));
            for ((tag, key), (bytes, message)) in tags.iter().zip(&made).zip(&messages) {
                prop_assert_eq!(&tag[..], &oracle(bytes, message)[..]);
                prop_assert!(key.verify(message, tag) && !key.verify(message, &[0; MAC_LEN]));
            }
        }
    }
}
