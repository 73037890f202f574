//! Scenario files: the schema, and how one is read and checked before anything is built.
//!
//! [`check`] reads a file and reports *all* that is wrong with it, each with file, line and nearest name ([`source`]).
//! [`parse`] knows keys, kinds and units; [`resolve`] what refers to what; [`model`] is what remains.

pub mod find;
pub mod model;
pub mod parse;
mod parse_events;
mod parse_nat;
pub mod prefix;
pub mod read;
pub mod resolve;
pub mod source;
pub mod units;

use model::{Router, Scenario};
use ntm_nat::Allocation;
use source::{Problem, Source};

/// Reads and checks a scenario; the error is the text for the user, all problems at once.
pub fn check(source: &Source) -> Result<Scenario, String> {
    let problems = read::Problems::default();
    let parsed = parse::scenario(source, &problems);
    if let Some(parsed) = &parsed {
        resolve::resolve(parsed, &problems);
    }
    match parsed {
        Some(parsed) if problems.is_empty() => Ok(parsed.scenario),
        _ => Err(source.render(&problems.into_vec())),
    }
}

/// Whether `scenario`, which was read from `source`, can be run on real packets; the error is the text for the user. The simulation
/// can do more.
pub fn check_emulation(source: &Source, scenario: &Scenario) -> Result<(), String> {
    let contiguous = |router: &&Router| {
        router.nat.get_ref().axes().is_some_and(|axes| axes.allocation == Allocation::Contiguous)
    };
    let problems: Vec<Problem> = scenario
        .routers
        .values()
        .filter(contiguous)
        .map(|router| {
            Problem::new(router.nat.span(), "the kernel cannot allocate contiguous ports")
                .hint("choose the allocation `preserve` or `random`, or run it in the simulation")
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(source.render(&problems)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the text, reading it ends, with a scenario or with a problem.
    #[test]
    fn a_file_cut_anywhere_is_refused_and_never_a_panic() {
        let text = include_str!("../../../scenarios/handover.toml");
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            let source = Source { name: "cut".into(), text: text[..end].to_owned() };
            if let Err(message) = check(&source) {
                assert!(message.contains("cut:"), "{message}");
            }
        }
    }
}
