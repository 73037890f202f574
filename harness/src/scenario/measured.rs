//! Whether what a scenario says is about something that will be measured: in a run, or over all rounds of its cells.

use toml::Spanned;

use super::matrix::Matrix;
use super::model::{Check, Scenario};
use super::parse_events::within;
use super::read::Problems;
use super::source::{self, Problem, Source, suggest};
use super::tables::TableSpec;
use crate::judge::catalogue::{self, Catalogue};
use crate::judge::expr::{Expr, Kind};
use crate::statistics::STATISTICS;

/// What an expression must amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Must {
    /// As an expectation.
    BeTrueOrFalse,
    /// As an entry of a table.
    BeAnything,
}

/// Notes a quantity that `catalogue` lacks.
pub(super) fn quantity(name: &Spanned<String>, catalogue: &Catalogue, problems: &Problems) {
    let shown = name.get_ref();
    if !catalogue.contains_key(shown.as_str()) {
        let message = format!("nothing in this scenario measures `{shown}`");
        problems.add(Problem::new(name.span(), message).hint(nearest(shown, catalogue)));
    }
}

/// Notes each name in an expression that `catalogue` lacks, and what in it does not fit together.
pub(super) fn expression(expr: &Spanned<Expr>, catalogue: &Catalogue, must: Must, problems: &Problems) {
    let text = Spanned::new(expr.span(), expr.get_ref().text.clone());
    for (name, span) in expr.get_ref().names() {
        quantity(&Spanned::new(within(&text, &span), name.to_owned()), catalogue, problems);
    }
    let kind_of = |name: &str| catalogue.get(name).map(|(kind, _)| *kind);
    let checked = match must {
        Must::BeTrueOrFalse => expr.get_ref().check(&kind_of),
        Must::BeAnything => expr.get_ref().kind(&kind_of).map(drop),
    };
    if let Err(error) = checked {
        problems.add(Problem::new(within(&text, &error.span), error.message));
    }
}

/// What is measured over all rounds: of every number that each cell of `matrix` measures, its statistics; those of the first quantity
/// that is shown also by the cell's name alone. `read` reads a cell's file.
pub fn over_rounds(
    matrix: &Matrix,
    source: &Source,
    read: impl Fn(&Source) -> Option<Scenario>,
) -> Catalogue {
    let mut out = Catalogue::new();
    for cell in matrix.cells() {
        let Some(scenario) = read(&matrix.source(source, &cell, None)) else { continue };
        let prefix = matrix.prefix(&cell);
        for (name, (kind, _)) in catalogue::of(&scenario) {
            if kind != Kind::Number {
                continue;
            }
            let first = matrix.show.first().is_some_and(|show| *show.get_ref() == name) && !prefix.is_empty();
            for (statistic, about) in STATISTICS {
                out.insert(format!("{prefix}{name}.{statistic}"), (Kind::Number, about));
                if first {
                    out.insert(format!("{prefix}{statistic}"), (Kind::Number, about));
                }
            }
        }
    }
    out
}

/// What `matrix` says over all rounds, against what is measured then.
pub(super) fn rounds(matrix: &Matrix, catalogue: &Catalogue, problems: &Problems) {
    for expectation in &matrix.expectations {
        if let Check::Expression(expr) = &expectation.check {
            expression(expr, catalogue, Must::BeTrueOrFalse, problems);
        }
    }
    for formula in matrix.tables.iter().flat_map(TableSpec::expressions) {
        expression(formula, catalogue, Must::BeAnything, problems);
    }
}

/// Names share long prefixes: first the flow or node must be right, then its quantity.
fn nearest(name: &str, catalogue: &Catalogue) -> String {
    let (head, _) = name.rsplit_once('.').unwrap_or((name, ""));
    let first = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    if first(name) == "handover" && !catalogue.keys().any(|known| first(known) == "handover") {
        return "no [[at]] of this scenario has a `handover`".to_owned();
    }
    let same_head: Vec<&str> = catalogue
        .keys()
        .filter(|known| known.rsplit_once('.').is_some_and(|(other, _)| other == head))
        .map(String::as_str)
        .collect();
    if !same_head.is_empty() {
        return suggest(name, same_head);
    }
    match source::nearest(name, catalogue.keys().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let mut heads: Vec<&str> =
                catalogue.keys().filter_map(|known| Some(known.rsplit_once('.')?.0)).collect();
            heads.dedup();
            format!("measured are: {}", heads.join(", "))
        }
    }
}
