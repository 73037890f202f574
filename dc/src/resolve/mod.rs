//! Look-ups in the DNS, from the root on (T3.2.2-b).
//!
//! [`Resolver`] does the coordinator's [`Lookup`]s, many at once, each within one deadline. The walk from the root, the caches and
//! their lifetimes, the rules against poisoning and endless loops are `hickory-resolver`'s recursor; added here are the zone of a
//! name with its servers, the question put to one server directly, and what a name server must be like.
//!
//! Servers and answers on private, loopback and test addresses are taken like any other: a testbed has no others.

mod servers;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join;
use hickory_proto::op::{DnsRequest, DnsRequestOptions, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::recursor::{QNameMinimization, Recursor, RecursorError, RecursorOptions};
use ntm_dns::server::Inside;
use ntm_protocol::addr::Fqdn;
use ntm_protocol::coordinator::lookup::{Lookup, LookupAnswer, LookupFailure, LookupResult, Zone};
use ntm_protocol::family::{Families, Family};
use thiserror::Error;

use servers::Servers;

/// How many name servers of one zone are looked at.
const MAX_SERVERS: usize = 8;
/// How often an attempt without a usable answer is repeated. The deadline may come first.
const ATTEMPTS: usize = 3;
/// How many answers are kept.
const CACHE: u64 = 16 * 1024;

/// Where the DNS begins, and how long it may take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResolverConfig {
    /// The root servers' addresses; at least one.
    pub roots: Vec<IpAddr>,
    /// The families in which this machine can ask servers.
    pub families: Families,
    /// The port of every name server: 53, but for tests.
    pub port: u16,
    /// The longest time of one look-up; more than [`MAX_DEADLINE`] counts as that.
    pub deadline: Duration,
}

/// After this time an application's own resolver has given up.
pub const MAX_DEADLINE: Duration = Duration::from_secs(5);

impl ResolverConfig {
    /// These root servers, of which those in `families` can be asked, port 53, three seconds.
    pub fn new(roots: Vec<IpAddr>, families: Families) -> Self {
        Self { roots, families, port: 53, deadline: Duration::from_secs(3) }
    }
}

/// Why there can be no resolver.
#[derive(Debug, Error)]
pub enum ResolverError {
    /// There is nowhere to begin.
    #[error(
        "no root server is given that this machine can ask: name at least one address of a family that it has"
    )]
    NoRoots,
    /// The library refuses.
    #[error("the resolver cannot be made: {0}")]
    Library(String),
}

/// Does look-ups. Clones share their caches. Must be used within a tokio runtime.
#[derive(Clone)]
pub struct Resolver(Arc<Inner>);

struct Inner {
    recursor: Recursor<Servers>,
    servers: Servers,
    families: Families,
    deadline: Duration,
}

impl Resolver {
    /// A resolver with empty caches. Where it is led to `own`, the name server of this process, it asks that one by a call.
    pub fn new(config: &ResolverConfig, own: Option<Inside>) -> Result<Self, ResolverError> {
        let is_usable = |server: &IpAddr| config.families.has(Family::of(*server));
        let roots: Vec<IpAddr> = config.roots.iter().copied().filter(is_usable).collect();
        if roots.is_empty() {
            return Err(ResolverError::NoRoots);
        }
        let library = |error: &dyn std::error::Error| ResolverError::Library(error.to_string());
        // One silent server must leave time for another, and for a packet that is lost.
        let deadline = config.deadline.min(MAX_DEADLINE);
        let patience = deadline.mul_f32(0.4);
        let servers = Servers::new(config.port, patience, own).map_err(|error| library(&error))?;
        // Beside a server that can be asked, one in a family that this machine does not have would only cost time.
        let all = [(Family::V4, "0.0.0.0/0"), (Family::V6, "::/0")];
        let denied = all.into_iter().filter(|(family, _)| !config.families.has(*family));
        let denied = denied.map(|(_, net)| net.parse().expect("a network")).collect();
        let options = RecursorOptions {
            deny_server: denied,
            response_cache_size: CACHE,
            // Some servers deny the existence of an empty non-terminal; a name below it may exist all the same.
            qname_minimization: QNameMinimization::Relaxed,
            ..RecursorOptions::default()
        };
        let recursor =
            Recursor::with_options(&roots, options, servers.clone()).map_err(|error| library(&error))?;
        Ok(Self(Arc::new(Inner { recursor, servers, families: config.families, deadline })))
    }

