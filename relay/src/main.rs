//! `ntm-relay`: the relay server. What it does is in the library of the same name.

use std::process::ExitCode;

use ntm_daemon::program::{self, Program};
use ntm_relay::config::Config;
use ntm_relay::drive;

const PROGRAM: Program = Program {
    name: "ntm-relay",
    version: env!("CARGO_PKG_VERSION"),
    about: "A relay server: switches between tunnels (RS-S), translates for general nodes (RS-N)",
};

fn main() -> ExitCode {
    program::run(PROGRAM, Config::load, drive::run)
}
