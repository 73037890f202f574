//! The `harness` command; see the library for what it does.

use std::process::ExitCode;

fn main() -> ExitCode {
    ntm_harness::cli::main(ntm_harness::clock::now())
}
