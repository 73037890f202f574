//! Sealing and opening data packets, in place: header ‖ inner packet (encrypted, zero padded) ‖ MAC, or the tag of a suite that has its own.
//!
//! The IV of AES-128-CBC is AES, under a second key, of the header's first 16 bytes, which hold the sequence number and so never
//! repeat: unpredictable and unique without room of its own. 1424 = 89 × 16, so a full packet still fits a real MTU of 1500 (T6.3-a).

use std::ops::Range;

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt, KeyInit};

use super::chains::{CHAINS, Chains};
use super::gcm::GcmKey;
use super::mac::{self, MacKey, TAGS_AT_ONCE, Tag};
use super::{Purpose, SharedKey, Suite, sealed_len};
use crate::addr::PathId;
use crate::wire::{Flags, HEADER_LEN, Header, Kind, MAC_LEN, Reason, Refusal, Role};

pub(super) const BLOCK: usize = 16;

/// Packets that are sealed, or judged, at once.
const AT_ONCE: usize = if CHAINS < TAGS_AT_ONCE { CHAINS } else { TAGS_AT_ONCE };

/// The keys of a path's data packets in one direction, of one epoch.
#[derive(Clone)]
pub struct DataKeys {
    path: PathId,
    epoch: u8,
    suite: Suite,
    from: Role,
    cipher: Cipher,
}

/// What a suite does to a packet, with its keys.
#[derive(Clone)]
enum Cipher {
    Mac(MacKey),
    CbcMac(Box<Cbc>, MacKey),
    Gcm(Box<GcmKey>),
}

/// The keys of AES-128-CBC: that of the packets' chains, and that of their initialization vectors.
#[derive(Clone)]
struct Cbc {
    chains: Chains,
    iv: Aes128,
}

impl Cipher {
    /// The key of the MAC, if that is judged apart from decryption: many MACs at once cost much less than each alone.
    fn mac(&self) -> Option<&MacKey> {
        match self {
            Self::Mac(mac) | Self::CbcMac(_, mac) => Some(mac),
            Self::Gcm(_) => None,
        }
    }
}

impl DataKeys {
    /// The keys for packets that `from` sends on `path`, under the ends' `shared` key of `epoch`.
    pub fn new(shared: &SharedKey, path: PathId, epoch: u8, suite: Suite, from: Role) -> Self {
        let mut material = [0; 64];
        shared.derive(Purpose::Data, &[&path.0, &[epoch, suite as u8, from.index() as u8]], &mut material);
        let (mut encrypt, mut iv, mut mac) = ([0; 16], [0; 16], [0; 32]);
        encrypt.copy_from_slice(&material[..16]);
        iv.copy_from_slice(&material[16..32]);
        mac.copy_from_slice(&material[32..]);
        let cipher = match suite {
            Suite::None => Cipher::Mac(MacKey::new(&mac)),
            Suite::Aes128Cbc => {
                let cbc = Cbc { chains: Chains::new(&encrypt), iv: Aes128::new(&iv.into()) };
                Cipher::CbcMac(Box::new(cbc), MacKey::new(&mac))
            }
            Suite::Aes128Gcm => Cipher::Gcm(Box::new(GcmKey::new(&encrypt, [iv[0], iv[1], iv[2], iv[3]]))),
        };
        Self { path, epoch, suite, from, cipher }
    }

    /// The path.
    pub fn path(&self) -> PathId {
        self.path
    }

    /// The key epoch.
    pub fn epoch(&self) -> u8 {
        self.epoch
    }

    /// The suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Lays the header around the inner packet of `len` bytes that stands in `buffer` from [`HEADER_LEN`] on, ready for
    /// [`seal_all`](Self::seal_all); returns the datagram's length. `None` where `buffer` is too short for [`sealed_len`] or `len` does not
    /// fit the header.
    pub fn place(&self, sequence: u64, len: usize, buffer: &mut [u8]) -> Option<usize> {
        let end = HEADER_LEN + self.suite.padded(len);
        let datagram = buffer.get_mut(..end + MAC_LEN)?;
        let header = Header {
            kind: Kind::Data,
            flags: Flags {
                encrypted: self.suite != Suite::None,
                responder: self.from == Role::Responder,
                leg: false,
            },
            suite: self.suite as u8,
            epoch: self.epoch,
            length: u16::try_from(len).ok()?,
            sequence,
            id: self.path.0,
        };
        datagram[..HEADER_LEN].copy_from_slice(&header.emit());
        datagram[HEADER_LEN + len..end].fill(0);
        Some(end + MAC_LEN)
    }

