//! What happens in a scenario: each action at its moment, done to the world and noted in the trace.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::exit::Failure;
use crate::plan::{InterfacePlan, Plan};
use crate::scenario::model::{Action, ActionKind};
use crate::trace::Trace;
use crate::world::build::World;

/// A handover as it was done; times in nanoseconds of the run's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// Who moved.
    pub node: String,
    /// The interface it left.
    pub from: String,
    /// The interface it went on with.
    pub to: String,
    /// The gap that the scenario asks for.
    pub gap: Duration,
    /// When it began to leave.
    pub left: u64,
    /// When the new address and its route were up: with an overlap, before it left.
    pub joined: u64,
}

impl Handover {
    /// When it began: by leaving the old network, or by joining the new one.
    pub fn began(&self) -> u64 {
        self.left.min(self.joined)
    }
}

/// What is to be done with a node's daemon, by who holds them; answered when it is done.
#[derive(Debug)]
pub struct Order {
    /// Whose.
    pub node: String,
    /// Killed, or started.
    pub kind: OrderKind,
    /// Where to say that it is done.
    pub done: oneshot::Sender<Result<(), Failure>>,
}

/// What can be done with a daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderKind {
    /// As by `kill -9`.
    Kill,
    /// Started again.
    Start,
}

/// Does `actions`, each at its time after `start`; every handover done is pushed to `done` at once. What concerns daemons goes to `orders`.
pub async fn play(
    actions: &[Action],
    plan: &Plan,
    world: &mut World,
    trace: &Trace,
    start: Instant,
    orders: &mpsc::Sender<Order>,
    done: &mut Vec<Handover>,
) -> Result<(), Failure> {
    let mut addresses = Addresses::default();
    for action in actions {
        tokio::time::sleep_until(start + action.time).await;
        done.extend(act(&action.kind, plan, &mut addresses, world, trace, orders).await?);
    }
    Ok(())
}

/// Does one action now; a handover is told. `addresses` are those that are no more as planned, and is kept so.
pub async fn act(
    action: &ActionKind,
    plan: &Plan,
    addresses: &mut Addresses,
    world: &mut World,
    trace: &Trace,
    orders: &mpsc::Sender<Order>,
) -> Result<Option<Handover>, Failure> {
    match action {
        ActionKind::Handover { node, from, to, gap, overlap } => {
            let node = node.get_ref();
            let old = interface(plan, addresses, node, from.get_ref())?;
            let new = interface(plan, addresses, node, to.get_ref())?;
            let (left, joined) = if overlap.is_zero() {
                let left = trace.note(node, "left", about(&old));
                world.leave(node, &old).await?;
                tokio::time::sleep(*gap).await;
                trace.note(node, "link-up", about(&new));
                world.join(node, &new).await?;
                (left, trace.note(node, "joined", about(&new)))
            } else {
                trace.note(node, "link-up", about(&new));
                world.join(node, &new).await?;
                let joined = trace.note(node, "joined", about(&new));
                tokio::time::sleep(*overlap).await;
                let left = trace.note(node, "left", about(&old));
                world.leave(node, &old).await?;
                (left, joined)
            };
            let (from, to) = (old.name, new.name);
            return Ok(Some(Handover { node: node.clone(), from, to, gap: *gap, left, joined }));
        }
        ActionKind::Address { node, interface: name, address } => {
            let (node, name) = (node.get_ref(), name.get_ref());
            let mut changed = interface(plan, addresses, node, name)?;
            trace.note(node, "left", about(&changed));
            world.readdress(node, &changed, *address.get_ref()).await?;
            changed.address = (*address.get_ref()).into();
            trace.note(node, "joined", about(&changed));
            addresses.insert((node.clone(), name.clone()), changed.address);
        }
        ActionKind::Interface { node, name, up } => {
            let node = node.get_ref();
            let interface = interface(plan, addresses, node, name.get_ref())?;
            if *up {
                world.join(node, &interface).await?;
                trace.note(node, "joined", about(&interface));
            } else {
                trace.note(node, "left", about(&interface));
                world.leave(node, &interface).await?;
            }
        }
        ActionKind::Link { name, shape } => {
            for (node, interface, at) in plan.on_link(name.get_ref()) {
                world.shape(node, interface, &at, shape).await?;
            }
            trace.note(name.get_ref(), "link", json!({ "up": shape.up, "down": shape.down }));
        }
        ActionKind::Kill { node } => {
            order(orders, node.get_ref(), OrderKind::Kill).await?;
            trace.note(node.get_ref(), "killed", json!({}));
        }
        ActionKind::Start { node } => {
            trace.note(node.get_ref(), "started", json!({}));
            order(orders, node.get_ref(), OrderKind::Start).await?;
        }
    }
    Ok(None)
}

async fn order(orders: &mpsc::Sender<Order>, node: &str, kind: OrderKind) -> Result<(), Failure> {
    let (done, answer) = oneshot::channel();
    let gone = || Failure::error(format!("nobody holds the daemon of `{node}` any more"));
    orders.send(Order { node: node.to_owned(), kind, done }).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

/// By node and interface.
pub type Addresses = BTreeMap<(String, String), IpAddr>;

/// The interface as it is now.
pub fn interface(
    plan: &Plan,
    addresses: &Addresses,
    node: &str,
    name: &str,
) -> Result<InterfacePlan, Failure> {
    let planned = plan
        .host(node)
        .and_then(|host| host.interfaces.iter().find(|interface| interface.name == name))
        .ok_or_else(|| Failure::error(format!("`{node}` has no interface {name}")))?;
    let address = addresses.get(&(node.to_owned(), name.to_owned())).copied().unwrap_or(planned.address);
    Ok(InterfacePlan { address, ..planned.clone() })
}

/// What the trace says of an interface.
pub fn about(interface: &InterfacePlan) -> serde_json::Value {
    let second = interface.v6.map(|(own, _)| IpAddr::V6(own)).filter(|own| *own != interface.address);
    match second {
        None => json!({ "interface": interface.name, "address": interface.address }),
        Some(own) => json!({ "interface": interface.name, "address": interface.address, "address6": own }),
    }
}
