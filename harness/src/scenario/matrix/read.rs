//! Reads `[matrix]`, and finds the places of the file that it names.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Axis, AxisValue, Edit, MOST_CELLS, MOST_ROUNDS, Matrix};
use crate::scenario::model::Check;
use crate::scenario::parse_events::expectations;
use crate::scenario::read::{Table, Value, kind};
use crate::scenario::source::{Problem, suggest};
use crate::scenario::tables::tables;

/// Reads `[matrix]` of the file whose text and whole table are given.
pub(in crate::scenario) fn matrix(top: &Table<'_, '_>, document: &DeTable<'_>, text: &str) -> Option<Matrix> {
    let value = top.get("matrix")?;
    let table = Table::of("[matrix]", value, top.problems())?;
    let show = table.texts("show");
    let rounds = table.integer("rounds", 1, MOST_ROUNDS);
    let mut axes: Vec<Axis> = table
        .tables("axis")
        .into_iter()
        .filter_map(|inner| {
            let axis = axis(&inner, document, text);
            inner.finish();
            axis
        })
        .collect();
    let listed = table.get("cell");
    let seed = seed(document);
    if let Some(cells) = listed {
        let span = cells.span();
        if table.get("axis").is_some() {
            table.problem(span.clone(), "a matrix has either axes or a list of cells");
        }
        let values = table.tables("cell").into_iter().filter_map(|inner| {
            let cell = cell(&inner, document, text);
            inner.finish();
            cell
        });
        let values: Vec<AxisValue> = values.collect();
        let mut names = BTreeSet::new();
        for value in &values {
            if !names.insert(&value.label) {
                table.problem(value.span.clone(), format!("two cells are called `{}`", value.label));
            }
        }
        axes.push(Axis { name: Spanned::new(span, "cell".to_owned()), values });
    } else if rounds.is_none() {
        table.need("show");
        table.need("axis");
    }
    if let (Some(second), false, None) = (show.get(1), listed.is_some(), rounds) {
        table.problem(second.span(), "a grid shows one quantity");
    }
    let mut names = BTreeSet::new();
    let mut taken: Vec<&Range<usize>> = Vec::new();
    for axis in &axes {
        if !names.insert(axis.name.get_ref()) {
            table.problem(axis.name.span(), format!("two axes are called `{}`", axis.name.get_ref()));
        }
        for place in axis.values.first().into_iter().flat_map(|value| &value.edits).map(|edit| &edit.place) {
            if taken.iter().any(|other| overlap(other, place)) {
                table.problem(axis.name.span(), "another axis varies the same place");
            }
            taken.push(place);
        }
    }
    let count = axes.iter().try_fold(1_usize, |count, axis| count.checked_mul(axis.values.len()));
    if count.is_none_or(|count| count > MOST_CELLS) {
        table.problem(table.head(), format!("the matrix has more than {MOST_CELLS} cells"));
    }
    if let (Some(rounds), None) = (table.get("rounds"), &seed) {
        table.problem(rounds.span(), "each round has a seed of its own: give the file a `seed`");
    }
    let expectations = expectations(&table);
    for expectation in &expectations {
        if let Check::Sequence { steps, .. } = &expectation.check {
            let span = steps.first().map_or(table.head(), Spanned::span);
            table
                .problem(span, "over all rounds there is no sequence: write it in an [[expect]] of the file");
        }
    }
    let tables = tables(&table);
    if let (None, Some(span)) = (rounds, table.get("expect").or(table.get("table")).map(Spanned::span)) {
        table.problem(span, "this is about all rounds: say `rounds`, how many there are");
    }
    table.finish();
    let extent = extent(document, text);
    Some(Matrix { show, axes, listed: listed.is_some(), rounds, seed, extent, expectations, tables })
}

/// From each heading of the matrix to the next heading of something else, or the end.
fn extent(document: &DeTable<'_>, text: &str) -> Vec<Range<usize>> {
    let mut headings = Vec::new();
    for (key, value) in document.iter() {
        heads(value, key.get_ref() == "matrix", text, &mut headings);
    }
    headings.sort_unstable();
    let ends = headings.iter().skip(1).map(|(start, _)| *start).chain([text.len()]);
    let regions = headings.iter().zip(ends).filter(|((_, is_matrix), _)| *is_matrix);
    regions.map(|((start, _), end)| *start..end).collect()
}

