//! The messages, as typed values. `wireshark/ntmobile.lua` reads them too; `harness/tests/dissector.rs` holds the two together.
//!
//! A request carries a [`RequestId`] that stays the same when it is repeated; its answer echoes it. Each sending has a sequence number
//! of its own, so a repeated request is new to the replay window and known to the handler.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::codec::{wire_enum, wire_struct};
use super::{Codec, Fields, Kind, List, Reader, Reason, Refusal, Show, Shown, Writer};
use crate::addr::{Fqdn, NodeId, PathId, Vip, VipRange};
use crate::crypto::{SharedKey, Suite};

/// The most real addresses a node reports.
pub const MAX_ADDRESSES: usize = 8;
/// The most relays a DC names to a terminal.
pub const MAX_RELAYS: usize = 16;
/// Real addresses with ports, bounded.
pub type Addresses = List<SocketAddr, MAX_ADDRESSES>;

/// Names a request over all its repetitions; unique per sender, so that an answer proves to be fresh.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

impl Codec for RequestId {
    fn encode(&self, to: &mut Writer) {
        self.0.encode(to);
    }

    fn decode(from: &mut Reader<'_>, field: &'static str) -> Result<Self, Refusal> {
        u64::decode(from, field).map(Self)
    }
}

impl Show for RequestId {
    fn show(&self) -> Option<Shown> {
        self.0.show()
    }
}

/// A path's key epoch: 0 to 15, counted on modulo 16.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Epoch(u8);

impl Epoch {
    /// The epoch `number`, modulo 16.
    pub fn new(number: u8) -> Self {
        Self(number & 0x0f)
    }

    /// Its number.
    pub fn number(self) -> u8 {
        self.0
    }
}

impl Codec for Epoch {
    fn encode(&self, to: &mut Writer) {
        self.0.encode(to);
    }

    fn decode(from: &mut Reader<'_>, field: &'static str) -> Result<Self, Refusal> {
        match u8::decode(from, field)? {
            number @ 0..16 => Ok(Self(number)),
            other => Err(Refusal::new(field, Reason::Unknown(other.into()))),
        }
    }
}

impl Show for Epoch {
    fn show(&self) -> Option<Shown> {
        self.0.show()
    }
}

wire_enum! {
    /// What a node that registers is.
    #[derive(Copy, PartialOrd, Ord, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    NodeKind {
        /// An NTM terminal.
        Terminal = 1 as "terminal",
        /// A relay server.
        Relay = 2 as "relay",
        /// Another DC.
        Coordinator = 3 as "coordinator",
    }
}

wire_enum! {
    /// Which end of a path: the one whose Direction Request made it (MN), or the other (CN, GN).
    #[derive(Copy, PartialOrd, Ord, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    Role {
        /// MN.
        Initiator = 1 as "initiator",
        /// CN, or the RS in a general node's place.
        Responder = 2 as "responder",
    }
}

impl Role {
    /// The other end.
    pub fn other(self) -> Role {
        match self {
            Role::Initiator => Role::Responder,
            Role::Responder => Role::Initiator,
        }
    }

    /// 0 for the initiator, 1 for the responder: a place in a pair.
    pub fn index(self) -> usize {
        match self {
            Role::Initiator => 0,
            Role::Responder => 1,
        }
    }
}

wire_enum! {
    /// What the relay does with a path's packets (T5.1.1-a).
    #[derive(Copy, PartialOrd, Ord, Hash, Serialize, Deserialize)]
    RelayMode {
        /// RS-S: switches between two tunnels.
        #[serde(rename = "RS-S")]
        Switch = 1 as "RS-S",
        /// RS-N: translates addresses.
        #[serde(rename = "RS-N")]
        Translate = 2 as "RS-N",
    }
}

wire_struct! {
    /// The round-trip time that a terminal measured to a relay.
    RelayRtt {
        /// The relay.
        relay: NodeId,
        /// Microseconds; [`UNREACHABLE`] where it did not answer.
        micros: u32,
    }
}

/// In a [`RelayRtt`]: the relay does not answer this terminal.
pub const UNREACHABLE: u32 = u32::MAX;

wire_struct! {
    /// A relay whose RTT a terminal is to measure, with the key under which it may ask.
    RelayToMeasure {
        /// The relay.
        relay: NodeId,
        /// Its real address and port.
        address: SocketAddr,
        /// For Keep-alives between this terminal and the relay.
        key: SharedKey,
    }
}

wire_struct! {
    /// NTM Registration Request: a node tells its DC who and where it is (T3.2.1-a).
    RegistrationRequest {
        /// Names the request.
        request: RequestId,
        /// The node's name.
        fqdn: Fqdn,
        /// What it is.
        kind: NodeKind,
        /// Drawn for this life of it, and tells it from those before.
        life: u32,
        /// Its real addresses and port.
        addresses: Addresses,
        /// The RTTs to the relays that it was told of.
        rtts: List<RelayRtt, MAX_RELAYS>,
        /// Of a DC: the virtual addresses that are its own (T3.1-a).
        vips: Option<VipRange>,
    }
}

