//! The key file: the keys a node shares beforehand with the nodes it speaks to (T3.1-e).
//!
//! ```toml
//! [[key]]
//! peer = "rs1.dc.ntm.test"
//! kind = "relay"            # terminal, relay or coordinator
//! key  = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
//! ```
//!
//! Neither group nor others may read it. No error and no `Debug` output shows a key or a line of the file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::slice;

use ntm_protocol::addr::{Fqdn, decode_hex};
use ntm_protocol::crypto::SharedKey;
use ntm_protocol::wire::NodeKind;
use serde::Deserialize;
use thiserror::Error;
use toml::{Spanned, Value};
use zeroize::Zeroizing;

use crate::config::{self, Place};

/// One entry of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerKey {
    /// The peer's name.
    pub peer: Fqdn,
    /// What it is.
    pub kind: NodeKind,
    /// The key shared with it.
    pub key: SharedKey,
}

/// A key file that was read; each peer stands in it once.
#[derive(Clone, Debug, Default)]
pub struct KeyFile {
    entries: Vec<PeerKey>,
    /// Where each peer's entry stands.
    index: HashMap<Fqdn, usize>,
}

/// Why a key file cannot be used.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("{}: the key file cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may read or write it.
    #[error("{0}: others than its owner have rights on the key file (mode {mode:04o}): run chmod 600 {0}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The text is no TOML, or not the TOML that is expected.
    #[error("{}:{place}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// Where in it, and what is wrong.
        place: Place,
    },
    /// A key is not 64 hexadecimal digits.
    #[error("{}:{line}: the key of '{peer}' must be a string of 64 hexadecimal digits", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Whose key it is.
        peer: Fqdn,
    },
    /// A peer stands twice in the file.
    #[error("{}:{line}: '{peer}' has a key already: leave one entry for each peer", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// The line of the second entry's name, from 1.
        line: usize,
        /// The peer.
        peer: Fqdn,
    },
}

impl KeyFile {
    /// Reads the file `path`.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let read_error = |source| KeyFileError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(read_error)?;
        // The mode of what was opened, not of what the name means a moment later.
        let metadata = file.metadata().map_err(read_error)?;
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::Open { path: path.to_owned(), mode });
        }
        // Room at once: growing would leave copies that nobody wipes.
        let size = usize::try_from(metadata.len()).unwrap_or(0);
        let mut text = Zeroizing::new(String::with_capacity(size + 1));
        file.read_to_string(&mut text).map_err(read_error)?;
        Self::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Self, KeyFileError> {
        let document: Document = config::parse(text)
            .map_err(|place| KeyFileError::Text { path: path.to_owned(), place: place.without_excerpt() })?;
        let line = |at: usize| text.as_bytes().iter().take(at).filter(|&&byte| byte == b'\n').count() + 1;
        let mut file = Self::default();
        for Entry { peer, kind, key } in document.key {
            let (peer_at, key_at) = (peer.span().start, key.span().start);
            let peer = peer.into_inner();
            if file.index.insert(peer.clone(), file.entries.len()).is_some() {
                return Err(KeyFileError::Twice { path: path.to_owned(), line: line(peer_at), peer });
            }
            let Some(key) = shared_key(key.into_inner()) else {
                return Err(KeyFileError::Key { path: path.to_owned(), line: line(key_at), peer });
            };
            file.entries.push(PeerKey { peer, kind, key });
        }
        Ok(file)
    }

    /// The entry of `peer`.
    pub fn get(&self, peer: &Fqdn) -> Option<&PeerKey> {
        self.index.get(peer).map(|&at| &self.entries[at])
    }

    /// All entries, in the file's order.
    pub fn iter(&self) -> slice::Iter<'_, PeerKey> {
        self.entries.iter()
    }

    /// The entries of one kind of peer, in the file's order.
    pub fn of_kind(&self, kind: NodeKind) -> impl Iterator<Item = &PeerKey> {
        self.entries.iter().filter(move |entry| entry.kind == kind)
    }
}

impl<'a> IntoIterator for &'a KeyFile {
    type Item = &'a PeerKey;
    type IntoIter = slice::Iter<'a, PeerKey>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    key: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    peer: Spanned<Fqdn>,
    kind: NodeKind,
    /// Any value: the deserialiser's own complaint about a wrong type would show it.
    key: Spanned<Value>,
}

