//! What happens in a scenario: each action at its moment, done to the world and noted in the trace.

use std::time::Duration;

use serde_json::json;
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
    /// When the new address and its route were up.
    pub joined: u64,
}

/// Does `actions`, each at its time after `start`; every handover done is pushed to `done` at once.
pub async fn play(
    actions: &[Action],
    plan: &Plan,
    world: &mut World,
    trace: &Trace,
    start: Instant,
    done: &mut Vec<Handover>,
) -> Result<(), Failure> {
    for action in actions {
        tokio::time::sleep_until(start + action.time).await;
        match &action.kind {
            ActionKind::Handover { node, from, to, gap } => {
                let node = node.get_ref();
                let (old, new) =
                    (interface(plan, node, from.get_ref())?, interface(plan, node, to.get_ref())?);
                let left = trace.note(node, "left", about(old));
                world.leave(node, old).await?;
                tokio::time::sleep(*gap).await;
                world.join(node, new).await?;
                let joined = trace.note(node, "joined", about(new));
                let (from, to) = (old.name.clone(), new.name.clone());
                done.push(Handover { node: node.clone(), from, to, gap: *gap, left, joined });
            }
            ActionKind::Interface { node, name, up } => {
                let (node, interface) = (node.get_ref(), interface(plan, node.get_ref(), name.get_ref())?);
                if *up {
                    world.join(node, interface).await?;
                    trace.note(node, "joined", about(interface));
                } else {
                    trace.note(node, "left", about(interface));
                    world.leave(node, interface).await?;
                }
            }
            ActionKind::Link { name, shape } => {
                for (node, interface, at) in plan.on_link(name.get_ref()) {
                    world.shape(node, interface, &at, shape).await?;
                }
                trace.note(name.get_ref(), "link", json!({ "up": shape.up, "down": shape.down }));
            }
        }
    }
    Ok(())
}

fn interface<'a>(plan: &'a Plan, node: &str, name: &str) -> Result<&'a InterfacePlan, Failure> {
    plan.host(node)
        .and_then(|host| host.interfaces.iter().find(|interface| interface.name == name))
        .ok_or_else(|| Failure::error(format!("`{node}` has no interface {name}")))
}

fn about(interface: &InterfacePlan) -> serde_json::Value {
    json!({ "interface": interface.name, "address": interface.address })
}