    /// Does `lookup`, within the deadline.
    pub async fn look_up(&self, lookup: &Lookup) -> LookupResult {
        let inner = &*self.0;
        let answer = async {
            match lookup {
                Lookup::Zone(name) => inner.zone_of(name).await.map(LookupAnswer::Zone),
                Lookup::Record { zone, server } => inner.texts(zone, *server).await.map(LookupAnswer::Texts),
                Lookup::A(name) => {
                    inner.addresses(&absolute(name), RecordType::A).await.map(LookupAnswer::Addresses)
                }
                Lookup::Aaaa(name) => {
                    inner.addresses(&absolute(name), RecordType::AAAA).await.map(LookupAnswer::Addresses)
                }
            }
        };
        tokio::time::timeout(inner.deadline, answer).await.unwrap_or(Err(LookupFailure::Timeout))
    }
}

impl Inner {
    /// The zone that holds `name`: the closest name at or above it that has NS records, as its own servers say.
    async fn zone_of(&self, name: &Fqdn) -> Result<Zone, LookupFailure> {
        let mut at = absolute(name);
        loop {
            let message = self.resolve(&at, RecordType::NS).await?;
            // Behind an alias stand the NS records of another name, which do not count.
            let names: Vec<&Name> = message
                .iter()
                .flat_map(|message| &message.answers)
                .filter(|record| record.name == at)
                .filter_map(|record| match &record.data {
                    RData::NS(server) => Some(&server.0),
                    _ => None,
                })
                .take(MAX_SERVERS)
                .collect();
            if let Some(message) = &message
                && !names.is_empty()
            {
                let servers = self.addresses_of(&names, message).await?;
                return Ok(Zone { zone: relative(&at), servers });
            }
            if at.is_root() {
                return Err(LookupFailure::ServFail);
            }
            at = at.base_name();
        }
    }

    /// The addresses of the name servers `names`: those that came with the answer, or, if none came, those that are found.
    async fn addresses_of(
        &self,
        names: &[&Name],
        message: &Message,
    ) -> Result<Vec<(Fqdn, Vec<IpAddr>)>, LookupFailure> {
        let is_usable = |server: &IpAddr| self.families.has(Family::of(*server));
        let named = |name: &Name, addresses| Some((relative(name)?, addresses));
        let glue = |name: &Name| {
            let records = message.additionals.iter().filter(|record| record.name == *name);
            let addresses = records.filter_map(|record| record.data.ip_addr());
            addresses.filter(is_usable).collect::<Vec<_>>()
        };
        let mut servers: Vec<_> = names.iter().filter_map(|name| named(name, glue(name))).collect();
        if servers.iter().all(|(_, addresses)| addresses.is_empty()) {
            let found = futures::future::join_all(names.iter().map(async |name| {
                let (four, six) =
                    join(self.addresses(name, RecordType::A), self.addresses(name, RecordType::AAAA)).await;
                let found = four.unwrap_or_default().into_iter().chain(six.unwrap_or_default());
                named(name, found.filter(is_usable).collect())
            }));
            servers = found.await.into_iter().flatten().collect();
        }
        if servers.iter().all(|(_, addresses)| addresses.is_empty()) {
            return Err(LookupFailure::ServFail);
        }
        Ok(servers)
    }

