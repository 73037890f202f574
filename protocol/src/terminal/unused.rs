//! Paths that ended because nobody used them, so that they can come back.
//!
//! An application may hold a connection that is silent for longer than a path lives. Its next packet finds no path; from what is kept
//! here the terminal asks for the same one again: with the same Path ID, and over an RS-N through the same relay, so that the general node
//! sees who it saw (T4.2.5-b).

use std::collections::VecDeque;

use crate::addr::{Fqdn, PathId, Vip};
use crate::wire::Renewal;

/// How many are kept; the oldest makes room, and costs a new path.
const KEPT: usize = 256;

/// A path that ended.
pub(super) struct Ended {
    /// The name that the path was directed by, first, and others that it was asked for by.
    pub(super) names: Vec<Fqdn>,
    /// What a Direction Request says of it.
    pub(super) renewal: Renewal,
}

/// Those that ended.
#[derive(Default)]
pub(super) struct Unused(VecDeque<Ended>);

impl Unused {
    /// Keeps `ended`.
    pub(super) fn keep(&mut self, ended: Ended) {
        self.take(ended.renewal.peer_vip);
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back(ended);
    }

    /// The path that was directed by `name`, or asked for by it.
    pub(super) fn called(&self, name: &Fqdn) -> Option<&Ended> {
        self.0.iter().find(|ended| ended.names.contains(name))
    }

    /// The name to ask for the path to `peer` by.
    pub(super) fn name_of(&self, peer: Vip) -> Option<&Fqdn> {
        self.0.iter().find(|ended| ended.renewal.peer_vip == peer)?.names.first()
    }

    /// Takes out the path called `id`.
    pub(super) fn take_path(&mut self, id: PathId) -> Option<Ended> {
        let at = self.0.iter().position(|ended| ended.renewal.path == id)?;
        self.0.remove(at)
    }

    /// Takes out the path to `peer`.
    pub(super) fn take(&mut self, peer: Vip) -> Option<Ended> {
        let at = self.0.iter().position(|ended| ended.renewal.peer_vip == peer)?;
        self.0.remove(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Epoch, Role};

    fn ended(n: u16) -> Ended {
        let [high, low] = n.to_be_bytes();
        let renewal = Renewal {
            path: PathId([low; 16]),
            role: Role::Initiator,
            epoch: Epoch::new(0),
            peer_vip: Vip([198, 18, high, low].into()),
            keep_relay: None,
        };
        let names = ["a", "b"].map(|label| format!("{label}{n}.test").parse().unwrap()).to_vec();
        Ended { names, renewal }
    }

    #[test]
    fn one_for_each_peer_and_the_newest_are_kept() {
        let mut unused = Unused::default();
        (0..300).for_each(|n| unused.keep(ended(n)));
        (290..300).for_each(|n| unused.keep(ended(n)));
        assert_eq!(unused.0.len(), KEPT);
        let (old, new) = (ended(0).renewal.peer_vip, ended(299).renewal.peer_vip);
        assert_eq!((unused.name_of(old), unused.name_of(new)), (None, Some(&ended(299).names[0])));
        assert!(unused.called(&ended(299).names[1]).is_some());
        assert!(unused.take(new).is_some() && unused.take(new).is_none());
        assert!(unused.called(&ended(299).names[1]).is_none());
    }
}
