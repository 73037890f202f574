//! `summary.md`: the verdict as Markdown, for the summary page of a CI job.

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::Report;
use super::tables::entry;

/// So many lines of what was found are shown for an expectation that failed.
const MOST: usize = 30;

/// The report as Markdown.
pub fn render(report: &Report) -> String {
    let held = report.expectations.iter().filter(|judged| judged.held).count();
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(out, "## {}: {}\n\n{}\n", cell(&report.scenario), report.verdict, cell(&report.about));
    let _ = writeln!(
        out,
        "{held} of {} expectations held, exit code {}, {:.1} s, seed {}.\n",
        report.expectations.len(),
        report.exit,
        report.seconds,
        report.seed
    );
    for (title, lines) in [("Problem", &report.problems), ("Note", &report.notes)] {
        for line in lines {
            let _ = writeln!(out, "> **{title}:** {}\n", cell(line));
        }
    }
    if !report.expectations.is_empty() {
        out += "| verdict | expectation |\n|---|---|\n";
    }
    for judged in &report.expectations {
        let mark = if judged.held { "held".to_owned() } else { format!("**{}**", judged.word()) };
        let _ = writeln!(out, "| {mark} | {} |", code(&judged.check));
    }
    for judged in report.expectations.iter().filter(|judged| !judged.held) {
        let _ = writeln!(out, "\n**{}**\n\n```text", cell(&judged.fail));
        let found = judged.found.iter().take(MOST).cloned();
        for line in found.chain(judged.disturbed.iter().map(|line| format!("disturbed: {line}"))) {
            let _ = writeln!(out, "{}", line.replace("```", "'''"));
        }
        if judged.found.len() > MOST {
            let _ = writeln!(out, "… and {} more", judged.found.len() - MOST);
        }
        out += "```\n";
    }
    for table in &report.tables {
        let _ = writeln!(
            out,
            "\n### {}\n\n| {} |",
            cell(&table.title),
            row(table.columns.iter().map(|name| cell(name)))
        );
        let _ = writeln!(out, "|{}", "---|".repeat(table.columns.len()));
        for values in &table.rows {
            let _ = writeln!(out, "| {} |", row(values.iter().map(value)));
        }
        for note in &table.notes {
            let _ = writeln!(out, "\n{}", cell(note));
        }
    }
    for (number, one) in report.handovers.iter().enumerate() {
        let _ =
            writeln!(out, "\n### Handover {}: {} from {} to {}\n", number + 1, one.node, one.from, one.to);
        out += "| stage | until | takes, ms |\n|---|---|---:|\n";
        for stage in &one.stages {
            let ms = stage.end.saturating_sub(stage.begin) as f64 / 1e6;
            let _ = writeln!(out, "| {} | {} | {ms:.1} |", stage.name, stage.until);
        }
    }
    if !report.quantities.is_empty() {
        out += "\n<details><summary>Quantities</summary>\n\n| quantity | value |\n|---|---|\n";
        for (name, measured) in &report.quantities {
            let _ = writeln!(out, "| `{name}` | {} |", value(measured));
        }
        out += "\n</details>\n";
    }
    out
}

fn row(cells: impl Iterator<Item = String>) -> String {
    cells.collect::<Vec<_>>().join(" | ")
}

fn value(value: &Json) -> String {
    cell(&entry(value))
}

/// In one line, and without what Markdown would take for its own.
pub fn cell(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push(' '),
            '|' | '*' | '_' | '`' | '<' | '[' | '\\' => out.extend(['\\', c]),
            other => out.push(other),
        }
    }
    out
}

/// As code in a table's cell, where a bar still ends the cell.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('\n', " ").replace('`', "'").replace('|', "\\|"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn a_summary_says_what_failed_and_why() {
        insta::assert_snapshot!(render(&report()));
    }
}
