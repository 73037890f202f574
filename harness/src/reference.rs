//! `harness reference`: the project's reference results, made by one command: every scenario of the thesis's experiments is run, and what is
//! worth keeping of each is put below `reports/`, with the machine that it was made on.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value as Json;

use crate::exit::{Exit, Failure};
use crate::report::{page, summary, tables};
use crate::scenario::find;
use crate::stdout;

/// Names of the experiments' files begin so.
const PREFIX: &str = "thesis-";
/// What is kept of a run.
const KEPT: &[&str] = &["report.json", "report.html", "summary.md", "env.json", "matrix.csv"];
/// What else the page is made from.
const FOR_PAGE: &[&str] = &["scenario.toml", "events.jsonl", "series.json", "status.json", "links.json"];

/// What `reference` is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Scenarios: paths, or names in `scenarios/`; all of the thesis's unless given.
    pub files: Vec<PathBuf>,
    /// Where results are put; the project's `reports` unless given.
    pub out: Option<PathBuf>,
    /// How many rounds, in place of the files' own.
    pub rounds: Option<u64>,
    /// Where the daemons' binaries are; beside the harness's own unless given.
    pub binaries: Option<PathBuf>,
    /// Say nothing on stderr but errors.
    pub quiet: bool,
}

/// Runs the scenarios one after the other. The exit code is that of the first that did not hold.
pub fn run(options: &Options) -> Result<Exit, Failure> {
    let scenarios =
        find::folder().ok_or_else(|| Failure::usage("no folder `scenarios` was found here or above"))?;
    let project = scenarios.parent().unwrap_or(Path::new(".")).to_owned();
    let out = options.out.clone().unwrap_or_else(|| project.join("reports"));
    let files = if options.files.is_empty() {
        let of_thesis =
            |file: &PathBuf| file.file_stem().is_some_and(|stem| stem.to_string_lossy().starts_with(PREFIX));
        find::all(&scenarios).into_iter().filter(of_thesis).collect()
    } else {
        options.files.clone()
    };
    let mut exit = Exit::Held;
    for file in &files {
        let ended = reference(file, &out, options)?;
        if matches!(ended, Exit::Interrupted | Exit::Usage | Exit::Unable) {
            return Ok(ended);
        }
        exit = if exit == Exit::Held { ended } else { exit };
    }
    let index = out.join("README.md");
    fs::write(&index, self::index(&out)?).map_err(Failure::during(index.display()))?;
    stdout::line(index.display());
    Ok(exit)
}

/// Runs one scenario in a harness of its own, and keeps its results.
fn reference(file: &Path, out: &Path, options: &Options) -> Result<Exit, Failure> {
    let own = std::env::current_exe().map_err(Failure::during("the harness does not find itself"))?;
    let mut command = Command::new(own);
    command.arg("run").arg(file).args(["--format", "json"]).arg("--out").arg(out.join("runs"));
    if options.quiet {
        command.arg("--quiet");
    }
    if let Some(rounds) = options.rounds {
        command.arg("--rounds").arg(rounds.to_string());
    }
    if let Some(binaries) = &options.binaries {
        command.arg("--bin").arg(binaries);
    }
    // ^C reaches it as well, and it ends by itself.
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(Failure::during("a run cannot be started"))?;
    let exit = output.status.code().and_then(|code| u8::try_from(code).ok()).map_or(Exit::Error, Exit::of);
    if let Ok(report) = serde_json::from_slice::<Json>(&output.stdout) {
        let name = report["scenario"].as_str().unwrap_or_default().to_owned();
        keep(Path::new(report["folder"].as_str().unwrap_or_default()), &out.join(&name), &name)?;
        if !options.quiet {
            eprintln!("{name}: {}", report["verdict"].as_str().unwrap_or_default());
        }
    }
    Ok(exit)
}

/// Puts what is worth keeping of the run in `from` into `to`, without the place where it was made.
fn keep(from: &Path, to: &Path, name: &str) -> Result<(), Failure> {
    if to.exists() {
        fs::remove_dir_all(to).map_err(Failure::during(to.display()))?;
    }
    fs::create_dir_all(to).map_err(Failure::during(to.display()))?;
    for file in KEPT.iter().chain(FOR_PAGE).filter(|file| from.join(file).is_file()) {
        fs::copy(from.join(file), to.join(file)).map_err(Failure::during(to.join(file).display()))?;
    }
    let path = to.join("report.json");
    let mut report = read(&path)?;
    report["folder"] = Json::from(format!("reports/{name}"));
    let text = serde_json::to_string_pretty(&report).map_err(Failure::during(path.display()))?;
    fs::write(&path, text + "\n").map_err(Failure::during(path.display()))?;
    page::write(to)?;
    for file in FOR_PAGE.iter().map(|file| to.join(file)).filter(|file| file.is_file()) {
        fs::remove_file(&file).map_err(Failure::during(file.display()))?;
    }
    Ok(())
}

