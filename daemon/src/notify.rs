//! Readiness and status by the sd_notify protocol, to the socket that `$NOTIFY_SOCKET` names. Without it, nothing is sent.

use sd_notify::NotifyState;

/// The daemon serves from now on. Send it once, when a client's first request would be answered.
pub fn ready(status: &str) {
    tracing::info!("{status}");
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// One line on what the daemon is doing.
pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// The daemon ends, and why (`"SIGTERM"`).
pub fn stopping(reason: &str) {
    tracing::info!("stopping: {reason}");
    send(&[NotifyState::Stopping, NotifyState::Status(reason)]);
}

fn send(states: &[NotifyState<'_>]) {
    // Whoever started the daemon may have heard what it waited for, and closed the socket.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("$NOTIFY_SOCKET cannot be told {states:?}: {error}");
    }
}
