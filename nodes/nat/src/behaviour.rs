//! How a NAT behaves: the axes of RFC 4787, and the classic names for some of their values.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::duration;
use crate::names::{UnknownName, choose, named};

/// What a router does to the packets that pass it.
///
/// Written as the name of a preset (`"port-restricted"`), or as a table that starts from a preset or from the two axes and changes
/// what it names: `{ preset = "symmetric", hairpin = false, timeouts = { udp = "30s" } }`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Behaviour {
    /// A plain router: nothing is translated and nothing filtered.
    None,
    /// A NAT.
    Nat(Axes),
}

/// How a NAT behaves, one field for each axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Axes {
    /// Which destinations share one mapping of an inner address and port (RFC 4787, section 4.1).
    pub mapping: Dependence,
    /// Which outer hosts may send to a mapping (RFC 4787, section 5).
    pub filtering: Dependence,
    /// Whether inner hosts reach each other by their outer addresses (RFC 4787, section 6).
    pub hairpin: bool,
    /// How the port of a new mapping is chosen (RFC 4787, section 4.2).
    pub allocation: Allocation,
    /// The ports that mappings may have; for ICMP the query identifiers.
    pub ports: PortRange,
    /// How long what is idle is kept.
    pub timeouts: Timeouts,
}

/// What a mapping or a filter depends on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Dependence {
    /// On no outer address.
    EndpointIndependent,
    /// On the outer host's address.
    AddressDependent,
    /// On the outer host's address and port.
    AddressAndPortDependent,
}

named!(Dependence, "mapping or filtering",
    "endpoint-independent" => EndpointIndependent,
    "address-dependent" => AddressDependent,
    "address-and-port-dependent" => AddressAndPortDependent,
);

/// How the outer port of a new mapping is chosen. Two mappings of one protocol never share a port (RFC 4787, REQ-3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocation {
    /// The inner port where it is free and within the range, else a random one.
    Preserve,
    /// A random one.
    Random,
    /// The one after the port chosen last; after the last port the first.
    Contiguous,
}

named!(Allocation, "port allocation",
    "preserve" => Preserve,
    "random" => Random,
    "contiguous" => Contiguous,
);

/// Ports from a first to a last, both included; at least one, and never port 0. Written `"40000-40999"`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A text is not a [`PortRange`].
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("'{0}' is no range of ports: write the first and the last, as in 40000-40999, from 1 to 65535")]
pub struct PortRangeError(String);

/// How long what is idle is kept. What a host inside sends renews it; what comes from outside does not (RFC 4787, REQ-6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Timeouts {
    /// A UDP mapping, and what its filter lets in. 120 s (RFC 4787, REQ-5).
    #[serde(with = "duration")]
    pub udp: Duration,
    /// An ICMP query. 60 s (RFC 5508, REQ-2).
    #[serde(with = "duration")]
    pub icmp: Duration,
    /// A TCP connection over which both sides have spoken. 124 min (RFC 5382, REQ-5).
    #[serde(with = "duration")]
    pub tcp_established: Duration,
    /// A TCP connection that is being opened or closed. 4 min (RFC 5382, REQ-5).
    #[serde(with = "duration")]
    pub tcp_transitory: Duration,
}

impl Behaviour {
    /// One mapping for all destinations, open to everyone.
    pub const FULL_CONE: Self =
        Self::Nat(Axes::new(Dependence::EndpointIndependent, Dependence::EndpointIndependent));
    /// One mapping for all destinations, open to the addresses that were sent to. Also called restricted cone.
    pub const ADDRESS_RESTRICTED: Self =
        Self::Nat(Axes::new(Dependence::EndpointIndependent, Dependence::AddressDependent));
    /// One mapping for all destinations, open to the addresses and ports that were sent to.
    pub const PORT_RESTRICTED: Self =
        Self::Nat(Axes::new(Dependence::EndpointIndependent, Dependence::AddressAndPortDependent));
    /// A mapping at a random port for each destination, open to that destination.
    pub const SYMMETRIC: Self = Self::Nat(Axes {
        allocation: Allocation::Random,
        ..Axes::new(Dependence::AddressAndPortDependent, Dependence::AddressAndPortDependent)
    });

    /// The classic names.
    pub const PRESETS: &[(&'static str, Self)] = &[
        ("none", Self::None),
        ("full-cone", Self::FULL_CONE),
        ("address-restricted", Self::ADDRESS_RESTRICTED),
        ("restricted-cone", Self::ADDRESS_RESTRICTED),
        ("port-restricted", Self::PORT_RESTRICTED),
        ("symmetric", Self::SYMMETRIC),
    ];

    /// The axes; `None` for a plain router.
    pub fn axes(&self) -> Option<&Axes> {
        match self {
            Behaviour::None => None,
            Behaviour::Nat(axes) => Some(axes),
        }
    }

    /// The name of the preset that this is, if it is one.
    pub fn preset(&self) -> Option<&'static str> {
        Self::PRESETS.iter().find(|(_, preset)| preset == self).map(|(name, _)| *name)
    }
}

