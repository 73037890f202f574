//! A file fetched by name with curl, and compared with what the server has.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value as Json;

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
    /// curl gives up after this time.
    pub patience: Duration,
    /// The file as the server has it.
    pub original: &'a Path,
}

/// Fetches it: the quantities, and whether curl was content.
pub async fn run(id: &str, fetch: &Fetch<'_>, place: &Place) -> Result<(Quantities, bool), Failure> {
    let got = place.pages.join(format!("{id}.got"));
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
        command.arg(&got).args(fetch.arguments).arg(&fetch.url);
    })?;
    let status = client.finish(fetch.patience + Duration::from_secs(1)).await;
    let quantities = read(&client.printed(), &client.complaint(), fetch.original, &got);
    Ok((quantities, status.is_some_and(|status| status.success())))
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
