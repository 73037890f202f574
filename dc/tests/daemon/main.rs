//! `ntm-dc` as a process, on loopback addresses of a network namespace of its own.
//!
//! The terminals and relays are their role machines on real sockets, the name servers those of `ntm-dns`. Needs root and iproute2; where
//! one is missing the test fails and says so.

mod client;
mod crash;
mod directing;
mod hand;
mod names;
mod process;
mod ranges;
mod refused;
mod space;
mod start;
mod strangers;
