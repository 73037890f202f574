//! The system's routes to where packets go, as of the last word of the network that the role machine has.
//!
//! A system sends by a new network from the moment that its route is there. The machine hears of it a moment later, and only then decides which way
//! packets take. In between they are to leave by the network that their path stands in: what a NAT knows nothing of yet it lets not in.
//! So the shell asks for a route when a path comes to lead to an address, and for all of them whenever the machine has heard of a change, and the
//! table sends by these.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use foldhash::fast::FixedState;

use crate::addr::PathId;

use super::{DataUpdate, Local};

/// Which routes are known, and for which paths. It asks nothing itself: it says what is to be asked.
#[derive(Debug, Default)]
pub struct Routes {
    /// Where each path leads.
    paths: HashMap<PathId, IpAddr, FixedState>,
    /// The route to each such address.
    known: HashMap<IpAddr, Route, FixedState>,
}

#[derive(Debug)]
struct Route {
    /// How many paths lead there.
    paths: usize,
    local: Option<Local>,
}

impl Routes {
    /// Takes note of `update` before the table has it: the address to which a route must be known first, if none is.
    pub fn wanted(&mut self, update: &DataUpdate) -> Option<IpAddr> {
        let (path, remote) = match update {
            DataUpdate::Send { remote, keys, .. } => (keys.path(), remote.ip()),
            DataUpdate::Remote { path, remote, .. } => (*path, remote.ip()),
            DataUpdate::Forget { path } => {
                if let Some(old) = self.paths.remove(path) {
                    self.leave(old);
                }
                return None;
            }
            _ => return None,
        };
        let old = self.paths.insert(path, remote);
        if old == Some(remote) {
            return None;
        }
        let route = self.known.entry(remote);
        let wanted = matches!(route, Entry::Vacant(_)).then_some(remote);
        route.or_insert(Route { paths: 0, local: None }).paths += 1;
        if let Some(old) = old {
            self.leave(old);
        }
        wanted
    }

    fn leave(&mut self, remote: IpAddr) {
        if let Entry::Occupied(mut route) = self.known.entry(remote) {
            route.get_mut().paths -= 1;
            if route.get().paths == 0 {
                route.remove();
            }
        }
    }

    /// The addresses that paths lead to.
    pub fn remotes(&self) -> impl Iterator<Item = IpAddr> {
        self.known.keys().copied()
    }

    /// Takes the system's answers, none where no route leads: what the table is to know of them, if anything is new.
    pub fn learn(
        &mut self,
        answers: impl IntoIterator<Item = (IpAddr, Option<Local>)>,
    ) -> Option<DataUpdate> {
        let mut to = Vec::new();
        for (remote, local) in answers {
            if let Some(route) = self.known.get_mut(&remote).filter(|route| route.local != local) {
                route.local = local;
                to.push((remote, local));
            }
        }
        (!to.is_empty()).then(|| DataUpdate::Routes { to: to.into() })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::tests::{PATH, flow, keys};
    use super::*;
    use crate::wire::Role;

    const FIRST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const SECOND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn send(remote: IpAddr) -> DataUpdate {
        let keys = keys(1, Role::Initiator);
        DataUpdate::Send { flow: flow(), remote: SocketAddr::new(remote, 4330), keys, first: 1 }
    }

    fn remote(path: PathId, remote: IpAddr) -> DataUpdate {
        DataUpdate::Remote { flow: flow(), path, remote: SocketAddr::new(remote, 4330) }
    }

    #[test]
    fn a_route_is_wanted_once_and_known_as_long_as_a_path_leads_there() {
        let mut routes = Routes::default();
        let other = PathId([2; 16]);
        assert_eq!(routes.wanted(&send(FIRST)), Some(FIRST));
        assert_eq!(routes.wanted(&send(FIRST)), None, "fresh keys, the same way");
        assert_eq!(routes.wanted(&remote(other, FIRST)), None);
        assert_eq!(routes.wanted(&remote(PATH, SECOND)), Some(SECOND));
        let mut known: Vec<_> = routes.remotes().collect();
        known.sort_unstable();
        assert_eq!(known, [FIRST, SECOND]);
        assert_eq!(routes.wanted(&DataUpdate::Forget { path: other }), None);
        assert_eq!(routes.remotes().collect::<Vec<_>>(), [SECOND]);
        assert_eq!(routes.wanted(&DataUpdate::Forget { path: PATH }), None);
        assert_eq!(routes.remotes().count(), 0);
        assert_eq!(routes.wanted(&DataUpdate::Forget { path: PATH }), None);
        assert_eq!(routes.wanted(&send(FIRST)), Some(FIRST), "asked anew");
    }

    #[test]
    fn the_table_is_told_what_is_new() {
        let mut routes = Routes::default();
        routes.wanted(&send(FIRST));
        let local = Some(Local { address: [10, 0, 0, 2].into(), link: Some(3) });
        let told = |update: Option<DataUpdate>| match update {
            Some(DataUpdate::Routes { to }) => to.to_vec(),
            None => vec![],
            Some(other) => panic!("{other:?}"),
        };
        assert_eq!(told(routes.learn([(FIRST, local), (SECOND, local)])), [(FIRST, local)]);
        assert_eq!(told(routes.learn([(FIRST, local)])), []);
        assert_eq!(told(routes.learn([(FIRST, None)])), [(FIRST, None)]);
    }
}
