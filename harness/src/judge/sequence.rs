//! Sequences as expectations: observations that must come in this order, others allowed in between.
//!
//! A step is written `NODE: WHAT [WORD] [FIELD=VALUE …]`, for example `mn: sent RegistrationRequest to=dc` or
//! `dc: asked NS name=example.test`. The trace's records are JSON, so a step matches any record of the protocol or of the
//! harness; an address matches by its text or by the name of the node or router that has it. `*` stands for any node.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ntm_protocol::wire::Kind;
use serde_json::Value;

use crate::scenario::source::suggest;

/// One observation that a sequence wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// As written.
    pub text: String,
    /// The node's name; `None` for any.
    pub node: Option<String>,
    what: String,
    word: Option<String>,
    fields: Vec<(String, String)>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What can be observed, and the field that the step's bare word is compared with.
const WHATS: &[(&str, Option<&str>)] = &[
    ("sent", Some("message")),
    ("received", Some("message")),
    ("refused", Some("field")),
    ("asked", Some("lookup")),
    ("answered", Some("lookup")),
    ("registered", Some("fqdn")),
    ("unregistered", Some("fqdn")),
    ("addresses", None),
    ("query", Some("name")),
    ("answer", Some("name")),
    ("directed", Some("route")),
    ("undirected", Some("error")),
    ("path-changed", Some("route")),
    ("relay-table", Some("change")),
    ("gave-up", Some("message")),
    ("left", Some("interface")),
    ("joined", Some("interface")),
    ("flow-started", Some("flow")),
    ("flow-ended", Some("flow")),
];

/// Reads a step; the error says what forms there are.
pub fn parse_step(text: &str) -> Result<Step, String> {
    let form = "a step is written as \"mn: sent RegistrationRequest\"";
    let (node, rest) = text.split_once(':').ok_or_else(|| format!("{text:?} names no node: {form}"))?;
    let node = node.trim();
    let mut words = rest.split_whitespace();
    let what = words.next().ok_or_else(|| format!("{text:?} does not say what is observed: {form}"))?;
    let names = WHATS.iter().map(|(name, _)| *name);
    let Some((_, word_field)) = WHATS.iter().find(|(name, _)| *name == what) else {
        return Err(format!("nothing is observed as `{what}`: {}", suggest(what, names)));
    };
    let (mut word, mut fields) = (None, Vec::new());
    for part in words {
        match part.split_once('=') {
            Some((field, value)) => fields.push((field.to_owned(), value.to_owned())),
            None if word.is_none() && word_field.is_some() => word = Some(part.to_owned()),
            None => {
                return Err(format!(
                    "`{part}` is one word too many in {text:?}: further fields are FIELD=VALUE"
                ));
            }
        }
    }
    if let (Some("message"), Some(word)) = (word_field, &word) {
        known(word, "message", Kind::ALL.iter().map(|kind| kind.name()))?;
    }
    if let (Some("lookup"), Some(word)) = (word_field, &word) {
        known(word, "record type", ["NS", "TXT", "A", "AAAA"].into_iter())?;
    }
    if let (Some("route"), Some(word)) = (word_field, &word) {
        known(word, "route", ["direct", "RS-S", "RS-N", "none"].into_iter())?;
    }
    Ok(Step {
        text: text.to_owned(),
        node: (node != "*").then(|| node.to_owned()),
        what: what.to_owned(),
        word,
        fields,
    })
}

fn known<'a>(word: &str, what: &str, names: impl Iterator<Item = &'a str> + Clone) -> Result<(), String> {
    if names.clone().any(|name| name == word) {
        Ok(())
    } else {
        Err(format!("`{word}` is no {what}: {}", suggest(word, names)))
    }
}

/// Who has an address: the names of nodes and routers.
pub trait Owners {
    /// Whether the node or router called `name` has, or had, `address`.
    fn owns(&self, name: &str, address: IpAddr) -> bool;
}

impl Step {
    /// Whether `record`, one line of the trace, is what this step wants.
    pub fn matches(&self, record: &Value, owners: &impl Owners) -> bool {
        let text = |field: &str| record.get(field).and_then(Value::as_str);
        if self.node.as_deref().is_some_and(|node| text("node") != Some(node))
            || text("what") != Some(&self.what)
        {
            return false;
        }
        let word_field = WHATS.iter().find(|(name, _)| *name == self.what).and_then(|(_, field)| *field);
        let word = match (&self.word, word_field) {
            (Some(word), Some(field)) => holds(record.get(field), word, owners),
            _ => true,
        };
        word && self.fields.iter().all(|(field, wanted)| holds(record.get(field), wanted, owners))
    }
}

