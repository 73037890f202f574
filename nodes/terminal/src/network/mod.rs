//! The machine's usable real addresses, followed by netlink: the terminal learns of a handover as a laptop does (T4.1.4-a, T4.2.5-a).
//!
//! The kernel tells of every change of a link, an address or a route; each time the whole view is taken anew and judged by
//! [`select::usable`]. So nothing hangs on the order or the completeness of the messages, and there is nothing to wait for.

mod select;

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures::channel::mpsc::UnboundedReceiver;
use futures::future::ready;
use futures::{FutureExt, StreamExt, TryStreamExt};
use ntm_protocol::addr::VipRange;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use select::{Address, View, Virtual};

/// Lists that wait for the daemon's loop. Each differs from the one before: with room for more, none would be more up to date.
const WAITING: usize = 4;

/// What decides which addresses are usable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// The DC's real address.
    pub(crate) coordinator: Ipv4Addr,
    /// The index of the TUN.
    pub(crate) tun: u32,
    /// The range of all VIPs.
    pub(crate) vips: VipRange,
}

/// Follows the usable real addresses until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    changes: mpsc::Receiver<io::Result<Vec<IpAddr>>>,
    _tasks: JoinSet<()>,
}

impl Watch {
    /// Starts to follow the caller's network namespace. Must be called within a tokio runtime.
    pub(crate) fn open(policy: Policy) -> io::Result<Self> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
        let (listening, _, events) = rtnetlink::new_multicast_connection(&groups)?;
        // Questions go by a socket of their own: an answer is not lost where a burst of messages overruns the other.
        let (asking, handle, _) = rtnetlink::new_connection()?;
        let (sender, changes) = mpsc::channel(WAITING);
        let mut tasks = JoinSet::new();
        tasks.spawn(listening);
        tasks.spawn(asking);
        tasks.spawn(async move {
            let Err(error) = follow(events, handle, policy, &sender).await;
            // Nobody listens any more where the daemon ends.
            let _ = sender.send(Err(error)).await;
        });
        Ok(Self { changes, _tasks: tasks })
    }

    /// The usable addresses: at once, and then whenever they have changed. An error is the last that comes. May be dropped and
    /// called again without losing a change.
    pub(crate) async fn next(&mut self) -> io::Result<Vec<IpAddr>> {
        self.changes.recv().await.unwrap_or_else(|| Err(closed()))
    }
}

/// Removes `address` from the link `index`.
pub(crate) async fn remove_address(index: u32, address: Ipv4Addr) -> io::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let mut task = JoinSet::new();
    task.spawn(connection);
    let is_it = |message: &AddressMessage| message.header.index == index && local(message) == Some(address);
    let found: Vec<AddressMessage> =
        dump_addresses(&handle).try_filter(|message| ready(is_it(message))).try_collect().await?;
    for message in found {
        handle.address().del(message).execute().await.map_err(to_io)?;
    }
    Ok(())
}

type Events = UnboundedReceiver<(
    rtnetlink::packet_core::NetlinkMessage<rtnetlink::packet_route::RouteNetlinkMessage>,
    rtnetlink::sys::SocketAddr,
)>;

async fn follow(
    mut events: Events,
    handle: Handle,
    policy: Policy,
    changes: &mpsc::Sender<io::Result<Vec<IpAddr>>>,
) -> Result<std::convert::Infallible, io::Error> {
    let hidden = Virtual { tun: policy.tun, vips: policy.vips };
    let mut told = None;
    loop {
        // What the kernel has told so far is part of the view that is taken now.
        while let Some(Some(_)) = events.next().now_or_never() {}
        let usable = select::usable(&look(&handle, policy.coordinator).await?, &hidden);
        if told.as_ref() != Some(&usable) {
            tracing::debug!("usable addresses: {usable:?}");
            let addresses = usable.iter().copied().map(IpAddr::from).collect();
            changes.send(Ok(addresses)).await.map_err(|_| closed())?;
            told = Some(usable);
        }
        events.next().await.ok_or_else(closed)?;
    }
}

/// Takes a view. One question after the other: the kernel refuses a second list on a socket before the first has ended.
async fn look(handle: &Handle, coordinator: Ipv4Addr) -> io::Result<View> {
    let links = handle.link().get().execute().map_err(to_io);
    let links =
        links.try_filter(|link| ready(carries(link))).map_ok(|link| link.header.index).try_collect().await?;
    let addresses =
        dump_addresses(handle).try_filter_map(|message| ready(Ok(address(&message)))).try_collect().await?;
    Ok(View { links, addresses, source: source(handle, coordinator).await })
}

fn carries(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp)
        && !link.header.flags.contains(LinkFlags::Loopback)
}

fn dump_addresses(handle: &Handle) -> impl futures::Stream<Item = io::Result<AddressMessage>> + use<> {
    let mut request = handle.address().get();
    request.message_mut().header.family = AddressFamily::Inet;
    request.execute().map_err(to_io)
}

fn address(message: &AddressMessage) -> Option<Address> {
    let is_global = message.header.scope == AddressScope::Universe;
    Some(Address { link: message.header.index, address: local(message)?, is_global })
}

/// The machine's own address: on a point-to-point link, `Address` is the other end's.
fn local(message: &AddressMessage) -> Option<Ipv4Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })
}

/// The source address of the route to `coordinator`.
async fn source(handle: &Handle, coordinator: Ipv4Addr) -> Option<Ipv4Addr> {
    let question = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(coordinator, 32).build();
    let mut answers = std::pin::pin!(handle.route().get(question).execute());
    match answers.next().await? {
        Ok(route) => route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet(source)) => Some(*source),
            _ => None,
        }),
        // Unreachable, prohibited, or no route at all.
        Err(error) => {
            tracing::debug!("no route to {coordinator}: {}", to_io(error));
            None
        }
    }
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn closed() -> io::Error {
    io::Error::other("the kernel's netlink socket was closed")
}
