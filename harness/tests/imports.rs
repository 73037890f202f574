//! Who may import whom: the table of docs/architecture.md, held against `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Each package with the packages of this workspace that it may import, whatever the features, tests left out.
const TABLE: &[(&str, &[&str])] = &[
    ("ntm-protocol", &[]),
    ("ntm-daemon", &["ntm-protocol"]),
    ("ntm-tunnel", &["ntm-protocol"]),
    ("ntm-dc", &["ntm-protocol", "ntm-daemon", "ntm-dns"]),
    ("ntm-relay", &["ntm-protocol", "ntm-daemon", "ntm-tunnel"]),
    ("ntm-terminal", &["ntm-protocol", "ntm-daemon", "ntm-tunnel"]),
    ("ntm-nat", &["ntm-protocol", "ntm-daemon"]),
    ("ntm-dns", &["ntm-daemon"]),
    ("ntm-sim", &["ntm-protocol", "ntm-nat"]),
    ("ntm-harness", &["ntm-protocol", "ntm-sim", "ntm-nat", "ntm-dns"]),
];

#[test]
fn nobody_imports_whom_it_may_not() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let metadata = MetadataCommand::new().manifest_path(manifest).no_deps().exec().expect("cargo metadata");
    let ours: BTreeSet<String> = metadata.packages.iter().map(|package| package.name.to_string()).collect();
    let table: BTreeMap<&str, &[&str]> = TABLE.iter().copied().collect();
    assert_eq!(
        ours,
        table.keys().map(|name| (*name).to_owned()).collect(),
        "the table names every package of the workspace"
    );

    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let allowed = table[package.name.as_str()];
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            if !ours.contains(name) || dependency.kind == DependencyKind::Development {
                continue;
            }
            if !allowed.contains(&name) {
                wrong.push(format!("{} imports {name}", package.name));
            }
            // The router's half of ntm-nat, and all that it needs, stays out of whoever wants the pure library.
            let pure =
                name == "ntm-nat" && !dependency.uses_default_features && dependency.features.is_empty();
            let optional = package.name.as_str() == "ntm-nat" && name == "ntm-daemon" && dependency.optional;
            if name == "ntm-nat" && !pure {
                wrong.push(format!("{} imports ntm-nat with its router", package.name));
            }
            if package.name.as_str() == "ntm-nat" && name == "ntm-daemon" && !optional {
                wrong.push("ntm-nat's library imports ntm-daemon".to_owned());
            }
        }
    }
    assert!(wrong.is_empty(), "docs/architecture.md forbids it: {wrong:#?}");
}

/// The page's table and this test's are one.
#[test]
fn the_page_says_the_same() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/architecture.md"))
        .expect("the page");
    let shorter = |name: &str| name.trim_start_matches("ntm-").to_owned();
    for (package, allowed) in TABLE {
        let row =
            page.lines().find(|line| line.starts_with('|') && line.contains(&format!("| `{package}` |")));
        let row = row.unwrap_or_else(|| panic!("docs/architecture.md has no row for {package}"));
        let said = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        for name in allowed.iter().map(|name| shorter(name)) {
            assert!(said.contains(&name), "the page does not let {package} import {name}: {said}");
        }
        for (other, _) in TABLE.iter().filter(|(other, _)| !allowed.contains(other)) {
            let named = said.split(|c: char| !c.is_alphanumeric()).any(|word| word == shorter(other));
            assert!(
                !named || said.contains("none of ours"),
                "the page lets {package} import {other}: {said}"
            );
        }
    }
}
