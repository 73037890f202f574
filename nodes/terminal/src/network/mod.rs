//! The machine's usable real addresses, followed by netlink: the terminal learns of a handover as a laptop does (T4.1.4-a, T4.2.5-a).
//!
//! The kernel tells of every change of a link, an address or a route; each time the whole view is taken anew and judged by
//! [`select::usable`]. So nothing hangs on the order or the completeness of the messages, and there is nothing to wait for.
//!
//! It also says by which link the kernel sends to an address; but only where no change has come since the last view, so that no packet
//! leaves by a network of which the terminal has not heard yet.

mod select;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::channel::mpsc::UnboundedReceiver;
use futures::future::ready;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use ntm_protocol::addr::VipRange;
use ntm_protocol::data::Local;
use ntm_protocol::family::Family;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use select::{Address, Route, View, Virtual};

/// Views that wait for the daemon's loop: with room for more, none would be more up to date.
const WAITING: usize = 4;

/// Questions about routes that are under way at the same time.
const QUESTIONS: usize = 32;

/// What decides which addresses are usable.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// The DC's real addresses.
    pub(crate) coordinator: Vec<IpAddr>,
    /// The index of the TUN.
    pub(crate) tun: u32,
    /// The range of all VIPs.
    pub(crate) vips: VipRange,
}

/// Follows the network until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    views: mpsc::Receiver<io::Result<Heard>>,
    handle: Handle,
    policy: Policy,
    /// The routes to the DC of the view that was told last.
    routes: Vec<Route>,
    _tasks: JoinSet<()>,
}

/// What a view of the network came to.
#[derive(Debug)]
struct Heard {
    usable: Vec<IpAddr>,
    routes: Vec<Route>,
}

impl Watch {
    /// Starts to follow the caller's network namespace. Must be called within a tokio runtime.
    pub(crate) fn open(policy: Policy) -> io::Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv6Route,
        ];
        let (listening, _, events) = rtnetlink::new_multicast_connection(&groups)?;
        // Questions go by a socket of their own: an answer is not lost where a burst of messages overruns the other.
        let (asking, handle, _) = rtnetlink::new_connection()?;
        let (sender, views) = mpsc::channel(WAITING);
        let mut tasks = JoinSet::new();
        tasks.spawn(listening);
        tasks.spawn(asking);
        let (asked, followed) = (handle.clone(), policy.clone());
        tasks.spawn(async move {
            let Err(error) = follow(events, asked, followed, &sender).await;
            // Nobody listens any more where the daemon ends.
            let _ = sender.send(Err(error)).await;
        });
        Ok(Self { views, handle, policy, routes: Vec::new(), _tasks: tasks })
    }

    /// The usable addresses: at once, and then whenever something of the network has changed, be it a route alone. An error is the last that
    /// comes. May be dropped and called again without losing a change.
    pub(crate) async fn next(&mut self) -> io::Result<Vec<IpAddr>> {
        let heard = self.views.recv().await.unwrap_or_else(|| Err(closed()))?;
        self.routes = heard.routes;
        Ok(heard.usable)
    }

    /// By which address and link the kernel sends to each of `remotes`; none where no link leads there, or one of this machine alone. Nothing
    /// at all where the network has changed since the view that was [told](Self::next) last: the next is on its way.
    pub(crate) async fn ways(&self, remotes: Vec<IpAddr>) -> Vec<(IpAddr, Option<Local>)> {
        let answers = stream::iter(remotes).map(async |remote| {
            let found = route(&self.handle, remote).await;
            (remote, found.and_then(|found| way(&found, self.policy.tun)))
        });
        let ways = answers.buffered(QUESTIONS).collect().await;
        // Asked last: a change of which they show something shows here, too.
        if routes(&self.handle, &self.policy.coordinator).await == self.routes { ways } else { Vec::new() }
    }
}

/// Removes `address` from the link `index`.
pub(crate) async fn remove_address(index: u32, address: Ipv4Addr) -> io::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let mut task = JoinSet::new();
    task.spawn(connection);
    let is_it = |message: &AddressMessage| {
        message.header.index == index && local(message) == Some(IpAddr::V4(address))
    };
    let found: Vec<AddressMessage> = dump_addresses(&handle, AddressFamily::Inet)
        .try_filter(|message| ready(is_it(message)))
        .try_collect()
        .await?;
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
    views: &mpsc::Sender<io::Result<Heard>>,
) -> Result<std::convert::Infallible, io::Error> {
    let hidden = Virtual { tun: policy.tun, vips: policy.vips };
    loop {
        // What the kernel has told so far is part of the view that is taken now.
        while let Some(Some(_)) = events.next().now_or_never() {}
        let view = look(&handle, &policy.coordinator).await?;
        let usable = select::usable(&view, &hidden);
        tracing::debug!("usable addresses: {usable:?}");
        views.send(Ok(Heard { usable, routes: view.routes })).await.map_err(|_| closed())?;
        events.next().await.ok_or_else(closed)?;
    }
}

/// Takes a view. One question after the other: the kernel refuses a second list on a socket before the first has ended.
async fn look(handle: &Handle, coordinator: &[IpAddr]) -> io::Result<View> {
    let links = handle.link().get().execute().map_err(to_io);
    let links =
        links.try_filter(|link| ready(carries(link))).map_ok(|link| link.header.index).try_collect().await?;
    let mut addresses = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let of_family = dump_addresses(handle, family);
        addresses
            .extend(of_family.try_filter_map(|it| ready(Ok(address(&it)))).try_collect::<Vec<_>>().await?);
    }
    Ok(View { links, addresses, routes: routes(handle, coordinator).await })
}

