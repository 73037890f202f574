//! The command line.

mod files;
mod labs;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ntm_protocol::time::Instant;

use crate::compare::{self, Side};
use crate::engine::Engines;
use crate::exit::{Exit, Failure};
use crate::matrix::shard::Shard;
use crate::report::{page, schema};
use crate::run::{Options, Print};
use crate::scenario;
use crate::scenario::matrix::MOST_ROUNDS;
use crate::{bench, bundle, doctor, matrix, reference, stdout, worlds};

/// Runs NTMobile scenarios on real packets in network namespaces, and judges the result.
///
/// Exit codes: 0 held, 1 an expectation failed, 2 bad usage or scenario, 3 set-up or internal error, 4 this machine cannot run it,
/// 5 inconclusive, 124 timed out, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "harness", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs scenarios and prints the verdict
    ///
    /// Several are run one after another, and what came of each is said at the end: those that a chosen world refuses are skipped with its reason, and of a file that is run in rounds each
    /// cell is run once. The exit code is that of the worst; 2 if all were skipped.
    ///
    /// With `--engine both`, each is run in both worlds and compared: a difference ends it with 1, or with 5 where the machine disturbed the emulation; of several, what it disturbed is run
    /// again.
    Run {
        /// Scenario files, or names of some in scenarios/
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// In which world it is run
        #[arg(long, value_enum, default_value_t = Engines::Emulation)]
        engine: Engines,
        /// Runs it so many times, each with a seed of its own, and reports over all [default: `rounds` of its [matrix]]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_ROUNDS))]
        rounds: Option<u64>,
        /// Runs the file once as it stands, whatever rounds and cells it has
        #[arg(long, conflicts_with = "rounds")]
        once: bool,
        /// Where the run's folder is made [default: reports/runs]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// The run's own folder, which is not there yet
        #[arg(long, value_name = "DIR", hide = true, conflicts_with = "out")]
        folder: Option<PathBuf>,
        #[command(flatten)]
        binaries: Binaries,
        /// Writes the keys that nodes share beforehand to keys.txt in the run's folder, for wireshark/ntmobile.lua
        #[arg(long)]
        keylog: bool,
        #[command(flatten)]
        printed: Printed,
        #[command(flatten)]
        progress: Progress,
    },
    /// Runs a scenario once for each cell of its [matrix], and prints the grid
    ///
    /// With `--engine both`, each cell is run in both worlds, and what it came to is compared: routes, headers at every hop, handovers, expectations. The exit code is 1 if any
    /// differs.
    Matrix {
        /// A scenario file with a [matrix], or the name of one in scenarios/
        file: PathBuf,
        /// In which world cells are run
        #[arg(long, value_enum, default_value_t = Engines::Emulation)]
        engine: Engines,
        /// How many cells are run at once [default: what suits the machine]
        #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
        jobs: Option<u16>,
        /// Runs each cell so many times, in turn, each with a seed of its own
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_ROUNDS))]
        rounds: Option<u64>,
        /// Where the folder is made [default: reports/runs]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Goes on in this folder of a matrix that was interrupted
        #[arg(long, value_name = "DIR", conflicts_with = "out")]
        resume: Option<PathBuf>,
        /// The matrix's own folder: begun where it is not there yet, gone on with where it is
        #[arg(long, value_name = "DIR", conflicts_with_all = ["out", "resume"])]
        folder: Option<PathBuf>,
        /// Runs only the Ith of N parts; `report` puts them together
        #[arg(long, value_name = "I/N")]
        shard: Option<Shard>,
        #[command(flatten)]
        binaries: Binaries,
        #[command(flatten)]
        printed: Printed,
        #[command(flatten)]
        progress: Progress,
    },
    /// Plays random worlds in the simulator, and judges each by the reference model: exit code 1 where one fails
    Worlds {
        /// The seeds, from A to before B; each is a world
        #[arg(long, value_name = "A..B", default_value = "0..10000", value_parser = worlds::seeds)]
        seeds: std::ops::Range<u64>,
        /// How many are played at once [default: as many as there are cores]
        #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
        jobs: Option<u16>,
        #[command(flatten)]
        progress: Progress,
    },
    /// Plays a random world again: what is in it, and if it fails its trace up to there
    Replay {
        /// The world's seed
        seed: u64,
        /// Looks for the shortest timeline that still fails
        #[arg(long)]
        shrink: bool,
        #[command(flatten)]
        progress: Progress,
    },
    /// Checks scenario files, and shows every mistake with its line
    Check {
        /// Scenario files, or names of some in scenarios/
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Lists the scenarios
    List,
    /// Makes the page of a run anew from its folder, report.html; or of the parts of a matrix one
    ///
    /// With --into: the folders are those of `matrix --shard`, and all parts must be there. What is made of them is what one run of the whole
    /// matrix makes, and so is the exit code.
    #[command(after_help = "Example:\n  harness report sweep/1 sweep/2 sweep/3 --into sweep/whole")]
    Report {
        /// The run's folder, or those of all parts of a matrix
        #[arg(required = true)]
        folders: Vec<PathBuf>,
        /// The folder of the whole matrix, which is not there yet
        #[arg(long, value_name = "DIR")]
        into: Option<PathBuf>,
        #[command(flatten)]
        printed: Printed,
    },
    /// Measures our paths beside the kernel without a tunnel and beside other tunnels, and judges the ratios
    ///
    /// Every configuration is measured once in each round, in a world of its own; rounds are interleaved. Ratios of medians inside this run
    /// are judged; one whose peer is not installed is not measured, and never held.
    #[command(after_help = bench::peers())]
    Bench {
        /// Lists configurations and measures, and the peers that are found
        #[arg(long)]
        list: bool,
        /// How often each configuration is measured [default: 3, with --quick 1]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_ROUNDS))]
        rounds: Option<u64>,
        /// The length of each transfer [default: 2, with --quick 1]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=60))]
        seconds: Option<u64>,
        /// Only these configurations, by name or by its beginning (`aes-128-cbc`); may be given several times
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        /// One short round: one stream and the ping-pong
        #[arg(long)]
        quick: bool,
        /// Where bench.json, bench.md and bench.html are put, and in runs/ what they are made of [default: reports/runs]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        #[command(flatten)]
        binaries: Binaries,
        #[command(flatten)]
        printed: Printed,
        #[command(flatten)]
        progress: Progress,
    },
    /// Compares two runs, or two folders of runs, of one scenario: exit code 1 where B is worse
    Compare {
        /// A run's folder, or a folder of runs
        a: PathBuf,
        /// The same, to compare with A
        b: PathBuf,
        /// A change for the worse of more than this is a regression
        #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = percent)]
        bound: f64,
        /// The level of the significance test
        #[arg(long, default_value_t = 0.05, value_parser = share)]
        alpha: f64,
        /// Only quantities whose names begin so; may be given several times
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
        #[command(flatten)]
        printed: Printed,
    },
    /// Packs what makes a run again, without keys and captures
    Bundle {
        /// The run's folder
        folder: PathBuf,
        /// The bundle [default: the folder's name with .tar.gz]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Runs the thesis's experiments, and puts what is worth keeping of the results into reports/
    Reference {
        /// Scenario files, or names of some in scenarios/ [default: all whose names begin with thesis-]
        files: Vec<PathBuf>,
        /// Where results are put [default: reports]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// As of `run`
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MOST_ROUNDS))]
        rounds: Option<u64>,
        #[command(flatten)]
        binaries: Binaries,
        #[command(flatten)]
        progress: Progress,
    },
    /// Prints the JSON schema of report.json, or that of scenario files, by which editors complete and check them
    Schema {
        /// Of which files
        #[arg(value_enum, default_value_t = SchemaOf::Report)]
        of: SchemaOf,
    },
    /// Says what this machine has of what runs need, and what to do about the rest
    Doctor {
        #[command(flatten)]
        printed: Printed,
    },
    #[command(flatten)]
    Lab(labs::Command),
    /// Removes what runs and labs that were killed have left
    Clean,
    /// Tries what a world needs; `doctor` calls it
    #[command(hide = true, name = doctor::PROBE)]
    ProbeWorld,
}

