//! `report.html`: a run's whole folder as one page that needs no server and no network.
//!
//! The page's own text is in `html/`: a template, its style, its script, and [uPlot](https://github.com/leeoniya/uPlot), which draws the
//! plots (`html/uplot`, with its licence). Here they are put together with the run's data, which is JSON within the page.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use super::{ladder, topology::Topology};
use crate::exit::Failure;

/// The page's file in a run's folder.
pub const FILE: &str = "report.html";

const TEMPLATE: &str = include_str!("html/page.html");
const PARTS: &[(&str, &str)] = &[
    ("uplot.css", include_str!("html/uplot/uPlot.min.css")),
    ("page.css", include_str!("html/page.css")),
    ("uplot.js", include_str!("html/uplot/uPlot.iife.min.js")),
    ("data.js", include_str!("html/data.js")),
    ("plots.js", include_str!("html/plots.js")),
    ("topology.js", include_str!("html/topology.js")),
    ("ladder.js", include_str!("html/ladder.js")),
    ("rounds.js", include_str!("html/rounds.js")),
    ("page.js", include_str!("html/page.js")),
];
/// What each clause says.
const CLAUSES: &str = include_str!("../../../docs/clauses.toml");

/// Makes the page of the run in `folder` from the files that are there, and returns where it is. Without a `report.json` there is no
/// run to show; any other file may be missing, and the page says so.
pub fn write(folder: &Path) -> Result<PathBuf, Failure> {
    let text = fs::read_to_string(folder.join("report.json")).map_err(|error| {
        Failure::usage(format!("{}: no run to report: report.json: {error}", folder.display()))
    })?;
    let report: Json = serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("{}/report.json: {error}", folder.display())))?;
    let title = report["scenario"].as_str().unwrap_or("run").to_owned();
    let page = fill(TEMPLATE, &title, &data(folder, report));
    let path = folder.join(FILE);
    fs::write(&path, page).map_err(Failure::during(path.display()))?;
    Ok(path)
}

/// Everything that the page shows.
fn data(folder: &Path, report: Json) -> Json {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    let parsed = |name: &str| read(name).and_then(|text| serde_json::from_str::<Json>(&text).ok());
    let trace: Vec<Json> = read("events.jsonl")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let world: Topology = serde_json::from_value(report["topology"].clone()).unwrap_or_default();
    json!({
        "ladder": ladder::of(&trace, &world),
        "report": report,
        "scenario": read("scenario.toml"),
        "status": parsed("status.json"),
        "environment": parsed("env.json"),
        "links": parsed("links.json"),
        "series": parsed("series.json"),
        "clauses": sayings(),
    })
}

/// Clause ID → what it says.
fn sayings() -> Json {
    let table: toml::Table = CLAUSES.parse().unwrap_or_default();
    let sections = table.get("section").and_then(toml::Value::as_array).into_iter().flatten();
    let clauses = sections.filter_map(|section| section.get("clause")?.as_array()).flatten();
    let pair = |clause: &toml::Value| {
        let field = |name: &str| clause.get(name)?.as_str().map(str::to_owned);
        Some((field("id")?, Json::String(field("says")?)))
    };
    Json::Object(clauses.filter_map(pair).collect())
}

/// A template with its parts. `{{NAME}}` stands for a part; what is put in is not looked at again.
pub fn fill(template: &str, title: &str, data: &Json) -> String {
    let escaped = title.replace('&', "&amp;").replace('<', "&lt;");
    // Within a script, `<` could end it.
    let data = data.to_string().replace('<', "\\u003c");
    let mut page = String::with_capacity(template.len() + data.len() + 150_000);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, behind) = after.split_once("}}").unwrap_or((after, ""));
        page += before;
        page += match name {
            "title" => &escaped,
            "data" => &data,
            part => PARTS.iter().find(|(name, _)| *name == part).map_or("", |(_, text)| text),
        };
        rest = behind;
    }
    page + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_one_file_and_its_data_stays_data() {
        let page = fill(TEMPLATE, "a<b", &json!({ "text": "</script><script>alert(1)</script>" }));
        assert!(page.contains("<title>a&lt;b") && !page.contains("alert(1)</script>"), "{page}");
        assert!(!page.contains("{{"), "every part is there");
        for (name, text) in PARTS {
            assert!(page.contains(text), "{name}");
            assert!(!text.contains("</script") && !text.contains("</style"), "{name} would end its element");
        }
        for elsewhere in ["src=\"", "href=\"http", "@import", "fetch(", "XMLHttpRequest"] {
            assert!(!page.contains(elsewhere), "nothing is loaded from elsewhere: {elsewhere}");
        }
    }

    #[test]
    fn clauses_are_there_with_what_they_say() {
        let clauses = sayings();
        assert!(clauses.as_object().is_some_and(|clauses| clauses.len() > 40), "{clauses}");
    }

    #[test]
    fn a_folder_without_a_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = write(folder.path()).unwrap_err();
        assert!(refused.message.contains("no run to report"), "{refused}");
        assert!(!folder.path().join(FILE).exists());
    }
}
