//! OpenVPN between two ends that share a key beforehand: no handshake, no certificates, AES-128-CBC and HMAC-SHA-256.

use std::fmt::Write as _;

use super::{End, MTU, write};
use crate::exit::Failure;
use crate::flow::bytes;
use crate::flow::process::Process;

/// A static key has 2048 bits.
const KEY: u64 = 256;

/// Starts an end.
pub(super) fn start(end: &End<'_>) -> Result<Process, Failure> {
    let key = end.folder.join(format!("{}.key", end.name));
    write(&key, &key_file())?;
    Process::start(end.name, end.space, "openvpn", end.folder, |command| {
        command.args(["--dev", end.device, "--dev-type", "tun", "--proto", "udp"]);
        command.arg("--ifconfig").arg(end.own.to_string()).arg(end.peer.to_string());
        command.arg("--secret").arg(&key).args(["--cipher", "AES-128-CBC", "--auth", "SHA256"]);
        command.arg("--tun-mtu").arg(MTU.to_string()).args(["--verb", "1"]);
        match end.server {
            Some(server) => {
                command.arg("--remote").arg(server.ip().to_string()).arg(server.port().to_string());
                command.arg("--nobind")
            }
            None => command.arg("--lport").arg(end.port.to_string()),
        };
    })
}

/// The same key at both ends, with nothing secret in it.
fn key_file() -> String {
    let mut text = "-----BEGIN OpenVPN Static key V1-----\n".to_owned();
    for line in bytes(KEY, 1).chunks(16) {
        line.iter().for_each(|byte| {
            let _ = write!(text, "{byte:02x}");
        });
        text.push('\n');
    }
    text + "-----END OpenVPN Static key V1-----\n"
}

#[cfg(test)]
mod tests {
    /// As `openvpn --genkey secret` writes one: 16 lines of 32 digits.
    #[test]
    fn a_key_has_the_form_that_openvpn_reads() {
        let text = super::key_file();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 18);
        assert!(lines[1..17].iter().all(|line| line.len() == 32), "{text}");
    }
}
