//! `ntm-relay`: the relay server, RS-S and RS-N in one process (T5.1.1-a).
//!
//! The decisions are `ntm_protocol::relay::Relay`'s; the packets are `ntm_tunnel`'s. Here is what joins them to the machine:
//!
//! * [`config`]: the configuration file.
//! * [`drive`]: the loop; `shell`: the role machine, and what its wishes move; `readiness`: what is told to whoever started it.
//! * [`rs_n`]: both translations of RS-N, by Netfilter (T5.1.2-a).
//! * [`rs_s`]: RS-S by the kernel, where it can (T4.1.3-a).
//! * [`status`]: what the control socket tells.
//!
//! ```text
//!              control datagrams, refusals                    Translate, Untranslate
//!   UDP ◀─────▶ ntm_tunnel::Plane ──────────▶ relay::Relay ──────────────────────────▶ RsN ──▶ nf_tables
//!   TUN ◀─────▶   (two threads)   ◀──────────      │
//!                                 DataUpdate       └──▶ trace, status
//! ```
//!
//! Where a machine has no TUN, no nft or no right to use them, the relay still switches tunnels (RS-S), and answers Relay Directions
//! for a general node by "cannot translate".

pub mod config;
pub mod drive;
mod readiness;
pub mod rs_n;
pub mod rs_s;
mod shell;
pub mod status;
