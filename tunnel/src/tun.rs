//! The virtual interface (T3.1-b, TB-a): a TUN device, its address, its routes.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use ntm_protocol::addr::VipRange;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMetric, RouteScope};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use thiserror::Error;
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// The MTU of virtual interfaces, in bytes: 1500 less IP 20, UDP 8, NTM header 32 and MAC 16 (T6.3-a).
pub const VIRTUAL_MTU: u16 = 1424;

/// Sealed datagrams of 1472 bytes that one send takes (65 507 bytes).
const ONE_SEND: u16 = 44;

/// How the device is opened.
#[derive(Clone, Debug)]
pub struct TunConfig {
    /// The interface's name: 1 to 15 characters.
    pub name: String,
    /// Its MTU, in bytes: [`VIRTUAL_MTU`].
    pub mtu: u16,
    /// Whether packets come and go in trains (TSO, checksum offload) where the kernel can.
    pub offload: bool,
    /// Whether consecutive UDP datagrams of one flow are written in trains, too, where the kernel can. Netfilter's helpers would see but one
    /// message in a train.
    pub udp_trains: bool,
    /// Segments in the longest train that is read; `None` leaves the kernel's limit.
    pub max_train: Option<u16>,
}

impl TunConfig {
    /// For a terminal: its applications' trains are as long as one send takes.
    pub fn terminal(name: &str) -> Self {
        Self { max_train: Some(ONE_SEND), udp_trains: true, ..Self::relay(name) }
    }

    /// For a relay: trains arrive by way of other interfaces, up to 64 KiB long. The kernel would take apart, packet by packet, those
    /// that exceed a limit here, and that costs more than a second send. Datagrams are written one by one, for its Netfilter looks into them.
    pub fn relay(name: &str) -> Self {
        Self { name: name.to_owned(), mtu: VIRTUAL_MTU, offload: true, udp_trains: false, max_train: None }
    }
}

/// Why the device cannot be opened or set up.
#[derive(Debug, Error)]
pub enum TunError {
    /// The machine has no TUN driver, or a container hides it.
    #[error(
        "this machine has no /dev/net/tun: load the driver (modprobe tun); in a container, pass the device in \
         (--device /dev/net/tun)"
    )]
    NoDriver,
    /// The process may not make interfaces.
    #[error("the TUN '{0}' cannot be made without the right CAP_NET_ADMIN: run as root")]
    NotPermitted(String),
    /// An interface of that name is there and in use.
    #[error("an interface '{0}' exists already: end the process that holds it, or configure another name")]
    Taken(String),
    /// The name is no interface's name.
    #[error("'{0}' is no name for an interface: 1 to 15 characters, without '/', ':' and spaces")]
    Name(String),
    /// Another step failed.
    #[error("the TUN '{name}': {step}: {source}")]
    Step {
        /// The interface.
        name: String,
        /// What was being done.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl TunError {
    /// Whether this machine lacks something: a right or a driver. Otherwise the configuration or the machine's state is wrong.
    pub fn is_lack(&self) -> bool {
        matches!(self, TunError::NoDriver | TunError::NotPermitted(_))
    }
}

/// The device, up; clones are handles of the same device, which goes with the last one.
#[derive(Clone)]
pub struct Tun(Arc<Inner>);

struct Inner {
    device: SyncDevice,
    name: String,
    index: u32,
    mtu: u16,
    vnet: bool,
    udp_trains: bool,
}

