//! `junit.xml`: the verdict in the form that CI systems read: a test case for each expectation, and one for the run itself.

use std::fmt::Write as _;

use super::Report;

/// The report as JUnit's XML, of the shape that Jenkins, GitLab and GitHub's actions take.
pub fn render(report: &Report) -> String {
    let failures = report.expectations.iter().filter(|judged| judged.failed()).count();
    // A run that came to no verdict, or whose daemons did not end cleanly, is an error of its own.
    let broken = !matches!(report.verdict, "held" | "failed") || !report.problems.is_empty();
    let skipped = report.expectations.iter().filter(|judged| !judged.disturbed.is_empty()).count();
    let (tests, errors) = (report.expectations.len() + 1, usize::from(broken));
    let suite = attribute(&report.scenario);
    let counts = format!(
        "name=\"{suite}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" time=\"{:.3}\"",
        report.seconds
    );
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a string cannot fail.
    let _ = writeln!(out, "<testsuites {counts}>\n  <testsuite {counts} skipped=\"{skipped}\">");
    let _ = write!(
        out,
        "    <testcase classname=\"{suite}\" name=\"the run comes to its end\" time=\"{:.3}\"",
        report.seconds
    );
    if broken {
        let message = attribute(&format!("the run ended with: {}", report.verdict));
        let body = text(&report.problems.join("\n"));
        let _ = writeln!(
            out,
            ">\n      <error type=\"run\" message=\"{message}\">{body}</error>\n    </testcase>"
        );
    } else {
        out += "/>\n";
    }
    for judged in &report.expectations {
        let name = attribute(&judged.check);
        let _ = write!(out, "    <testcase classname=\"{suite}\" name=\"{name}\" time=\"0\"");
        if judged.held {
            out += "/>\n";
        } else if !judged.failed() {
            let message = attribute(&format!("disturbed: {}", judged.disturbed.join("; ")));
            let _ = writeln!(out, ">\n      <skipped message=\"{message}\"/>\n    </testcase>");
        } else {
            let (message, body) = (attribute(&judged.fail), text(&judged.found.join("\n")));
            let failure = format!("<failure type=\"expectation\" message=\"{message}\">{body}</failure>");
            let _ = writeln!(out, ">\n      {failure}\n    </testcase>");
        }
    }
    if !report.notes.is_empty() {
        let _ = writeln!(out, "    <system-out>{}</system-out>", text(&report.notes.join("\n")));
    }
    out + "  </testsuite>\n</testsuites>\n"
}

fn attribute(raw: &str) -> String {
    text(raw).replace('"', "&quot;").replace('\n', "&#10;")
}

/// With what XML reserves escaped, and without the control characters that it cannot hold.
fn text(raw: &str) -> String {
    let allowed = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    let kept: String =
        raw.chars().filter(allowed).filter(|c| !matches!(c, '\u{fffe}' | '\u{ffff}')).collect();
    kept.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    #[test]
    fn a_failure_bears_its_sentence_and_what_was_found() {
        insta::assert_snapshot!(render(&report()));
    }

    /// What a program printed may hold anything.
    #[test]
    fn whatever_is_said_the_document_is_well_formed() {
        let mut report = report();
        let nasty = "a < b & \"c\" > 'd' ]]> \u{0}\u{1b}[31m\u{ffff}\nnext";
        report.problems = vec![nasty.into()];
        report.notes = vec![nasty.into()];
        for judged in &mut report.expectations {
            (judged.check, judged.fail, judged.found) = (nasty.into(), nasty.into(), vec![nasty.into()]);
        }
        let rendered = render(&report);
        let document = roxmltree::Document::parse(&rendered).unwrap();
        let suite = document.root_element().first_element_child().unwrap();
        let cases: Vec<_> = suite.children().filter(|node| node.has_tag_name("testcase")).collect();
        let with = |name: &str| {
            cases.iter().filter(|one| one.children().any(|node| node.has_tag_name(name))).count()
        };
        let counted = |name: &str| suite.attribute(name).unwrap().parse::<usize>().unwrap();
        assert_eq!(cases.len(), counted("tests"));
        assert_eq!((with("failure"), with("error")), (counted("failures"), counted("errors")));
        assert!(
            cases.iter().all(|one| one.attribute("name").is_some() && one.attribute("classname").is_some())
        );
        let failure = document.descendants().find(|node| node.has_tag_name("failure")).unwrap();
        assert_eq!(failure.attribute("message"), Some("a < b & \"c\" > 'd' ]]> [31m\nnext"));
    }
}
