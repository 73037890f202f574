//! The command line of a daemon, its runtime, and which failure gives which exit code.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fmt, io};

use clap::{CommandFactory, FromArgMatches, Parser};

use crate::config::ConfigError;
use crate::keys::KeyFileError;
use crate::logging;

/// What a daemon says of itself in `--help` and `--version`.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The binary's name.
    pub name: &'static str,
    /// Its version: `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
    /// One sentence on what it is.
    pub about: &'static str,
}

/// The arguments that every daemon takes.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
pub struct Args {
    /// The configuration file (TOML); relative paths in it start from its own folder
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Read the configuration and the files it names, say whether they are right, and end
    #[arg(long)]
    pub check: bool,
}

/// Why a daemon ended; each kind has its exit code.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 2: the configuration, or a file it names, is wrong. The text says where, and what to do.
    Config(String),
    /// Exit code 4: this machine lacks something (a right, a device, a kernel feature). The text says what to do.
    Lacks(String),
    /// Exit code 3: anything else.
    Other(anyhow::Error),
}

impl Failure {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Config(_) => 2,
            Failure::Other(_) => 3,
            Failure::Lacks(_) => 4,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Config(text) | Failure::Lacks(text) => f.write_str(text),
            // The alternate form joins the causes: `opening the TUN: ntm0: operation not permitted`.
            Failure::Other(error) => write!(f, "{error:#}"),
        }
    }
}

impl std::error::Error for Failure {}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::Config(error.to_string())
    }
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        Failure::Config(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Other(error.into())
    }
}

impl From<anyhow::Error> for Failure {
    /// Keeps the kind of a [`Failure`], [`ConfigError`] or [`KeyFileError`] that passed through `anyhow`, with the context added to it.
    fn from(error: anyhow::Error) -> Self {
        let text = format!("{error:#}");
        match error.downcast_ref::<Failure>() {
            Some(Failure::Config(_)) => return Failure::Config(text),
            Some(Failure::Lacks(_)) => return Failure::Lacks(text),
            Some(Failure::Other(_)) | None => {}
        }
        if error.is::<ConfigError>() || error.is::<KeyFileError>() {
            return Failure::Config(text);
        }
        Failure::Other(error)
    }
}

/// Runs a daemon: `prepare` reads and checks the configuration at the path given, and, unless only `--check` was asked for, `main`
/// serves on a tokio current-thread runtime until it is told to stop.
///
/// An error is one readable message on stderr, and the exit code of its [`Failure`].
pub fn run<C>(
    program: Program,
    prepare: impl FnOnce(&Path) -> Result<C, Failure>,
    main: impl AsyncFnOnce(C) -> Result<(), Failure>,
) -> ExitCode {
    // Wrong usage, --help and --version end the process in here (exit codes 2, 0 and 0).
    let matches = command(program).get_matches();
    let result = Args::from_arg_matches(&matches)
        .map_err(|error| Failure::Config(error.to_string()))
        .and_then(|args| run_with(&args, prepare, main));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}: {failure}", program.name);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn command(program: Program) -> clap::Command {
    Args::command().name(program.name).version(program.version).about(program.about)
}

fn run_with<C>(
    args: &Args,
    prepare: impl FnOnce(&Path) -> Result<C, Failure>,
    main: impl AsyncFnOnce(C) -> Result<(), Failure>,
) -> Result<(), Failure> {
    logging::init().map_err(Failure::Config)?;
    let prepared = prepare(&args.config)?;
    if args.check {
        println!("{} is right", args.config.display());
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(main(prepared))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    const PROGRAM: Program = Program { name: "ntm-test", version: "1.2.3", about: "A daemon for tests" };

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        let matches = command(PROGRAM).try_get_matches_from(words)?;
        Args::from_arg_matches(&matches)
    }

    #[test]
    fn the_command_line() {
        let args = parse(&["ntm-test", "--config", "a.toml", "--check"]).expect("arguments");
        assert_eq!(args, Args { config: "a.toml".into(), check: true });
        assert_eq!(parse(&["ntm-test"]).unwrap_err().exit_code(), 2);
        assert_eq!(parse(&["ntm-test", "--version"]).unwrap_err().to_string(), "ntm-test 1.2.3\n");
        insta::assert_snapshot!(parse(&["ntm-test", "--help"]).unwrap_err().to_string(), @"
        A daemon for tests

        Usage: ntm-test [OPTIONS] --config <FILE>

        Options:
              --config <FILE>  The configuration file (TOML); relative paths in it start from its own folder
              --check          Read the configuration and the files it names, say whether they are right, and end
          -h, --help           Print help
          -V, --version        Print version
        ");
    }

    #[test]
    fn only_check_does_not_serve() {
        let args = |check| Args { config: "a.toml".into(), check };
        let mut served = false;
        run_with(&args(true), |_| Ok(7), async |_| unreachable!("only --check was asked for"))
            .expect("checked");
        run_with(
            &args(false),
            |path| Ok(path.to_owned()),
            async |path| {
                served = path == Path::new("a.toml");
                Ok(())
            },
        )
        .expect("served");
        assert!(served);
    }

    #[test]
    fn a_failure_keeps_its_kind_through_anyhow() {
        let lacks: Result<(), Failure> = Err(Failure::Lacks("no /dev/net/tun".into()));
        let failure = Failure::from(lacks.context("opening ntm0").unwrap_err());
        assert_eq!((failure.exit_code(), failure.to_string().as_str()), (4, "opening ntm0: no /dev/net/tun"));

        let other = Failure::from(anyhow::anyhow!("refused").context("binding"));
        assert_eq!((other.exit_code(), other.to_string().as_str()), (3, "binding: refused"));

        let config = crate::config::load::<toml::Table>(Path::new("/nonexistent/a.toml")).unwrap_err();
        assert_eq!(Failure::from(anyhow::Error::from(config)).exit_code(), 2);
    }
}
