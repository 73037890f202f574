//! What RS-N needs of the machine but netlink: the nft program, modules, one setting.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context;
use ntm_daemon::nft;
use ntm_daemon::program::Failure;
use ntm_protocol::family::Family;

use super::ruleset::{self, Helper};

/// Where each interface has its settings for IPv6.
const INTERFACES: &str = "/proc/sys/net/ipv6/conf";

/// The setting by which a machine forwards packets of `family`, and its name.
fn setting(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("/proc/sys/net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        Family::V6 => ("/proc/sys/net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
    }
}

/// Hands `input` to `nft -f -`.
pub(super) fn apply(input: &str) -> Result<(), Failure> {
    nft::apply(input, "nf_tables, nft_nat, nft_masq and nft_ct")
}

/// The helpers that this kernel has.
pub(super) fn helpers() -> Result<Vec<Helper>, Failure> {
    // nft loads what follows a protocol, but not what mends its addresses. Where both are built in, or where there are no modules,
    // this fails, and nothing is lost.
    let modules = ["-q", "-a", "nf_nat_ftp", "nf_nat_sip"];
    let _ = Command::new("modprobe").args(modules).stdin(Stdio::null()).stderr(Stdio::null()).status();
    let mut found = Vec::new();
    for helper in Helper::ALL {
        match nft::run(&["-c", "-f", "-"], &ruleset::probe(helper))? {
            Ok(_) => found.push(helper),
            Err(said) => tracing::debug!("no helper {}: {said}", helper.name()),
        }
    }
    Ok(found)
}

/// That this machine forwards packets of one family; dropping it ends that, if it did not before.
#[derive(Debug)]
pub(super) struct Forwarding {
    family: Family,
    former: bool,
    begun: bool,
    /// The interfaces, by their setting, that took a router's advertisements: one that forwards does not, unless it is told to.
    advertised: Vec<PathBuf>,
}

impl Forwarding {
    /// Whether the machine forwards packets now. Nothing is changed yet. Where a killed run left its `table` behind, that one knew
    /// better: if it let nothing else pass, it had begun the forwarding.
    pub(super) fn read(family: Family, table: &str) -> Result<Self, Failure> {
        let (setting, name) = setting(family);
        let value = match fs::read_to_string(setting) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Failure::Lacks(format!(
                    "this kernel has no {family} (there is no setting {name})"
                )));
            }
            value => value.context("asking whether this machine forwards packets")?,
        };
        let left = nft::run(&["list", "chain", ruleset::name(family), table, "forward"], "")?;
        let began = left.is_ok_and(|chain| chain.contains("policy drop"));
        Ok(Self { family, former: value.trim() != "0" && !began, begun: false, advertised: Vec::new() })
    }

    /// Whether it forwarded packets before.
    pub(super) fn former(&self) -> bool {
        self.former
    }

    /// Begins to forward packets.
    pub(super) fn begin(&mut self) -> Result<(), Failure> {
        if self.former {
            return Ok(());
        }
        self.begun = true;
        if self.family == Family::V6 {
            self.keep_advertised();
        }
        let (setting, name) = setting(self.family);
        fs::write(setting, "1").map_err(|error| {
            Failure::Lacks(format!("the kernel's setting {name} cannot be set to 1: {error}. It needs root"))
        })
    }

    /// Has interfaces whose addresses and routes come from a router's advertisements keep them: else the relay would lose its own way.
    fn keep_advertised(&mut self) {
        let Ok(interfaces) = fs::read_dir(INTERFACES) else { return };
        for interface in interfaces.flatten() {
            let path = interface.path().join("accept_ra");
            if fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1")
                && fs::write(&path, "2").is_ok()
            {
                self.advertised.push(path);
            }
        }
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        let (setting, name) = setting(self.family);
        if self.begun
            && let Err(error) = fs::write(setting, "0")
        {
            tracing::warn!("this machine goes on forwarding packets: {name}: {error}");
        }
        for path in &self.advertised {
            // An interface that is gone has no setting.
            let _ = fs::write(path, "1");
        }
    }
}