    /// The texts of the TXT records of `name`, as `server` says itself.
    async fn texts(&self, name: &Fqdn, server: IpAddr) -> Result<Vec<String>, LookupFailure> {
        let name = absolute(name);
        let mut options = DnsRequestOptions::default();
        options.recursion_desired = false;
        let mut failure = LookupFailure::ServFail;
        for _ in 0..ATTEMPTS {
            let question = DnsRequest::from_query(Query::query(name.clone(), RecordType::TXT), options);
            match self.servers.ask(server, question).await {
                Some(Ok(response)) => return Ok(texts_of(&response, &name)),
                Some(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => {
                    return match none.response_code {
                        ResponseCode::NXDomain => Err(LookupFailure::NxDomain),
                        // The zone is someone else's.
                        _ if none.ns.is_some() && none.soa.is_none() => Err(LookupFailure::ServFail),
                        _ => Ok(Vec::new()),
                    };
                }
                Some(Err(NetError::Timeout)) => failure = LookupFailure::Timeout,
                Some(Err(error)) => {
                    tracing::debug!("TXT {name} at {server}: {error}");
                    return Err(LookupFailure::ServFail);
                }
                None => return Err(LookupFailure::ServFail),
            }
        }
        Err(failure)
    }

    /// The addresses of `name`, aliases followed; none if it has no such records.
    async fn addresses(&self, name: &Name, kind: RecordType) -> Result<Vec<IpAddr>, LookupFailure> {
        let Some(message) = self.resolve(name, kind).await? else { return Ok(Vec::new()) };
        let owner = end_of_aliases(&message, name).ok_or(LookupFailure::ServFail)?;
        let records =
            message.answers.iter().filter(|record| record.name == *owner && record.record_type() == kind);
        Ok(records.filter_map(|record| record.data.ip_addr()).collect())
    }

    /// The answer for the records of type `kind` of `name`, from the root on; `None` if the name has no such records.
    async fn resolve(&self, name: &Name, kind: RecordType) -> Result<Option<Message>, LookupFailure> {
        for _ in 0..ATTEMPTS {
            let query = Query::query(name.clone(), kind);
            match self.recursor.resolve(query, Instant::now(), false).await {
                Ok(message) => return Ok(Some(message)),
                Err(error) if error.is_nx_domain() => return Err(LookupFailure::NxDomain),
                Err(RecursorError::Negative(_)) => return Ok(None),
                // More of the same leads nowhere.
                Err(
                    error @ (RecursorError::RecursionLimitExceeded { .. }
                    | RecursorError::MaxRecordLimitExceeded { .. }
                    | RecursorError::QueryBudgetExceeded),
                ) => {
                    tracing::debug!("{kind} {name}: {error}");
                    break;
                }
                Err(error) => tracing::debug!("{kind} {name}: {error}"),
            }
        }
        Err(LookupFailure::ServFail)
    }
}

/// The name at the end of the aliases that begin at `name`; `None` if they go round.
fn end_of_aliases<'m>(message: &'m Message, name: &'m Name) -> Option<&'m Name> {
    let mut owner = name;
    for _ in 0..=message.answers.len() {
        let alias = message.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if record.name == *owner => Some(&target.0),
            _ => None,
        });
        match alias {
            Some(target) => owner = target,
            None => return Some(owner),
        }
    }
    None
}

/// The texts of the TXT records of `name` itself, each record's strings joined.
fn texts_of(message: &Message, name: &Name) -> Vec<String> {
    let records = message.answers.iter().filter(|record| record.name == *name);
    records
        .filter_map(|record| match &record.data {
            RData::TXT(text) => Some(String::from_utf8_lossy(&text.txt_data.concat()).into_owned()),
            _ => None,
        })
        .collect()
}

/// `name` as the DNS writes it.
fn absolute(name: &Fqdn) -> Name {
    let mut absolute = Name::from_ascii(name.as_str()).expect("an Fqdn is a domain name");
    absolute.set_fqdn(true);
    absolute
}

/// `name` as a host's name; `None` for the root, and for what no host is called.
fn relative(name: &Name) -> Option<Fqdn> {
    Fqdn::new(&name.to_ascii()).ok()
}
