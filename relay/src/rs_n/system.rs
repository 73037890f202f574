//! What RS-N needs of the machine but netlink: the nft program, modules, one setting.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::Context;
use ntm_daemon::nft;
use ntm_daemon::program::Failure;

use super::ruleset::{self, Helper};

/// The setting by which a machine forwards packets.
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

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

/// That this machine forwards packets; dropping it ends that, if it did not before.
#[derive(Debug)]
pub(super) struct Forwarding {
    path: PathBuf,
    former: bool,
    begun: bool,
}

impl Forwarding {
    /// Whether the machine forwards packets now. Nothing is changed yet. Where a killed run left its `table` behind, that one knew
    /// better: if it let nothing else pass, it had begun the forwarding.
    pub(super) fn read(table: &str) -> Result<Self, Failure> {
        let path = PathBuf::from(FORWARDING);
        let value = fs::read_to_string(&path).context("asking whether this machine forwards packets")?;
        let left = nft::run(&["list", "chain", "ip", table, "forward"], "")?;
        let began = left.is_ok_and(|chain| chain.contains("policy drop"));
        Ok(Self { path, former: value.trim() != "0" && !began, begun: false })
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
        fs::write(&self.path, "1").map_err(|error| {
            Failure::Lacks(format!(
                "the kernel's setting net.ipv4.ip_forward cannot be set to 1: {error}. It needs root"
            ))
        })
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        if self.begun
            && let Err(error) = fs::write(&self.path, "0")
        {
            tracing::warn!("this machine goes on forwarding packets: net.ipv4.ip_forward: {error}");
        }
    }
}
