//! From TOML to the model: keys, kinds and units. What names refer to is [`resolve`](super::resolve)'s part.

use std::collections::BTreeMap;
use std::time::Duration;

use ntm_nat::Behaviour;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::matrix::{matrix, seed};
use super::model::{
    ActionKind, Coordinator, Group, HANDOVERS, Interface, Ip, Link, Node, Place, Role, Router, SELECTIONS,
    SUITES, SWITCHERS, Scenario, Shape, Terminal, Tunnel,
};
use super::parse_events::{actions, expectations, flows, implied, of_groups};
use super::parse_nat::behaviour;
use super::prefix::{Prefix, Site6};
use super::read::{Problems, Table};
use super::schema::tables::NODE;
use super::source::{Problem, Source};
use super::tables::tables;
use super::units;
use crate::disturbance::Bounds;
use crate::foreign::program::Program;

/// The outer network unless `[internet] prefix` says otherwise (TEST-NET-3, RFC 5737).
const INTERNET: Prefix = Prefix::new(std::net::Ipv4Addr::new(203, 0, 113, 0), 24);

/// A scenario as far as it could be read.
pub struct Parsed {
    /// Of use only if there was no problem.
    pub scenario: Scenario,
    /// The names of all nodes, those included that could not be read: that someone refers to one is no second mistake.
    pub nodes: Vec<String>,
}

/// Reads the whole file; `None` if it is no TOML.
pub fn scenario(source: &Source, problems: &Problems) -> Option<Parsed> {
    let (document, errors) = DeTable::parse_recoverable(&source.text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        problems.add(Problem::new(span, format!("not TOML: {}", error.message())));
    }
    if !errors.is_empty() {
        return None;
    }
    let top = Table::new("the scenario", 0..0, document.get_ref(), problems);
    schema(&top);
    let name = top.need_text("name").map(Spanned::into_inner).unwrap_or_default();
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) || name.len() > 64 {
        let span = top.get("name").map_or(0..0, |value| value.span());
        top.problem(span, "`name` names a folder: use letters, digits, - and _, at most 64");
    }
    let about = top.need_text("about").map(Spanned::into_inner).unwrap_or_default();
    let (internet, internet6) = internet(&top);
    let (described, nodes, groups) = nodes(&top);
    let flows = of_groups(flows(&top), &groups);
    let judged = implied(&flows).chain(expectations(&top)).collect();
    let links = named(&top, "link", |table| {
        let single = table.flag("offload") == Some(false);
        Link { single, ..link(table) }
    });
    let tunnels = named(&top, "tunnel", tunnel);
    let tunnels = tunnels.into_iter().filter_map(|(name, tunnel)| Some((name, tunnel?))).collect();
    let mut happenings = actions(&top);
    for action in &mut happenings {
        // A link that changes is of the same make.
        if let ActionKind::Link { name, shape } = &mut action.kind {
            shape.single = links.get(name.get_ref()).is_some_and(|link: &Link| link.single);
        }
    }
    let mut scenario = Scenario {
        name,
        about,
        seed: top.integer("seed", 0, u64::MAX).unwrap_or(0),
        disturbance: disturbance(&top),
        captures: top.flag("captures").unwrap_or(true),
        netem: top.flag("netem").unwrap_or(true),
        points: top.texts("points"),
        timeout: top.duration("timeout"),
        internet,
        internet6,
        links,
        routers: named(&top, "router", router),
        tunnels,
        nodes: described,
        groups,
        flows,
        actions: happenings,
        expectations: judged,
        tables: tables(&top),
        seed_place: seed(document.get_ref()).map(|(place, _)| place),
        matrix: matrix(&top, document.get_ref(), &source.text),
        names: BTreeMap::new(),
    };
    scenario.name_nodes();
    top.finish();
    Some(Parsed { scenario, nodes })
}

fn schema(top: &Table<'_, '_>) {
    let Some(value) = top.need("schema") else { return };
    let known = matches!(value.get_ref(), DeValue::Integer(number) if number.as_str() == "1");
    if !known {
        top.problem(value.span(), "this harness reads `schema = 1`");
    }
}

