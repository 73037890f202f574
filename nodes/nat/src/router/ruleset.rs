//! The nftables rules that make a kernel behave as declared.
//!
//! conntrack alone is no NAT of RFC 4787: it gives two hosts one outer port as long as their destinations differ, moves a mapping when a
//! tuple is taken, and filters by address and port. So the table keeps what [`Translator`](crate::Translator) keeps, for UDP and for
//! TCP, in sets that its own rules fill and renew:
//!
//! * `mappings`: what an inner host sends by → its outer port. The key is as long as the mapping depends on the destination.
//! * `external`: an outer port → the inner host and port that has it.
//! * `permits`: an outer port and whom its host has sent to, as far as filtering depends on that.
//! * `fresh`: an outer port and whom it sent to, where all of that was renewed just now and need not be for each packet.
//! * `own_udp`: the ports by which the router itself sends to the outside, whose answers are let in.
//!
//! A packet passes these chains:
//!
//! | chain | hook | what it does |
//! |---|---|---|
//! | `admit`, `admit_new` | prerouting, before destination NAT | asks the filter for what comes from outside |
//! | `dstnat` | prerouting | leads an outer port to its host, from outside and (hairpinning) from inside |
//! | `input` | input | drops what no mapping has: else the router's conntrack entry would take a tuple that a mapping needs later |
//! | `forward` | forward | drops what is addressed past the NAT, and what cannot be translated |
//! | `srcnat` | postrouting | gives a new connection its mapping's port, or a new one |
//! | `learn` | postrouting, after source NAT | remembers and renews; asks the filter for what turns back |
//! | `own` | output | remembers what the router itself sends |
//!
//! A packet dropped before its conntrack entry is confirmed leaves nothing behind, and each of these drops comes before.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::slice;
use std::time::Duration;

use crate::behaviour::{Allocation, Axes, Behaviour, Dependence};
use crate::duration;
use crate::flow::Protocol;
use crate::forward::Forward;

/// The name of the table, of the family `ip`. It is the router's own: one router in a network namespace.
pub const TABLE: &str = "ntm-nat";

/// How many elements each set holds at most.
const SET_SIZE: usize = 65_536;

/// What a packet renews stays as it is for so long, or for this part of its timeout, if that is less: a packet of a flow costs one look-up then
/// instead of five, and nothing ends earlier than it may by more than that.
const FRESH: Duration = Duration::from_secs(1);
const FRESH_PART: u32 = 128;

/// Packets that begin or end no TCP connection, whose timeout those change.
const AMID: &str = "tcp flags & (fin | syn | rst) == 0";

/// What the rules are made from. The names of interfaces hold no quotes.
#[derive(Clone, Copy, Debug)]
pub struct Router<'a> {
    /// The interface to the hosts behind the router.
    pub inside: &'a str,
    /// The interface to the rest of the world.
    pub outside: &'a str,
    /// The router's outer address.
    pub external: Ipv4Addr,
    /// How it behaves; contiguous port allocation is beyond these rules, and done as random.
    pub behaviour: Behaviour,
    /// Ports that always lead to one inner host; checked.
    pub forwards: &'a [Forward],
}

/// The input of `nft -f -` that puts the router's table in place, instead of any former one, in one transaction.
pub fn ruleset(router: &Router<'_>) -> String {
    // Making it first lets the deletion succeed where there is none.
    let mut text = format!("table ip {TABLE}\ndelete table ip {TABLE}\n");
    let body = match router.behaviour {
        Behaviour::None => "  comment \"a plain router: nothing is translated\"\n".to_owned(),
        Behaviour::Nat(axes) => Rules { router, axes }.table(),
    };
    let _ = write!(text, "table ip {TABLE} {{\n{body}}}\n");
    text
}

/// The input of `nft -f -` that removes the table.
pub fn removal() -> String {
    format!("table ip {TABLE}\ndelete table ip {TABLE}\n")
}

struct Rules<'a> {
    router: &'a Router<'a>,
    axes: Axes,
}

const PROTOCOLS: [Protocol; 2] = [Protocol::Udp, Protocol::Tcp];

