//! The reference model: what must be true of a world, and of its end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ntm_nat::direct_possible;
use ntm_protocol::addr::{Fqdn, NTM_PORT, PathId, Vip};
use ntm_protocol::observe::{Observation, RouteName, TableChange, What};
use ntm_protocol::relay::table::is_astray;
use ntm_protocol::terminal::{PathStatus, Terminal};
use ntm_protocol::time::{Duration, Instant};
use ntm_protocol::wire::{DnsError, Kind, NodeKind, RelayMode, Shown};

use super::families::{Has, Member, Nats, serves, way};
use super::play::{Played, Said};
use super::script::{CALM, LENGTH, Peer, Place, REFUSED, SETTLED, Script, Spot, Who};
use super::streams;
use super::{Fault, Rule};

/// Judges a world at its end: the first rule that was broken, those of safety first.
pub fn judge(script: &Script, played: &Played) -> Result<(), Fault> {
    Safety::new(script, played).judge()?;
    conversations(script, played)?;
    streams::safety(script, played)?;
    registrations(script, played)?;
    refusals(script, played)?;
    flows(script, played)?;
    routes(script, played)?;
    wayless(script, played)?;
    streams::liveness(script, played)
}

pub(super) fn fault(rule: Rule, at: Instant, what: String) -> Fault {
    Fault { rule, at, what }
}

