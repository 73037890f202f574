//! The world of a run: namespaces that belong to the run alone.
//!
//! [`enter`] makes the private world, [`space`] a node's place in it, [`net`] its links and addresses, [`link`] what links do
//! to packets, [`build`] all of a plan.

pub mod build;
pub mod enter;
pub mod link;
pub mod net;
pub mod space;
