//! SIGTERM and SIGINT as a future.

use std::future::Future;
use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// A future that ends at the first SIGTERM or SIGINT that arrives after this call, with the signal's name.
///
/// Call it before readiness is told: from the call on, the signals no longer kill the process.
/// Must be called within a tokio runtime; an error means that the kernel refused the handler.
pub fn termination() -> io::Result<impl Future<Output = &'static str>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, raise};

    #[tokio::test]
    async fn a_signal_ends_the_future_and_not_the_process() {
        let stop = termination().expect("handlers");
        raise(Signal::SIGTERM).expect("raise");
        assert_eq!(stop.await, "SIGTERM");
        let stop = termination().expect("handlers");
        raise(Signal::SIGINT).expect("raise");
        assert_eq!(stop.await, "SIGINT");
    }
}
