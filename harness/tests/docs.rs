//! The documents say what the code does: every key, word and quantity stands in `docs/scenarios.md`, every example is checked, and
//! no link leads nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use ntm_harness::judge::catalogue;
use ntm_harness::plan::address;
use ntm_harness::scenario::model::Scenario;
use ntm_harness::scenario::schema::{self, Key, page};
use ntm_harness::scenario::{check, source::Source};
use ntm_harness::statistics::STATISTICS;

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn reference() -> String {
    read(&project().join("docs/scenarios.md"))
}

/// What `harness check` says of `text`.
fn checked(name: &str, text: String) -> Result<Scenario, String> {
    let scenario = check(&Source { name: name.to_owned(), text })?;
    address::plan(&scenario).map(|_| scenario)
}

/// The code blocks of a document that begin with ```` ```INFO ````.
fn blocks(document: &str, info: &str) -> Vec<String> {
    let (mut out, mut open) = (Vec::new(), None::<(bool, String)>);
    for line in document.lines() {
        open = match (open, line.strip_prefix("```")) {
            (None, None) => None,
            (None, Some(opened)) => Some((opened == info, String::new())),
            (Some((wanted, text)), Some(_)) => {
                out.extend(wanted.then_some(text));
                None
            }
            (Some((wanted, text)), None) => Some((wanted, text + line + "\n")),
        };
    }
    assert!(open.is_none(), "a code block is not closed");
    out
}

/// Far from every name, so that `check` lists all that it knows instead of the nearest.
const NONSENSE: &str = "qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq";

/// Nonsense in every table, and for every word.
const EVERYTHING_WRONG: &str = r#"
schema = 1
name = "wrong"
about = "wrong"
? = 1
[internet]
? = 1
[disturbance]
? = 1
[link.l]
? = 1
both = { ? = 1 }
[router.r]
nat = "?"
? = 1
[router.s]
nat = { preset = "?", mapping = "?", filtering = "?", allocation = "?", ? = 1, timeouts = { ? = 1 } }
[tunnel.t]
program = "?"
? = 1
[node]
a = { role = "?", at = "internet" }
b = { role = "dns", at = "internet", zone = ".", ? = 1 }
c = { role = "coordinator", at = "internet", zone = "c.test", vips = "198.18.0.0/16", suite = "?", relay_selection = "?", ? = 1 }
d = { role = "relay", at = "internet", rs_s = "?", ? = 1 }
e = { role = "general", at = "internet", name = "e.test", state = "?", ? = 1 }
f = { role = "terminal", at = "r", ? = 1 }
g = { role = "terminal", eth0 = { at = "r", ? = 1 } }
[[flow]]
id = "a"
? = 1
iperf3 = { from = "e", to = "e.test", duration = "1s", ? = 1 }
[[flow]]
id = "b"
ping = { from = "e", to = "e.test", ? = 1 }
[[flow]]
id = "c"
http = { from = "e", to = "e.test", ? = 1 }
[[flow]]
id = "f"
ftp = { from = "e", to = "e.test", mode = "?", ? = 1 }
[[flow]]
id = "s"
sip = { from = "e", to = "e.test", ? = 1 }
[[flow]]
id = "u"
udp = { from = "e", to = "e.test", ? = 1 }
[[flow]]
id = "pp"
pingpong = { from = "e", to = "e.test", ? = 1 }
[[flow]]
id = "p"
probe = { from = "e", to = "e.test", duration = "1s", ? = 1 }
[[flow]]
id = "d"
exec = { node = "e", command = "true", ? = 1 }
[[flow]]
id = "n"
dns = { node = "f", name = "e.test", record = "?", ? = 1 }
[[at]]
time = "1s"
? = 1
handover = { node = "g", from = "eth0", to = "eth0", ? = 1 }
[[at]]
time = "1s"
address = { node = "g", interface = "eth0", address = "10.1.0.9", ? = 1 }
[[at]]
time = "1s"
interface = { node = "g", name = "eth0", state = "up", ? = 1 }
[[at]]
time = "1s"
link = { name = "l", ? = 1 }
[[at]]
time = "1s"
kill = { node = "g", ? = 1 }
[[at]]
time = "1s"
start = { node = "g", ? = 1 }
[[table]]
title = "wrong"
columns = []
rows = []
? = 1
[[expect]]
fail = "wrong"
? = 1
sequence = ["e: ?", "e: sent ?", "e: asked ?", "e: directed ?"]
[matrix]
show = "run.ready_ms"
? = 1
[[matrix.axis]]
name = "a"
path = "about"
values = ["b"]
? = 1
[[matrix.cell]]
name = "a"
? = 1
"#;

