//! Links, addresses and routes of one network namespace, over one rtnetlink socket that also hears the kernel's events.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use futures::channel::mpsc::UnboundedReceiver;
use futures::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMetric, RouteScope};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, MulticastGroup, RouteMessageBuilder,
    new_multicast_connection,
};

use crate::exit::Failure;
use crate::scenario::prefix::Prefix;
use crate::wire::Trains;

/// The kernel says within this time that a link is up, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a route leads.
#[derive(Debug, Clone, Copy)]
pub enum RouteTo {
    /// To a network, directly on a link.
    Link(u32, Prefix),
    /// To everywhere, by a gateway.
    Gateway(Ipv4Addr),
}

/// A namespace's links, addresses and routes.
pub struct Net {
    name: String,
    handle: Handle,
    events: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>,
}

impl Net {
    /// Opens the socket in the namespace that the thread is in; `name` is for messages. Needs a tokio runtime.
    pub fn open(name: &str) -> Result<Self, Failure> {
        let (connection, handle, events) = new_multicast_connection(&[MulticastGroup::Link])
            .map_err(Failure::during(format!("netlink socket of `{name}`")))?;
        tokio::spawn(connection);
        Ok(Self { name: name.to_owned(), handle, events })
    }

    fn during(&self, what: impl std::fmt::Display) -> impl FnOnce(rtnetlink::Error) -> Failure {
        let name = self.name.clone();
        let what = what.to_string();
        move |error| Failure::error(format!("`{name}`: {what}: {error}"))
    }

    /// The index of the link `link`.
    pub async fn index(&self, link: &str) -> Result<u32, Failure> {
        let mut found = self.handle.link().get().match_name(link.to_owned()).execute();
        let message = found.try_next().await.map_err(self.during(format!("link {link}")))?;
        message
            .map(|message| message.header.index)
            .ok_or_else(|| Failure::error(format!("`{}` has no link {link}", self.name)))
    }

    /// Lets the kernel act on the link's carrier now. By itself it does so at its leisure, up to a second later, and until then a bridge
    /// drops what comes by a port that is up again; who asks for one link gets what is true, so it must act first.
    pub async fn settle(&self, link: &str) -> Result<(), Failure> {
        self.index(link).await.map(drop)
    }

    /// Makes a bridge that is up.
    pub async fn add_bridge(&self, bridge: &str) -> Result<u32, Failure> {
        let request = self.handle.link().add(LinkBridge::new(bridge).build());
        request.execute().await.map_err(self.during(format!("bridge {bridge}")))?;
        self.index(bridge).await
    }

    /// Makes a pair of links: `port` here, up and on the bridge `bridge` if there is one, and `link` directly in the namespace `there`.
    pub async fn add_pair(
        &self,
        port: &str,
        bridge: Option<u32>,
        link: &str,
        there: &impl AsFd,
    ) -> Result<(), Failure> {
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(link.to_owned())
            .setns_by_fd(there.as_fd().as_raw_fd())
            .build();
        let pair = LinkMessageBuilder::<LinkVeth>::new(port, link)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .up();
        let pair = bridge.into_iter().fold(pair, LinkMessageBuilder::controller).build();
        self.handle.link().add(pair).execute().await.map_err(self.during(format!("links {port} and {link}")))
    }

    /// Removes a link, and the other end with it.
    pub async fn remove_link(&self, index: u32) -> Result<(), Failure> {
        self.handle.link().del(index).execute().await.map_err(self.during("removing a link"))
    }

    /// Switches a link on or off.
    pub async fn set_up(&self, index: u32, up: bool) -> Result<(), Failure> {
        let message = LinkUnspec::new_with_index(index);
        let message = if up { message.up() } else { message.down() };
        self.handle.link().set(message.build()).execute().await.map_err(self.during("switching a link"))
    }

