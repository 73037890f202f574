//! The packets of a node of a lab as they come: in lines, or as pcapng.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;

use super::exec;
use super::talk::{About, Request, Talk};
use crate::capture::line::{self, Names};
use crate::capture::stream::Stream;
use crate::capture::tap::{Frame, Tap};
use crate::exit::{Exit, Failure};
use crate::state::Lab;

/// What is shown, and how.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// A file, or `-` for the standard output: pcapng instead of lines.
    pub write: Option<PathBuf>,
    /// This interface only; without it all but `lo`.
    pub interface: Option<String>,
    /// Only messages of NTMobile and the DNS.
    pub control: bool,
    /// Ends after so many packets.
    pub count: Option<u64>,
}

/// Where packets go.
enum Sink {
    Lines(io::Stdout, Names),
    File(Stream<BufWriter<Box<dyn Write>>>),
}

/// Shows the packets of `node` until the lab ends, or who reads does.
pub fn run(lab: &Lab, node: &str, options: &Options) -> Result<Exit, Failure> {
    let about: About = Talk::to(lab)?.ask(&Request::About)?;
    let names: Names = about.topology.addresses().chain(about.virtual_names).collect();
    let mut sink = match &options.write {
        None => Sink::Lines(io::stdout(), names),
        Some(file) => {
            let named: Vec<_> = names.into_iter().collect();
            let out = BufWriter::new(open(file)?);
            Sink::File(Stream::begin(out, node, &named).map_err(Failure::during(file.display()))?)
        }
    };
    // Only its network: everything else of this process stays where it is.
    let lifeline = exec::enter(lab, node, &["user", "net"])?;
    let ending: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    let no_signals = Failure::during::<nix::errno::Errno>("signals cannot be heard");
    let told = ending.thread_block().and_then(|()| SignalFd::new(&ending)).map_err(no_signals)?;
    let mut tap = Tap::open().map_err(Failure::during(format!("the packets of `{node}`")))?;
    let mut left = options.count.unwrap_or(u64::MAX);
    let during = Failure::during(format!("capturing at `{node}`"));
    let shown = (|| {
        // What was begun is there for who waits for it, and from here on nothing is missed.
        sink.flush()?;
        eprintln!("capturing at {node}; Ctrl-C ends it");
        let mut goes_on = true;
        // At its end, what waits in the kernel is still shown.
        while left > 0 {
            goes_on = goes_on && wait(&lifeline, &told, &tap)?;
            let count = tap.take(|frame| {
                let wanted = match &options.interface {
                    Some(name) => frame.interface == name,
                    None => frame.interface != "lo",
                };
                if wanted && left > 0 && sink.show(&frame, options.control)? {
                    left -= 1;
                }
                Ok(())
            })?;
            sink.flush()?;
            if !goes_on && count == 0 {
                break;
            }
        }
        Ok(())
    })();
    let lost = tap.dropped().unwrap_or(0);
    if lost > 0 {
        eprintln!("{lost} packets came too fast and are not shown");
    }
    match shown {
        // Who read has seen enough.
        Err(error) if io::Error::kind(&error) == io::ErrorKind::BrokenPipe => Ok(Exit::Held),
        Err(error) => Err(during(error)),
        Ok(()) => Ok(Exit::Held),
    }
}

/// Waits for packets; whether there will be more: the lab is there, and nobody told this process to end.
fn wait(lifeline: &Talk, told: &SignalFd, tap: &Tap) -> io::Result<bool> {
    let mut ready =
        [tap.as_fd(), lifeline.as_fd(), told.as_fd()].map(|one| PollFd::new(one, PollFlags::POLLIN));
    match poll(&mut ready, PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    // Nothing was asked, so what can be read from the lab is its end.
    Ok(ready[1..].iter().all(|one| one.revents().is_none_or(|events| events.is_empty())))
}

fn open(file: &Path) -> Result<Box<dyn Write>, Failure> {
    if file != Path::new("-") {
        return Ok(Box::new(File::create(file).map_err(Failure::during(file.display()))?));
    }
    let out = io::stdout();
    if out.is_terminal() {
        return Err(Failure::usage(
            "-w - writes pcapng, which is not for a terminal: pipe it, as in `… | wireshark -k -i -`",
        ));
    }
    Ok(Box::new(out))
}

impl Sink {
    /// Whether it was shown.
    fn show(&mut self, frame: &Frame<'_>, control_only: bool) -> io::Result<bool> {
        let line = |names: &Names| line::tell(frame, names).filter(|line| !control_only || line.is_control);
        match self {
            Self::Lines(out, names) => match line(names) {
                Some(line) => writeln!(out, "{}", line.text).map(|()| true),
                None => Ok(false),
            },
            Self::File(stream) => {
                if control_only && line(&Names::new()).is_none() {
                    return Ok(false);
                }
                stream.write(frame).map(|()| true)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Lines(out, _) => out.flush(),
            Self::File(stream) => stream.flush(),
        }
    }
}
