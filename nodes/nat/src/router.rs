//! A router that behaves as a [`Behaviour`](crate::Behaviour) says, by the kernel's nftables and conntrack.
//!
//! * [`config`]: its configuration file.
//! * [`ruleset`]: the rules for a behaviour, as text; pure.
//! * [`listing`]: the mapping table and the counters, read from what nft lists; pure.
//! * [`system`]: interfaces, sysctls and the nft program, and [`conntrack`]: what touches the machine.

pub mod config;
pub mod conntrack;
pub mod listing;
pub mod ruleset;
pub mod system;
