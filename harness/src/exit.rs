//! Exit codes, and the failures that lead to them.

use std::fmt;

/// Exit codes of every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything that was expected held.
    Held = 0,
    /// An expectation failed.
    Failed = 1,
    /// Bad usage, or a scenario with mistakes.
    Usage = 2,
    /// Set-up or internal error: nothing was judged.
    Error = 3,
    /// This machine cannot run it.
    Unable = 4,
    /// The machine disturbed the run.
    Inconclusive = 5,
    /// The run took longer than its `timeout`.
    TimedOut = 124,
    /// SIGINT or SIGTERM.
    Interrupted = 130,
}

impl Exit {
    /// In a word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Failed => "failed",
            Self::Usage => "refused",
            Self::Error => "error",
            Self::Unable => "unable",
            Self::Inconclusive => "inconclusive",
            Self::TimedOut => "timed out",
            Self::Interrupted => "interrupted",
        }
    }

    /// The exit that `code` is; [`Exit::Error`] if it is none.
    pub fn of(code: u8) -> Self {
        let known = [
            Self::Held,
            Self::Failed,
            Self::Usage,
            Self::Unable,
            Self::Inconclusive,
            Self::TimedOut,
            Self::Interrupted,
        ];
        known.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Self::Error)
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command could not do its work: a code and a text for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, where, and what to do.
    pub message: String,
}

impl Failure {
    /// Bad usage or a bad scenario.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into() }
    }

    /// Something went wrong that should not.
    pub fn error(message: impl Into<String>) -> Self {
        Self { exit: Exit::Error, message: message.into() }
    }

    /// The machine lacks something.
    pub fn unable(message: impl Into<String>) -> Self {
        Self { exit: Exit::Unable, message: message.into() }
    }

    /// Turns any error into an internal one, saying what was being done.
    pub fn during<E: fmt::Display>(what: impl fmt::Display) -> impl FnOnce(E) -> Self {
        move |error| Self::error(format!("{what}: {error}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
