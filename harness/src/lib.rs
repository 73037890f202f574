//! The harness: it reads a scenario file, builds its world from network namespaces, starts the real daemons in it, lets
//! things happen, and judges what was measured on packets.
//!
//! # The map
//!
//! * [`cli`], [`exit`], [`progress`]: commands, exit codes, how far long work is. [`run`] is one run from file to verdict; [`doctor`] looks at the machine;
//!   [`state`] remembers what `clean` may remove.
//! * [`matrix`]: a scenario in all its variations, once or in rounds. [`statistics`]: PURE. What several measurements amount to.
//! * [`mod@bench`]: our paths beside the kernel and other tunnels, judged by ratios inside one run.
//! * [`scenario`]: the file: schema, units, and every mistake with its line.
//! * [`plan`]: PURE. From a scenario to addresses, zones and configurations.
//! * [`engine`]: the two worlds a scenario can be run in. [`simulation`]: the one without packets.
//! * [`world`]: private namespaces, links, addresses, routes. [`daemons`]: the processes in it.
//! * [`probe`]: whether each NAT is what the scenario says. [`wire`]: links with delay, jitter and loss in user space, for kernels without netem.
//! * [`foreign`]: tunnels by other programs, to be measured beside ours.
//! * [`flow`], [`timeline`]: what happens. [`capture`], [`trace`]: what is recorded of it, on one [`clock`].
//! * [`worlds`]: random worlds of the simulator, and each again by its seed.
//! * [`lab`]: a world that stays up, to type commands in.
//! * [`measure`], [`judge`]: PURE. Quantities from recordings; expectations, sequences, verdict.
//! * [`disturbance`]: whether the machine disturbed what was measured; `processors`: which threads run where, and before whom.
//! * [`first_packet`]: PURE. What an application's first packet by name waits for.
//! * [`transitions`]: PURE. The addresses of packets at every hop, as the thesis's figures have them.
//! * [`report`]: the run's files. [`compare`]: two sets of runs, side by side.
//!   [`bundle`]: what makes a run again. [`mod@reference`]: the results in `reports/`.
//!
//! # A run
//!
//! ```text
//! file ─ scenario ─ plan ─┬─ world ── daemons ready ── flows + timeline ── all ended ─┬─ measure ─ judge ─ report
//!        (exit 2)  (exit 4)└─ in a PID namespace that dies with the harness ──────────┘  (exit 0 or 1)
//! ```

pub mod bench;
pub mod bundle;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod compare;
pub mod daemons;
pub mod disturbance;
pub mod doctor;
pub mod engine;
pub mod exit;
pub mod first_packet;
pub mod flow;
pub mod foreign;
pub mod judge;
pub mod lab;
pub mod matrix;
pub mod measure;
pub mod plan;
pub mod probe;
mod processors;
pub mod progress;
pub mod reference;
pub mod report;
pub mod run;
pub mod scenario;
pub mod simulation;
pub mod state;
pub mod statistics;
pub mod stdout;
pub mod timeline;
pub mod trace;
pub mod transitions;
pub mod wire;
pub mod world;
pub mod worlds;