fn shared_key(value: Value) -> Option<SharedKey> {
    let Value::String(text) = value else { return None };
    decode_hex(&Zeroizing::new(text)).ok().map(SharedKey::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const DIGITS: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F";

    fn entry(peer: &str, kind: &str, key: &str) -> String {
        format!("[[key]]\npeer = {peer:?}\nkind = {kind:?}\nkey = {key}\n")
    }

    fn error(text: &str) -> String {
        KeyFile::parse(text, Path::new("keys.toml")).unwrap_err().to_string()
    }

    #[test]
    fn a_right_file() {
        let quoted = format!("{DIGITS:?}");
        let text = entry("RS1.ntm.test.", "relay", &quoted) + &entry("dc.ntm.test", "coordinator", &quoted);
        let keys = KeyFile::parse(&text, Path::new("keys.toml")).expect("a key file");
        let name = Fqdn::new("rs1.ntm.test").expect("a name");
        let relay = keys.get(&name).expect("the relay's key");
        assert_eq!(relay.key, SharedKey::new(std::array::from_fn(|i| i as u8)));
        assert_eq!(keys.iter().count(), 2);
        assert_eq!(keys.of_kind(NodeKind::Relay).map(|entry| &entry.peer).collect::<Vec<_>>(), [&name]);
        assert_eq!(keys.of_kind(NodeKind::Terminal).count(), 0);
        assert!(KeyFile::parse("", Path::new("keys.toml")).expect("an empty file").iter().next().is_none());
    }

    #[test]
    fn nothing_shows_a_key() {
        let secret = "beef".repeat(16);
        let shown = [
            format!("{:?}", KeyFile::parse(&entry("a", "relay", &format!("{secret:?}")), Path::new("k"))),
            error(&entry("a", "relay", &format!("'{}'", &secret[1..]))),
            error(&entry("a", "relay", &secret)),
            error(&entry("a", "relay", &format!("'{secret}"))),
            error(&entry("a", "relay", "0xbeefbeefbeef")),
            error(&entry("a", "nat", &format!("{secret:?}"))),
            error(&format!("[[key]]\n{secret} = 1")).replace(&format!("unknown field `{secret}`"), ""),
        ];
        for text in shown {
            assert!(!text.contains("beef") && !text.contains("209914793115375"), "{text}");
        }
    }

    #[test]
    fn errors_name_the_line() {
        let quoted = format!("{DIGITS:?}");
        insta::assert_snapshot!(error(&entry("a.test", "relay", "'0011'")), @"keys.toml:4: the key of 'a.test' must be a string of 64 hexadecimal digits");
        insta::assert_snapshot!(error(&(entry("a.test", "relay", &quoted) + &entry("A.test.", "terminal", &quoted))), @"keys.toml:6: 'a.test' has a key already: leave one entry for each peer");
        insta::assert_snapshot!(error(&entry("a.test", "nat", &quoted)), @"keys.toml:3:8: unknown variant `nat`, expected one of `terminal`, `relay`, `coordinator`");
        insta::assert_snapshot!(error(&entry("a..test", "relay", &quoted)), @"keys.toml:2:8: the label '' of a name must have 1 to 63 characters");
        insta::assert_snapshot!(error("[[key]]\npeer = 'a'\nkind = 'relay'\n"), @"keys.toml:1:1: missing field `key`");
        insta::assert_snapshot!(error("[[keys]]\n"), @"keys.toml:1:3: unknown field `keys`, expected `key`");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys.toml");
        fs::write(&path, "").expect("the file is written");
        for mode in [0o644, 0o640, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            let error = KeyFile::load(&path).unwrap_err();
            assert!(matches!(error, KeyFileError::Open { mode: found, .. } if found == mode), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        assert!(KeyFile::load(&path).is_ok());
        let open = KeyFileError::Open { path: "keys.toml".into(), mode: 0o644 };
        insta::assert_snapshot!(open, @"keys.toml: others than its owner have rights on the key file (mode 0644): run chmod 600 keys.toml");
        insta::assert_snapshot!(KeyFile::load(Path::new("/nonexistent/k")).unwrap_err(), @"/nonexistent/k: the key file cannot be read: No such file or directory (os error 2)");
    }
}
