//! Keys and ciphers.
//!
//! Every key of the wire comes by HKDF-SHA-256 from a [`SharedKey`], one for each purpose and direction, so that no key ever serves two
//! ends. Control messages are AES-128-CFB, data packets the path's [`Suite`] (T6.4-a); both carry an HMAC-SHA-256 cut to 16
//! bytes over header and ciphertext, checked in constant time before anything is decrypted.

mod chains;
mod control;
mod keys;
mod mac;
mod packet;
mod replay;
mod sha256;

pub use control::ControlKeys;
pub use keys::{Purpose, SharedKey};
pub use packet::{DataKeys, SEALED_AT_ONCE, Sealed, Suite, sealed_len};
pub use replay::ReplayWindow;

use mac::MacKey;
