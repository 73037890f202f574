//! The daemon's configuration:
//!
//! ```toml
//! name    = "root"                  # the node's name in trace and logs
//! listen  = ["203.0.113.2:53"]      # UDP and TCP
//! control = "root.sock"             # optional
//! trace   = "root.jsonl"            # optional; one line per answer
//!
//! [[zone]]
//! origin = "."
//! file   = "root.zone"              # relative paths start from this file's folder
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use hickory_proto::rr::Name;
use ntm_daemon::config::{self, ConfigError, beside};
use ntm_daemon::program::Failure;
use serde::Deserialize;

use crate::answer::Zones;
use crate::zone::Zone;

/// What the configuration file says, its zone files read.
#[derive(Debug)]
pub struct Config {
    /// The node's name in trace and logs.
    pub name: String,
    /// Addresses to serve on, by UDP and TCP; at least one.
    pub listen: Vec<SocketAddr>,
    /// The zones; at least one.
    pub zones: Zones,
    /// Where the control socket is.
    pub control: Option<PathBuf>,
    /// Where the trace goes.
    pub trace: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    listen: Vec<SocketAddr>,
    zone: Vec<ZoneFile>,
    control: Option<PathBuf>,
    trace: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ZoneFile {
    origin: String,
    file: PathBuf,
}

impl Config {
    /// Reads the configuration `path` and the zone files that it names. An error says the file and, where there is one, the line.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let file: File = config::load(path)?;
        if file.listen.is_empty() {
            return Err(ConfigError::value(path, "listen", "give at least one address to serve on").into());
        }
        if file.zone.is_empty() {
            return Err(ConfigError::value(path, "zone", "give at least one zone").into());
        }
        let mut zones = Zones::default();
        for (n, zone) in file.zone.into_iter().enumerate() {
            let refuse = |why: String| ConfigError::value(path, &format!("zone.{n}.origin"), why);
            let mut origin = Name::from_ascii(&zone.origin)
                .map_err(|error| refuse(format!("'{}' is no domain name: {error}", zone.origin)))?;
            origin.set_fqdn(true);
            let loaded = Zone::load(&origin, &beside(path, &zone.file))
                .map_err(|error| Failure::Config(error.to_string()))?;
            if !zones.add(loaded) {
                return Err(refuse(format!("the zone {origin} is given twice: remove one")).into());
            }
        }
        let place = |optional: Option<PathBuf>| optional.map(|it| beside(path, &it));
        Ok(Self {
            name: file.name,
            listen: file.listen,
            zones,
            control: place(file.control),
            trace: place(file.trace),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const ZONE: &str = "@ 60 SOA ns h 1 2 3 4 5\n@ NS ns\nns A 192.0.2.1\n";

    /// Loads `config` from a folder that also has the zone file `a.zone`; the folder's name is cut from an error.
    fn load(config: &str, zone: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("a.zone"), zone).expect("a zone file");
        let path = folder.path().join("dns.toml");
        fs::write(&path, config).expect("a configuration");
        let prefix = format!("{}/", folder.path().display());
        Config::load(&path).map_err(|failure| {
            assert_eq!(failure.exit_code(), 2);
            failure.to_string().replace(&prefix, "")
        })
    }

    #[test]
    fn a_right_configuration() {
        let text = "name = \"a\"\nlisten = [\"192.0.2.1:53\", \"[::1]:53\"]\ncontrol = \"c\"\n[[zone]]\norigin = \"test\"\nfile = \"a.zone\"\n";
        let config = load(text, ZONE).expect("a configuration");
        assert_eq!((config.name.as_str(), config.listen.len(), config.trace), ("a", 2, None));
        assert!(config.control.expect("a socket").is_absolute());
        assert_eq!(config.zones.origins().map(ToString::to_string).collect::<Vec<_>>(), ["test."]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let head = "name = \"a\"\nlisten = [\"192.0.2.1:53\"]\n";
        let zone = "[[zone]]\norigin = \"test.\"\nfile = \"a.zone\"\n";
        let refusal = |config: &str, zone: &str| load(config, zone).expect_err("wrong");
        insta::assert_snapshot!(refusal(&format!("{head}colour = 1\n{zone}"), ZONE), @"
        dns.toml:3:1: unknown field `colour`, expected one of `name`, `listen`, `zone`, `control`, `trace`
          3 | colour = 1
            | ^^^^^^
        ");
        insta::assert_snapshot!(refusal(&format!("{}{zone}", head.replace(":53", "")), ZONE), @r#"
        dns.toml:2:11: invalid socket address syntax
          2 | listen = ["192.0.2.1"]
            |           ^^^^^^^^^^^
        "#);
        insta::assert_snapshot!(refusal(&format!("{}{zone}", head.replace("\"192.0.2.1:53\"", "")), ZONE), @"
        dns.toml:2:10: 'listen': give at least one address to serve on
          2 | listen = []
            |          ^^
        ");
        insta::assert_snapshot!(refusal(&format!("{head}{zone}{zone}"), ZONE), @r#"
        dns.toml:7:10: 'zone.1.origin': the zone test. is given twice: remove one
          7 | origin = "test."
            |          ^^^^^^^
        "#);
        insta::assert_snapshot!(refusal(&format!("{head}zone = []\n"), ZONE), @"
        dns.toml:3:8: 'zone': give at least one zone
          3 | zone = []
            |        ^^
        ");
        insta::assert_snapshot!(refusal(&format!("{head}{}", zone.replace("test.", "a..b")), ZONE), @r#"
        dns.toml:4:10: 'zone.0.origin': 'a..b' is no domain name: Malformed label: 
          4 | origin = "a..b"
            |          ^^^^^^
        "#);
        insta::assert_snapshot!(refusal(&format!("{head}{}", zone.replace("a.zone", "b.zone")), ZONE), @"b.zone: the zone file cannot be read: No such file or directory (os error 2)");
        insta::assert_snapshot!(refusal(&format!("{head}{zone}"), &ZONE.replace("A 1", "A x1")), @"a.zone:3: network address parse error: invalid IPv4 address syntax");
    }
}
