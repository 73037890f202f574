//! From the virtual interface to the network: under which keys a packet is sealed, and which way it takes.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::FixedState;

use crate::addr::PathId;
use crate::crypto::DataKeys;
use crate::wire::HEADER_LEN;

use super::{DataUpdate, Flow, NotSent, Usage, V6_MTU};

/// How a datagram leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// Where to.
    pub remote: SocketAddr,
    /// From where; none leaves it to the system.
    pub local: Option<Local>,
}

/// Which of this node's addresses a datagram comes from, and by which link it leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Local {
    /// The address.
    pub address: IpAddr,
    /// The link's index; none is the link that has the address.
    pub link: Option<u32>,
}

impl From<SocketAddr> for Way {
    fn from(remote: SocketAddr) -> Self {
        Self { remote, local: None }
    }
}

/// The table for packets from the virtual interface to the network.
#[derive(Default)]
pub struct Outbound {
    /// The first is in use; of another path there is one only where both ends called each other.
    flows: HashMap<Flow, Vec<Sending>, FixedState>,
    /// The flows of each path, one as a rule: a change of a path costs the same however many flows there are.
    paths: HashMap<PathId, Vec<Flow>, FixedState>,
    /// The system's routes, as far as known.
    routes: HashMap<IpAddr, Local, FixedState>,
    paused: bool,
    /// Whose keys the packets have that were placed and are not sealed yet, in their order.
    placed: Vec<Run>,
}

/// Consecutive packets under the same keys.
struct Run {
    keys: Arc<DataKeys>,
    count: usize,
}

struct Sending {
    keys: Arc<DataKeys>,
    next: u64,
    way: Way,
    /// Whether it keeps to where it leaves from, whatever the route.
    kept: bool,
    /// Whether the path is lost.
    lost: bool,
    /// The longest inner packet.
    mtu: u16,
    usage: Option<Usage>,
}

impl Sending {
    /// Leaves by the system's route, unless it keeps to another.
    fn follow(&mut self, routes: &HashMap<IpAddr, Local, FixedState>) {
        if !self.kept {
            self.way.local = routes.get(&self.way.remote.ip()).copied();
        }
    }

    fn keep(&mut self, address: Option<IpAddr>, routes: &HashMap<IpAddr, Local, FixedState>) {
        let now = self.way.local;
        // What leaves by another address than the one that is about to go is not concerned.
        self.kept = address.is_some_and(|address| now.is_none_or(|now| now.address == address));
        match address {
            Some(address) if self.kept => {
                self.way.local = now.or(Some(Local { address, link: None }));
            }
            _ => self.follow(routes),
        }
    }
}

/// The longest inner packet to `remote`.
fn mtu_to(remote: SocketAddr) -> u16 {
    if remote.is_ipv6() { V6_MTU } else { u16::MAX }
}

