//! What came of all rounds of all cells, as one result: statistics of what each round measured, the expectations over them, and the same
//! files as a run leaves.

use std::collections::BTreeMap;
use std::fs;

use ntm_protocol::time::Instant;
use serde_json::{Value as Json, json};

use super::cells::{Bench, Done, Outcome, Prepared};
use crate::clock;
use crate::compare::{Worse, worse};
use crate::engine::Engine;
use crate::exit::{Exit, Failure};
use crate::flow::Quantities;
use crate::judge::catalogue::is_sensitive;
use crate::judge::excuse::excuse;
use crate::judge::expr::Value;
use crate::judge::verdict::{Evidence, Judged, judge};
use crate::plan::Plan;
use crate::report::topology::Topology;
use crate::report::{Report, Table, environment, junit, page, split, summary, tables, text};
use crate::run::Print;
use crate::scenario::matrix::Matrix;
use crate::scenario::model::{Check, Scenario};
use crate::scenario::tables::TableSpec;
use crate::statistics::{STATISTICS, statistic};
use crate::stdout;

/// Quantity, with the cell's name before it → what each round measured.
type Samples = BTreeMap<String, Vec<f64>>;

/// What is made one result of.
pub struct Rounds<'a> {
    /// The cells that were run.
    pub bench: &'a Bench,
    /// The file.
    pub scenario: &'a Scenario,
    /// What came of each.
    pub done: &'a Done,
    /// Where they were run.
    pub engine: Engine,
    /// When the harness was started.
    pub started: Instant,
}

