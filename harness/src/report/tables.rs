//! Tables of results: filled from what was measured, and shown as text.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::Table;
use crate::flow::Quantities;
use crate::judge::expr::Value;
use crate::scenario::tables::{Entry, TableSpec};

/// The table that `spec` asks for. What was not measured leaves its entry empty, and a note says why.
pub fn fill(spec: &TableSpec, quantities: &Quantities) -> Table {
    let mut notes = spec.notes.clone();
    let value_of = |name: &str| match quantities.get(name) {
        Some(value) => value.clone().map_err(|why| format!("{name} was not measured: {why}")),
        None => Err(format!("{name} was not measured")),
    };
    let mut entry = |entry: &Entry| match entry {
        Entry::Text(text) => json!(text),
        Entry::Number(number) => json!(number),
        Entry::Expression(expr) => match expr.get_ref().value(&value_of) {
            Ok(Value::Truth(truth)) => json!(if truth { "holds" } else { "FAILS" }),
            Ok(Value::Number(number)) => json!(number),
            Ok(Value::Text(text)) => json!(text),
            Err(why) => {
                if !notes.contains(&why) {
                    notes.push(why);
                }
                Json::Null
            }
        },
    };
    let rows = spec.rows.iter().map(|row| row.iter().map(&mut entry).collect()).collect();
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