impl Axes {
    /// A NAT with this mapping and filtering: hairpinning, preserving ports from 1024 on, with the RFCs' timeouts.
    pub const fn new(mapping: Dependence, filtering: Dependence) -> Self {
        Self {
            mapping,
            filtering,
            hairpin: true,
            allocation: Allocation::Preserve,
            ports: PortRange { first: 1024, last: u16::MAX },
            timeouts: Timeouts::RFC,
        }
    }
}

impl Timeouts {
    /// The shortest that the RFCs allow, as most NATs have them.
    pub const RFC: Self = Self {
        udp: Duration::from_secs(120),
        icmp: Duration::from_secs(60),
        tcp_established: Duration::from_secs(124 * 60),
        tcp_transitory: Duration::from_secs(4 * 60),
    };
}

impl PortRange {
    /// The ports from `first` to `last`; `None` if there are none, or port 0 is among them.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (1..=last).contains(&first).then_some(Self { first, last })
    }

    /// The first port.
    pub fn first(&self) -> u16 {
        self.first
    }

    /// The last port.
    pub fn last(&self) -> u16 {
        self.last
    }

    /// How many ports there are, from 1 to 65535.
    pub fn size(&self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }

    /// Whether `port` is one of them.
    pub fn contains(&self, port: u16) -> bool {
        self.range().contains(&port)
    }

    /// The ports as a range.
    pub fn range(&self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let ports =
            text.split_once('-').and_then(|(first, last)| Self::new(first.parse().ok()?, last.parse().ok()?));
        ports.ok_or_else(|| PortRangeError(text.to_owned()))
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl FromStr for Behaviour {
    type Err = UnknownName;

    /// Reads the name of a preset.
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        choose("NAT behaviour", text, Self::PRESETS)
    }
}

impl fmt::Display for Behaviour {
    /// The preset's name; of others the two axes, the mapping first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.preset(), self) {
            (Some(name), _) => f.write_str(name),
            (None, Behaviour::Nat(axes)) => {
                write!(f, "{} mapping, {} filtering", axes.mapping, axes.filtering)
            }
            (None, Behaviour::None) => f.write_str("none"),
        }
    }
}

impl Serialize for Behaviour {
    /// The preset's name, or all the axes.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.preset(), self) {
            (Some(name), _) => serializer.serialize_str(name),
            (None, Behaviour::Nat(axes)) => axes.serialize(serializer),
            (None, Behaviour::None) => serializer.serialize_str("none"),
        }
    }
}

/// The table form of a [`Behaviour`], before what it leaves out is filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BehaviourTable {
    /// The name that it starts from.
    pub preset: Option<String>,
    /// Needed where there is no preset, as `filtering` is.
    pub mapping: Option<Dependence>,
    /// See [`Axes::filtering`].
    pub filtering: Option<Dependence>,
    /// See [`Axes::hairpin`].
    pub hairpin: Option<bool>,
    /// See [`Axes::allocation`].
    pub allocation: Option<Allocation>,
    /// See [`Axes::ports`].
    pub ports: Option<PortRange>,
    /// See [`Axes::timeouts`].
    #[serde(default)]
    pub timeouts: TimeoutsTable,
}

/// The timeouts of a [`BehaviourTable`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeoutsTable {
    /// See [`Timeouts::udp`].
    #[serde(deserialize_with = "duration::deserialize_some")]
    pub udp: Option<Duration>,
    /// See [`Timeouts::icmp`].
    #[serde(deserialize_with = "duration::deserialize_some")]
    pub icmp: Option<Duration>,
    /// See [`Timeouts::tcp_established`].
    #[serde(deserialize_with = "duration::deserialize_some")]
    pub tcp_established: Option<Duration>,
    /// See [`Timeouts::tcp_transitory`].
    #[serde(deserialize_with = "duration::deserialize_some")]
    pub tcp_transitory: Option<Duration>,
}

impl BehaviourTable {
    /// Fills in what was left out; the error says what is missing or too much.
    pub fn complete(self) -> Result<Behaviour, String> {
        let start = match (&self.preset, self.mapping, self.filtering) {
            (Some(name), ..) => name.parse::<Behaviour>().map_err(|error| error.to_string())?,
            (None, Some(mapping), Some(filtering)) => Behaviour::Nat(Axes::new(mapping, filtering)),
            (None, ..) => return Err("a NAT needs a 'preset', or both 'mapping' and 'filtering'".to_owned()),
        };
        let Behaviour::Nat(start) = start else {
            return Err(
                "the preset 'none' translates nothing and has nothing to change: write nat = \"none\""
                    .to_owned(),
            );
        };
        let Timeouts { udp, icmp, tcp_established, tcp_transitory } = start.timeouts;
        let timeouts = Timeouts {
            udp: self.timeouts.udp.unwrap_or(udp),
            icmp: self.timeouts.icmp.unwrap_or(icmp),
            tcp_established: self.timeouts.tcp_established.unwrap_or(tcp_established),
            tcp_transitory: self.timeouts.tcp_transitory.unwrap_or(tcp_transitory),
        };
        if [timeouts.udp, timeouts.icmp, timeouts.tcp_established, timeouts.tcp_transitory]
            .contains(&Duration::ZERO)
        {
            return Err(
                "a timeout of 0 would end a mapping before its first answer: give at least 1ms".to_owned()
            );
        }
        Ok(Behaviour::Nat(Axes {
            mapping: self.mapping.unwrap_or(start.mapping),
            filtering: self.filtering.unwrap_or(start.filtering),
            hairpin: self.hairpin.unwrap_or(start.hairpin),
            allocation: self.allocation.unwrap_or(start.allocation),
            ports: self.ports.unwrap_or(start.ports),
            timeouts,
        }))
    }
}

