//! Readiness by the sd_notify protocol: datagrams of `KEY=VALUE` lines on a Unix socket; `READY=1` is the one.

use std::io;
use std::path::Path;

use tokio::net::UnixDatagram;

/// Hears one daemon.
pub struct Listener(UnixDatagram);

impl Listener {
    /// Listens at `path`, which becomes the daemon's NOTIFY_SOCKET.
    pub fn bind(path: &Path) -> io::Result<Self> {
        UnixDatagram::bind(path).map(Self)
    }

    /// Returns when the daemon has said that it is ready.
    pub async fn wait(&self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let length = self.0.recv(&mut buffer).await?;
            if buffer[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                return Ok(());
            }
        }
    }
}
