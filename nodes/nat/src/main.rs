//! `ntm-nat`: a NAT router. How it behaves is in the library of the same name; here is only the shell.

use std::net::Ipv4Addr;
use std::process::ExitCode;

use ntm_daemon::program::{self, Failure, Program};
use ntm_daemon::trace::TraceSink;
use ntm_daemon::{clock, control, notify, signals};
use ntm_nat::Behaviour;
use ntm_nat::router::config::Config;
use ntm_nat::router::listing::Listing;
use ntm_nat::router::ruleset::Router;
use ntm_nat::router::system::{self, Installed};
use serde::Serialize;

const PROGRAM: Program = Program {
    name: "ntm-nat",
    version: env!("CARGO_PKG_VERSION"),
    about: "A NAT router that behaves as declared (RFC 4787), by nftables",
};

/// The answer to `status`.
#[derive(Serialize)]
struct Status<'a> {
    name: &'a str,
    behaviour: Behaviour,
    external: Ipv4Addr,
    #[serde(flatten)]
    table: Listing,
}

/// One line of the trace.
#[derive(Serialize)]
struct Observed<'a> {
    t: u64,
    node: &'a str,
    /// `nat-ready` when the router begins, `nat-table` with its table when it ends.
    what: &'static str,
    behaviour: Behaviour,
    external: Ipv4Addr,
    #[serde(flatten)]
    table: Option<Listing>,
}

fn main() -> ExitCode {
    program::run(PROGRAM, |path| Ok(Config::load(path)?), serve)
}

async fn serve(config: Config) -> Result<(), Failure> {
    let (name, behaviour) = (config.name.as_str(), config.nat);
    let mut trace = TraceSink::open(config.trace.as_deref())?;
    let mut requests = control::Server::open(config.control.as_deref())?;
    let stop = signals::termination()?;
    tokio::pin!(stop);

    let external = system::external_address(&config)?;
    let router = Router {
        inside: &config.inside,
        outside: &config.outside,
        external,
        behaviour,
        forwards: &config.forwards,
    };
    let installed = Installed::new(&router)?;
    let observe =
        |what, table| Observed { t: clock::now().as_nanos(), node: name, what, behaviour, external, table };
    trace.write(&observe("nat-ready", None));
    trace.flush();
    notify::ready(&format!("{name} routes between {} and {}: {behaviour}", config.inside, config.outside));

    loop {
        tokio::select! {
            signal = &mut stop => break notify::stopping(signal),
            request = requests.next() => match request.command() {
                "status" => match table(external).await {
                    Ok(table) => request.answer(&Status { name, behaviour, external, table }),
                    Err(error) => request.refuse(&format!("{error:#}")),
                },
                "forget" => match system::forget(&router) {
                    Ok(()) => request.answer(&serde_json::json!({})),
                    Err(failure) => request.refuse(&failure.to_string()),
                },
                _ => request.refuse_unknown(&["status", "forget"]),
            },
        }
    }

    if trace.is_kept() {
        match table(external).await {
            Ok(table) => trace.write(&observe("nat-table", Some(table))),
            Err(error) => tracing::warn!("the last mapping table is not in the trace: {error:#}"),
        }
    }
    drop(installed);
    Ok(())
}

/// The router's table as it is now.
async fn table(external: Ipv4Addr) -> anyhow::Result<Listing> {
    Listing::read(&system::list().await?, external)
}
