//! Shared keys and what is derived from them.

use std::fmt;

use hkdf::Hkdf;
use rand_core::Rng;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 bytes that two (or, from the DC, three) nodes share. Wiped when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SharedKey([u8; 32]);

impl SharedKey {
    /// A key from its bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A fresh key.
    pub fn random(rng: &mut impl Rng) -> Self {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Fills `out` with key material for `purpose`, bound to `context`.
    pub(crate) fn derive(&self, purpose: Purpose, context: &[&[u8]], out: &mut [u8]) {
        let hkdf = Hkdf::<Sha256>::new(Some(b"NTMobile 1"), &self.0);
        let mut info = vec![purpose as u8];
        for part in context {
            // Lengths ahead of the parts: two contexts never run into one.
            info.push(part.len() as u8);
            info.extend_from_slice(part);
        }
        hkdf.expand(&info, out).expect("far below HKDF's bound of 255 hashes");
    }

    /// A key of its own for `purpose` and `context`.
    pub fn subkey(&self, purpose: Purpose, context: &[&[u8]]) -> SharedKey {
        let mut bytes = [0; 32];
        self.derive(purpose, context, &mut bytes);
        SharedKey(bytes)
    }
}

impl PartialEq for SharedKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for SharedKey {}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedKey(…)")
    }
}

/// What a derived key is for; no two purposes share a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Purpose {
    /// Control messages between two nodes that share a key beforehand.
    Control = 1,
    /// Tunnel messages, under a temporary or a path key.
    Tunnel = 2,
    /// Path Keep-alives with a relay, under the common key.
    Leg = 3,
    /// Data packets.
    Data = 4,
    /// The key by which a terminal measures its RTT to a relay, from that of DC and relay.
    Measure = 5,
}
