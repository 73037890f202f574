//! What a matrix shows: grids in Markdown, all numbers as CSV, everything as JSON. PURE but for writing them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value as Json, json};

use super::cells::{Done, Outcome, Prepared, plain};
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use crate::report::page;
use crate::report::tables::aligned;
use crate::run::compare::Comparison;
use crate::scenario::matrix::Matrix;
use crate::statistics::Summary;

const TEMPLATE: &str = include_str!("grid.html");

/// The lines of a plot: by the second axis and the world what is shown at each place of the first.
type Lines = BTreeMap<(usize, Engine), Vec<Option<f64>>>;

/// A matrix that was run.
pub struct Grid<'a> {
    /// The scenario's name.
    pub name: &'a str,
    /// Its axes.
    pub matrix: &'a Matrix,
    /// Its cells.
    pub cells: &'a [Prepared],
    /// What came of them; a cell that was not run has nothing.
    pub done: &'a Done,
    /// The worlds they were run in.
    pub engines: &'a [Engine],
    /// How many of the runs are this part's, if it is not the whole.
    pub part: Option<usize>,
}

impl Grid<'_> {
    fn outcomes(&self, cell: usize) -> impl Iterator<Item = (Engine, &Outcome)> {
        self.engines.iter().filter_map(move |engine| Some((*engine, self.done.get(&(cell, *engine))?)))
    }

    /// The places of a cell's rounds.
    fn rounds(&self) -> usize {
        self.matrix.rounds.map_or(1, |rounds| usize::try_from(rounds).unwrap_or(1))
    }

    /// Whether the worlds show different values.
    fn shows_differences(&self, cell: usize) -> bool {
        let shown: BTreeSet<String> = self
            .outcomes(cell)
            .map(|(_, outcome)| outcome.shown.as_ref().map_or_else(String::new, Json::to_string))
            .collect();
        shown.len() > 1
    }

    /// What of a cell was compared in the two worlds.
    fn comparison(&self, cell: usize) -> Option<&Comparison> {
        self.outcomes(cell).find_map(|(_, outcome)| outcome.comparison.as_ref())
    }

    /// Whether the worlds differ in a cell, in what is shown or otherwise.
    fn differs(&self, cell: usize) -> bool {
        self.shows_differences(cell)
            || self.comparison(cell).is_some_and(|comparison| !comparison.differences.is_empty())
    }

    /// 0 if every cell held and the worlds agree, 1 if not; 5 if nothing speaks against that but cells that were disturbed. Any other code that
    /// a cell ended with comes first.
    pub fn exit(&self) -> Exit {
        let codes = || self.done.values().map(|outcome| outcome.exit);
        let unsure = Exit::Inconclusive as u8;
        let other = codes().filter(|code| *code > Exit::Failed as u8 && *code != unsure).min();
        if let Some(code) = other {
            return Exit::of(code);
        }
        let compared = |exit: Exit| {
            (0..self.cells.len()).any(|cell| self.comparison(cell).and_then(Comparison::exit) == Some(exit))
        };
        let shown = (0..self.cells.len()).any(|cell| self.shows_differences(cell));
        if codes().any(|code| code == Exit::Failed as u8) || shown || compared(Exit::Failed) {
            return Exit::Failed;
        }
        let is_unsure = codes().any(|code| code == unsure) || compared(Exit::Inconclusive);
        if is_unsure { Exit::Inconclusive } else { Exit::Held }
    }

    /// What a cell shows: its value, or both where the worlds show others, and `≠` behind it where they differ otherwise; the mean of its rounds; and `!` behind it where an
    /// expectation failed.
    fn text(&self, cell: usize) -> String {
        if self.matrix.rounds.is_some() {
            return self.mean(cell);
        }
        let mut values: Vec<String> = self
            .outcomes(cell)
            .map(|(_, outcome)| outcome.shown.as_ref().map_or_else(|| "?".to_owned(), plain))
            .collect();
        values.dedup();
        let failed = self.outcomes(cell).any(|(_, outcome)| outcome.exit != Exit::Held as u8);
        let differs = if self.differs(cell) && !self.shows_differences(cell) { " ≠" } else { "" };
        let mark = if failed { " !" } else { "" };
        if values.is_empty() { "–".to_owned() } else { values.join(" ≠ ") + differs + mark }
    }

    /// The mean of the rounds from the place `cell` on, and half the width of its interval.
    fn mean(&self, cell: usize) -> String {
        let outcomes: Vec<&Outcome> = (cell..cell + self.rounds())
            .flat_map(|round| self.outcomes(round))
            .map(|(_, outcome)| outcome)
            .collect();
        let values: Vec<f64> =
            outcomes.iter().filter_map(|outcome| outcome.shown.as_ref()?.as_f64()).collect();
        let failed = outcomes.iter().any(|outcome| outcome.exit != Exit::Held as u8);
        let mark = if failed { " !" } else { "" };
        if values.is_empty() {
            return "–".to_owned();
        }
        let summary = Summary::of(&values);
        let half = summary.ci95().map_or_else(String::new, |half| format!(" ± {half:.3}"));
        format!("{:.3}{half}{mark}", summary.mean)
    }

    /// One grid for each combination of the third axis and those behind it.
    pub fn markdown(&self) -> String {
        let axes = &self.matrix.axes;
        let mut grids: BTreeMap<&[usize], Vec<usize>> = BTreeMap::new();
        for (at, prepared) in self.cells.iter().enumerate().step_by(self.rounds()) {
            grids.entry(prepared.cell.values.get(2..).unwrap_or_default()).or_default().push(at);
        }
        let mut out = String::new();
        let label = |axis: usize, value: usize| axes[axis].values[value].label.replace('|', "\\|");
        for (rest, cells) in grids {
            // Writing to a string cannot fail.
            let _ = write!(out, "`{}`", self.matrix.show.first().map_or("", |show| show.get_ref()));
            for (axis, value) in rest.iter().enumerate() {
                let _ = write!(out, ", {} = {}", axes[axis + 2].name.get_ref(), label(axis + 2, *value));
            }
            out.push_str(":\n\n");
            let mut rows: Vec<Vec<String>> = Vec::new();
            let columns = axes.get(1).map_or(1, |axis| axis.values.len());
            let head = match axes.get(1) {
                Some(axis) => format!("{} ↓ {} →", axes[0].name.get_ref(), axis.name.get_ref()),
                None => axes.first().map_or_else(String::new, |axis| axis.name.get_ref().clone()),
            };
            let headings =
                (0..columns).map(|column| if axes.len() > 1 { label(1, column) } else { String::new() });
            rows.push(std::iter::once(head).chain(headings).collect());
            for row in cells.chunks(columns) {
                let first = row.first().and_then(|cell| self.cells[*cell].cell.values.first());
                let name = first.map_or_else(String::new, |value| label(0, *value));
                rows.push(std::iter::once(name).chain(row.iter().map(|cell| self.text(*cell))).collect());
            }
            out.push_str(&aligned(&rows));
            out.push('\n');
        }
        out
    }

    /// How many cells there are, how they ended, and where everything is.
    pub fn summary(&self, folder: &Path, seconds: f64) -> String {
        let mut out = String::new();
        for (at, prepared) in self.cells.iter().enumerate() {
            let id = prepared.name();
            for (engine, outcome) in self.outcomes(at).filter(|(_, outcome)| outcome.exit != Exit::Held as u8)
            {
                let mark = if outcome.exit == Exit::Inconclusive as u8 { "UNSURE" } else { "FAILED" };
                let _ =
                    writeln!(out, "{mark}  {id} in {}: {}", engine.word(), outcome.failed.join("\n        "));
            }
            for difference in self.comparison(at).into_iter().flat_map(|comparison| &comparison.differences) {
                let _ = writeln!(out, "DIFFERS {id}: {difference}");
            }
            if self.shows_differences(at) {
                let shown = self.outcomes(at).map(|(engine, outcome)| {
                    let value = outcome.shown.as_ref().map_or_else(|| "nothing".to_owned(), plain);
                    format!("{} in {}", value, engine.word())
                });
                let _ = writeln!(out, "DIFFERS {id}: {}", shown.collect::<Vec<_>>().join(", "));
            }
        }
        for engine in self.engines {
            let of = |held: bool| {
                let all = self.done.iter().filter(|((_, its), _)| its == engine);
                all.filter(|(_, outcome)| (outcome.exit == Exit::Held as u8) == held).count()
            };
            let (held, failed) = (of(true), of(false));
            let _ = writeln!(
                out,
                "{}: {held} cells held, {failed} failed, of {}",
                engine.word(),
                self.part.unwrap_or(self.cells.len())
            );
        }
        let compared = (0..self.cells.len()).filter_map(|cell| self.comparison(cell)).count();
        if compared > 0 {
            let differ = (0..self.cells.len()).filter(|cell| self.differs(*cell)).count();
            let told = if differ == 0 { "no difference".to_owned() } else { format!("{differ} differ") };
            let _ = writeln!(out, "{compared} cells compared in both worlds: {told}");
        }
        let _ = writeln!(out, "{}: {seconds:.1} s\nreport: {}/matrix.json", self.name, folder.display());
        out
    }

    /// Everything.
    pub fn json(&self, exit: Exit) -> Json {
        let axes: Vec<Json> = self
            .matrix
            .axes
            .iter()
            .map(|axis| {
                let labels: Vec<&str> = axis.values.iter().map(|value| value.label.as_str()).collect();
                json!({ "name": axis.name.get_ref(), "values": labels })
            })
            .collect();
        let cells: Vec<Json> = self
            .cells
            .iter()
            .enumerate()
            .map(|(at, prepared)| {
                let mut cell = json!({
                    "id": prepared.cell.id,
                    "round": prepared.round,
                    "seed": prepared.scenario.seed,
                    "values": self.labels(prepared),
                    "differs": self.differs(at),
                });
                for (engine, outcome) in self.outcomes(at) {
                    cell[engine.word()] = json!(outcome);
                }
                cell
            })
            .collect();
        json!({
            "schema": 1,
            "scenario": self.name,
            "show": self.matrix.show.iter().map(|show| show.get_ref()).collect::<Vec<_>>(),
            "exit": exit as u8,
            "axes": axes,
            "cells": cells,
        })
    }

    fn labels(&self, prepared: &Prepared) -> Vec<&str> {
        let axes = self.matrix.axes.iter().zip(&prepared.cell.values);
        axes.map(|(axis, value)| axis.values[*value].label.as_str()).collect()
    }

    /// One line for each cell and world: the axes, how it ended, and every quantity that any cell measured.
    pub fn csv(&self) -> String {
        let names: BTreeSet<&str> =
            self.done.values().flat_map(|outcome| outcome.quantities.keys().map(String::as_str)).collect();
        let axes = self.matrix.axes.iter().map(|axis| axis.name.get_ref().as_str());
        let head = ["cell", "round"]
            .into_iter()
            .chain(axes)
            .chain(["world", "verdict", "exit"])
            .chain(names.iter().copied());
        let mut out = line(head.map(str::to_owned));
        for (at, prepared) in self.cells.iter().enumerate() {
            for (engine, outcome) in self.outcomes(at) {
                let labels = self.labels(prepared).into_iter().map(str::to_owned);
                let ended = [engine.word().to_owned(), outcome.verdict.clone(), outcome.exit.to_string()];
                let values =
                    names.iter().map(|name| outcome.quantities.get(*name).map(plain).unwrap_or_default());
                let round = prepared.round.map_or_else(String::new, |round| round.to_string());
                let first = [prepared.cell.id.clone(), round].into_iter();
                out += &line(first.chain(labels).chain(ended).chain(values));
            }
        }
        out
    }

    /// The plots: of each combination of the third axis and those behind it what is shown over the first axis, a line for each value of the second
    /// and each world. Only numbers can be drawn.
    fn plots(&self) -> Json {
        let axes = &self.matrix.axes;
        let Some(first) = axes.first() else { return json!([]) };
        let labels: Vec<&str> = first.values.iter().map(|value| value.label.as_str()).collect();
        let label = |axis: usize, value: usize| {
            format!("{} = {}", axes[axis].name.get_ref(), axes[axis].values[value].label)
        };
        let mut plots: BTreeMap<&[usize], Lines> = BTreeMap::new();
        for (at, prepared) in self.cells.iter().enumerate().step_by(self.rounds()) {
            let values = &prepared.cell.values;
            let (Some(row), column) = (values.first(), values.get(1).copied().unwrap_or(0)) else { continue };
            let plot = plots.entry(values.get(2..).unwrap_or_default()).or_default();
            for engine in self.engines {
                let rounds = (at..at + self.rounds()).filter_map(|at| self.done.get(&(at, *engine)));
                let numbers: Vec<f64> =
                    rounds.filter_map(|outcome| outcome.shown.as_ref()?.as_f64()).collect();
                let line = plot.entry((column, *engine)).or_insert_with(|| vec![None; labels.len()]);
                line[*row] = (!numbers.is_empty()).then(|| Summary::of(&numbers).mean);
            }
        }
        let drawn = plots.into_iter().map(|(rest, lines)| {
            let title: Vec<String> = rest.iter().zip(2..).map(|(value, axis)| label(axis, *value)).collect();
            let lines = lines.into_iter().filter(|(_, values)| values.iter().any(Option::is_some));
            let lines = lines.map(|((column, engine), values)| {
                let second = axes.get(1).map(|_| label(1, column));
                let world = (self.engines.len() > 1 || second.is_none()).then(|| engine.word().to_owned());
                let name: Vec<String> = second.into_iter().chain(world).collect();
                json!({ "name": name.join(", "), "values": values })
            });
            json!({ "title": title.join(", "), "lines": lines.collect::<Vec<_>>() })
        });
        json!({
            "axis": first.name.get_ref(),
            "labels": labels,
            "show": self.matrix.show.first().map(|show| show.get_ref()),
            "plots": drawn.filter(|plot| plot["lines"].as_array().is_some_and(|lines| !lines.is_empty())).collect::<Vec<_>>(),
        })
    }

    /// `matrix.html`: the plots, and the grids.
    fn page(&self) -> String {
        page::fill(TEMPLATE, self.name, &json!({ "grid": self.plots(), "tables": self.markdown() }))
    }

    /// Writes `matrix.md`, `matrix.csv`, `matrix.json` and `matrix.html`.
    pub fn write(&self, folder: &Path, exit: Exit) -> Result<(), Failure> {
        let json =
            serde_json::to_string_pretty(&self.json(exit)).map_err(Failure::during("matrix.json"))? + "\n";
        let title = format!("# {}\n\n", self.name);
        for (name, text) in [
            ("matrix.md", title + &self.markdown()),
            ("matrix.csv", self.csv()),
            ("matrix.json", json),
            ("matrix.html", self.page()),
        ] {
            let file = folder.join(name);
            fs::write(&file, text).map_err(Failure::during(file.display()))?;
        }
        Ok(())
    }
}

