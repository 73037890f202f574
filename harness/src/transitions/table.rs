//! Figs. 4.2 and 4.4 as tables in Markdown.

use std::fmt::Write as _;

use ntm_protocol::observe::RouteName;

use super::{Hop, Transition};

/// Every transition, one table each.
pub fn render(transitions: &[Transition]) -> String {
    let mut out = String::new();
    for transition in transitions {
        let Transition { route, from, to, since_ms, forward, back, compared, changed } = transition;
        let [from, to] = [from, to].map(|name| name.to_uppercase());
        let route = match route {
            RouteName::Direct => "directly",
            RouteName::Switched => "through RS-S",
            RouteName::Translated => "through RS-N",
            RouteName::None => "nowhere",
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "## {from} ⇔ {to}, {route}, since {since_ms:.1} ms\n");
        match both(forward, back) {
            Some(rows) => rows_of(&mut out, &rows, '⇔'),
            None => {
                rows_of(&mut out, forward, '→');
                rows_of(&mut out, back, '→');
            }
        }
        let _ = writeln!(
            out,
            "Of {compared} data packets that were seen in several places, {changed} had not the same bytes everywhere (NTM header, \
             ciphertext, MAC).\n"
        );
    }
    if !transitions.is_empty() {
        out.push_str("In parentheses: encrypted there.\n");
    }
    out
}

/// The hops of both directions as one, seen from MN; nothing where the way back is not the way there turned round.
fn both(forward: &[Hop], back: &[Hop]) -> Option<Vec<Hop>> {
    let turned = |pair: &(String, String)| (pair.1.clone(), pair.0.clone());
    let turn = |hop: &Hop| Hop {
        outer: hop.outer.as_ref().map(turned),
        original: turned(&hop.original),
        ..hop.clone()
    };
    back.iter().rev().map(turn).eq(forward.iter().cloned()).then(|| forward.to_vec())
}

fn rows_of(out: &mut String, hops: &[Hop], arrow: char) {
    let _ = writeln!(out, "| | outer IP header | original IP header |\n|---|---|---|");
    for Hop { at, outer, original, readable } in hops {
        let show = |pair: &(String, String)| format!("{} {arrow} {}", pair.0, pair.1);
        let outer = outer.as_ref().map(show).unwrap_or_default();
        let original = show(original);
        let original = if *readable { original } else { format!("({original})") };
        let _ = writeln!(out, "| {at} | {outer} | {original} |");
    }
    out.push('\n');
}
