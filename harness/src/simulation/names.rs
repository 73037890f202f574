//! Questions to the DNS in the simulator: what a terminal answers its applications by itself, and what servers answer, from the zones that they have in emulation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use ntm_dns::answer::Zones;
use ntm_dns::zone::Zone;
use ntm_protocol::addr::Fqdn;
use ntm_protocol::coordinator::zone::zone_file;
use ntm_protocol::wire::DnsError;
use ntm_sim::flow::{Answered, Asked, Names, Reply, Task};

use crate::exit::Failure;
use crate::flow::Quantities;
use crate::flow::dns::{Heard, question};
use crate::plan::zones::zones;
use crate::plan::{HostPlan, Plan};
use crate::scenario::model::{Flow, FlowKind, Role};

/// What a flow asks the terminal for, where it asks one, and its task.
pub(super) fn task(plan: &Plan, flow: &Flow) -> Result<(Fqdn, Task), Failure> {
    let FlowKind::Dns { server, name, record, count, interval, .. } = &flow.kind else {
        return Err(Failure::error(format!("flow `{}` asks for no name", flow.id.get_ref())));
    };
    let during = format!("flow `{}` asks for {}", flow.id.get_ref(), name.get_ref());
    let mut name = Name::from_ascii(name.get_ref()).map_err(Failure::during(&during))?;
    name.set_fqdn(true);
    let (fqdn, asked) = match server {
        None => of_terminal(&name, *record),
        Some(server) => {
            let server = server.get_ref();
            let host =
                plan.host(server).ok_or_else(|| Failure::error(format!("there is no host `{server}`")))?;
            let zones = served(plan, host)?;
            (None, of_server(host, &zones, Query::query(name, *record))?)
        }
    };
    // Who asks no terminal needs no name of his own.
    let fqdn = fqdn.map_or_else(|| Fqdn::new("nobody.invalid"), Ok).map_err(Failure::during(&during))?;
    let count = u32::try_from(*count).unwrap_or(u32::MAX);
    Ok((fqdn, Task::Names(Names { asked, count, interval: *interval })))
}

/// What an application of a terminal asks for: an address of a name that may be a host's, which is the terminal's affair (T3.2.2-a); all else its DNS
/// answers at once, for NTMobile knows nothing else of a name.
fn of_terminal(name: &Name, record: RecordType) -> (Option<Fqdn>, Asked) {
    let at_once = |answer| (None, Asked::AtOnce(answer));
    let is_reverse = || name.iter().next_back().is_some_and(|label| label.eq_ignore_ascii_case(b"arpa"));
    if name.is_root() {
        return at_once(Err(DnsError::NoData));
    }
    if name.is_localhost() {
        return at_once(match record {
            RecordType::A => Ok(Ipv4Addr::LOCALHOST.into()),
            RecordType::AAAA => Ok(Ipv6Addr::LOCALHOST.into()),
            _ => Err(DnsError::NoData),
        });
    }
    match Fqdn::new(&name.to_ascii()) {
        Ok(fqdn) if fqdn.parent().is_some() && !is_reverse() => match record {
            RecordType::A => (Some(fqdn), Asked::Terminal),
            _ => at_once(Err(DnsError::NoData)),
        },
        _ => at_once(Err(DnsError::NxDomain)),
    }
}

/// A question to the server at `host`, which has `zones`.
fn of_server(host: &HostPlan, zones: &Zones, query: Query) -> Result<Asked, Failure> {
    let IpAddr::V4(at) = host.address() else {
        return Err(Failure::error(format!("`{}` has no address in IPv4", host.name)));
    };
    let found = zones.answer(&LowerName::new(&query.name), query.query_type);
    let message = question(query);
    let mut answer = Message::response(message.metadata.id, message.metadata.op_code);
    answer.metadata.response_code = found.code;
    answer.metadata.authoritative = found.authoritative;
    answer.metadata.recursion_desired = true;
    answer.queries.clone_from(&message.queries);
    (answer.answers, answer.authorities, answer.additionals) =
        (found.answers, found.authorities, found.additionals);
    // Behind the ID, which each question has of its own.
    let rest = |message: &Message| {
        let bytes = message.to_vec().map_err(Failure::during("a DNS message"))?;
        Ok::<_, Failure>(bytes[2..].to_vec())
    };
    let is_server = zones.origins().next().is_some();
    let answer = is_server.then(|| rest(&answer)).transpose()?;
    Ok(Asked::Server { at, question: rest(&message)?, answer })
}

/// The zones that a host serves, as its daemon reads them.
fn served(plan: &Plan, host: &HostPlan) -> Result<Zones, Failure> {
    let its: Vec<(String, String)> = match (&host.role, &host.fqdn) {
        (Role::Dns { .. }, _) => {
            let its = zones(plan).into_iter().filter(|zone| zone.server == host.name);
            its.map(|zone| (zone.origin_text(), zone.text)).collect()
        }
        (Role::Coordinator(dc), Some(own)) => {
            let zone = dc.zone.get_ref();
            let of_zone = |it: &&HostPlan| matches!(&it.role, Role::Terminal(its) if *its.coordinator.get_ref() == host.name);
            let terminals = plan.hosts.iter().filter(of_zone).filter_map(|it| it.fqdn.as_ref());
            vec![(format!("{zone}."), zone_file(zone, own, &host.addresses(), terminals))]
        }
        _ => Vec::new(),
    };
    let mut out = Zones::default();
    for (origin, text) in its {
        let name = Name::from_ascii(&origin).map_err(Failure::during(&origin))?;
        out.add(Zone::parse(&name, &text, Path::new(&origin)).map_err(Failure::during(&origin))?);
    }
    Ok(out)
}

