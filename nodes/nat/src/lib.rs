//! How NATs behave, after RFC 4787 (UDP), RFC 5382 (TCP) and RFC 5508 (ICMP).
//!
//! The library is pure: addresses, ports and instants go in, addresses and ports come out. The simulation uses it as its NATs.
//!
//! * [`behaviour`]: the axes — mapping, filtering, hairpinning, port choice, timeouts — and the classic names for them.
//! * [`flow`]: what a NAT sees of a packet.
//! * [`forward`]: ports that lead to one inner host, whoever sends to them.
//! * [`translator`]: the NAT as a machine.
//! * [`direct`]: whether two hosts behind two NATs can speak directly.
//! * [`probe`]: finds out from inside how a router really behaves.
//!
//! With the feature `router`, there is also the router that behaves so on real packets:
//!
//! * `router`: its configuration, the nftables rules that make a kernel behave so, and how they are put in place.

pub mod behaviour;
pub mod direct;
mod duration;
pub mod flow;
pub mod forward;
mod names;
pub mod probe;
#[cfg(feature = "router")]
pub mod router;
pub mod translator;

pub use behaviour::{
    Allocation, Axes, Behaviour, BehaviourTable, Dependence, PortRange, Timeouts, TimeoutsTable,
};
pub use direct::direct_possible;
pub use flow::{Flow, Protocol, Segment};
pub use forward::{Forward, ForwardError};
pub use names::UnknownName;
pub use translator::{Mapping, Refusal, Scope, Side, Translated, Translator};
