//! Any command, run on a node.

use std::time::Duration;

use super::process::Process;
use super::{Place, Quantities};
use crate::clock;
use crate::exit::Failure;
use crate::judge::expr::Value;

/// The environment variable that tells a command its flow's port, which a router may forward.
const PORT: &str = "NTM_PORT";

/// Runs `command` on the flow's node for at most `timeout`.
pub async fn run(
    id: &str,
    command: &[String],
    timeout: Duration,
    place: &Place,
) -> Result<Quantities, Failure> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::usage(format!("flow `{id}` has an empty command")));
    };
    let started = clock::now();
    let mut process = Process::start(id, &place.from, program, &place.folder, |command| {
        command.args(arguments).env(PORT, place.port.to_string());
    })?;
    let exit = match process.finish(place.at_most(timeout)).await {
        Some(status) => {
            status.code().map(f64::from).ok_or_else(|| format!("{program} was ended by a signal: {status}"))
        }
        None => Err(format!("{program} did not end within {timeout:?}")),
    };
    Ok(Quantities::from([
        ("exit".to_owned(), exit.map(Value::Number)),
        ("stdout".to_owned(), Ok(Value::Text(process.printed().trim_end().to_owned()))),
        ("time_ms".to_owned(), Ok(Value::Number(clock::now().since(started).as_secs_f64() * 1e3))),
    ]))
}
