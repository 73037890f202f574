//! The nftables rules of RS-N.
//!
//! | chain | hook | what it does |
//! |---|---|---|
//! | `guard` | prerouting, before conntrack | drops what comes from the TUN with other than virtual addresses, and virtual sources from elsewhere; tunnels are not followed |
//! | `own` | output, before conntrack | the same for the tunnels' packets that the relay sends |
//! | `helpers` | prerouting, before destination NAT | has a helper follow FTP and SIP, whose payload carries addresses (T5.1.2-b) |
//! | `dstnat` | prerouting | VIP_GN → RIP_GN, by the map `general` |
//! | `input` | input | keeps the TUN from the relay's own services |
//! | `forward` | forward | lets through what is translated, and the way back |
//! | `srcnat` | postrouting | VIP_MN → the relay's address; the port is Netfilter's choice (T5.1.2-a) |
//!
//! There is one table for IPv4, and one for IPv6 where general nodes have only that (T3.1-d): there each virtual address stands as the IPv6
//! address that holds it. It has no helpers: none knows how to turn an address of one family in a payload into one of the other.
//!
//! The way back needs no rule: conntrack knows both translations and undoes them.
//!
//! Data packets of tunnels are not followed by conntrack: it would look each of them up twice, and keep an entry for every NAT binding of a terminal, for
//! nothing. They are told by the relay's port and the first two bytes of their header; what a general node sends to a terminal's translated port begins otherwise.

use std::fmt::Write;
use std::net::IpAddr;

use ntm_protocol::addr::VipRange;
use ntm_protocol::family::Family;
use ntm_protocol::inner::siit;
use ntm_protocol::wire::{Kind, VERSION};

/// The map VIP_GN → RIP_GN.
pub const MAP: &str = "general";

/// A protocol that carries addresses in its payload, and what Netfilter has for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Helper {
    /// FTP (RFC 959), active and passive.
    Ftp,
    /// SIP (RFC 3261) over UDP.
    SipUdp,
    /// SIP over TCP.
    SipTcp,
}

impl Helper {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ftp, Self::SipUdp, Self::SipTcp];

    /// Its name in the table, in status and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ftp => "ftp",
            Self::SipUdp => "sip-udp",
            Self::SipTcp => "sip-tcp",
        }
    }

    /// Netfilter's name of the helper, transport protocol, port.
    fn parts(self) -> (&'static str, &'static str, u16) {
        match self {
            Self::Ftp => ("ftp", "tcp", 21),
            Self::SipUdp => ("sip", "udp", 5060),
            Self::SipTcp => ("sip", "tcp", 5060),
        }
    }

    fn object(self) -> String {
        let (kind, protocol, _) = self.parts();
        format!("ct helper {} {{ type \"{kind}\" protocol {protocol}; }}", self.name())
    }
}

/// What the rules are made from.
#[derive(Clone, Debug)]
pub struct Rules<'a> {
    /// The TUN's name; it holds no quotes.
    pub tun: &'a str,
    /// The family that the table is for.
    pub family: Family,
    /// The virtual range.
    pub vips: VipRange,
    /// The relay's real address in that family, if it has one.
    pub address: Option<IpAddr>,
    /// The relay's UDP port.
    pub port: u16,
    /// The helpers that the kernel has.
    pub helpers: &'a [Helper],
    /// Whether this machine forwarded packets before: what goes neither from nor to the TUN is then its own business. Otherwise it
    /// begins to forward for RS-N, and for nothing else.
    pub forwards: bool,
}

/// The name of the table, in each family, of the relay with this TUN. Whoever holds the TUN owns the table.
pub fn table(tun: &str) -> String {
    format!("ntm-relay-{tun}")
}

/// What nft calls `family`.
pub fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// The virtual range `vips` as addresses of `family`.
pub fn range(vips: VipRange, family: Family) -> String {
    match family {
        Family::V4 => vips.to_string(),
        Family::V6 => format!("{}/{}", siit::embed(vips.base()), siit::PREFIX_LEN + vips.prefix()),
    }
}

/// The input of `nft -c -f -` that succeeds where the kernel has `helper`.
pub fn probe(helper: Helper) -> String {
    format!("table ip ntm-relay-probe {{\n  {}\n}}\n", helper.object())
}