/// The section that is about what problems call `table`: "`both` of [link.l]", "[[expect]]".
fn declared(table: &str) -> (&'static str, BTreeSet<&'static str>) {
    let (first, outer) =
        (table.split(' ').next().unwrap_or_default(), table.rsplit(' ').next().unwrap_or_default());
    let id = match (first.trim_matches('`'), outer) {
        ("the", _) => "file",
        ("both", _) => "direction",
        ("link", "[[at]]") => "link-action",
        ("interface", "[[at]]") => "interface-action",
        ("kill" | "start", _) => "daemon",
        ("eth0", _) => "interface",
        (inner, _) if first != outer => inner,
        _ => outer.trim_matches(['[', ']']).split('.').next().unwrap_or_default(),
    };
    let section = |id: &str| {
        schema::sections()
            .into_iter()
            .find(|section| section.id == id)
            .unwrap_or_else(|| panic!("{table}: {id}"))
    };
    let this = section(id);
    let mut keys: Vec<&Key> =
        this.keys.iter().chain(this.extends.iter().flat_map(|(base, _)| base.keys)).collect();
    if let Some(node) = outer.strip_prefix("[node.").and_then(|rest| rest.strip_suffix(']'))
        && id == "node"
    {
        let line = EVERYTHING_WRONG.lines().find(|line| line.starts_with(&format!("{node} = ")));
        let line = line.unwrap_or_else(|| panic!("no node {node}"));
        keys.retain(|key| {
            key.of.is_empty() || key.of.iter().any(|role| line.contains(&format!("\"{role}\"")))
        });
        if line.contains(" at = ") && !line.contains("eth0") {
            keys.extend(section("interface").keys);
        } else {
            // A host that names its interfaces may have `at` in its own table instead.
            keys.extend(section("interface").keys.iter().filter(|key| key.names == ["at"]));
        }
    }
    (this.id, keys.into_iter().flat_map(|key| key.names).copied().collect())
}

#[test]
fn the_schema_declares_the_keys_and_words_that_the_parser_knows() {
    let nonsense = EVERYTHING_WRONG.matches('?').count();
    let said = checked("wrong", EVERYTHING_WRONG.replace('?', NONSENSE)).expect_err("it is all wrong");
    let keys = || schema::sections().into_iter().flat_map(|section| section.keys);
    let words: Vec<BTreeSet<&str>> =
        keys().filter_map(|key| key.kind.words()).map(|words| words.into_iter().collect()).collect();
    let document = reference();
    let (mut lists, mut missing, mut compared) = (0, BTreeSet::new(), BTreeSet::from(["ends"]));
    for problem in said.split("\n\n") {
        let first = problem.lines().next().unwrap_or_default();
        let Some(list) = problem.lines().find_map(|line| Some(line.split_once(" known: ")?.1)) else {
            continue;
        };
        lists += 1;
        let known: BTreeSet<&str> = list.split(", ").collect();
        if let Some((_, table)) = first.split_once(&format!("unknown key `{NONSENSE}` in ")) {
            let known: BTreeSet<&str> = known.into_iter().filter(|key| *key != "eth0").collect();
            let (section, keys) = declared(table);
            assert_eq!(known, keys, "the parser's keys and the schema's in {table}");
            compared.insert(section);
        } else if first.contains("` cannot be ") {
            assert!(words.contains(&known), "no key of the schema has the words of: {first}\n{known:?}");
        } else {
            let absent = known.into_iter().filter(|name| !document.contains(&format!("`{name}`")));
            missing.extend(absent.map(|name| format!("{name} ({first})")));
        }
    }
    assert_eq!(lists, nonsense, "one list for each nonsense\n{said}");
    assert!(missing.is_empty(), "docs/scenarios.md lacks {missing:#?}");
    assert_eq!(compared, schema::sections().into_iter().map(|section| section.id).collect());
}

/// `UPDATE_REFERENCE=1` writes it anew.
#[test]
fn the_tables_of_the_reference_are_those_of_the_schema() {
    let document = reference();
    assert_eq!(page::missing(&document), Vec::<&str>::new(), "sections without a mark");
    let current = page::filled(&document).unwrap_or_else(|message| panic!("{message}"));
    if std::env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(project().join("docs/scenarios.md"), &current).expect("docs/scenarios.md");
    }
    assert!(
        reference() == current,
        "docs/scenarios.md is not current: UPDATE_REFERENCE=1 cargo test -p ntm-harness --test docs"
    );
}

