//! The trace: a node's observations as JSON lines, in a file that is only ever appended to.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;

/// The buffer is written out when it holds this many bytes.
const FULL: usize = 64 * 1024;

/// Where observations go. Without a file it drops them at once.
///
/// The daemon's loop calls [`TraceSink::flush`] before it waits. An error of the disk never stops the daemon: it is logged once, and
/// the lines lost are counted.
#[derive(Debug)]
pub struct TraceSink {
    file: Option<Output>,
}

#[derive(Debug)]
struct Output {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    buffered: u64,
    lost: u64,
}

impl TraceSink {
    /// A sink that appends to the file `path`; with `None`, one that keeps nothing.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self { file: None }) };
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("{}: the trace file cannot be opened", path.display()))?;
        let buffer = Vec::with_capacity(2 * FULL);
        Ok(Self { file: Some(Output { path: path.to_owned(), file, buffer, buffered: 0, lost: 0 }) })
    }

    /// Whether anything is kept: where an observation costs something to make, ask first.
    pub fn is_kept(&self) -> bool {
        self.file.is_some()
    }

    /// Appends one observation.
    pub fn write<T: Serialize>(&mut self, observation: &T) {
        if let Some(output) = &mut self.file {
            output.write(observation);
        }
    }

    /// Hands what is buffered to the system.
    pub fn flush(&mut self) {
        if let Some(output) = &mut self.file {
            output.flush();
        }
    }

    /// How many observations could not be written.
    pub fn lost(&self) -> u64 {
        self.file.as_ref().map_or(0, |output| output.lost)
    }
}

impl Drop for TraceSink {
    fn drop(&mut self) {
        self.flush();
    }
}

impl Output {
    fn write<T: Serialize>(&mut self, observation: &T) {
        let start = self.buffer.len();
        match serde_json::to_writer(&mut self.buffer, observation) {
            Ok(()) => {
                self.buffer.push(b'\n');
                self.buffered += 1;
            }
            Err(error) => {
                self.buffer.truncate(start);
                self.lose(1, &error.into());
            }
        }
        if self.buffer.len() >= FULL {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let written = self.file.write_all(&self.buffer);
        let lines = std::mem::take(&mut self.buffered);
        self.buffer.clear();
        if let Err(error) = written {
            self.lose(lines, &error);
        }
    }

    fn lose(&mut self, lines: u64, error: &io::Error) {
        if self.lost == 0 {
            tracing::error!("{}: observations are lost from now on: {error}", self.path.display());
        }
        self.lost += lines;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;

    #[test]
    fn lines_are_appended_and_flushed_at_the_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("trace.jsonl");
        for n in 0..2 {
            let mut sink = TraceSink::open(Some(&path)).expect("a sink");
            sink.write(&BTreeMap::from([("n", n)]));
            sink.flush();
            sink.write(&"last");
            assert_eq!(sink.lost(), 0);
        }
        assert_eq!(
            fs::read_to_string(&path).expect("the trace"),
            "{\"n\":0}\n\"last\"\n{\"n\":1}\n\"last\"\n"
        );
    }

    #[test]
    fn a_full_buffer_is_written_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("trace.jsonl");
        let mut sink = TraceSink::open(Some(&path)).expect("a sink");
        sink.write(&"x".repeat(FULL));
        assert_eq!(fs::metadata(&path).expect("the trace").len(), FULL as u64 + 3);
    }

    #[test]
    fn a_full_disk_is_counted() {
        let mut sink = TraceSink::open(Some(Path::new("/dev/full"))).expect("a sink");
        sink.write(&1);
        sink.write(&2);
        sink.flush();
        sink.flush();
        assert_eq!(sink.lost(), 2);
        sink.write(&3);
        sink.flush();
        assert_eq!(sink.lost(), 3);
    }

    #[test]
    fn what_cannot_be_json_leaves_no_half_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("trace.jsonl");
        let mut sink = TraceSink::open(Some(&path)).expect("a sink");
        sink.write(&BTreeMap::from([(vec![1], 1)]));
        sink.write(&1);
        sink.flush();
        assert_eq!((sink.lost(), fs::read_to_string(&path).expect("the trace").as_str()), (1, "1\n"));
    }

    #[test]
    fn without_a_file_nothing_is_kept() {
        let mut sink = TraceSink::open(None).expect("a sink");
        sink.write(&1);
        sink.flush();
        assert!(!sink.is_kept());
        assert!(TraceSink::open(Some(Path::new("/nonexistent/t"))).is_err());
    }
}
