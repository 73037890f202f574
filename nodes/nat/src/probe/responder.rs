//! The outside's part: a STUN server of two addresses and two ports (RFC 5780, section 6).

use std::net::{Ipv4Addr, SocketAddrV4};

use super::stun::{Body, Message, Request, Response};

/// One of a responder's four sockets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    /// On the second address.
    pub second_address: bool,
    /// On the second port.
    pub second_port: bool,
}

/// The first address with the first port.
pub const X1: Place = Place { second_address: false, second_port: false };
/// The first address with the second port.
pub const X2: Place = Place { second_address: false, second_port: true };
/// The second address with the first port.
pub const Y1: Place = Place { second_address: true, second_port: false };
/// The second address with the second port.
pub const Y2: Place = Place { second_address: true, second_port: true };

/// A responder. It remembers nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Responder {
    /// Its two addresses.
    pub addresses: [Ipv4Addr; 2],
    /// Its two ports.
    pub ports: [u16; 2],
}

/// A datagram that a responder sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// From which of its sockets.
    pub from: Place,
    /// Where to.
    pub to: SocketAddrV4,
    /// What.
    pub bytes: Vec<u8>,
}

impl Responder {
    /// Its sockets.
    pub const PLACES: [Place; 4] = [X1, X2, Y1, Y2];

    /// The address and port of a socket.
    pub fn at(&self, place: Place) -> SocketAddrV4 {
        let address = self.addresses[usize::from(place.second_address)];
        SocketAddrV4::new(address, self.ports[usize::from(place.second_port)])
    }

    /// The answer to what came to the socket `at` from `source`; `None` if it was no request.
    pub fn handle(&self, at: Place, source: SocketAddrV4, bytes: &[u8]) -> Option<Answer> {
        let Ok(Message { id, body: Body::Request(request) }) = Message::parse(bytes) else { return None };
        let Request { change_address, change_port, response_port } = request;
        let from = Place {
            second_address: at.second_address != change_address,
            second_port: at.second_port != change_port,
        };
        let to = SocketAddrV4::new(*source.ip(), response_port.unwrap_or(source.port()));
        let other = self.at(Place { second_address: !at.second_address, second_port: !at.second_port });
        let response = Response { mapped: source, origin: self.at(from), other };
        Some(Answer { from, to, bytes: Message { id, body: Body::Response(response) }.emit() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_answers_from_where_and_to_where_it_is_asked() {
        let responder =
            Responder { addresses: [[192, 0, 2, 1].into(), [192, 0, 2, 2].into()], ports: [3478, 3479] };
        let source: SocketAddrV4 = "203.0.113.1:4000".parse().unwrap();
        let ask = |at, request| {
            let bytes = Message { id: [7; 12], body: Body::Request(request) }.emit();
            let answer = responder.handle(at, source, &bytes).unwrap();
            let Body::Response(response) = Message::parse(&answer.bytes).unwrap().body else { panic!() };
            assert_eq!((response.mapped, response.origin), (source, responder.at(answer.from)));
            (answer.from, answer.to.to_string(), response.other.to_string())
        };
        let plain = Request::default();
        assert_eq!(ask(X1, plain), (X1, "203.0.113.1:4000".into(), "192.0.2.2:3479".into()));
        assert_eq!(ask(Y2, Request { change_port: true, ..plain }).0, Y1);
        assert_eq!(ask(X2, Request { change_address: true, ..plain }).0, Y2);
        let elsewhere = Request { response_port: Some(5), ..plain };
        assert_eq!(ask(Y1, elsewhere), (Y1, "203.0.113.1:5".into(), "192.0.2.1:3479".into()));

        let answer =
            responder.handle(X1, source, &Message { id: [7; 12], body: Body::Request(plain) }.emit());
        assert_eq!(responder.handle(X1, source, &answer.unwrap().bytes), None, "an answer is not answered");
        assert_eq!(responder.handle(X1, source, b"hello"), None);
    }
}
