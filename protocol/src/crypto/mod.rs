//! Keys and ciphers.
//!
//! Every key of the wire comes by HKDF-SHA-256 from a [`SharedKey`], one for each purpose and direction, so that no key ever serves two
//! ends. Control messages are AES-128-CFB, data packets the path's [`Suite`] (T6.4-a); both carry an HMAC-SHA-256 cut to 16
//! bytes over header and ciphertext, checked in constant time before anything is decrypted. AES-128-GCM has a tag of its own in its place.

mod chains;
mod control;
mod entropy;
mod gcm;
mod keys;
mod mac;
mod packet;
mod replay;
mod sha256;
mod suite;

pub use control::ControlKeys;
pub use entropy::Entropy;
pub use keys::{Purpose, SharedKey};
pub use packet::{DataKeys, OPENED_AT_ONCE, inner_at, open_all};
pub use replay::{ReplayWindow, Window};
pub use suite::{Suite, sealed_len};

use mac::MacKey;