wire_struct! {
    /// The answer to a Registration Request.
    RegistrationResponse {
        /// The request answered.
        request: RequestId,
        /// The VIP, for a terminal.
        vip: Option<Vip>,
        /// The address and port that the DC saw.
        seen: SocketAddr,
        /// How often to send a Keep-alive.
        keep_alive: Duration,
        /// The relays to measure.
        relays: List<RelayToMeasure, MAX_RELAYS>,
        /// Of the DC that answers another: the virtual addresses that are its own (T3.1-a).
        vips: Option<VipRange>,
    }
}

wire_struct! {
    /// Keep-alive between a node and its DC (T3.2.1-b), or between a terminal and a relay that it measures.
    KeepAlive {
        /// Names the request.
        request: RequestId,
        /// A relay's load, in thousandths of what it can carry.
        load: Option<u16>,
        /// All RTTs to relays, where one has changed; none where none has. To a relay: the one to that relay, zero before it is known,
        /// so that no answer is longer than what it answers.
        rtts: List<RelayRtt, MAX_RELAYS>,
    }
}

wire_struct! {
    /// The answer to a Keep-alive.
    KeepAliveAnswer {
        /// The request answered.
        request: RequestId,
        /// The address and port seen.
        seen: SocketAddr,
        /// A relay's load, in thousandths of what it can carry; zero from a DC.
        load: u16,
        /// From a DC to a terminal: the relays to measure, where they are others than it was told of last.
        relays: List<RelayToMeasure, MAX_RELAYS>,
    }
}

wire_struct! {
    /// A path that exists and is to be directed again after a handover (T4.1.4-a, T4.2.5-a).
    Renewal {
        /// The path.
        path: PathId,
        /// The role of the terminal that asks.
        role: Role,
        /// The epoch now in use.
        epoch: Epoch,
        /// The peer's VIP on this path.
        peer_vip: Vip,
        /// The RS-N that serves it, which must stay (T4.2.5-b); `None` where the DC may choose anew.
        keep_relay: Option<NodeId>,
    }
}

wire_struct! {
    /// NTM Direction Request (T3.2.2-a).
    DirectionRequest {
        /// Names the request.
        request: RequestId,
        /// The name that the application asked for.
        fqdn: Fqdn,
        /// The path to direct again, after a handover.
        renewal: Option<Renewal>,
        /// A relay that the terminal found silent: another one, if there is any.
        avoid: Option<NodeId>,
    }
}

wire_enum! {
    /// Why a Direction Request was refused, as the DNS answer to give (RFC 1035, section 4.1.1).
    #[derive(Copy, PartialOrd, Ord, Hash, Serialize, Deserialize)]
    DnsError {
        /// The name does not exist: NXDOMAIN.
        NxDomain = 3,
        /// The name exists and has no address: NOERROR, no answer.
        NoData = 4,
        /// It could not be found out, or no tunnel could be built: SERVFAIL.
        ServFail = 2,
        /// Not allowed: REFUSED.
        Refused = 5,
    }
}

wire_struct! {
    /// The answer to a Direction Request that leads to no path.
    DirectionRefusal {
        /// The request answered.
        request: RequestId,
        /// The DNS answer to give.
        error: DnsError,
    }
}

wire_struct! {
    /// NTM Information Request, from DC_MN to DC_CN (T3.2.2-c).
    InformationRequest {
        /// Names the request.
        request: RequestId,
        /// The terminal wanted.
        fqdn: Fqdn,
    }
}

wire_struct! {
    /// Where a terminal is, as its DC knows it.
    TerminalInformation {
        /// The terminal.
        node: NodeId,
        /// The life of it that is registered.
        life: u32,
        /// Its VIP.
        vip: Vip,
        /// Its real addresses and port.
        addresses: Addresses,
        /// The address and port that its NAT shows.
        seen: SocketAddr,
        /// Its RTTs to relays.
        rtts: List<RelayRtt, MAX_RELAYS>,
    }
}

wire_struct! {
    /// NTM Information Response.
    InformationResponse {
        /// The request answered.
        request: RequestId,
        /// The terminal; `None` where it is not registered.
        terminal: Option<TerminalInformation>,
        /// With no terminal: whether its name exists at all.
        known: bool,
    }
}