impl Rounds<'_> {
    /// Judges, writes the files and prints the result. `exit` is what the rounds ended with, each by itself.
    pub fn conclude(&self, plan: &Plan, exit: Exit, print: Print) -> Result<Exit, Failure> {
        let (report, exit) = self.report(plan, exit);
        let folder = &self.bench.folder;
        let json = serde_json::to_value(&report).map_err(Failure::during("report.json"))?;
        for (name, content) in [("report.json", &json), ("env.json", &environment::describe())] {
            let path = folder.join(name);
            let text = serde_json::to_string_pretty(content).map_err(Failure::during(path.display()))?;
            fs::write(&path, text + "\n").map_err(Failure::during(path.display()))?;
        }
        for (name, text) in [("junit.xml", junit::render(&report)), ("summary.md", summary::render(&report))]
        {
            let path = folder.join(name);
            fs::write(&path, text).map_err(Failure::during(path.display()))?;
        }
        page::write(folder)?;
        match print {
            Print::Text => stdout::say(text::render(&report)),
            Print::Json => stdout::json(&json),
            Print::Nothing => {}
        }
        Ok(exit)
    }

    /// Every round with what came of it, cell by cell.
    fn outcomes(&self) -> impl Iterator<Item = (&Prepared, &Outcome)> {
        let cells = self.bench.cells.iter().enumerate();
        cells.filter_map(|(at, prepared)| Some((prepared, self.done.get(&(at, self.engine))?)))
    }

    fn report(&self, plan: &Plan, exit: Exit) -> (Report, Exit) {
        let matrix = &self.bench.matrix;
        let samples = self.samples();
        let shown = self.shown(&samples);
        let quantities = quantities(matrix, &samples, &self.prefixes(), &shown);
        let mut expectations = self.of_every_round();
        // Without all rounds, what fails over them says nothing.
        if matches!(exit, Exit::Held | Exit::Failed | Exit::Inconclusive) {
            let evidence =
                Evidence { quantities: &quantities, trace: &[], owners: plan, start: 0, handover: None };
            let reasons = |name: &str| self.disturbed(name);
            expectations.extend(matrix.expectations.iter().map(|expectation| {
                let mut judged = judge(expectation, &evidence);
                excuse(&mut judged, expectation, &quantities, &reasons);
                judged
            }));
        }
        let (verdict, exit) = match exit {
            Exit::Failed => ("failed", exit),
            Exit::Held | Exit::Inconclusive if expectations.iter().any(Judged::failed) => {
                ("failed", Exit::Failed)
            }
            Exit::Held if expectations.iter().all(|judged| judged.held) => ("held", exit),
            Exit::Held => ("inconclusive", Exit::Inconclusive),
            Exit::TimedOut => ("timed out", exit),
            Exit::Interrupted => ("interrupted", exit),
            Exit::Inconclusive => ("inconclusive", exit),
            Exit::Error | Exit::Unable | Exit::Usage => ("error", exit),
        };
        let tables = matrix.tables.iter().map(|spec| tables::fill(spec, &quantities));
        let tables = tables.chain([statistics(&samples, &shown)]).collect();
        let is_broken = |exit: u8| exit > Exit::Failed as u8 && exit != Exit::Inconclusive as u8;
        let broken = self.outcomes().filter(|(_, outcome)| is_broken(outcome.exit));
        let problems = broken.map(|(run, outcome)| {
            format!("{}: {}: {}", run.name(), outcome.verdict, outcome.failed.join("; "))
        });
        let (measured, unmeasured) = split(&quantities);
        let report = Report {
            schema: 1,
            engine: self.engine,
            scenario: self.scenario.name.clone(),
            about: self.scenario.about.clone(),
            seed: self.scenario.seed,
            verdict,
            exit: exit as u8,
            problems: problems.collect(),
            notes: vec![self.note()],
            expectations,
            quantities: measured,
            unmeasured,
            samples,
            topology: Topology::of(plan),
            tables,
            seconds: clock::now().since(self.started).as_secs_f64(),
            folder: self.bench.folder.display().to_string(),
            ..Report::default()
        };
        (report, exit)
    }

    /// What disturbed the rounds that the statistic `name` is of, if that is sensitive.
    fn disturbed(&self, name: &str) -> Vec<String> {
        let matrix = &self.bench.matrix;
        let Some((full, _)) = meant(matrix, &self.prefixes(), name) else { return Vec::new() };
        let cells = matrix.cells();
        let cell = cells.iter().find_map(|cell| Some((cell, full.strip_prefix(&matrix.prefix(cell))?)));
        let Some((cell, quantity)) = cell else { return Vec::new() };
        let its = || self.outcomes().filter(|(run, _)| run.cell.id == cell.id);
        let disturbed = its().filter(|(_, outcome)| outcome.disturbed).count();
        if disturbed == 0 || !is_sensitive(self.scenario, quantity) {
            return Vec::new();
        }
        vec![format!("the machine disturbed {disturbed} of {} runs", its().count())]
    }

    fn note(&self) -> String {
        let (done, all) = (self.outcomes().count(), self.bench.cells.len());
        let cells = self.bench.matrix.cells().len();
        let rounds = all / cells.max(1);
        let several = if rounds == 1 { "1 round".to_owned() } else { format!("{rounds} rounds") };
        let of = if cells == 1 { several } else { format!("{several} of {cells} cells") };
        let order = if cells == 1 { "" } else { ", interleaved, each beginning with another cell" };
        let missing =
            if done < all { format!("; {} of {all} runs were not made", all - done) } else { String::new() };
        format!("{of}{order}; each has a seed of its own, from {} on{missing}", self.scenario.seed)
    }

    /// What each cell's quantities begin with.
    fn prefixes(&self) -> Vec<String> {
        let matrix = &self.bench.matrix;
        matrix.cells().iter().map(|cell| matrix.prefix(cell)).collect()
    }

    fn samples(&self) -> Samples {
        let mut out = Samples::new();
        for (prepared, outcome) in self.outcomes() {
            let prefix = self.bench.matrix.prefix(&prepared.cell);
            for (name, value) in &outcome.quantities {
                if let Some(number) = value.as_f64() {
                    out.entry(format!("{prefix}{name}")).or_default().push(number);
                }
            }
        }
        out
    }

    /// The samples that tables show, by name: those of `show`, or of all that can be better or worse.
    fn shown(&self, samples: &Samples) -> Vec<String> {
        let show = &self.bench.matrix.show;
        let prefixes = self.prefixes();
        if show.is_empty() {
            return samples.keys().filter(|name| worse(name) != Worse::Neither).cloned().collect();
        }
        let of = |show: &String| prefixes.iter().map(|prefix| format!("{prefix}{show}")).collect::<Vec<_>>();
        show.iter().flat_map(|show| of(show.get_ref())).collect()
    }

    /// The file's own expectations, each over all rounds in which it stands: it holds if it did in every one.
    fn of_every_round(&self) -> Vec<Judged> {
        let mut out: Vec<(Judged, usize, usize)> = Vec::new();
        for (run, outcome) in self.outcomes() {
            for one in &outcome.expectations {
                let known = out.iter().position(|(all, ..)| all.check == one.check && all.fail == one.fail);
                let at = known.unwrap_or_else(|| {
                    out.push((
                        Judged { held: true, found: Vec::new(), disturbed: Vec::new(), ..one.clone() },
                        0,
                        0,
                    ));
                    out.len() - 1
                });
                let (all, held, count) = &mut out[at];
                *count += 1;
                *held += usize::from(one.held);
                // One round in which it failed undisturbed is enough.
                let undisturbed = one.failed() || all.failed();
                all.held &= one.held;
                if !one.held {
                    all.found.push(format!("{}: {}", run.name(), one.found.join("; ")));
                    let why = one.disturbed.iter().map(|why| format!("{}: {why}", run.name()));
                    all.disturbed.extend(why);
                }
                if undisturbed {
                    all.disturbed.clear();
                }
            }
        }
        let judged = out.into_iter().map(|(mut judged, held, count)| {
            judged.found.insert(0, format!("held in {held} of {count} runs"));
            judged
        });
        judged.collect()
    }
}

