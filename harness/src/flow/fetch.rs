//! A file fetched by name with curl, and compared with what the server has.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use nix::sys::stat::Mode;
use serde_json::Value as Json;
use tokio::net::unix::pipe;
use tokio::time::Instant;

use super::process::Process;
use super::{Place, Quantities, is_virtual, unmeasured};
use crate::exit::Failure;
use crate::judge::expr::Value;

/// What to fetch.
pub struct Fetch<'a> {
    /// Its URL, with the server's name.
    pub url: String,
    /// curl's further arguments.
    pub arguments: &'a [&'a str],
    /// At most this many bytes a second.
    pub rate: Option<u64>,
    /// curl gives up after this time.
    pub patience: Duration,
    /// The file as the server has it.
    pub original: &'a Path,
}

/// Fetches it: the quantities, and whether curl was content.
pub async fn run(id: &str, fetch: &Fetch<'_>, place: &Place) -> Result<(Quantities, bool), Failure> {
    let got = place.pages.join(format!("{id}.got"));
    let tap = match fetch.rate {
        None => None,
        Some(rate) => {
            let path = place.pages.join(format!("{id}.tap"));
            let tap = Tap::open(&path, rate).map_err(Failure::during(path.display()))?;
            Some((tap, path))
        }
    };
    let output = tap.as_ref().map_or(&got, |(_, path)| path);
    let mut client = Process::start(id, &place.from, "curl", &place.folder, |command| {
        let limit = fetch.patience.as_secs().to_string();
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
        command.arg(output).args(fetch.arguments).arg(&fetch.url);
    })?;
    let ended = client.finish(place.at_most(fetch.patience + Duration::from_secs(1)));
    let status = match &tap {
        None => ended.await,
        Some((tap, _)) => tap.pour(&got, ended).await.map_err(Failure::during(got.display()))?,
    };
    let quantities = read(&client.printed(), &client.complaint(), fetch.original, &got);
    Ok((quantities, status.is_some_and(|status| status.success())))
}

/// A named pipe that is emptied no faster than asked, so that who writes into it, and with it the sender, must wait. curl's own limit does not
/// hold for FTP: what is there at once it takes at once.
struct Tap {
    pipe: pipe::Receiver,
    /// Bytes a second.
    rate: u64,
}

impl Tap {
    /// Much less than a pipe holds, so that it flows evenly.
    const SIP: usize = 8192;

    fn open(path: &Path, rate: u64) -> io::Result<Self> {
        nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        // Open for writing too: the pipe has no end before its writer has come.
        let pipe = pipe::OpenOptions::new().read_write(true).open_receiver(path)?;
        Ok(Self { pipe, rate })
    }

    /// Pours into a new file at `to` what is written until `ended`, and what is left in the pipe then.
    async fn pour<T>(&self, to: &Path, ended: impl Future<Output = T>) -> io::Result<T> {
        let mut file = fs::File::create(to)?;
        let mut sip = [0; Self::SIP];
        let mut next = Instant::now();
        tokio::pin!(ended);
        let ended = loop {
            tokio::select! {
                biased;
                ended = &mut ended => break ended,
                () = async {
                    tokio::time::sleep_until(next).await;
                    // An error shows again where the pipe is read.
                    let _ = self.pipe.readable().await;
                } => {}
            }
            match self.pipe.try_read(&mut sip) {
                Ok(length) => {
                    file.write_all(&sip[..length])?;
                    let takes = Duration::from_secs_f64(length as f64 / self.rate.max(1) as f64);
                    next = next.max(Instant::now() - takes) + takes;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        };
        loop {
            match self.pipe.try_read(&mut sip) {
                Ok(0) => break,
                Ok(length) => file.write_all(&sip[..length])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(ended)
    }
}

/// Reads curl's summary, and compares what it got with what the server has.
fn read(printed: &str, complaint: &str, original: &Path, got: &Path) -> Quantities {
    let names = ["status", "bytes", "time_ms", "resolve_ms", "remote_address", "virtual"];
    let mut out = unmeasured(&names, &format!("curl did not measure it{complaint}"));
    let intact = matches!((fs::read(original), fs::read(got)), (Ok(page), Ok(got)) if page == got);
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

#[cfg(test)]
mod tests {
    use super::super::bytes;
    use super::*;

    #[tokio::test]
    async fn a_tap_lets_through_what_its_rate_allows_and_all_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let (path, to) = (folder.path().join("tap"), folder.path().join("to"));
        let tap = Tap::open(&path, 600_000).unwrap();
        let page = bytes(300_000, 7);
        let (start, written) = (Instant::now(), page.clone());
        let writer = tokio::task::spawn_blocking(move || fs::write(path, written));
        tap.pour(&to, writer).await.unwrap().unwrap().unwrap();
        // 64 KiB are the pipe's own: they are written and not waited for.
        assert!(start.elapsed() > Duration::from_millis(350), "{:?}", start.elapsed());
        assert_eq!(fs::read(to).unwrap(), page);
    }

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
