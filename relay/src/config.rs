//! The relay's configuration.
//!
//! ```toml
//! name    = "rs1"
//! fqdn    = "rs1.dc.ntm.test"
//! address = "203.0.113.20"       # as DCs and terminals reach it; or one of each family: ["203.0.113.20", "2001:db8::20"]
//! keys    = "keys.toml"          # a key for each coordinator
//! # From here on with what stands if nothing is said.
//! port     = 4330
//! vips     = "198.18.0.0/15"     # the virtual range of all DCs
//! tun      = "ntm0"
//! lifetime = "300s"              # of an entry that nobody uses
//! capacity = 65536               # entries of the Relay Table
//! rs_s     = "auto"              # who switches tunnels: "tcx" (the kernel, where it can), "userspace", or by the traffic
//! # trace = "rs1.jsonl", control = "rs1.sock": none
//!
//! [[coordinator]]
//! fqdn    = "dc.ntm.test"
//! address = "203.0.113.10:4330"  # or one of each family
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ntm_daemon::addresses::Addresses;
use ntm_daemon::config::{self, ConfigError, HumanDuration};
use ntm_daemon::keys::KeyFile;
use ntm_daemon::program::Failure;
use ntm_protocol::addr::{Fqdn, NTM_PORT, Vip, VipRange};
use ntm_protocol::crypto::SharedKey;
use ntm_protocol::relay::RelayConfig;
use ntm_protocol::time::Duration;
use ntm_protocol::wire::NodeKind;
use serde::Deserialize;

use crate::rs_s::Mode;

/// A configuration that was read and checked, its key file too.
#[derive(Debug)]
pub struct Config {
    /// The node's name in trace, logs and status.
    pub name: String,
    /// Its name in the DNS, and for its DCs.
    pub fqdn: Fqdn,
    /// The real addresses and port where it is reached.
    pub address: Addresses<SocketAddr>,
    /// The virtual range: what is routed into the TUN, and translated.
    pub vips: VipRange,
    /// The TUN's name.
    pub tun: String,
    /// How long an entry stays that nobody uses.
    pub lifetime: Duration,
    /// The most entries of the Relay Table.
    pub capacity: usize,
    /// Who switches tunnels.
    pub rs_s: Mode,
    /// Its DCs; at least one.
    pub coordinators: Vec<Coordinator>,
    /// Where observations go.
    pub trace: Option<PathBuf>,
    /// The control socket.
    pub control: Option<PathBuf>,
}

/// A DC to register at.
#[derive(Clone, Debug)]
pub struct Coordinator {
    /// Its name.
    pub fqdn: Fqdn,
    /// Its real addresses and port.
    pub address: Addresses<SocketAddr>,
    /// The key shared with it.
    pub key: SharedKey,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    fqdn: Fqdn,
    address: Addresses<IpAddr>,
    #[serde(default = "default_port")]
    port: u16,
    keys: PathBuf,
    #[serde(default = "default_vips")]
    vips: VipRange,
    #[serde(default = "default_tun")]
    tun: String,
    #[serde(default = "default_lifetime")]
    lifetime: HumanDuration,
    #[serde(default = "default_capacity")]
    capacity: usize,
    #[serde(default)]
    rs_s: Mode,
    #[serde(default)]
    coordinator: Vec<CoordinatorEntry>,
    trace: Option<PathBuf>,
    control: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CoordinatorEntry {
    fqdn: Fqdn,
    address: Addresses<SocketAddr>,
}

fn default_port() -> u16 {
    NTM_PORT
}

fn default_vips() -> VipRange {
    VipRange::new(Ipv4Addr::new(198, 18, 0, 0), 15).expect("RFC 2544's range is a range")
}

fn default_tun() -> String {
    "ntm0".to_owned()
}

fn default_lifetime() -> HumanDuration {
    HumanDuration(Duration::from_secs(300))
}

fn default_capacity() -> usize {
    65_536
}

impl Config {
    /// Reads and checks the file `path` and the key file that it names.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let file: File = config::load(path)?;
        if let Err((key, why)) = file.check() {
            return Err(ConfigError::value(path, &key, why).into());
        }
        let keys = KeyFile::load(&config::beside(path, &file.keys))?;
        let known = |CoordinatorEntry { fqdn, address }| match keys.get(&fqdn) {
            Some(entry) if entry.kind == NodeKind::Coordinator => {
                Ok(Coordinator { fqdn, address, key: entry.key.clone() })
            }
            Some(_) => {
                Err(format!("the key file '{}' does not have '{fqdn}' as a coordinator", file.keys.display()))
            }
            None => Err(format!("the key file '{}' has no key for '{fqdn}'", file.keys.display())),
        };
        let coordinators = file.coordinator.into_iter().enumerate().map(|(n, entry)| {
            known(entry)
                .map_err(|why| Failure::from(ConfigError::value(path, &format!("coordinator.{n}.fqdn"), why)))
        });
        let coordinators = coordinators.collect::<Result<_, _>>()?;
        Ok(Self {
            name: file.name,
            fqdn: file.fqdn,
            address: file.address.with_port(file.port),
            vips: file.vips,
            tun: file.tun,
            lifetime: file.lifetime.0,
            capacity: file.capacity,
            rs_s: file.rs_s,
            coordinators,
            trace: file.trace.map(|trace| config::beside(path, &trace)),
            control: file.control.map(|control| config::beside(path, &control)),
        })
    }

