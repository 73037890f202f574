//! What an observation is about, in terms that are the same in both worlds: Path IDs differ from world to world, and so may the order in which paths are made.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ntm_protocol::addr::PathId;
use ntm_protocol::observe::{Observation, What};
use ntm_protocol::wire::{Fields, Kind, Shown};

/// Tells what each observation of a trace is about, one after another.
pub(super) struct Subjects {
    /// Who began a path, and the name that it leads to.
    paths: BTreeMap<PathId, String>,
    /// What a node was asked about, by the node, where from, and the Request ID.
    asked: BTreeMap<(String, SocketAddr, u64), Option<String>>,
}

impl Subjects {
    /// Of a trace, which is sorted by time.
    pub(super) fn of(trace: &[&Observation]) -> Self {
        let mut paths: BTreeMap<PathId, String> = BTreeMap::new();
        for Observation { node, what, .. } in trace {
            if let What::Received { message: Kind::RouteDirection, path: Some(path), fields, .. } = what
                && let (Some("initiator"), Some(peer)) = (text(fields, "role"), text(fields, "peer"))
                && !paths.contains_key(path)
            {
                let label = leads(node, peer);
                // One that ended may have a successor.
                let is_before = |known: &&String| {
                    known.strip_prefix(&label).is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
                };
                let before = paths.values().filter(is_before).count();
                let label = if before == 0 { label } else { format!("{label}, {}", before + 1) };
                paths.insert(*path, label);
            }
        }
        Self { paths, asked: BTreeMap::new() }
    }

    /// The path or the name that the next observation, which is `node`'s, is about.
    pub(super) fn next(&mut self, node: &str, what: &What) -> Option<String> {
        match what {
            What::Asked { name, .. } | What::Answered { name, .. } => Some(name.to_string()),
            What::Query { name } | What::Answer { name, .. } => Some(leads(node, &name.to_string())),
            What::Directed { path, .. } | What::PathChanged { path, .. } | What::RelayTable { path, .. } => {
                Some(self.path(*path))
            }
            What::Sent { path: Some(path), .. } => Some(self.path(*path)),
            What::Sent { message, to, fields, .. } => match answered(*message, fields) {
                Some(request) => self.asked.get(&(node.to_owned(), *to, request)).cloned().flatten(),
                None => asked_for(node, *message, fields),
            },
            What::Received { message, from, path, fields, .. } => {
                let about = path.map(|path| self.path(path)).or_else(|| asked_for(node, *message, fields));
                if let Some(request) = number(fields, "request") {
                    self.asked.insert((node.to_owned(), *from, request), about.clone());
                }
                about
            }
            _ => None,
        }
    }

    /// How many paths there were.
    pub(super) fn paths(&self) -> usize {
        self.paths.len()
    }

    /// A path's name; one that its initiator never heard of is named by its number.
    fn path(&mut self, path: PathId) -> String {
        let next = self.paths.len() + 1;
        self.paths.entry(path).or_insert_with(|| format!("path {next}")).clone()
    }
}

/// The name that a request without a path is about.
fn asked_for(node: &str, message: Kind, fields: &Fields) -> Option<String> {
    let name = text(fields, "fqdn")?;
    match message {
        Kind::DirectionRequest => Some(leads(node, name)),
        Kind::InformationRequest => Some(name.to_owned()),
        _ => None,
    }
}

/// The Request ID of what a message answers, if it answers one.
pub(super) fn answered(message: Kind, fields: &Fields) -> Option<u64> {
    use Kind::{InformationResponse, RegistrationResponse, RelayResponse, RouteResponse, TunnelResponse};
    let of_answer = matches!(
        message,
        InformationResponse | RegistrationResponse | RelayResponse | RouteResponse | TunnelResponse
    );
    number(fields, "answers").or_else(|| number(fields, "request").filter(|_| of_answer))
}

/// The way from `node` to `name`.
fn leads(node: &str, name: &str) -> String {
    format!("{node} to {name}")
}

fn text<'a>(fields: &'a Fields, field: &str) -> Option<&'a str> {
    match fields.get(field) {
        Some(Shown::Text(text)) => Some(text),
        _ => None,
    }
}

/// A field that is a number.
pub(super) fn number(fields: &Fields, field: &str) -> Option<u64> {
    match fields.get(field) {
        Some(Shown::Number(number)) => Some(*number),
        _ => None,
    }
}
