//! The tables of keys in `docs/scenarios.md`: behind each line `<!-- keys: ID -->` stands the table of the section `ID`.

use std::fmt;

use super::{Key, Kind, Section, sections};

const MARK: &str = "<!-- keys: ";

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Text => "text",
            Self::Texts => "list of texts",
            Self::TextOrTexts => "text, or a list of them",
            Self::Expression => "expression",
            Self::Quantities => "quantity, or with rounds a list of them",
            Self::Moment => "`\"handover\"`, or a time",
            Self::Place => "`\"internet\"`, or the name of a router",
            Self::Name(what) => what,
            Self::Names(what) => return write!(f, "{what}, or a list of them"),
            Self::Words(words) => return f.write_str(&listed(&words())),
            Self::WordsOrTable(..) => "word or table",
            Self::Integer(only, most) if only == most => return write!(f, "`{only}`"),
            Self::Integer(0, u64::MAX) => "integer",
            Self::Integer(least, most) => return write!(f, "integer, {least} to {most}"),
            Self::Flag => "true or false",
            Self::Time => "time",
            Self::TimeFrom(least) => return write!(f, "time, at least `\"{least}\"`"),
            Self::Rate => "rate",
            Self::Share => "share",
            Self::Size => "size",
            Self::SizeWithin(least, most) => return write!(f, "size, `\"{least}B\"` to `\"{most}B\"`"),
            Self::Address => "address",
            Self::Network => "network",
            Self::Site6 => "IPv6 prefix of 48 bits",
            Self::DnsName => "DNS name",
            Self::Table(_) | Self::Paths => "table",
            Self::Tables(_) | Self::Nodes(..) => "tables",
            Self::List(_) => "list of tables",
            Self::Values => "list",
            Self::Rows => "list of lists",
        };
        f.write_str(text)
    }
}

/// "`a`, `b` or `c`".
fn listed(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

/// The table of a section's keys, in Markdown.
pub fn table(section: &Section) -> String {
    let by_role = section.keys.iter().any(|key| !key.of.is_empty());
    let calls = section.calls;
    let mut out = if by_role {
        format!("| {calls} | of | type | default | meaning |\n|---|---|---|---|---|\n")
    } else {
        format!("| {calls} | type | default | meaning |\n|---|---|---|---|\n")
    };
    let names = |names: &mut dyn Iterator<Item = &&str>| {
        names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" ")
    };
    if let Some((base, about)) = section.extends {
        let all = names(&mut base.keys.iter().flat_map(|key| key.names));
        out += &format!("| {all} | | needed | {about} |\n");
    }
    for key in section.keys {
        let Key { kind, default, about, .. } = key;
        let of = match (by_role, key.of) {
            (false, _) => String::new(),
            (true, []) => " all |".to_owned(),
            (true, roles) => format!(" {} |", names(&mut roles.iter())),
        };
        out += &format!("| {} |{of} {kind} | {default} | {about} |\n", names(&mut key.names.iter()));
    }
    out
}

/// `document` with the table of every section behind its mark; an error if a mark names none.
pub fn filled(document: &str) -> Result<String, String> {
    let mut out = String::with_capacity(document.len());
    let mut within = false;
    for line in document.lines() {
        if within && (line.is_empty() || line.starts_with('|')) {
            continue;
        }
        if std::mem::take(&mut within) {
            out += "\n";
        }
        out += line;
        out += "\n";
        if let Some(id) = line.strip_prefix(MARK).and_then(|rest| rest.strip_suffix(" -->")) {
            let section = sections().into_iter().find(|section| section.id == id);
            out += "\n";
            out += &table(section.ok_or_else(|| format!("no section is called {id}"))?);
            within = true;
        }
    }
    Ok(out)
}

/// The sections that have no mark in `document`.
pub fn missing(document: &str) -> Vec<&'static str> {
    let marked = |id: &str| document.contains(&format!("{MARK}{id} -->"));
    sections().into_iter().map(|section| section.id).filter(|id| !marked(id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_put_in_place_of_the_one_that_was() {
        let document = "# A\n<!-- keys: timeouts -->\n\n| old |\n\nafter\n";
        let current = filled(document).unwrap();
        assert_eq!(filled(&current), Ok(current.clone()));
        assert!(current.contains("| `udp` | time |") && current.ends_with("|\n\nafter\n"), "{current}");
        assert!(!current.contains("old"));
        assert!(filled("<!-- keys: nothing -->").is_err());
    }
}