/// Where a command finds the daemons.
#[derive(Debug, Args)]
struct Binaries {
    /// Where the daemons' binaries are [default: beside this one]
    #[arg(long, value_name = "DIR")]
    bin: Option<PathBuf>,
}

/// How a command tells what came of it.
#[derive(Debug, Args)]
struct Printed {
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What a command says while it works.
#[derive(Debug, Args)]
struct Progress {
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
}

/// What has a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SchemaOf {
    Report,
    Scenario,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

impl From<Format> for Print {
    fn from(format: Format) -> Self {
        match format {
            Format::Text => Self::Text,
            Format::Json => Self::Json,
        }
    }
}

/// Whether the command line `harness ARGUMENTS…` is one; else what is wrong with it. For the documents, which show some.
pub fn understands<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    let parsed = Cli::try_parse_from(["harness"].into_iter().chain(arguments));
    parsed.map(|_| ()).map_err(|error| error.to_string())
}

/// Does what the command line says. `started` is when the process did.
pub fn main(started: Instant) -> ExitCode {
    // clap itself ends with 2 on bad usage, and with 0 after --help.
    let cli = Cli::parse();
    match dispatch(cli.command, started) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            let text = failure.message.trim_end();
            if text.starts_with("error:") {
                eprintln!("{text}")
            } else {
                eprintln!("error: {text}")
            }
            failure.exit.into()
        }
    }
}