impl<'de> Deserialize<'de> for Behaviour {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Behaviour;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "the name of a NAT behaviour, such as \"port-restricted\", or a table of its axes",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Behaviour, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Behaviour, A::Error> {
                let table = BehaviourTable::deserialize(MapAccessDeserializer::new(map))?;
                table.complete().map_err(de::Error::custom)
            }
        }

        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Debug)]
    struct Router {
        nat: Behaviour,
    }

    fn read(text: &str) -> Result<Behaviour, String> {
        toml::from_str::<Router>(text).map(|router| router.nat).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn the_classic_names_are_values_of_the_two_axes() {
        use Dependence::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        for (name, mapping, filtering) in [
            ("full-cone", EndpointIndependent, EndpointIndependent),
            ("address-restricted", EndpointIndependent, AddressDependent),
            ("restricted-cone", EndpointIndependent, AddressDependent),
            ("port-restricted", EndpointIndependent, AddressAndPortDependent),
            ("symmetric", AddressAndPortDependent, AddressAndPortDependent),
        ] {
            let behaviour = read(&format!("nat = '{name}'")).unwrap();
            let axes = behaviour.axes().unwrap();
            assert_eq!((axes.mapping, axes.filtering), (mapping, filtering), "{name}");
        }
        assert_eq!(read("nat = 'none'"), Ok(Behaviour::None));
        assert_eq!(Behaviour::ADDRESS_RESTRICTED.to_string(), "address-restricted");
    }

    #[test]
    fn a_table_changes_what_it_names() {
        let changed = read(
            "nat = { preset = 'symmetric', hairpin = false, ports = '40000-40999', timeouts = { udp = '30s' } }",
        );
        let Behaviour::Nat(symmetric) = Behaviour::SYMMETRIC else { unreachable!() };
        let expected = Axes {
            hairpin: false,
            ports: PortRange::new(40000, 40999).unwrap(),
            timeouts: Timeouts { udp: Duration::from_secs(30), ..Timeouts::RFC },
            ..symmetric
        };
        assert_eq!(changed, Ok(Behaviour::Nat(expected)));
        let free =
            read("nat = { mapping = 'address-dependent', filtering = 'endpoint-independent' }").unwrap();
        assert_eq!(
            free,
            Behaviour::Nat(Axes::new(Dependence::AddressDependent, Dependence::EndpointIndependent))
        );
        assert_eq!(free.to_string(), "address-dependent mapping, endpoint-independent filtering");
    }

    #[test]
    fn what_is_written_reads_back() {
        let odd = Behaviour::Nat(Axes {
            allocation: Allocation::Contiguous,
            ports: PortRange::new(5, 5).unwrap(),
            ..Axes::new(Dependence::AddressDependent, Dependence::AddressAndPortDependent)
        });
        for behaviour in [Behaviour::None, Behaviour::FULL_CONE, Behaviour::SYMMETRIC, odd] {
            let text = serde_json::to_string(&behaviour).unwrap();
            assert_eq!(serde_json::from_str::<Behaviour>(&text).unwrap(), behaviour, "{text}");
        }
    }

    #[test]
    fn errors_say_what_to_write() {
        let errors: Vec<String> = [
            "nat = 'port-restrict'",
            "nat = 'Symetric'",
            "nat = { preset = 'fullcone' }",
            "nat = { mapping = 'endpoint-independant', filtering = 'address-dependent' }",
            "nat = { mapping = 'address-dependent' }",
            "nat = { preset = 'none', hairpin = true }",
            "nat = { preset = 'symmetric', hairpinning = true }",
            "nat = { preset = 'symmetric', ports = '0-5' }",
            "nat = { preset = 'symmetric', ports = '9-5' }",
            "nat = { preset = 'symmetric', timeouts = { udp = '30' } }",
            "nat = { preset = 'symmetric', timeouts = { udp = '0s' } }",
            "nat = 5",
        ]
        .into_iter()
        .map(|text| format!("{text}\n  {}", read(text).unwrap_err().replace('\n', "\n  ")))
        .collect();
        insta::assert_snapshot!(errors.join("\n"));
    }

    #[test]
    fn ranges_count_their_ports() {
        assert_eq!(PortRange::new(1, 65535).unwrap().size(), 65535);
        assert_eq!(PortRange::new(7, 7).unwrap().size(), 1);
        assert_eq!(PortRange::new(0, 7), None);
        assert_eq!(PortRange::new(8, 7), None);
    }
}
