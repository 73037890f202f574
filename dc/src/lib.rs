//! The Direction Coordinator (DC): what surrounds its pure machine.
//!
//! * [`config`]: what the configuration file says.
//! * [`drive`]: the loop around the machine.
//! * [`zone`]: the DC's own zone.
//! * [`resolve`]: look-ups in the DNS, from the root on (T3.2.2-b).
//! * `sockets`: a UDP socket for each of its addresses.
//! * [`store`]: registrations and VIPs in SQLite; what was acknowledged survives a crash at any moment.

pub mod config;
pub mod drive;
pub mod resolve;
mod sockets;
pub mod store;
pub mod zone;