fn internet(top: &Table<'_, '_>) -> (Prefix, Site6) {
    let table = top.get("internet").and_then(|value| Table::of("[internet]", value, top.problems()));
    let Some(table) = table else { return (INTERNET, Site6::DOCUMENTATION) };
    let prefix = table.from_str("prefix").map_or(INTERNET, Spanned::into_inner);
    let prefix6 = table.from_str("prefix6").map_or(Site6::DOCUMENTATION, Spanned::into_inner);
    table.finish();
    (prefix, prefix6)
}

/// `[disturbance]`
fn disturbance(top: &Table<'_, '_>) -> Bounds {
    let own = Bounds::default();
    let table = top.get("disturbance").and_then(|value| Table::of("[disturbance]", value, top.problems()));
    let Some(table) = table else { return own };
    let share = |key, own| table.parsed(key, units::share).map_or(own, Spanned::into_inner);
    let window = table.duration("window").unwrap_or(own.window);
    if window < LEAST_WINDOW
        && let Some(value) = table.get("window")
    {
        table.problem(value.span(), "the kernel's counters tell nothing of less than 100ms");
    }
    let bounds = Bounds {
        window,
        steal: share("steal", own.steal),
        busy: share("busy", own.busy),
        memory: share("memory", own.memory),
        late: table.duration("late").unwrap_or(own.late),
        still: table.duration("still").unwrap_or(own.still),
    };
    table.finish();
    bounds
}

/// The kernel counts a processor's time in hundredths of a second.
const LEAST_WINDOW: Duration = Duration::from_millis(100);

fn named<T>(top: &Table<'_, '_>, key: &str, read: impl Fn(&Table<'_, '_>) -> T) -> BTreeMap<String, T> {
    let mut out = BTreeMap::new();
    for (name, table) in top.named(key) {
        if let Err(message) = check_name(name.get_ref()) {
            top.problem(name.span(), message);
        }
        out.insert(name.into_inner(), read(&table));
        table.finish();
    }
    out
}

/// The keys of a link: `both`, or `up` and `down`.
pub(super) fn link(table: &Table<'_, '_>) -> Link {
    let both = shape(table, "both");
    let (up, down) = (shape(table, "up"), shape(table, "down"));
    if both.is_some() && (up.is_some() || down.is_some()) {
        let span = table.get("both").map_or(0..0, |value| value.span());
        table.problem(
            span,
            format!("{} has `both` and a single direction: write one or the other", table.what()),
        );
    }
    let both = both.unwrap_or_default();
    Link { up: up.unwrap_or(both), down: down.unwrap_or(both), single: false }
}

fn shape(table: &Table<'_, '_>, key: &str) -> Option<Shape> {
    let inner = Table::of(format!("`{key}` of {}", table.what()), table.get(key)?, table.problems())?;
    let share = |key| inner.parsed(key, units::share).map_or(0.0, Spanned::into_inner);
    let shape = Shape {
        rate: inner.parsed("rate", units::rate).map(Spanned::into_inner),
        delay: inner.duration("delay").unwrap_or_default(),
        jitter: inner.duration("jitter").unwrap_or_default(),
        loss: share("loss"),
        reorder: share("reorder"),
        duplicate: share("duplicate"),
    };
    if let Some(value) = inner.get("reorder")
        && shape.reorder > 0.0
        && shape.delay.is_zero()
    {
        inner.problem(value.span(), "without a `delay` nothing is under way that could be overtaken");
    }
    inner.finish();
    Some(shape)
}

fn router(table: &Table<'_, '_>) -> Router {
    Router {
        nat: behaviour(table).unwrap_or(Spanned::new(table.span(), Behaviour::None)),
        address: table.address("address"),
        subnet: table.from_str("subnet"),
        link: table.text("link"),
        mtu: table.integer("mtu", 576, 1500).map(|mtu| mtu as u16),
        ip: table.choice("ip", Ip::WORDS).unwrap_or(Spanned::new(table.span(), Ip::V4)),
        forward: table.texts("forward"),
    }
}

fn tunnel(table: &Table<'_, '_>) -> Option<Tunnel> {
    table.need("program");
    let program = table.choice("program", Program::WORDS).map(Spanned::into_inner);
    let (from, to) = (table.need_text("from"), table.need_text("to"));
    Some(Tunnel { program: program?, from: from?, to: to? })
}

