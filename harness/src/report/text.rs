//! The verdict for people.

use std::fmt::Write as _;

use super::{Report, tables};

/// The report in words, as `run` prints it.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    for judged in &report.expectations {
        let check = if judged.check.chars().count() > 100 {
            format!("{} …", judged.check.chars().take(98).collect::<String>().trim_end())
        } else {
            judged.check.clone()
        };
        let _ = writeln!(out, "{:<6}  {check}", judged.word());
        if !judged.held {
            let _ = writeln!(out, "        {}", judged.fail);
            for line in &judged.found {
                let _ = writeln!(out, "        | {line}");
            }
            for line in &judged.disturbed {
                let _ = writeln!(out, "        ~ disturbed: {line}");
            }
        }
    }
    for table in &report.tables {
        let _ = writeln!(out, "\n{}", tables::text(table));
    }
    for problem in &report.problems {
        let _ = writeln!(out, "problem: {}", problem.replace('\n', "\n  "));
    }
    for note in &report.notes {
        let _ = writeln!(out, "note: {note}");
    }
    let held = report.expectations.iter().filter(|judged| judged.held).count();
    let _ = writeln!(
        out,
        "{}: {} ({held} of {} expectations held, {:.1} s)\nreport: {}/report.html",
        report.scenario,
        report.verdict,
        report.expectations.len(),
        report.seconds,
        report.folder
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::judge::verdict::Judged;

    #[test]
    fn a_failed_expectation_shows_its_sentence_and_what_was_found() {
        let judged = |held: bool| Judged {
            check: "flow.name.lost == 0".into(),
            held,
            fail: "the general node did not answer every ping".into(),
            found: vec!["flow.name.lost = 2".into()],
            disturbed: Vec::new(),
        };
        let unsure = Judged {
            disturbed: vec![
                "flow.name.lost: all processors were busy: up to 100 % (at most 95 %) from 1.0 s to 2.5 s"
                    .into(),
            ],
            ..judged(false)
        };
        let report = Report {
            scenario: "t".into(),
            verdict: "failed",
            exit: 1,
            problems: vec!["ntm-dc on `dc` was killed\n| log".into()],
            notes: vec!["the capture lost 3 packets".into()],
            expectations: vec![judged(true), judged(false), unsure],
            seconds: 12.345,
            folder: "runs/t".into(),
            ..Report::default()
        };
        insta::assert_snapshot!(render(&report), @"
        held    flow.name.lost == 0
        FAILED  flow.name.lost == 0
                the general node did not answer every ping
                | flow.name.lost = 2
        UNSURE  flow.name.lost == 0
                the general node did not answer every ping
                | flow.name.lost = 2
                ~ disturbed: flow.name.lost: all processors were busy: up to 100 % (at most 95 %) from 1.0 s to 2.5 s
        problem: ntm-dc on `dc` was killed
          | log
        note: the capture lost 3 packets
        t: failed (1 of 3 expectations held, 12.3 s)
        report: runs/t/report.html
        ");
    }
}