fn dispatch(command: Command, started: Instant) -> Result<Exit, Failure> {
    match command {
        Command::Run { files, engine, rounds, once, out, folder, binaries, keylog, printed, progress } => {
            let Some(file) = files.first().cloned() else { return Ok(Exit::Usage) };
            let options = Options {
                file,
                engines: engine,
                out,
                folder,
                binaries: binaries.bin,
                key_log: keylog,
                print: printed.format.into(),
                quiet: progress.quiet,
            };
            files::run(options, &files, rounds, once, started)
        }
        Command::Bench { list: true, .. } => {
            bench::list();
            Ok(Exit::Held)
        }
        Command::Bench { list: false, rounds, seconds, only, quick, out, binaries, printed, progress } => {
            let (binaries, print, quiet) = (binaries.bin, printed.format.into(), progress.quiet);
            bench::run(&bench::Options { rounds, seconds, only, quick, out, binaries, print, quiet }, started)
        }
        Command::Matrix {
            file,
            engine,
            jobs,
            rounds,
            out,
            resume,
            folder,
            shard,
            binaries,
            printed,
            progress,
        } => matrix::run(
            &matrix::Options {
                file,
                engines: engine,
                jobs: jobs.map(usize::from),
                rounds,
                out,
                resume,
                folder,
                shard,
                parts: Vec::new(),
                binaries: binaries.bin,
                print: printed.format.into(),
                quiet: progress.quiet,
            },
            started,
        ),
        Command::Worlds { seeds, jobs, progress } => Ok(worlds::search(seeds, jobs, progress.quiet, started)),
        Command::Replay { seed, shrink, progress } => {
            Ok(worlds::replay(seed, shrink, started, progress.quiet))
        }
        Command::Check { files } => files::check(&files),
        Command::List => files::list(),
        Command::Compare { a, b, bound, alpha, only, printed } => {
            let options = compare::Options { bound, alpha, only };
            let comparison = compare::compare(&Side::load(&a)?, &Side::load(&b)?, &options)?;
            match printed.format {
                Format::Text => stdout::say(compare::render(&comparison)),
                Format::Json => stdout::json(&comparison),
            }
            Ok(if comparison.regressed() { Exit::Failed } else { Exit::Held })
        }
        Command::Bundle { folder, out } => {
            stdout::line(bundle::write(&folder, out.as_deref())?.display());
            Ok(Exit::Held)
        }
        Command::Reference { files, out, rounds, binaries, progress } => {
            let (binaries, quiet) = (binaries.bin, progress.quiet);
            reference::run(&reference::Options { files, out, rounds, binaries, quiet })
        }
        Command::Schema { of } => {
            stdout::json(&match of {
                SchemaOf::Report => schema::schema(),
                SchemaOf::Scenario => scenario::schema::json::schema(),
            });
            Ok(Exit::Held)
        }
        Command::Report { folders, into: Some(into), printed } => {
            matrix::merge(folders, into, printed.format.into(), started)
        }
        Command::Report { folders, into: None, .. } => {
            let [folder] = folders.as_slice() else {
                return Err(Failure::usage(
                    "several folders are the parts of a matrix: say with --into where the whole goes",
                ));
            };
            stdout::line(page::write(folder)?.display());
            Ok(Exit::Held)
        }
        Command::Doctor { printed } => {
            let findings = doctor::examine();
            match printed.format {
                Format::Text => stdout::say(doctor::render(&findings)),
                Format::Json => stdout::json(&findings),
            }
            let able = findings.iter().all(|finding| finding.there || !finding.needed);
            Ok(if able { Exit::Held } else { Exit::Unable })
        }
        Command::Lab(command) => labs::dispatch(command, started),
        Command::Clean => files::clean(),
        Command::ProbeWorld => doctor::probe_world(),
    }
}

/// `5%` as 0.05.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim_end().parse::<f64>().ok().filter(|number| *number >= 0.0);
    number.map(|number| number / 100.0).ok_or_else(|| format!("{text:?} is no share: write it as 5%"))
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.0..1.0).contains(number) && *number > 0.0);
    number.ok_or_else(|| format!("{text:?} is no level: write it as 0.05"))
}