/// The page that leads to all results in `out`.
fn index(out: &Path) -> Result<String, Failure> {
    let mut text = "# Reference results\n\nThe experiments of the thesis's chapter 6, and what it left open, as this project measures them. `./run reference` makes \
                    them anew; what is here was made by it.\n"
        .to_owned();
    let entries = fs::read_dir(out).map_err(Failure::during(out.display()))?;
    let mut folders: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    folders.retain(|folder| folder.join("report.json").is_file());
    folders.sort();
    for folder in folders {
        let report = read(&folder.join("report.json"))?;
        let name = report["scenario"].as_str().unwrap_or_default();
        let word = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "\n## {name}: {}\n\n{}\n\n[page]({name}/report.html) · [summary]({name}/summary.md) · [report.json]({name}/report.json)",
            word("verdict"),
            summary::cell(&word("about"))
        );
        let results = report["tables"].as_array().into_iter().flatten();
        for table in results.filter(|table| table["title"] != tables::OVER_ALL) {
            let _ = writeln!(text, "\n{}", tables::markdown(table));
        }
        let _ = writeln!(text, "\nMade on: {}.", machine(&read(&folder.join("env.json"))?));
    }
    Ok(text)
}

/// The machine in one line.
fn machine(environment: &Json) -> String {
    let text = |key: &str| match &environment[key] {
        Json::String(text) => text.clone(),
        Json::Null => "unknown".to_owned(),
        other => other.to_string(),
    };
    let programs = ["iperf3", "ping", "nft", "tc"].into_iter().filter_map(|name| {
        let version = environment["programs"][name].as_str()?;
        Some(format!("{name}: {version}"))
    });
    format!(
        "{}, {} processors, {} MB; Linux {}, {}; revision {}; {}",
        text("processor"),
        text("processors"),
        text("memory_mb"),
        text("kernel"),
        text("system"),
        text("revision"),
        programs.collect::<Vec<_>>().join("; ")
    )
}

fn read(file: &Path) -> Result<Json, Failure> {
    let text = fs::read_to_string(file).map_err(Failure::during(file.display()))?;
    serde_json::from_str(&text).map_err(Failure::during(file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A run's folder as the harness leaves it, with the place where it was made.
    fn run_in(folder: &Path) {
        let table = |title: &str| json!({"title": title, "columns": ["pair", "here"], "rows": [["MN", 7.8]], "notes": []});
        let report = json!({
            "scenario": "thesis-x", "about": "about it", "verdict": "held", "exit": 0, "seconds": 1.0, "seed": 1, "folder": folder,
            "expectations": [], "quantities": {}, "unmeasured": {}, "tables": [table("Table 6.1"), table(tables::OVER_ALL)]
        });
        for (name, content) in [
            ("report.json", report),
            ("env.json", json!({"processor": "P", "kernel": "6.1", "programs": {}})),
        ] {
            fs::write(folder.join(name), content.to_string()).unwrap();
        }
        for name in ["summary.md", "events.jsonl", "run.pcapng"] {
            fs::write(folder.join(name), "").unwrap();
        }
    }

    #[test]
    fn what_is_kept_is_small_and_does_not_say_where_it_was_made() {
        let (from, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        run_in(from.path());
        let to = out.path().join("thesis-x");
        keep(from.path(), &to, "thesis-x").unwrap();
        let mut kept: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        kept.sort();
        assert_eq!(kept, ["env.json", "report.html", "report.json", "summary.md"]);
        let place = from.path().to_str().unwrap();
        for file in ["report.json", "report.html"] {
            assert!(!fs::read_to_string(to.join(file)).unwrap().contains(place), "{file}");
        }
        let index = index(out.path()).unwrap();
        assert!(
            index.contains("## thesis-x: held") && index.contains("| MN") && index.contains("Made on: P,"),
            "{index}"
        );
        assert!(!index.contains(tables::OVER_ALL), "{index}");
    }
}
