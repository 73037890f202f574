//! A router's `nat`: the name of a preset, or a table of axes as ntm-nat's own configuration has it.

use std::time::Duration;

use ntm_nat::{Allocation, Behaviour, BehaviourTable, Dependence, TimeoutsTable};
use toml::Spanned;
use toml::de::DeValue;

use super::read::Table;

/// Reads `nat` of `router`; `None` if it is missing or wrong, which is noted.
pub(super) fn behaviour(router: &Table<'_, '_>) -> Option<Spanned<Behaviour>> {
    let value = router.need("nat")?;
    if !matches!(value.get_ref(), DeValue::Table(_)) {
        return router.choice("nat", Behaviour::PRESETS);
    }
    let table = Table::of(format!("`nat` of {}", router.what()), value, router.problems())?;
    let known = router.problems().count();
    let written = BehaviourTable {
        preset: table
            .choice("preset", Behaviour::PRESETS)
            .and_then(|_| table.text("preset"))
            .map(Spanned::into_inner),
        mapping: table.choice("mapping", Dependence::ALL).map(Spanned::into_inner),
        filtering: table.choice("filtering", Dependence::ALL).map(Spanned::into_inner),
        hairpin: table.flag("hairpin"),
        allocation: table.choice("allocation", Allocation::ALL).map(Spanned::into_inner),
        ports: table.from_str("ports").map(Spanned::into_inner),
        timeouts: timeouts(&table).unwrap_or_default(),
    };
    table.finish();
    if router.problems().count() > known {
        // What is missing now may only be misspelt.
        return None;
    }
    match written.complete() {
        Ok(behaviour) => Some(Spanned::new(value.span(), behaviour)),
        Err(message) => {
            router.problem(value.span(), message);
            None
        }
    }
}

fn timeouts(nat: &Table<'_, '_>) -> Option<TimeoutsTable> {
    let table = Table::of(format!("`timeouts` of {}", nat.what()), nat.get("timeouts")?, nat.problems())?;
    let timeout = |key: &str| -> Option<Duration> {
        let timeout = table.duration(key)?;
        if timeout.is_zero() || timeout.subsec_nanos() % 1_000_000 != 0 {
            let span = table.get(key).map_or(0..0, |value| value.span());
            table.problem(span, "a NAT's timeout is a whole number of milliseconds, at least 1ms");
        }
        Some(timeout)
    };
    let timeouts = TimeoutsTable {
        udp: timeout("udp"),
        icmp: timeout("icmp"),
        tcp_established: timeout("tcp_established"),
        tcp_transitory: timeout("tcp_transitory"),
    };
    table.finish();
    Some(timeouts)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ntm_nat::{Axes, PortRange, Timeouts};

    use super::*;
    use crate::scenario::{check, check_emulation, source::Source};

    fn read(nat: &str) -> Result<Behaviour, String> {
        let text = format!("schema = 1\nname = \"t\"\nabout = \"t\"\n[router.r]\nnat = {nat}\n");
        let source = Source { name: "t".into(), text };
        let scenario = check(&source)?;
        check_emulation(&source, &scenario)?;
        Ok(*scenario.routers["r"].nat.get_ref())
    }

    #[test]
    fn words_and_tables_are_read() {
        assert_eq!(read("\"restricted-cone\""), Ok(Behaviour::ADDRESS_RESTRICTED));
        let Behaviour::Nat(symmetric) = Behaviour::SYMMETRIC else { unreachable!() };
        let timeouts = Timeouts { udp: Duration::from_millis(1500), ..Timeouts::RFC };
        assert_eq!(
            read(
                "{ preset = \"symmetric\", hairpin = false, ports = \"40000-40999\", timeouts = { udp = \"1.5s\" } }"
            ),
            Ok(Behaviour::Nat(Axes {
                hairpin: false,
                ports: PortRange::new(40000, 40999).unwrap(),
                timeouts,
                ..symmetric
            }))
        );
        let pair = "mapping = \"address-dependent\", filtering = \"endpoint-independent\"";
        let axes = Axes::new(Dependence::AddressDependent, Dependence::EndpointIndependent);
        assert_eq!(read(&format!("{{ {pair} }}")), Ok(Behaviour::Nat(axes)));
        assert_eq!(
            read(&format!("{{ {pair}, allocation = \"random\" }}")),
            Ok(Behaviour::Nat(Axes { allocation: Allocation::Random, ..axes }))
        );
    }

    #[test]
    fn errors_say_what_to_write() {
        let errors: Vec<String> = [
            "5",
            "\"port_restricted\"",
            "{ preset = \"fullcone\" }",
            "{ mapping = \"endpoint-independant\", filtering = \"address-dependent\" }",
            "{ mapping = \"address-dependent\" }",
            "{ preset = \"none\", hairpin = true }",
            "{ preset = \"symmetric\", hairpinning = true }",
            "{ preset = \"symmetric\", ports = \"9-5\" }",
            "{ preset = \"symmetric\", timeouts = { udp = \"30\" } }",
            "{ preset = \"symmetric\", timeouts = { udp = \"0s\", icmp = \"1.5ms\", tcp = \"1s\" } }",
            "{ preset = \"symmetric\", timeouts = \"30s\" }",
            "{ preset = \"symmetric\", allocation = \"contiguous\" }",
        ]
        .into_iter()
        .map(|text| read(text).unwrap_err())
        .collect();
        insta::assert_snapshot!(errors.join("\n"));
    }
}
