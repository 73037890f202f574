//! The applications whose queries wait for the terminal's answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use ntm_protocol::terminal::QueryId;

use super::message::Question;

/// How many queries may wait at once; what comes more is answered with SERVFAIL.
const MOST: usize = 1024;

/// What tells a query from its repetition: a client repeats it from the same port, under the same ID.
type Key = (SocketAddr, u16, String);

/// The queries that wait, each with the way back to its client.
#[derive(Debug)]
pub(crate) struct Waiting<W> {
    next: u64,
    waiting: BTreeMap<QueryId, (Key, Question, W)>,
    known: BTreeSet<Key>,
}

/// What becomes of a query.
#[derive(PartialEq, Debug)]
pub(crate) enum Admission<W> {
    /// It is new: the terminal is to be asked.
    New(QueryId),
    /// It waits already, and one answer is enough for both.
    Repeated,
    /// Too many wait.
    Full(Question, W),
}

impl<W> Default for Waiting<W> {
    fn default() -> Self {
        Self { next: 0, waiting: BTreeMap::new(), known: BTreeSet::new() }
    }
}

impl<W> Waiting<W> {
    /// Lets `question` of `client` wait; `way` leads back to it.
    pub(crate) fn admit(&mut self, client: SocketAddr, question: Question, way: W) -> Admission<W> {
        let (id, asked) = question.key();
        let key = (client, id, asked);
        if self.known.contains(&key) {
            return Admission::Repeated;
        }
        if self.waiting.len() >= MOST {
            return Admission::Full(question, way);
        }
        let id = QueryId(self.next);
        self.next += 1;
        self.known.insert(key.clone());
        self.waiting.insert(id, (key, question, way));
        Admission::New(id)
    }

    /// Takes out the query `id`, to be answered.
    pub(crate) fn take(&mut self, id: QueryId) -> Option<(Question, W)> {
        let (key, question, way) = self.waiting.remove(&id)?;
        self.known.remove(&key);
        Some((question, way))
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stub::message::{Asked, read};
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::{Name, RecordType};

    fn question(id: u16, name: &str) -> Question {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));
        match read(&message.to_vec().expect("a message")) {
            Asked::Address(question, _) => question,
            other => panic!("{other:?}"),
        }
    }

    fn client(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_repetition_is_no_second_wish() {
        let mut waiting = Waiting::default();
        let (first, other) = (question(1, "cn.test."), question(1, "gn.test."));
        assert_eq!(waiting.admit(client(1), first.clone(), 'a'), Admission::New(QueryId(0)));
        assert_eq!(waiting.admit(client(1), first.clone(), 'b'), Admission::Repeated);
        assert_eq!(waiting.admit(client(1), other, 'c'), Admission::New(QueryId(1)));
        assert_eq!(waiting.admit(client(2), first.clone(), 'd'), Admission::New(QueryId(2)));
        assert_eq!(waiting.admit(client(1), question(2, "cn.test."), 'e'), Admission::New(QueryId(3)));
        assert_eq!(waiting.take(QueryId(0)), Some((first.clone(), 'a')));
        assert_eq!(waiting.take(QueryId(0)), None, "it is answered once");
        assert_eq!(
            waiting.admit(client(1), first, 'f'),
            Admission::New(QueryId(4)),
            "it was answered before"
        );
        assert_eq!(waiting.len(), 4);
    }

    #[test]
    fn there_is_a_most() {
        let mut waiting = Waiting::default();
        for port in 0..MOST as u16 {
            assert!(matches!(waiting.admit(client(port), question(1, "cn.test."), ()), Admission::New(_)));
        }
        let more = question(1, "cn.test.");
        assert_eq!(waiting.admit(client(40_000), more.clone(), ()), Admission::Full(more.clone(), ()));
        waiting.take(QueryId(5));
        assert!(matches!(waiting.admit(client(40_000), more, ()), Admission::New(_)));
    }
}
