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
        let message = Message::of(bytes);
        let mut state = self.inner;
        compress(&mut state, message.blocks);
        compress(&mut state, message.end());
        let mut outer = self.outer;
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
    let parts = messages.map(|(_, bytes)| Message::of(bytes));
    let mut states = messages.map(|(key, _)| key.inner);
    compress_two(&mut states, [parts[0].blocks, parts[1].blocks]);
    compress_two(&mut states, [parts[0].end(), parts[1].end()]);
    let mut outers = messages.map(|(key, _)| key.outer);
    compress_two(&mut outers, [&[last(&states[0])], &[last(&states[1])]]);
    [cut(&outers[0]), cut(&outers[1])]
}

fn tag_sixteen(messages: &[Option<(&MacKey, &[u8])>; LANES]) -> [Tag; LANES] {
    let mut parts = [const { Message::EMPTY }; LANES];
    let (mut states, mut outers) = ([START; LANES], [START; LANES]);
    for (n, (key, bytes)) in messages.iter().flatten().enumerate() {
        parts[n] = Message::of(bytes);
        (states[n], outers[n]) = (key.inner, key.outer);
    }
    compress_sixteen(&mut states, &parts.each_ref().map(|part| [part.blocks, part.end()]));
    let digests = states.each_ref().map(last);
    compress_sixteen(&mut outers, &digests.each_ref().map(|block| [std::slice::from_ref(block), &[]]));
    outers.each_ref().map(cut)
}

/// Whether two MACs are the same, in a time that says nothing of where they differ.
pub(super) fn equal(ours: &Tag, theirs: &[u8]) -> bool {
    ours.ct_eq(theirs).into()
}

/// A message in blocks, as FIPS 180-4, 5.1.1, pads it behind a key block.
struct Message<'a> {
    blocks: &'a [Block],
    end: [Block; 2],
    /// How many blocks of `end` there are.
    ends: usize,
}

impl<'a> Message<'a> {
    /// No message at all.
    const EMPTY: Self = Self { blocks: &[], end: [[0; 64]; 2], ends: 0 };

    fn of(bytes: &'a [u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<64>();
        let mut end = [[0; 64]; 2];
        end[0][..rest.len()].copy_from_slice(rest);
        end[0][rest.len()] = 0x80;
        let ends = if rest.len() < 56 { 1 } else { 2 };
        end[ends - 1][56..].copy_from_slice(&((KEY_BLOCK + bytes.len() as u64) * 8).to_be_bytes());
        Self { blocks, end, ends }
    }

    fn end(&self) -> &[Block] {
        &self.end[..self.ends]
    }
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
