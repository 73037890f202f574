//! The daemon's configuration:
//!
//! ```toml
//! name       = "mn"                  # the node's name in trace and logs
//! fqdn       = "mn.dc.ntm.test"      # the terminal's own name
//! keys       = "keys.toml"           # the key shared with the DC; relative paths start from this file's folder
//! port       = 4330                  # this line and the next nine: the defaults
//! tun        = "ntm0"                # the virtual interface
//! vips       = "198.18.0.0/15"       # all virtual addresses
//! mtu        = 1424                  # of the virtual interface
//! dns_listen = "127.0.0.53:53"       # where applications ask, by UDP and TCP
//! patience   = "4500ms"              # an application's query is answered by then
//! lifetime   = "300s"                # of a path that nobody uses
//! spin       = "0s"                  # how long a data thread that worked looks for more before it blocks: a core for latency
//! handover   = "thesis"              # or "fast": its new address is shown to relays and peers at once
//! control    = "mn.sock"             # optional
//! trace      = "mn.jsonl"            # optional
//!
//! [coordinator]
//! fqdn    = "ns.dc.ntm.test"
//! address = "203.0.113.4:4330"       # or one of each family: ["203.0.113.4:4330", "[2001:db8::4]:4330"]
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ntm_daemon::addresses::Addresses;
use ntm_daemon::config::{self, ConfigError, HumanDuration, beside};
use ntm_daemon::keys::KeyFile;
use ntm_daemon::program::Failure;
use ntm_protocol::addr::{Fqdn, NTM_PORT, Vip, VipRange};
use ntm_protocol::crypto::SharedKey;
use ntm_protocol::terminal::Handover;
use ntm_protocol::wire::NodeKind;
use ntm_tunnel::VIRTUAL_MTU;
use serde::Deserialize;

/// What the configuration file says, its key file read.
#[derive(Debug)]
pub(crate) struct Config {
    /// The node's name in trace and logs.
    pub(crate) name: String,
    /// The terminal's own name.
    pub(crate) fqdn: Fqdn,
    /// Its UDP port, for control and data.
    pub(crate) port: u16,
    /// The virtual interface's name.
    pub(crate) tun: String,
    /// All virtual addresses, those of other DCs too.
    pub(crate) vips: VipRange,
    /// The virtual interface's MTU, in bytes.
    pub(crate) mtu: u16,
    /// Where applications ask for names.
    pub(crate) dns_listen: SocketAddr,
    /// How long an application's query may wait.
    pub(crate) patience: Duration,
    /// How long a path stays that nobody uses.
    pub(crate) lifetime: Duration,
    /// How long a data thread that has worked looks for more before it blocks.
    pub(crate) spin: Duration,
    /// What it does on a handover.
    pub(crate) handover: Handover,
    /// The DC's name.
    pub(crate) coordinator: Fqdn,
    /// The DC's real addresses and port.
    pub(crate) coordinator_addresses: Addresses<SocketAddr>,
    /// The key shared with the DC (T3.1-e).
    pub(crate) key: SharedKey,
    /// Where the control socket is.
    pub(crate) control: Option<PathBuf>,
    /// Where the trace goes.
    pub(crate) trace: Option<PathBuf>,
}

/// 576 is the least that every IPv4 host takes (RFC 791); the most leaves room for the tunnel's headers in a 9000-byte frame.
const MTUS: RangeInclusive<u16> = 576..=8924;

/// A thread that looks for longer gains nothing: whatever comes so rarely does not notice that it had to be woken.
const LONGEST_SPIN: Duration = Duration::from_millis(10);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    fqdn: Fqdn,
    keys: PathBuf,
    #[serde(default = "port")]
    port: u16,
    #[serde(default = "tun")]
    tun: String,
    #[serde(default = "vips")]
    vips: VipRange,
    #[serde(default = "mtu")]
    mtu: u16,
    #[serde(default = "dns_listen")]
    dns_listen: SocketAddr,
    #[serde(default = "patience")]
    patience: HumanDuration,
    #[serde(default = "lifetime")]
    lifetime: HumanDuration,
    #[serde(default = "spin")]
    spin: HumanDuration,
    #[serde(default)]
    handover: Handover,
    coordinator: Coordinator,
    control: Option<PathBuf>,
    trace: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Coordinator {
    fqdn: Fqdn,
    address: Addresses<SocketAddr>,
}

fn port() -> u16 {
    NTM_PORT
}

fn tun() -> String {
    "ntm0".to_owned()
}

fn vips() -> VipRange {
    VipRange::new(Ipv4Addr::new(198, 18, 0, 0), 15).expect("a well-formed range")
}

fn mtu() -> u16 {
    VIRTUAL_MTU
}

fn dns_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 53], 53))
}

