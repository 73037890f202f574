//! Applications' queries: each becomes a Direction Request (T3.2.2-a), and is answered when the tunnel stands (T3.2.3-b), or with an error.

use super::path::Path;
use super::unused::Ended;
use super::{Event, Terminal};
use crate::addr::{Fqdn, PathId, Vip};
use crate::data::Flow;
use crate::observe::What;
use crate::session::Expired;
use crate::time::Instant;
use crate::wire::{DirectionRequest, DnsError, Kind, RequestId};

/// Names an application's query, until it is answered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct QueryId(pub u64);

/// An application's wish for a name.
#[derive(Default)]
pub(super) struct Wish {
    queries: Vec<QueryId>,
    /// The path that it waits for.
    pub(super) path: Option<PathId>,
    /// Whether that was directed for it; else it was there before.
    pub(super) directed: bool,
}

impl Wish {
    /// Whether another path is asked for where the one that it waits for ends.
    pub(super) fn is_served_anew(&self) -> bool {
        !self.directed && !self.queries.is_empty()
    }
}

/// What a Direction Request under way is for.
#[derive(PartialEq)]
pub(super) enum Errand {
    /// For applications that wait.
    Name(Fqdn),
    /// For a path that is to be directed anew.
    Renewal(PathId),
}

impl Terminal {
    /// An application asks for the address of `name`.
    pub fn handle_query(&mut self, query: QueryId, name: Fqdn, now: Instant) {
        self.mail.journal.note(now, What::Query { name: name.clone() });
        if name == self.fqdn
            && let Some(vip) = self.vip
        {
            return self.answer(query, &name, Ok(vip), now);
        }
        self.impatience.set(query, now + self.patience);
        self.wishes.entry(name.clone()).or_default().queries.push(query);
        self.serve(name, now);
    }

    /// Serves who waits for `name`: by a path that stands, else by one that is being built or mended, else by one that is asked for.
    pub(super) fn serve(&mut self, name: Fqdn, now: Instant) {
        let known = self.paths.values().filter(|path| path.is_called(&name)).max_by_key(|path| path.stands());
        let path = match known {
            Some(path) if path.stands() => {
                let vip = path.peer_vip;
                return self.answer_all(&name, Ok(vip), now);
            }
            // One that is lost serves nobody any more.
            known => known.filter(|path| !path.is_lost()).map(|path| path.id),
        };
        let Some(wish) = self.wishes.get_mut(&name) else { return };
        wish.path = path.or(wish.path);
        if wish.path.is_none() && self.is_registered() {
            self.request(Errand::Name(name), now);
        }
    }

    /// An application's packet found no path. Where one ended because nobody used it, the terminal asks for it again.
    pub fn handle_no_path(&mut self, flow: Flow, now: Instant) {
        if self.vip.is_none_or(|vip| vip.0 != flow.source) {
            return;
        }
        if let Some(name) = self.unused.name_of(Vip(flow.destination)).cloned() {
            self.bring_back(name, now);
        }
    }

    /// Asks for the path that ended and was called `name`, though no application waits for the name.
    pub(super) fn bring_back(&mut self, name: Fqdn, now: Instant) {
        // One that is under way is waited for.
        if !self.wishes.contains_key(&name) {
            self.wishes.insert(name.clone(), Wish::default());
            if self.is_registered() {
                self.request(Errand::Name(name), now);
            }
        }
    }

    fn answer(&mut self, query: QueryId, name: &Fqdn, answer: Result<Vip, DnsError>, now: Instant) {
        self.impatience.clear(query);
        let (vip, error) = (answer.ok(), answer.err());
        self.mail.journal.note(now, What::Answer { name: name.clone(), vip, error });
        self.events.push_back(Event::Answer { query, answer });
    }

