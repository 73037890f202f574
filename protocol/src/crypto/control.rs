//! Sealing and opening control messages: header ‖ IV ‖ AES-128-CFB(body) ‖ MAC.

use aes::Aes128Enc;
use aes::cipher::{InnerIvInit, KeyInit};
use rand_core::Rng;
use zeroize::Zeroizing;

use super::{MacKey, Purpose, SharedKey};
use crate::wire::{HEADER_LEN, Header, MAC_LEN, Message, Reason, Refusal, Writer};

const IV_LEN: usize = 16;
/// The suite number that control messages carry: AES-128.
const CONTROL_SUITE: u8 = 1;

/// The keys of control messages in one direction. The cipher's is expanded for each message: that takes less time than a block of its MAC, and
/// a DC keeps the keys of very many nodes.
#[derive(Clone)]
pub struct ControlKeys {
    encrypt: Zeroizing<[u8; 16]>,
    mac: MacKey,
}

impl ControlKeys {
    /// The keys for messages under `shared` in the direction that `context` names.
    pub fn new(shared: &SharedKey, purpose: Purpose, context: &[&[u8]]) -> Self {
        let mut material = [0; 48];
        shared.derive(purpose, context, &mut material);
        let (mut encrypt, mut mac) = ([0; 16], [0; 32]);
        encrypt.copy_from_slice(&material[..16]);
        mac.copy_from_slice(&material[16..]);
        Self { encrypt: Zeroizing::new(encrypt), mac: MacKey::new(&mac) }
    }

    /// CFB encrypts the blocks that it decrypts with, too.
    fn cipher(&self) -> Aes128Enc {
        Aes128Enc::new((&*self.encrypt).into())
    }

    /// The datagram of `message`. Of `header`, kind, suite, length and the flag for encryption are filled in here.
    pub fn seal(&self, mut header: Header, message: &Message, rng: &mut impl Rng) -> Vec<u8> {
        let mut iv = [0; IV_LEN];
        rng.fill_bytes(&mut iv);
        let mut bytes = vec![0; HEADER_LEN];
        bytes.extend_from_slice(&iv);
        let mut writer = Writer::after(bytes);
        message.encode(&mut writer);
        let mut bytes = writer.finish();
        let body = &mut bytes[HEADER_LEN + IV_LEN..];
        header.kind = message.kind();
        header.suite = CONTROL_SUITE;
        header.flags.encrypted = true;
        header.length = u16::try_from(body.len()).expect("the bounds of all lists keep a body under 64 KiB");
        cfb_mode::Encryptor::inner_iv_init(self.cipher(), &iv.into()).encrypt(body);
        bytes[..HEADER_LEN].copy_from_slice(&header.emit());
        let tag = self.mac.tag(&bytes);
        bytes.extend_from_slice(&tag);
        bytes
    }

    /// The message in `datagram`, whose header is `header`. The sequence number is the caller's to judge.
    pub fn open(&self, header: &Header, datagram: &[u8]) -> Result<Message, Refusal> {
        if header.suite != CONTROL_SUITE {
            return Err(Refusal::new("suite", Reason::Unknown(header.suite.into())));
        }
        if !header.flags.encrypted {
            return Err(Refusal::new("flags", Reason::Unexpected));
        }
        let length = usize::from(header.length);
        if datagram.len() != HEADER_LEN + IV_LEN + length + MAC_LEN {
            return Err(Refusal::new("length", Reason::Length(length)));
        }
        let (sealed, tag) = datagram.split_at(datagram.len() - MAC_LEN);
        if !self.mac.verify(sealed, tag) {
            return Err(Refusal::new("mac", Reason::Mac));
        }
        let mut iv = [0; IV_LEN];
        iv.copy_from_slice(&sealed[HEADER_LEN..HEADER_LEN + IV_LEN]);
        let mut body = sealed[HEADER_LEN + IV_LEN..].to_vec();
        cfb_mode::Decryptor::inner_iv_init(self.cipher(), &iv.into()).decrypt(&mut body);
        Message::decode(header.kind, &body)
    }
}

#[cfg(test)]
mod tests {
    use aes::cipher::BlockCipherEncrypt;
    use rand_chacha::ChaCha12Rng;
    use rand_core::SeedableRng;

    use super::*;
    use crate::wire::{DirectionRequest, Flags, Kind, RequestId};

    fn keys(shared: u8) -> ControlKeys {
        ControlKeys::new(&SharedKey::new([shared; 32]), Purpose::Control, &[b"a to b"])
    }

    /// T6.4-a: AES-128 in CFB mode under the random IV that stands ahead of the body, told from the primitive applied by hand:
    /// C_i = P_i ⊕ AES(C_{i-1}), C_0 = IV. T3.1-e: nothing of the body can be read without the key, and another key opens nothing.
    #[test]
    fn control_messages_are_aes_128_cfb_under_the_key_of_their_two_ends() {
        let name = "a-rather-long-name-of-a-host.in.a.zone.ntm.test";
        let message: Message = direction_request(name).into();
        let header = Header {
            kind: Kind::DirectionRequest,
            flags: Flags::default(),
            suite: 0,
            epoch: 0,
            length: 0,
            sequence: 9,
            id: [3; 16],
        };
        let mut rng = ChaCha12Rng::from_seed([1; 32]);
        let keys_of_both = keys(5);
        let datagram = keys_of_both.seal(header, &message, &mut rng);
        let again = keys_of_both.seal(header, &message, &mut rng);
        let header = Header::parse(&datagram).unwrap();
        assert_ne!(datagram[HEADER_LEN..], again[HEADER_LEN..], "the IV is random");

        let mut writer = Writer::after(Vec::new());
        message.encode(&mut writer);
        let body = writer.finish();
        assert!(body.windows(4).any(|part| part == b"zone") && body.len() > 48);
        assert!(!datagram.windows(4).any(|part| part == b"zone"), "the name can be read");
        let sealed = &datagram[HEADER_LEN..datagram.len() - MAC_LEN];
        for (at, plain) in body.chunks(16).enumerate() {
            let mut block = aes::Block::default();
            block.copy_from_slice(&sealed[at * 16..][..16]);
            keys_of_both.cipher().encrypt_block(&mut block);
            let expected: Vec<u8> = plain.iter().zip(&block).map(|(plain, key)| plain ^ key).collect();
            assert_eq!(sealed[IV_LEN + at * 16..][..plain.len()], expected);
        }

        assert_eq!(keys_of_both.open(&header, &datagram), Ok(message));
        assert_eq!(keys(6).open(&header, &datagram).unwrap_err().field, "mac");
    }

    fn direction_request(name: &str) -> DirectionRequest {
        DirectionRequest { request: RequestId(1), fqdn: name.parse().unwrap(), renewal: None, avoid: None }
    }
}
