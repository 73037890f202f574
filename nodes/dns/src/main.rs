//! `ntm-dns`: an ordinary authoritative DNS server. What it does is in the library of the same name.

use std::path::Path;
use std::process::ExitCode;

use ntm_daemon::program::{self, Failure, Program};
use ntm_daemon::trace::TraceSink;
use ntm_daemon::{control, notify, signals};
use ntm_dns::config::Config;
use ntm_dns::server::{Counts, DnsServer, Traced};
use serde::Serialize;

const PROGRAM: Program = Program {
    name: "ntm-dns",
    version: env!("CARGO_PKG_VERSION"),
    about: "An ordinary authoritative DNS server, from zone files",
};

/// The answer to `status`.
#[derive(Serialize)]
struct Status<'a> {
    name: &'a str,
    zones: &'a [String],
    answered: Counts,
}

fn main() -> ExitCode {
    program::run(PROGRAM, |path: &Path| Config::load(path), serve)
}

async fn serve(config: Config) -> Result<(), Failure> {
    let zones: Vec<String> = config.zones.origins().map(ToString::to_string).collect();
    let trace = TraceSink::open(config.trace.as_deref())?;
    let mut requests = control::Server::open(config.control.as_deref())?;
    let stop = signals::termination()?;
    tokio::pin!(stop);
    let mut server =
        DnsServer::start(&config.name, config.zones, &config.listen, trace, Traced::Everything).await?;
    notify::ready(&format!("{} serves {} on {:?}", config.name, zones.join(" "), server.addresses()));
    loop {
        tokio::select! {
            signal = &mut stop => break notify::stopping(signal),
            error = server.failed() => return Err(error.into()),
            request = requests.next() => match request.command() {
                "status" => request.answer(&Status { name: &config.name, zones: &zones, answered: server.counts() }),
                _ => request.refuse_unknown(&["status"]),
            },
        }
    }
    server.shut_down().await;
    Ok(())
}
