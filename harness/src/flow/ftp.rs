//! A file fetched by FTP (RFC 959), with curl from vsftpd. In active mode the server connects to the client, in passive mode the client to
//! a port that the server names; PORT and PASV carry addresses in the control connection, which a relay must mend (T5.1.2-b).

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::fetch::{self, Fetch};
use super::process::{Process, Socket};
use super::{Place, Quantities, bytes};
use crate::exit::Failure;
use crate::judge::expr::Value;
use crate::world::space::Space;

/// The port that Netfilter's helper looks at.
const PORT: u16 = 21;
/// Time for the name and for all that is said before the data.
const GRACE: Duration = Duration::from_secs(10);

/// Who opens the data connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The server.
    Active,
    /// The client.
    Passive,
}

impl Mode {
    /// The words of scenario files.
    pub const WORDS: &[(&str, Mode)] = &[("active", Self::Active), ("passive", Self::Passive)];

    fn word(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Passive => "passive",
        }
    }

    /// curl's arguments. The extended commands (RFC 2428) name no address, or another way: they would prove less.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Active => &["--ftp-port", "-", "--disable-eprt"],
            Self::Passive => &["--disable-epsv", "--no-ftp-skip-pasv-ip"],
        }
    }
}

/// What to fetch.
pub struct Transfer<'a> {
    /// The server's name.
    pub to: &'a str,
    /// Who opens the data connection.
    pub mode: Mode,
    /// Bytes of the file.
    pub size: u64,
    /// At most this many bits per second.
    pub rate: Option<u64>,
}

/// A file at a server.
pub struct Server {
    file: PathBuf,
    name: String,
}

impl Server {
    /// Puts a file of `size` bytes made from `seed` where the node's server has its files, and starts that server if no other flow has.
    pub async fn start(
        id: &str,
        space: &Space,
        place: &Place,
        size: u64,
        seed: u64,
    ) -> Result<Self, Failure> {
        let folder = place.pages.join(format!("ftp-{}", space.name));
        let (files, empty) = (folder.join("files"), folder.join("empty"));
        let file = files.join(id);
        let made = fs::create_dir_all(&files)
            .and_then(|()| fs::create_dir_all(&empty))
            .and_then(|()| fs::write(&file, bytes(size, seed)));
        made.map_err(Failure::during(file.display()))?;
        let configuration = folder.join("vsftpd.conf");
        let text = configuration_of(&files.display().to_string(), &empty.display().to_string());
        fs::write(&configuration, text).map_err(Failure::during(configuration.display()))?;
        place
            .shared
            .server("vsftpd", &space.name, || async {
                let name = format!("{}.vsftpd", space.name);
                let mut process = Process::start(&name, space, "vsftpd", &place.folder, |command| {
                    command.arg(&configuration);
                })?;
                process.listens(Socket::Tcp, PORT).await?;
                Ok(process)
            })
            .await?;
        Ok(Self { file, name: id.to_owned() })
    }
}

/// Only what differs from vsftpd's own choices. It runs as who starts it, for a user's own namespace has no other users; it serves nobody
/// but the run.
fn configuration_of(files: &str, empty: &str) -> String {
    format!(
        "listen=YES\nlisten_port={PORT}\nbackground=NO\nanonymous_enable=YES\nno_anon_password=YES\nanon_root={files}\n\
         secure_chroot_dir={empty}\nrun_as_launching_user=YES\nconnect_from_port_20=NO\nseccomp_sandbox=NO\nxferlog_enable=NO\n"
    )
}

/// Fetches the file.
pub async fn run(
    id: &str,
    transfer: &Transfer<'_>,
    place: &Place,
    server: &Server,
) -> Result<Quantities, Failure> {
    let fetch = Fetch {
        url: format!("ftp://{}/{}", transfer.to, server.name),
        arguments: transfer.mode.arguments(),
        rate: transfer.rate.map(|rate| rate / 8),
        patience: time(transfer.size, transfer.rate) + GRACE,
        original: &server.file,
    };
    let (mut out, completed) = fetch::run(id, &fetch, place).await?;
    out.insert("completed".to_owned(), Ok(Value::Truth(completed)));
    out.insert("mode".to_owned(), Ok(Value::Text(transfer.mode.word().to_owned())));
    Ok(out)
}

/// How long a transfer takes at its rate.
pub fn time(size: u64, rate: Option<u64>) -> Duration {
    rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(size as f64 * 8.0 / rate.max(1) as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_gives_the_transfer_its_time() {
        assert_eq!(time(1_000_000, Some(2_000_000)), Duration::from_secs(4));
        assert_eq!(time(1_000_000, None), Duration::ZERO);
    }

    #[test]
    fn the_commands_name_addresses() {
        assert!(Mode::Active.arguments().contains(&"--disable-eprt"));
        assert!(Mode::Passive.arguments().contains(&"--disable-epsv"));
    }
}