/// Which way a packet goes in its conntrack entry, and so on which side of it the inner and the outer end stand.
const DIRECTIONS: [&str; 2] = ["original", "reply"];

impl Rules<'_> {
    fn table(&self) -> String {
        let mut text = String::new();
        for counter in ["filtered", "no_mapping", "hairpin", "not_ours", "conflict", "table_full"] {
            let _ = writeln!(text, "  counter {counter} {{ }}");
        }
        for protocol in PROTOCOLS {
            self.sets(&mut text, protocol);
        }
        let _ =
            writeln!(text, "  set own_udp {{ type inet_service; size {SET_SIZE}; flags dynamic,timeout; }}");
        self.admit(&mut text);
        self.dstnat(&mut text);
        self.input(&mut text);
        self.forward(&mut text);
        self.srcnat(&mut text);
        self.learn(&mut text);
        text
    }

    fn sets(&self, text: &mut String, p: Protocol) {
        const END: [&str; 2] = ["ipv4_addr", "inet_service"];
        let forwards = || self.router.forwards.iter().filter(move |forward| forward.protocol == p);
        let dynamic = format!("size {SET_SIZE}; flags dynamic,timeout;");

        let key = [&END[..], reach(self.axes.mapping, &END)].concat().join(" . ");
        // A forward is the endpoint-independent mapping of its host and port; of two such the first.
        let mut known = Vec::new();
        let mut mapped = Vec::new();
        for forward in forwards().filter(|_| self.axes.mapping == Dependence::EndpointIndependent) {
            if !known.contains(&forward.to) {
                known.push(forward.to);
                mapped.push(format!("{} . {} : {}", forward.to.ip(), forward.to.port(), forward.port));
            }
        }
        let _ = writeln!(
            text,
            "  map mappings_{p} {{ type {key} : inet_service; {dynamic}{} }}",
            elements(&mapped)
        );

        let fixed: Vec<String> =
            forwards().map(|f| format!("{} : {} . {}", f.port, f.to.ip(), f.to.port())).collect();
        let value = END.join(" . ");
        let _ = writeln!(
            text,
            "  map external_{p} {{ type inet_service : {value}; {dynamic}{} }}",
            elements(&fixed)
        );

        if self.axes.filtering != Dependence::EndpointIndependent {
            let key = [&["inet_service"], reach(self.axes.filtering, &END)].concat().join(" . ");
            let _ = writeln!(text, "  set permits_{p} {{ type {key}; {dynamic} }}");
        }
        let _ =
            writeln!(text, "  set fresh_{p} {{ type inet_service . ipv4_addr . inet_service; {dynamic} }}");
        let open: Vec<String> = forwards().map(|forward| forward.port.to_string()).collect();
        let _ = writeln!(text, "  set forwards_{p} {{ type inet_service;{} }}", elements(&open));
    }

    /// Whether a packet from outside to the outer address may come in.
    fn admit(&self, text: &mut String) {
        let Router { outside, external, .. } = self.router;
        let inward = format!("iifname \"{outside}\" ip daddr {external} meta l4proto");
        // Ahead of conntrack: what is refused must not keep an entry alive whose mapping has ended.
        let udp = [format!("{inward} udp goto admit_udp")];
        chain(text, "admit", "type filter hook prerouting priority raw; policy accept;", &udp);
        // A TCP connection that stands is conntrack's business.
        let tcp = [format!("{inward} tcp ct state new goto admit_tcp")];
        chain(text, "admit_new", "type filter hook prerouting priority mangle; policy accept;", &tcp);
        for p in PROTOCOLS {
            let mut rules = Vec::new();
            let forwards = format!("{p} dport @forwards_{p} accept");
            match self.axes.filtering {
                Dependence::EndpointIndependent => {
                    rules.extend([format!("{p} dport @external_{p} accept"), forwards]);
                }
                _ => {
                    let sender = ["ip saddr".to_owned(), format!("{p} sport")];
                    let key =
                        [&[format!("{p} dport")], reach(self.axes.filtering, &sender)].concat().join(" . ");
                    rules.extend([
                        format!("{key} @permits_{p} accept"),
                        forwards,
                        format!("{p} dport @external_{p} counter name filtered drop"),
                    ]);
                }
            }
            if p == Protocol::Udp {
                rules.push("udp dport != @own_udp counter name no_mapping drop".to_owned());
            }
            chain(text, &format!("admit_{p}"), "", &rules);
        }
        let timeout = duration::show(self.axes.timeouts.udp);
        let own = [format!(
            "oifname \"{outside}\" meta l4proto udp update @own_udp {{ udp sport timeout {timeout} }}"
        )];
        chain(text, "own", "type filter hook output priority filter; policy accept;", &own);
    }

    fn dstnat(&self, text: &mut String) {
        let Router { inside, outside, external, .. } = self.router;
        let from = if self.axes.hairpin {
            format!("{{ \"{outside}\", \"{inside}\" }}")
        } else {
            format!("\"{outside}\"")
        };
        let rules = PROTOCOLS
            .map(|p| format!("iifname {from} ip daddr {external} dnat ip to {p} dport map @external_{p}"));
        chain(text, "dstnat", "type nat hook prerouting priority dstnat; policy accept;", &rules);
    }

    fn input(&self, text: &mut String) {
        let Router { inside, outside, external, .. } = self.router;
        let new = "meta l4proto { tcp, udp } ct direction original";
        let reason = if self.axes.hairpin { "no_mapping" } else { "hairpin" };
        let rules = [
            format!("iifname \"{outside}\" {new} counter name no_mapping drop"),
            format!("iifname \"{inside}\" ip daddr {external} {new} counter name {reason} drop"),
        ];
        chain(text, "input", "type filter hook input priority filter; policy accept;", &rules);
    }

    fn forward(&self, text: &mut String) {
        let outside = self.router.outside;
        let rules = [
            // Its first packet came through here.
            "ct state established accept".to_owned(),
            // What conntrack cannot place is not translated: it would show the inner address.
            "ct state invalid drop".to_owned(),
            "ct state related accept".to_owned(),
            format!("iifname \"{outside}\" ct direction original ct status dnat accept"),
            format!("iifname \"{outside}\" ct direction original counter name not_ours drop"),
        ];
        chain(text, "forward", "type filter hook forward priority filter; policy accept;", &rules);
    }

    fn srcnat(&self, text: &mut String) {
        let Router { inside, outside, external, .. } = self.router;
        let mut rules = vec![format!("iifname \"{inside}\" oifname \"{outside}\" goto translate")];
        if self.axes.hairpin {
            rules.push(format!("iifname \"{inside}\" oifname \"{inside}\" ct status dnat goto translate"));
        }
        chain(text, "srcnat", "type nat hook postrouting priority srcnat; policy accept;", &rules);

        let range = format!("{}-{}", self.axes.ports.first(), self.axes.ports.last());
        let mut rules = Vec::new();
        for p in PROTOCOLS {
            let key = self.mapping_key("original");
            rules.push(format!("meta l4proto {p} snat ip to {external} : {key} map @mappings_{p}"));
            if self.axes.allocation == Allocation::Preserve {
                // A range that the port is in keeps it, unless conntrack still has an entry in the way.
                rules.push(format!(
                    "{p} sport {range} {p} sport != @external_{p} snat ip to {external} : {range}"
                ));
            }
            // Fully random, or conntrack gives the port that it gave this source before.
            rules.push(format!("meta l4proto {p} snat ip to {external} : {range} fully-random"));
        }
        rules.push(format!("snat ip to {external}"));
        chain(text, "translate", "", &rules);
    }

    fn learn(&self, text: &mut String) {
        let Router { inside, outside, .. } = self.router;
        let jumps = |rules: &mut Vec<String>, way: &str, chain: &str| {
            for p in PROTOCOLS {
                rules.push(format!("{way} meta l4proto {p} jump {chain}_{p}"));
            }
        };
        let mut rules = vec![format!("iifname != \"{inside}\" accept")];
        for p in PROTOCOLS {
            let amid = if p == Protocol::Tcp { format!("{AMID} ") } else { String::new() };
            rules.push(format!("oifname \"{outside}\" {amid}{} @fresh_{p} accept", fresh_key(p)));
        }
        jumps(&mut rules, &format!("oifname \"{outside}\""), "learn");
        if self.axes.hairpin {
            let turned = format!("oifname \"{inside}\" ct status dnat");
            jumps(&mut rules, &turned, "learn");
            // What turned back is seen by its partner as coming from the outer address: the port is known only now.
            if self.axes.filtering != Dependence::EndpointIndependent {
                jumps(&mut rules, &turned, "admit_turned");
            }
        }
        let mut chains = String::new();
        for p in PROTOCOLS {
            self.learn_protocol(&mut chains, p);
            if self.axes.hairpin && self.axes.filtering != Dependence::EndpointIndependent {
                self.admit_turned(&mut chains, p);
            }
        }
        chain(text, "learn", "type filter hook postrouting priority srcnat + 10; policy accept;", &rules);
        text.push_str(&chains);
    }

    fn learn_protocol(&self, text: &mut String, p: Protocol) {
        let timeouts = self.axes.timeouts;
        match p {
            Protocol::Tcp => {
                // conntrack has followed the connection's states: whether it stands is seen from how long it may still idle.
                let stands = format!(
                    "meta l4proto tcp ct expiration > {} goto learn_tcp_established",
                    duration::show(timeouts.tcp_transitory)
                );
                let mut rules = vec![stands];
                rules.extend(self.renewals(p, timeouts.tcp_transitory));
                chain(text, "learn_tcp", "", &rules);
                chain(text, "learn_tcp_established", "", &self.renewals(p, timeouts.tcp_established));
            }
            _ => chain(text, &format!("learn_{p}"), "", &self.renewals(p, timeouts.udp)),
        }
        let rules = [
            // Chance gave a new connection a port that another host has: the host's next packet tries again.
            "ct state new counter name conflict drop".to_owned(),
            // The port went to another host while only the peer had kept this connection alive: it goes on, and opens nothing.
            "accept".to_owned(),
        ];
        chain(text, &format!("contested_{p}"), "", &rules);
    }

    /// What an inner host has sent, by now from its outer port, makes or renews.
    fn renewals(&self, p: Protocol, timeout: Duration) -> Vec<String> {
        // In whole milliseconds, as nft has it, and at least one.
        let fresh = (timeout / FRESH_PART).min(FRESH).as_millis().max(1);
        let fresh = format!("{fresh}ms");
        let timeout = duration::show(timeout);
        let mut rules = Vec::new();
        for direction in DIRECTIONS {
            let way = format!("meta l4proto {p} ct direction {direction}");
            // An answer leaves by the mapping that its question came by. Only where there is one mapping for all, it is also the
            // mapping of what the host sends first.
            if direction == "original" || self.axes.mapping == Dependence::EndpointIndependent {
                let key = self.mapping_key(direction);
                rules
                    .push(format!("{way} {key} != @mappings_{p} {p} sport @external_{p} goto contested_{p}"));
                rules.push(format!("{way} update @mappings_{p} {{ {key} timeout {timeout} : {p} sport }}"));
                rules.push(format!("{way} {key} != @mappings_{p} counter name table_full drop"));
            }
            let inner = inner_end(direction).join(" . ");
            rules.push(format!("{way} update @external_{p} {{ {p} sport timeout {timeout} : {inner} }}"));
            if self.axes.filtering != Dependence::EndpointIndependent {
                let outer = outer_end(direction);
                let key = [&[format!("{p} sport")], reach(self.axes.filtering, &outer)].concat().join(" . ");
                rules.push(format!("{way} update @permits_{p} {{ {key} timeout {timeout} }}"));
            }
        }
        let amid = if p == Protocol::Tcp { AMID } else { "meta l4proto udp" };
        rules.push(format!("{amid} add @fresh_{p} {{ {} timeout {fresh} }}", fresh_key(p)));
        rules
    }

    /// Whether a packet from inside to the outer address may come back in.
    fn admit_turned(&self, text: &mut String, p: Protocol) {
        let mut rules = Vec::new();
        if p == Protocol::Tcp {
            rules.push("ct state established accept".to_owned());
        }
        for direction in DIRECTIONS {
            // The outer port that it is addressed to.
            let port = format!("ct {direction} proto-dst");
            let way = format!("meta l4proto {p} ct direction {direction}");
            let sender = ["ip saddr".to_owned(), format!("{p} sport")];
            let key = [slice::from_ref(&port), reach(self.axes.filtering, &sender)].concat().join(" . ");
            rules.push(format!("{way} {port} @forwards_{p} accept"));
            rules.push(format!("{way} {key} @permits_{p} accept"));
        }
        rules.push("counter name filtered drop".to_owned());
        chain(text, &format!("admit_turned_{p}"), "", &rules);
    }

    /// What a mapping is found by, for a packet from inside. It must stand behind a match of the protocol.
    fn mapping_key(&self, direction: &str) -> String {
        [&inner_end(direction)[..], reach(self.axes.mapping, &outer_end(direction))].concat().join(" . ")
    }
}

