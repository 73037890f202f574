//! A page fetched by name with curl from a real HTTP server (busybox httpd).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;

use super::process::Process;
use super::{Place, Quantities, is_virtual, unmeasured};
use crate::exit::Failure;
use crate::judge::expr::Value;
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
        process.listens(place.port).await?;
        Ok(Self { _process: process, page, port: place.port })
    }
}

/// Fetches the page by the name `to`.
pub async fn run(id: &str, to: &str, place: &Place, server: Server) -> Result<Quantities, Failure> {
    let got = place.pages.join(format!("{id}.got"));
    let url = format!("http://{to}:{}/page", server.port);
    let mut client = Process::start(id, &place.from, "curl", &place.folder, |command| {
        let limit = PATIENCE.as_secs().to_string();
        command.args([
            "--silent",
            "--show-error",
            "--noproxy",
            "*",
            "--max-time",
            &limit,
            "--write-out",
            "%{json}",
            "--output",
        ]);
        command.arg(&got).arg(&url);
    })?;
    client.finish(PATIENCE + Duration::from_secs(1)).await;
    Ok(read(&client.printed(), &client.complaint(), &server.page, &got))
}

/// Reads curl's summary, and compares what it got with what the server has.
fn read(printed: &str, complaint: &str, page: &Path, got: &Path) -> Quantities {
    let names = ["status", "bytes", "time_ms", "resolve_ms", "remote_address", "virtual"];
    let mut out = unmeasured(&names, &format!("curl did not measure it{complaint}"));
    let intact = matches!((fs::read(page), fs::read(got)), (Ok(page), Ok(got)) if page == got);
    out.insert("intact".to_owned(), Ok(Value::Truth(intact)));
    let Ok(summary) = serde_json::from_str::<Json>(printed) else { return out };
    let numbers = [
        ("status", "http_code", 1.0),
        ("bytes", "size_download", 1.0),
        ("time_ms", "time_total", 1e3),
        ("resolve_ms", "time_namelookup", 1e3),
    ];
    for (name, key, scale) in numbers {
        if let Some(number) = summary.get(key).and_then(Json::as_f64) {
            out.insert(name.to_owned(), Ok(Value::Number(number * scale)));
        }
    }
    let address = |key: &str| summary.get(key).and_then(Json::as_str).filter(|text| !text.is_empty());
    if let (Some(local), Some(remote)) = (address("local_ip"), address("remote_ip")) {
        out.insert("remote_address".to_owned(), Ok(Value::Text(remote.to_owned())));
        out.insert("virtual".to_owned(), Ok(Value::Truth(is_virtual(local) && is_virtual(remote))));
    }
    out
}

/// The same bytes for the same seed, none of them compressible (splitmix64).
fn bytes(size: u64, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut out = Vec::with_capacity(size as usize + 8);
    while (out.len() as u64) < size {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        out.extend((z ^ (z >> 31)).to_le_bytes());
    }
    out.truncate(size as usize);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_cut_short_is_not_intact() {
        let folder = tempfile::tempdir().unwrap();
        let (page, got) = (folder.path().join("page"), folder.path().join("got"));
        fs::write(&page, bytes(1000, 7)).unwrap();
        fs::write(&got, bytes(999, 7)).unwrap();
        let summary = r#"{"http_code":200,"size_download":999,"time_total":0.5,"time_namelookup":0.1,"local_ip":"198.18.0.1","remote_ip":"198.18.128.1"}"#;
        let measured = read(summary, "", &page, &got);
        assert_eq!(measured["intact"], Ok(Value::Truth(false)));
        assert_eq!(
            (&measured["status"], &measured["time_ms"]),
            (&Ok(Value::Number(200.0)), &Ok(Value::Number(500.0)))
        );
        assert_eq!(measured["virtual"], Ok(Value::Truth(true)));
        fs::write(&got, bytes(1000, 7)).unwrap();
        assert_eq!(read("", ": curl: (6)", &page, &got)["intact"], Ok(Value::Truth(true)));
        assert!(read("", ": curl: (6)", &page, &got)["status"].as_ref().unwrap_err().contains("(6)"));
    }
}
