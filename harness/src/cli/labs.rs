//! Commands to a lab.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use ntm_protocol::time::Instant;

use super::{Binaries, Format, Printed, Progress};
use crate::exit::{Exit, Failure};
use crate::lab::talk::{Done, Moved, Request, Status, Talk};
use crate::lab::{self, entry, exec, keeper, show};
use crate::{state, stdout};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
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
        #[command(flatten)]
        binaries: Binaries,
        #[command(flatten)]
        progress: Progress,
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
        #[command(flatten)]
        printed: Printed,
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
        #[command(flatten)]
        printed: Printed,
    },
    /// Ends a lab; nothing of it stays
    Down {
        #[command(flatten)]
        lab: Which,
        /// All labs
        #[arg(long, conflicts_with = "lab")]
        all: bool,
    },
}

/// Which lab is meant.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// The lab's name; not needed where only one is up
    #[arg(long, value_name = "NAME")]
    lab: Option<String>,
}

impl Which {
    fn find(&self) -> Result<state::Lab, Failure> {
        lab::find(self.lab.as_deref())
    }
}

/// A state of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum UpDown {
    Up,
    Down,
}

pub(super) fn dispatch(command: Command, started: Instant) -> Result<Exit, Failure> {
    match command {
        Command::Up { file, lab, play, out, binaries, progress, keep } => {
            let (binaries, quiet) = (binaries.bin, progress.quiet);
            let options = keeper::Options { file, lab, play, out, binaries, quiet };
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
        Command::Handover { lab, node, to, gap, overlap, printed } => {
            let lab = lab.find()?;
            let moved: Moved = Talk::to(&lab)?.ask(&Request::Handover { node, to, gap, overlap })?;
            match printed.format {
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
        Command::Status { lab, printed } => {
            let status: Status = Talk::to(&lab.find()?)?.ask(&Request::Status)?;
            match printed.format {
                Format::Text => stdout::say(show::status(&status)),
                Format::Json => stdout::json(&status),
            }
            Ok(Exit::Held)
        }
        Command::Down { lab, all } => {
            keeper::down(lab.lab.as_deref(), all)?.iter().for_each(stdout::line);
            Ok(Exit::Held)
        }
    }
}

/// Has something happen in a lab; on return it has.
fn act(lab: &Which, entry: &str) -> Result<Exit, Failure> {
    let _: Done = Talk::to(&lab.find()?)?.ask(&Request::Act { entry: entry.to_owned() })?;
    Ok(Exit::Held)
}
