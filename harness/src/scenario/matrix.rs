//! `[matrix]`: what is varied in a scenario, along axes or as a list of cells, how often each cell is run, and the scenario of each.
//!
//! An axis names places of the file itself, by the keys that lead there, and the values that stand there one after another; a listed cell
//! names places and a value for each. So a cell is the file with other values in these places, and whatever a scenario can say can be
//! varied. A round of a cell is its file with another seed.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::model::{Check, Expectation};
use super::parse_events::expectations;
use super::read::{Table, Value, kind};
use super::source::{Problem, Source, suggest};
use super::tables::{TableSpec, tables};

/// More cells than these are a mistake.
pub const MOST_CELLS: usize = 10_000;

/// More rounds than these are a mistake.
pub const MOST_ROUNDS: u64 = 1000;

/// What is varied, and how often each cell is run.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// The quantities that are shown: one in a grid, any number over rounds.
    pub show: Vec<Spanned<String>>,
    /// In the order of the file: rows, columns, and one grid for each of the rest. Listed cells are the values of one axis; without axes
    /// there is one cell, the file itself.
    pub axes: Vec<Axis>,
    /// Whether the file lists its cells, each with a name of its own.
    pub listed: bool,
    /// How often each cell is run, in turn; `None`: once, and nothing is said over all.
    pub rounds: Option<u64>,
    /// Where the file has its `seed`, which rounds vary, and what it is.
    pub seed: Option<(Range<usize>, u64)>,
    /// Where `[matrix]` itself stands in the file, as far as it has headings.
    pub extent: Vec<Range<usize>>,
    /// What must hold over all rounds.
    pub expectations: Vec<Expectation>,
    /// Tables of what came of all rounds.
    pub tables: Vec<TableSpec>,
}

/// One thing that is varied.
#[derive(Debug, Clone)]
pub struct Axis {
    /// Names it in cells and headings.
    pub name: Spanned<String>,
    /// What it may be; at least one.
    pub values: Vec<AxisValue>,
}

/// One value of an axis.
#[derive(Debug, Clone)]
pub struct AxisValue {
    /// As grids show it.
    pub label: String,
    /// Where the value stands in the file.
    pub span: Range<usize>,
    /// What it changes.
    pub edits: Vec<Edit>,
    /// What must hold in its runs besides: an expression in quotes, as the file has it, and where it stands.
    pub check: Option<(String, Range<usize>)>,
}

/// Another text in a place of the file.
#[derive(Debug, Clone)]
pub struct Edit {
    /// The place: bytes of the text.
    pub place: Range<usize>,
    /// What stands there instead.
    pub text: String,
    /// Where that is from.
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
    /// Names it, the same in every run: `mn=full-cone,cn=none`, or a listed cell's name.
    pub id: String,
    /// Indices into [`Axis::values`], in the order of the axes.
    pub values: Vec<usize>,
}

/// The one cell of a scenario that varies nothing.
pub const WHOLE: &str = "all";

impl Matrix {
    /// Of a file that varies nothing and is run in rounds.
    pub fn of_rounds(rounds: u64, seed: Option<(Range<usize>, u64)>) -> Self {
        let (show, axes, listed, extent) = (Vec::new(), Vec::new(), false, Vec::new());
        let (expectations, tables) = (Vec::new(), Vec::new());
        Self { show, axes, listed, rounds: Some(rounds), seed, extent, expectations, tables }
    }

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
            let parts = self.axes.iter().zip(values).map(|(axis, value)| {
                let slug = axis.values[*value].slug();
                if self.listed { slug } else { format!("{}={slug}", axis.name.get_ref()) }
            });
            let id = parts.collect::<Vec<_>>().join(",");
            if id.is_empty() { WHOLE.to_owned() } else { id }
        };
        all.into_iter().map(|values| Cell { id: id(&values), values }).collect()
    }

    /// What quantities of `cell` begin with in expectations over all rounds.
    pub fn prefix(&self, cell: &Cell) -> String {
        if self.axes.is_empty() { String::new() } else { format!("cell.{}.", cell.id) }
    }

    /// The file of a cell, made from the file `source`, without the matrix; in the round `round`, from 1, with a seed of its own. Lines
    /// keep their numbers where values are of one line.
    pub fn source(&self, source: &Source, cell: &Cell, round: Option<u64>) -> Source {
        let values = self.axes.iter().zip(&cell.values).map(|(axis, value)| &axis.values[*value]);
        let seeded = round.zip(self.seed.clone()).map(|(round, (place, seed))| {
            let text = seed.wrapping_add(round - 1).to_string();
            Edit { span: place.clone(), place, text }
        });
        let without = self.extent.iter().map(|place| {
            let lines = source.text.get(place.clone()).unwrap_or_default().matches('\n').count();
            Edit { place: place.clone(), text: "\n".repeat(lines), span: place.clone() }
        });
        let more: Vec<Edit> = seeded.into_iter().chain(without).collect();
        let name = match round {
            Some(round) => format!("{} [{}, round {round}]", source.name, cell.id),
            None => format!("{} [{}]", source.name, cell.id),
        };
        Source { name, text: Varied::of(&source.text, values, &more).text }
    }

    /// What is wrong with single values, by `check`, which says what is wrong with a file.
    pub fn problems(&self, source: &Source, check: impl Fn(&Source) -> Vec<Problem>) -> Vec<Problem> {
        let mut out = Vec::new();
        for axis in &self.axes {
            for value in &axis.values {
                let varied = Varied::of(&source.text, [value].into_iter(), &[]);
                let found = check(&Source { name: source.name.clone(), text: varied.text.clone() });
                out.extend(found.into_iter().map(|problem| {
                    let span = varied.origin(&problem.span).unwrap_or_else(|| value.span.clone());
                    Problem { span, ..problem }
                }));
            }
        }
        out
    }
}

