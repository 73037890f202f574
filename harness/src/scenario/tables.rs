//! `[[table]]`: results as a table, such as figures that somebody published beside what was measured.

use toml::Spanned;
use toml::de::DeValue;

use super::parse_events::within;
use super::read::{Table, Value, kind};
use crate::judge::expr::{self, Expr};

/// A table to fill when a run is over.
#[derive(Debug, Clone)]
pub struct TableSpec {
    /// What it shows.
    pub title: String,
    /// The columns' headings.
    pub columns: Vec<String>,
    /// The rows; each as long as `columns`.
    pub rows: Vec<Vec<Entry>>,
    /// What a reader should know of it.
    pub notes: Vec<String>,
}

/// What stands in a table.
#[derive(Debug, Clone)]
pub enum Entry {
    /// As it is.
    Text(String),
    /// As it is.
    Number(f64),
    /// What a text says behind `=`, over what was measured.
    Expression(Spanned<Expr>),
}

/// Reads the `[[table]]`s of `top`.
pub(super) fn tables(top: &Table<'_, '_>) -> Vec<TableSpec> {
    let mut out = Vec::new();
    for table in top.tables("table") {
        let title = table.need_text("title").map(Spanned::into_inner);
        table.need("columns");
        let columns: Vec<String> = table.texts("columns").into_iter().map(Spanned::into_inner).collect();
        let notes = table.texts("notes").into_iter().map(Spanned::into_inner).collect();
        let rows = rows(&table, columns.len());
        table.finish();
        if let Some(title) = title {
            out.push(TableSpec { title, columns, rows, notes });
        }
    }
    out
}

fn rows(table: &Table<'_, '_>, width: usize) -> Vec<Vec<Entry>> {
    let mut out = Vec::new();
    let Some(value) = table.need("rows") else { return out };
    let DeValue::Array(rows) = value.get_ref() else {
        table.problem(value.span(), format!("`rows` must be a list of lists, not {}", kind(value.get_ref())));
        return out;
    };
    for row in rows {
        let DeValue::Array(entries) = row.get_ref() else {
            table.problem(row.span(), format!("a row must be a list, not {}", kind(row.get_ref())));
            continue;
        };
        if entries.len() != width {
            let message = format!("there are {width} columns, and {} entries in this row", entries.len());
            table.problem(row.span(), message);
        }
        out.push(entries.iter().filter_map(|value| entry(table, value)).collect());
    }
    out
}

fn entry(table: &Table<'_, '_>, value: &Value<'_>) -> Option<Entry> {
    match value.get_ref() {
        DeValue::String(text) => match text.strip_prefix('=') {
            Some(formula) => match expr::parse(formula) {
                Ok(parsed) => {
                    // The `=` is no part of it.
                    let span = value.span().start + 1..value.span().end;
                    Some(Entry::Expression(Spanned::new(span, parsed)))
                }
                Err(error) => {
                    let whole = Spanned::new(value.span(), text.to_string());
                    let span = error.span.start + 1..error.span.end + 1;
                    table.problem(within(&whole, &span), error.message);
                    None
                }
            },
            None => Some(Entry::Text(text.to_string())),
        },
        DeValue::Integer(number) => number.as_str().parse().ok().map(Entry::Number),
        DeValue::Float(number) => number.as_str().parse().ok().map(Entry::Number),
        other => {
            table.problem(
                value.span(),
                format!("an entry is a text, a number, or a text that begins with =, not {}", kind(other)),
            );
            None
        }
    }
}

impl TableSpec {
    /// The expressions in it.
    pub fn expressions(&self) -> impl Iterator<Item = &Spanned<Expr>> {
        self.rows.iter().flatten().filter_map(|entry| match entry {
            Entry::Expression(expr) => Some(expr),
            Entry::Text(_) | Entry::Number(_) => None,
        })
    }
}
