//! The data plane on a real machine: a TUN device, one UDP socket, and a thread for each direction between them.
//!
//! * [`Tun`], [`Udp`]: the two descriptors. `Udp` also sends the control side's datagrams.
//! * [`Egress`], [`Ingress`]: what a thread asks of its table; `ntm_protocol::data` has the real ones.
//! * [`Plane`]: the threads. Updates of the tables go in, [`Event`]s come out, [`Counts`] can be read at any time.
//!
//! Inside: `split` and `coalesce` turn the kernel's trains into packets and back, `trains` groups datagrams for one send, `mmsg`
//! makes the system calls, `outlet` finds another way where the kernel refuses a train, `interfaces` knows which link has an address.
//!
//! Where the kernel lacks an offload, or a configuration switches it off, the same packets go one by one.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use ntm_protocol::data::{Inbound, Outbound};
//! use ntm_tunnel::{Event, Plane, PlaneOptions, Tun, TunConfig, Udp, UdpConfig};
//!
//! let tun = Tun::open(&TunConfig::terminal("ntm0")).await?;
//! let udp = Udp::bind(&UdpConfig::port(4330))?;
//! let (out, inb) = (Outbound::default(), Inbound::default());
//! let mut plane = Plane::start(Some(tun.clone()), udp.clone(), out, inb, PlaneOptions::default())?;
//! tun.add_address("198.18.0.1".parse()?).await?;
//! tun.add_route("198.18.0.0/15".parse()?).await?;
//! while let Event::Control { datagram, from } = plane.next().await {
//!     // machine.handle_datagram(&datagram, from, now); plane.update(…); udp.send_to(…)
//! }
//! # Ok(())
//! # }
//! ```

mod coalesce;
mod counters;
mod interfaces;
mod inward;
mod mmsg;
#[cfg(test)]
mod oracle;
mod outlet;
mod outward;
#[cfg(test)]
mod packets;
mod plane;
mod split;
mod table;
mod trains;
mod tun;
mod udp;
mod vnet;
mod wake;

pub use counters::Counts;
pub use interfaces::Interfaces;
pub use plane::{Event, Notice, Plane, PlaneError, PlaneOptions};
pub use table::{Egress, Ingress};
pub use tun::{Tun, TunConfig, TunError, VIRTUAL_MTU};
pub use udp::{Udp, UdpConfig, UdpError};
