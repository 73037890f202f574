//! Says on stderr how far long work is: a bar with the phase and the time left on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use ntm_protocol::time::Instant;

use crate::clock;

/// The form of a phase of unknown length.
const SPINNER: &str = "{elapsed_precise} {spinner} {msg}";

/// Long work that is under way.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    lines: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Work that began at `started`; `quiet` says nothing.
    pub fn new(started: Instant, quiet: bool) -> Self {
        let is_terminal = stderr().is_terminal();
        let bar = (!quiet && is_terminal).then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(style(SPINNER));
            bar
        });
        Self { started, lines: !quiet && !is_terminal, bar }
    }

    /// A phase begins, or an event took place.
    pub fn say(&self, what: &str) {
        self.line(what);
        if let Some(bar) = &self.bar {
            bar.set_style(style(SPINNER));
            bar.set_message(what.to_owned());
            bar.tick();
        }
    }

    /// A phase begins that takes as long as `length`; [`move_to`](Self::move_to) says how far it is.
    pub fn timed(&self, what: &str, length: Duration) {
        let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        self.begin(what, length, "{elapsed_precise} {wide_bar} {msg}, {eta} left");
    }

    /// The phase that takes a known time has lasted for so long.
    pub fn move_to(&self, so_far: Duration) {
        if let Some(bar) = &self.bar {
            bar.set_position(u64::try_from(so_far.as_millis()).unwrap_or(u64::MAX));
        }
    }

    /// A phase begins that has `count` parts; [`part`](Self::part) says that one is done.
    pub fn counted(&self, what: &str, count: usize) {
        self.begin(what, count as u64, "{elapsed_precise} {wide_bar} {pos}/{len} {msg}, {eta} left");
        if let Some(bar) = &self.bar {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
    }

    /// So many parts are done, the last of them with `what` as its result.
    pub fn part(&self, done: usize, what: &str) {
        self.line(what);
        if let Some(bar) = &self.bar {
            bar.println(what);
            bar.set_position(done as u64);
        }
    }

    /// So many parts are done, and there is nothing to say of them.
    pub fn done(&self, done: usize) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
        }
    }

    /// It is over: what follows is printed where the bar was.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, what: &str) {
        if self.lines {
            eprintln!("[{:6.2} s] {what}", clock::now().since(self.started).as_secs_f64());
        }
    }

    fn begin(&self, what: &str, length: u64, form: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(length);
            bar.set_position(0);
            bar.reset_eta();
            bar.set_style(style(form));
            bar.set_message(what.to_owned());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn style(form: &str) -> ProgressStyle {
    // The forms are the constants above; one that is none would be shown as the default.
    ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_bar())
}
