//! Which answer a question gets: the algorithm of RFC 1034, section 4.3.2, over the zones of one server.

use std::collections::BTreeMap;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};

use crate::zone::{Found, Zone};

/// The zones of one server.
#[derive(Debug, Default)]
pub struct Zones {
    zones: BTreeMap<LowerName, Zone>,
}

/// An answer: the code and the records of the three sections (RFC 1035, section 4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// NOERROR, NXDOMAIN or REFUSED.
    pub code: ResponseCode,
    /// The AA bit: set but for a referral or a refusal.
    pub authoritative: bool,
    /// The answer section.
    pub answers: Vec<Record>,
    /// The authority section: the SOA of a negative answer, the NS of a referral.
    pub authorities: Vec<Record>,
    /// The additional section: addresses of the servers named above.
    pub additionals: Vec<Record>,
}

/// How many CNAME records of our own zones are followed for one question.
const MAX_ALIASES: usize = 8;

impl Zones {
    /// Adds `zone`; `false` where the zone is there already.
    pub fn add(&mut self, zone: Zone) -> bool {
        self.zones.insert(zone.origin().clone(), zone).is_none()
    }

    /// The zones' names.
    pub fn origins(&self) -> impl Iterator<Item = &LowerName> {
        self.zones.keys()
    }

    /// The answer to the question for the records of type `kind` of `name`.
    pub fn answer(&self, name: &LowerName, kind: RecordType) -> Answer {
        let mut answer = Answer::new(ResponseCode::NoError);
        let mut owner = name.clone();
        for _ in 0..=MAX_ALIASES {
            let Some(zone) = self.zone_of(&owner) else {
                if answer.answers.is_empty() {
                    return Answer::refusal(ResponseCode::Refused);
                }
                return answer;
            };
            let (node, is_wildcard) = match zone.find(&owner) {
                Found::Delegated(servers) => {
                    // The AA bit speaks of the first owner name (RFC 1035, section 4.1.1): after an alias it stays.
                    answer.authoritative = !answer.answers.is_empty();
                    answer.authorities = servers.to_vec();
                    answer.additionals = addresses_of(zone, servers);
                    return answer;
                }
                Found::Missing => {
                    // Also at the end of an alias (RFC 6604, section 3).
                    answer.code = ResponseCode::NXDomain;
                    answer.authorities = vec![zone.negative_soa().clone()];
                    return answer;
                }
                Found::Empty => {
                    answer.authorities = vec![zone.negative_soa().clone()];
                    return answer;
                }
                Found::Here(node) => (node, false),
                Found::Wildcard(node) => (node, true),
            };
            let records = |kind| node.get(&kind).into_iter().flatten();
            let named = |record: &Record| {
                let mut record = record.clone();
                if is_wildcard {
                    record.name = Name::from(owner.clone());
                }
                record
            };
            if kind == RecordType::ANY {
                answer.answers.extend(node.values().flatten().map(named));
                return answer;
            }
            if let Some(alias) = records(RecordType::CNAME).next()
                && kind != RecordType::CNAME
            {
                answer.answers.push(named(alias));
                let RData::CNAME(target) = &alias.data else { return answer };
                let target = LowerName::new(target);
                if answer.answers.iter().any(|record| target == LowerName::new(&record.name)) {
                    return answer;
                }
                owner = target;
                continue;
            }
            let before = answer.answers.len();
            answer.answers.extend(records(kind).map(named));
            if answer.answers.len() == before {
                answer.authorities = vec![zone.negative_soa().clone()];
            } else {
                answer.additionals = addresses_of(zone, &answer.answers[before..]);
            }
            return answer;
        }
        answer
    }

    /// The zone with the longest name that `name` is in.
    fn zone_of(&self, name: &LowerName) -> Option<&Zone> {
        let mut at = name.clone();
        loop {
            match self.zones.get(&at) {
                Some(zone) => return Some(zone),
                None if at.is_root() => return None,
                None => at = at.base_name(),
            }
        }
    }
}

impl Answer {
    /// No records, no authority, only a code.
    pub fn refusal(code: ResponseCode) -> Self {
        Self { authoritative: false, ..Self::new(code) }
    }

    fn new(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: true,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }
}

