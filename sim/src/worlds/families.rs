//! IPv4 and IPv6 outside the tunnels (T3.1-d), as worlds have them: who has addresses of which family, and which way leads where.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ntm_protocol::family::Family;
use ntm_protocol::observe::RouteName;

use super::generate::Dice;
use super::script::{Place, Script, Spot, general_address};

/// Of which families a host or a network has addresses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum Has {
    /// IPv4 alone.
    #[default]
    V4,
    /// IPv6 alone.
    V6,
    /// IPv4 and IPv6.
    Both,
}

impl Has {
    /// All that there is.
    pub const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Both];

    /// Whether IPv4 is among them.
    pub fn v4(self) -> bool {
        self != Self::V6
    }

    /// Whether IPv6 is.
    pub fn v6(self) -> bool {
        self != Self::V4
    }

    /// Whether both have one family.
    pub fn shares(self, other: Self) -> bool {
        self.v4() && other.v4() || self.v6() && other.v6()
    }

    /// Those of two addresses that a host of these families has.
    pub fn of<T>(self, v4: T, v6: T) -> Vec<T> {
        [self.v4().then_some(v4), self.v6().then_some(v6)].into_iter().flatten().collect()
    }
}

/// What NATs stand between two terminals in IPv4.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nats {
    /// None that keeps the two from speaking directly: at most one of them is behind one, or both behind the same.
    Open,
    /// Two that let the two speak directly once a relay's path stands (T4.1.2-b).
    Passable,
    /// Two through which nobody speaks directly.
    Closed,
}

/// The way that two terminals must take, through one of `relays` if need be; none where there can be none. The oracle of T3.1-d: a family
/// that both have serves directly where NATs allow it, for IPv6 has none; else a relay stands between the two, which each end reaches in a
/// family of its own.
pub fn way(ends: [Has; 2], nats: Nats, relays: &[Has]) -> Option<RouteName> {
    let all = |has: fn(Has) -> bool| ends.into_iter().all(has);
    if all(Has::v6) || all(Has::v4) && nats == Nats::Open {
        return Some(RouteName::Direct);
    }
    let found = if all(Has::v4) && nats == Nats::Passable { RouteName::Direct } else { RouteName::Switched };
    relays.iter().any(|relay| serves(*relay, ends)).then_some(found)
}

/// Whether a relay can stand between two nodes: two terminals, or a terminal and a general node.
pub fn serves(relay: Has, sides: [Has; 2]) -> bool {
    sides.into_iter().all(|side| side.shares(relay))
}

/// Who has families of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Member {
    /// A DC.
    Coordinator(usize),
    /// A relay.
    Relay(usize),
    /// A general node.
    General(usize),
    /// The network behind a NAT, which is about IPv4 alone.
    Site(usize),
    /// A terminal on the public network, at its first address there or its other.
    Terminal {
        /// Which.
        n: usize,
        /// At the other.
        other: bool,
    },
}

/// The families of a world. IPv4 alone where nothing is said.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Families {
    has: BTreeMap<Member, Has>,
    /// Of which family datagrams are lost where there is a cut; of both without it.
    pub cut: Option<Family>,
}

impl Families {
    /// Those of `member`.
    pub fn of(&self, member: Member) -> Has {
        self.has.get(&member).copied().unwrap_or_default()
    }

    /// `member` has these.
    pub fn set(&mut self, member: Member, has: Has) {
        self.has.insert(member, has);
        self.has.retain(|_, has| *has != Has::V4);
    }

    /// Whether somebody has IPv6.
    pub fn are_mixed(&self) -> bool {
        !self.has.is_empty()
    }

    /// Those of terminal `n` at `place`; none where that is nowhere.
    pub fn at(&self, place: Place, n: usize) -> Option<Has> {
        match place {
            Place::Nowhere => None,
            Place::Public { other } => Some(self.of(Member::Terminal { n, other })),
            Place::Behind { site, .. } => Some(self.of(Member::Site(site))),
        }
    }

    /// The addresses of terminal `n` at `place`, the preferred first.
    pub fn addresses_at(&self, place: Place, n: usize) -> Vec<IpAddr> {
        let subnet = place.site().map_or(0, |site| 1 + site as u16);
        let own = self.at(place, n).zip(place.address(n));
        own.map_or(Vec::new(), |(has, v4)| has.of(v4, beside(v4, subnet)))
    }

