//! A thread of a flow's own, for work whose moments are measured: nothing else waits in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

use crate::exit::Failure;

/// A thread at work; when this is dropped it is told to end, and awaited.
pub struct Worker {
    stop: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts `work`, which looks at the flag now and then and ends when it is set; what it returns comes by the receiver.
    pub fn start<T: Send + 'static>(
        name: &str,
        work: impl FnOnce(&AtomicBool) -> T + Send + 'static,
    ) -> Result<(Self, oneshot::Receiver<T>), Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let (wanted, (tell, told)) = (Arc::clone(&stop), oneshot::channel());
        // Whoever waited may have gone.
        let run = move || drop(tell.send(work(&wanted)));
        let handle = thread::Builder::new().name(name.to_owned()).spawn(run);
        let handle = handle.map_err(Failure::during(format!("a thread for `{name}`")))?;
        Ok((Self { stop, handle: Some(handle) }, told))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(handle) = self.handle.take() {
            // That it panicked is seen by what it did not tell.
            let _ = handle.join();
        }
    }
}
