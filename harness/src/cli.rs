//! The command line.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use ntm_protocol::time::Instant;

use crate::compare::{self, Side};
use crate::engine::Engines;
use crate::exit::{Exit, Failure};
use crate::lab::talk::{Done, Moved, Request, Status, Talk};
use crate::lab::{self, entry, exec, keeper, show};
use crate::matrix::shard::Shard;
use crate::report::{page, schema};
use crate::run::{self, Options, Print};
use crate::scenario::matrix::MOST_ROUNDS;
use crate::scenario::{self, find};
use crate::{bench, bundle, doctor, matrix, plan, reference, state, stdout, worlds};

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
    /// Several are run one after another, and what came of each is said at the end. The exit code is that of the worst. With `--engine both`, those that the simulator refuses
    /// are skipped, which is no difference, and of a file that is run in rounds each cell is run once and compared.
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
        /// Where the daemons' binaries are [default: beside this one]
        #[arg(long, value_name = "DIR")]
        bin: Option<PathBuf>,
        /// Writes the keys that nodes share beforehand to keys.txt in the run's folder, for wireshark/ntmobile.lua
        #[arg(long)]
        keylog: bool,
        /// How the verdict is printed
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        /// Show no progress
        #[arg(long, short)]
        quiet: bool,
    },
    /// Runs a scenario once for each cell of its [matrix], and prints the grid
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
        /// Where the daemons' binaries are [default: beside this one]
        #[arg(long, value_name = "DIR")]
        bin: Option<PathBuf>,
        /// How the grid is printed
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        /// Show no progress
        #[arg(long, short)]
        quiet: bool,
    },
    /// Plays random worlds in the simulator, and judges each by the reference model: exit code 1 where one fails
    Worlds {
        /// The seeds, from A to before B; each is a world
        #[arg(long, value_name = "A..B", default_value = "0..10000", value_parser = worlds::seeds)]
        seeds: std::ops::Range<u64>,
        /// How many are played at once [default: as many as there are cores]
        #[arg(long, short, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
        jobs: Option<u16>,
        /// Show no progress
        #[arg(long, short)]
        quiet: bool,
    },
    /// Plays a random world again: what is in it, and if it fails its trace up to there
    Replay {
        /// The world's seed
        seed: u64,
        /// Looks for the shortest timeline that still fails
        #[arg(long)]
        shrink: bool,
        /// Show no progress
        #[arg(long, short)]
        quiet: bool,
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
        /// How the grid is printed
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
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
        /// Where the daemons' binaries are [default: beside this one]
        #[arg(long, value_name = "DIR")]
        bin: Option<PathBuf>,
        /// How the result is printed
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        /// Show no progress
        #[arg(long, short)]
        quiet: bool,
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
        /// How the comparison is printed
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
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
        /// Where the daemons' binaries are [default: beside this one]
        #[arg(long, value_name = "DIR")]
        bin: Option<PathBuf>,
        /// Show no progress
        #[arg(long, short)]
        quiet: bool,
    },
    /// Prints the JSON schema of report.json, or that of scenario files, by which editors complete and check them
    Schema {
        /// Of which files
        #[arg(value_enum, default_value_t = SchemaOf::Report)]
        of: SchemaOf,
    },
    /// Says what this machine has of what runs need, and what to do about the rest
    Doctor {
        /// How the findings are printed
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Keeps a scenario's world running in the background, to type commands in: a lab
    ///
    /// Flows and timeline are not started unless --play says so. It says where everything is, and what to type next. It goes on until `down`,
    /// and nothing of it is visible outside or outlives it.
    #[command(
        after_help = "Example:\n  harness up handover\n  harness exec mn -- ping www.example.test\n  harness handover mn wlan1\n  harness down"
    )]
    Up {
        /// A scenario file, or the name of one in scenarios/
        file: PathBuf,
        /// The lab's name [default: the scenario's]
        #[arg(long, value_name = "NAME", value_parser = lab::check_name)]
        lab: Option<String>,
        /// Runs the scenario's flows and timeline once
        #[arg(long)]
        play: bool,
        /// Where the lab's folder is made [default: reports/runs]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Where the daemons' binaries are [default: beside this one]
        #[arg(long, value_name = "DIR")]
        bin: Option<PathBuf>,
        /// Show no progress
        #[arg(long, short)]
        quiet: bool,
        /// Is the process in the background
        #[arg(long, hide = true)]
        keep: bool,
    },
    /// Runs a command in a node of a lab, or a shell
    ///
    /// It sees the node's network, and finds names as the node does; its terminal, input, signals and exit code are those of this
    /// command. 127: there is no such program.
    #[command(after_help = "Example:\n  harness exec mn -- ping -c 3 www.example.test\n  harness exec mn")]
    Exec {
        #[command(flatten)]
        lab: Which,
        /// A node or router
        node: String,
        /// The command and its arguments; a shell without it
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Moves a node of a lab to another network, as a scenario's handover does, and says where the time went
    Handover {
        #[command(flatten)]
        lab: Which,
        /// Who moves
        node: String,
        /// The interface that it goes on with
        to: String,
        /// Time without any network in between
        #[arg(long, value_name = "TIME", conflicts_with = "overlap")]
        gap: Option<String>,
        /// Time in both networks
        #[arg(long, value_name = "TIME")]
        overlap: Option<String>,
        /// How it is printed
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Changes what a link of a lab does to packets; what is not named, it does no more
    Link {
        #[command(flatten)]
        lab: Which,
        /// The link's name in the scenario
        name: String,
        /// Bits per second: 45.5mbit
        #[arg(long)]
        rate: Option<String>,
        /// One way: 20ms
        #[arg(long)]
        delay: Option<String>,
        /// Standard deviation of the delay: 2ms
        #[arg(long)]
        jitter: Option<String>,
        /// Share of packets lost: 1%
        #[arg(long)]
        loss: Option<String>,
    },
    /// Switches an interface of a lab's node on or off
    Interface {
        #[command(flatten)]
        lab: Which,
        /// Whose
        node: String,
        /// Which
        name: String,
        /// On or off
        state: UpDown,
    },
    /// Kills the daemon of a lab's node, as kill -9 does
    Kill {
        #[command(flatten)]
        lab: Which,
        /// Whose
        node: String,
    },
    /// Starts a daemon of a lab again that was killed
    Start {
        #[command(flatten)]
        lab: Which,
        /// Whose
        node: String,
    },
    /// Shows the packets of a lab's node as they come, a line each, or as pcapng
    #[command(after_help = "Example:\n  harness capture rs\n  harness capture rs -w - | wireshark -k -i -")]
    Capture {
        #[command(flatten)]
        lab: Which,
        /// A node or router
        node: String,
        /// pcapng with names of addresses, to a file or, as `-`, to the standard output
        #[arg(short, long, value_name = "FILE")]
        write: Option<PathBuf>,
        /// Only of this interface; `ntm0` is what a terminal's applications see [default: all but lo]
        #[arg(short, long, value_name = "NAME")]
        interface: Option<String>,
        /// Only messages of NTMobile and the DNS, no data
        #[arg(short, long)]
        messages: bool,
        /// Ends after so many packets
        #[arg(short, long, value_name = "N")]
        count: Option<u64>,
    },
    /// Says how a lab is: daemons, registrations, paths and why, relay and NAT tables
    Status {
        #[command(flatten)]
        lab: Which,
        /// How it is printed
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Ends a lab; nothing of it stays
    Down {
        #[command(flatten)]
        lab: Which,
        /// All labs
        #[arg(long, conflicts_with = "lab")]
        all: bool,
    },
    /// Removes what runs and labs that were killed have left
    Clean,
    /// Tries what a world needs; `doctor` calls it
    #[command(hide = true, name = doctor::PROBE)]
    ProbeWorld,
}

/// Which lab is meant.
#[derive(Debug, clap::Args)]
struct Which {
    /// The lab's name; not needed where only one is up
    #[arg(long, value_name = "NAME")]
    lab: Option<String>,
}

impl Which {
    fn find(&self) -> Result<state::Lab, Failure> {
        lab::find(self.lab.as_deref())
    }
}

/// What has a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SchemaOf {
    Report,
    Scenario,
}

/// A state of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum UpDown {
    Up,
    Down,
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
        Command::Run { files, engine, rounds, once, out, folder, bin, keylog, format, quiet } => {
            let Some(file) = files.first().cloned() else { return Ok(Exit::Usage) };
            let is_one = files.len() == 1;
            let in_rounds = !once && (rounds.is_some() || has_rounds(&file));
            if (in_rounds || !is_one) && keylog {
                return Err(Failure::usage("--keylog is of one run: choose one file, and --once"));
            }
            if !is_one && (rounds.is_some() || folder.is_some()) {
                return Err(Failure::usage("--rounds and --folder are of one file"));
            }
            let in_both = engine == Engines::Both && rounds.is_none();
            if in_rounds && is_one && !in_both {
                let (print, binaries) = (format.into(), bin);
                let (jobs, resume, folder, shard, parts) = (None, None, None, None, Vec::new());
                let options = matrix::Options {
                    file,
                    engines: engine,
                    jobs,
                    rounds,
                    out,
                    resume,
                    folder,
                    shard,
                    parts,
                    binaries,
                    print,
                    quiet,
                };
                return matrix::run(&options, started);
            }
            let options = Options {
                file,
                engines: engine,
                out,
                folder,
                binaries: bin,
                key_log: keylog,
                print: format.into(),
                quiet,
            };
            match is_one && !in_rounds {
                true => run::run(&options, started),
                false => run::both::several(&options, &files, once),
            }
        }
        Command::Bench { list: true, .. } => {
            bench::list();
            Ok(Exit::Held)
        }
        Command::Bench { list: false, rounds, seconds, only, quick, out, bin, format, quiet } => {
            let (binaries, print) = (bin, format.into());
            bench::run(&bench::Options { rounds, seconds, only, quick, out, binaries, print, quiet }, started)
        }
        Command::Matrix { file, engine, jobs, rounds, out, resume, folder, shard, bin, format, quiet } => {
            matrix::run(
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
                    binaries: bin,
                    print: format.into(),
                    quiet,
                },
                started,
            )
        }
        Command::Worlds { seeds, jobs, quiet } => Ok(worlds::search(seeds, jobs, quiet, started)),
        Command::Replay { seed, shrink, quiet } => Ok(worlds::replay(seed, shrink, started, quiet)),
        Command::Check { files } => check(&files),
        Command::List => list(),
        Command::Compare { a, b, bound, alpha, only, format } => {
            let options = compare::Options { bound, alpha, only };
            let comparison = compare::compare(&Side::load(&a)?, &Side::load(&b)?, &options)?;
            match format {
                Format::Text => stdout::say(compare::render(&comparison)),
                Format::Json => stdout::json(&comparison),
            }
            Ok(if comparison.regressed() { Exit::Failed } else { Exit::Held })
        }
        Command::Bundle { folder, out } => {
            stdout::line(bundle::write(&folder, out.as_deref())?.display());
            Ok(Exit::Held)
        }
        Command::Reference { files, out, rounds, bin, quiet } => {
            reference::run(&reference::Options { files, out, rounds, binaries: bin, quiet })
        }
        Command::Schema { of } => {
            stdout::json(&match of {
                SchemaOf::Report => schema::schema(),
                SchemaOf::Scenario => scenario::schema::json::schema(),
            });
            Ok(Exit::Held)
        }
        Command::Report { folders, into: Some(into), format } => {
            matrix::merge(folders, into, format.into(), started)
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
        Command::Doctor { format } => {
            let findings = doctor::examine();
            match format {
                Format::Text => stdout::say(doctor::render(&findings)),
                Format::Json => stdout::json(&findings),
            }
            let able = findings.iter().all(|finding| finding.there || !finding.needed);
            Ok(if able { Exit::Held } else { Exit::Unable })
        }
        Command::Up { file, lab, play, out, bin, quiet, keep } => {
            let options = keeper::Options { file, lab, play, out, binaries: bin, quiet };
            if keep {
                return keeper::keep(&options, started);
            }
            Ok(match keeper::up(&options)? {
                Ok(about) => {
                    stdout::say(show::about(&about) + &keeper::hints(&about));
                    Exit::Held
                }
                Err(exit) => exit,
            })
        }
        Command::Exec { lab, node, command } => {
            let code = exec::run(&lab.find()?, &node, &command)?;
            // The command's own, which none of ours need be.
            std::process::exit(code.into())
        }
        Command::Handover { lab, node, to, gap, overlap, format } => {
            let lab = lab.find()?;
            let moved: Moved = Talk::to(&lab)?.ask(&Request::Handover { node, to, gap, overlap })?;
            match format {
                Format::Text => stdout::say(show::moved(&moved, &Talk::to(&lab)?.ask(&Request::About)?)),
                Format::Json => stdout::json(&moved),
            }
            Ok(Exit::Held)
        }
        Command::Link { lab, name, rate, delay, jitter, loss } => {
            let does = [("rate", rate), ("delay", delay), ("jitter", jitter), ("loss", loss)];
            act(
                &lab,
                &entry::link(&name, does.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?)))),
            )
        }
        Command::Interface { lab, node, name, state } => {
            let state = if state == UpDown::Up { "up" } else { "down" };
            act(&lab, &entry::of("interface", [("node", node.as_str()), ("name", &name), ("state", state)]))
        }
        Command::Kill { lab, node } => act(&lab, &entry::of("kill", [("node", node.as_str())])),
        Command::Start { lab, node } => act(&lab, &entry::of("start", [("node", node.as_str())])),
        Command::Capture { lab, node, write, interface, messages, count } => {
            let options = lab::capture::Options { write, interface, control: messages, count };
            lab::capture::run(&lab.find()?, &node, &options)
        }
        Command::Status { lab, format } => {
            let status: Status = Talk::to(&lab.find()?)?.ask(&Request::Status)?;
            match format {
                Format::Text => stdout::say(show::status(&status)),
                Format::Json => stdout::json(&status),
            }
            Ok(Exit::Held)
        }
        Command::Down { lab, all } => {
            keeper::down(lab.lab.as_deref(), all)?.iter().for_each(stdout::line);
            Ok(Exit::Held)
        }
        Command::Clean => clean(),
        Command::ProbeWorld => doctor::probe_world(),
    }
}

