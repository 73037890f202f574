//! WireGuard in user space: the program makes the interface, and is told keys, peer and port by its socket, as `wg` would do
//! (<https://www.wireguard.com/xplatform/>).

use std::fmt::Write as _;
use std::io::{self, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::program::Program;
use super::{End, LOOK_EVERY, MTU, STANDS_WITHIN};
use crate::exit::Failure;
use crate::flow::process::Process;

/// The key pairs of RFC 7748, section 6.1, secret and public: these tunnels hide nothing, and live in a world of their own.
const ALICE: [&str; 2] = [
    "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
    "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
];
const BOB: [&str; 2] = [
    "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
    "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
];
/// How long an answer by the socket may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Starts an end and configures it.
pub(super) async fn start(program: Program, end: &End<'_>) -> Result<Process, Failure> {
    let mut process = Process::start(end.name, end.space, program.binaries()[0], end.folder, |command| {
        if program != Program::WireguardGo {
            // There is nobody to become: they ask who logged in.
            command.arg("--disable-drop-privileges");
        }
        command.args(["--foreground", end.device]);
    })?;
    let socket = PathBuf::from(format!("/var/run/wireguard/{}.sock", end.device));
    let deadline = Instant::now() + STANDS_WITHIN;
    // The socket is there a moment before anybody listens at it.
    let answer = loop {
        match ask(&socket, &configuration(end)) {
            Ok(answer) => break answer,
            Err(error) if is_early(&error) => {}
            Err(error) => return Err(Failure::error(format!("{}: {error}", socket.display()))),
        }
        if process.has_ended() || Instant::now() > deadline {
            let complaint = process.complaint();
            return Err(Failure::error(format!(
                "{} of {} has no socket to be configured by{complaint}",
                program.word(),
                end.name
            )));
        }
        sleep(LOOK_EVERY).await;
    };
    if !answer.contains("errno=0\n") {
        return Err(Failure::error(format!("{} of {} answers {answer:?}", program.word(), end.name)));
    }
    let (own, peer) = (end.own.to_string(), format!("{}/32", end.peer));
    end.call("ip", &["address", "add", &own, "peer", &peer, "dev", end.device]).await?;
    end.call("ip", &["link", "set", end.device, "mtu", &MTU.to_string(), "up"]).await?;
    Ok(process)
}

fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn ask(socket: &PathBuf, request: &str) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut buffer) = (String::new(), [0; 512]);
    // An answer ends with an empty line; the program need not close.
    while !answer.ends_with("\n\n") {
        match stream.read(&mut buffer)? {
            0 => break,
            length => answer += &String::from_utf8_lossy(&buffer[..length]),
        }
    }
    Ok(answer)
}

/// What the socket is told: a line for each key, an empty one behind.
fn configuration(end: &End<'_>) -> String {
    let (own, other) = if end.is_client() { (ALICE, BOB) } else { (BOB, ALICE) };
    let mut text = format!("set=1\nprivate_key={}\n", own[0]);
    if !end.is_client() {
        let _ = writeln!(text, "listen_port={}", end.port);
    }
    let _ = writeln!(text, "replace_peers=true\npublic_key={}", other[1]);
    if let Some(server) = end.server {
        let _ = writeln!(text, "endpoint={server}");
    }
    let _ = writeln!(text, "replace_allowed_ips=true\nallowed_ip={}/32\n", end.peer);
    text
}