/// The nodes, the names of all, those included that could not be read, and those that are described together.
fn nodes(top: &Table<'_, '_>) -> (BTreeMap<String, Node>, Vec<String>, BTreeMap<String, Group>) {
    let tables = top.named("node");
    for (name, _) in &tables {
        if let Err(message) = check_name(name.get_ref()) {
            top.problem(name.span(), message);
        }
    }
    let coordinators: Vec<String> = tables
        .iter()
        .filter(|(_, table)| {
            matches!(table.get("role").map(|role| role.get_ref()), Some(DeValue::String(role)) if role == "coordinator")
        })
        .map(|(name, _)| name.get_ref().clone())
        .collect();
    let (mut out, mut names, mut groups) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    for (name, table) in tables {
        let role = role(&table, &coordinators);
        let interfaces = interfaces(&table);
        // Several alike, or one without a number.
        let count = match role {
            None | Some(Role::Terminal(_)) => table.integer("count", 1, MOST_ALIKE),
            Some(_) => None,
        };
        let place = count.and_then(|_| table.get("count")).map_or(name.span(), |count| count.span());
        table.finish();
        let its = |number: u64| format!("{}{number}", name.get_ref());
        let alike =
            count.map_or_else(|| vec![name.get_ref().clone()], |count| (1..=count).map(its).collect());
        for its in &alike {
            let node = role.clone().map(|role| Node { role, interfaces: interfaces.clone() });
            if node.and_then(|node| out.insert(its.clone(), node)).is_some() {
                top.problem(name.span(), format!("there is a node named `{its}` already"));
            }
        }
        if count.is_some() {
            groups.insert(name.get_ref().clone(), Group { nodes: alike.clone(), place });
        }
        names.extend(alike);
    }
    // A group has a name that no node has: what happens to it happens to all of them.
    for (name, group) in groups.iter().filter(|(name, _)| out.contains_key(*name)) {
        top.problem(group.place.clone(), format!("`{name}` is a group, and a node of another"));
    }
    (out, names, groups)
}

/// So many nodes may be described together; in emulation, where each has processes and namespaces, fewer.
pub(super) const MOST_ALIKE: u64 = 10_000;
/// So many in emulation.
pub(super) const MOST_EMULATED: usize = 1000;

/// Whether an interface is up.
pub(super) const STATES: &[(&str, bool)] = &[("up", true), ("down", false)];

#[derive(Clone, Copy)]
pub(super) enum RoleWord {
    Dns,
    Coordinator,
    Relay,
    General,
    Terminal,
}

/// What a node may be.
pub(super) const ROLES: &[(&str, RoleWord)] = &[
    ("dns", RoleWord::Dns),
    ("coordinator", RoleWord::Coordinator),
    ("relay", RoleWord::Relay),
    ("general", RoleWord::General),
    ("terminal", RoleWord::Terminal),
];