/// A line of CSV (RFC 4180).
fn line(fields: impl Iterator<Item = String>) -> String {
    let quoted = fields.map(|field| {
        if field.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", field.replace('"', "\"\""))
        } else {
            field
        }
    });
    quoted.collect::<Vec<_>>().join(",") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engines;
    use crate::run::fit;
    use crate::scenario::source::Source;
    use crate::scenario::{check, check_cell};

    const FILE: &str = r#"schema = 1
name  = "t"
about = "t"
seed  = 1
[node]
a = { role = "general", at = "internet" }
b = { role = "general", at = "internet", name = "b.test" }
[[flow]]
id = "f"
ping = { from = "a", to = "b.test", count = 2 }
[matrix]
show = "flow.f.lost"
axis = [
    { name = "seed", path = "seed", values = [1, 2] },
    { name = "count", path = "flow.0.ping.count", values = [3, 4], labels = ["three, or so", "four"] },
    { name = "about", path = "about", values = ["x", "y"] },
]
"#;

    fn outcome(shown: &str, exit: u8) -> Outcome {
        let verdict = if exit == 0 { "held" } else { "failed" }.to_owned();
        let failed = if exit == 0 { Vec::new() } else { vec!["too many: flow.f.lost = 1".to_owned()] };
        let quantities = BTreeMap::from([("flow.f.lost".to_owned(), json!(shown))]);
        let expectations = Vec::new();
        let disturbed = exit == Exit::Inconclusive as u8;
        let (shown, comparison) = (Some(json!(shown)), None);
        Outcome { verdict, exit, shown, expectations, disturbed, failed, quantities, comparison }
    }

    /// An emulated cell that held, in which one path was not as in the simulator.
    fn different(disturbed: bool) -> Outcome {
        let differences = vec!["path.a.b.route: emulation: nothing; simulation: \"direct\"".to_owned()];
        let comparison = Some(Comparison { differences, disturbed, ..Comparison::default() });
        Outcome { comparison, ..outcome("0", 0) }
    }

    #[test]
    fn failures_and_differences_are_marked() {
        let source = Source { name: "t".into(), text: FILE.into() };
        let matrix = check(&source).unwrap_or_else(|message| panic!("{message}")).matrix.unwrap();
        let cells: Vec<Prepared> = matrix
            .cells()
            .into_iter()
            .map(|cell| {
                let source = matrix.source(&source, &cell, None);
                let scenario = check_cell(&source).unwrap();
                let plan = fit(&source, &scenario, Engines::Both).unwrap();
                Prepared { cell, round: None, source, scenario, plan }
            })
            .collect();
        let engines = Engines::Both.all();
        let all = |engine: Engine| (0..7).map(move |cell| ((cell, engine), outcome("0", 0)));
        let mut done: Done = all(Engine::Emulation).chain(all(Engine::Simulation)).collect();
        let grid = |done: &Done| {
            let grid = Grid { name: "t", matrix: &matrix, cells: &cells, done, engines, part: None };
            (
                grid.exit(),
                format!("{}{}\n{}", grid.markdown(), grid.summary(Path::new("runs/t"), 1.25), grid.csv()),
            )
        };
        assert_eq!(grid(&done).0, Exit::Held);
        for (disturbed, exit) in [(true, Exit::Inconclusive), (false, Exit::Failed)] {
            done.insert((1, Engine::Emulation), different(disturbed));
            let (found, text) = grid(&done);
            assert_eq!(found, exit, "what is shown does not differ, but a path");
            assert!(
                text.contains("| 0 ≠ ") && text.contains("1 cells compared in both worlds: 1 differ"),
                "{text}"
            );
        }
        done.insert((1, Engine::Emulation), outcome("0", 0));
        done.insert((2, Engine::Emulation), outcome("1", 0));
        assert_eq!(grid(&done).0, Exit::Failed, "the worlds differ");
        done.insert((4, Engine::Simulation), outcome("0", 1));
        let (exit, text) = grid(&done);
        assert_eq!(exit, Exit::Failed);
        insta::assert_snapshot!(text);
        let mut unsure = done.clone();
        unsure.retain(|_, outcome| outcome.exit == 0 && outcome.shown == Some(json!("0")));
        unsure.insert((0, Engine::Emulation), outcome("0", Exit::Inconclusive as u8));
        assert_eq!(grid(&unsure).0, Exit::Inconclusive);
        done.insert((0, Engine::Emulation), outcome("0", Exit::Inconclusive as u8));
        assert_eq!(grid(&done).0, Exit::Failed, "what failed elsewhere failed");
        done.insert((0, Engine::Emulation), outcome("0", Exit::TimedOut as u8));
        assert_eq!(grid(&done).0, Exit::TimedOut);
    }
}
