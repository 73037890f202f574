//! NTMobile as state machines without I/O.
//!
//! Nothing in this crate opens a socket, reads a clock or draws entropy: time is an [`time::Instant`] handed in, randomness a
//! seed handed to a constructor. So the same code runs in real daemons and in the simulator.
//!
//! # The map
//!
//! * [`addr`], [`time`]: the values everything speaks of — names, virtual addresses, Path IDs, instants.
//! * [`family`]: IPv4 and IPv6 outside the tunnels: who can reach whom.
//! * [`wire`]: the NTM header, every message, and the codec (round trips; a refusal names the field).
//! * [`crypto`]: keys and their derivation, control and data ciphers, MAC, replay window.
//! * [`data`]: the data tables: seal, open and switch data packets without allocating.
//! * [`inner`]: checksums, and ICMP errors that answer inner packets which no way carries.
//! * [`session`]: a control conversation under a pre-shared key: sequence numbers, replay, requests repeated until answered.
//! * [`registration`]: what terminals and relays share: Registration and keep-alive (T3.2.1-a, T3.2.1-b).
//! * [`terminal`], [`coordinator`], [`relay`]: the role machines.
//! * [`observe`]: what a machine says of itself, for the trace. [`prefetch`](mod@prefetch): a hint to the processor, for drivers of very many machines.
//!
//! # Driving a machine
//!
//! ```text
//! loop {
//!     machine.handle_*(input, now);                 // a datagram, a lookup's answer, an address change …
//!     while let Some(t) = machine.poll_transmit()   { socket.send_to(t.bytes, t.to) }
//!     while let Some(e) = machine.poll_event()      { act on it }
//!     wait for input until machine.poll_timeout();  // exact: nothing is to do before it
//!     at that instant: machine.handle_timeout(now);
//! }
//! ```

pub mod addr;
pub mod coordinator;
pub mod crypto;
pub mod data;
pub mod expiry;
pub mod family;
pub mod inner;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod observe;
pub mod prefetch;
pub mod registration;
pub mod relay;
pub mod session;
mod slots;
pub mod terminal;
pub mod time;
pub mod wire;

/// Whether faults of the past can be put back: never in what is shipped.
pub const HAS_MUTANTS: bool = cfg!(feature = "mutants");
