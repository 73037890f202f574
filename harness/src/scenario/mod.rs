//! Scenario files: the schema, and how one is read and checked before anything is built.
//!
//! [`check`] reads a file and reports *all* that is wrong with it, each with file, line and nearest name ([`source`]).
//! [`matrix`] varies a file along axes, or cell by cell, and runs it in rounds. [`parse`] knows keys, kinds and units; [`resolve`] what refers to what; [`model`] is what remains.

pub mod find;
pub mod matrix;
pub mod measured;
pub mod model;
pub mod parse;
mod parse_events;
mod parse_nat;
pub mod prefix;
pub mod read;
pub mod resolve;
pub mod schema;
pub mod source;
pub mod tables;
pub mod units;

use model::{Check, Expectation, Flow, Router, Scenario};
use ntm_nat::Allocation;
use source::{Problem, Source};

/// Reads and checks a scenario; the error is the text for the user, all problems at once.
pub fn check(source: &Source) -> Result<Scenario, String> {
    let (scenario, mut problems) = read(source);
    // A value of an axis is wrong if the file with it is. Only of a good file can that be told.
    if let (Some(matrix), true) = (scenario.as_ref().and_then(|it| it.matrix.as_ref()), problems.is_empty()) {
        problems = matrix.problems(source, |varied| read(varied).1);
        if problems.is_empty() && matrix.rounds.is_some() {
            let noted = read::Problems::default();
            measured::rounds(matrix, &measured::over_rounds(matrix, source, |cell| read(cell).0), &noted);
            problems = noted.into_vec();
        }
    }
    finish(source, scenario, &problems)
}

/// As [`check`], without the axes: of a cell, whose axes are those of the file that it was made from.
pub fn check_cell(source: &Source) -> Result<Scenario, String> {
    let (scenario, problems) = read(source);
    finish(source, scenario, &problems)
}

fn finish(source: &Source, scenario: Option<Scenario>, problems: &[Problem]) -> Result<Scenario, String> {
    match scenario {
        Some(scenario) if problems.is_empty() => Ok(scenario),
        _ => Err(source.render(problems)),
    }
}

/// A scenario as far as it could be read, and all that is wrong with it as it stands.
fn read(source: &Source) -> (Option<Scenario>, Vec<Problem>) {
    let problems = read::Problems::default();
    let parsed = parse::scenario(source, &problems);
    if let Some(parsed) = &parsed {
        resolve::resolve(parsed, &problems);
    }
    (parsed.map(|parsed| parsed.scenario), problems.into_vec())
}

/// Whether `scenario`, which was read from `source`, can be run on real packets; the error is the text for the user. The simulation
/// can do more.
pub fn check_emulation(source: &Source, scenario: &Scenario) -> Result<(), String> {
    let contiguous = |router: &&Router| {
        router.nat.get_ref().axes().is_some_and(|axes| axes.allocation == Allocation::Contiguous)
    };
    let groups = scenario.groups.iter().filter(|(_, group)| group.nodes.len() > parse::MOST_EMULATED).map(
        |(name, group)| {
            let message = format!(
                "`{name}` are {} terminals: emulation has processes and namespaces for at most {}",
                group.nodes.len(),
                parse::MOST_EMULATED
            );
            Problem::new(group.place.clone(), message).hint("run this with --engine sim")
        },
    );
    let together = scenario.actions.iter().filter_map(|action| {
        let node = action.kind.node().filter(|node| scenario.groups.contains_key(node.get_ref()))?;
        let name = node.get_ref();
        let message = format!("`{name}` is a group, to which nothing happens at once on real packets");
        Some(
            Problem::new(node.span(), message)
                .hint(format!("name its terminals one by one, as `{name}1`, or run this with --engine sim")),
        )
    });
    let problems: Vec<Problem> = scenario
        .routers
        .values()
        .filter(contiguous)
        .map(|router| {
            Problem::new(router.nat.span(), "the kernel cannot allocate contiguous ports")
                .hint("choose the allocation `preserve` or `random`, or run it in the simulation")
        })
        .chain(groups)
        .chain(together)
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(source.render(&problems)) }
}

/// The flows of `scenario` that the simulation leaves out: what is a program of the host and no application of ours.
pub fn left_out(scenario: &Scenario) -> impl Iterator<Item = &Flow> {
    scenario.flows.iter().filter(|flow| flow.kind.is_of_the_host())
}

/// What an expectation names.
pub fn names(expectation: &Expectation) -> impl Iterator<Item = &str> {
    let expression = match &expectation.check {
        Check::Expression(expression) => Some(expression.get_ref()),
        _ => None,
    };
    expression.into_iter().flat_map(|expression| expression.names().into_iter().map(|(name, _)| name))
}

/// The quantity of a process, its memory or processor time, that an expectation is about: in the simulator there is none, and the expectation is not judged.
pub fn of_process(expectation: &Expectation) -> Option<&str> {
    let is_of_process = |name: &&str| [".memory_mb", ".cpu_s"].iter().any(|end| name.contains(end));
    names(expectation).find(is_of_process)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// T6.1-b: a relay answers pings at its real address, and nothing else.
    #[test]
    fn what_a_relay_and_a_router_do_not_do_is_told() {
        let of = |router: &str, flow: &str| {
            let text = format!(
                "schema = 1\nname = \"t\"\nabout = \"t\"\n[router.r]\nnat = \"symmetric\"\n{router}\n[node]\n\
                 root = {{ role = \"dns\", at = \"internet\", zone = \".\" }}\n\
                 dc = {{ role = \"coordinator\", at = \"internet\", zone = \"dc.test\", vips = \"198.18.0.0/16\" }}\n\
                 rs = {{ role = \"relay\", at = \"internet\" }}\nb = {{ role = \"general\", at = \"r\", name = \"b.test\" }}\n\
                 [[flow]]\nid = \"f\"\n{flow}\n"
            );
            Source { name: "t".into(), text }
        };
        let ping = of("forward = \"b\"", "ping = { from = \"b\", to = \"rs.dc.test\" }");
        assert!(check(&ping).is_ok());
        let page = check(&of("", "http = { from = \"b\", to = \"rs.dc.test\" }")).unwrap_err();
        assert!(page.contains("answers a `ping` and nothing else"), "{page}");
        let file =
            check(&of("forward = \"b\"", "ftp = { from = \"b\", to = \"b.test\", mode = \"passive\" }"));
        assert!(file.unwrap_err().contains("`ftp` has ports of its own"));
    }

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