/// What a packet that leaves to the outside is known as fresh by, its source translated already.
fn fresh_key(p: Protocol) -> String {
    format!("{p} sport . ip daddr . {p} dport")
}

/// The inner host's address and port, in the entry of a packet that it sends.
fn inner_end(direction: &str) -> [String; 2] {
    [format!("ct {direction} ip saddr"), format!("ct {direction} proto-src")]
}

/// The address and port that the inner host believes to send to.
fn outer_end(direction: &str) -> [String; 2] {
    [format!("ct {direction} ip daddr"), format!("ct {direction} proto-dst")]
}

/// As much of an end — address, port — as `dependence` looks at.
fn reach<T>(dependence: Dependence, end: &[T; 2]) -> &[T] {
    match dependence {
        Dependence::EndpointIndependent => &[],
        Dependence::AddressDependent => &end[..1],
        Dependence::AddressAndPortDependent => end,
    }
}

fn elements(elements: &[String]) -> String {
    if elements.is_empty() { String::new() } else { format!(" elements = {{ {} }}", elements.join(", ")) }
}

fn chain(text: &mut String, name: &str, hook: &str, rules: &[String]) {
    let _ = writeln!(text, "  chain {name} {{");
    for line in Some(hook).filter(|hook| !hook.is_empty()).into_iter().chain(rules.iter().map(String::as_str))
    {
        let _ = writeln!(text, "    {line}");
    }
    text.push_str("  }\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(behaviour: Behaviour, forwards: &[Forward]) -> String {
        let external = Ipv4Addr::new(203, 0, 113, 1);
        ruleset(&Router { inside: "lan0", outside: "wan0", external, behaviour, forwards })
    }

    #[test]
    fn a_plain_router() {
        insta::assert_snapshot!(rules(Behaviour::None, &[]));
    }

    #[test]
    fn full_cone_with_forwards() {
        let forward = |protocol, port, to: &str| Forward { protocol, port, to: to.parse().unwrap() };
        let forwards = [
            forward(Protocol::Tcp, 8080, "10.0.0.2:80"),
            forward(Protocol::Udp, 53, "10.0.0.2:53"),
            forward(Protocol::Udp, 5353, "10.0.0.2:53"),
        ];
        insta::assert_snapshot!(rules(Behaviour::FULL_CONE, &forwards));
    }

    #[test]
    fn address_restricted() {
        insta::assert_snapshot!(rules(Behaviour::ADDRESS_RESTRICTED, &[]));
    }

    #[test]
    fn port_restricted() {
        insta::assert_snapshot!(rules(Behaviour::PORT_RESTRICTED, &[]));
    }

    #[test]
    fn symmetric() {
        insta::assert_snapshot!(rules(Behaviour::SYMMETRIC, &[]));
    }

    #[test]
    fn address_dependent_mapping_without_hairpinning() {
        let axes = Axes::new(Dependence::AddressDependent, Dependence::AddressDependent);
        insta::assert_snapshot!(rules(Behaviour::Nat(Axes { hairpin: false, ..axes }), &[]));
    }
}