fn holds(value: Option<&Value>, wanted: &str, owners: &impl Owners) -> bool {
    match value {
        Some(Value::String(text)) => {
            let address =
                text.parse::<SocketAddr>().map(|socket| socket.ip()).or_else(|_| text.parse::<IpAddr>()).ok();
            text == wanted
                || address
                    .is_some_and(|address| owners.owns(wanted, address) || wanted.parse() == Ok(address))
        }
        Some(Value::Array(items)) => items.iter().any(|item| holds(Some(item), wanted, owners)),
        // An enum with content is an object with a `kind`.
        Some(Value::Object(object)) => holds(object.get("kind"), wanted, owners),
        Some(Value::Number(number)) => number.to_string() == wanted,
        Some(Value::Bool(truth)) => wanted.parse() == Ok(*truth),
        Some(Value::Null) => false,
        None => false,
    }
}

/// How a search for a sequence ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every step was found; the index of each record.
    Held(Vec<usize>),
    /// The steps before `missing` were found, this one never came after them.
    Stopped {
        /// The index of each record found.
        found: Vec<usize>,
        /// The first step without a record.
        missing: usize,
    },
}

/// Looks for `steps` as an ordered subsequence of `trace`, which is sorted by time; records before index `start` do not count.
pub fn search<'a>(
    steps: impl IntoIterator<Item = &'a Step>,
    trace: &[Value],
    start: usize,
    owners: &impl Owners,
) -> Outcome {
    let mut found = Vec::new();
    let mut at = start;
    for (number, step) in steps.into_iter().enumerate() {
        match trace.iter().skip(at).position(|record| step.matches(record, owners)) {
            Some(offset) => {
                found.push(at + offset);
                at += offset + 1;
            }
            None => return Outcome::Stopped { found, missing: number },
        }
    }
    Outcome::Held(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    struct Fixed;

    impl Owners for Fixed {
        fn owns(&self, name: &str, address: IpAddr) -> bool {
            name == "dc" && address == IpAddr::from([203, 0, 113, 3])
        }
    }

    fn trace() -> Vec<Value> {
        vec![
            json!({"t": 1, "node": "mn", "what": "sent", "message": "DirectionRequest", "to": "203.0.113.3:4330"}),
            json!({"t": 2, "node": "dc", "what": "asked", "lookup": "NS", "name": "example.test"}),
            json!({"t": 3, "node": "dc", "what": "asked", "lookup": "TXT", "name": "example.test"}),
            json!({"t": 4, "node": "rs", "what": "relay-table", "change": {"kind": "made"}}),
        ]
    }

    fn steps(texts: &[&str]) -> Vec<Step> {
        texts.iter().map(|text| parse_step(text).unwrap()).collect()
    }

    #[test]
    fn steps_are_found_in_order_with_others_between() {
        let wanted = steps(&[
            "mn: sent DirectionRequest to=dc",
            "dc: asked TXT name=example.test",
            "*: relay-table made",
        ]);
        assert_eq!(search(&wanted, &trace(), 0, &Fixed), Outcome::Held(vec![0, 2, 3]));
    }

    #[test]
    fn order_node_fields_and_start_all_count() {
        let stopped = |texts: &[&str], start| match search(&steps(texts), &trace(), start, &Fixed) {
            Outcome::Stopped { missing, .. } => Some(missing),
            Outcome::Held(_) => None,
        };
        assert_eq!(stopped(&["dc: asked TXT", "dc: asked NS"], 0), Some(1), "the order is wrong");
        assert_eq!(stopped(&["cn: sent DirectionRequest"], 0), Some(0), "the node is wrong");
        assert_eq!(stopped(&["mn: sent DirectionRequest to=rs"], 0), Some(0), "the receiver is wrong");
        assert_eq!(stopped(&["mn: sent DirectionRequest"], 1), Some(0), "it came before the start");
        assert_eq!(stopped(&["dc: asked NS", "dc: asked NS"], 0), Some(1), "one record serves one step");
        assert_eq!(stopped(&["dc: asked NS"], 1), None);
    }

    #[test]
    fn mistakes_name_the_nearest() {
        let wrong = |text: &str| parse_step(text).unwrap_err();
        assert!(wrong("mn: sent RegistrationRequets").contains("did you mean `RegistrationRequest`?"));
        assert!(wrong("mn: send X").contains("did you mean `sent`?"));
        assert!(wrong("mn sent X").contains("names no node"));
        assert!(wrong("mn: sent DirectionRequest again").contains("one word too many"));
        assert!(wrong("mn:").contains("does not say"));
    }

    #[test]
    fn every_kind_of_observation_of_the_protocol_can_be_named() {
        // A probe with no such variant: serde lists the names that there are.
        let error = serde_json::from_value::<ntm_protocol::observe::What>(json!({"what": "?"})).unwrap_err();
        let message = error.to_string();
        let listed: Vec<&str> = message.split('`').skip(3).step_by(2).collect();
        assert!(listed.len() > 10, "{message}");
        for name in listed {
            assert!(WHATS.iter().any(|(what, _)| *what == name), "`{name}` is missing from WHATS");
        }
    }
}
