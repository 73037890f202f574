//! Sealing and opening control messages: header ‖ IV ‖ AES-128-CFB(body) ‖ MAC.

use aes::Aes128;
use aes::cipher::{InnerIvInit, KeyInit};
use rand_core::Rng;

use super::{MacKey, Purpose, SharedKey};
use crate::wire::{HEADER_LEN, Header, MAC_LEN, Message, Reason, Refusal, Writer};

const IV_LEN: usize = 16;
/// The suite number that control messages carry: AES-128.
const CONTROL_SUITE: u8 = 1;

/// The keys of control messages in one direction.
#[derive(Clone)]
pub struct ControlKeys {
    cipher: Aes128,
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
        Self { cipher: Aes128::new(&encrypt.into()), mac: MacKey::new(&mac) }
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
        cfb_mode::Encryptor::inner_iv_init(&self.cipher, &iv.into()).encrypt(body);
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
        cfb_mode::Decryptor::inner_iv_init(&self.cipher, &iv.into()).decrypt(&mut body);
        Message::decode(header.kind, &body)
    }
}