#[test]
fn every_quantity_stands_in_the_reference_as_the_catalogue_has_it() {
    let text = r#"
schema = 1
name = "all"
about = "one of each that is measured"
[link.l]
both = { delay = "1ms" }
[router.r]
nat = "none"
link = "l"
[router.s]
nat = "symmetric"
[node]
root = { role = "dns", at = "internet", zone = "." }
dc = { role = "coordinator", at = "internet", zone = "dc.test", vips = "198.18.0.0/16" }
rs = { role = "relay", at = "internet" }
t = { role = "terminal", at = "internet" }
u = { role = "terminal", at = "internet" }
b = { role = "general", at = "r", name = "b.test" }
g = { role = "terminal", at = "internet", count = 2 }
a = { role = "general", eth0 = { at = "internet", ip = "both" }, eth1 = { at = "r", state = "down" } }
[[flow]]
id = "ID"
KIND
[[flow]]
id = "PATH"
ping = { from = "t", to = "u.dc.test" }
[[flow]]
id = "MANY"
ping = { from = "g", to = "b.test" }
[[at]]
time = "1s"
handover = { node = "a", from = "eth0", to = "eth1" }
"#;
    let kinds = [
        r#"iperf3 = { from = "a", to = "b.test", duration = "1s" }"#,
        r#"iperf3 = { from = "a", to = "b.test", duration = "1s", udp = true, rate = "1mbit" }"#,
        r#"ping = { from = "a", to = "b.test" }"#,
        r#"dns = { node = "t", name = "b.test" }"#,
        r#"http = { from = "a", to = "b.test" }"#,
        r#"ftp = { from = "a", to = "b.test", mode = "active" }"#,
        r#"sip = { from = "a", to = "b.test" }"#,
        r#"udp = { from = "a", to = "b.test" }"#,
        r#"pingpong = { from = "a", to = "b.test" }"#,
        r#"probe = { from = "a", to = "b.test", duration = "1s" }"#,
        r#"exec = { node = "a", command = "true" }"#,
    ];
    let mut rows = BTreeSet::new();
    for kind in kinds {
        let scenario =
            checked("all", text.replace("KIND", kind)).unwrap_or_else(|message| panic!("{message}"));
        for (name, (kind, about)) in catalogue::of(&scenario) {
            let name =
                ["a", "b", "t", "u", "g1", "g2", "rs", "dc", "root"].iter().fold(name, |name, node| {
                    let of_interface = |name: String, interface: &str| {
                        name.replace(&format!("node.{node}.{interface}."), "node.NAME.INTERFACE.")
                    };
                    ["eth0", "eth1"]
                        .into_iter()
                        .fold(name, of_interface)
                        .replace(&format!("node.{node}."), "node.NAME.")
                });
            let name = name
                .replace("flow.PATH.", "flow.ID.")
                .replace("flow.MANY1.", "flow.ID.")
                .replace("flow.MANY2.", "flow.ID.")
                .replace("flow.MANY.", "flow.GROUP.")
                .replace("group.g.", "group.NAME.")
                .replace("path.g1.b.", "path.TERMINAL.PEER.")
                .replace("path.g2.b.", "path.TERMINAL.PEER.")
                .replace("path.t.u.", "path.TERMINAL.PEER.")
                .replace("path.u.t.", "path.TERMINAL.PEER.")
                .replace("relay.rs.", "relay.NAME.")
                .replace("link.l.up.", "link.NAME.DIRECTION.")
                .replace("link.l.down.", "link.NAME.DIRECTION.")
                .replace("router.r.", "router.NAME.")
                .replace("router.s.", "router.NAME.")
                .replace("nat.s.", "nat.NAME.")
                .replace("handover.1.", "handover.N.");
            rows.insert(format!("| `{name}` | {kind} | {about} |"));
        }
    }
    let document = reference();
    let written: BTreeSet<String> = document
        .lines()
        .skip_while(|line| *line != "### Quantities")
        .take_while(|line| *line != "### Sequences")
        .filter(|line| line.starts_with("| `"))
        .map(str::to_owned)
        .collect();
    let missing: Vec<_> = rows.difference(&written).collect();
    let invented: Vec<_> = written.difference(&rows).collect();
    assert!(missing.is_empty() && invented.is_empty(), "missing: {missing:#?}\ninvented: {invented:#?}");
}

