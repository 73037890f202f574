//! Whether what was measured is what the scenario expects.
//!
//! [`catalogue`] says before a run which quantities it will measure, [`expr`] is the language of `check`, [`sequence`] that of
//! `sequence`; [`routes`] knows which way paths take and should take; [`verdict`] joins them when the run is over.

pub mod catalogue;
pub mod expr;
pub mod routes;
pub mod sequence;
pub mod verdict;
