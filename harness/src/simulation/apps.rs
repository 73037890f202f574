//! Which flows the simulator runs, and what they are there. All that it refuses is refused here.

use std::time::Duration;

use ntm_sim::flow::{Datagrams, Page, PingPong, Probes, Stream, Task, Transfer};

use crate::flow::{pingpong, probes};
use crate::scenario::model::{Ends, Flow, FlowKind, Link, Node, Role, Scenario};
use crate::scenario::source::{Problem, Source};

/// The sockets' buffers where nothing is said of them, and no link is narrower, in bytes.
const WINDOW: u64 = 1 << 20;
/// The least that they are, in bytes.
const LEAST_WINDOW: u64 = 16 << 10;

/// What the simulator does for a flow.
#[derive(Debug, Clone, PartialEq)]
pub enum Doing {
    /// ICMP echo.
    Ping {
        /// How many requests.
        count: usize,
        /// Between two.
        interval: Duration,
    },
    /// Questions to the DNS.
    Names,
    /// What two applications do.
    Task(Task),
}

/// What of a flow the simulator does not do, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    message: String,
    hint: &'static str,
}

/// What to do about most of it.
const ELSEWHERE: &str = "run this with --engine emulation";

impl Refusal {
    fn new(message: String) -> Self {
        Self { message, hint: ELSEWHERE }
    }
}

/// Whether `scenario`, which was read from `source`, can be run in the simulation; the error is the text for the user.
pub fn check(source: &Source, scenario: &Scenario) -> Result<(), String> {
    let tunnels = scenario.tunnels.values().map(|tunnel| {
        let message = format!("the simulation has no {}", tunnel.program.word());
        Problem::new(tunnel.from.span(), message).hint(ELSEWHERE)
    });
    // Without any other flow there would be nothing to see.
    let is_nothing_left = scenario.flows.iter().all(|flow| flow.kind.is_of_the_host());
    let problems: Vec<Problem> = scenario
        .flows
        .iter()
        .filter(|flow| is_nothing_left || !flow.kind.is_of_the_host())
        .filter_map(|flow| {
            let Refusal { message, hint } = doing(scenario, flow).err()?;
            Some(Problem::new(flow.id.span(), message).hint(hint))
        })
        .chain(tunnels)
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(source.render(&problems)) }
}

/// What the simulator does for a flow of `scenario`.
pub fn doing(scenario: &Scenario, flow: &Flow) -> Result<Doing, Refusal> {
    let (id, word) = (flow.id.get_ref(), flow.kind.word());
    if !matches!(flow.kind, FlowKind::Ping { .. }) {
        reaches(scenario, flow)?;
    }
    let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    let size = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
    let ports = |streams: u64| u16::try_from(streams).unwrap_or(u16::MAX);
    Ok(Doing::Task(match &flow.kind {
        FlowKind::Ping { count, interval, .. } => {
            return Ok(Doing::Ping { count: size(*count), interval: *interval });
        }
        FlowKind::Dns { .. } => return Ok(Doing::Names),
        FlowKind::Http { size, .. } => Task::Page(Page { size: *size }),
        FlowKind::PingPong { count, size, .. } => {
            let warm_up = number(pingpong::warm_up(*count));
            Task::PingPong(PingPong { warm_up, count: number(*count), size: *size })
        }
        FlowKind::Probe { duration, interval, size: each, .. } => {
            let count = probes::Probes { duration: *duration, interval: *interval, size: *each }.count();
            Task::Probes(Probes { count: number(count), interval: *interval, size: size(*each) })
        }
        FlowKind::Udp { size: each, reply, count, interval, listen, whole, .. } => {
            Task::Datagrams(Datagrams {
                size: size(*each),
                reply: size(*reply),
                count: number(*count),
                interval: *interval,
                listen: *listen,
                whole: *whole,
            })
        }
        FlowKind::Iperf3 { duration, udp: true, reverse, rate, omit, streams, length, .. } => {
            let (duration, omit, reverse, streams) = (*duration, *omit, *reverse, ports(*streams));
            // A checked scenario has one.
            let rate = rate.unwrap_or_default();
            Task::Stream(Stream { duration, omit, reverse, rate, length: length.map(size), streams })
        }
        FlowKind::Iperf3 { ends, duration, reverse, rate, omit, window: asked, streams, length, .. } => {
            if rate.is_none() && !ends_of(scenario, ends).any(|node| is_bounded(scenario, node)) {
                let message = format!("nothing bounds how much flow `{id}` transfers in no time");
                let hint = "give it a `rate`, or one of its ends a link with a `rate`";
                return Err(Refusal { message, hint });
            }
            Task::Transfer(Transfer {
                duration: *duration,
                omit: *omit,
                reverse: *reverse,
                rate: *rate,
                block: length.unwrap_or(Transfer::BLOCK),
                window: size(asked.unwrap_or_else(|| window(scenario, ends, *streams))),
                streams: ports(*streams),
            })
        }
        FlowKind::Ftp { .. } | FlowKind::Sip { .. } | FlowKind::Exec { .. } => {
            let message = "all flows are programs of the host, which the simulation has not";
            return Err(Refusal::new(format!("{message}: `{id}` is `{word}`")));
        }
    }))
}

