//! A page fetched by name with curl from a real HTTP server (busybox httpd).

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::fetch::{self, Fetch};
use super::process::{Process, Socket};
use super::{Place, Quantities, bytes};
use crate::exit::Failure;
use crate::world::space::Space;

/// curl gives up after this time.
const PATIENCE: Duration = Duration::from_secs(10);

/// An HTTP server with one page.
pub struct Server {
    /// Ends with this value.
    _process: Process,
    page: PathBuf,
    port: u16,
}

impl Server {
    /// Starts a server whose page has `size` bytes made from `seed`.
    pub async fn start(
        id: &str,
        space: &Space,
        place: &Place,
        size: u64,
        seed: u64,
    ) -> Result<Self, Failure> {
        let folder = place.pages.join(id);
        let page = folder.join("page");
        let made = fs::create_dir_all(&folder).and_then(|()| fs::write(&page, bytes(size, seed)));
        made.map_err(Failure::during(page.display()))?;
        let mut process =
            Process::start(&format!("{id}.server"), space, "busybox", &place.folder, |command| {
                command.args(["httpd", "-f", "-p", &place.port.to_string(), "-h"]).arg(&folder);
            })?;
        process.listens(Socket::Tcp, place.port).await?;
        Ok(Self { _process: process, page, port: place.port })
    }
}

/// Fetches the page by the name `to`.
pub async fn run(id: &str, to: &str, place: &Place, server: Server) -> Result<Quantities, Failure> {
    let url = format!("http://{to}:{}/page", server.port);
    let fetch = Fetch { url, arguments: &[], rate: None, patience: PATIENCE, original: &server.page };
    fetch::run(id, &fetch, place).await.map(|(quantities, _)| quantities)
}