#[test]
fn every_statistic_stands_in_the_reference() {
    let document = reference();
    for (name, about) in STATISTICS {
        assert!(document.contains(&format!("| `{name}` | {about} |")), "{name}");
    }
}

#[test]
fn every_example_is_right() {
    for name in ["scenarios.md", "tutorial.md", "tutorial-research.md"] {
        let document = read(&project().join("docs").join(name));
        let whole = blocks(&document, "toml scenario");
        assert!(!whole.is_empty(), "{name} has no whole scenario");
        for text in whole {
            let scenario = checked(name, text).unwrap_or_else(|message| panic!("{message}"));
            assert!(!scenario.expectations.is_empty(), "{name}: an example that expects nothing");
        }
    }
}

#[test]
fn the_fragments_of_the_reference_are_one_scenario_together() {
    let together = blocks(&reference(), "toml").join("\n");
    let scenario = checked("docs/scenarios.md", together).unwrap_or_else(|message| panic!("{message}"));
    assert!(scenario.flows.len() >= 4 && scenario.actions.len() >= 3, "a fragment is not found");
}

/// Every document of the project.
fn documents() -> Vec<PathBuf> {
    let mut documents: Vec<PathBuf> = fs::read_dir(project().join("docs"))
        .expect("docs")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    documents.push(project().join("README.md"));
    documents
}

#[test]
fn every_command_shown_is_one_that_the_harness_understands() {
    let mut seen = 0;
    for path in documents() {
        let commands = blocks(&read(&path), "sh").join("\n");
        for line in commands.lines().filter_map(|line| line.trim().strip_prefix("./run ")) {
            // What the shell takes for itself.
            let own = line.split(['#', '|', '>', '&']).next().unwrap_or_default();
            let mut arguments: Vec<&str> = own.split_whitespace().collect();
            // As `run` does.
            if arguments.first().is_some_and(|first| first.ends_with(".toml") || first.contains('/')) {
                arguments.insert(0, "run");
            }
            let understood = ntm_harness::cli::understands(arguments);
            assert_eq!(understood, Ok(()), "{}: ./run {line}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 40, "only {seen} commands were found");
}

#[test]
fn links_lead_somewhere() {
    let mut followed = 0;
    for path in documents() {
        let text = read(&path);
        for link in text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0)) {
            let file = link.split('#').next().unwrap_or_default();
            if link.contains("://") || file.is_empty() {
                continue;
            }
            let target = path.parent().expect("a folder").join(file);
            assert!(target.exists(), "{}: {link} leads nowhere", path.display());
            followed += 1;
        }
    }
    assert!(followed > 3, "only {followed} links were found");
}

/// Every Rust file of the project, and its text.
fn sources(folder: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            let shown = path.strip_prefix(project()).expect("in the project").display().to_string();
            found.insert(shown, read(&path));
        }
    }
}

/// How often `text` has the word in its code.
fn unsafe_places(text: &str) -> usize {
    // Written so that it is none itself.
    let word = ["un", "safe"].concat();
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.map(|line| {
        [" {", " fn", " impl", " extern"]
            .iter()
            .map(|what| line.matches(&(word.clone() + what)).count())
            .sum::<usize>()
    })
    .sum()
}

#[test]
fn all_unsafe_code_is_listed_with_its_tests() {
    let mut files = BTreeMap::new();
    sources(&project(), &mut files);
    let found: BTreeMap<_, _> = files
        .iter()
        .map(|(file, text)| (file.as_str(), unsafe_places(text)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let architecture = read(&project().join("docs/architecture.md"));
    let section =
        architecture.split("\n## ").find(|section| section.starts_with("Unsafe code")).expect("the section");
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let mut listed = BTreeMap::new();
    for row in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let [_, file, count, why, tests, _] = cells[..] else { panic!("{row}") };
        assert!(!why.is_empty());
        let (file, tests) = (quoted(file).concat(), quoted(tests));
        assert!(!tests.is_empty(), "{file} has no test");
        for test in tests {
            let declared = format!("#[test]\nfn {test}(");
            let is_there = |text: &String| {
                let lines: Vec<_> = text.lines().map(str::trim).collect();
                lines.join("\n").contains(&declared)
            };
            assert!(files.values().any(is_there), "{file}: there is no test {test}");
        }
        listed.insert(file, count.parse::<usize>().expect("a number"));
    }
    let listed: BTreeMap<_, _> = listed.iter().map(|(file, count)| (file.as_str(), *count)).collect();
    assert_eq!(listed, found);
}