    /// Seals the datagrams that were placed under these keys and stand at `places` of `buffer`: many cost much less than each alone.
    pub fn seal_all(&self, buffer: &mut [u8], places: &[Range<usize>]) {
        let batches = places.chunks(AT_ONCE);
        match &self.cipher {
            Cipher::Mac(mac) => batches.for_each(|places| add_macs(mac, buffer, places)),
            Cipher::CbcMac(cbc, mac) => batches.for_each(|places| {
                cbc.encrypt(buffer, places);
                add_macs(mac, buffer, places);
            }),
            Cipher::Gcm(gcm) => places.iter().for_each(|place| gcm.seal(&mut buffer[place.clone()])),
        }
    }

    /// Whether `datagram`, whose header is `header`, may be one of these keys'. Its MAC is yet to be judged.
    pub fn check(&self, header: &Header, datagram: &[u8]) -> Result<(), Refusal> {
        let len = usize::from(header.length);
        if header.suite != self.suite as u8 {
            return Err(Refusal::new("suite", Reason::Unknown(header.suite.into())));
        }
        if header.flags.encrypted != (self.suite != Suite::None)
            || header.flags.leg
            || header.flags.responder != (self.from == Role::Responder)
        {
            return Err(Refusal::new("flags", Reason::Unexpected));
        }
        if datagram.len() != sealed_len(self.suite, len) {
            return Err(Refusal::new("length", Reason::Length(len)));
        }
        Ok(())
    }

    /// Opens `datagram`, which passed [`check`](Self::check), in place: its inner packet then stands at [`inner_at`]. False where its MAC or tag
    /// is not right. The sequence number is the caller's to judge, before and after.
    pub fn open(&self, datagram: &mut [u8]) -> bool {
        let mac = self.cipher.mac().map(|mac| mac.tag(message(datagram)));
        self.open_by(mac, datagram)
    }

    /// Opens `datagram`; `mac` is the one that it must have, for suites that have one: it is judged before anything is decrypted.
    fn open_by(&self, mac: Option<Tag>, datagram: &mut [u8]) -> bool {
        if mac.is_some_and(|mac| !mac::equal(&mac, &datagram[datagram.len() - MAC_LEN..])) {
            return false;
        }
        match &self.cipher {
            Cipher::Mac(_) => {}
            Cipher::CbcMac(cbc, _) => cbc.decrypt(datagram),
            Cipher::Gcm(gcm) => return gcm.open(datagram),
        }
        true
    }
}

impl Cbc {
    fn encrypt(&self, buffer: &mut [u8], places: &[Range<usize>]) {
        let mut ivs = [aes::Block::default(); CHAINS];
        let mut bodies = [const { 0..0 }; CHAINS];
        for ((iv, body), place) in ivs.iter_mut().zip(&mut bodies).zip(places) {
            iv.copy_from_slice(&buffer[place.start..place.start + BLOCK]);
            *body = place.start + HEADER_LEN..place.end - MAC_LEN;
        }
        let ivs = &mut ivs[..places.len()];
        self.iv.encrypt_blocks(ivs);
        self.chains.encrypt(ivs, buffer, &bodies[..places.len()]);
    }

    fn decrypt(&self, datagram: &mut [u8]) {
        let mut iv = aes::Block::default();
        iv.copy_from_slice(&datagram[..BLOCK]);
        self.iv.encrypt_block(&mut iv);
        let end = datagram.len() - MAC_LEN;
        let (blocks, _) = aes::Block::slice_as_chunks_mut(&mut datagram[HEADER_LEN..end]);
        self.chains.decrypt(&iv, blocks);
    }
}