    /// What the role machine is told at its start.
    pub fn machine(&self, seed: [u8; 32], first_sequence: u64) -> RelayConfig {
        let coordinators = self.coordinators.iter();
        RelayConfig {
            fqdn: self.fqdn.clone(),
            addresses: self.address.iter().copied().collect(),
            coordinators: coordinators
                .map(|dc| (dc.fqdn.clone(), dc.address.iter().copied().collect(), dc.key.clone()))
                .collect(),
            lifetime: self.lifetime,
            capacity: self.capacity,
            seed,
            first_sequence,
        }
    }
}

impl File {
    /// The first value that cannot be used: its key, and why.
    fn check(&self) -> Result<(), (String, String)> {
        let refuse = |key: &str, why: &str| Err((key.to_owned(), why.to_owned()));
        if self.name.is_empty() {
            return refuse("name", "the node needs a name");
        }
        let is_nodes = |address: &IpAddr| {
            !address.is_unspecified() && !address.is_multicast() && *address != Ipv4Addr::BROADCAST
        };
        if !self.address.iter().all(is_nodes) {
            return refuse("address", "give the address by which DCs and terminals reach this machine");
        }
        if let Some(address) = self.address.v4().filter(|address| self.vips.contains(Vip(*address))) {
            let vips = self.vips;
            return refuse(
                "address",
                &format!("{address} is a real address, and must lie outside 'vips' ({vips})"),
            );
        }
        if self.port == 0 {
            return refuse("port", "0 is no port: terminals must know where to send");
        }
        if !is_interface_name(&self.tun) {
            return refuse(
                "tun",
                "an interface's name has 1 to 15 letters, digits, '_', '-' or '.', a letter first",
            );
        }
        if self.lifetime.0.is_zero() {
            return refuse("lifetime", "an entry must live for some time, as in \"300s\"");
        }
        if self.capacity == 0 {
            return refuse("capacity", "the Relay Table needs room for at least one entry");
        }
        if self.coordinator.is_empty() {
            return refuse("coordinator", "a relay needs a DC to register at: add a [[coordinator]]");
        }
        let mut seen = BTreeSet::new();
        match self.coordinator.iter().position(|entry| !seen.insert(&entry.fqdn)) {
            Some(n) => {
                let why = format!("'{}' stands there twice", self.coordinator[n].fqdn);
                refuse(&format!("coordinator.{n}.fqdn"), &why)
            }
            None => Ok(()),
        }
    }
}