/// The input of `nft -f -` that puts the table in place, instead of any former one of that name, in one transaction.
pub fn ruleset(rules: &Rules<'_>) -> String {
    let Rules { tun, family, vips, address, port, helpers, forwards } = rules;
    let (ip, vips) = (name(*family), range(*vips, *family));
    let kind = match family {
        Family::V4 => "ipv4_addr",
        Family::V6 => "ipv6_addr",
    };
    let table = table(tun);
    // Making it first lets the deletion succeed where there is none.
    let mut text = format!("table {ip} {table}\ndelete table {ip} {table}\ntable {ip} {table} {{\n");
    let _ = writeln!(text, "  map {MAP} {{ type {kind} : {kind}; comment \"VIP_GN : RIP_GN\"; }}");
    for helper in *helpers {
        let _ = writeln!(text, "  {}", helper.object());
    }
    let drop = |why: &str| format!("counter drop comment \"{why}\"");
    // The first two bytes of a data packet.
    let data = format!("@th,64,16 {:#06x}", u16::from_be_bytes([VERSION, Kind::Data as u8]));

    chain(
        &mut text,
        "guard",
        "type filter hook prerouting priority raw; policy accept;",
        &[
            format!("iif \"{tun}\" {ip} saddr != {vips} {}", drop("a terminal has a virtual address")),
            format!("iif \"{tun}\" {ip} daddr != {vips} {}", drop("a general node has one for terminals")),
            format!("iif != \"{tun}\" {ip} saddr {vips} {}", drop("nobody else has one")),
            format!("udp dport {port} {data} notrack"),
        ],
    );
    chain(
        &mut text,
        "own",
        "type filter hook output priority raw; policy accept;",
        &[format!("udp sport {port} {data} notrack")],
    );
    // NAT makes room for what a helper changes when it sets a connection up: the helper must be known by then.
    let follow = helpers.iter().map(|helper| {
        let (_, protocol, port) = helper.parts();
        format!("iif \"{tun}\" {protocol} dport {port} ct helper set \"{}\"", helper.name())
    });
    chain(
        &mut text,
        "helpers",
        "type filter hook prerouting priority mangle; policy accept;",
        &follow.collect::<Vec<_>>(),
    );
    chain(
        &mut text,
        "dstnat",
        "type nat hook prerouting priority dstnat; policy accept;",
        &[format!("iif \"{tun}\" dnat to {ip} daddr map @{MAP}")],
    );
    let mut input = vec![format!("iif \"{tun}\" {}", drop("not for the relay itself"))];
    // What conntrack finds out of order is not translated back. It must not be answered by a reset: that would end a general node's
    // connection which the terminal still has.
    input.extend(address.map(|address| {
        format!("{ip} daddr {address} meta l4proto tcp ct state invalid {}", drop("of no connection's order"))
    }));
    chain(&mut text, "input", "type filter hook input priority filter; policy accept;", &input);
    let policy = if *forwards { "accept" } else { "drop" };
    chain(
        &mut text,
        "forward",
        &format!("type filter hook forward priority filter; policy {policy};"),
        &[
            // Were the TUN gone, the way to terminals would be the default route.
            format!("oif != \"{tun}\" {ip} daddr {vips} {}", drop("terminals are behind the TUN only")),
            format!("iif \"{tun}\" oif != \"{tun}\" ct status dnat accept"),
            format!("iif \"{tun}\" {}", drop("not translated")),
            format!("oif \"{tun}\" ct state established,related accept"),
            format!("oif \"{tun}\" {}", drop("no terminal asked for it")),
        ],
    );
    chain(
        &mut text,
        "srcnat",
        "type nat hook postrouting priority srcnat; policy accept;",
        &[format!("oif != \"{tun}\" {ip} saddr {vips} masquerade")],
    );
    text.push_str("}\n");
    text
}

fn chain(text: &mut String, name: &str, hook: &str, rules: &[String]) {
    let _ = writeln!(text, "  chain {name} {{\n    {hook}");
    for rule in rules {
        let _ = writeln!(text, "    {rule}");
    }
    text.push_str("  }\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(family: Family, address: &str, helpers: &[Helper], forwards: bool) -> String {
        let vips = "198.18.0.0/15".parse().expect("a range");
        let address = Some(address.parse().expect("an address"));
        ruleset(&Rules { tun: "ntm0", family, vips, address, port: 4330, helpers, forwards })
    }

    fn shown(helpers: &[Helper], forwards: bool) -> String {
        of(Family::V4, "203.0.113.20", helpers, forwards)
    }

    /// T3.1-d.
    #[test]
    fn the_rules_for_ipv6() {
        insta::assert_snapshot!(of(Family::V6, "2001:db8::20", &[], false));
    }

    #[test]
    fn the_rules_with_every_helper() {
        insta::assert_snapshot!(shown(&Helper::ALL, false));
    }

    #[test]
    fn without_helpers_and_where_the_machine_forwards_already() {
        let (with, without) = (shown(&Helper::ALL, false), shown(&[], true));
        assert!(!without.contains("ct helper"));
        assert!(with.contains("hook forward priority filter; policy drop;"));
        assert!(without.contains("hook forward priority filter; policy accept;"));
    }

    #[test]
    fn probes_name_one_helper_each() {
        let probes: Vec<String> = Helper::ALL.map(probe).to_vec();
        insta::assert_snapshot!(probes.concat(), @r#"
        table ip ntm-relay-probe {
          ct helper ftp { type "ftp" protocol tcp; }
        }
        table ip ntm-relay-probe {
          ct helper sip-udp { type "sip" protocol udp; }
        }
        table ip ntm-relay-probe {
          ct helper sip-tcp { type "sip" protocol tcp; }
        }
        "#);
    }
}
