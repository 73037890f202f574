//! Scenario files: the schema, and how one is read and checked before anything is built.
//!
//! [`check`] reads a file and reports *all* that is wrong with it, each with file, line and nearest name ([`source`]).
//! [`parse`] knows keys, kinds and units; [`resolve`] what refers to what; [`model`] is what remains.

pub mod find;
pub mod model;
pub mod parse;
mod parse_events;
pub mod prefix;
pub mod read;
pub mod resolve;
pub mod source;
pub mod units;

use model::Scenario;
use source::Source;

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
