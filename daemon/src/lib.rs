//! What every daemon's shell shares, so that a daemon's `main.rs` holds only what is its own.
//!
//! * [`program`]: the command line, the runtime, and which failure gives which exit code.
//! * [`addresses`]: where a node is reached, as configurations say it.
//! * [`config`]: TOML configuration whose errors show the file, the line and the column.
//! * [`keys`]: the file of keys shared beforehand (T3.1-e).
//! * [`notify`]: readiness and status for whoever started the daemon.
//! * [`control`]: the control socket; requests come to the daemon's own loop over a channel.
//! * [`trace`]: observations as JSON lines.
//! * [`nft`]: the program that puts nftables rules in place.
//! * [`queue`]: room for what comes to a server faster than it takes it.
//! * [`logging`], [`signals`], [`clock`]: logs, SIGTERM and SIGINT, time and entropy.
//!
//! # A daemon
//!
//! ```no_run
//! use std::path::{Path, PathBuf};
//! use std::process::ExitCode;
//!
//! use ntm_daemon::program::{self, Failure, Program};
//! use ntm_daemon::{clock, config, control, notify, signals, trace::TraceSink};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     name: String,
//!     trace: Option<PathBuf>,
//!     control: Option<PathBuf>,
//! }
//!
//! fn main() -> ExitCode {
//!     let program = Program { name: "ntm-example", version: env!("CARGO_PKG_VERSION"), about: "An example" };
//!     program::run(program, prepare, serve)
//! }
//!
//! fn prepare(path: &Path) -> Result<Config, Failure> {
//!     Ok(config::load(path)?)
//! }
//!
//! async fn serve(config: Config) -> Result<(), Failure> {
//!     let mut trace = TraceSink::open(config.trace.as_deref())?;
//!     let mut requests = control::Server::open(config.control.as_deref())?;
//!     let stop = signals::termination()?;
//!     tokio::pin!(stop);
//!     notify::ready(&format!("{} serves", config.name));
//!     loop {
//!         trace.flush();
//!         tokio::select! {
//!             signal = &mut stop => break notify::stopping(signal),
//!             request = requests.next() => match request.command() {
//!                 "status" => request.answer(&serde_json::json!({ "now": clock::now() })),
//!                 _ => request.refuse_unknown(&["status"]),
//!             },
//!         }
//!     }
//!     Ok(())
//! }
//! ```

const _: () =
    assert!(!ntm_protocol::HAS_MUTANTS, "what is shipped must not be able to have the faults of the past");

pub mod addresses;
pub mod clock;
pub mod config;
pub mod control;
pub mod keys;
pub mod logging;
pub mod nft;
pub mod notify;
pub mod program;
pub mod queue;
pub mod signals;
pub mod trace;