/// Adds the MACs of at most [`AT_ONCE`] datagrams.
fn add_macs(mac: &MacKey, buffer: &mut [u8], places: &[Range<usize>]) {
    let mut messages = [None; TAGS_AT_ONCE];
    for (to, place) in messages.iter_mut().zip(places) {
        *to = Some((mac, message(&buffer[place.clone()])));
    }
    let tags = MacKey::tags(&messages);
    for (place, tag) in places.iter().zip(tags) {
        buffer[place.end - MAC_LEN..place.end].copy_from_slice(&tag);
    }
}

/// What a datagram's MAC covers.
fn message(datagram: &[u8]) -> &[u8] {
    &datagram[..datagram.len() - MAC_LEN]
}

/// Where the inner packet of an opened datagram stands in it.
pub fn inner_at(header: &Header) -> Range<usize> {
    HEADER_LEN..HEADER_LEN + usize::from(header.length)
}

/// How many datagrams [`open_all`] takes.
pub const OPENED_AT_ONCE: usize = TAGS_AT_ONCE;

/// Opens the datagrams that stand at places of `buffer`, each as [`DataKeys::open`] would under its keys: which of them were opened. At most
/// [`OPENED_AT_ONCE`]; many take much less time than each alone.
pub fn open_all<'a>(
    buffer: &mut [u8],
    datagrams: impl Iterator<Item = (&'a DataKeys, Range<usize>)> + Clone,
) -> [bool; OPENED_AT_ONCE] {
    let mut messages = [None; OPENED_AT_ONCE];
    let with_macs = datagrams.clone().filter_map(|(keys, place)| Some((keys.cipher.mac()?, place)));
    for (to, (mac, place)) in messages.iter_mut().zip(with_macs) {
        *to = Some((mac, message(&buffer[place])));
    }
    let mut macs = MacKey::tags(&messages).into_iter();
    let mut opened = [false; OPENED_AT_ONCE];
    for (opened, (keys, place)) in opened.iter_mut().zip(datagrams) {
        let mac = keys.cipher.mac().and_then(|_| macs.next());
        *opened = keys.open_by(mac, &mut buffer[place]);
    }
    opened
}

#[cfg(test)]
mod tests {
    use aes::cipher::{BlockModeEncrypt, InnerIvInit};
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    impl DataKeys {
        fn seal(&self, sequence: u64, len: usize, buffer: &mut [u8]) -> Option<usize> {
            let length = self.place(sequence, len, buffer)?;
            self.seal_all(buffer, std::slice::from_ref(&(0..length)));
            Some(length)
        }

        fn open_alone(&self, header: &Header, datagram: &mut [u8]) -> Result<Range<usize>, Refusal> {
            self.check(header, datagram)?;
            match self.open(datagram) {
                true => Ok(inner_at(header)),
                false => Err(Refusal::new("mac", Reason::Mac)),
            }
        }

        fn cbc(&self) -> &Cbc {
            match &self.cipher {
                Cipher::CbcMac(cbc, _) => cbc,
                Cipher::Mac(_) | Cipher::Gcm(_) => panic!("the suite is another"),
            }
        }
    }

    fn keys(suite: Suite, from: Role) -> DataKeys {
        DataKeys::new(&SharedKey::new([9; 32]), PathId([5; 16]), 3, suite, from)
    }

    fn sealed(keys: &DataKeys, sequence: u64, inner: &[u8]) -> Vec<u8> {
        let mut buffer = vec![0xaa; sealed_len(keys.suite(), inner.len())];
        buffer[HEADER_LEN..HEADER_LEN + inner.len()].copy_from_slice(inner);
        let n = keys.seal(sequence, inner.len(), &mut buffer).unwrap();
        assert_eq!(n, buffer.len());
        buffer
    }

    #[test]
    fn a_full_packet_fits_the_real_mtu() {
        // T6.3-a: IP 20 + UDP 8 + NTM header 32 + MAC 16 = 76 bytes.
        for suite in Suite::ALL {
            assert_eq!(20 + 8 + sealed_len(suite, 1424), 1500);
        }
    }

