//! `[matrix]`: what is varied in a scenario, along axes or as a list of cells, how often each cell is run, and the scenario of each.
//!
//! An axis names places of the file itself, by the keys that lead there, and the values that stand there one after another; a listed cell
//! names places and a value for each. So a cell is the file with other values in these places, and whatever a scenario can say can be
//! varied. A round of a cell is its file with another seed.

mod read;

use std::ops::Range;

use toml::Spanned;

use super::model::Expectation;
use super::source::{Problem, Source};
use super::tables::TableSpec;

pub(super) use read::{matrix, seed};

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