/// Whether the simulator's applications, which speak IPv4, reach the node that a flow goes to.
fn reaches(scenario: &Scenario, flow: &Flow) -> Result<(), Refusal> {
    let Some(ends) = flow.kind.ends() else { return Ok(()) };
    let to = scenario.node_named(ends.to.get_ref());
    // For terminals a relay translates (T3.1-d).
    let from = scenario.nodes.get(ends.from.get_ref());
    if from.is_some_and(|node| matches!(node.role, Role::Terminal(_))) {
        return Ok(());
    }
    if let Some((key, Node { role: Role::General { .. }, interfaces, .. })) = to
        && interfaces.iter().all(|interface| interface.ip.as_ref().is_some_and(|ip| !ip.get_ref().v4()))
    {
        let id = flow.id.get_ref();
        let message =
            format!("flow `{id}` goes to `{key}`, which has only IPv6: the simulator's applications");
        return Err(Refusal::new(message + " speak IPv4 where no relay translates"));
    }
    Ok(())
}

fn ends_of<'a>(scenario: &'a Scenario, ends: &Ends) -> impl Iterator<Item = &'a Node> + use<'a> {
    let to = scenario.node_named(ends.to.get_ref()).map(|(_, node)| node);
    [scenario.nodes.get(ends.from.get_ref()), to].into_iter().flatten()
}

/// Whether all ways of a node have a rate, in both directions.
fn is_bounded(scenario: &Scenario, node: &Node) -> bool {
    let has_rate = |link: &Link| link.up.rate.is_some() && link.down.rate.is_some();
    node.interfaces.iter().all(|interface| scenario.links_of(interface).any(has_rate))
}

/// What each socket of a transfer holds if nothing is said of them: no more is under way together than the queues of its ends' links hold, which have room for
/// 50 ms. smoltcp has no selective acknowledgements (RFC 2018) and a least timeout of a second (RFC 6298), so that where Linux's TCP finds a queue full and
/// goes on, it would stand still.
fn window(scenario: &Scenario, ends: &Ends, streams: u64) -> u64 {
    let interfaces = ends_of(scenario, ends).flat_map(|node| &node.interfaces);
    let links = interfaces.flat_map(|interface| scenario.links_of(interface));
    let rates = links.flat_map(|link| [link.up.rate, link.down.rate]).flatten();
    // Four fifths of the 50 ms.
    rates.map(|rate| (rate / 200 / streams).clamp(LEAST_WINDOW, WINDOW)).min().unwrap_or(WINDOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    fn of(flow: &str) -> Result<Doing, Refusal> {
        let text = format!(
            "schema = 1\nname = \"t\"\nabout = \"t\"\n[link.dsl]\nboth = {{ rate = \"10mbit\" }}\n[node]\n\
             root = {{ role = \"dns\", at = \"internet\", zone = \".\" }}\n\
             dc = {{ role = \"coordinator\", at = \"internet\", zone = \"dc.test\", vips = \"198.18.0.0/16\" }}\n\
             rs = {{ role = \"relay\", at = \"internet\" }}\n\
             a = {{ role = \"terminal\", at = \"internet\" }}\n\
             d = {{ role = \"terminal\", at = \"internet\", link = \"dsl\" }}\n\
             b = {{ role = \"general\", at = \"internet\", name = \"b.test\" }}\n\
             c = {{ role = \"general\", at = \"internet\", ip = \"v6\", name = \"c.test\" }}\n\
             [[flow]]\nid = \"f\"\n{flow}\n"
        );
        let source = Source { name: "t".into(), text };
        let scenario = scenario::check(&source).unwrap_or_else(|message| panic!("{message}"));
        assert_eq!(check(&source, &scenario).is_ok(), doing(&scenario, &scenario.flows[0]).is_ok());
        doing(&scenario, &scenario.flows[0])
    }

    /// T6.1-b: a relay answers pings at its real address.
    #[test]
    fn most_flows_are_run_and_the_others_are_named() {
        for run in [
            "ping = { from = \"b\", to = \"rs.dc.test\" }",
            "dns = { node = \"a\", name = \"b.test\" }",
            "dns = { node = \"b\", name = \"b.test\", record = \"NS\", server = \"root\" }",
            "http = { from = \"a\", to = \"b.test\" }",
            "pingpong = { from = \"a\", to = \"b.test\" }",
            "probe = { from = \"a\", to = \"b.test\", duration = \"1s\" }",
            "udp = { from = \"a\", to = \"c.test\", size = \"60kB\" }",
            "iperf3 = { from = \"a\", to = \"b.test\", duration = \"1s\", udp = true, rate = \"1mbit\", length = \"3kB\" }",
        ] {
            assert!(of(run).is_ok(), "{run}");
        }
        for (refused, why) in [
            (
                "ftp = { from = \"a\", to = \"b.test\", mode = \"passive\" }",
                "programs of the host, which the simulation has not: `f` is `ftp`",
            ),
            ("exec = { node = \"a\", command = [\"ip\"] }", "`f` is `exec`"),
            ("udp = { from = \"b\", to = \"c.test\" }", "`c`, which has only IPv6"),
            ("iperf3 = { from = \"a\", to = \"b.test\", duration = \"1s\" }", "nothing bounds"),
        ] {
            let refusal = of(refused).expect_err(refused);
            assert!(refusal.message.contains(why), "{refusal:?}");
        }
    }

    #[test]
    fn connections_share_what_the_queues_hold() {
        let of = |more: &str| {
            let flow = format!("iperf3 = {{ from = \"d\", to = \"b.test\", duration = \"1s\"{more} }}");
            let Ok(Doing::Task(Task::Transfer(transfer))) = of(&flow) else { panic!("{flow}") };
            (transfer.streams, transfer.window, transfer.block)
        };
        assert_eq!(of(""), (1, 50_000, Transfer::BLOCK));
        assert_eq!(of(", streams = 2, length = \"1kB\""), (2, 25_000, 1000));
        assert_eq!(of(", streams = 128"), (128, 16 << 10, Transfer::BLOCK));
        assert_eq!(of(", streams = 2, window = \"9kB\""), (2, 9000, Transfer::BLOCK));
    }
}