/// The statistics of what is shown, and of all that expectations and tables speak of.
fn quantities(matrix: &Matrix, samples: &Samples, prefixes: &[String], shown: &[String]) -> Quantities {
    let mut out = Quantities::new();
    let number = |values: &[f64], name: &str| statistic(values, name).map(Value::Number);
    for name in shown {
        for (what, _) in STATISTICS {
            let values = samples.get(name).map_or(&[][..], Vec::as_slice);
            out.insert(format!("{name}.{what}"), number(values, what));
        }
    }
    let expressions = matrix.expectations.iter().filter_map(|expectation| match &expectation.check {
        Check::Expression(expr) => Some(expr.get_ref()),
        Check::Sequence { .. } => None,
    });
    let formulas = matrix.tables.iter().flat_map(TableSpec::expressions).map(toml::Spanned::get_ref);
    for expr in expressions.chain(formulas) {
        for (name, _) in expr.names() {
            let Some((full, what)) = meant(matrix, prefixes, name) else { continue };
            let values = samples.get(&full).map_or(&[][..], Vec::as_slice);
            out.insert(name.to_owned(), number(values, what));
        }
    }
    out
}

/// The quantity, with its cell, and the statistic that `name` means: a cell's name alone stands for the first quantity that is shown.
fn meant<'a>(matrix: &Matrix, prefixes: &[String], name: &'a str) -> Option<(String, &'a str)> {
    let (quantity, what) = name.rsplit_once('.')?;
    let short = prefixes.iter().find(|prefix| prefix.trim_end_matches('.') == quantity);
    let full = match (short, matrix.show.first()) {
        (Some(prefix), Some(show)) => format!("{prefix}{}", show.get_ref()),
        _ => quantity.to_owned(),
    };
    Some((full, what))
}

/// Each of `shown` with its statistics.
fn statistics(samples: &Samples, shown: &[String]) -> Table {
    let heads = STATISTICS.iter().map(|(name, _)| match *name {
        "ci95" => "± 95 %".to_owned(),
        name => name.to_owned(),
    });
    let row = |name: &String| {
        let values = samples.get(name).map_or(&[][..], Vec::as_slice);
        let of = STATISTICS
            .iter()
            .map(|(what, _)| statistic(values, what).map_or(Json::Null, |number| json!(number)));
        std::iter::once(json!(name)).chain(of).collect()
    };
    Table {
        title: tables::OVER_ALL.to_owned(),
        columns: std::iter::once("quantity".to_owned()).chain(heads).collect(),
        rows: shown.iter().map(row).collect(),
        notes: vec!["± 95 %: half the width of the mean's confidence interval, by Student's t".to_owned()],
    }
}
