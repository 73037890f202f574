//! The [zone of a DC](ntm_protocol::coordinator::zone), served by the same server as an ordinary one (`ntm_dns`).

use std::path::Path;

use anyhow::Context;
use hickory_proto::rr::Name;
use ntm_daemon::trace::TraceSink;
use ntm_dns::answer::Zones;
use ntm_dns::server::{DnsServer, Traced};
use ntm_dns::zone::Zone;
use ntm_protocol::addr::Fqdn;
use ntm_protocol::coordinator::zone::zone_file;

use crate::config::Config;

/// Serves the DC's zone, with the names of `terminals`, by UDP and TCP.
pub async fn serve<'a>(
    config: &Config,
    terminals: impl Iterator<Item = &'a Fqdn>,
) -> anyhow::Result<DnsServer> {
    let text = zone_file(&config.zone, &config.fqdn, &config.address, terminals);
    let origin = Name::from_ascii(format!("{}.", config.zone)).context("the zone's name")?;
    let zone = Zone::parse(&origin, &text, Path::new("the DC's own zone"))?;
    let mut zones = Zones::default();
    zones.add(zone);
    // What it answers to others' questions is counted, and not traced: the trace's answers are those that the DC itself got.
    let trace = TraceSink::open(config.trace.as_deref())?;
    let listen = config.address.with_port(config.dns_port);
    DnsServer::start(&config.name, zones, &listen, trace, Traced::Refusals).await
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use hickory_proto::op::ResponseCode;
    use hickory_proto::rr::{LowerName, RecordType};

    use super::*;

    fn zones() -> Zones {
        let name = |text: &str| Fqdn::new(text).unwrap();
        let terminals = [name("mn.dc.test"), name("cn.lab.dc.test"), name("mn.other.test")];
        let addresses = [IpAddr::from([203, 0, 113, 5]), "2001:db8::5".parse().unwrap()];
        let text = zone_file(&name("dc.test"), &name("ns.dc.test"), &addresses, terminals.iter());
        let mut zones = Zones::default();
        zones.add(Zone::parse(&Name::from_ascii("dc.test.").unwrap(), &text, Path::new("test")).unwrap());
        zones
    }

    fn answer(zones: &Zones, name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let answer = zones.answer(&LowerName::new(&Name::from_ascii(name).unwrap()), kind);
        (answer.code, answer.answers.iter().map(|record| record.data.to_string()).collect())
    }

    /// T3.2.2-b: the TXT record tells an NTM terminal's zone from a general node's.
    #[test]
    fn the_zone_says_that_it_is_a_dcs() {
        let zones = zones();
        let found = |records: &[&str]| {
            (ResponseCode::NoError, records.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(answer(&zones, "dc.test.", RecordType::TXT), found(&["ntm-dc=1"]));
        assert_eq!(answer(&zones, "dc.test.", RecordType::NS), found(&["ns.dc.test."]));
        assert_eq!(answer(&zones, "ns.dc.test.", RecordType::A), found(&["203.0.113.5"]));
        assert_eq!(answer(&zones, "ns.dc.test.", RecordType::AAAA), found(&["2001:db8::5"]));
        assert_eq!(answer(&zones, "MN.dc.test.", RecordType::TXT), found(&["ntm-dc=1"]));
    }

    #[test]
    fn a_terminal_exists_and_has_no_public_address() {
        let zones = zones();
        assert_eq!(answer(&zones, "mn.dc.test.", RecordType::A), (ResponseCode::NoError, vec![]));
        assert_eq!(answer(&zones, "cn.lab.dc.test.", RecordType::NS), (ResponseCode::NoError, vec![]));
        assert_eq!(answer(&zones, "nobody.dc.test.", RecordType::A).0, ResponseCode::NXDomain);
        assert_eq!(answer(&zones, "mn.other.test.", RecordType::A).0, ResponseCode::Refused);
    }
}
