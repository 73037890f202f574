//! Joins the traces of all daemons and of the harness into one, sorted by time.

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::Value as Json;

/// Reads every `*.jsonl` in `folder`, adds `own`, and sorts by time; equal times keep the order of names. Lines that are no
/// records are returned as complaints: a daemon that is killed may leave half a line.
pub fn merge(folder: &Path, own: Vec<Json>) -> (Vec<Json>, Vec<String>) {
    let mut files: Vec<_> = fs::read_dir(folder)
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    files.retain(|path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    let (mut events, mut complaints) = (own, Vec::new());
    for file in files {
        let text = match fs::read(&file) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => {
                complaints.push(format!("{}: {error}", file.display()));
                continue;
            }
        };
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match serde_json::from_str::<Json>(line) {
                Ok(event) if event.get("t").is_some_and(Json::is_u64) => events.push(event),
                _ => complaints.push(format!("{}:{}: not a record of the trace", file.display(), number + 1)),
            }
        }
    }
    (sorted(events), complaints)
}

/// Sorts by time; what happened at one time keeps its order.
pub fn sorted(events: impl IntoIterator<Item = Json>) -> Vec<Json> {
    let mut events: Vec<Json> = events.into_iter().collect();
    events.sort_by_key(|event| event.get("t").and_then(Json::as_u64));
    events
}

/// Writes one event a line.
pub fn write(path: &Path, events: &[Json]) -> io::Result<()> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    for event in events {
        serde_json::to_writer(&mut file, event)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn traces_are_joined_by_time_and_broken_lines_are_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.jsonl"), "{\"t\":3,\"node\":\"a\"}\n{\"t\":5,\"no").unwrap();
        fs::write(folder.path().join("b.jsonl"), "{\"t\":1,\"node\":\"b\"}\n\n").unwrap();
        let (events, complaints) = merge(folder.path(), vec![json!({"t": 2, "node": "h"})]);
        let nodes: Vec<_> = events.iter().map(|event| event["node"].as_str().unwrap()).collect();
        assert_eq!(nodes, ["b", "h", "a"]);
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].contains("a.jsonl:2"));
    }
}