    /// The public addresses of a DC, a relay, a NAT, or a terminal at its first.
    pub fn addresses(&self, spot: Spot) -> Vec<IpAddr> {
        let v4 = spot.address();
        let has = match spot {
            Spot::Coordinator(n) => self.of(Member::Coordinator(n)),
            Spot::Relay(n) => self.of(Member::Relay(n)),
            Spot::Site(_) => Has::V4,
            Spot::Terminal(n) => self.of(Member::Terminal { n, other: false }),
        };
        has.of(v4, beside(v4, 0))
    }

    /// The addresses of general node `n`.
    pub fn of_general(&self, n: usize) -> Vec<IpAddr> {
        let v4 = general_address(n);
        self.of(Member::General(n)).of(v4, beside(v4, 0))
    }

    /// From which addresses to which others nothing comes where `from` is cut off from `to`, of `terminals` terminals: a NAT is cut off
    /// with what is behind it.
    pub fn cut_off(&self, from: Spot, to: Spot, terminals: usize) -> Vec<(IpAddr, IpAddr)> {
        let places = |site| [false, true].map(|other| Place::Behind { site, other });
        let behind = |spot| match spot {
            Spot::Site(site) => (0..terminals)
                .flat_map(|n| places(site).into_iter().flat_map(move |place| self.addresses_at(place, n)))
                .filter(IpAddr::is_ipv6)
                .collect(),
            _ => Vec::new(),
        };
        let all = |spot| [self.addresses(spot), behind(spot)].concat();
        let is_cut = |family| self.cut.is_none_or(|cut| cut == family);
        let (from, to) = (all(from), all(to));
        let pairs = from.iter().flat_map(|from| to.iter().map(|to| (*from, *to)));
        let families = |(from, to): &(IpAddr, IpAddr)| (Family::of(*from), Family::of(*to));
        pairs.filter(|pair| matches!(families(pair), (one, other) if one == other && is_cut(one))).collect()
    }

    /// Those of `script` that are of somebody who is there.
    pub(super) fn keep_those_of(script: &mut Script) {
        let (coordinators, relays, generals) = (script.coordinators.len(), script.relays, script.generals);
        let (sites, terminals) = (script.sites.len(), script.terminals.len());
        script.families.has.retain(|member, _| match *member {
            Member::Coordinator(n) => n < coordinators,
            Member::Relay(n) => n < relays,
            Member::General(n) => n < generals,
            Member::Site(n) => n < sites,
            Member::Terminal { n, .. } => n < terminals,
        });
    }

    /// Terminal `gone` is taken out; those behind it move up.
    pub(super) fn without_terminal(&mut self, gone: usize) {
        let moved = |(member, has)| match member {
            Member::Terminal { n, .. } if n == gone => None,
            Member::Terminal { n, other } => {
                Some((Member::Terminal { n: n - usize::from(n > gone), other }, has))
            }
            other => Some((other, has)),
        };
        self.has = std::mem::take(&mut self.has).into_iter().filter_map(moved).collect();
    }

    /// The same, simpler by one thing each.
    pub(super) fn simpler(&self) -> Vec<Self> {
        let mut all = vec![Self::default(), Self { cut: None, ..self.clone() }];
        for member in self.has.keys() {
            // IPv4, or if somebody needs IPv6 there, that too.
            all.extend([Has::V4, Has::Both].map(|has| {
                let mut simpler = self.clone();
                simpler.set(*member, has);
                simpler
            }));
        }
        all
    }

    /// Whether everybody who is to register at a DC can, wherever it is, and every DC speaks with every other.
    pub(super) fn let_all_register(&self, script: &Script) -> bool {
        let dcs = || (0..script.coordinators.len()).map(Member::Coordinator);
        let all = dcs().chain(clients(script));
        all.into_iter().all(|member| self.reaches_all(member, dcs()))
    }

    fn reaches_all(&self, member: Member, mut of: impl Iterator<Item = Member>) -> bool {
        of.all(|dc| self.of(member).shares(self.of(dc)))
    }
}

/// Who registers, or is where somebody may.
fn clients(script: &Script) -> impl Iterator<Item = Member> + use<> {
    let (relays, sites, terminals) = (script.relays, script.sites.len(), script.terminals.len());
    let public = |n| [false, true].map(|other| Member::Terminal { n, other });
    let terminals = (0..terminals).flat_map(public);
    (0..relays).map(Member::Relay).chain((0..sites).map(Member::Site)).chain(terminals)
}

