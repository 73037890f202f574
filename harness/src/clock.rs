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

/// `now` less `ago` nanoseconds. The kernel's timestamps are of a clock that can be set: more than a second is no age of a packet.
pub fn before(now: Instant, ago: Option<u64>) -> Instant {
    match ago {
        Some(ago) if ago < 1_000_000_000 => Instant::from_nanos(now.as_nanos().saturating_sub(ago)),
        _ => now,
    }
}

fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux.
    let time = clock_gettime(clock).map_or(std::time::Duration::ZERO, std::time::Duration::from);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