/// The addresses, as far as `zone` has them, of the hosts that `records` name.
fn addresses_of(zone: &Zone, records: &[Record]) -> Vec<Record> {
    let hosts = records.iter().filter_map(|record| match &record.data {
        RData::NS(host) => Some(LowerName::new(host)),
        RData::MX(mx) => Some(LowerName::new(&mx.exchange)),
        RData::SRV(srv) => Some(LowerName::new(&srv.target)),
        _ => None,
    });
    hosts.flat_map(|host| zone.addresses(&host).cloned().collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const ROOT: &str = "\
.        300 SOA a.root. h. 1 2 3 4 60
.            NS  a.root.
a.root.      A   192.0.2.1
test.        NS  ns.test.
test.        NS  ns2.test.
ns.test.     A   192.0.2.2
ns2.test.    A   192.0.2.3
ns2.test.    AAAA 2001:db8::3
";
    const EXAMPLE: &str = "\
@     300 SOA ns h 1 2 3 4 60
          NS  ns
          MX  10 www
ns        A   192.0.2.4
www       A   192.0.2.5
a         CNAME b
b         CNAME www
out       CNAME www.test.
away      CNAME x.elsewhere.
gone      CNAME nothing
loop      CNAME pool
pool      CNAME loop
*.w       A   192.0.2.6
";

    fn zones(list: &[(&str, &str)]) -> Zones {
        let mut zones = Zones::default();
        for (origin, text) in list {
            let origin = Name::from_ascii(origin).expect("a name");
            assert!(zones.add(Zone::parse(&origin, text, Path::new("test.zone")).expect("a zone")));
        }
        zones
    }

    /// One line for the answer: code, AA, and each section's records.
    fn ask(zones: &Zones, name: &str, kind: RecordType) -> String {
        let answer = zones.answer(&name.parse().expect("a name"), kind);
        let aa = if answer.authoritative { "aa" } else { "--" };
        let section = |records: &[Record]| {
            let texts: Vec<_> =
                records.iter().map(|r| format!("{} {} {}", r.name, r.record_type(), r.data)).collect();
            texts.join(", ")
        };
        format!(
            "{:?} {aa} [{}] [{}] [{}]",
            answer.code,
            section(&answer.answers),
            section(&answer.authorities),
            section(&answer.additionals)
        )
    }

    #[test]
    fn a_delegation_is_a_referral_with_all_its_glue() {
        let root = zones(&[(".", ROOT)]);
        let referral = "NoError -- [] [test. NS ns.test., test. NS ns2.test.] \
                        [ns.test. A 192.0.2.2, ns2.test. A 192.0.2.3, ns2.test. AAAA 2001:db8::3]";
        for kind in [RecordType::NS, RecordType::A, RecordType::TXT, RecordType::ANY] {
            assert_eq!(ask(&root, "test.", kind), referral);
            assert_eq!(ask(&root, "www.EXAMPLE.test.", kind), referral);
        }
        assert_eq!(ask(&root, "ns.test.", RecordType::A), referral, "glue is no answer");
    }

    #[test]
    fn own_data_is_authoritative() {
        let example = zones(&[("example.test.", EXAMPLE)]);
        let ask = |name, kind| ask(&example, name, kind);
        assert_eq!(
            ask("example.test.", RecordType::NS),
            "NoError aa [example.test. NS ns.example.test.] [] [ns.example.test. A 192.0.2.4]"
        );
        assert_eq!(
            ask("example.test.", RecordType::MX),
            "NoError aa [example.test. MX 10 www.example.test.] [] [www.example.test. A 192.0.2.5]"
        );
        assert_eq!(
            ask("www.example.test.", RecordType::A),
            "NoError aa [www.example.test. A 192.0.2.5] [] []"
        );
        assert_eq!(
            ask("x.w.example.test.", RecordType::A),
            "NoError aa [x.w.example.test. A 192.0.2.6] [] []"
        );
        assert_eq!(ask("example.test.", RecordType::ANY).matches("example.test. ").count(), 3 + 2);
    }

    #[test]
    fn what_is_not_there_is_answered_with_the_soa() {
        let example = zones(&[("example.test.", EXAMPLE)]);
        let soa = "[] [example.test. SOA ns.example.test. h.example.test. 1 2 3 4 60] []";
        assert_eq!(ask(&example, "www.example.test.", RecordType::AAAA), format!("NoError aa {soa}"));
        assert_eq!(ask(&example, "w.example.test.", RecordType::A), format!("NoError aa {soa}"));
        assert_eq!(ask(&example, "nowhere.example.test.", RecordType::A), format!("NXDomain aa {soa}"));
        assert_eq!(ask(&example, "example.org.", RecordType::A), "Refused -- [] [] []");
        assert_eq!(ask(&example, ".", RecordType::NS), "Refused -- [] [] []");
    }

    #[test]
    fn aliases_are_followed_as_far_as_our_zones_reach() {
        let both = zones(&[("example.test.", EXAMPLE), (".", ROOT)]);
        let ask = |name: &str, kind| ask(&both, &format!("{name}.example.test."), kind);
        assert_eq!(
            ask("a", RecordType::A),
            "NoError aa [a.example.test. CNAME b.example.test., b.example.test. CNAME www.example.test., \
             www.example.test. A 192.0.2.5] [] []"
        );
        assert_eq!(ask("a", RecordType::CNAME), "NoError aa [a.example.test. CNAME b.example.test.] [] []");
        assert!(
            ask("out", RecordType::A).starts_with("NoError aa [out.example.test. CNAME www.test.] [test. NS")
        );
        assert!(
            ask("away", RecordType::A)
                .starts_with("NXDomain aa [away.example.test. CNAME x.elsewhere.] [. SOA")
        );
        assert!(ask("gone", RecordType::A).starts_with("NXDomain aa [gone.example.test. CNAME nothing"));
        assert_eq!(
            ask("loop", RecordType::A),
            "NoError aa [loop.example.test. CNAME pool.example.test., pool.example.test. CNAME loop.example.test.] [] []"
        );
    }

    #[test]
    fn an_alias_that_leaves_our_zones_is_the_whole_answer() {
        let example = zones(&[("example.test.", EXAMPLE)]);
        assert_eq!(
            ask(&example, "away.example.test.", RecordType::A),
            "NoError aa [away.example.test. CNAME x.elsewhere.] [] []"
        );
    }
}
