//! The expectations of scenarios that the project's tests run.

use std::path::Path;

use crate::{project, read, rust, shown};

/// An expectation with the comment right above it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Expectation {
    pub(crate) file: String,
    pub(crate) comment: String,
    /// The sentence that is printed when it fails.
    pub(crate) fail: String,
}

/// The tests that run scenarios whole.
const RUN_BY: &str = "harness/tests/scenarios.rs";

/// Those of every scenario that a test in [`RUN_BY`] names.
pub(crate) fn expectations() -> Vec<Expectation> {
    let tests: Vec<_> = rust::tests().into_iter().filter(|test| test.file == RUN_BY).collect();
    let folder = project().join("scenarios");
    let mut out = Vec::new();
    for path in crate::texts(&folder).iter().filter(|path| path.extension().is_some_and(|end| end == "toml"))
    {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        if tests.iter().any(|test| test.text.contains(&format!("\"{name}\""))) {
            out.extend(within(path, &read(path)));
        }
    }
    assert!(!out.is_empty(), "{RUN_BY} runs no scenario");
    out
}

fn within(path: &Path, text: &str) -> Vec<Expectation> {
    let lines: Vec<&str> = text.lines().collect();
    let mut out = Vec::new();
    for (at, _) in lines.iter().enumerate().filter(|(_, line)| is_expectation(line)) {
        let comment: Vec<&str> =
            lines[..at].iter().rev().take_while(|line| line.starts_with('#')).copied().collect();
        let table = lines[at + 1..].iter().take_while(|line| !line.starts_with("[["));
        let sentence =
            |line: &&str| Some(line.strip_prefix("fail")?.split_once('"')?.1.rsplit_once('"')?.0.to_owned());
        let fail = table.filter_map(sentence).next();
        let fail = fail.unwrap_or_else(|| panic!("{}:{}: no `fail`", path.display(), at + 1));
        out.push(Expectation { file: shown(path), comment: comment.join("\n"), fail });
    }
    out
}

/// Of a run, or over all rounds.
fn is_expectation(line: &str) -> bool {
    matches!(line.trim(), "[[expect]]" | "[[matrix.expect]]")
}

#[test]
fn a_citation_stands_right_above_its_expectation() {
    let text = "\
# T1-a

# T1-b, of
# two lines
[[expect]]
check = \"x\"
fail  = \"the first\"

# T1-c
[[flow]]
id = \"x\"

[[expect]]
sequence = [
    \"y\",
]
fail = \"the second\"

# T1-d
[[matrix.expect]]
check = \"z\"
fail = \"the third\"
";
    let found: Vec<_> = within(Path::new("x.toml"), text)
        .into_iter()
        .map(|it| (it.fail, crate::citations(&it.comment).collect::<Vec<_>>().join(" ")))
        .collect();
    assert_eq!(
        found,
        [
            ("the first".to_owned(), "T1-b".to_owned()),
            ("the second".to_owned(), String::new()),
            ("the third".to_owned(), "T1-d".to_owned())
        ]
    );
}
