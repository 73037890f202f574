//! What passed an interface, taken from the kernel's packet sockets: kept as [`Packet`]s for measurements, and written as
//! pcapng for people.
//!
//! `socket` receives, [`packet`] understands, [`point`] holds one interface's thread and file, [`merge`] makes one file of all.

pub mod merge;
pub mod packet;
pub mod point;
mod socket;

pub(crate) use socket::timestamp;

pub use packet::Packet;
pub use point::{Point, Recording};
