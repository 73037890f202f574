//! The workspace's tests, with what they say.
//!
//! Every module that a target of the workspace reaches by `mod` is looked at; a file that nobody compiles proves nothing. The text is
//! read by lines, which rustfmt makes possible: a function ends with the first `}` that stands where its first line does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use cargo_metadata::MetadataCommand;

use crate::{project, read, shown};

/// A test function that is run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Test {
    pub(crate) file: String,
    pub(crate) name: String,
    /// The comment above it, and its body.
    pub(crate) text: String,
}

/// Every test of the workspace, in the order of files.
pub(crate) fn tests() -> Vec<Test> {
    let manifest = project().join("Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec().expect("cargo metadata");
    let roots = metadata.packages.iter().flat_map(|package| &package.targets);
    let mut files = BTreeSet::new();
    for root in roots {
        reach(root.src_path.as_std_path(), true, &mut files);
    }
    assert!(files.len() > 100, "only {} files were found", files.len());
    files.iter().flat_map(|file| within(&shown(file), &read(file))).collect()
}

/// Adds `file` and every module below it.
fn reach(file: &Path, root: bool, files: &mut BTreeSet<PathBuf>) {
    if !files.insert(file.to_owned()) {
        return;
    }
    let folder = file.parent().expect("a file is in a folder");
    let named = file.file_stem().unwrap_or_default();
    let below = if root || named == "mod" { folder.to_owned() } else { folder.join(named) };
    let mut given = None;
    for line in read(file).lines() {
        let line = line.trim();
        if let Some(path) = line.strip_prefix("#[path = \"").and_then(|rest| rest.strip_suffix("\"]")) {
            given = Some(folder.join(path));
        } else if let Some(name) = declared(line) {
            let candidates = match given.take() {
                Some(path) => vec![path],
                None => vec![below.join(format!("{name}.rs")), below.join(name).join("mod.rs")],
            };
            if let Some(module) = candidates.into_iter().find(|path| path.is_file()) {
                reach(&module.canonicalize().expect("a file"), false, files);
            }
        }
    }
}

/// `mod NAME;`, whatever its visibility.
fn declared(line: &str) -> Option<&str> {
    let (before, name) = line.strip_suffix(';')?.split_once("mod ")?;
    let visible = before.is_empty() || before.starts_with("pub");
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    (visible && plain).then_some(name)
}

/// The tests in a file's `text`.
fn within(file: &str, text: &str) -> Vec<Test> {
    let lines: Vec<&str> = text.lines().collect();
    let attribute = |line: &str| line.starts_with("#[");
    let above = |line: &str| attribute(line) || line.starts_with("//");
    let mut out = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let is_test =
            ["#[test]", "#[tokio::test]", "#[tokio::test("].iter().any(|it| line.trim().starts_with(it));
        if !is_test {
            continue;
        }
        let first = (0..at).rev().take_while(|n| above(lines[*n].trim())).last().unwrap_or(at);
        let Some(head) = (at..lines.len()).find(|n| !above(lines[*n].trim())) else { continue };
        let ignored = lines[first..head].iter().any(|line| line.trim().starts_with("#[ignore"));
        let Some((_, name)) = lines[head].split_once("fn ").filter(|_| !ignored) else { continue };
        let indent = lines[head].len() - lines[head].trim_start().len();
        let end = format!("{}}}", &lines[head][..indent]);
        let last = (head..lines.len()).find(|n| lines[*n] == end).unwrap_or(head);
        out.push(Test {
            file: file.to_owned(),
            name: name.split('(').next().unwrap_or_default().to_owned(),
            text: lines[first..=last].join("\n"),
        });
    }
    out
}

#[test]
fn only_what_a_test_says_counts() {
    let text = "\
//! T1-a
/// T1-b
fn helper() {
    // T1-c
}

/// Of two lines:
/// T1-d
#[test]
fn first() {
    if true {
        // T1-e
    }
}
// T1-f

#[test]
#[ignore = \"later\"]
/// T1-g
fn second() {
    // T1-h
}

mod tests {
    // T1-i
    #[tokio::test]
    async fn third() {
        assert!(true, \"T1-j\");
    }
    // T1-k
}
";
    let found: Vec<_> = within("file.rs", text)
        .into_iter()
        .map(|test| (test.name, crate::citations(&test.text).collect::<Vec<_>>().join(" ")))
        .collect();
    assert_eq!(
        found,
        [("first".to_owned(), "T1-d T1-e".to_owned()), ("third".to_owned(), "T1-i T1-j".to_owned())]
    );
}

#[test]
fn modules_are_found_by_their_declarations() {
    assert_eq!(declared("mod name;"), Some("name"));
    assert_eq!(declared("pub(crate) mod name;"), Some("name"));
    assert_eq!(declared("// mod name;"), None);
    assert_eq!(declared("mod name {"), None);
}
