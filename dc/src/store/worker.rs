//! The store's thread: it takes all writes that wait, commits them as one, and then answers them all.

use std::mem;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use ntm_protocol::coordinator::store::{Write, WriteOutcome};
use tokio::sync::oneshot;

use super::database::Database;
use super::{DurableStore, OpenError, Outcome, Snapshot};

/// How many writes may wait; more fail.
const QUEUE: usize = 16 * 1024;
/// How many writes one commit takes at most.
const GROUP: usize = 1024;

/// The durable store in one SQLite file. Dropping it finishes the writes that wait, and closes the file.
#[derive(Debug)]
pub struct Store {
    queue: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

type Job = (Write, oneshot::Sender<WriteOutcome>);

impl Store {
    /// Opens the store in the file `path`, which is made if there is none, counts one boot, and reads what it holds.
    ///
    /// No other process can have it open at the same time.
    pub fn open(path: &Path) -> Result<(Self, Snapshot), OpenError> {
        let (database, snapshot) = Database::open(path)?;
        let (queue, jobs) = sync_channel(QUEUE);
        let thread =
            thread::Builder::new().name("ntm-store".to_owned()).spawn(move || work(database, &jobs))?;
        Ok((Self { queue: Some(queue), thread: Some(thread) }, snapshot))
    }
}

impl DurableStore for Store {
    fn submit(&self, write: Write) -> Outcome {
        let (answer, outcome) = oneshot::channel();
        let why = match self.queue.as_ref().map(|queue| queue.try_send((write, answer))) {
            Some(Ok(())) => return Outcome(outcome),
            Some(Err(TrySendError::Full(_))) => "too many writes wait for the disk",
            Some(Err(TrySendError::Disconnected(_))) | None => "its thread has ended",
        };
        tracing::error!("the store refuses a write: {why}");
        Outcome::known(WriteOutcome::Failed)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's thread panicked");
        }
    }
}

fn work(mut database: Database, jobs: &Receiver<Job>) {
    let mut writes = Vec::with_capacity(GROUP);
    let mut answers = Vec::with_capacity(GROUP);
    while let Ok(first) = jobs.recv() {
        for (write, answer) in std::iter::once(first).chain(jobs.try_iter()).take(GROUP) {
            writes.push(write);
            answers.push(answer);
        }
        let outcomes = database.apply(&mem::take(&mut writes));
        for (answer, outcome) in answers.drain(..).zip(outcomes) {
            // Who no longer waits does not want to know.
            let _ = answer.send(outcome);
        }
    }
}
