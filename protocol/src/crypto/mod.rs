//! Keys and ciphers.
//!
//! Every key of the wire comes by HKDF-SHA-256 from a [`SharedKey`], one for each purpose and direction, so that no key ever serves two
//! ends. Control messages are AES-128-CFB, data packets the path's [`Suite`] (T6.4-a); both carry an HMAC-SHA-256 cut to 16
//! bytes over header and ciphertext, checked in constant time before anything is decrypted.

mod control;
mod keys;
mod packet;
mod replay;

pub use control::ControlKeys;
pub use keys::{Purpose, SharedKey};
pub use packet::{DataKeys, Suite, sealed_len};
pub use replay::ReplayWindow;

use aes::cipher::KeyInit;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::wire::MAC_LEN;

/// A keyed MAC, prepared once and cloned per message.
#[derive(Clone)]
struct MacKey(Hmac<Sha256>);

impl MacKey {
    fn new(key: &[u8; 32]) -> Self {
        Self(<Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length"))
    }

    fn tag(&self, bytes: &[u8]) -> [u8; MAC_LEN] {
        let mut mac = self.0.clone();
        mac.update(bytes);
        let full = mac.finalize().into_bytes();
        let mut tag = [0; MAC_LEN];
        tag.copy_from_slice(&full[..MAC_LEN]);
        tag
    }

    fn verify(&self, bytes: &[u8], tag: &[u8]) -> bool {
        self.tag(bytes).ct_eq(tag).into()
    }
}
