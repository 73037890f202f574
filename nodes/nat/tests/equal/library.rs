//! The NAT of the library, in virtual time.

use std::net::SocketAddr;
use std::time::Duration;

use ntm_nat::{Behaviour, Flow, Protocol, Segment, Side, Translated, Translator};
use ntm_protocol::time::Instant;

use crate::world::{Host, NAT};
use crate::{End, Nat};

pub(crate) struct Library {
    nat: Translator,
    protocol: Protocol,
    now: Instant,
}

impl Library {
    pub(crate) fn new(behaviour: Behaviour, protocol: Protocol) -> Self {
        let nat = Translator::new(behaviour, NAT.into(), &[], [3; 32]).expect("a NAT");
        Self { nat, protocol, now: Instant::ZERO }
    }

    fn flow(&self, source: SocketAddr, destination: SocketAddr, segment: Segment) -> Flow {
        Flow { protocol: self.protocol, source, destination, segment }
    }

    fn is_tcp(&self) -> bool {
        self.protocol == Protocol::Tcp
    }
}

/// The host inside at that address.
fn inner(end: SocketAddr) -> End {
    let host = [Host::A, Host::B].into_iter().find(|host| host.at(0).ip() == end.ip());
    (host.expect("a host inside"), end.port())
}

impl Nat for Library {
    fn out(&mut self, (host, port): End, (peer, at): End) -> SocketAddr {
        let (from, to) = (host.at(port), peer.at(at));
        let sent = self.nat.outbound(self.flow(from, to, Segment::Open), self.now).expect("it passes");
        let Translated { flow, to: side } = sent;
        assert_eq!(side, Side::Outside);
        if self.is_tcp() {
            let answer = self.flow(to, flow.source, Segment::Open);
            assert_eq!(self.nat.inbound(answer, self.now).expect("an answer").flow.destination, from);
            self.nat.outbound(self.flow(from, to, Segment::Data), self.now).expect("it passes");
        }
        flow.source
    }

    fn into(&mut self, (peer, at): End, outer: SocketAddr) -> Option<End> {
        let from = peer.at(at);
        let got = self.nat.inbound(self.flow(from, outer, Segment::Open), self.now).ok()?.flow.destination;
        if self.is_tcp() {
            let answer = self.nat.outbound(self.flow(got, from, Segment::Open), self.now).expect("an answer");
            assert_eq!(answer.flow.source, outer, "the answer's source");
            self.nat.inbound(self.flow(from, outer, Segment::Data), self.now).expect("it passes");
        }
        Some(inner(got))
    }

    fn turn(&mut self, (host, port): End, outer: SocketAddr) -> Option<(End, SocketAddr)> {
        let from = host.at(port);
        let turned = self.nat.outbound(self.flow(from, outer, Segment::Open), self.now).ok()?;
        assert_eq!(turned.to, Side::Inside);
        let (seen, got) = (turned.flow.source, turned.flow.destination);
        if self.is_tcp() {
            let answer = self.nat.outbound(self.flow(got, seen, Segment::Open), self.now).expect("an answer");
            assert_eq!((answer.flow.source, answer.flow.destination), (outer, from));
            self.nat.outbound(self.flow(from, outer, Segment::Data), self.now).expect("it passes");
        }
        Some((inner(got), seen))
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }
}
