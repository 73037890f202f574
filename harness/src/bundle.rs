//! `bundle DIR`: what somebody else needs to make a run again and to compare: the scenario with its seed, what it was made with and on, rule
//! sets and configurations, and what came of it. Never a key.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value as Json;

use crate::exit::Failure;

/// Files of a run that are taken, where they are there.
const FILES: &[&str] = &[
    "scenario.toml",
    "report.json",
    "report.html",
    "series.json",
    "events.jsonl",
    "status.json",
    "env.json",
    "links.json",
    "junit.xml",
    "summary.md",
    "tables.md",
];
/// Folders of a run that are taken.
const FOLDERS: &[&str] = &["config", "rulesets", "logs"];
/// What is left out of them: keys, and a store that holds some.
const SECRET: &[&str] = &["keys.toml", "store.sqlite", "store.sqlite-wal", "store.sqlite-shm"];

/// Writes the bundle of the run in `folder` to `to`, by default beside it, and returns where it is.
pub fn write(folder: &Path, to: Option<&Path>) -> Result<PathBuf, Failure> {
    let folder =
        folder.canonicalize().map_err(|error| Failure::usage(format!("{}: {error}", folder.display())))?;
    let text = fs::read_to_string(folder.join("report.json")).map_err(|error| {
        Failure::usage(format!("{}: no run to bundle: report.json: {error}", folder.display()))
    })?;
    let report: Json = serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("{}/report.json: {error}", folder.display())))?;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let to = to.map_or_else(|| folder.with_file_name(format!("{name}.tar.gz")), Path::to_owned);
    let environment = fs::read_to_string(folder.join("env.json")).ok();
    let environment = environment.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or(Json::Null);
    pack(&folder, &name, &guide(&report, &environment), &to).map_err(Failure::during(to.display()))?;
    Ok(to)
}

fn pack(folder: &Path, name: &str, guide: &str, to: &Path) -> io::Result<()> {
    let out = GzEncoder::new(File::create(to)?, Compression::default());
    let mut archive = tar::Builder::new(out);
    add(&mut archive, &format!("{name}/REPRODUCE.md"), guide.as_bytes())?;
    for file in FILES {
        let path = folder.join(file);
        if path.is_file() {
            add(&mut archive, &format!("{name}/{file}"), &fs::read(path)?)?;
        }
    }
    for part in FOLDERS {
        add_folder(&mut archive, &folder.join(part), &format!("{name}/{part}"))?;
    }
    archive.into_inner()?.finish()?.flush()
}

/// Everything in `folder` but what is secret; in the order of names, so that equal runs make equal bundles.
fn add_folder(archive: &mut tar::Builder<impl Write>, folder: &Path, name: &str) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let inside = format!("{name}/{file}");
        if path.is_dir() {
            add_folder(archive, &path, &inside)?;
        } else if !SECRET.contains(&file.as_str()) {
            add(archive, &inside, &fs::read(path)?)?;
        }
    }
    Ok(())
}

fn add(archive: &mut tar::Builder<impl Write>, name: &str, content: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    archive.append_data(&mut header, name, content)
}

/// How to make the run again.
fn guide(report: &Json, environment: &Json) -> String {
    let said = |value: &Json| match value {
        Json::String(text) => text.clone(),
        Json::Null => "not recorded".to_owned(),
        other => other.to_string(),
    };
    let mut programs = String::new();
    for (program, version) in environment["programs"].as_object().into_iter().flatten() {
        programs += &format!("| {program} | {} |\n", said(version).replace('|', "\\|"));
    }
    format!(
        "# {scenario}: {verdict}\n\n{about}\n\n| what | |\n|---|---|\n| seed | {seed} |\n| source | {revision} |\n\
         | harness | {harness} |\n| kernel | {kernel} ({machine}, {processors} processors) |\n| system | {system} |\n{programs}\n\
         ## Make it again\n\nIn a clone of the project at the source's revision, with this folder unpacked beside it:\n\n\
         ```sh\n./run check ../THIS/scenario.toml\n./run ../THIS/scenario.toml          # its seed is in the file\n\
         ./run compare ../THIS reports/runs/TIME-{scenario}\n```\n\n\
         `rulesets/` holds what nftables did in each router and relay at the end, `config/` each daemon's configuration, without keys: a run \
         makes fresh ones. `report.html` shows what came of it, `events.jsonl` every observation.\n",
        scenario = said(&report["scenario"]),
        verdict = said(&report["verdict"]),
        about = said(&report["about"]),
        seed = said(&report["seed"]),
        revision = said(&environment["revision"]),
        harness = said(&environment["harness"]),
        kernel = said(&environment["kernel"]),
        machine = said(&environment["machine"]),
        processors = said(&environment["processors"]),
        system = said(&environment["system"]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    use flate2::read::GzDecoder;
    use serde_json::json;

    const KEY: &str = "72f59f14aaec1a3c42448d9277964b4fe477b110a1c4aeacb4ec76ec4c18d6e4";

    fn run(folder: &Path) {
        let put = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put(
            "report.json",
            &json!({ "scenario": "handover", "verdict": "held", "about": "…", "seed": 42 }).to_string(),
        );
        put(
            "env.json",
            &json!({ "kernel": "6.1.0", "programs": { "nft": "1.0.6" }, "revision": "abc" }).to_string(),
        );
        put("scenario.toml", "seed = 42\n");
        put("keys.txt", KEY);
        put("config/rs/keys.toml", KEY);
        put("config/dc/store.sqlite", KEY);
        put("config/rs/ntm-relay.toml", "name = \"rs\"\n");
        put("rulesets/rs.nft", "table ip ntm {}\n");
        put("pcap/rs.eth0.pcapng", KEY);
    }

    fn content(bundle: &Path) -> Vec<(String, String)> {
        let mut archive = tar::Archive::new(GzDecoder::new(File::open(bundle).unwrap()));
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            (entry.path().unwrap().display().to_string(), text)
        });
        entries.collect()
    }

    #[test]
    fn a_bundle_holds_what_makes_a_run_again_and_no_key() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("20260131-235959-handover");
        run(&folder);
        let bundle = write(&folder, None).unwrap();
        assert_eq!(bundle.file_name().unwrap(), "20260131-235959-handover.tar.gz");
        let content = content(&bundle);
        let names: Vec<&str> = content.iter().map(|(name, _)| name.split_once('/').unwrap().1).collect();
        let wanted = [
            "REPRODUCE.md",
            "scenario.toml",
            "report.json",
            "env.json",
            "config/rs/ntm-relay.toml",
            "rulesets/rs.nft",
        ];
        assert_eq!(names, wanted);
        assert!(content.iter().all(|(_, text)| !text.contains(KEY)));
        for part in
            ["| seed | 42 |", "| source | abc |", "6.1.0", "| nft | 1.0.6 |", "./run ../THIS/scenario.toml"]
        {
            assert!(content[0].1.contains(part), "{part}: {}", content[0].1);
        }
        // Equal runs make equal bundles.
        let before = fs::read(&bundle).unwrap();
        assert_eq!(fs::read(write(&folder, None).unwrap()).unwrap(), before);
    }

    #[test]
    fn a_folder_without_a_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write(folder.path(), None).unwrap_err().message.contains("no run to bundle"));
    }
}
