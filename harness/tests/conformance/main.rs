//! Every clause of the thesis has a proof, and `docs/conformance.md` says which.
//!
//! `docs/clauses.toml` lists the clauses. A citation counts as evidence only where something fails when the behaviour is broken: in
//! a test function or the comment above it ([`rust`]), and above an expectation of a scenario that the project's tests run
//! ([`scenarios`]). The page is made from these by
//!
//! ```sh
//! UPDATE_CONFORMANCE=1 cargo test -p ntm-harness --test conformance
//! ```

mod clauses;
mod page;
mod rust;
mod scenarios;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clauses::{Clauses, citations};

/// What proves a clause.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Evidence {
    /// The file, from the project's folder.
    file: String,
    /// The test's name, or the sentence that the scenario prints when the expectation fails.
    name: String,
}

/// Clause ID → what proves it.
type Proofs = BTreeMap<String, Vec<Evidence>>;

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the project's folder")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// From the project's folder, with `/` between the parts.
fn shown(path: &Path) -> String {
    let inside = path.strip_prefix(project()).unwrap_or(path);
    inside.components().map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// This test talks of citations without being one.
fn is_this_test(file: &str) -> bool {
    file.starts_with("harness/tests/conformance/")
}

fn proofs() -> Proofs {
    let mut out = Proofs::new();
    let tests = rust::tests().into_iter().filter(|test| !is_this_test(&test.file));
    let tests = tests.map(|test| (citations(&test.text).collect::<Vec<_>>(), test.file, test.name));
    let expectations = scenarios::expectations();
    let expectations =
        expectations.into_iter().map(|it| (citations(&it.comment).collect::<Vec<_>>(), it.file, it.fail));
    for (ids, file, name) in tests.chain(expectations) {
        for id in ids {
            out.entry(id).or_default().push(Evidence { file: file.clone(), name: name.clone() });
        }
    }
    for evidence in out.values_mut() {
        evidence.sort();
        evidence.dedup();
    }
    out
}

#[test]
fn every_clause_has_a_proof() {
    let (clauses, proofs) = (Clauses::load(), proofs());
    let without: Vec<&str> = clauses
        .all()
        .filter(|clause| clause.open.is_none() && !proofs.contains_key(&clause.id))
        .map(|clause| clause.id.as_str())
        .collect();
    assert!(without.is_empty(), "no test and no expectation that is run cites {without:#?}");
}

#[test]
fn no_citation_is_misspelt() {
    let clauses = Clauses::load();
    let mut unknown = Vec::new();
    for path in texts(&project()) {
        let file = shown(&path);
        if is_this_test(&file) {
            continue;
        }
        for (number, line) in read(&path).lines().enumerate() {
            let wrong = citations(line).filter(|id| clauses.get(id).is_none());
            unknown.extend(wrong.map(|id| format!("{file}:{}: {id}", number + 1)));
        }
    }
    assert!(unknown.is_empty(), "docs/clauses.toml has no such clause: {unknown:#?}");
}

#[test]
fn the_page_is_current() {
    let path = project().join("docs/conformance.md");
    let made = page::render(&Clauses::load(), &proofs());
    if std::env::var_os("UPDATE_CONFORMANCE").is_some() {
        fs::write(&path, &made).expect("the page");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let differs = made.lines().zip(kept.lines()).find(|(made, kept)| made != kept);
    assert!(
        made == kept,
        "docs/conformance.md is not what the citations say now, first at {differs:?}; make it anew:\n\
         UPDATE_CONFORMANCE=1 cargo test -p ntm-harness --test conformance"
    );
}

/// Every text of the project in which a clause could be cited.
fn texts(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if entry.is_dir() {
            if !name.starts_with('.') && !["target", "runs"].contains(&name.as_str()) {
                out.extend(texts(&entry));
            }
        } else if [".rs", ".toml", ".md", ".sh"].iter().any(|end| name.ends_with(end)) {
            out.push(entry);
        }
    }
    out.sort();
    out
}
