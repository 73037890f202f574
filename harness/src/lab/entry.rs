//! What shall happen in a lab, checked by the rules of scenario files: the scenario's own checks see the entry as one of its timeline. PURE.

use std::collections::{BTreeMap, BTreeSet};

use crate::scenario::model::ActionKind;
use crate::scenario::{check, source::Source};

/// A scenario's world as text, without what happens in it and what is expected.
#[derive(Debug, Clone)]
pub struct World(String);

/// Tables of a scenario that are not its world.
const HAPPENINGS: [&str; 6] = ["flow", "at", "expect", "table", "matrix", "timeout"];

impl World {
    /// That of the scenario whose file's text is `text`.
    pub fn of(text: &str) -> Result<Self, String> {
        let mut table: toml::Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
        for name in HAPPENINGS {
            table.remove(name);
        }
        toml::to_string(&table).map(Self).map_err(|error| error.to_string())
    }

    /// The action that `entry` is (`kill = { node = "rs" }`), with the daemons of the nodes `dead` killed before it; else all that is wrong
    /// with it.
    pub fn action(&self, entry: &str, dead: &BTreeSet<String>) -> Result<ActionKind, String> {
        let killed =
            dead.iter().map(|node| format!("[[at]]\ntime = \"1s\"\nkill = {{ node = \"{node}\" }}\n"));
        let text = format!("{}{}[[at]]\ntime = \"1s\"\n{entry}\n", self.0, killed.collect::<String>());
        let checked = check(&Source { name: String::new(), text }).map_err(|said| briefly(&said))?;
        let last = checked.actions.into_iter().nth(dead.len());
        last.map(|action| action.kind).ok_or_else(|| format!("{entry} is no action"))
    }
}

/// The entry of the action `kind` with these keys: `kill = { node = "rs" }`.
pub fn of<'a>(kind: &str, keys: impl IntoIterator<Item = (&'static str, &'a str)>) -> String {
    let keys: Vec<String> =
        keys.into_iter().map(|(key, value)| format!("{key} = {}", quoted(value))).collect();
    format!("{kind} = {{ {} }}", keys.join(", "))
}

/// The entry of a handover.
pub fn handover(node: &str, from: &str, to: &str, gap: Option<&str>, overlap: Option<&str>) -> String {
    let times =
        [("gap", gap), ("overlap", overlap)].into_iter().filter_map(|(key, value)| Some((key, value?)));
    of("handover", [("node", node), ("from", from), ("to", to)].into_iter().chain(times))
}

/// The entry of a link that `does` this to packets in both directions.
pub fn link<'a>(name: &str, does: impl IntoIterator<Item = (&'static str, &'a str)>) -> String {
    let both: Vec<String> =
        does.into_iter().map(|(key, value)| format!("{key} = {}", quoted(value))).collect();
    format!("link = {{ name = {}, both = {{ {} }} }}", quoted(name), both.join(", "))
}

/// A text as TOML writes it, whatever is in it.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Interfaces that are up, by host, in the order in which they came up.
pub type Up = BTreeMap<String, Vec<String>>;

/// Whether the interfaces that are up are as `action` needs; else what is in its way.
pub fn fits(action: &ActionKind, up: &Up) -> Result<(), String> {
    let is_up = |node: &str, name: &str| up.get(node).is_some_and(|up| up.iter().any(|own| own == name));
    match action {
        ActionKind::Handover { node, from, to, .. } => {
            let (node, from, to) = (node.get_ref(), from.get_ref(), to.get_ref());
            if is_up(node, to) {
                Err(format!("`{node}` is on {to} already"))
            } else if !is_up(node, from) {
                Err(format!(
                    "`{node}` has no network to leave: bring one up with `harness interface {node} {to} up`"
                ))
            } else {
                Ok(())
            }
        }
        ActionKind::Interface { node, name, up } => {
            let (node, name) = (node.get_ref(), name.get_ref());
            let word = if *up { "up" } else { "down" };
            if is_up(node, name) == *up {
                Err(format!("{name} of `{node}` is {word} already"))
            } else {
                Ok(())
            }
        }
        ActionKind::Address { node, interface, .. } => {
            let (node, name) = (node.get_ref(), interface.get_ref());
            if is_up(node, name) { Ok(()) } else { Err(format!("{name} of `{node}` is down")) }
        }
        ActionKind::Link { .. } | ActionKind::Kill { .. } | ActionKind::Start { .. } => Ok(()),
    }
}