/// Whether nft takes `name` as a part of a table's name, and the kernel as an interface's.
fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const GOOD: &str = "\
name = 'rs1'
fqdn = 'rs1.dc.ntm.test'
address = '203.0.113.20'
keys = 'keys.toml'
";
    const DC: &str = "[[coordinator]]\nfqdn = 'dc.ntm.test'\naddress = '203.0.113.10:4330'\n";

    fn load(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = folder.path().join("keys.toml");
        let entry =
            |peer, kind| format!("[[key]]\npeer = '{peer}'\nkind = '{kind}'\nkey = '{}'\n", "07".repeat(32));
        fs::write(&keys, entry("dc.ntm.test", "coordinator") + &entry("mn.ntm.test", "terminal"))
            .expect("keys");
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).expect("chmod");
        let path = folder.path().join("rs.toml");
        fs::write(&path, text).expect("a configuration");
        Config::load(&path).map_err(|failure| {
            assert_eq!(failure.exit_code(), 2);
            failure.to_string().replace(&format!("{}/", folder.path().display()), "")
        })
    }

    /// What is said of a configuration with `key = value` in it.
    fn error(key: &str, value: &str) -> String {
        let lines = GOOD.lines().filter(|line| !line.starts_with(key));
        let rest: String = lines.map(|line| format!("{line}\n")).collect();
        load(&format!("{rest}{key} = {value}\n{DC}")).expect_err("it is refused")
    }

    #[test]
    fn a_short_one_has_the_defaults() {
        let config = load(&format!("{GOOD}{DC}")).expect("a configuration");
        assert_eq!(config.address.to_string(), "203.0.113.20:4330");
        assert_eq!((config.vips.to_string().as_str(), config.tun.as_str()), ("198.18.0.0/15", "ntm0"));
        assert_eq!((config.lifetime, config.capacity), (Duration::from_secs(300), 65_536));
        assert_eq!(config.rs_s, Mode::Auto);
        assert_eq!((config.trace.as_ref(), config.control.as_ref()), (None, None));
        let machine = config.machine([1; 32], 9);
        assert_eq!(machine.addresses[..], config.address[..]);
        assert_eq!(machine.coordinators[0].1[..], ["203.0.113.10:4330".parse().expect("an address")]);
        assert_eq!((machine.seed, machine.first_sequence), ([1; 32], 9));
    }

    /// T3.1-d.
    #[test]
    fn a_relay_and_its_dcs_may_have_both_families() {
        let text = format!("{GOOD}{DC}")
            .replace("'203.0.113.20'", "['203.0.113.20', '2001:db8::20']")
            .replace("'203.0.113.10:4330'", "['203.0.113.10:4330', '[2001:db8::10]:4330']");
        let config = load(&text).expect("a configuration");
        assert_eq!(config.address.to_string(), "203.0.113.20:4330 and [2001:db8::20]:4330");
        let machine = config.machine([1; 32], 9);
        assert_eq!((machine.addresses.len(), machine.coordinators[0].1.len()), (2, 2));
    }

    #[test]
    fn mistakes_are_shown_with_their_place() {
        insta::assert_snapshot!(error("prot", "4330"), @"
        rs.toml:5:1: unknown field `prot`, expected one of `name`, `fqdn`, `address`, `port`, `keys`, `vips`, `tun`, `lifetime`, `capacity`, `rs_s`, `coordinator`, `trace`, `control`
          5 | prot = 4330
            | ^^^^
        ");
        insta::assert_snapshot!(error("vips", "'198.18.0.1/15'"), @"
        rs.toml:5:8: 198.18.0.1/15 has bits set after its prefix: did you mean 198.18.0.0/15?
          5 | vips = '198.18.0.1/15'
            |        ^^^^^^^^^^^^^^^
        ");
        insta::assert_snapshot!(error("rs_s", "'xdp'"), @"
        rs.toml:5:8: unknown variant `xdp`, expected one of `auto`, `userspace`, `tcx`
          5 | rs_s = 'xdp'
            |        ^^^^^
        ");
        insta::assert_snapshot!(error("lifetime", "'300'"), @"
        rs.toml:5:12: '300' needs a unit: ns, us, ms, s, m or h, as in 5s, 300ms or 2m
          5 | lifetime = '300'
            |            ^^^^^
        ");
        insta::assert_snapshot!(load(&format!("{GOOD}{DC}key = 'x'\n")).unwrap_err(), @"
        rs.toml:8:1: unknown field `key`, expected `fqdn` or `address`
          8 | key = 'x'
            | ^^^
        ");
        insta::assert_snapshot!(load(DC).unwrap_err(), @"
        rs.toml:1:1: missing field `name`
          1 | [[coordinator]]
            | ^
        ");
    }

    #[test]
    fn values_that_cannot_be_used_are_named() {
        insta::assert_snapshot!(error("name", "''"), @"
        rs.toml:4:8: 'name': the node needs a name
          4 | name = ''
            |        ^^
        ");
        insta::assert_snapshot!(error("address", "'0.0.0.0'"), @"
        rs.toml:4:11: 'address': give the address by which DCs and terminals reach this machine
          4 | address = '0.0.0.0'
            |           ^^^^^^^^^
        ");
        insta::assert_snapshot!(error("address", "'198.19.0.1'"), @"
        rs.toml:4:11: 'address': 198.19.0.1 is a real address, and must lie outside 'vips' (198.18.0.0/15)
          4 | address = '198.19.0.1'
            |           ^^^^^^^^^^^^
        ");
        insta::assert_snapshot!(error("port", "0"), @"
        rs.toml:5:8: 'port': 0 is no port: terminals must know where to send
          5 | port = 0
            |        ^
        ");
        insta::assert_snapshot!(error("tun", "'ntm 0'"), @"
        rs.toml:5:7: 'tun': an interface's name has 1 to 15 letters, digits, '_', '-' or '.', a letter first
          5 | tun = 'ntm 0'
            |       ^^^^^^^
        ");
        insta::assert_snapshot!(error("lifetime", "'0s'"), @r#"
        rs.toml:5:12: 'lifetime': an entry must live for some time, as in "300s"
          5 | lifetime = '0s'
            |            ^^^^
        "#);
        insta::assert_snapshot!(error("capacity", "0"), @"
        rs.toml:5:12: 'capacity': the Relay Table needs room for at least one entry
          5 | capacity = 0
            |            ^
        ");
    }

    #[test]
    fn each_coordinator_needs_its_key() {
        let with = |name: &str| DC.replace("dc.ntm.test", name);
        insta::assert_snapshot!(load(GOOD).unwrap_err(), @"rs.toml: 'coordinator': a relay needs a DC to register at: add a [[coordinator]]");
        insta::assert_snapshot!(load(&format!("{GOOD}{DC}{DC}")).unwrap_err(), @"
        rs.toml:9:8: 'coordinator.1.fqdn': 'dc.ntm.test' stands there twice
          9 | fqdn = 'dc.ntm.test'
            |        ^^^^^^^^^^^^^
        ");
        insta::assert_snapshot!(load(&format!("{GOOD}{}", with("mn.ntm.test"))).unwrap_err(), @"
        rs.toml:6:8: 'coordinator.0.fqdn': the key file 'keys.toml' does not have 'mn.ntm.test' as a coordinator
          6 | fqdn = 'mn.ntm.test'
            |        ^^^^^^^^^^^^^
        ");
        insta::assert_snapshot!(load(&format!("{GOOD}{}", with("dc2.ntm.test"))).unwrap_err(), @"
        rs.toml:6:8: 'coordinator.0.fqdn': the key file 'keys.toml' has no key for 'dc2.ntm.test'
          6 | fqdn = 'dc2.ntm.test'
            |        ^^^^^^^^^^^^^^
        ");
        let missing = GOOD.replace("keys.toml", "other.toml");
        insta::assert_snapshot!(load(&format!("{missing}{DC}")).unwrap_err(), @"other.toml: the key file cannot be read: No such file or directory (os error 2)");
    }

    #[test]
    fn interface_names() {
        for name in ["ntm0", "a", "ntm-0_1.x"] {
            assert!(is_interface_name(name), "{name}");
        }
        for name in ["", "sixteen-letters-", "0ntm", "a\"b", "a b", "a/b", "ü"] {
            assert!(!is_interface_name(name), "{name}");
        }
    }
}