    /// Lets the kernel hand a link no longer trains of packets than `trains`.
    pub async fn limit_trains(&self, index: u32, trains: Trains) -> Result<(), Failure> {
        let message = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::GsoMaxSize(trains.bytes))
            .append_extra_attribute(LinkAttribute::GsoMaxSegs(trains.packets));
        let request = self.handle.link().set(message.build());
        request.execute().await.map_err(self.during("limiting the trains of a link"))
    }

    /// Waits until the kernel says that the link carries packets: administratively up, the other end too.
    pub async fn wait_running(&mut self, index: u32) -> Result<(), Failure> {
        let wanted = LinkFlags::Running | LinkFlags::LowerUp;
        let mut now = self.handle.link().get().match_index(index).execute();
        let message = now.try_next().await.map_err(self.during("reading a link"))?;
        if message.is_some_and(|message| message.header.flags.contains(wanted)) {
            return Ok(());
        }
        let running =
            |message: &LinkMessage| message.header.index == index && message.header.flags.contains(wanted);
        let wait = async {
            while let Some((event, _)) = self.events.next().await {
                if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) = &event.payload
                    && running(message)
                {
                    return true;
                }
            }
            false
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Failure::error(format!(
                "`{}`: link {index} did not come up within {PATIENCE:?}",
                self.name
            ))),
        }
    }

    /// Gives a link an address, in a network of that prefix length.
    pub async fn add_address(&self, index: u32, address: IpAddr, length: u8) -> Result<(), Failure> {
        let request = self.handle.address().add(index, address, length);
        request.execute().await.map_err(self.during(format!("address {address}")))
    }

    /// Takes an IPv4 address away, with the routes that need it.
    pub async fn remove_address(&self, index: u32, address: Ipv4Addr, length: u8) -> Result<(), Failure> {
        let message =
            rtnetlink::AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, length).build();
        self.handle.address().del(message).execute().await.map_err(self.during(format!("address {address}")))
    }

    /// A route to the network `net`, an address with a prefix length, by `gateway`; to everywhere in the gateway's family without `net`.
    pub async fn add_route(&self, net: Option<(IpAddr, u8)>, gateway: IpAddr) -> Result<(), Failure> {
        let route = self.by(gateway, net)?;
        let shown = net.map_or_else(|| "default".to_owned(), |(base, length)| format!("{base}/{length}"));
        let request = self.handle.route().add(route.build());
        request.execute().await.map_err(self.during(format!("route {shown} by {gateway}")))
    }

    /// A route to everywhere in the family of `gateway`, by it, on the link `index`, in place of the one of the same `metric`: the lowest
    /// is preferred.
    pub async fn set_default(&self, index: u32, gateway: IpAddr, metric: u32) -> Result<(), Failure> {
        let route = self.by(gateway, None)?.output_interface(index).priority(metric);
        let request = self.handle.route().add(route.build()).replace();
        request.execute().await.map_err(self.during(format!("default route by {gateway}")))
    }

    /// Passes no longer packets on to `net` than `mtu` bytes: by the link `index`, or to everywhere by `gateway`.
    pub async fn limit_route(&self, to: RouteTo, mtu: u16) -> Result<(), Failure> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new();
        let (route, shown) = match to {
            RouteTo::Link(index, net) => (
                route
                    .destination_prefix(net.base(), net.length())
                    .output_interface(index)
                    .scope(RouteScope::Link),
                net.to_string(),
            ),
            RouteTo::Gateway(gateway) => (route.gateway(gateway), "default".to_owned()),
        };
        let mut message = route.build();
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu.into())]));
        let request = self.handle.route().add(message).replace();
        request.execute().await.map_err(self.during(format!("MTU {mtu} of the route {shown}")))
    }

    /// The beginning of a route to `net`, or to everywhere in the family of `gateway`, by `gateway`.
    fn by(&self, gateway: IpAddr, net: Option<(IpAddr, u8)>) -> Result<RouteMessageBuilder<IpAddr>, Failure> {
        let everywhere = match gateway {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let (base, length) = net.unwrap_or((everywhere, 0));
        // The destination first: it says the family.
        let route = RouteMessageBuilder::<IpAddr>::new().destination_prefix(base, length);
        route
            .and_then(|route| route.gateway(gateway))
            .map_err(|error| Failure::error(format!("`{}`: a route by {gateway}: {error}", self.name)))
    }

    /// The names of all links, for tests and messages.
    pub async fn links(&self) -> Result<Vec<String>, Failure> {
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(self.during("reading links"))?;
        let name = |link: LinkMessage| {
            link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            })
        };
        Ok(links.into_iter().filter_map(name).collect())
    }
}