    /// Answers everybody who waits for `path`.
    pub(super) fn answer_path(&mut self, path: PathId, answer: Result<Vip, DnsError>, now: Instant) {
        let waiting = self.wishes.iter().filter(|(_, wish)| wish.path == Some(path));
        let names: Vec<Fqdn> = waiting.map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| self.answer_all(name, answer, now));
    }

    pub(super) fn answer_all(&mut self, name: &Fqdn, answer: Result<Vip, DnsError>, now: Instant) {
        for query in self.wishes.remove(name).map(|wish| wish.queries).unwrap_or_default() {
            self.answer(query, name, answer, now);
        }
    }

    /// Sends a Direction Request (T3.2.2-a), for a name or to direct a path anew (T4.1.4-a, T4.2.5-a). One that is under way is not
    /// sent beside it, for that would lead to two paths: it is repeated at once.
    pub(super) fn request(&mut self, errand: Errand, now: Instant) {
        if self.recalls && matches!(errand, Errand::Name(_)) {
            return;
        }
        let under_way = self.requests.iter().find(|(_, (known, _))| *known == errand).map(|(id, _)| id);
        if let Some(id) = under_way {
            return self.requests.hasten(id, now);
        }
        let (fqdn, renewal, avoid) = match &errand {
            Errand::Name(name) => match self.unused.called(name) {
                Some(Ended { names, renewal }) => (names[0].clone(), Some(renewal.clone()), None),
                None => {
                    let lost = self.paths.values().find(|path| path.is_called(name) && path.is_lost());
                    (name.clone(), None, lost.and_then(Path::silent_relay))
                }
            },
            Errand::Renewal(path) => {
                let Some(path) = self.paths.get(path) else { return };
                (path.peer.clone(), Some(path.renewal()), path.silent_relay())
            }
        };
        let request = DirectionRequest { request: self.mail.request_id(), fqdn, renewal, avoid };
        let (id, message) = (request.request, request.clone().into());
        self.registrar.tell(&message, 1, now, &mut self.mail);
        // The answer takes the round trips of a whole sequence, not of one message.
        self.requests.sent(id, (errand, request), now, self.registrar.rtt.timeout() * 4);
    }

    pub(super) fn undirected(&mut self, errand: Errand, error: DnsError, now: Instant) {
        self.resume();
        match errand {
            Errand::Name(name) => {
                // The path of before may be what cannot be had: its relay may be gone.
                let before = self.unused.called(&name).map(|ended| ended.renewal.peer_vip);
                match before.and_then(|peer| self.unused.take(peer)) {
                    Some(_) if self.wishes.contains_key(&name) => self.request(Errand::Name(name), now),
                    _ => self.answer_all(&name, Err(error), now),
                }
            }
            // The path may still carry traffic, and the cause may pass.
            Errand::Renewal(path) => {
                self.renewals.set(path, now + self.pace().keep_alive);
                self.recalled(now);
            }
        }
    }

    /// Whether paths are being directed anew.
    pub(super) fn is_renewing(&self) -> bool {
        self.requests.iter().any(|(_, (errand, _))| matches!(errand, Errand::Renewal(_)))
    }

    /// A path was directed anew, or cannot be. Once that is so of all, names are asked for again.
    pub(super) fn recalled(&mut self, now: Instant) {
        if !self.recalls || self.is_renewing() {
            return;
        }
        self.recalls = false;
        let waiting = self.wishes.iter().filter(|(_, wish)| wish.path.is_none());
        let names: Vec<Fqdn> = waiting.map(|(name, _)| name.clone()).collect();
        names.into_iter().for_each(|name| self.serve(name, now));
    }

    /// Repeats Direction Requests that got no answer, and gives them up.
    pub(super) fn ask_again(&mut self, now: Instant) {
        while let Some(expired) = self.requests.expired(now) {
            match expired {
                Expired::Repeat { id, attempt } => self.repeat(id, attempt, now),
                Expired::GaveUp(_, (errand, _)) => {
                    if let Some(to) = self.registrar.coordinator() {
                        self.mail.journal.note(now, What::GaveUp { message: Kind::DirectionRequest, to });
                    }
                    self.undirected(errand, DnsError::ServFail, now);
                }
            }
        }
    }

    fn repeat(&mut self, id: RequestId, attempt: u32, now: Instant) {
        let Some((_, request)) = self.requests.get(id) else { return };
        self.registrar.tell(&request.clone().into(), attempt, now, &mut self.mail);
    }

    /// Answers queries that waited for as long as they may.
    pub(super) fn lose_patience(&mut self, now: Instant) {
        while let Some(query) = self.impatience.due(now) {
            let name = self.wishes.iter_mut().find_map(|(name, wish)| {
                let at = wish.queries.iter().position(|waiting| *waiting == query)?;
                wish.queries.remove(at);
                Some(name.clone())
            });
            if let Some(name) = name {
                if self.wishes.get(&name).is_some_and(|wish| wish.queries.is_empty()) {
                    self.wishes.remove(&name);
                }
                self.answer(query, &name, Err(DnsError::ServFail), now);
            }
        }
    }
}