impl Outbound {
    /// Applies a change; those of the other direction are none here.
    pub fn apply(&mut self, update: &DataUpdate) {
        match update {
            DataUpdate::Send { flow, remote, keys, first } => {
                let known = self.paths.entry(keys.path()).or_default();
                if !known.contains(flow) {
                    known.push(*flow);
                }
                let sendings = self.flows.entry(*flow).or_default();
                sendings.retain(|old| old.keys.path() != keys.path());
                sendings.insert(
                    0,
                    Sending {
                        keys: Arc::clone(keys),
                        next: *first,
                        way: Way { remote: *remote, local: self.routes.get(&remote.ip()).copied() },
                        kept: false,
                        lost: false,
                        mtu: mtu_to(*remote),
                        usage: None,
                    },
                );
            }
            DataUpdate::Remote { flow, path, remote } => {
                let sendings = self.flows.get_mut(flow).map_or(&mut [][..], Vec::as_mut_slice);
                if let Some(at) = sendings.iter().position(|sending| sending.keys.path() == *path) {
                    let sending = &mut sendings[at];
                    (sending.way.remote, sending.lost, sending.mtu) = (*remote, false, mtu_to(*remote));
                    sending.follow(&self.routes);
                    sendings[..=at].rotate_right(1);
                }
            }
            DataUpdate::Narrow { path } => {
                self.of_each(*path, |sending| sending.mtu = V6_MTU);
            }
            DataUpdate::Routes { to } => {
                for (remote, local) in &**to {
                    match local {
                        Some(local) => drop(self.routes.insert(*remote, *local)),
                        None => drop(self.routes.remove(remote)),
                    }
                }
                self.flows.values_mut().flatten().for_each(|sending| sending.follow(&self.routes));
            }
            DataUpdate::Keep { path, local } => {
                let routes = std::mem::take(&mut self.routes);
                self.of_each(*path, |sending| sending.keep(*local, &routes));
                self.routes = routes;
            }
            DataUpdate::Watch { path, sent, .. } => {
                self.of_each(*path, |sending| sending.usage = Some(sent.clone()));
            }
            DataUpdate::Lose { path } => {
                self.of_each(*path, |sending| sending.lost = true);
            }
            DataUpdate::Forget { path } => {
                for flow in self.paths.remove(path).unwrap_or_default() {
                    if let Some(sendings) = self.flows.get_mut(&flow) {
                        sendings.retain(|sending| sending.keys.path() != *path);
                        if sendings.is_empty() {
                            self.flows.remove(&flow);
                        }
                    }
                }
            }
            DataUpdate::Pause => self.paused = true,
            DataUpdate::Resume => self.paused = false,
            DataUpdate::Receive { .. } | DataUpdate::Switch { .. } | DataUpdate::Translate { .. } => {}
        }
    }

    fn of_each(&mut self, path: PathId, mut change: impl FnMut(&mut Sending)) {
        for flow in self.paths.get(&path).into_iter().flatten() {
            let sendings = self.flows.get_mut(flow).into_iter().flatten();
            sendings.filter(|sending| sending.keys.path() == path).for_each(&mut change);
        }
    }

    /// Whether packets are to wait: take none from the virtual interface until an update says otherwise.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Seals `inner` into `out`: the datagram's length and the way that it takes. Nothing else is placed and not sealed yet.
    pub fn seal(&mut self, inner: &[u8], out: &mut [u8]) -> Result<(usize, Way), NotSent> {
        let room = out.get_mut(HEADER_LEN..HEADER_LEN + inner.len()).ok_or(NotSent::TooLarge)?;
        room.copy_from_slice(inner);
        let (length, &way) = self.place(inner.len(), out)?;
        self.seal_placed(out, std::slice::from_ref(&(0..length)));
        Ok((length, way))
    }

    /// Lays the datagram of the inner packet of `length` bytes that stands in `buffer` from [`HEADER_LEN`] on out around it, to be sealed by
    /// [`seal_placed`](Self::seal_placed): the datagram's length and the way that it takes.
    pub fn place(&mut self, length: usize, buffer: &mut [u8]) -> Result<(usize, &Way), NotSent> {
        let inner = buffer.get(HEADER_LEN..HEADER_LEN + length).ok_or(NotSent::TooLarge)?;
        let flow = Flow::of(inner).map_err(|_| NotSent::Malformed)?;
        let sendings = self.flows.get_mut(&flow).map(Vec::as_mut_slice);
        let Some([sending, ..]) = sendings else { return Err(NotSent::NoPath(flow)) };
        if sending.lost {
            return Err(NotSent::Lost(flow));
        }
        if length > usize::from(sending.mtu) {
            return Err(NotSent::TooBig { mtu: sending.mtu });
        }
        let length = sending.keys.place(sending.next, length, buffer).ok_or(NotSent::TooLarge)?;
        sending.next += 1;
        if let Some(usage) = &sending.usage {
            usage.note();
        }
        match self.placed.last_mut() {
            Some(run) if Arc::ptr_eq(&run.keys, &sending.keys) => run.count += 1,
            _ => self.placed.push(Run { keys: Arc::clone(&sending.keys), count: 1 }),
        }
        Ok((length, &sending.way))
    }

