//! How a data thread waits: for its own descriptor, or for the end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

fn event_fd() -> io::Result<Arc<EventFd>> {
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    Ok(Arc::new(EventFd::from_value_and_flags(0, flags)?))
}

/// Wakes a thread that waits for an update.
#[derive(Clone, Debug)]
pub(crate) struct Bell(Arc<EventFd>);

impl Bell {
    pub(crate) fn new() -> io::Result<Self> {
        event_fd().map(Self)
    }

    pub(crate) fn ring(&self) {
        // The only error is a full counter, and then it has rung.
        let _ = self.0.write(1);
    }
}

/// Tells all data threads to end; once raised, it stays.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<EventFd>);

impl Stop {
    pub(crate) fn new() -> io::Result<Self> {
        event_fd().map(Self)
    }

    /// Ends every wait, those to come too.
    pub(crate) fn raise(&self) {
        // The only error is a full counter, and then it is raised already.
        let _ = self.0.write(1);
    }
}

/// What a wait ended with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Waited {
    /// Try again: there may be something to do.
    Again,
    /// The end was told.
    Stopped,
}

/// Waits for one thread. After activity it yields for a bounded time before it blocks: waking a blocked thread costs more time than
/// many packets do.
#[derive(Debug)]
pub(crate) struct Waiter {
    stop: Stop,
    spin: Duration,
    active: Instant,
}

impl Waiter {
    pub(crate) fn new(stop: Stop, spin: Duration) -> Self {
        Self { stop, spin, active: Instant::now() }
    }

    /// There was something to do.
    pub(crate) fn worked(&mut self) {
        if self.spin > Duration::ZERO {
            self.active = Instant::now();
        }
    }

    /// There was nothing to do: whether to look again before blocking. Yields if so.
    pub(crate) fn spins(&self) -> bool {
        let spins = self.spin > Duration::ZERO && self.active.elapsed() < self.spin;
        if spins {
            std::thread::yield_now();
        }
        spins
    }

    /// There was nothing to do: waits until `fd` can be read.
    pub(crate) fn readable(&self, fd: &impl AsFd) -> io::Result<Waited> {
        if self.spins() { Ok(Waited::Again) } else { self.block(fd.as_fd(), PollFlags::POLLIN) }
    }

    /// Waits until `bell` rings, which it may have done already.
    pub(crate) fn rung(&self, bell: &Bell) -> io::Result<Waited> {
        let waited = self.block(bell.0.as_fd(), PollFlags::POLLIN)?;
        // Its number of rings does not matter; that it was empty would only mean one more look.
        let _ = bell.0.read();
        Ok(waited)
    }

    /// Waits until `fd` can be written.
    pub(crate) fn writable(&self, fd: &impl AsFd) -> io::Result<Waited> {
        self.block(fd.as_fd(), PollFlags::POLLOUT)
    }

    /// Whether the end was told; for loops that always find something to do.
    pub(crate) fn is_stopped(&self) -> bool {
        let mut fds = [PollFd::new(self.stop.0.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
    }

    fn block(&self, fd: BorrowedFd<'_>, events: PollFlags) -> io::Result<Waited> {
        let mut fds = [PollFd::new(self.stop.0.as_fd(), PollFlags::POLLIN), PollFd::new(fd, events)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let stopped = fds[0].revents().is_some_and(|events| !events.is_empty());
        Ok(if stopped { Waited::Stopped } else { Waited::Again })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_input_or_with_the_end() {
        let (read, write) = nix::unistd::pipe().expect("a pipe");
        let stop = Stop::new().expect("an eventfd");
        let waiter = Waiter::new(stop.clone(), Duration::ZERO);
        nix::unistd::write(&write, b"x").expect("a byte");
        assert_eq!(waiter.readable(&read).expect("a wait"), Waited::Again);
        assert!(!waiter.is_stopped());
        nix::unistd::read(&read, &mut [0; 8]).expect("the byte");
        let waiting = std::thread::spawn(move || waiter.readable(&read).map(|waited| (waited, waiter)));
        stop.raise();
        let (waited, waiter) = waiting.join().expect("no panic").expect("a wait");
        assert_eq!(waited, Waited::Stopped);
        assert!(waiter.is_stopped());
        let (read, _write) = nix::unistd::pipe().expect("a pipe");
        assert_eq!(waiter.readable(&read).expect("a wait"), Waited::Stopped);
    }

    #[test]
    fn after_activity_it_spins_for_a_bounded_time() {
        let stop = Stop::new().expect("an eventfd");
        let (read, _write) = nix::unistd::pipe().expect("a pipe");
        stop.raise();
        // A machine that stands still leaves no time for it: then once more, with more of it.
        let has_spun = (0..10).any(|n| {
            let spin = Duration::from_millis(5 << n);
            let mut waiter = Waiter::new(stop.clone(), spin);
            let start = Instant::now();
            waiter.worked();
            let mut spins = 0;
            while waiter.readable(&read).expect("a wait") == Waited::Again {
                spins += 1;
                assert!(start.elapsed() < Duration::from_secs(30), "it spins without end");
            }
            assert!(start.elapsed() >= spin);
            spins > 0
        });
        assert!(has_spun);
    }
}
