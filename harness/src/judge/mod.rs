//! Whether what was measured is what the scenario expects.
//!
//! [`catalogue`] says before a run which quantities it will measure, [`expr`] is the language of `check`, [`sequence`] that of
//! `sequence`; [`routes`] knows which way paths take and should take; [`verdict`] joins them when the run is over, and [`excuse`]
//! what failed only because the machine disturbed it.

pub mod catalogue;
pub mod excuse;
pub mod expr;
pub mod routes;
pub mod sequence;
pub mod verdict;
