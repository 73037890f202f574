//! The DNS server that the applications of this machine ask, through `/etc/resolv.conf` (T3.2.2-a).
//!
//! * [`message`]: what a query asks, and how it is answered: pure.
//! * [`waiting`]: the queries that wait until a tunnel stands (T3.2.3-b): pure.
//! * [`sockets`]: UDP and TCP.

pub(crate) mod message;
mod sockets;
pub(crate) mod waiting;

pub(crate) use sockets::{Received, Stub, Way};
