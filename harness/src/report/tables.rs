//! Tables of results: filled from what was measured, and shown as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::Table;
use crate::flow::Quantities;
use crate::judge::expr::Value;
use crate::scenario::tables::{Entry, TableSpec};

/// The table that `spec` asks for. What was not measured leaves its entry empty, and a note says why.
pub fn fill(spec: &TableSpec, quantities: &Quantities) -> Table {
    let mut missing: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let value_of = |name: &str| {
        let value = quantities.get(name).cloned().unwrap_or_else(|| Err("nothing measured it".to_owned()));
        value.map_err(|why| (why, name.to_owned()))
    };
    let mut entry = |entry: &Entry| match entry {
        Entry::Text(text) => json!(text),
        Entry::Number(number) => json!(number),
        Entry::Expression(expr) => match expr.get_ref().value(&value_of) {
            Ok(Value::Truth(truth)) => json!(if truth { "holds" } else { "FAILS" }),
            Ok(Value::Number(number)) => json!(number),
            Ok(Value::Text(text)) => json!(text),
            Err((why, name)) => {
                missing.entry(why).or_default().insert(name);
                Json::Null
            }
        },
    };
    let rows: Vec<Vec<Json>> = spec.rows.iter().map(|row| row.iter().map(&mut entry).collect()).collect();
    let mut notes = spec.notes.clone();
    notes.extend(missing.into_iter().map(|(why, names)| {
        let names: Vec<String> = names.into_iter().collect();
        format!("{why}: {}", names.join(", "))
    }));
    Table { title: spec.title.clone(), columns: spec.columns.clone(), rows, notes }
}

/// A table's entry as text: numbers to three decimals where they have any.
pub fn entry(value: &Json) -> String {
    match value {
        Json::Null => String::new(),
        Json::String(text) => text.clone(),
        Json::Number(number) => match number.as_f64() {
            Some(float) if float.fract() != 0.0 => format!("{float:.3}"),
            Some(float) => format!("{float}"),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// The title of the table of all statistics of a scenario that was run in rounds.
pub const OVER_ALL: &str = "Over all rounds";

/// A table as `report.json` has it, with its title and notes, in Markdown.
pub fn markdown(table: &Json) -> String {
    let list = |key: &str| table[key].as_array().cloned().unwrap_or_default();
    let texts =
        |values: &[Json]| values.iter().map(|value| entry(value).replace('|', "\\|")).collect::<Vec<_>>();
    let rows = list("rows").into_iter().map(|row| texts(row.as_array().map_or(&[], Vec::as_slice)));
    let all: Vec<Vec<String>> = std::iter::once(texts(&list("columns"))).chain(rows).collect();
    let mut out = format!("**{}**\n\n{}", entry(&table["title"]), aligned(&all));
    for note in texts(&list("notes")) {
        let _ = writeln!(out, "\n{note}");
    }
    out
}

/// The table with its title and notes, for a terminal.
pub fn text(table: &Table) -> String {
    let head = table.columns.clone();
    let rows = table.rows.iter().map(|row| row.iter().map(entry).collect());
    let mut out =
        format!("{}\n\n{}", table.title, aligned(&std::iter::once(head).chain(rows).collect::<Vec<_>>()));
    for note in &table.notes {
        let _ = writeln!(out, "{note}");
    }
    out
}

/// A table in Markdown whose columns are aligned for whoever reads it as text; the first row is the heading.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| Some(row.get(column)?.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).max(3)).collect();
    let mut out = String::new();
    for (at, row) in rows.iter().enumerate() {
        for (text, width) in row.iter().zip(&widths) {
            let _ = write!(out, "| {text:<width$} ");
        }
        out.push_str("|\n");
        if at == 0 {
            widths.iter().for_each(|width| out.push_str(&format!("|{}", "-".repeat(width + 2))));
            out.push_str("|\n");
        }
    }
    out
}