/// The routes to the DC's addresses.
async fn routes(handle: &Handle, coordinator: &[IpAddr]) -> Vec<Route> {
    let mut routes = Vec::new();
    for address in coordinator {
        let found = route(handle, *address).await;
        routes.push(Route { to: Family::of(*address), source: found.as_ref().and_then(source) });
    }
    routes
}

fn carries(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp)
        && !link.header.flags.contains(LinkFlags::Loopback)
}

fn dump_addresses(
    handle: &Handle,
    family: AddressFamily,
) -> impl futures::Stream<Item = io::Result<AddressMessage>> + use<> {
    let mut request = handle.address().get();
    request.message_mut().header.family = family;
    request.execute().map_err(to_io)
}

fn address(message: &AddressMessage) -> Option<Address> {
    let flags = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    // Until IPv6's duplicate address detection has ended (RFC 4862) an address is not one's own; then it may be of use no more.
    let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    let is_global = message.header.scope == AddressScope::Universe
        && !flags.is_some_and(|flags| flags.intersects(unusable));
    Some(Address { link: message.header.index, address: local(message)?, is_global })
}

/// The machine's own address: on a point-to-point link, `Address` is the other end's. On other links IPv6 tells `Address` alone.
fn local(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = || {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address @ IpAddr::V6(_)) => Some(*address),
            _ => None,
        })
    };
    local.or_else(address)
}

/// The kernel's route to `remote`.
async fn route(handle: &Handle, remote: IpAddr) -> Option<RouteMessage> {
    let question = match remote {
        IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32).build(),
        IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, 128).build(),
    };
    let mut answers = std::pin::pin!(handle.route().get(question).execute());
    // An error: unreachable, prohibited, or no route at all.
    let error = |error| tracing::debug!("no route to {remote}: {}", to_io(error));
    answers.next().await?.map_err(error).ok()
}

/// The address that a packet by this route has as its source.
fn source(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(RouteAddress::Inet(source)) => Some(IpAddr::V4(*source)),
        RouteAttribute::PrefSource(RouteAddress::Inet6(source)) => Some(IpAddr::V6(*source)),
        _ => None,
    })
}

/// From where a packet by this route leaves, if it leaves the machine, and not by the virtual interface with the index `tun`.
fn way(route: &RouteMessage, tun: u32) -> Option<Local> {
    let link = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(link) => Some(*link),
        _ => None,
    });
    let link = link.filter(|link| route.header.kind == RouteType::Unicast && *link != tun);
    Some(Local { address: source(route)?, link: Some(link?) })
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

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::net::if_::if_nametoindex;
    use nix::sched::{CloneFlags, unshare};

    use super::*;

    fn ip(arguments: &str) {
        let done = Command::new("ip").args(arguments.split(' ')).status();
        assert!(done.expect("this test needs ip: apt-get install iproute2").success(), "ip {arguments}");
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// Runs `test` in a network namespace of its own, which goes with the thread.
    fn in_a_namespace(test: impl AsyncFnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("this test makes a network namespace: run it as root, on a kernel that has them");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(test());
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    /// T4.1.4-a: packets leave by the route of which the terminal has heard, even where the address that they come from is another link's.
    #[test]
    fn ways_are_those_of_the_network_that_was_told_last() {
        in_a_namespace(async || {
            let coordinator = address("198.51.100.1");
            for link in ["old", "new", "own"] {
                let end = format!("{link}-end");
                ip(&format!("link add {link} type veth peer name {end}"));
                [link, &end].iter().for_each(|link| ip(&format!("link set {link} up")));
            }
            let [old, new, own] = ["old", "new", "own"].map(|link| if_nametoindex(link).expect("a link"));
            ip("link set lo up");
            ip("addr add 10.0.0.2/24 dev old");
            ip("addr add 192.0.2.9/32 dev own");
            ip("route add default via 10.0.0.1 dev old metric 100");
            let vips = "198.18.0.0/15".parse().expect("a range");
            let mut watch =
                Watch::open(Policy { coordinator: vec![coordinator], tun: own, vips }).expect("netlink");
            // A link may carry packets a moment after it is up.
            while watch.next().await.expect("a view") != [address("10.0.0.2")] {}
            let remotes = vec![address("203.0.113.1"), address("127.0.0.1"), address("2001:db8::1")];
            let by = |text, link| Some(Local { address: address(text), link: Some(link) });
            let ways = |way| remotes.iter().copied().zip([way, None, None]).collect::<Vec<_>>();
            assert_eq!(watch.ways(remotes.clone()).await, ways(by("10.0.0.2", old)));

            ip("addr add 10.1.0.2/24 dev new");
            ip("route add default via 10.1.0.1 dev new metric 50");
            assert_eq!(watch.ways(remotes.clone()).await, [], "it was not told yet");
            while watch.next().await.expect("a view")[0] != address("10.1.0.2") {}
            assert_eq!(watch.ways(remotes.clone()).await, ways(by("10.1.0.2", new)));

            // A route alone is a change, too. What leads to the virtual interface leads nowhere.
            ip("route add 203.0.113.1/32 via 10.0.0.1 dev old src 192.0.2.9");
            assert_eq!(watch.next().await.expect("a view")[0], address("10.1.0.2"));
            assert_eq!(watch.ways(remotes.clone()).await, ways(by("192.0.2.9", old)));
            ip("route add 203.0.113.2/32 dev own");
            assert_eq!(watch.ways(vec![address("203.0.113.2")]).await, [(address("203.0.113.2"), None)]);
        });
    }
}
