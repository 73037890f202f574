//! A scenario file as text, and what is wrong with it: every problem with file, line, the line itself and the nearest name.

use std::fmt::Write as _;
use std::ops::Range;

/// The text of a scenario file, and the name by which problems call it.
#[derive(Debug, Clone)]
pub struct Source {
    /// As the user gave it, for messages.
    pub name: String,
    /// The whole file.
    pub text: String,
}

/// One thing that is wrong with a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Bytes of the text that it is about; an empty range points at a place.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a hint.
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), hint: None }
    }

    /// The same with a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl Source {
    /// All problems, in the order of the file, as text for a person.
    pub fn render(&self, problems: &[Problem]) -> String {
        let mut problems: Vec<&Problem> = problems.iter().collect();
        problems.sort_by_key(|problem| problem.span.start);
        let mut out = String::new();
        for problem in &problems {
            self.render_one(problem, &mut out);
        }
        let count = problems.len();
        let _ = writeln!(out, "{}: {count} problem{}", self.name, if count == 1 { "" } else { "s" });
        out
    }

    fn render_one(&self, problem: &Problem, out: &mut String) {
        let start = problem.span.start.min(self.text.len());
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = self.text[line_start..].lines().next().unwrap_or("");
        let number = self.text[..line_start].matches('\n').count() + 1;
        let column = self.text[line_start..start].chars().count();
        let end = problem.span.end.clamp(start, line_start + line.len().max(start - line_start));
        let width = self.text[start..end].chars().count().max(1);
        let gutter = " ".repeat(number.to_string().len());
        let hint = problem.hint.as_deref().map(|hint| format!(" {hint}")).unwrap_or_default();
        let _ = write!(
            out,
            "error: {message}\n{gutter}--> {name}:{number}:{place}\n{gutter} |\n{number} | {line}\n{gutter} | {pad}{marks}{hint}\n\n",
            message = problem.message,
            name = self.name,
            place = column + 1,
            pad = " ".repeat(column),
            marks = "^".repeat(width),
        );
    }
}

/// The name among `known` that `wrong` was probably meant to be, if one is near enough.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wrong, name), name))
        .filter(|&(distance, name)| distance <= 1 + wrong.len().max(name.len()) / 3)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, name)| name)
}

/// "did you mean …?" where a name is near, else the names that there are.
pub fn suggest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(wrong, known.clone()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => {
            let names: Vec<&str> = known.into_iter().collect();
            match names.as_slice() {
                [] => "there is none in this scenario".to_owned(),
                names => format!("known: {}", names.join(", ")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_shows_its_line_and_where_in_it() {
        let source = Source { name: "x.toml".into(), text: "a = 1\nbé = \"5mm\"\n".into() };
        let at = source.text.find("\"5mm\"").unwrap();
        let text = source.render(&[Problem::new(at..at + 5, "no unit").hint("write \"5ms\"")]);
        assert_eq!(
            text,
            "error: no unit\n --> x.toml:2:6\n  |\n2 | bé = \"5mm\"\n  |      ^^^^^ write \"5ms\"\n\nx.toml: 1 problem\n"
        );
    }

    #[test]
    fn a_place_beyond_the_end_is_shown_at_the_end() {
        let source = Source { name: "x".into(), text: "a".into() };
        assert!(source.render(&[Problem::new(9..12, "cut short")]).contains("x:1:2"));
    }

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        assert_eq!(nearest("nta", ["nat", "at", "link"]), Some("nat"));
        assert_eq!(nearest("apnat_b", ["apnat_a", "ap"]), Some("apnat_a"));
        assert_eq!(nearest("completely", ["nat"]), None);
    }
}