    /// The AES-128 cipher in CBC mode of NIST SP 800-38A, F.2.1, and the IV that the header gives: the ciphertext of a data packet is that of
    /// the primitive applied by hand (T6.4-a).
    #[test]
    fn data_packets_are_aes_128_cbc_under_an_iv_from_the_header() {
        let bytes = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        let block = |text: &str| {
            let mut block = aes::Block::default();
            block.copy_from_slice(&bytes(text));
            block
        };
        // The vector of the standard.
        let key = block("2b7e151628aed2a6abf7158809cf4f3c");
        let plain = ["6bc1bee22e409f96e93d7e117393172a", "ae2d8a571e03ac9c9eb76fac45af8e51"];
        let sealed_blocks = ["7649abac8119b246cee98e9b12e9197d", "5086cb9b507219ee95db113a917678b2"];
        let mut blocks = plain.map(block);
        cbc::Encryptor::inner_iv_init(&Aes128::new(&key), &block("000102030405060708090a0b0c0d0e0f"))
            .encrypt_blocks(&mut blocks);
        assert_eq!(blocks, sealed_blocks.map(block));

        // The same primitive, block by block: C_i = AES(P_i ⊕ C_{i-1}), C_0 = AES'(the header's first half).
        let keys = keys(Suite::Aes128Cbc, Role::Initiator);
        let inner: Vec<u8> = (0..40).collect();
        let packet = sealed(&keys, 7, &inner);
        let mut before = aes::Block::default();
        before.copy_from_slice(&packet[..BLOCK]);
        keys.cbc().iv.encrypt_block(&mut before);
        let mut padded = inner;
        padded.resize(48, 0);
        for (plain, sealed) in padded.chunks(BLOCK).zip(packet[HEADER_LEN..].chunks(BLOCK)) {
            let mut block = before;
            block.iter_mut().zip(plain).for_each(|(byte, plain)| *byte ^= plain);
            keys.cbc().chains.cipher().encrypt_block(&mut block);
            assert_eq!(&block[..], sealed);
            before = block;
        }
    }

    /// Hardware AES is used where there is any (T6.4-a): in software a single stream of CBC runs at well under 100 MB/s.
    #[cfg(target_arch = "x86_64")]
    #[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "speed is measured by a clock")]
    #[test]
    fn hardware_aes_is_used() {
        if !std::arch::is_x86_feature_detected!("aes") {
            return;
        }
        let cipher = Aes128::new(&[7; 16].into());
        let mut blocks = vec![aes::Block::default(); 1 << 16];
        let mut cbc = cbc::Encryptor::inner_iv_init(&cipher, &aes::Block::default());
        let mut best = || {
            let start = std::time::Instant::now();
            cbc.encrypt_blocks(&mut blocks);
            start.elapsed()
        };
        // The best of many: other programs only make it slower.
        let took = (0..20).map(|_| best()).min().unwrap();
        let rate = (1 << 20) as f64 / took.as_secs_f64() / 1e6;
        assert!(rate > 150.0, "AES-128-CBC at {rate:.0} MB/s");
    }

    #[test]
    fn equal_packets_look_different() {
        let keys = keys(Suite::Aes128Cbc, Role::Initiator);
        let (a, b) = (sealed(&keys, 1, &[1; 64]), sealed(&keys, 2, &[1; 64]));
        assert_ne!(a[HEADER_LEN..HEADER_LEN + 64], b[HEADER_LEN..HEADER_LEN + 64]);
        assert_ne!(a[HEADER_LEN..HEADER_LEN + 64], [1; 64], "it is encrypted");
    }

    #[test]
    fn the_other_direction_and_epoch_have_other_keys() {
        let ours = keys(Suite::Aes128Cbc, Role::Initiator);
        let mut packet = sealed(&ours, 1, b"hello");
        let header = Header::parse(&packet).unwrap();
        let theirs = keys(Suite::Aes128Cbc, Role::Responder);
        assert_eq!(theirs.open_alone(&header, &mut packet).unwrap_err().field, "flags");
        let later =
            DataKeys::new(&SharedKey::new([9; 32]), PathId([5; 16]), 4, Suite::Aes128Cbc, Role::Initiator);
        assert_eq!(later.open_alone(&header, &mut packet).unwrap_err().field, "mac");
    }

    #[test]
    fn a_short_buffer_is_no_panic() {
        assert_eq!(keys(Suite::Aes128Cbc, Role::Initiator).seal(1, 100, &mut [0; 100]), None);
    }

