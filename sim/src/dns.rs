//! The DNS as data: zones from the root on, asked as the DC's resolver asks the real one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ntm_protocol::addr::Fqdn;
use ntm_protocol::coordinator::lookup::{Lookup, LookupAnswer, LookupFailure, LookupResult, Zone};
use ntm_protocol::time::Duration;

/// A zone below the root.
#[derive(Clone, Debug, Default)]
pub struct ZoneData {
    /// Its name servers with their addresses.
    pub servers: Vec<(Fqdn, Vec<IpAddr>)>,
    /// The TXT records at its top.
    pub texts: Vec<String>,
    /// Its names, with their addresses.
    pub names: BTreeMap<Fqdn, Vec<IpAddr>>,
}

/// All zones. The root delegates to the shortest, each zone to those below it.
#[derive(Clone, Debug)]
pub struct Dns {
    /// What one question to one server takes.
    pub question: Duration,
    /// How long the resolver waits for a server.
    pub patience: Duration,
    zones: BTreeMap<Fqdn, ZoneData>,
}

impl Default for Dns {
    fn default() -> Self {
        let (question, patience) = (Duration::from_millis(4), Duration::from_secs(1));
        Self { question, patience, zones: BTreeMap::new() }
    }
}

impl Dns {
    /// The zone called `zone`, made if it is new.
    pub fn zone(&mut self, zone: &Fqdn) -> &mut ZoneData {
        self.zones.entry(zone.clone()).or_default()
    }

    /// The zones on the way from the root down to `name`, without the root.
    fn way_to(&self, name: &Fqdn) -> Vec<(&Fqdn, &ZoneData)> {
        let above = std::iter::successors(Some(name.clone()), Fqdn::parent);
        let mut way: Vec<_> = above.filter_map(|zone| self.zones.get_key_value(&zone)).collect();
        way.reverse();
        way
    }

    /// The addresses of `name`, whether or not any server would answer: as a hosts file has them.
    pub fn known(&self, name: &Fqdn) -> Option<&[IpAddr]> {
        self.way_to(name).last().and_then(|(_, zone)| zone.names.get(name)).map(Vec::as_slice)
    }

    /// The answer to `lookup`, and how long it takes; `alive` says whether a server answers.
    pub fn answer(&self, lookup: &Lookup, alive: impl Fn(IpAddr) -> bool) -> (Duration, LookupResult) {
        let answers = |zone: &ZoneData| zone.servers.iter().flat_map(|(_, at)| at).any(|at| alive(*at));
        match lookup {
            Lookup::Zone(name) => {
                let way = self.way_to(name);
                // The root and every zone above the last are asked; the last is named by the one before.
                let takes = self.question * way.len().max(1) as u32;
                match way.split_last() {
                    Some((_, above)) if !above.iter().all(|(_, zone)| answers(zone)) => {
                        (takes + self.patience, Err(LookupFailure::Timeout))
                    }
                    Some(((zone, data), _)) => {
                        let zone = Zone { zone: Some((*zone).clone()), servers: data.servers.clone() };
                        (takes, Ok(LookupAnswer::Zone(zone)))
                    }
                    None => (takes, Err(LookupFailure::NxDomain)),
                }
            }
            Lookup::Record { zone, server } => match self.zones.get(zone) {
                _ if !alive(*server) => (self.patience, Err(LookupFailure::Timeout)),
                Some(data) if data.servers.iter().any(|(_, at)| at.contains(server)) => {
                    (self.question, Ok(LookupAnswer::Texts(data.texts.clone())))
                }
                _ => (self.question, Err(LookupFailure::ServFail)),
            },
            Lookup::A(name) => self.addresses(name, IpAddr::is_ipv4, answers),
            Lookup::Aaaa(name) => self.addresses(name, IpAddr::is_ipv6, answers),
        }
    }

    fn addresses(
        &self,
        name: &Fqdn,
        wanted: impl Fn(&IpAddr) -> bool,
        answers: impl Fn(&ZoneData) -> bool,
    ) -> (Duration, LookupResult) {
        match self.way_to(name).last() {
            Some((_, zone)) if !answers(zone) => (self.patience, Err(LookupFailure::Timeout)),
            Some((_, zone)) => {
                let found = zone.names.get(name).map(|all| all.iter().copied().filter(&wanted).collect());
                (self.question, found.map(LookupAnswer::Addresses).ok_or(LookupFailure::NxDomain))
            }
            None => (self.question, Err(LookupFailure::NxDomain)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Fqdn {
        text.parse().unwrap()
    }

    fn dns() -> Dns {
        let mut dns = Dns::default();
        let server = |n: u8| vec![(name(&format!("ns{n}.test")), vec![IpAddr::from([203, 0, 113, n])])];
        dns.zone(&name("test")).servers = server(1);
        let zone = dns.zone(&name("dc.test"));
        (zone.servers, zone.texts) = (server(2), vec!["ntm-dc=1".into()]);
        zone.names.insert(name("v6.dc.test"), vec!["2001:db8::1".parse().unwrap()]);
        dns
    }

    #[test]
    fn the_zone_is_the_deepest_cut_whether_or_not_the_name_exists() {
        let zone_of = |text: &str| match dns().answer(&Lookup::Zone(name(text)), |_| true).1 {
            Ok(LookupAnswer::Zone(zone)) => zone.zone.map(String::from),
            other => panic!("{other:?}"),
        };
        assert_eq!(zone_of("mn.dc.test").as_deref(), Some("dc.test"));
        assert_eq!(zone_of("dc.test").as_deref(), Some("dc.test"));
        assert_eq!(zone_of("xdc.test").as_deref(), Some("test"));
        let (_, nowhere) = dns().answer(&Lookup::Zone(name("mn.example")), |_| true);
        assert_eq!(nowhere, Err(LookupFailure::NxDomain), "the root knows no such zone");
    }

    #[test]
    fn each_kind_is_answered_as_a_server_would() {
        let ask = |lookup: &Lookup| dns().answer(lookup, |at| at != IpAddr::from([203, 0, 113, 9])).1;
        let record = |n: u8| Lookup::Record { zone: name("dc.test"), server: [203, 0, 113, n].into() };
        assert_eq!(ask(&record(2)), Ok(LookupAnswer::Texts(vec!["ntm-dc=1".into()])));
        assert_eq!(ask(&record(1)), Err(LookupFailure::ServFail), "not its zone");
        assert_eq!(ask(&record(9)), Err(LookupFailure::Timeout), "nobody there");
        assert_eq!(ask(&Lookup::A(name("v6.dc.test"))), Ok(LookupAnswer::Addresses(Vec::new())));
        let v6 = vec!["2001:db8::1".parse().unwrap()];
        assert_eq!(ask(&Lookup::Aaaa(name("v6.dc.test"))), Ok(LookupAnswer::Addresses(v6)));
        assert_eq!(ask(&Lookup::A(name("nobody.dc.test"))), Err(LookupFailure::NxDomain));
    }
}
