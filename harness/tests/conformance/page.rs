//! `docs/conformance.md`.

use std::fmt::Write as _;

use crate::clauses::Clauses;
use crate::{Evidence, Proofs};

const HEAD: &str = "\
# Conformance

What the thesis asks for, clause by clause, and what proves it here. Every entry is a test, or an expectation of a scenario that the tests run:
it fails when the behaviour is broken. `./test` runs them all.

This page is made from [clauses.toml](clauses.toml) and the citations in tests and scenarios; do not write in it:

```sh
UPDATE_CONFORMANCE=1 cargo test -p ntm-harness --test conformance
```
";

/// The page; without line numbers, so that it changes only when a proof does.
pub(crate) fn render(clauses: &Clauses, proofs: &Proofs) -> String {
    let mut out = HEAD.to_owned();
    for section in &clauses.section {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "\n## {}", section.title);
        for clause in &section.clause {
            let _ = writeln!(out, "\n### {}\n\n{}", clause.id, clause.says);
            if let Some(decided) = &clause.decided {
                let _ = writeln!(out, "\n**Decided:** {decided}");
            }
            if let Some(open) = &clause.open {
                let _ = writeln!(out, "\n**Open:** {open}.");
            }
            let evidence = proofs.get(&clause.id).map(Vec::as_slice).unwrap_or_default();
            if !evidence.is_empty() {
                out.push('\n');
            }
            for Evidence { file, name } in evidence {
                let name =
                    if file.ends_with(".rs") { format!("`{name}`") } else { format!("else “{name}”") };
                let _ = writeln!(out, "- [{file}](../{file}): {name}");
            }
        }
    }
    out
}
