//! `[matrix]`: the axes along which a scenario is varied, and the scenario of each cell.
//!
//! An axis names places of the file itself, by the keys that lead there, and the values that stand there one after another. So a cell is
//! the file with other values in these places, and whatever a scenario can say can be varied.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::read::{Table, Value, kind};
use super::source::{Problem, Source, suggest};

/// More cells than these are a mistake.
pub const MOST_CELLS: usize = 10_000;

/// The axes of a scenario.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// The quantity that the grid shows.
    pub show: Spanned<String>,
    /// In the order of the file: rows, columns, and one grid for each of the rest.
    pub axes: Vec<Axis>,
}

/// One thing that is varied.
#[derive(Debug, Clone)]
pub struct Axis {
    /// Names it in cells and headings.
    pub name: Spanned<String>,
    /// Where in the file its values stand: bytes of the text.
    pub places: Vec<Range<usize>>,
    /// What stands there; at least one.
    pub values: Vec<AxisValue>,
}

/// One value of an axis.
#[derive(Debug, Clone)]
pub struct AxisValue {
    /// As grids show it.
    pub label: String,
    /// As the file has it.
    pub text: String,
    /// Where it stands in the file.
    pub span: Range<usize>,
}

impl AxisValue {
    /// The label with nothing in it that a file name may not have.
    fn slug(&self) -> String {
        let good = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { ' ' };
        let words: String = self.label.chars().map(good).collect();
        words.split_whitespace().collect::<Vec<_>>().join("-")
    }
}

/// A cell: which value of each axis it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// Names it, the same in every run: `mn=full-cone,cn=none`.
    pub id: String,
    /// Indices into [`Axis::values`], in the order of the axes.
    pub values: Vec<usize>,
}

impl Matrix {
    /// All cells; the last axis changes fastest.
    pub fn cells(&self) -> Vec<Cell> {
        let mut all = vec![Vec::new()];
        for axis in &self.axes {
            let longer = |start: &Vec<usize>| {
                let start = start.clone();
                (0..axis.values.len()).map(move |value| [start.as_slice(), &[value]].concat())
            };
            all = all.iter().flat_map(longer).collect();
        }
        let id = |values: &Vec<usize>| {
            let parts = self.axes.iter().zip(values);
            let parts =
                parts.map(|(axis, value)| format!("{}={}", axis.name.get_ref(), axis.values[*value].slug()));
            parts.collect::<Vec<_>>().join(",")
        };
        all.into_iter().map(|values| Cell { id: id(&values), values }).collect()
    }

    /// The file of a cell, made from the file `source`. Lines keep their numbers where values are of one line.
    pub fn source(&self, source: &Source, cell: &Cell) -> Source {
        let chosen = self.axes.iter().zip(&cell.values).map(|(axis, value)| (axis, &axis.values[*value]));
        Source { name: format!("{} [{}]", source.name, cell.id), text: substitute(&source.text, chosen) }
    }

    /// What is wrong with single values, by `check`, which says what is wrong with a file.
    pub fn problems(&self, source: &Source, check: impl Fn(&Source) -> Vec<Problem>) -> Vec<Problem> {
        let mut out = Vec::new();
        for axis in &self.axes {
            for value in &axis.values {
                let text = substitute(&source.text, [(axis, value)].into_iter());
                let found = check(&Source { name: source.name.clone(), text });
                out.extend(found.into_iter().map(|problem| Problem { span: value.span.clone(), ..problem }));
            }
        }
        out
    }
}

fn substitute<'a>(text: &str, chosen: impl Iterator<Item = (&'a Axis, &'a AxisValue)>) -> String {
    let mut places: Vec<(&Range<usize>, &str)> = chosen
        .flat_map(|(axis, value)| axis.places.iter().map(|place| (place, value.text.as_str())))
        .collect();
    places.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
    let mut out = text.to_owned();
    for (place, value) in places {
        out.replace_range(place.clone(), value);
    }
    out
}

/// Reads `[matrix]` of the file whose text and whole table are given.
pub(super) fn matrix(top: &Table<'_, '_>, document: &DeTable<'_>, text: &str) -> Option<Matrix> {
    let table = Table::of("[matrix]", top.get("matrix")?, top.problems())?;
    let show = table.need_text("show");
    table.need("axis");
    let axes: Vec<Axis> = table
        .tables("axis")
        .into_iter()
        .filter_map(|inner| {
            let axis = axis(&inner, document, text);
            inner.finish();
            axis
        })
        .collect();
    let mut names = BTreeSet::new();
    let mut taken: Vec<&Range<usize>> = Vec::new();
    for axis in &axes {
        if !names.insert(axis.name.get_ref()) {
            table.problem(axis.name.span(), format!("two axes are called `{}`", axis.name.get_ref()));
        }
        for place in &axis.places {
            if taken.iter().any(|other| other.start < place.end && place.start < other.end) {
                table.problem(axis.name.span(), "another axis varies the same place");
            }
            taken.push(place);
        }
    }
    let count = axes.iter().try_fold(1_usize, |count, axis| count.checked_mul(axis.values.len()));
    if count.is_none_or(|count| count > MOST_CELLS) {
        table.problem(table.head(), format!("the matrix has more than {MOST_CELLS} cells"));
    }
    table.finish();
    Some(Matrix { show: show?, axes })
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
    let mut places = Vec::new();
    for path in table.texts("path") {
        match find(document, path.get_ref()) {
            Ok(place) => places.push(place),
            Err((message, hint)) => {
                let problem = Problem::new(path.span(), message);
                table.problems().add(Problem { hint, ..problem });
            }
        }
    }
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
        AxisValue { label, text: written.to_owned(), span: item.span() }
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
    Some(Axis { name: name?, places, values })
}