/// Where the tables in `value` that have headings begin.
fn heads(value: &Value<'_>, is_matrix: bool, text: &str, out: &mut Vec<(usize, bool)>) {
    match value.get_ref() {
        DeValue::Table(table) => {
            if text.get(value.span().start..).is_some_and(|text| text.starts_with('[')) {
                out.push((value.span().start, is_matrix));
            }
            table.iter().for_each(|(_, inner)| heads(inner, is_matrix, text, out));
        }
        DeValue::Array(items) => items.iter().for_each(|item| heads(item, is_matrix, text, out)),
        _ => {}
    }
}

/// Where the file has its seed, and what it is.
pub(in crate::scenario) fn seed(document: &DeTable<'_>) -> Option<(Range<usize>, u64)> {
    let value = document.get("seed")?;
    let DeValue::Integer(number) = value.get_ref() else { return None };
    Some((value.span(), u64::from_str_radix(number.as_str(), number.radix()).ok()?))
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

/// The place that `path` leads to; notes a problem at `span` if there is none.
fn place(
    table: &Table<'_, '_>,
    document: &DeTable<'_>,
    path: &str,
    span: Range<usize>,
) -> Option<Range<usize>> {
    match find(document, path) {
        Ok(place) => Some(place),
        Err((message, hint)) => {
            let problem = Problem::new(span, message);
            table.problems().add(Problem { hint, ..problem });
            None
        }
    }
}

/// `[[matrix.cell]]`
fn cell(table: &Table<'_, '_>, document: &DeTable<'_>, text: &str) -> Option<AxisValue> {
    let name = table.need_text("name")?;
    let good = name.get_ref().starts_with(|c: char| c.is_ascii_lowercase())
        && name.get_ref().chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !good {
        let message = format!(
            "{:?} cannot name a cell: use lower-case letters, digits and _, a letter first",
            name.get_ref()
        );
        table.problem(name.span(), message);
    }
    let mut edits: Vec<Edit> = Vec::new();
    if let Some(set) = table.get("set").and_then(|set| Table::of("`set` of [[cell]]", set, table.problems()))
    {
        for (path, span, value) in set.rest() {
            let Some(place) = place(table, document, path, span.clone()) else { continue };
            if edits.iter().any(|other| overlap(&other.place, &place)) {
                table.problem(span, "this cell sets the same place twice");
            }
            let written = text.get(value.span()).unwrap_or_default();
            edits.push(Edit { place, text: written.to_owned(), span: value.span() });
        }
    }
    let check = table.text("check").map(|check| {
        let span = check.span();
        (text.get(span.clone()).unwrap_or_default().to_owned(), span)
    });
    let (span, label) = (name.span(), name.into_inner());
    Some(AxisValue { label, span, edits, check })
}

fn axis(table: &Table<'_, '_>, document: &DeTable<'_>, text: &str) -> Option<Axis> {
    let name = table.need_text("name");
    if let Some(name) = &name
        && (name.get_ref().is_empty()
            || !name.get_ref().chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
    {
        table.problem(
            name.span(),
            format!("{:?} cannot name an axis: use letters, digits and _", name.get_ref()),
        );
    }
    table.need("path");
    let paths = table.texts("path").into_iter();
    let places: Vec<_> =
        paths.filter_map(|path| place(table, document, path.get_ref(), path.span())).collect();
    let labels = table.texts("labels");
    let values = table.need("values")?;
    let DeValue::Array(items) = values.get_ref() else {
        table.problem(values.span(), format!("`values` must be a list, not {}", kind(values.get_ref())));
        return None;
    };
    if items.is_empty() {
        table.problem(values.span(), "an axis has at least one value");
    }
    if !labels.is_empty() && labels.len() != items.len() {
        let span = table.get("labels").map_or(0..0, |labels| labels.span());
        table.problem(span, format!("there are {} values and {} labels", items.len(), labels.len()));
    }
    let value = |(at, item): (usize, &Value<'_>)| {
        let written = text.get(item.span()).unwrap_or_default();
        let label = match (labels.get(at), item.get_ref()) {
            (Some(label), _) => label.get_ref().clone(),
            (None, DeValue::String(word)) => word.to_string(),
            (None, _) => written.split_whitespace().collect::<Vec<_>>().join(" "),
        };
        let edit =
            |place: &Range<usize>| Edit { place: place.clone(), text: written.to_owned(), span: item.span() };
        AxisValue { label, span: item.span(), edits: places.iter().map(edit).collect(), check: None }
    };
    let values: Vec<AxisValue> = items.iter().enumerate().map(value).collect();
    let mut slugs = BTreeSet::new();
    for value in &values {
        if value.slug().is_empty() || !slugs.insert(value.slug()) {
            let message =
                format!("{:?} does not tell this value from the others: give the axis `labels`", value.label);
            table.problem(value.span.clone(), message);
        }
    }
    Some(Axis { name: name?, values })
}

/// The place of the value that `path` leads to: keys, and for the entries of lists numbers from 0 or an entry's `id`, with dots
/// between. The error says what is not there, and what is.
fn find(document: &DeTable<'_>, path: &str) -> Result<Range<usize>, (String, Option<String>)> {
    if path == "matrix" || path.starts_with("matrix.") {
        return Err(("the matrix does not vary itself".to_owned(), None));
    }
    let mut place: Option<&Value<'_>> = None;
    let mut so_far = "the file".to_owned();
    for step in path.split('.') {
        let table = match place.map(|value| value.get_ref()) {
            None => Some(document),
            Some(DeValue::Table(table)) => Some(table),
            Some(_) => None,
        };
        place = match (table, place.map(|value| value.get_ref())) {
            (Some(table), _) => match table.get(step) {
                Some(value) => Some(value),
                None => {
                    let keys: Vec<String> = table.iter().map(|(key, _)| key.get_ref().to_string()).collect();
                    let hint = suggest(step, keys.iter().map(String::as_str));
                    return Err((format!("there is no `{step}` in {so_far}"), Some(hint)));
                }
            },
            (None, Some(DeValue::Array(items))) => {
                let ids: Vec<&str> = items.iter().filter_map(id).collect();
                let by_id = || items.iter().find(|item| id(item) == Some(step));
                match step.parse::<usize>().ok().and_then(|at| items.get(at)).or_else(by_id) {
                    Some(item) => Some(item),
                    None if ids.is_empty() => {
                        let message =
                            format!("{so_far} is a list of {}: write a number from 0 on", items.len());
                        return Err((message, None));
                    }
                    None => {
                        let message = format!(
                            "{so_far} is a list of {}: write an entry's `id`, or a number from 0 on",
                            items.len()
                        );
                        return Err((message, Some(suggest(step, ids))));
                    }
                }
            }
            _ => return Err((format!("{so_far} holds no `{step}`: it is a single value"), None)),
        };
        so_far = match so_far.as_str() {
            "the file" => format!("`{step}`"),
            outer => format!("`{}.{step}`", outer.trim_matches('`')),
        };
    }
    match place {
        // The place of a table with a heading is that of the heading.
        Some(value) if matches!(value.get_ref(), DeValue::Table(table) if spans_beyond(value, table)) => {
            Err((format!("{so_far} is a table: name a value in it"), None))
        }
        Some(value) => Ok(value.span()),
        None => Err(("this is no path".to_owned(), None)),
    }
}

/// The `id` of a list's entry.
fn id<'a>(item: &'a Value<'_>) -> Option<&'a str> {
    let DeValue::Table(table) = item.get_ref() else { return None };
    let DeValue::String(id) = table.get("id")?.get_ref() else { return None };
    Some(id)
}

/// Whether an entry of a table stands outside the place that the table is said to have.
fn spans_beyond(value: &Value<'_>, table: &DeTable<'_>) -> bool {
    let span = value.span();
    table.is_empty()
        || table.iter().any(|(_, entry)| entry.span().start < span.start || entry.span().end > span.end)
}
