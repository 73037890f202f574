//! The two worlds that a scenario can be run in.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::Serialize;

/// Where a scenario is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, ValueEnum, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Real daemons on real packets in network namespaces.
    #[default]
    Emulation,
    /// The same machines in one thread under virtual time.
    #[value(alias = "sim")]
    Simulation,
}

impl Engine {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Emulation => "emulation",
            Self::Simulation => "simulation",
        }
    }
}

/// Which worlds a command uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engines {
    /// Real daemons on real packets in network namespaces
    Emulation,
    /// The same machines in one thread under virtual time: no root, no waiting
    #[value(alias = "sim")]
    Simulation,
    /// Both, and what differs
    Both,
}

impl Engines {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Self::Emulation => Engine::Emulation.word(),
            Self::Simulation => Engine::Simulation.word(),
            Self::Both => "both",
        }
    }

    /// Each of them.
    pub fn all(self) -> &'static [Engine] {
        match self {
            Self::Emulation => &[Engine::Emulation],
            Self::Simulation => &[Engine::Simulation],
            Self::Both => &[Engine::Emulation, Engine::Simulation],
        }
    }
}
