//! The nft program, which puts nftables rules in place.

use std::io::{self, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, anyhow};

use crate::program::Failure;

/// Runs `nft` with `arguments`, and `input` on its standard input: what it printed, or the first line of what it complained of.
///
/// The error is [`Failure::Lacks`] where there is no such program.
pub fn run(arguments: &[&str], input: &str) -> Result<Result<String, String>, Failure> {
    let spawned = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::Lacks(
                "the program nft is not found: install the package nftables (apt-get install nftables)"
                    .to_owned(),
            ));
        }
        Err(error) => return Err(Failure::Other(anyhow!(error).context("starting nft"))),
    };
    // nft reads all of its input before it says anything, so that neither waits for the other. What it says is the better error.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().context("waiting for nft")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Ok(Err(said.lines().next().unwrap_or("nothing").trim().to_owned()));
    }
    written.context("writing to nft")?;
    Ok(Ok(String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Puts `rules` in place, in one transaction. `needs` names the kernel's parts that they need, for the error.
pub fn apply(rules: &str, needs: &str) -> Result<(), Failure> {
    run(&["-f", "-"], rules)?.map(drop).map_err(|said| {
        Failure::Lacks(format!(
            "nft does not take the rules: {said}. They need root (CAP_NET_ADMIN) and a kernel with {needs}"
        ))
    })
}