/// Which interfaces are up when `action` was done.
pub fn happened(action: &ActionKind, up: &mut Up) {
    let mut set = |node: &str, name: &str, is_up: bool| {
        let names = up.entry(node.to_owned()).or_default();
        names.retain(|own| own != name);
        names.extend(is_up.then(|| name.to_owned()));
    };
    match action {
        ActionKind::Handover { node, from, to, .. } => {
            set(node.get_ref(), from.get_ref(), false);
            set(node.get_ref(), to.get_ref(), true);
        }
        ActionKind::Interface { node, name, up } => set(node.get_ref(), name.get_ref(), *up),
        _ => {}
    }
}

/// The problems of a rendered list, without places in a text that nobody has seen: what is wrong, and the nearest name.
fn briefly(rendered: &str) -> String {
    let problems = rendered.split("\n\n").filter_map(|problem| {
        let message = problem.lines().next()?.strip_prefix("error: ")?;
        let hint =
            problem.lines().next_back().and_then(|last| last.rsplit_once('^')).map(|(_, hint)| hint.trim());
        Some(match hint {
            Some(hint) if !hint.is_empty() => format!("{message}: {hint}"),
            _ => message.to_owned(),
        })
    });
    problems.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> World {
        World::of(include_str!("../../../scenarios/handover.toml")).unwrap()
    }

    #[test]
    fn an_entry_is_checked_as_a_scenario_file_is() {
        let wrong = |entry: &str| world().action(entry, &BTreeSet::new()).unwrap_err();
        assert_eq!(wrong(r#"kill = { node = "rss" }"#), "there is no node `rss`: did you mean `rs`?");
        assert!(
            wrong(r#"link = { name = "wifi", both = { delai = "1ms" } }"#).contains("did you mean `delay`?")
        );
        assert!(wrong(r#"start = { node = "rs" }"#).contains("only what was killed is started"));
        // Whatever is typed there is an answer.
        for entry in [
            "nonsense",
            "kill = 1",
            "x = { node = \"rs\" }",
            "kill = { node = \"rs\" }\n[[flow]]\nid = \"x\"",
        ] {
            assert!(!wrong(entry).is_empty(), "{entry}");
        }
    }

    #[test]
    fn what_was_killed_can_be_started_and_not_killed_again() {
        let dead = BTreeSet::from(["rs".to_owned()]);
        let start = world().action(r#"start = { node = "rs" }"#, &dead).unwrap();
        assert!(matches!(start, ActionKind::Start { node } if node.get_ref() == "rs"));
        assert!(world().action(r#"kill = { node = "rs" }"#, &dead).unwrap_err().contains("killed already"));
    }

    #[test]
    fn what_is_up_is_followed_and_decides_what_can_happen() {
        let mut up = Up::from([("mn".to_owned(), vec!["wlan0".to_owned()])]);
        let action = |entry: &str| world().action(entry, &BTreeSet::new()).unwrap();
        let there = action(&handover("mn", "wlan0", "wlan1", Some("10ms"), None));
        assert_eq!(fits(&there, &up), Ok(()));
        happened(&there, &mut up);
        assert_eq!(up["mn"], ["wlan1"]);
        assert!(fits(&there, &up).unwrap_err().contains("on wlan1 already"));
        let down = action(r#"interface = { node = "mn", name = "wlan1", state = "down" }"#);
        assert_eq!(fits(&down, &up), Ok(()));
        happened(&down, &mut up);
        assert!(fits(&down, &up).unwrap_err().contains("down already"));
        assert!(
            fits(&action(&handover("mn", "wlan1", "wlan0", None, None)), &up)
                .unwrap_err()
                .contains("no network to leave")
        );
        let hostile = handover("mn\" } #", "a", "b", None, None);
        assert!(world().action(&hostile, &BTreeSet::new()).is_err());
    }

    #[test]
    fn every_scenario_of_the_project_has_a_world() {
        let folder = crate::scenario::find::folder().unwrap();
        for file in crate::scenario::find::all(&folder) {
            let text = std::fs::read_to_string(&file).unwrap();
            World::of(&text).unwrap().action("", &BTreeSet::new()).expect_err("an entry of nothing");
        }
    }
}
