//! The harness: it reads a scenario file, builds its world from network namespaces, starts the real daemons in it, lets
//! things happen, and judges what was measured on packets.
//!
//! # The map
//!
//! * [`scenario`]: the file: schema, units, and every mistake with its line.
//! * [`plan`]: PURE. From a scenario to addresses, zones and configurations.
//! * [`judge`]: PURE. Expectations: expressions over quantities, sequences over the trace, the verdict.
pub mod capture;
pub mod clock;
pub mod daemons;
pub mod exit;
pub mod flow;
pub mod judge;
pub mod measure;
pub mod plan;
pub mod scenario;
pub mod timeline;
pub mod trace;
pub mod world;
