//! The role machines wired together in one thread, under virtual time.
//!
//! The machines are those of the real daemons ([`ntm_protocol`]); the NATs are those of the real router's library ([`ntm_nat`]). What a
//! kernel, a disk, a DNS and a network do around them is modelled here, as little of it as the protocol can notice. There is no
//! clock, no socket and no entropy: one seed gives one trace, byte for byte.
//!
//! # The map
//!
//! * [`World`]: hosts, networks and applications, driven by one queue of events ordered by (time, number).
//! * [`link`], [`network`]: how datagrams travel, through NATs and impairments.
//! * [`dns`], [`store`]: what a DC asks for, as data.
//! * [`packet`], [`talk`], [`flow`]: what applications send; TCP is a real one, smoltcp's. [`capture`]: what passed the interfaces.
//! * [`ladder`]: the trace, one readable line for each observation. [`sequence`]: what of a trace is the same in both worlds.
//!
//! ```
//! use ntm_sim::{Link, World};
//! use std::time::Duration;
//!
//! let link = Link::of(Duration::from_millis(5));
//! let mut world = World::new(42);
//! let dc = world.coordinator("dc", "ntm.test", "198.18.0.0/16", "203.0.113.3", link);
//! let at = |n: u8| ntm_sim::Interface { network: ntm_sim::INTERNET, address: [203, 0, 113, n].into(), link };
//! let mn = world.terminal("mn", dc, at(10));
//! let cn = world.terminal("cn", dc, at(11));
//! world.start_all();
//! world.run_for(Duration::from_secs(1));
//! let talk = world.talk(mn, cn, Duration::from_millis(20));
//! world.run_for(Duration::from_secs(1));
//! assert!(world.heard(talk).returned() > 40);
//! ```

pub mod capture;
mod clock;
pub mod dns;
pub mod flow;
mod host;
pub mod impair;
pub mod ladder;
pub mod link;
mod masquerade;
mod neighbours;
pub mod network;
pub mod packet;
mod pieces;
mod queue;
pub mod sequence;
mod stack;
pub mod store;
mod tables;
pub mod talk;
mod trouble;
mod world;
pub mod worlds;

pub use clock::Clock;
pub use host::Interface;
pub use link::Link;
pub use network::{INTERNET, NetworkId, RouterId};
pub use talk::{Talk, TalkId};
pub use world::{Reaction, Recorded, Settings, World};

/// A host of the world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostId(pub(crate) usize);