/// The place of the value that `path` leads to: keys, and numbers from 0 for the entries of lists, with dots between. The error says
/// what is not there, and what is.
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
                match step.parse::<usize>().ok().and_then(|at| items.get(at)) {
                    Some(item) => Some(item),
                    None => {
                        let message =
                            format!("{so_far} is a list of {}: write a number from 0 on", items.len());
                        return Err((message, None));
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

/// Whether an entry of a table stands outside the place that the table is said to have.
fn spans_beyond(value: &Value<'_>, table: &DeTable<'_>) -> bool {
    let span = value.span();
    table.is_empty()
        || table.iter().any(|(_, entry)| entry.span().start < span.start || entry.span().end > span.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::check;

    const BASE: &str = r#"schema = 1
name  = "t"
about = "t"
seed  = 1
[router.r]
nat = "symmetric"
[node]
a = { role = "general", at = "r" }
b = { role = "general", at = "internet", name = "b.test" }
[[flow]]
id = "f"
ping = { from = "a", to = "b.test", interval = "20ms" }
[matrix]
show = "flow.f.lost"
"#;

    fn scenario(axes: &str) -> Result<(Source, Matrix), String> {
        let source = Source { name: "t".into(), text: format!("{BASE}{axes}") };
        let scenario = check(&source)?;
        Ok((source, scenario.matrix.unwrap()))
    }

    #[test]
    fn every_cell_is_the_file_with_its_values() {
        let (source, matrix) = scenario(
            "[[matrix.axis]]\nname = \"nat\"\npath = \"router.r.nat\"\nvalues = [\"none\", { preset = \"symmetric\", hairpin = false }]\nlabels = [\"none\", \"deaf / 1\"]\n\
             [[matrix.axis]]\nname = \"every\"\npath = [\"flow.0.ping.interval\"]\nvalues = [\"10ms\", \"5ms\"]\n\
             [[matrix.axis]]\nname = \"seed\"\npath = \"seed\"\nvalues = [7]\n",
        )
        .unwrap();
        let cells = matrix.cells();
        let ids: Vec<&str> = cells.iter().map(|cell| cell.id.as_str()).collect();
        assert_eq!(
            ids,
            [
                "nat=none,every=10ms,seed=7",
                "nat=none,every=5ms,seed=7",
                "nat=deaf-1,every=10ms,seed=7",
                "nat=deaf-1,every=5ms,seed=7"
            ]
        );
        let last = matrix.source(&source, &cells[3]);
        let lines: Vec<&str> = last.text.lines().collect();
        assert_eq!((lines[3], lines[5]), ("seed  = 7", "nat = { preset = \"symmetric\", hairpin = false }"));
        assert_eq!(lines[11], "ping = { from = \"a\", to = \"b.test\", interval = \"5ms\" }");
        let scenario = check(&last).unwrap();
        assert_eq!((scenario.seed, scenario.routers["r"].nat.get_ref().axes().unwrap().hairpin), (7, false));
    }

    #[test]
    fn mistakes_are_shown_where_they_stand() {
        let wrong = [
            "[[matrix.axis]]\nname = \"x\"\npath = \"router.r.nta\"\nvalues = [\"none\"]\n",
            "[[matrix.axis]]\nname = \"x\"\npath = \"flow.1.ping\"\nvalues = [\"none\"]\n",
            "[[matrix.axis]]\nname = \"x\"\npath = \"router.r\"\nvalues = [\"none\"]\n",
            "[[matrix.axis]]\nname = \"x\"\npath = \"seed.low\"\nvalues = [1]\n",
            "[[matrix.axis]]\nname = \"x\"\npath = \"matrix.show\"\nvalues = [1]\n",
            "[[matrix.axis]]\nname = \"x\"\npath = \"router.r.nat\"\nvalues = [\"none\", \"symetric\"]\n",
            "[[matrix.axis]]\nname = \"x\"\npath = \"seed\"\nvalues = [1, 1]\n",
            "[[matrix.axis]]\nname = \"x\"\npath = \"seed\"\nvalues = [1, 2]\nlabels = [\"one\"]\n",
            "[[matrix.axis]]\nname = \"x\"\npath = \"seed\"\nvalues = []\n[[matrix.axis]]\nname = \"x\"\npath = \"seed\"\nvalues = 2\n",
            "axes = 1\n",
        ];
        let shown: Vec<String> = wrong.iter().map(|axes| scenario(axes).unwrap_err()).collect();
        insta::assert_snapshot!(shown.join("\n"));
    }

    #[test]
    fn what_is_shown_must_be_measured() {
        let text = BASE.replace("flow.f.lost", "flow.f.lots");
        let axes = "[[matrix.axis]]\nname = \"x\"\npath = \"seed\"\nvalues = [1]\n";
        let error = check(&Source { name: "t".into(), text: text + axes }).unwrap_err();
        assert!(
            error.contains("nothing in this scenario measures `flow.f.lots`")
                && error.contains("did you mean `flow.f.lost`?"),
            "{error}"
        );
    }
}