/// A file with other text in some places.
struct Varied {
    text: String,
    /// The new texts' places, and where each is from.
    places: Vec<(Range<usize>, Range<usize>)>,
}

impl Varied {
    fn of<'a>(text: &str, values: impl Iterator<Item = &'a AxisValue>, more: &[Edit]) -> Self {
        let values: Vec<&AxisValue> = values.collect();
        let mut edits: Vec<&Edit> = values.iter().flat_map(|value| &value.edits).chain(more).collect();
        edits.sort_by_key(|edit| edit.place.start);
        let mut out = Self { text: String::with_capacity(text.len() + 100), places: Vec::new() };
        let mut at = 0;
        for edit in edits {
            out.text += text.get(at..edit.place.start).unwrap_or_default();
            out.add(&edit.text, &edit.span);
            at = edit.place.end;
        }
        out.text += text.get(at..).unwrap_or_default();
        for value in values {
            if let Some((check, span)) = &value.check {
                out.text += "\n[[expect]]\ncheck = ";
                out.add(check, span);
                out.text +=
                    &format!("\nfail  = {:?}\n", format!("this is not what `{}` is to be", value.label));
            }
        }
        out
    }

    fn add(&mut self, text: &str, from: &Range<usize>) {
        let start = self.text.len();
        self.text += text;
        self.places.push((start..self.text.len(), from.clone()));
    }

    /// Where in the file the text at `span` comes from, if it is new.
    fn origin(&self, span: &Range<usize>) -> Option<Range<usize>> {
        let within = |place: &Range<usize>| place.start <= span.start && span.start < place.end;
        let (place, from) = self.places.iter().find(|(place, _)| within(place))?;
        // What was copied as it is can be pointed at exactly.
        let copied = place.len() == from.len();
        let moved = |at: usize| (at - place.start + from.start).min(from.end);
        Some(if copied { moved(span.start)..moved(span.end) } else { from.clone() })
    }
}

/// Reads `[matrix]` of the file whose text and whole table are given.
pub(super) fn matrix(top: &Table<'_, '_>, document: &DeTable<'_>, text: &str) -> Option<Matrix> {
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
pub(super) fn seed(document: &DeTable<'_>) -> Option<(Range<usize>, u64)> {
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
        let last = matrix.source(&source, &cells[3], None);
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

    const CELLS: &str = "[[matrix.cell]]\nname = \"plain\"\n[[matrix.cell]]\nname = \"often\"\n\
        set = { \"flow.f.ping.interval\" = \"5ms\", \"router.r.nat\" = \"none\" }\ncheck = \"flow.f.lost == 0\"\n";

    #[test]
    fn a_listed_cell_is_the_file_with_what_it_sets_and_a_round_has_a_seed_of_its_own() {
        let (source, matrix) = scenario(&format!("rounds = 3\n{CELLS}")).unwrap();
        let cells = matrix.cells();
        assert_eq!(cells.iter().map(|cell| cell.id.as_str()).collect::<Vec<_>>(), ["plain", "often"]);
        let of = |cell: usize, round| check(&matrix.source(&source, &cells[cell], Some(round))).unwrap();
        assert_eq!((of(0, 1).seed, of(0, 3).seed, of(1, 3).seed), (1, 3, 3));
        assert!(of(0, 1).matrix.is_none(), "a cell is a whole scenario by itself");
        assert_eq!((of(0, 1).expectations.len(), of(1, 1).expectations.len()), (0, 1));
        assert_eq!(of(1, 1).flows[0].kind.word(), "ping");
        assert_eq!(of(1, 1).horizon(), std::time::Duration::from_millis(25));
        assert_eq!(*of(1, 1).routers["r"].nat.get_ref(), ntm_nat::Behaviour::None);
    }

    #[test]
    fn mistakes_of_cells_and_rounds_are_shown_where_they_stand() {
        let expect = |check: &str| format!("[[matrix.expect]]\nfail = \"x\"\ncheck = \"{check}\"\n");
        let rounds = |more: &str| format!("rounds = 2\n{CELLS}{more}");
        let wrong = [
            CELLS.replace("flow.f.ping.interval", "flow.g.ping.interval"),
            CELLS.replace("5ms", "5"),
            CELLS.replace("flow.f.lost ==", "flow.f.lots =="),
            CELLS.replace("\"often\"", "\"plain\""),
            CELLS.replace("\"often\"", "\"Often 2\""),
            CELLS.replace("set =", "sets ="),
            format!("{CELLS}[[matrix.axis]]\nname = \"x\"\npath = \"seed\"\nvalues = [1]\n"),
            format!("rounds = 0\n{CELLS}"),
            format!("{CELLS}{}", expect("cell.plain.mean < 1")),
            rounds(&expect("cell.plane.mean < 1")),
            rounds(&expect("cell.plain.maen < 1")),
            rounds(&expect("cell.plain.flow.f.rtt_max_ms.p59 < 1")),
            rounds(&expect("cell.plain.mean")),
            rounds(
                "[[matrix.table]]\ntitle = \"x\"\ncolumns = [\"a\"]\nrows = [[\"=cell.plain.men\"], [1, 2]]\n",
            ),
            rounds("[[matrix.expect]]\nfail = \"x\"\nsequence = [\"a: query\"]\n"),
        ];
        let shown: Vec<String> = wrong.iter().map(|cells| scenario(cells).unwrap_err()).collect();
        insta::assert_snapshot!(shown.join("\n"));
        let seedless = BASE.replace("seed  = 1\n", "") + "rounds = 2\n";
        let error = check(&Source { name: "t".into(), text: seedless }).unwrap_err();
        assert!(error.contains("give the file a `seed`"), "{error}");
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
