//! The router's configuration.
//!
//! ```toml
//! name    = "apnat_a"
//! inside  = "lan0"
//! outside = "wan0"
//! nat     = "port-restricted"      # or a table of axes: see ntm_nat::Behaviour
//! control = "apnat_a.sock"
//!
//! [[forward]]
//! protocol = "tcp"
//! port     = 8080
//! to       = "10.0.0.2:80"
//! ```

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ntm_daemon::config::{self, ConfigError};
use serde::Deserialize;

use crate::behaviour::{Allocation, Behaviour};
use crate::forward::{Forward, check_forwards};

/// A checked configuration; its paths are as they are to be opened.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The node's name in trace and logs.
    pub name: String,
    /// The interface to the hosts behind the router.
    pub inside: String,
    /// The interface to the rest of the world.
    pub outside: String,
    /// How the router behaves.
    pub nat: Behaviour,
    /// The outer address; the first IPv4 address of `outside` if it is not given.
    pub external: Option<Ipv4Addr>,
    /// Ports that always lead to one inner host.
    #[serde(default, rename = "forward")]
    pub forwards: Vec<Forward>,
    /// Where observations go.
    pub trace: Option<PathBuf>,
    /// The control socket.
    pub control: Option<PathBuf>,
}

impl Config {
    /// Reads and checks the file `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut config: Self = config::load(path)?;
        config.check().map_err(|(key, why)| ConfigError::value(path, &key, why))?;
        for file in [&mut config.trace, &mut config.control].into_iter().flatten() {
            *file = config::beside(path, file);
        }
        Ok(config)
    }

    /// What deserialising cannot see; the error is a key and what is wrong with its value.
    fn check(&self) -> Result<(), (Cow<'static, str>, String)> {
        for (key, interface) in [("inside", &self.inside), ("outside", &self.outside)] {
            check_interface(interface).map_err(|why| (key.into(), why))?;
        }
        if self.inside == self.outside {
            return Err((
                "outside".into(),
                format!("'{}' is the inside already: a router needs two interfaces", self.outside),
            ));
        }
        if self.nat.axes().is_some_and(|axes| axes.allocation == Allocation::Contiguous) {
            return Err((
                "nat".into(),
                "the kernel cannot allocate contiguous ports: choose the allocation preserve or random"
                    .to_owned(),
            ));
        }
        let external = IpAddr::V4(self.external.unwrap_or(Ipv4Addr::UNSPECIFIED));
        check_forwards(&self.nat, external, &self.forwards)
            .map_err(|(n, why)| (format!("forward.{n}").into(), why.to_string()))
    }
}

/// Whether `name` can be an interface's: it is written into rules and paths.
fn check_interface(name: &str) -> Result<(), String> {
    let fits = (1..=15).contains(&name.len()) && !matches!(name, "." | "..");
    if fits && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@+".contains(c)) {
        return Ok(());
    }
    Err(format!("'{name}' is no name of an interface: 1 to 15 letters, digits and any of -_.@+"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn load(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("nat.toml");
        fs::write(&path, text).unwrap();
        let shown = |text: String| text.replace(&folder.path().display().to_string(), "");
        Config::load(&path).map_err(|error| shown(error.to_string())).map(|mut config| {
            config.control = config.control.map(|path| shown(path.display().to_string()).into());
            config
        })
    }

    const BASE: &str = "name = 'ap'\ninside = 'lan0'\noutside = 'wan0'\n";

    #[test]
    fn a_configuration_is_read() {
        let config = load(&format!(
            "{BASE}nat = 'full-cone'\ncontrol = 'ap.sock'\n[[forward]]\nprotocol = 'tcp'\nport = 8080\nto = '10.0.0.2:80'\n"
        ))
        .unwrap();
        assert_eq!((config.nat, config.forwards.len()), (Behaviour::FULL_CONE, 1));
        assert_eq!(config.control.unwrap(), Path::new("/ap.sock"), "relative to the configuration");
    }

    #[test]
    fn errors_say_what_to_write() {
        let forward = "[[forward]]\nprotocol = 'udp'\nport = 80\nto = '10.0.0.2:80'\n";
        let errors = [
            load(&format!("{BASE}nat = 'full-cone'\noutsid = 'x'\n")),
            load(&format!("{BASE}nat = 'ful-cone'\n")),
            load("name = 'ap'\ninside = 'lan0'\noutside = 'wan\"0'\nnat = 'none'\n"),
            load("name = 'ap'\ninside = 'lan0'\noutside = 'lan0'\nnat = 'none'\n"),
            load(&format!("{BASE}nat = {{ preset = 'symmetric', allocation = 'contiguous' }}\n")),
            load(&format!("{BASE}nat = 'full-cone'\n{forward}{forward}")),
            load(&format!("{BASE}nat = 'none'\n{forward}")),
            load(&format!(
                "{BASE}nat = 'full-cone'\n[[forward]]\nprotocol = 'sctp'\nport = 80\nto = '10.0.0.2:80'\n"
            )),
        ]
        .map(|result| result.unwrap_err());
        insta::assert_snapshot!(errors.join("\n\n"));
    }
}