    /// Seals all that was placed: the datagrams stand at `places` of `buffer`, in the order in which they were placed.
    pub fn seal_placed(&mut self, buffer: &mut [u8], places: &[Range<usize>]) {
        let mut rest = places;
        for run in self.placed.drain(..) {
            let (these, others) = rest.split_at(run.count);
            run.keys.seal_all(buffer, these);
            rest = others;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PATH, ends, flow, keys, packet};
    use super::*;
    use crate::crypto::{SharedKey, Suite, sealed_len};
    use crate::wire::{Header, Role};

    /// Two ends that called each other at once have two paths: each keeps its own keys and address, the one named last is used.
    #[test]
    fn two_paths_of_one_flow_do_not_mix() {
        let mut out = Outbound::default();
        let at = |n: u8| SocketAddr::from(([192, 0, 2, n], 4330));
        let other = PathId([2; 16]);
        let keys = |path| {
            Arc::new(DataKeys::new(&SharedKey::new([1; 32]), path, 0, Suite::Aes128Cbc, Role::Initiator))
        };
        let used = |out: &mut Outbound| {
            let (mut buffer, inner) = ([0; 200], packet(flow(), 20));
            let remote = out.seal(&inner, &mut buffer).ok()?.1.remote;
            let header = Header::parse(&buffer).unwrap();
            Some((PathId(header.id), header.sequence, remote))
        };
        out.apply(&DataUpdate::Send { flow: flow(), remote: at(1), keys: keys(PATH), first: 1 });
        assert_eq!(used(&mut out), Some((PATH, 1, at(1))));
        out.apply(&DataUpdate::Send { flow: flow(), remote: at(2), keys: keys(other), first: 1 });
        assert_eq!(used(&mut out), Some((other, 1, at(2))));
        out.apply(&DataUpdate::Remote { flow: flow(), path: PATH, remote: at(3) });
        assert_eq!(used(&mut out), Some((PATH, 2, at(3))), "its numbers go on");
        out.apply(&DataUpdate::Forget { path: PATH });
        assert_eq!(used(&mut out), Some((other, 2, at(2))));
        out.apply(&DataUpdate::Forget { path: other });
        assert_eq!(used(&mut out), None);
    }

    /// An application is told of a path that is lost, until there is a way again; another path of the same flow is not concerned.
    #[test]
    fn what_is_lost_is_told_until_there_is_a_way_again() {
        let (mut out, _) = ends(0);
        let sent =
            |out: &mut Outbound| out.seal(&packet(flow(), 20), &mut [0; 200]).map(|(_, way)| way.remote);
        let (first, other) = ("192.0.2.1:4330".parse().unwrap(), "192.0.2.9:4330".parse().unwrap());
        assert_eq!(sent(&mut out), Ok(first));
        out.apply(&DataUpdate::Lose { path: PathId([2; 16]) });
        assert_eq!(sent(&mut out), Ok(first), "another path");
        out.apply(&DataUpdate::Lose { path: PATH });
        assert_eq!(sent(&mut out), Err(NotSent::Lost(flow())));
        out.apply(&DataUpdate::Remote { flow: flow(), path: PATH, remote: other });
        assert_eq!(sent(&mut out), Ok(other));
        out.apply(&DataUpdate::Lose { path: PATH });
        out.apply(&DataUpdate::Send {
            flow: flow(),
            remote: first,
            keys: keys(1, Role::Initiator),
            first: 1,
        });
        assert_eq!(sent(&mut out), Ok(first));
    }

    /// What leaves by the address to keep to goes on by its link; what leaves by another follows the routes. Fresh keys keep to nothing.
    #[test]
    fn packets_leave_by_the_known_route_unless_they_keep_to_another() {
        let (mut out, _) = ends(0);
        let by = |last: u8, link| Local { address: [10, 0, 0, last].into(), link };
        let (old, new, other) = (by(1, Some(1)), by(2, Some(2)), by(3, Some(3)));
        let left = |out: &mut Outbound, update: &DataUpdate| {
            out.apply(update);
            out.seal(&packet(flow(), 20), &mut [0; 200]).map(|(_, way)| way.local)
        };
        let remote = |last: u8| SocketAddr::from(([192, 0, 2, last], 4330));
        let routes = |local| DataUpdate::Routes { to: Arc::from([(remote(1).ip(), local)]) };
        let keep = |local: Option<Local>| DataUpdate::Keep { path: PATH, local: local.map(|it| it.address) };
        assert_eq!(left(&mut out, &keep(Some(old))), Ok(Some(by(1, None))), "no route is known");
        assert_eq!(left(&mut out, &keep(None)), Ok(None));
        assert_eq!(left(&mut out, &routes(Some(old))), Ok(Some(old)));
        assert_eq!(left(&mut out, &keep(Some(old))), Ok(Some(old)));
        assert_eq!(left(&mut out, &routes(Some(new))), Ok(Some(old)), "it keeps to it");
        assert_eq!(left(&mut out, &keep(None)), Ok(Some(new)));
        assert_eq!(left(&mut out, &keep(Some(old))), Ok(Some(new)), "it does not leave by that one");
        assert_eq!(left(&mut out, &routes(Some(other))), Ok(Some(other)));
        assert_eq!(left(&mut out, &keep(Some(other))), Ok(Some(other)));
        assert_eq!(left(&mut out, &routes(Some(new))), Ok(Some(other)));
        let fresh =
            DataUpdate::Send { flow: flow(), remote: remote(1), keys: keys(1, Role::Initiator), first: 1 };
        assert_eq!(left(&mut out, &fresh), Ok(Some(new)));
        let elsewhere = DataUpdate::Remote { flow: flow(), path: PATH, remote: remote(9) };
        assert_eq!(left(&mut out, &elsewhere), Ok(None), "no route is known to there");
        assert_eq!(left(&mut out, &routes(None)), Ok(None));
    }

    /// T3.1-d: over IPv6 outside, be it only behind the relay, what would not travel whole is refused, with what would.
    #[test]
    fn over_ipv6_outside_packets_are_shorter() {
        let (mut out, _) = ends(0);
        let longest = |out: &mut Outbound| {
            (1300..=1424).rev().find(|length| out.seal(&packet(flow(), length - 20), &mut [0; 1600]).is_ok())
        };
        let remote =
            |address: &str| DataUpdate::Remote { flow: flow(), path: PATH, remote: address.parse().unwrap() };
        assert_eq!(longest(&mut out), Some(1424));
        out.apply(&DataUpdate::Narrow { path: PATH });
        assert_eq!(longest(&mut out), Some(1392));
        out.apply(&remote("192.0.2.9:4330"));
        assert_eq!(longest(&mut out), Some(1424));
        out.apply(&remote("[2001:db8::9]:4330"));
        assert_eq!(longest(&mut out), Some(1392));
        let refused = out.seal(&packet(flow(), 1393 - 20), &mut [0; 1600]);
        assert_eq!(refused, Err(NotSent::TooBig { mtu: V6_MTU }));
        for suite in [Suite::None, Suite::Aes128Cbc] {
            assert!(40 + 8 + sealed_len(suite, V6_MTU.into()) <= 1500, "it travels whole");
        }
        assert!(
            40 + 8 + sealed_len(Suite::Aes128Cbc, usize::from(V6_MTU) + 16) > 1500,
            "a longer one would not"
        );
    }

    #[test]
    fn what_has_no_path_is_not_sent() {
        let (mut out, _) = ends(0);
        let other = Flow { destination: [198, 18, 0, 3].into(), ..flow() };
        assert_eq!(out.seal(&packet(other, 4), &mut [0; 200]), Err(NotSent::NoPath(other)));
        assert_eq!(out.seal(&packet(flow(), 400), &mut [0; 200]), Err(NotSent::TooLarge));
        assert_eq!(out.seal(&[0x60; 40], &mut [0; 200]), Err(NotSent::Malformed));
        out.apply(&DataUpdate::Forget { path: PATH });
        assert_eq!(out.seal(&packet(flow(), 4), &mut [0; 200]), Err(NotSent::NoPath(flow())));
    }
}