wire_enum! {
    /// What a relay needs for its mode (TA-b).
    RelayOrder {
        /// RS-S.
        Switch = 1 as "RS-S" {
            /// Key_DC MN–RS: the temporary key for the tunnel with the initiator.
            initiator_key: SharedKey,
            /// The same for the tunnel with the responder.
            responder_key: SharedKey,
            /// VIP_MN.
            initiator: Vip,
            /// VIP_CN.
            responder: Vip,
        },
        /// RS-N.
        Translate = 2 as "RS-N" {
            /// Key_DC MN–RS: the temporary key for the tunnel with MN.
            temp_key: SharedKey,
            /// VIP_MN.
            terminal: Vip,
            /// VIP_GN.
            general: Vip,
            /// RIP_GN.
            real: IpAddr,
            /// The suite of data packets between MN and the relay.
            suite: Suite,
        },
    }
}

wire_struct! {
    /// NTM Relay Direction, from the DC to the RS (T4.1.2-a, T4.2.4-a).
    RelayDirection {
        /// Names the request.
        request: RequestId,
        /// The path.
        path: PathId,
        /// Its key epoch.
        epoch: Epoch,
        /// The mode and what it needs.
        order: RelayOrder,
    }
}

wire_enum! {
    /// Whether a relay takes a path.
    #[derive(Copy, PartialOrd, Ord, Hash, Serialize, Deserialize)]
    RelayAnswer {
        /// What it needs is stored; packets may come.
        Ready = 1,
        /// Its table is full.
        Full = 2,
        /// The direction contradicts an entry that it has.
        Conflict = 3,
        /// It cannot translate addresses on its machine.
        CannotTranslate = 4,
    }
}

wire_struct! {
    /// NTM Relay Response.
    RelayResponse {
        /// The request answered.
        request: RequestId,
        /// Ready, or why not.
        answer: RelayAnswer,
    }
}

wire_enum! {
    /// The way that packets of a path take.
    Route {
        /// End to end.
        Direct = 1 {
            /// Where the peer can be reached: the addresses to send a Tunnel Request to.
            addresses: Addresses,
            /// Whether this end sends the first Tunnel Request: the one behind a NAT.
            start: bool,
        },
        /// Through a relay.
        Relayed = 2 {
            /// The relay.
            relay: NodeId,
            /// Its real address and port.
            address: SocketAddr,
            /// Its mode.
            mode: RelayMode,
            /// The temporary key for the Tunnel Request to it.
            temp_key: SharedKey,
            /// Where to try the peer directly once the path stands (T4.1.2-b); empty for a general node.
            optimise: Addresses,
        },
    }
}

wire_struct! {
    /// NTM Route Direction: how to reach the peer (T3.2.3-a).
    RouteDirection {
        /// Names the request.
        request: RequestId,
        /// The Direction Request that it answers; none for the terminal that was called.
        answers: Option<RequestId>,
        /// The terminal that it is for; a DC passes it on to its own terminal.
        target: NodeId,
        /// The life of that for which this was decided: it may have been started again since.
        life: u32,
        /// Where that was seen when this was decided: it may be elsewhere since.
        seen: SocketAddr,
        /// The path.
        path: PathId,
        /// Its key epoch.
        epoch: Epoch,
        /// The role of the terminal that it is for.
        role: Role,
        /// The peer's name.
        peer: Fqdn,
        /// The peer's VIP.
        peer_vip: Vip,
        /// The key between the two ends; none where the peer is a general node.
        path_key: Option<SharedKey>,
        /// The suite of data packets.
        suite: Suite,
        /// The way.
        route: Route,
    }
}

wire_struct! {
    /// Says that a Route Direction arrived.
    RouteResponse {
        /// The Route Direction's request.
        request: RequestId,
        /// Whether the terminal takes the path.
        accepted: bool,
    }
}

wire_struct! {
    /// NTM Tunnel Request, between two ends or an end and the RS; the Path ID is in the header.
    TunnelRequest {
        /// Names the request.
        request: RequestId,
        /// Whether the sender, whose tunnel stands, is at another address now: what is for it goes to where this came from.
        moved: bool,
        /// Key_MN–RS, under the temporary key; between two ends the path's key serves and there is none (T3.1-e).
        common_key: Option<SharedKey>,
    }
}

wire_struct! {
    /// NTM Tunnel Response.
    TunnelResponse {
        /// The request answered.
        request: RequestId,
        /// The address and port seen.
        seen: SocketAddr,
        /// Whether the path's other end has its tunnel too; always true between two ends and in RS-N.
        peer_ready: bool,
    }
}

wire_struct! {
    /// Keep-alive on a tunnel.
    PathKeepAlive {
        /// Names the request.
        request: RequestId,
    }
}

wire_struct! {
    /// The answer to a Path Keep-alive.
    PathKeepAliveAnswer {
        /// The request answered.
        request: RequestId,
        /// The address and port seen.
        seen: SocketAddr,
    }
}

