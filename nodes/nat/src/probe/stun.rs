//! As much of STUN's wire format as a probe needs (RFC 5389, with RFC 5780's attributes): Binding Requests and their answers, over IPv4,
//! without authentication.

use std::net::{Ipv4Addr, SocketAddrV4};

use thiserror::Error;

/// What relates an answer to its question.
pub type TransactionId = [u8; 12];

/// A STUN message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    /// Chosen by who asks.
    pub id: TransactionId,
    /// What it says.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Body {
    /// A Binding Request.
    Request(Request),
    /// A Binding Success Response.
    Response(Response),
}

/// "How do you see me, and answer in this way."
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Request {
    /// Answer from the other address (CHANGE-REQUEST, RFC 5780, section 7.2).
    pub change_address: bool,
    /// Answer from the other port (the same).
    pub change_port: bool,
    /// Answer to this port of the address that you see (RESPONSE-PORT, section 7.5).
    pub response_port: Option<u16>,
}

/// "I see you so."
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Response {
    /// The source of the request (XOR-MAPPED-ADDRESS).
    pub mapped: SocketAddrV4,
    /// Where this is sent from (RESPONSE-ORIGIN, RFC 5780, section 7.3).
    pub origin: SocketAddrV4,
    /// The responder's other address with its other port (OTHER-ADDRESS, section 7.4).
    pub other: SocketAddrV4,
}

/// Bytes that are no such message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Malformed {
    /// Shorter than its header, or than its attributes say; or longer.
    #[error("its length is wrong")]
    Length,
    /// The first bits or the magic cookie are not STUN's.
    #[error("it is not STUN")]
    NotStun,
    /// A method or class that a probe has no use for.
    #[error("its type {0:#06x} is not known")]
    Type(u16),
    /// An attribute that must be understood and is not.
    #[error("the attribute {0:#06x} is not known")]
    Unknown(u16),
    /// An attribute whose value is none.
    #[error("the value of the attribute {0:#06x} is wrong")]
    Value(u16),
    /// An answer without an attribute that it needs.
    #[error("it lacks the attribute {0:#06x}")]
    Lacks(u16),
}

const HEADER: usize = 20;
const COOKIE: [u8; 4] = 0x2112_a442_u32.to_be_bytes();

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;

const CHANGE_REQUEST: u16 = 0x0003;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const RESPONSE_PORT: u16 = 0x0027;
const RESPONSE_ORIGIN: u16 = 0x802b;
const OTHER_ADDRESS: u16 = 0x802c;
/// Attributes from here on may be skipped by who does not know them.
const OPTIONAL: u16 = 0x8000;

const CHANGE_ADDRESS_FLAG: u8 = 0x04;
const CHANGE_PORT_FLAG: u8 = 0x02;

impl Message {
    /// The message as a datagram.
    pub fn emit(&self) -> Vec<u8> {
        let mut attributes = Vec::new();
        let mut put = |kind: u16, value: [u8; 4], more: &[u8]| {
            attributes.extend(kind.to_be_bytes());
            attributes.extend((4 + more.len() as u16).to_be_bytes());
            attributes.extend(value);
            attributes.extend(more);
        };
        let kind = match self.body {
            Body::Request(request) => {
                if request.change_address || request.change_port {
                    let address = if request.change_address { CHANGE_ADDRESS_FLAG } else { 0 };
                    let port = if request.change_port { CHANGE_PORT_FLAG } else { 0 };
                    put(CHANGE_REQUEST, [0, 0, 0, address | port], &[]);
                }
                if let Some(port) = request.response_port {
                    let [high, low] = port.to_be_bytes();
                    put(RESPONSE_PORT, [high, low, 0, 0], &[]);
                }
                BINDING_REQUEST
            }
            Body::Response(response) => {
                for (kind, address) in [
                    (XOR_MAPPED_ADDRESS, masked(response.mapped)),
                    (RESPONSE_ORIGIN, response.origin),
                    (OTHER_ADDRESS, response.other),
                ] {
                    let [high, low] = address.port().to_be_bytes();
                    put(kind, [0, IPV4, high, low], &address.ip().octets());
                }
                BINDING_SUCCESS
            }
        };
        let mut bytes = Vec::with_capacity(HEADER + attributes.len());
        bytes.extend(kind.to_be_bytes());
        bytes.extend((attributes.len() as u16).to_be_bytes());
        bytes.extend(COOKIE);
        bytes.extend(self.id);
        bytes.extend(attributes);
        bytes
    }

    /// Reads a datagram; what is wrong is said.
    pub fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let (header, mut rest) = bytes.split_at_checked(HEADER).ok_or(Malformed::Length)?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        if header[0] & 0xc0 != 0 || header[4..8] != COOKIE {
            return Err(Malformed::NotStun);
        }
        if usize::from(word(2)) != rest.len() || !rest.len().is_multiple_of(4) {
            return Err(Malformed::Length);
        }
        let mut id = TransactionId::default();
        id.copy_from_slice(&header[8..]);

