//! The Direction Coordinator (DC): what surrounds its pure machine.
//!
//! * [`dns`]: the authoritative name server of the DC's own zone, answering from live data.
//! * [`resolve`]: look-ups in the DNS, from the root on (T3.2.2-b).
//! * [`store`]: registrations and VIPs in SQLite; what was acknowledged survives a crash at any moment.

pub mod dns;
pub mod resolve;
pub mod store;
