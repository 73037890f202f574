//! What passed an interface, taken from the kernel's packet sockets: kept as [`Packet`]s for measurements, and written as
//! pcapng for people.
//!
//! `socket` receives, [`packet`] and [`sealed`] understand, [`point`] holds one interface's thread and file, [`merge`] makes one file of all.
//! [`tap`] has all interfaces of a node as packets come, which [`line`](mod@line) tells in words and [`stream`] as pcapng.

pub mod line;
pub mod merge;
pub mod packet;
pub mod point;
pub mod sealed;
mod socket;
pub mod stream;
pub mod tap;

pub(crate) use socket::timestamp;

pub use packet::Packet;
pub use point::{Point, Recording};