impl Tun {
    /// Makes the interface in the caller's network namespace and sets it up. Every step is acknowledged by the kernel: when this
    /// returns, the interface carries packets, and there is nothing to wait for. Must be called within a tokio runtime.
    pub async fn open(config: &TunConfig) -> Result<Self, TunError> {
        let name = config.name.clone();
        let is_name = |c: char| !c.is_whitespace() && c != '/' && c != ':';
        if name.is_empty() || name.len() > 15 || !name.chars().all(is_name) {
            return Err(TunError::Name(name));
        }
        let (device, vnet) = open(config)?;
        let step = |step, source| TunError::Step { name: name.clone(), step, source };
        // Read and written until nothing is left, then polled.
        fcntl(&device, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| step("O_NONBLOCK", e.into()))?;
        let index = device.if_index().map_err(|e| step("its index", e))?;
        let udp_trains = config.udp_trains && vnet && device.udp_gso();
        let (mtu, held) = (config.mtu, name.clone());
        let tun = Self(Arc::new(Inner { device, name: held, index, mtu, vnet, udp_trains }));

        let netlink = Netlink::open().map_err(|e| step("opening netlink", e))?;
        let link = LinkUnspec::new_with_index(index).mtu(config.mtu.into()).up().build();
        netlink.handle.link().set(link).execute().await.map_err(|e| step("setting MTU and up", to_io(e)))?;
        if let Some(segments) = config.max_train.filter(|_| vnet) {
            let limit = LinkUnspec::new_with_index(index)
                .append_extra_attribute(LinkAttribute::GsoMaxSegs(segments.into()))
                .build();
            if let Err(error) = netlink.handle.link().set(limit).execute().await {
                // Longer trains are sent in two parts: slower, and right all the same.
                tracing::debug!("{name}: trains are not limited to {segments} segments: {}", to_io(error));
            }
        }
        tracing::debug!("{name}: interface {index}, MTU {}, offload {vnet}", config.mtu);
        Ok(tun)
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The interface's index.
    pub fn index(&self) -> u32 {
        self.0.index
    }

    /// Whether packets come and go in trains.
    pub fn has_offload(&self) -> bool {
        self.0.vnet
    }

    /// Whether datagrams may be written in trains.
    pub(crate) fn takes_udp_trains(&self) -> bool {
        self.0.udp_trains
    }

    /// Gives the interface an address, with no network of its own: [`Tun::add_route`] says what lies behind it. An address that it has
    /// already is kept.
    pub async fn add_address(&self, address: Ipv4Addr) -> Result<(), TunError> {
        let netlink = self.netlink("adding an address")?;
        let request = netlink.handle.address().add(self.0.index, address.into(), 32).replace();
        request.execute().await.map_err(|e| self.step("adding an address", to_io(e)))
    }

    /// Sends packets for `range` into the interface. A route that is there already is kept.
    pub async fn add_route(&self, range: VipRange) -> Result<(), TunError> {
        let netlink = self.netlink("adding a route")?;
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(range.base(), range.prefix())
            .output_interface(self.0.index)
            .scope(RouteScope::Link)
            .build();
        let request = netlink.handle.route().add(route).replace();
        request.execute().await.map_err(|e| self.step("adding a route", to_io(e)))
    }

    /// Sends packets for the `length` first bits of `prefix` into the interface, up to `mtu` bytes long, which may be more than the
    /// interface's own MTU. A route that is there already is kept. Packets come out of it only where the plane translates them.
    pub async fn add_route_v6(&self, prefix: Ipv6Addr, length: u8, mtu: u16) -> Result<(), TunError> {
        /// The bit of the metric MTU in `RTAX_LOCK`: a route's MTU counts for packets that are forwarded only if it is locked.
        const MTU_LOCKED: u32 = 1 << 2;
        let netlink = self.netlink("adding a route")?;
        let mut route = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(prefix, length)
            .output_interface(self.0.index)
            .build();
        let metrics = vec![RouteMetric::Lock(MTU_LOCKED), RouteMetric::Mtu(mtu.into())];
        route.attributes.push(RouteAttribute::Metrics(metrics));
        let request = netlink.handle.route().add(route).replace();
        request.execute().await.map_err(|e| self.step("adding an IPv6 route", to_io(e)))
    }

    /// Its MTU, in bytes.
    pub fn mtu(&self) -> u16 {
        self.0.mtu
    }

    /// Reads a packet or a train, its virtio header first if [`Tun::has_offload`]; `WouldBlock` if there is none.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(&self.0.device, buffer)?)
    }

    /// Writes a packet or a train, its virtio header first if [`Tun::has_offload`].
    pub(crate) fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        nix::sys::uio::writev(&self.0.device, parts)?;
        Ok(())
    }

    fn step(&self, step: &'static str, source: io::Error) -> TunError {
        TunError::Step { name: self.0.name.clone(), step, source }
    }

    fn netlink(&self, step: &'static str) -> Result<Netlink, TunError> {
        Netlink::open().map_err(|e| self.step(step, e))
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.device.as_fd()
    }
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tun({}, index {}, offload {})", self.0.name, self.0.index, self.0.vnet)
    }
}

/// The device, and whether it speaks virtio headers: as asked for, or plain where the kernel has no offload.
fn open(config: &TunConfig) -> Result<(SyncDevice, bool), TunError> {
    let build = |offload| {
        // Down as yet: it comes up with its MTU set.
        let builder = DeviceBuilder::new().name(&config.name).layer(Layer::L3).inherit_enable_state();
        builder
            .with(|more| {
                more.offload(offload).packet_information(false);
            })
            .build_sync()
    };
    if config.offload {
        match build(true) {
            Ok(device) => return Ok((device, true)),
            Err(error) => match refusal(&config.name, error) {
                TunError::Step { source, .. } => {
                    tracing::info!("{}: no offload on this kernel ({source}); plain packets", config.name);
                }
                other => return Err(other),
            },
        }
    }
    build(false).map(|device| (device, false)).map_err(|error| refusal(&config.name, error))
}

fn refusal(name: &str, error: io::Error) -> TunError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TunError::NoDriver,
        Some(libc::EPERM | libc::EACCES) => TunError::NotPermitted(name.to_owned()),
        Some(libc::EBUSY | libc::EEXIST) => TunError::Taken(name.to_owned()),
        _ => TunError::Step { name: name.to_owned(), step: "opening it", source: error },
    }
}

/// A connection to the kernel's routing configuration, in the caller's network namespace.
struct Netlink {
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
}

impl Netlink {
    fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self { handle, connection: tokio::spawn(connection) })
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_is_lacking() {
        let refused = |errno| refusal("ntm0", io::Error::from_raw_os_error(errno));
        for (errno, lack, text) in [
            (libc::ENOENT, true, "no /dev/net/tun"),
            (libc::EPERM, true, "CAP_NET_ADMIN"),
            (libc::EBUSY, false, "'ntm0' exists already"),
            (libc::EIO, false, "the TUN 'ntm0': opening it: "),
        ] {
            let error = refused(errno);
            assert_eq!(error.is_lack(), lack, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[tokio::test]
    async fn a_bad_name_is_refused_before_anything_is_made() {
        for name in ["", "sixteen-letters!", "a/b", "a b"] {
            let config = TunConfig::terminal(name);
            assert!(matches!(Tun::open(&config).await, Err(TunError::Name(found)) if found == name));
        }
    }
}
