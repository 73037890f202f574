//! AES-128-GCM (NIST SP 800-38D) of one data packet.
//!
//! Under one key no nonce may come twice: two packets of one nonce give away what they differ in, and the means to forge others. A nonce is four
//! bytes that come with the key, as in RFC 4106, and the sequence number. A key is for one direction of one path in one epoch, so only its one
//! sender counts; and where that starts to count is in [`first_sequence`](crate::data::first_sequence).

use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::mac::Tag;
use crate::wire::{HEADER_LEN, MAC_LEN};

/// A key, and the part of each nonce that comes with it.
#[derive(Clone)]
pub(super) struct GcmKey {
    key: LessSafeKey,
    salt: [u8; 4],
}

impl GcmKey {
    pub(super) fn new(key: &[u8; 16], salt: [u8; 4]) -> Self {
        let key = UnboundKey::new(&AES_128_GCM, key).expect("16 bytes are an AES-128 key");
        Self { key: LessSafeKey::new(key), salt }
    }

    /// The nonce of the datagram that has this header.
    fn nonce(&self, header: &[u8; HEADER_LEN]) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.salt);
        nonce[4..].copy_from_slice(&header[8..16]);
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals a datagram in place: what is behind its header is encrypted, and its tag, which covers the header too, fills the last 16 bytes.
    pub(super) fn seal(&self, datagram: &mut [u8]) {
        let Some((header, rest)) = datagram.split_first_chunk_mut() else { return };
        let Some((body, place)) = rest.split_last_chunk_mut::<MAC_LEN>() else { return };
        *place = self.encrypt(self.nonce(header), header, body);
    }

    fn encrypt(&self, nonce: Nonce, header: &[u8], body: &mut [u8]) -> Tag {
        let sealed = self.key.seal_in_place_separate_tag(nonce, Aad::from(header), body);
        let mut tag = Tag::default();
        // No datagram is as long as what one nonce can seal, 64 GiB.
        tag.copy_from_slice(sealed.expect("a datagram is short enough").as_ref());
        tag
    }

    /// Opens a datagram in place; false, and what was encrypted is lost, where its tag is not right.
    pub(super) fn open(&self, datagram: &mut [u8]) -> bool {
        let Some((header, sealed)) = datagram.split_first_chunk_mut() else { return false };
        self.key.open_in_place(self.nonce(header), Aad::from(&*header), sealed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use aes::Aes128;
    use aes::cipher::{BlockCipherEncrypt, KeyInit};
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// Test case 4 of the specification of GCM (McGrew and Viega).
    #[test]
    fn it_is_the_gcm_of_the_standard() {
        let key: [u8; 16] = bytes("feffe9928665731c6d6a8f9467308308").try_into().unwrap();
        let nonce: [u8; 12] = bytes("cafebabefacedbaddecaf888").try_into().unwrap();
        let header = bytes("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let mut body = bytes(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
             1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
        );
        let sealed = bytes(
            "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e\
             21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
        );
        let tag = bytes("5bc94fbc3221a5db94fae95ae7121a47");
        let nonce = Nonce::assume_unique_for_key(nonce);
        assert_eq!(GcmKey::new(&key, [0; 4]).encrypt(nonce, &header, &mut body)[..], tag);
        assert_eq!(body, sealed);
    }

    /// Multiplication in GCM's field, as SP 800-38D, 6.3, has it, bit by bit.
    fn times(x: u128, y: u128) -> u128 {
        let (mut z, mut v) = (0, y);
        for bit in (0..128).rev() {
            z ^= if x >> bit & 1 == 1 { v } else { 0 };
            v = v >> 1 ^ if v & 1 == 1 { 0xe1 << 120 } else { 0 };
        }
        z
    }

    /// GCM by its definition, over the `aes` crate.
    fn oracle(key: &[u8; 16], nonce: &[u8], header: &[u8], body: &[u8]) -> Vec<u8> {
        let cipher = Aes128::new(key.into());
        let encrypt = |block: [u8; 16]| {
            let mut block = block.into();
            cipher.encrypt_block(&mut block);
            u128::from_be_bytes(block.into())
        };
        let counted = |n: u32| encrypt([nonce, &n.to_be_bytes()].concat().try_into().unwrap());
        let mut out = Vec::new();
        for (n, part) in body.chunks(16).enumerate() {
            let stream = counted(n as u32 + 2).to_be_bytes();
            out.extend(part.iter().zip(stream).map(|(plain, stream)| plain ^ stream));
        }
        let h = encrypt([0; 16]);
        let lengths = ((header.len() as u128 * 8) << 64) | (out.len() as u128 * 8);
        let blocks = header.chunks(16).chain(out.chunks(16)).map(|part| {
            let mut block = [0; 16];
            block[..part.len()].copy_from_slice(part);
            u128::from_be_bytes(block)
        });
        let hash = blocks.chain([lengths]).fold(0, |hash, block| times(hash ^ block, h));
        out.extend((hash ^ counted(1)).to_be_bytes());
        out
    }

    proptest! {
        /// The definition, over the crate's AES, is the oracle.
        #[test]
        fn a_datagram_is_what_the_definition_gives(
            key: [u8; 16],
            salt: [u8; 4],
            header: [u8; HEADER_LEN],
            body in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let gcm = GcmKey::new(&key, salt);
            let mut datagram = [&header[..], &body, &[0; MAC_LEN]].concat();
            gcm.seal(&mut datagram);
            let nonce = [&salt[..], &header[8..16]].concat();
            prop_assert_eq!(&datagram[..HEADER_LEN], &header);
            prop_assert_eq!(&datagram[HEADER_LEN..], &oracle(&key, &nonce, &header, &body));
            prop_assert!(gcm.open(&mut datagram));
            prop_assert_eq!(&datagram[HEADER_LEN..HEADER_LEN + body.len()], &body);
        }
    }
}