/// What must be true at every moment, as the trace tells it.
struct Safety<'a> {
    script: &'a Script,
    played: &'a Played,
    /// The number of each node's DC, for terminals, and of DCs their own.
    zones: BTreeMap<&'a str, usize>,
    /// Whose each VIP is, and when its DC said so.
    owner: BTreeMap<Vip, &'a Fqdn>,
    vip: BTreeMap<&'a Fqdn, Vip>,
    /// The VIPs that a DC's terminals are told for each general node: one for each of its addresses.
    told: BTreeMap<(usize, &'a Fqdn), Vec<Vip>>,
    /// How many addresses general nodes have.
    general: BTreeMap<&'a Fqdn, usize>,
    relays: BTreeSet<IpAddr>,
    translators: BTreeMap<PathId, &'a str>,
    /// Paths through an RS-N that their terminals have taken.
    taken: BTreeSet<PathId>,
    /// What each end of each path knows of the direct way since it was directed, by the epochs of directions: which of them the path takes, its
    /// epoch tells later, for one that is late is refused.
    proofs: BTreeMap<(&'a str, PathId), BTreeMap<u8, Proof>>,
}

struct Proof {
    /// The way that the direction names.
    route: Option<Shown>,
    asked: bool,
    answered: bool,
}

impl Proof {
    /// Whether the direction leads through a relay.
    fn is_relayed(&self) -> bool {
        matches!(&self.route, Some(Shown::Table(fields)) if fields.contains_key("relay"))
    }
}

impl<'a> Safety<'a> {
    fn new(script: &'a Script, played: &'a Played) -> Self {
        let of_dcs = played.coordinators.iter().enumerate().map(|(n, host)| (played.world.name(*host), n));
        let terminals = played.terminals.iter().zip(&script.terminals);
        let of_terminals = terminals.map(|(host, resident)| (played.world.name(*host), resident.coordinator));
        let generals = played.generals.iter().enumerate();
        let general =
            generals.map(|(n, host)| (played.world.fqdn(*host), script.families.of_general(n).len()));
        let relays = (0..script.relays).flat_map(|n| script.families.addresses(Spot::Relay(n)));
        Self {
            script,
            played,
            general: general.collect(),
            relays: relays.collect(),
            zones: of_dcs.chain(of_terminals).collect(),
            owner: BTreeMap::new(),
            vip: BTreeMap::new(),
            told: BTreeMap::new(),
            translators: BTreeMap::new(),
            taken: BTreeSet::new(),
            proofs: BTreeMap::new(),
        }
    }

    fn judge(mut self) -> Result<(), Fault> {
        let lost = |crash: &&super::play::Crashed| crash.disk && matches!(crash.who, Who::Coordinator(_));
        let mut lost = self.played.crashes.iter().filter(lost).peekable();
        for (n, observation) in self.played.world.trace().iter().enumerate() {
            // A DC whose disk is lost knows nothing of what it gave before: from then on it is held to what it gives anew.
            while let Some(crash) = lost.next_if(|crash| crash.observed <= n) {
                if let Who::Coordinator(zone) = crash.who {
                    self.forget(zone);
                }
            }
            self.take(observation).map_err(|(rule, what)| {
                fault(rule, observation.t, format!("{}: {what}", observation.node))
            })?;
        }
        Ok(())
    }

    fn forget(&mut self, zone: usize) {
        let prefix = [198, 18 + zone as u8];
        self.owner.retain(|vip, _| vip.0.octets()[..2] != prefix);
        self.vip.retain(|_, vip| vip.0.octets()[..2] != prefix);
        self.told.retain(|(of, _), _| *of != zone);
    }

    fn is_relay(&self, at: SocketAddr) -> bool {
        self.relays.contains(&at.ip())
    }

    fn take(&mut self, Observation { node, what, .. }: &'a Observation) -> Result<(), (Rule, String)> {
        let zone = self.zones.get(node.as_str()).copied();
        match what {
            What::Registered { fqdn, vip: Some(vip), .. } => {
                // What a terminal is told may have been under way since before its DC's disk was lost.
                let is_late = node.starts_with("mn") && zone.is_some_and(|n| self.script.loses_records_of(n));
                if is_late {
                    return Ok(());
                }
                let owner = *self.owner.entry(*vip).or_insert(fqdn);
                if owner != fqdn {
                    return Err((Rule::VipUnique, format!("{vip} is given to {fqdn}, and is {owner}'s")));
                }
                let kept = *self.vip.entry(fqdn).or_insert(*vip);
                if kept != *vip {
                    return Err((Rule::VipKept, format!("{fqdn} gets {vip} instead of {kept}")));
                }
            }
            What::Answer { name, vip: Some(vip), .. } => {
                let Some(zone) = zone else { return Ok(()) };
                let addresses = self.general.get(name).copied();
                let known = if let Some(addresses) = addresses {
                    if self.script.loses_records_of(zone) {
                        return Ok(());
                    }
                    let told = self.told.entry((zone, name)).or_default();
                    if told.len() < addresses && !told.contains(vip) {
                        told.push(*vip);
                    }
                    told.iter().copied().find(|told| told == vip).or(told.first().copied())
                } else {
                    let its_zone = (0..self.script.coordinators.len())
                        .find(|n| name.as_str().ends_with(&format!(".d{n}.test")));
                    if its_zone.is_some_and(|n| self.script.loses_records_of(n)) {
                        return Ok(());
                    }
                    self.vip.get(name).copied()
                };
                if known != Some(*vip) {
                    return Err((
                        Rule::Answer,
                        format!("the answer for {name} is {vip} instead of {known:?}"),
                    ));
                }
                let other = self.told.iter().find(|((of, other), told)| {
                    addresses.is_some() && *of == zone && *other != name && told.contains(vip)
                });
                if let Some(((_, other), _)) = other {
                    return Err((Rule::VipUnique, format!("{vip} is {name}'s and {other}'s")));
                }
            }
            What::RelayTable { path, change: TableChange::Made, mode: RelayMode::Translate } => {
                let before = *self.translators.entry(*path).or_insert(node);
                if before != node && self.taken.contains(path) {
                    return Err((Rule::RelayKept, format!("translates for a path of {before}")));
                }
                // Until its terminal has taken it, a path may still be made elsewhere: the first relay may not answer.
                self.translators.insert(*path, node);
            }
            What::Received { message: Kind::RouteDirection, path: Some(path), fields, .. }
                if node.starts_with("mn") =>
            {
                let Some(Shown::Number(epoch)) = fields.get("epoch") else { return Ok(()) };
                let (epoch, route) = (*epoch as u8, fields.get("route").cloned());
                let proofs = self.proofs.entry((node, *path)).or_default();
                // What was proved under an earlier direction counts no more; a repetition changes nothing.
                if proofs.get(&epoch).is_none_or(|proof| proof.route != route) {
                    proofs.insert(epoch, Proof { route, asked: false, answered: false });
                }
            }
            What::Received { message, from, path: Some(path), .. } if node.starts_with("mn") => {
                let relay = self.is_relay(*from);
                // The path takes it in its own epoch; of the others none is the path's, or ever will be again.
                for proof in
                    self.proofs.get_mut(&(node.as_str(), *path)).into_iter().flat_map(BTreeMap::values_mut)
                {
                    match message {
                        Kind::TunnelRequest => proof.asked |= !relay,
                        Kind::TunnelResponse => proof.answered |= !relay,
                        _ => {}
                    }
                }
            }
            What::PathChanged { path, route: RouteName::Translated, .. } => drop(self.taken.insert(*path)),
            What::PathChanged { path, route: RouteName::Direct, remote: Some(remote), epoch, .. } => {
                let proofs = self.proofs.entry((node, *path)).or_default();
                // Epochs wrap: one that is far behind is a new one when it comes again.
                proofs.retain(|known, _| !is_astray(*known, *epoch));
                let proof = proofs.get(epoch);
                if proof.is_none_or(|proof| !proof.answered && (proof.is_relayed() || !proof.asked)) {
                    return Err((Rule::Proved, format!("packets go to {remote}, which is not proved")));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Of conversations: nothing comes to others, and nothing twice.
fn conversations(script: &Script, played: &Played) -> Result<(), Fault> {
    let end = played.world.now();
    // Where records are lost a VIP may be somebody else's later.
    if (0..script.coordinators.len()).any(|n| script.loses_records_of(n)) {
        return Ok(());
    }
    for said in &played.said {
        let talk = played.world.heard(said.talk);
        let peer = played.peer(said.to);
        let whose = format!("mn{} with {}", said.from, said.to);
        if let Some(other) = talk.reached.iter().find(|host| **host != peer) {
            let other = played.world.name(*other);
            return Err(fault(Rule::Astray, end, format!("packets of {whose} came to {other}")));
        }
        if talk.astray > 0 {
            return Err(fault(
                Rule::Astray,
                end,
                format!("{} echoes of {whose} came elsewhere", talk.astray),
            ));
        }
        // Between relay and general node it is plain UDP, which may come twice.
        if talk.again > 0 && matches!(said.to, Peer::Terminal(_)) {
            return Err(fault(Rule::Twice, end, format!("{} packets of {whose} came twice", talk.again)));
        }
    }
    Ok(())
}

/// How many VIPs a DC has for terminals, and as many for general nodes.
pub(super) fn vips(prefix: u8) -> usize {
    (1usize << (31 - prefix)) - 2
}

/// Whether there are more terminals of a DC than VIPs.
pub(super) fn is_crowded(script: &Script, coordinator: usize) -> bool {
    let own = script.terminals.iter().filter(|resident| resident.coordinator == coordinator).count();
    own > vips(script.coordinators[coordinator])
}

fn terminal(played: &Played, n: usize) -> Option<&Terminal> {
    played.world.at_terminal(played.terminals[n])
}

/// In the end everybody is registered, with the VIP that the DC has on its disk.
fn registrations(script: &Script, played: &Played) -> Result<(), Fault> {
    let end = played.world.now();
    let wrong = |what: String| Err(fault(Rule::Registered, end, what));
    for (n, resident) in script.terminals.iter().enumerate() {
        if is_crowded(script, resident.coordinator) {
            continue;
        }
        let dc = played.world.at_coordinator(played.coordinators[resident.coordinator]);
        let known = dc.and_then(|dc| dc.vip_of(played.world.fqdn(played.terminals[n])));
        let Some(terminal) = terminal(played, n).filter(|terminal| terminal.is_registered()) else {
            return wrong(format!("mn{n} is not registered"));
        };
        if terminal.vip().is_none() || terminal.vip() != known {
            return wrong(format!("mn{n} has {:?}, and its DC says {known:?}", terminal.vip()));
        }
    }
    for (n, host) in played.coordinators.iter().enumerate() {
        let own = script.terminals.iter().filter(|resident| resident.coordinator == n).count();
        let own = own.min(vips(script.coordinators[n]));
        let wanted = [(NodeKind::Terminal, own), (NodeKind::Relay, script.relays)];
        for (kind, wanted) in wanted {
            let found = played.world.at_coordinator(*host).map_or(0, |dc| dc.registered(kind));
            if found != wanted {
                return wrong(format!("at dc{n} {found} of {wanted} are registered: {kind:?}"));
            }
        }
    }
    Ok(())
}

/// How many VIPs general nodes need of a DC: one for each address.
pub(super) fn addresses_of_generals(script: &Script) -> usize {
    (0..script.generals).map(|n| script.families.of_general(n).len()).sum()
}

/// Whether the model promises that `from` reaches `to` in the end.
pub(super) fn is_promised(script: &Script, from: usize, to: Peer) -> bool {
    // Who has no VIP has no paths; and a relay that takes one path may have another.
    let crowded = |terminal: usize| is_crowded(script, script.terminals[terminal].coordinator);
    let full = script.capacity < 1000;
    let general_vips = vips(script.coordinators[script.terminals[from].coordinator]);
    !crowded(from)
        && !full
        && match to {
            Peer::Terminal(n) => !crowded(n),
            Peer::General(_) => addresses_of_generals(script) <= general_vips,
        }
        && expected(script, from, to).is_some()
}

/// Some time after the faults no name is refused any more, and whoever asks is answered.
fn refusals(script: &Script, played: &Played) -> Result<(), Fault> {
    let limit = Instant::ZERO + (CALM + REFUSED);
    let afresh = played.said.iter().filter(|said| said.afresh).map(|said| (said.talk, said.from, said.to));
    for (talk, from, to) in played.asked.iter().copied().chain(afresh) {
        let talk = played.world.heard(talk);
        if let Some((at, Err(error))) = talk.answer
            && at > limit
            && is_promised(script, from, to)
        {
            let what = format!("mn{from} asked for {to} at {:?}, and was told {error:?}", talk.asked);
            return Err(fault(Rule::Answered, at, what));
        }
    }
    Ok(())
}

/// In the end who asks is answered, and nothing is lost.
fn flows(script: &Script, played: &Played) -> Result<(), Fault> {
    let (settled, end) = (Instant::ZERO + SETTLED, Instant::ZERO + (LENGTH - Duration::from_secs(1)));
    for said in played.said.iter().filter(|said| !said.over && is_promised(script, said.from, said.to)) {
        let talk = played.world.heard(said.talk);
        let whose = format!("mn{} with {}", said.from, said.to);
        if said.afresh && !matches!(talk.answer, Some((_, Ok(_)))) {
            let what = format!("{whose}: asked at {:?}, answered {:?}", talk.asked, talk.answer);
            return Err(fault(Rule::Answered, played.world.now(), what));
        }
        if talk.address().is_none() || !is_current(script, played, said) {
            continue;
        }
        let recent = talk.packets.iter().filter(|packet| packet.sent >= settled && packet.sent < end);
        let lost = recent.clone().filter(|packet| packet.returned.is_none()).count();
        if lost > 0 {
            let what = format!("{whose}: {lost} of {} packets are lost", recent.count());
            return Err(fault(Rule::Flows, played.world.now(), what));
        }
    }
    Ok(())
}

/// Whether the address that an application was told is worth anything: not one of before its DC, or its peer's, lost its records; nor of
/// a general node at one of its addresses, where none but the other can be had from where the terminal is now.
fn is_current(script: &Script, played: &Played, said: &Said) -> bool {
    let told = |said: &Said| played.world.heard(said.talk).address();
    let of_both = matches!(said.to, Peer::General(n) if script.families.of(Member::General(n)) == Has::Both);
    let mut later = played.said.iter().filter(|it| it.afresh && (it.from, it.to) == (said.from, said.to));
    if of_both && later.any(|later| told(later).is_some_and(|vip| Some(vip) != told(said))) {
        return false;
    }
    let lost = |terminal: usize| script.loses_records_of(script.terminals[terminal].coordinator);
    let peers = matches!(said.to, Peer::Terminal(n) if lost(n));
    said.afresh || !(lost(said.from) || peers)
}

/// In the end paths take the way that the model says, and end where it says.
fn routes(script: &Script, played: &Played) -> Result<(), Fault> {
    let end = played.world.now();
    for said in played.said.iter().filter(|said| said.afresh && is_promised(script, said.from, said.to)) {
        let ends: &[(usize, Peer)] = match said.to {
            Peer::Terminal(n) => &[(said.from, said.to), (n, Peer::Terminal(said.from))],
            Peer::General(_) => &[(said.from, said.to)],
        };
        for (from, to) in ends {
            let peer = played.peer(*to);
            let paths = terminal(played, *from).map(Terminal::paths).unwrap_or_default();
            let name = played.world.fqdn(peer);
            let stand: Vec<&PathStatus> =
                paths.iter().filter(|path| path.peer == *name && path.remote.is_some()).collect();
            let what = |why: &str| format!("mn{from} to {to}: {why}: {stand:#?}");
            let Some((route, remotes)) = expected(script, *from, *to) else { continue };
            // An attempt that one end gave up may have succeeded at the other, and is mended beside the next; so is what an end forgot as it crashed.
            let ends = [Peer::Terminal(*from), *to];
            let crashed = |who: Who| matches!(who, Who::Terminal(n) if ends.contains(&Peer::Terminal(n)));
            let forgot = played.crashes.iter().filter(|crash| crashed(crash.who)).count();
            let most = 2.max(1 + given_up(played, *from, *to)) + forgot;
            if stand.is_empty() || stand.len() > most {
                return Err(fault(
                    Rule::Route,
                    end,
                    what("one path stands, or two where each called the other"),
                ));
            }
            for path in &stand {
                if path.route != route {
                    return Err(fault(Rule::Route, end, what(&format!("the way should be {route:?}"))));
                }
                if !path.remote.is_some_and(|remote| remotes.contains(&remote.ip())) {
                    return Err(fault(Rule::Route, end, what(&format!("it should end at {remotes:?}"))));
                }
                if route != RouteName::Direct && path.remote.map(|remote| remote.port()) != Some(NTM_PORT) {
                    return Err(fault(Rule::Route, end, what("it should end at a relay's port")));
                }
            }
        }
    }
    Ok(())
}

/// How often applications of two ends were told that there is no way between them.
fn given_up(played: &Played, from: usize, to: Peer) -> usize {
    let Peer::Terminal(to) = to else { return 0 };
    let failed = |asks: usize, asked: usize| {
        let asks = played.world.name(played.terminals[asks]);
        let asked = played.world.fqdn(played.terminals[asked]);
        let told = played.world.trace().iter().filter(|it| it.node == asks);
        told.filter(|it| matches!(&it.what, What::Answer { name, error: Some(_), .. } if name == asked))
            .count()
    };
    failed(from, to) + failed(to, from)
}

/// Where families leave no way to a peer its name is answered with an error in the end, and no path to it stands (T3.1-d).
fn wayless(script: &Script, played: &Played) -> Result<(), Fault> {
    let end = played.world.now();
    let last = |from, to| played.said.iter().rfind(|said| said.afresh && (said.from, said.to) == (from, to));
    for (from, to) in script.pairs() {
        if expected(script, from, to).is_some() || may_stay(script, from, to) {
            continue;
        }
        let Some(said) = last(from, to) else { continue };
        let talk = played.world.heard(said.talk);
        if !matches!(talk.answer, Some((_, Err(DnsError::ServFail | DnsError::NoData)))) {
            let what = format!("mn{from} has no way to {to}, and was told {:?}", talk.answer);
            return Err(fault(Rule::Answered, end, what));
        }
        let name = played.world.fqdn(played.peer(to));
        let paths = terminal(played, from).map(Terminal::paths).unwrap_or_default();
        if let Some(path) = paths.iter().find(|path| path.peer == *name && path.remote.is_some()) {
            return Err(fault(
                Rule::Route,
                end,
                format!("mn{from} has no way to {to}, and one stands: {path:#?}"),
            ));
        }
    }
    Ok(())
}

/// Whether a direct path may have lived through a move behind NATs that none could be made through without a relay: they let it pass, and nobody
/// has to be asked where it stands.
fn may_stay(script: &Script, from: usize, to: Peer) -> bool {
    let Peer::Terminal(peer) = to else { return false };
    let [own, its] = [from, peer].map(|n| script.last_place(n));
    let has_v4 = |place, n| script.families.at(place, n).is_some_and(Has::v4);
    nats(script, own, its) == Nats::Passable && has_v4(own, from) && has_v4(its, peer)
}

/// The way from a terminal to a peer in the end, and the addresses where packets may go: the oracle of route optimisation (T3.1-d, T4.1.2-b).
/// None where families leave no way.
pub(super) fn expected(script: &Script, from: usize, to: Peer) -> Option<(RouteName, BTreeSet<IpAddr>)> {
    let (families, own) = (&script.families, script.last_place(from));
    let own_has = families.at(own, from)?;
    let through = |route, sides: [Has; 2]| {
        let relays = (0..script.relays).filter(|n| serves(families.of(Member::Relay(*n)), sides));
        let addresses = relays.flat_map(|n| families.addresses(Spot::Relay(n)));
        let remotes: BTreeSet<IpAddr> = addresses.filter(|at| has_family(own_has, *at)).collect();
        (!remotes.is_empty()).then_some((route, remotes))
    };
    let peer = match to {
        Peer::General(n) => {
            return through(RouteName::Translated, [own_has, families.of(Member::General(n))]);
        }
        Peer::Terminal(peer) => peer,
    };
    let its = script.last_place(peer);
    let its_has = families.at(its, peer)?;
    let nats = nats(script, own, its);
    let relays: Vec<Has> = (0..script.relays).map(|n| families.of(Member::Relay(n))).collect();
    if way([own_has, its_has], nats, &relays)? == RouteName::Switched {
        return through(RouteName::Switched, [own_has, its_has]);
    }
    let shared = |at: &IpAddr| has_family(own_has, *at) && has_family(its_has, *at);
    // Behind one NAT that turns datagrams back its own address leads there, too.
    let shown = its.site().map(|site| Spot::Site(site).address()).filter(shared);
    let is_open = own.site() == its.site() || its.site().is_none();
    let inside = families.addresses_at(its, peer).into_iter().filter(|at| at.is_ipv6() || is_open);
    let all: BTreeSet<IpAddr> = shown.into_iter().chain(inside).filter(shared).collect();
    // Where NATs are asked for nothing in IPv6 they are asked for nothing in IPv4.
    let natless = all.iter().any(IpAddr::is_ipv6) && (own.site().is_some() || its.site().is_some());
    Some((RouteName::Direct, all.into_iter().filter(|at| !natless || at.is_ipv6()).collect()))
}

/// What NATs stand between two places.
fn nats(script: &Script, own: Place, its: Place) -> Nats {
    match (own.site(), its.site()) {
        (Some(a), Some(b)) if a != b && direct_possible(script.sites[a], script.sites[b]) => Nats::Passable,
        (Some(a), Some(b)) if a != b => Nats::Closed,
        _ => Nats::Open,
    }
}

fn has_family(has: Has, at: IpAddr) -> bool {
    if at.is_ipv4() { has.v4() } else { has.v6() }
}
