//! What commands print for their caller. Who reads it, as `head` does, may have seen enough before its end: that ends nothing.

use std::fmt::Display;
use std::io::{ErrorKind, Write};

use serde::Serialize;

use crate::exit::Exit;

/// Prints `text` as it is.
pub fn say(text: impl Display) {
    let mut out = std::io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
        // A full disk, say: who asked must not take what is there for all.
        Err(error) => {
            eprintln!("error: standard output: {error}");
            std::process::exit(Exit::Error as i32)
        }
    }
}

/// Prints `text` as a line.
pub fn line(text: impl Display) {
    say(format_args!("{text}\n"));
}

/// Prints `value` as JSON.
pub fn json(value: &impl Serialize) {
    line(serde_json::to_string_pretty(value).unwrap_or_default());
}