/// Has something happen in a lab; on return it has.
fn act(lab: &Which, entry: &str) -> Result<Exit, Failure> {
    let _: Done = Talk::to(&lab.find()?)?.ask(&Request::Act { entry: entry.to_owned() })?;
    Ok(Exit::Held)
}

/// Whether the file says that it is run in rounds. One with mistakes is told them when it is run.
fn has_rounds(file: &std::path::Path) -> bool {
    let scenario = find::open(file).and_then(|source| scenario::check(&source));
    scenario.is_ok_and(|scenario| scenario.matrix.is_some_and(|matrix| matrix.rounds.is_some()))
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

/// All files, each with all its mistakes.
fn check(files: &[PathBuf]) -> Result<Exit, Failure> {
    let mut wrong = String::new();
    for file in files {
        let checked = find::open(file).and_then(|source| {
            let scenario = scenario::check(&source)?;
            plan::address::plan(&scenario)
                .map_err(|message| format!("error: {}: {message}\n", source.name))?;
            Ok((source.name, scenario))
        });
        match checked {
            Ok((name, scenario)) => stdout::line(format_args!(
                "{name}: {} nodes, {} flows, {} expectations",
                scenario.nodes.len(),
                scenario.flows.len(),
                scenario.expectations.len()
            )),
            Err(message) => wrong += &message,
        }
    }
    if wrong.is_empty() { Ok(Exit::Held) } else { Err(Failure::usage(wrong)) }
}

fn list() -> Result<Exit, Failure> {
    let folder =
        find::folder().ok_or_else(|| Failure::usage("no folder `scenarios` was found here or above"))?;
    for file in find::all(&folder) {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let about = match find::open(&file).and_then(|source| scenario::check(&source)) {
            Ok(scenario) => scenario.about,
            Err(_) => format!("has mistakes: harness check {name}"),
        };
        stdout::line(format_args!("{name:<24} {about}"));
    }
    Ok(Exit::Held)
}

fn clean() -> Result<Exit, Failure> {
    let cleaned = state::clean(&state::folder()?)?;
    for run in &cleaned.removed {
        stdout::line(format_args!("removed {}", run.display()));
    }
    for run in &cleaned.running {
        stdout::line(format_args!("under way, left alone: {}", run.display()));
    }
    if cleaned.removed.is_empty() && cleaned.running.is_empty() {
        stdout::line("nothing to clean");
    }
    Ok(Exit::Held)
}
