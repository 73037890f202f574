//! The world of a run: namespaces that belong to the run alone.
//!
//! [`enter`] makes the private world, [`space`] a node's place in it, [`net`] its links and addresses, [`link`] what links do
//! to packets, [`build`] all of a plan; `lines` are the links that pass a line in user space.

pub mod build;
pub mod enter;
mod lines;
pub mod link;
pub mod net;
pub mod probing;
pub mod space;