fn role(table: &Table<'_, '_>, coordinators: &[String]) -> Option<Role> {
    table.need("role");
    let Some(word) = table.choice("role", ROLES) else {
        // What the other keys mean depends on the role: without one they are taken as they are.
        for key in NODE.keys.iter().flat_map(|key| key.names) {
            table.get(key);
        }
        return None;
    };
    // The one coordinator there is need not be named.
    let only = || match coordinators {
        [only] => Some(Spanned::new(word.span(), only.clone())),
        _ => {
            let how = if coordinators.is_empty() { "there is none" } else { "there are several" };
            table.problem(word.span(), format!("{} needs `coordinator`: {how} to choose from", table.what()));
            None
        }
    };
    Some(match word.get_ref() {
        RoleWord::Dns => {
            let zone = table.text("zone")?;
            let origin = match zone.get_ref().as_str() {
                "." => None,
                name => match name.parse() {
                    Ok(name) => Some(name),
                    Err(error) => {
                        table.problem(zone.span(), format!("{name:?} is no zone: {error}"));
                        return None;
                    }
                },
            };
            Role::Dns { zone: origin }
        }
        RoleWord::Coordinator => {
            table.need("zone");
            table.need("vips");
            let (zone, vips) = (table.from_str("zone"), table.from_str("vips"));
            let keepalive = table.duration("keepalive");
            if let (Some(keepalive), Some(value)) = (keepalive, table.get("keepalive"))
                && keepalive < LEAST_KEEPALIVE
            {
                table.problem(
                    value.span(),
                    "a Keep-alive more often than every 100ms holds nothing open better",
                );
            }
            let relay_selection = table.choice("relay_selection", SELECTIONS).map(Spanned::into_inner);
            let suite = table.choice("suite", SUITES).map(Spanned::into_inner);
            Role::Coordinator(Coordinator { zone: zone?, vips: vips?, keepalive, relay_selection, suite })
        }
        RoleWord::Relay => {
            let mut named = table.texts("coordinator");
            if named.is_empty() {
                named.extend(only());
            }
            let rs_s = table.choice("rs_s", SWITCHERS).map(Spanned::into_inner);
            Role::Relay { coordinators: named, rs_s }
        }
        RoleWord::General => Role::General { name: table.from_str("name") },
        RoleWord::Terminal => {
            let lifetime = table.duration("lifetime");
            if let (Some(Duration::ZERO), Some(value)) = (lifetime, table.get("lifetime")) {
                table.problem(value.span(), "a path must live for some time, as in \"300s\"");
            }
            let spin = table.duration("spin");
            if let Some(value) = table.get("spin")
                && spin > Some(LONGEST_SPIN)
            {
                table.problem(value.span(), "a spin of more than 10ms keeps a processor busy for nothing");
            }
            let handover = table.choice("handover", HANDOVERS).map(Spanned::into_inner);
            let coordinator = table.text("coordinator").or_else(only)?;
            Role::Terminal(Terminal { coordinator, lifetime, spin, handover })
        }
    })
}

/// A terminal takes no longer one.
const LONGEST_SPIN: Duration = Duration::from_millis(10);

/// A DC takes no shorter period between two Keep-alives.
const LEAST_KEEPALIVE: Duration = Duration::from_millis(100);

/// A host names its interfaces (`wlan0 = { at = "ap" }`), or has one, `eth0`, whose keys stand in the node's own table.
fn interfaces(table: &Table<'_, '_>) -> Vec<Interface> {
    let own = table.get("at").map(|at| Spanned::new(at.span(), "eth0".to_owned()));
    let mut out = Vec::new();
    match own {
        Some(name) => out.extend(interface(name, table)),
        None => {
            for (name, span, value) in table.other_tables() {
                let good = name.len() <= 15
                    && name.starts_with(|c: char| c.is_ascii_lowercase())
                    && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
                    && !matches!(name, "lo" | "ntm0");
                if !good {
                    table.problem(
                        span.clone(),
                        format!("{name:?} cannot be an interface: lower-case letters and digits, at most 15, not lo or ntm0"),
                    );
                }
                if let Some(inner) = Table::of(format!("{name} of {}", table.what()), value, table.problems())
                {
                    out.extend(interface(Spanned::new(span, name.to_owned()), &inner));
                    inner.finish();
                }
            }
            if out.is_empty() {
                table.problem(
                    table.head(),
                    format!(
                        "{} is on no network: give it at = \"internet\" or at = \"ROUTER\"",
                        table.what()
                    ),
                );
            }
        }
    }
    out
}

fn interface(name: Spanned<String>, table: &Table<'_, '_>) -> Option<Interface> {
    table.need("at");
    let at = table.text("at").map(|at| {
        let place = match at.get_ref().as_str() {
            "internet" => Place::Internet,
            router => Place::Behind(router.to_owned()),
        };
        Spanned::new(at.span(), place)
    });
    let link = table.text("link");
    let up = table.choice("state", STATES).is_none_or(Spanned::into_inner);
    let address = table.address("address");
    let ip = table.choice("ip", Ip::WORDS);
    Some(Interface { name, at: at?, link, up, address, ip })
}

/// A time that must be there.
pub(super) fn need_duration(table: &Table<'_, '_>, key: &str) -> Duration {
    table.need(key);
    table.duration(key).unwrap_or_default()
}

/// Names become host labels, file names and words of expectations.
fn check_name(name: &str) -> Result<(), String> {
    let good = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && name.len() <= 32;
    if good {
        Ok(())
    } else {
        Err(format!(
            "{name:?} cannot be a name: use lower-case letters, digits and _, a letter first, at most 32"
        ))
    }
}
