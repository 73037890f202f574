//! The run's one clock: CLOCK_MONOTONIC, the same in every namespace of a machine.

use nix::time::{ClockId, clock_gettime};
use ntm_protocol::time::Instant;

/// Now, in nanoseconds.
pub fn now() -> Instant {
    Instant::from_nanos(read(ClockId::CLOCK_MONOTONIC))
}

/// Now, in nanoseconds since 1970; for file names and captures, never for differences.
pub fn wall() -> u64 {
    read(ClockId::CLOCK_REALTIME)
}

fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux.
    let time = clock_gettime(clock).map_or(std::time::Duration::ZERO, std::time::Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
