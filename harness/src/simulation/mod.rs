//! A run in the simulator: the same scenario and plan, the same observations, quantities and verdict, in virtual time.
//!
//! [`build`] makes the simulated world of a plan, [`apps`] says what flows are there, [`play`] lets flows and the timeline run, [`told`] says what flows measured, [`seen`]
//! reads from the world what emulation reads from captures and daemons. Nothing here touches the machine: no namespace, no process, no clock.

pub mod apps;
pub mod build;
mod names;
pub mod play;
mod probing;
pub mod seen;
pub mod told;

use ntm_protocol::time::{Duration, Instant};

use crate::exit::Failure;
use crate::plan::Plan;
use crate::run::result::{Ending, Record};
use crate::scenario::model::Scenario;
use build::Built;
use seen::Watch;

/// A daemon that is not ready by then will not be, as in emulation.
const READY_WITHIN: Duration = Duration::from_secs(15);

/// Runs a scenario: what was recorded of it, and how it ended.
pub fn run(scenario: &Scenario, plan: &Plan) -> Result<(Record, Ending), Failure> {
    let mut built = build::build(scenario, plan)?;
    built.world.capture_all();
    start(&mut built, plan)?;
    let probes = probing::probe(plan, scenario.seed)?;
    let mut record = Record { origin: Instant::ZERO, probes, ..Record::default() };
    record.ready = built.world.now().as_nanos();
    record.start = record.ready;
    let mut watch = Watch::new(plan);
    let ending = play::play(scenario, plan, &mut built, &mut watch, &mut record)?;
    watch.collect(&mut built, &mut record);
    record.recordings = watch.recordings();
    seen::read(&built, &mut record)?;
    Ok((record, ending))
}

/// Starts everybody, the terminals last, and waits until all are registered.
fn start(built: &mut Built, plan: &Plan) -> Result<(), Failure> {
    for terminals in [false, true] {
        let hosts: Vec<_> = plan.hosts.iter().filter(|host| host.is_terminal() == terminals).collect();
        for host in &hosts {
            let id = built.host(&host.name)?;
            build::configure(&mut built.world.settings, &host.role);
            built.world.start(id);
        }
        let mut waited_for = Vec::new();
        for host in hosts.iter().filter(|host| host.interfaces.iter().any(|interface| interface.up)) {
            waited_for.push(built.host(&host.name)?);
        }
        let is_ready = |world: &ntm_sim::World, id| match (world.at_terminal(id), world.at_relay(id)) {
            (Some(terminal), _) => terminal.is_registered(),
            (_, Some(relay)) => relay.is_registered(),
            (None, None) => true,
        };
        let ready = built.world.wait(READY_WITHIN, |world| waited_for.iter().all(|id| is_ready(world, *id)));
        if !ready {
            let late = waited_for.iter().find(|id| !is_ready(&built.world, **id));
            let name = late.map_or("?", |id| built.world.name(*id));
            return Err(Failure::error(format!("`{name}` was not ready within {READY_WITHIN:?}")));
        }
    }
    Ok(())
}