/// What came of the questions of a flow.
pub(super) fn measured(kind: &FlowKind, told: &Answered) -> Quantities {
    let FlowKind::Dns { record, .. } = kind else { return Quantities::new() };
    let mut heard = Heard::default();
    heard.sent = told.sent.into();
    for (took, reply) in &told.replies {
        // What is no message would not have been taken for an answer.
        if let Some(answer) = message(reply) {
            heard.take(&answer, *record, *took);
        }
    }
    heard.quantities()
}

/// A reply as a resolver reads it.
fn message(reply: &Reply) -> Option<Message> {
    let address = match reply {
        Reply::Message(rest) => return Message::from_vec(&[&[0, 0][..], rest].concat()).ok(),
        Reply::Address(address) => *address,
    };
    let mut answer = Message::query();
    answer.metadata.response_code = match address {
        Ok(_) | Err(DnsError::NoData) => ResponseCode::NoError,
        Err(DnsError::NxDomain) => ResponseCode::NXDomain,
        Err(DnsError::ServFail) => ResponseCode::ServFail,
        Err(DnsError::Refused) => ResponseCode::Refused,
    };
    let data = address.ok().map(|address| match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    });
    answer.answers.extend(data.map(|data| Record::from_rdata(Name::root(), 0, data)));
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::address::plan;
    use crate::scenario::{check, source::Source};

    fn name(text: &str) -> Name {
        let mut name = Name::from_ascii(text).unwrap();
        name.set_fqdn(true);
        name
    }

    /// T3.2.2-a: a terminal is asked for the addresses of hosts; all else its DNS answers at once, as in `nodes/terminal`.
    #[test]
    fn a_terminal_is_asked_for_addresses_and_for_nothing_else() {
        let asked = of_terminal(&name("CN.dc.test"), RecordType::A);
        assert_eq!(asked, (Some("cn.dc.test".parse().unwrap()), Asked::Terminal));
        for (text, record, answer) in [
            ("cn.dc.test", RecordType::AAAA, Err(DnsError::NoData)),
            (".", RecordType::NS, Err(DnsError::NoData)),
            ("localhost", RecordType::A, Ok(Ipv4Addr::LOCALHOST.into())),
            ("a.localhost", RecordType::AAAA, Ok(Ipv6Addr::LOCALHOST.into())),
            ("localhost", RecordType::MX, Err(DnsError::NoData)),
            ("printer", RecordType::A, Err(DnsError::NxDomain)),
            ("*.test", RecordType::A, Err(DnsError::NxDomain)),
            ("7.0.18.198.in-addr.arpa", RecordType::A, Err(DnsError::NxDomain)),
        ] {
            assert_eq!(of_terminal(&name(text), record), (None, Asked::AtOnce(answer)), "{text} {record}");
        }
    }

    /// T3.2.2-b: a coordinator answers for its zone, and others for theirs; who serves none does not answer.
    #[test]
    fn servers_answer_from_their_zones() {
        let text = "schema = 1\nname = \"t\"\nabout = \"t\"\n[node]\n\
            root = { role = \"dns\", at = \"internet\", zone = \".\" }\n\
            dc = { role = \"coordinator\", at = \"internet\", zone = \"dc.test\", vips = \"198.18.0.0/16\" }\n\
            cn = { role = \"terminal\", at = \"internet\" }\n\
            gn = { role = \"general\", at = \"internet\", name = \"www.example.test\", address = \"203.0.113.80\" }\n";
        let scenario = check(&Source { name: "t".into(), text: text.into() })
            .unwrap_or_else(|message| panic!("{message}"));
        let plan = plan(&scenario).unwrap();
        let ask = |server: &str, asked: &str, record| {
            let host = plan.host(server).unwrap();
            let asked =
                of_server(host, &served(&plan, host).unwrap(), Query::query(name(asked), record)).unwrap();
            let Asked::Server { answer, .. } = asked else { panic!("{asked:?}") };
            let answer = message(&Reply::Message(answer?)).unwrap();
            let data = answer.answers.iter().map(|record| record.data.to_string()).collect::<Vec<_>>();
            Some((answer.metadata.response_code, data))
        };
        let some =
            |code, data: &[&str]| Some((code, data.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>()));
        assert_eq!(
            ask("root", "www.example.test", RecordType::A),
            some(ResponseCode::NoError, &["203.0.113.80"])
        );
        assert_eq!(ask("root", "www.example.test", RecordType::TXT), some(ResponseCode::NoError, &[]));
        assert_eq!(ask("root", "nobody.example.test", RecordType::A), some(ResponseCode::NXDomain, &[]));
        assert_eq!(ask("root", "cn.dc.test", RecordType::A), some(ResponseCode::NoError, &[]), "a referral");
        assert_eq!(ask("dc", "cn.dc.test", RecordType::TXT), some(ResponseCode::NoError, &["ntm-dc=1"]));
        assert_eq!(ask("dc", "cn.dc.test", RecordType::A), some(ResponseCode::NoError, &[]));
        assert_eq!(ask("dc", "www.example.test", RecordType::A), some(ResponseCode::Refused, &[]));
        assert_eq!(ask("gn", "www.example.test", RecordType::A), None);
    }
}
