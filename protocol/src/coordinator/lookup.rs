//! DNS as values: the coordinator asks for a look-up and is handed its answer; it never does one.

use std::net::IpAddr;

use crate::addr::Fqdn;
use crate::observe::LookupKind;
use crate::wire::DnsError;

/// A look-up to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// From the root on: the zone that holds a name, and its name servers (T3.2.2-b).
    Zone(Fqdn),
    /// The TXT record of a zone, asked of one of its name servers directly.
    Record {
        /// The zone.
        zone: Fqdn,
        /// The name server.
        server: IpAddr,
    },
    /// The IPv4 addresses of a name.
    A(Fqdn),
    /// The IPv6 addresses of a name.
    Aaaa(Fqdn),
}

impl Lookup {
    /// The record type.
    pub fn kind(&self) -> LookupKind {
        match self {
            Self::Zone(_) => LookupKind::Ns,
            Self::Record { .. } => LookupKind::Txt,
            Self::A(_) => LookupKind::A,
            Self::Aaaa(_) => LookupKind::Aaaa,
        }
    }

    /// The name that is asked for.
    pub fn name(&self) -> &Fqdn {
        match self {
            Self::Zone(name) | Self::A(name) | Self::Aaaa(name) => name,
            Self::Record { zone, .. } => zone,
        }
    }
}

/// A zone and its name servers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Zone {
    /// The zone's name; `None` for the root itself.
    pub zone: Option<Fqdn>,
    /// Its name servers with their addresses.
    pub servers: Vec<(Fqdn, Vec<IpAddr>)>,
}

/// The answer to a look-up: of the kind that was asked for, or an error.
pub type LookupResult = Result<LookupAnswer, LookupFailure>;

/// What the DNS answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LookupAnswer {
    /// To [`Lookup::Zone`].
    Zone(Zone),
    /// To [`Lookup::Record`]: the texts; none where there is no record.
    Texts(Vec<String>),
    /// To [`Lookup::A`] and [`Lookup::Aaaa`]: none where the name has no such address.
    Addresses(Vec<IpAddr>),
}

/// Why there is no answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LookupFailure {
    /// The name does not exist.
    NxDomain,
    /// A server refused, failed, or answered nonsense.
    ServFail,
    /// No answer in time.
    Timeout,
}

impl LookupFailure {
    /// The DNS answer that an application gets for it.
    pub fn error(self) -> DnsError {
        match self {
            Self::NxDomain => DnsError::NxDomain,
            Self::ServFail | Self::Timeout => DnsError::ServFail,
        }
    }

    /// Its name in the trace.
    pub fn name(self) -> &'static str {
        match self {
            Self::NxDomain => "NXDOMAIN",
            Self::ServFail => "SERVFAIL",
            Self::Timeout => "timeout",
        }
    }
}

/// The text of the TXT record by which a DC shows itself (T3.2.2-b).
pub const DC_RECORD: &str = "ntm-dc=1";

/// Names a look-up until it is answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LookupId(pub u64);