    #[test]
    fn any_changed_bit_is_refused() {
        for suite in Suite::ALL {
            let keys = keys(suite, Role::Initiator);
            let packet = sealed(&keys, 77, &[3; 48]);
            for bit in 0..packet.len() * 8 {
                let mut packet = packet.clone();
                packet[bit / 8] ^= 1 << (bit % 8);
                if let Ok(header) = Header::parse(&packet) {
                    assert!(keys.open_alone(&header, &mut packet.clone()).is_err(), "{suite:?}, bit {bit}");
                }
                // The header is covered too, by itself.
                assert!(!keys.open(&mut packet), "{suite:?}, bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn round_trips(inner in proptest::collection::vec(any::<u8>(), 0..1500), sequence: u64, suite in select(&Suite::ALL)) {
            let keys = keys(suite, Role::Responder);
            let mut packet = sealed(&keys, sequence, &inner);
            let header = Header::parse(&packet).unwrap();
            prop_assert_eq!(header.sequence, sequence);
            let at = keys.open_alone(&header, &mut packet).unwrap();
            prop_assert_eq!(&packet[at], &inner[..]);
        }

        /// A batch is what its packets are one by one, whatever stands between them.
        #[test]
        fn many_at_once_are_what_each_is_alone(
            lengths in prop::collection::vec(prop_oneof![0usize..100, Just(1424)], 0..40),
            suite in select(&Suite::ALL),
            gap in 0usize..20,
        ) {
            let keys = keys(suite, Role::Initiator);
            let (mut buffer, mut places, mut expected) = (Vec::new(), Vec::new(), Vec::new());
            for (n, len) in lengths.into_iter().enumerate() {
                let inner: Vec<u8> = (0..len).map(|at| (at * 7 + n) as u8).collect();
                expected.push(sealed(&keys, n as u64, &inner));
                let start = buffer.len() + gap;
                buffer.resize(start + sealed_len(keys.suite(), len), 0xee);
                buffer[start + HEADER_LEN..start + HEADER_LEN + len].copy_from_slice(&inner);
                let length = keys.place(n as u64, len, &mut buffer[start..]).unwrap();
                places.push(start..start + length);
            }
            keys.seal_all(&mut buffer, &places);
            for (place, expected) in places.iter().zip(&expected) {
                prop_assert_eq!(&buffer[place.clone()], &expected[..]);
            }
            for places in places.chunks(OPENED_AT_ONCE) {
                let opened = open_all(&mut buffer, places.iter().map(|place| (&keys, place.clone())));
                prop_assert!(opened[..places.len()].iter().all(|opened| *opened));
            }
            for (place, sealed) in places.iter().zip(&mut expected) {
                prop_assert!(keys.open(sealed));
                prop_assert_eq!(&message(&buffer[place.clone()]), &message(sealed));
            }
        }

        /// Which of a batch were changed is seen, whatever the suites beside them.
        #[test]
        fn only_what_was_changed_is_refused(
            packets in prop::collection::vec((select(&Suite::ALL), 0usize..100, any::<bool>()), 0..=OPENED_AT_ONCE),
        ) {
            let (mut buffer, mut all) = (Vec::new(), Vec::new());
            for (n, (suite, len, changed)) in packets.iter().enumerate() {
                let keys = keys(*suite, Role::Initiator);
                let mut packet = sealed(&keys, n as u64, &vec![n as u8; *len]);
                let last = packet.len() - 1;
                packet[last] ^= u8::from(*changed);
                all.push((keys, buffer.len()..buffer.len() + packet.len()));
                buffer.extend(packet);
            }
            let opened = open_all(&mut buffer, all.iter().map(|(keys, place)| (keys, place.clone())));
            for ((opened, (_, place)), (n, (_, len, changed))) in opened.iter().zip(&all).zip(packets.iter().enumerate()) {
                prop_assert_eq!(*opened, !changed);
                let inner = &buffer[place.start + HEADER_LEN..][..*len];
                prop_assert!(*changed || inner.iter().all(|byte| *byte == n as u8));
            }
        }

    }
}