        let mut request = Request::default();
        let (mut mapped, mut origin, mut other) = (None, None, None);
        while let Some((head, tail)) = rest.split_first_chunk::<4>() {
            let kind = u16::from_be_bytes([head[0], head[1]]);
            let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
            let (padded, after) =
                tail.split_at_checked(length.next_multiple_of(4)).ok_or(Malformed::Length)?;
            let value = &padded[..length];
            match (kind, value) {
                (CHANGE_REQUEST, [0, 0, 0, flags]) => {
                    request.change_address = flags & CHANGE_ADDRESS_FLAG != 0;
                    request.change_port = flags & CHANGE_PORT_FLAG != 0;
                }
                (RESPONSE_PORT, [high, low, _, _]) => {
                    request.response_port = Some(u16::from_be_bytes([*high, *low]));
                }
                (XOR_MAPPED_ADDRESS, value) => mapped = Some(masked(address(kind, value)?)),
                (RESPONSE_ORIGIN, value) => origin = Some(address(kind, value)?),
                (OTHER_ADDRESS, value) => other = Some(address(kind, value)?),
                (CHANGE_REQUEST | RESPONSE_PORT, _) => return Err(Malformed::Value(kind)),
                (kind, _) if kind < OPTIONAL => return Err(Malformed::Unknown(kind)),
                _ => {}
            }
            rest = after;
        }
        let body = match word(0) {
            BINDING_REQUEST => Body::Request(request),
            BINDING_SUCCESS => Body::Response(Response {
                mapped: mapped.ok_or(Malformed::Lacks(XOR_MAPPED_ADDRESS))?,
                origin: origin.ok_or(Malformed::Lacks(RESPONSE_ORIGIN))?,
                other: other.ok_or(Malformed::Lacks(OTHER_ADDRESS))?,
            }),
            kind => return Err(Malformed::Type(kind)),
        };
        Ok(Self { id, body })
    }
}

/// The address family of an attribute's address.
const IPV4: u8 = 1;

fn address(kind: u16, value: &[u8]) -> Result<SocketAddrV4, Malformed> {
    match *value {
        [_, IPV4, high, low, a, b, c, d] => {
            Ok(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])))
        }
        _ => Err(Malformed::Value(kind)),
    }
}

/// An address with the magic cookie laid over it, and back: some NATs rewrite addresses that they find in packets.
fn masked(address: SocketAddrV4) -> SocketAddrV4 {
    let cookie = u32::from_be_bytes(COOKIE);
    let port = address.port() ^ u16::from_be_bytes([COOKIE[0], COOKIE[1]]);
    SocketAddrV4::new(Ipv4Addr::from_bits(address.ip().to_bits() ^ cookie), port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ID: TransactionId = *b"twelve bytes";

    fn request(request: Request) -> Message {
        Message { id: ID, body: Body::Request(request) }
    }

    /// The bytes as RFC 5389, section 6, and RFC 5780, section 7, lay them out.
    #[test]
    fn a_request_is_laid_out_as_the_rfcs_say() {
        let all = Request { change_address: true, change_port: true, response_port: Some(0x1234) };
        let expected = [
            &[0x00, 0x01, 0x00, 0x10, 0x21, 0x12, 0xa4, 0x42][..],
            &ID,
            &[0x00, 0x03, 0x00, 0x04, 0, 0, 0, 0x06],
            &[0x00, 0x27, 0x00, 0x04, 0x12, 0x34, 0, 0],
        ]
        .concat();
        assert_eq!(request(all).emit(), expected);
        assert_eq!(Message::parse(&expected), Ok(request(all)));
    }

    /// The mapped address of RFC 5769, section 2.2: 192.0.2.1 port 32853.
    #[test]
    fn the_mapped_address_of_rfc_5769_is_read() {
        let attribute = [0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        let mapped = "192.0.2.1:32853".parse().unwrap();
        let response = Response {
            mapped,
            origin: "192.0.2.9:3478".parse().unwrap(),
            other: "192.0.2.10:3479".parse().unwrap(),
        };
        let bytes = Message { id: ID, body: Body::Response(response) }.emit();
        assert_eq!(bytes[HEADER..HEADER + attribute.len()], attribute);
        assert_eq!(Message::parse(&bytes).unwrap().body, Body::Response(response));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let good = request(Request { change_port: true, ..Request::default() }).emit();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Message::parse(&bytes)
        };
        assert_eq!(Message::parse(&good[..19]), Err(Malformed::Length));
        assert_eq!(Message::parse(&good[..good.len() - 1]), Err(Malformed::Length));
        assert_eq!(Message::parse(&[&good[..], &[0]].concat()), Err(Malformed::Length));
        assert_eq!(with(0, 0x80), Err(Malformed::NotStun));
        assert_eq!(with(4, 0), Err(Malformed::NotStun));
        assert_eq!(with(1, 0x03), Err(Malformed::Type(0x0003)));
        assert_eq!(with(21, 0x08), Err(Malformed::Unknown(0x0008)));
        assert_eq!(with(23, 0x05), Err(Malformed::Length));
        assert_eq!(with(23, 0x03), Err(Malformed::Value(0x0003)));
        assert_eq!(with(0, 0x01), Err(Malformed::Lacks(0x0020)), "an answer that says nothing");
        assert!(with(20, 0x80).is_ok(), "what may be skipped is");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Message::parse(&bytes);
            // And with a header that is right.
            if bytes.len() >= HEADER {
                let length = (bytes.len() - HEADER) as u16;
                bytes[..2].copy_from_slice(&[0x01, 0x01]);
                bytes[2..4].copy_from_slice(&length.to_be_bytes());
                bytes[4..8].copy_from_slice(&COOKIE);
                let _ = Message::parse(&bytes);
            }
        }

        #[test]
        fn what_is_written_reads_back(flags in any::<(bool, bool)>(), port in any::<Option<u16>>(), ends in any::<[(u32, u16); 3]>()) {
            let asked = request(Request { change_address: flags.0, change_port: flags.1, response_port: port });
            prop_assert_eq!(Message::parse(&asked.emit()), Ok(asked));
            let [mapped, origin, other] = ends.map(|(ip, port)| SocketAddrV4::new(Ipv4Addr::from_bits(ip), port));
            let answer = Message { id: ID, body: Body::Response(Response { mapped, origin, other }) };
            prop_assert_eq!(Message::parse(&answer.emit()), Ok(answer));
        }
    }
}