/// The address with the same last number in a subnet of IPv6: 0 is the public network, the others are those behind NATs.
fn beside(v4: IpAddr, subnet: u16) -> IpAddr {
    let last = match v4 {
        IpAddr::V4(v4) => v4.octets()[3].into(),
        IpAddr::V6(v6) => v6.segments()[7],
    };
    Ipv6Addr::new(0x2001, 0xdb8, subnet, 0, 0, 0, 0, last).into()
}

/// In three of ten worlds everybody has families of its own. Who shares none with some DC, and could not register there, has both.
pub(super) fn draw(dice: &mut Dice, script: &mut Script) {
    if !dice.chance(30) {
        return;
    }
    let mut families = Families::default();
    let dcs: Vec<Member> = (0..script.coordinators.len()).map(Member::Coordinator).collect();
    let drawn = dcs.iter().copied().chain(clients(script));
    for (n, member) in drawn.enumerate() {
        let is_dc = n < dcs.len();
        let has = if is_dc && dice.chance(70) { Has::Both } else { dice.pick(&Has::ALL) };
        families.set(member, has);
        if !families.reaches_all(member, dcs[..dcs.len().min(n)].iter().copied()) {
            families.set(member, Has::Both);
        }
    }
    for n in 0..script.generals {
        families.set(Member::General(n), dice.pick(&Has::ALL));
    }
    if dice.chance(40) {
        families.cut = Some(dice.pick(&[Family::V4, Family::V6]));
    }
    script.families = families;
}

impl fmt::Display for Has {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6 alone",
            Self::Both => "IPv4 and IPv6",
        })
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator(n) => write!(f, "dc{n}"),
            Self::Relay(n) => write!(f, "rs{n}"),
            Self::General(n) => write!(f, "gn{n}"),
            Self::Site(n) => write!(f, "the network behind nat{n}"),
            Self::Terminal { n, other: false } => write!(f, "mn{n} on the public network"),
            Self::Terminal { n, other: true } => {
                write!(f, "mn{n} on the public network, at another address,")
            }
        }
    }
}

/// A line for each that has not IPv4 alone.
impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.has.iter().try_for_each(|(member, has)| writeln!(f, "{member} has {has}"))?;
        match self.cut {
            Some(cut) if self.are_mixed() => writeln!(f, "cuts are of {cut} alone"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worlds::generate;

    #[test]
    fn everybody_can_register_wherever_it_comes_to_be() {
        let worlds = || (0..1000).map(generate);
        assert!(worlds().all(|script| script.families.let_all_register(&script)));
        let mixed = worlds().filter(|script| script.families.are_mixed()).count();
        assert!((250..350).contains(&mixed), "{mixed}");
        let mut script = generate(0);
        script.families = Families::default();
        script.families.set(Member::Coordinator(0), Has::V6);
        assert!(!script.families.let_all_register(&script), "nobody else has IPv6");
    }

    /// A NAT is cut off with what is behind it, in both families or in one.
    #[test]
    fn a_cut_is_of_addresses_of_one_family_each() {
        let mut families = Families::default();
        families.set(Member::Coordinator(0), Has::Both);
        families.set(Member::Site(1), Has::Both);
        let cut = |families: &Families| {
            let pairs = families.cut_off(Spot::Coordinator(0), Spot::Site(1), 1);
            pairs.into_iter().map(|(from, to)| format!("{from} {to}")).collect::<Vec<_>>()
        };
        let v4 = "203.0.113.3 203.0.113.101";
        let v6 = ["2001:db8::3 2001:db8:2::2", "2001:db8::3 2001:db8:2::3"];
        assert_eq!(cut(&families), [v4, v6[0], v6[1]]);
        families.cut = Some(Family::V6);
        assert_eq!(cut(&families), v6);
        families.cut = Some(Family::V4);
        assert_eq!(cut(&families), [v4]);
    }

    #[test]
    fn who_moves_up_keeps_its_families() {
        let mut families = Families::default();
        families.set(Member::Terminal { n: 0, other: false }, Has::V6);
        families.set(Member::Terminal { n: 2, other: true }, Has::Both);
        families.without_terminal(0);
        assert_eq!(
            families.to_string(),
            "mn1 on the public network, at another address, has IPv4 and IPv6\n"
        );
        let simpler = families.simpler();
        assert!(
            simpler.contains(&Families::default()) && !families.at(Place::Nowhere, 1).is_some_and(Has::v6)
        );
    }
}