wire_enum! {
    /// Why a control message was not acted upon.
    #[derive(Copy, PartialOrd, Ord, Hash, Serialize, Deserialize)]
    ErrorCode {
        /// The sender is not registered here, or no longer: register again.
        NotRegistered = 1,
        /// The registration's sequence number is not above the last one: go on above `floor`.
        Stale = 2 {
            /// The highest sequence number accepted.
            floor: u64,
        },
        /// Two DCs claim virtual addresses of one range, so neither may believe the other (T3.1-a).
        Overlap = 3 {
            /// Those of the DC that says so.
            vips: VipRange,
        },
    }
}

wire_struct! {
    /// Says that a control message could not be acted upon.
    Error {
        /// The sequence number of the message.
        sequence: u64,
        /// Why.
        code: ErrorCode,
    }
}

macro_rules! messages {
    ($($kind:ident),* $(,)?) => {
        /// The body of a control message, as a value.
        #[derive(Clone, PartialEq, Eq, Debug)]
        #[allow(missing_docs)]
        pub enum Message {
            $($kind($kind),)*
        }

        impl Message {
            /// Its type in the header.
            pub fn kind(&self) -> Kind {
                match self {
                    $(Self::$kind(_) => Kind::$kind,)*
                }
            }

            /// The path that it is about, where the body says so.
            pub fn path(&self) -> Option<PathId> {
                match self {
                    Self::DirectionRequest(m) => m.renewal.as_ref().map(|renewal| renewal.path),
                    Self::RelayDirection(m) => Some(m.path),
                    Self::RouteDirection(m) => Some(m.path),
                    _ => None,
                }
            }

            /// Every value of the body that is no key, by field.
            pub fn fields(&self) -> Fields {
                let shown = match self {
                    $(Self::$kind(body) => body.show(),)*
                };
                match shown {
                    Some(Shown::Table(fields)) => fields,
                    _ => Fields::new(),
                }
            }

            /// Appends the body's bytes.
            pub fn encode(&self, to: &mut Writer) {
                match self {
                    $(Self::$kind(body) => body.encode(to),)*
                }
            }

            /// Reads the body of a message of `kind`; bytes left over are refused.
            pub fn decode(kind: Kind, body: &[u8]) -> Result<Self, Refusal> {
                let mut from = Reader::new(body);
                let message = match kind {
                    $(Kind::$kind => Self::$kind($kind::decode(&mut from, stringify!($kind))?),)*
                    Kind::Data => return Err(Refusal::new("type", Reason::Unexpected)),
                };
                from.end()?;
                Ok(message)
            }
        }

        $(impl From<$kind> for Message {
            fn from(body: $kind) -> Self {
                Self::$kind(body)
            }
        })*
    };
}

messages! {
    RegistrationRequest, RegistrationResponse, KeepAlive, KeepAliveAnswer, DirectionRequest, DirectionRefusal,
    InformationRequest, InformationResponse, RelayDirection, RelayResponse, RouteDirection, RouteResponse,
    TunnelRequest, TunnelResponse, PathKeepAlive, PathKeepAliveAnswer, Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody who reads a trace can open what was sent.
    #[test]
    fn a_message_shows_everything_but_its_keys() {
        let key = || SharedKey::new([0x6b; 32]);
        let direction: Message = RouteDirection {
            request: RequestId(7),
            answers: Some(RequestId(8)),
            target: NodeId([1; 16]),
            life: 5,
            seen: "203.0.113.9:4330".parse().unwrap(),
            path: PathId([2; 16]),
            epoch: Epoch::new(3),
            role: Role::Initiator,
            peer: Fqdn::new("cn.dc.test").unwrap(),
            peer_vip: Vip([198, 18, 0, 2].into()),
            path_key: Some(key()),
            suite: Suite::Aes128Cbc,
            route: Route::Relayed {
                relay: NodeId([4; 16]),
                address: "203.0.113.7:4330".parse().unwrap(),
                mode: RelayMode::Switch,
                temp_key: key(),
                optimise: ["192.0.2.2:4330".parse().unwrap()].into_iter().collect(),
            },
        }
        .into();
        let order = RelayOrder::Translate {
            temp_key: key(),
            terminal: Vip([198, 18, 0, 1].into()),
            general: Vip([198, 18, 128, 1].into()),
            real: "203.0.113.5".parse().unwrap(),
            suite: Suite::None,
        };
        let relaying: Message =
            RelayDirection { request: RequestId(9), path: PathId([2; 16]), epoch: Epoch::new(3), order }
                .into();
        let shown = serde_json::to_string_pretty(&[direction.fields(), relaying.fields()]).unwrap();
        insta::assert_snapshot!(shown);
        let read: Vec<Fields> = serde_json::from_str(&shown).unwrap();
        assert_eq!(read, [direction.fields(), relaying.fields()]);
    }
}
