//! `ntm-dc`: the Direction Coordinator.

use std::process::ExitCode;

use ntm_daemon::program::{self, Program};

fn main() -> ExitCode {
    let program = Program {
        name: "ntm-dc",
        version: env!("CARGO_PKG_VERSION"),
        about: "Direction Coordinator of NTMobile: registers terminals, serves their zone, and directs tunnels",
    };
    program::run(program, ntm_dc::config::prepare, ntm_dc::drive::serve)
}
