//! What touches the machine: interfaces, sysctls, and the nft program.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::if_nameindex;
use ntm_daemon::nft;
use ntm_daemon::program::Failure;

use crate::behaviour::Behaviour;
use crate::router::config::Config;
use crate::router::conntrack;
use crate::router::ruleset::{self, Router, TABLE};

/// The first IPv4 address of the outside interface, or the one that `config` gives; both interfaces must be there.
pub fn external_address(config: &Config) -> Result<Ipv4Addr, Failure> {
    let there: Vec<String> = if_nameindex()
        .context("asking for the interfaces")?
        .iter()
        .map(|interface| interface.name().to_string_lossy().into_owned())
        .collect();
    for (key, name) in [("inside", &config.inside), ("outside", &config.outside)] {
        if !there.contains(name) {
            return Err(Failure::Config(format!(
                "'{key}': there is no interface '{name}' here; there are {}",
                there.join(", ")
            )));
        }
    }
    if let Some(given) = config.external {
        return Ok(given);
    }
    let mut addresses = getifaddrs().context("asking for the interfaces' addresses")?;
    let found = addresses.find_map(|entry| {
        let address = entry.address?.as_sockaddr_in().map(|v4| v4.ip());
        address.filter(|_| entry.interface_name == config.outside)
    });
    found.ok_or_else(|| {
        let outside = &config.outside;
        Failure::Config(format!(
            "'outside': {outside} has no IPv4 address: give it one first, or set 'external'"
        ))
    })
}

/// The router's rules and settings while they are in place; dropping it removes the rules and gives the settings their former values.
#[derive(Debug)]
pub struct Installed {
    _table: Table,
    _sysctls: Sysctls,
}

impl Installed {
    /// Puts the rules in place, ends the connections from before, and sets what the kernel needs; the last setting lets packets pass.
    pub fn new(router: &Router<'_>) -> Result<Self, Failure> {
        // In this order of fields they are undone, too.
        let table = Table::apply(&ruleset::ruleset(router))?;
        if let Err(error) = conntrack::forget_all() {
            tracing::warn!(
                "connections from before the router go on as they were: conntrack keeps them: {error}"
            );
        }
        let sysctls = Sysctls::set(&settings(router))?;
        Ok(Self { _table: table, _sysctls: sysctls })
    }
}

/// What `nft -j list table` says of the router's own table.
pub async fn list() -> anyhow::Result<String> {
    let output = tokio::process::Command::new("nft")
        .args(["-j", "list", "table", "ip", TABLE])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output =
        tokio::time::timeout(Duration::from_secs(10), output).await.context("nft lists the table")??;
    if !output.status.success() {
        return Err(anyhow!("nft cannot list the table: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    String::from_utf8(output.stdout).context("nft lists the table")
}

/// The settings of `/proc/sys` that the router needs, and their values.
fn settings(router: &Router<'_>) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    let mut set = |path: String, value: u64| settings.push((path, value.to_string()));
    if let Behaviour::Nat(axes) = router.behaviour {
        // conntrack counts whole seconds, and must not forget a connection before its mapping ends.
        let seconds = |timeout: Duration| {
            timeout.as_millis().div_ceil(1000).try_into().unwrap_or(u64::from(u32::MAX / 2))
        };
        for (name, timeout) in [
            ("udp_timeout", axes.timeouts.udp),
            ("udp_timeout_stream", axes.timeouts.udp),
            ("icmp_timeout", axes.timeouts.icmp),
            ("tcp_timeout_established", axes.timeouts.tcp_established),
        ] {
            set(format!("net/netfilter/nf_conntrack_{name}"), seconds(timeout));
        }
        if axes.hairpin {
            // Else what turns back is answered by an ICMP redirect that shows the inner host.
            for interface in ["all", router.inside] {
                set(format!("net/ipv4/conf/{interface}/send_redirects"), 0);
            }
        }
    }
    set("net/ipv4/ip_forward".to_owned(), 1);
    settings
}

/// Empties the tables of an installed router, as if it began now: mappings, counters, and the kernel's connections.
pub fn forget(router: &Router<'_>) -> Result<(), Failure> {
    nft::apply(&ruleset::ruleset(router), NEEDS)?;
    conntrack::forget_all().context("conntrack forgets nothing")?;
    Ok(())
}

/// The kernel's parts that the rules need.
const NEEDS: &str = "nf_tables, nft_nat and nft_ct";

#[derive(Debug)]
struct Table;

impl Table {
    fn apply(rules: &str) -> Result<Self, Failure> {
        nft::apply(rules, NEEDS).map(|()| Self)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if let Err(failure) = nft::apply(&ruleset::removal(), "nf_tables") {
            tracing::warn!("the table {TABLE} stays behind: {failure}");
        }
    }
}

/// Settings of `/proc/sys` that were changed, with their former values.
#[derive(Debug)]
struct Sysctls {
    former: Vec<(PathBuf, String)>,
}

impl Sysctls {
    fn set(settings: &[(String, String)]) -> Result<Self, Failure> {
        let mut changed = Self { former: Vec::new() };
        for (name, value) in settings {
            let path = PathBuf::from("/proc/sys").join(name);
            let former = fs::read_to_string(&path);
            let former = former.and_then(|former| {
                if former.trim() != value {
                    fs::write(&path, value)?;
                }
                Ok(former)
            });
            match former {
                Ok(former) => changed.former.push((path, former)),
                Err(error) => {
                    let name = name.replace('/', ".");
                    return Err(Failure::Lacks(format!(
                        "the kernel's setting {name} cannot be set to {value}: {error}. It needs root and a kernel with nf_conntrack"
                    )));
                }
            }
        }
        Ok(changed)
    }
}

impl Drop for Sysctls {
    fn drop(&mut self) {
        for (path, former) in self.former.iter().rev() {
            if let Err(error) = fs::write(path, former) {
                tracing::warn!("{} keeps the router's value: {error}", path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::behaviour::{Axes, Dependence, Timeouts};

    #[test]
    fn settings_follow_the_behaviour() {
        let mut axes = Axes::new(Dependence::EndpointIndependent, Dependence::EndpointIndependent);
        axes.timeouts = Timeouts { udp: Duration::from_millis(1500), ..Timeouts::RFC };
        let shown = |behaviour| {
            let external = Ipv4Addr::new(203, 0, 113, 1);
            let router = Router { inside: "lan0", outside: "wan0", external, behaviour, forwards: &[] };
            let lines = settings(&router).into_iter().map(|(name, value)| format!("{name} = {value}"));
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(shown(Behaviour::None), "net/ipv4/ip_forward = 1");
        insta::assert_snapshot!(shown(Behaviour::Nat(axes)), @"
        net/netfilter/nf_conntrack_udp_timeout = 2
        net/netfilter/nf_conntrack_udp_timeout_stream = 2
        net/netfilter/nf_conntrack_icmp_timeout = 60
        net/netfilter/nf_conntrack_tcp_timeout_established = 7440
        net/ipv4/conf/all/send_redirects = 0
        net/ipv4/conf/lan0/send_redirects = 0
        net/ipv4/ip_forward = 1
        ");
    }
}