/// Below the 5 s after which common resolvers ask again.
fn patience() -> HumanDuration {
    HumanDuration(Duration::from_millis(4500))
}

/// As a relay's entries.
fn lifetime() -> HumanDuration {
    HumanDuration(Duration::from_secs(300))
}

/// Kind to a machine that holds many nodes.
fn spin() -> HumanDuration {
    HumanDuration(Duration::ZERO)
}

impl Config {
    /// Reads the configuration `path` and its key file. An error says the file, the place in it, and what to do.
    pub(crate) fn load(path: &Path) -> Result<Self, Failure> {
        let file: File = config::load(path)?;
        let wrong = |key: &str, why: String| Err(ConfigError::value(path, key, why).into());
        if file.port == 0 {
            return wrong("port", "0 is no port: choose one from 1 to 65535".into());
        }
        if !MTUS.contains(&file.mtu) {
            let (least, most) = (MTUS.start(), MTUS.end());
            return wrong("mtu", format!("{} is not from {least} to {most} bytes", file.mtu));
        }
        if file.lifetime.0.is_zero() {
            return wrong("lifetime", "a path must live for some time, as in \"300s\"".into());
        }
        if file.spin.0 > LONGEST_SPIN {
            return wrong("spin", "it would keep a processor busy: at most 10ms".into());
        }
        let Coordinator { fqdn: coordinator, address } = file.coordinator;
        if address.iter().any(|address| address.port() == 0) {
            return wrong("coordinator.address", "0 is no port: DCs have 4330 unless configured".into());
        }
        if let Some(address) = address.v4().filter(|address| file.vips.contains(Vip(*address))) {
            let why = format!("{address} is a virtual address of {}: give the real one", file.vips);
            return wrong("coordinator.address", why);
        }
        let keys = beside(path, &file.keys);
        let Some(entry) = KeyFile::load(&keys)?.get(&coordinator).cloned() else {
            let why = format!("{} has no key of '{coordinator}': add an entry for it", keys.display());
            return wrong("coordinator.fqdn", why);
        };
        if entry.kind != NodeKind::Coordinator {
            let why = format!("in {} '{coordinator}' is no coordinator: correct its kind", keys.display());
            return wrong("coordinator.fqdn", why);
        }
        let place = |optional: Option<PathBuf>| optional.map(|it| beside(path, &it));
        Ok(Self {
            name: file.name,
            fqdn: file.fqdn,
            port: file.port,
            tun: file.tun,
            vips: file.vips,
            mtu: file.mtu,
            dns_listen: file.dns_listen,
            patience: file.patience.into(),
            lifetime: file.lifetime.into(),
            spin: file.spin.into(),
            handover: file.handover,
            coordinator,
            coordinator_addresses: address,
            key: entry.key,
            control: place(file.control),
            trace: place(file.trace),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const TEXT: &str = "\
name = \"mn\"
fqdn = \"mn.dc.test\"
keys = \"keys.toml\"
trace = \"mn.jsonl\"
[coordinator]
fqdn = \"NS.dc.test\"
address = \"203.0.113.4:4330\"
";

    /// Loads `text` from a folder with a key file; the folder's name is cut from an error.
    fn load(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = folder.path().join("keys.toml");
        let entry = |peer, kind| {
            format!("[[key]]\npeer = \"{peer}\"\nkind = \"{kind}\"\nkey = \"{}\"\n", "0a".repeat(32))
        };
        let both = entry("ns.dc.test", "coordinator") + &entry("rs.dc.test", "relay");
        fs::write(&keys, both).expect("a key file");
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).expect("its mode");
        let path = folder.path().join("mn.toml");
        fs::write(&path, text).expect("a configuration");
        let prefix = format!("{}/", folder.path().display());
        Config::load(&path).map_err(|failure| {
            assert_eq!(failure.exit_code(), 2);
            failure.to_string().replace(&prefix, "")
        })
    }

    #[test]
    fn what_is_not_said_is_as_the_design_has_it() {
        let config = load(TEXT).expect("a configuration");
        assert_eq!((config.name.as_str(), config.fqdn.as_str()), ("mn", "mn.dc.test"));
        assert_eq!((config.port, config.tun.as_str(), config.mtu), (4330, "ntm0", 1424));
        assert_eq!(config.vips.to_string(), "198.18.0.0/15");
        assert_eq!(config.dns_listen.to_string(), "127.0.0.53:53");
        assert_eq!(config.coordinator.as_str(), "ns.dc.test");
        assert!(config.key == SharedKey::new([10; 32]));
        assert!(config.trace.expect("a trace").is_absolute());
        assert_eq!(config.control, None);
        assert_eq!((config.spin, config.handover), (Duration::ZERO, Handover::Thesis));
        let fast = load(&TEXT.replacen("[coord", "handover = \"fast\"\n[coord", 1)).expect("a configuration");
        assert_eq!(fast.handover, Handover::Fast);
        let eager = load(&TEXT.replacen("[coord", "spin = \"60us\"\n[coord", 1)).expect("a configuration");
        assert_eq!(eager.spin, Duration::from_micros(60));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let refusal = |from: &str, to: &str| load(&TEXT.replacen(from, to, 1)).expect_err("wrong");
        insta::assert_snapshot!(refusal("trace", "colour"), @r#"
        mn.toml:4:1: unknown field `colour`, expected one of `name`, `fqdn`, `keys`, `port`, `tun`, `vips`, `mtu`, `dns_listen`, `patience`, `lifetime`, `spin`, `handover`, `coordinator`, `control`, `trace`
          4 | colour = "mn.jsonl"
            | ^^^^^^
        "#);
        insta::assert_snapshot!(refusal("[coord", "vips = \"198.18.0.1/15\"\n[coord"), @r#"
        mn.toml:5:8: 198.18.0.1/15 has bits set after its prefix: did you mean 198.18.0.0/15?
          5 | vips = "198.18.0.1/15"
            |        ^^^^^^^^^^^^^^^
        "#);
        insta::assert_snapshot!(refusal("[coord", "handover = \"quick\"\n[coord"), @r#"
        mn.toml:5:12: unknown variant `quick`, expected `thesis` or `fast`
          5 | handover = "quick"
            |            ^^^^^^^
        "#);
        insta::assert_snapshot!(refusal("[coord", "mtu = 100\n[coord"), @"
        mn.toml:5:7: 'mtu': 100 is not from 576 to 8924 bytes
          5 | mtu = 100
            |       ^^^
        ");
        insta::assert_snapshot!(refusal("[coord", "port = 0\n[coord"), @"
        mn.toml:5:8: 'port': 0 is no port: choose one from 1 to 65535
          5 | port = 0
            |        ^
        ");
        insta::assert_snapshot!(refusal("[coord", "port = 65536\n[coord"), @"
        mn.toml:5:8: invalid value: integer `65536`, expected u16
          5 | port = 65536
            |        ^^^^^
        ");
        insta::assert_snapshot!(refusal("[coord", "patience = \"4\"\n[coord"), @r#"
        mn.toml:5:12: '4' needs a unit: ns, us, ms, s, m or h, as in 5s, 300ms or 2m
          5 | patience = "4"
            |            ^^^
        "#);
        insta::assert_snapshot!(refusal("[coord", "lifetime = \"0s\"\n[coord"), @r#"
        mn.toml:5:12: 'lifetime': a path must live for some time, as in "300s"
          5 | lifetime = "0s"
            |            ^^^^
        "#);
        insta::assert_snapshot!(refusal("[coord", "spin = \"11ms\"\n[coord"), @r#"
        mn.toml:5:8: 'spin': it would keep a processor busy: at most 10ms
          5 | spin = "11ms"
            |        ^^^^^^
        "#);
        insta::assert_snapshot!(refusal("203.0.113.4", "198.19.0.1"), @r#"
        mn.toml:7:11: 'coordinator.address': 198.19.0.1 is a virtual address of 198.18.0.0/15: give the real one
          7 | address = "198.19.0.1:4330"
            |           ^^^^^^^^^^^^^^^^^
        "#);
        insta::assert_snapshot!(refusal(":4330", ""), @r#"
        mn.toml:7:11: invalid socket address syntax
          7 | address = "203.0.113.4"
            |           ^^^^^^^^^^^^^
        "#);
        insta::assert_snapshot!(refusal("NS.dc", "other.dc"), @r#"
        mn.toml:6:8: 'coordinator.fqdn': keys.toml has no key of 'other.dc.test': add an entry for it
          6 | fqdn = "other.dc.test"
            |        ^^^^^^^^^^^^^^^
        "#);
        insta::assert_snapshot!(refusal("NS.dc", "rs.dc"), @r#"
        mn.toml:6:8: 'coordinator.fqdn': in keys.toml 'rs.dc.test' is no coordinator: correct its kind
          6 | fqdn = "rs.dc.test"
            |        ^^^^^^^^^^^^
        "#);
        insta::assert_snapshot!(refusal("\"mn.dc.test\"", "\"mn..test\""), @r#"
        mn.toml:2:8: the label '' of a name must have 1 to 63 characters
          2 | fqdn = "mn..test"
            |        ^^^^^^^^^^
        "#);
        insta::assert_snapshot!(refusal("keys.toml", "none.toml"), @"none.toml: the key file cannot be read: No such file or directory (os error 2)");
    }
}
