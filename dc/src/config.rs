//! The configuration of `ntm-dc`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ntm_daemon::addresses::Addresses;
use ntm_daemon::config::{self, ConfigError, HumanDuration};
use ntm_daemon::keys::KeyFile;
use ntm_daemon::program::Failure;
use ntm_protocol::addr::{Fqdn, NTM_PORT, VipRange};
use ntm_protocol::coordinator::route::Selection;
use ntm_protocol::crypto::Suite;
use ntm_protocol::wire::NodeKind;
use serde::Deserialize;

/// The configuration file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node's name in trace and logs.
    pub name: String,
    /// The DC's own name: that of its zone's NS record.
    pub fqdn: Fqdn,
    /// The zone of its terminals' names.
    pub zone: Fqdn,
    /// Its real address, or one in IPv4 and one in IPv6.
    pub address: Addresses<IpAddr>,
    /// Its UDP port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The port of its DNS server, UDP and TCP.
    #[serde(default = "default_dns_port")]
    pub dns_port: u16,
    /// The virtual addresses that are its own.
    pub vips: VipRange,
    /// The file that keeps registrations and VIPs.
    pub store: PathBuf,
    /// The DNS root servers.
    pub roots: Vec<IpAddr>,
    /// The key file.
    pub keys: PathBuf,
    /// How often nodes are to send a Keep-alive.
    #[serde(default = "default_keepalive")]
    pub keepalive: HumanDuration,
    /// How it picks a relay.
    #[serde(default)]
    pub relay_selection: Selection,
    /// The suite of data packets.
    #[serde(default)]
    pub suite: Suite,
    /// The virtual ranges of other DCs, by their names. One that does not stand here is asked when this DC starts.
    #[serde(default)]
    pub neighbours: BTreeMap<Fqdn, VipRange>,
    /// The file for observations.
    pub trace: Option<PathBuf>,
    /// The path of the control socket.
    pub control: Option<PathBuf>,
}

fn default_port() -> u16 {
    NTM_PORT
}

fn default_dns_port() -> u16 {
    53
}

fn default_keepalive() -> HumanDuration {
    HumanDuration(Duration::from_secs(5))
}

/// A configuration that was read and found good, with the keys.
pub struct Prepared {
    /// The file, its paths relative to where it stands resolved.
    pub config: Config,
    /// The keys.
    pub keys: KeyFile,
}

/// Reads and checks the configuration `path` and the key file that it names.
pub fn prepare(path: &Path) -> Result<Prepared, Failure> {
    let mut config: Config = config::load(path)?;
    let wrong = |key: &str, why: String| Failure::from(ConfigError::value(path, key, why));
    if !config.fqdn.is_in(&config.zone) {
        let why = format!("the DC's name '{}' must be in its zone '{}'", config.fqdn, config.zone);
        return Err(wrong("fqdn", why));
    }
    if config.roots.is_empty() {
        return Err(wrong("roots", "name at least one DNS root server".into()));
    }
    if config.keepalive.0 < Duration::from_millis(100) {
        return Err(wrong(
            "keepalive",
            "a Keep-alive more often than every 100ms holds nothing open better".into(),
        ));
    }
    for file in [&mut config.store, &mut config.keys] {
        *file = config::beside(path, file);
    }
    for file in [&mut config.trace, &mut config.control].into_iter().flatten() {
        *file = config::beside(path, file);
    }
    let keys = KeyFile::load(&config.keys).map_err(|error| wrong("keys", error.to_string()))?;
    let mut ranges = vec![(&config.fqdn, config.vips)];
    for (name, vips) in &config.neighbours {
        let key = format!("neighbours.{name}");
        if !keys.of_kind(NodeKind::Coordinator).any(|entry| entry.peer == *name) {
            return Err(wrong(&key, format!("'{name}' is no coordinator in the key file")));
        }
        if let Some((other, range)) = ranges.iter().find(|(_, range)| range.overlaps(vips)) {
            let why = format!(
                "the virtual range {vips} of '{name}' overlaps with {range} of '{other}': give each DC a range of its own"
            );
            return Err(wrong(&key, why));
        }
        ranges.push((name, *vips));
    }
    Ok(Prepared { config, keys })
}
