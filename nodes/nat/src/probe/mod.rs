//! Finds out from inside how a router really behaves, after RFC 5780, and says on which axis it is not what it was declared to be.
//!
//! Two hosts behind the router ask a STUN server outside, which has two addresses and two ports ([`Responder`]), how it sees them, and have
//! it answer from elsewhere and to elsewhere. The [`Prober`] is those two hosts. Both are machines without sockets and clocks: the harness
//! drives them on real packets before a run, tests drive them in virtual time against the [`Translator`](crate::Translator).
//!
//! | what is found out | how |
//! |---|---|
//! | mapping | one socket asks at three of the four places: is it seen the same (RFC 5780, section 4.3)? |
//! | filtering | the server answers from its other port, its other address: does it arrive (section 4.4)? |
//! | hairpinning | one host sends to the other's outer address (section 4.5); see [`Findings::hairpin`] |
//! | allocation, ports | sockets at the ends of the range, beyond them and between: by which ports are they seen? |
//! | UDP timeout | where it is short: what comes from outside passes before, and not after (section 4.6) |
//! | two hosts | with one source port: each has an outer port of its own, and whom one sends to reaches not the other |
//! | early packets | what a peer sends to a port before a host's first packet, or before the first to that peer, moves no mapping |
//!
//! That nothing arrives is never guessed from silence alone: a question whose answer must pass is sent behind every packet that may not.
//! So a probe takes some tens of round trips and no waiting, but for a short timeout.
//!
//! * [`stun`]: the wire format. * [`responder`]: the outside. * [`prober`]: the inside. * [`findings`]: what was seen, and what is wrong.

pub mod findings;
pub mod prober;
pub mod responder;
pub mod stun;

pub use findings::{Dependent, Fault, Findings, Mismatch};
pub use prober::{Broken, Prober, Setup, Transmit, Unprobeable};
pub use responder::{Place, Responder};

#[cfg(test)]
mod tests;
