//! Threads that run before others.

/// Lets this thread run before all ordinary ones (SCHED_FIFO), where the machine allows it, and says whether it does; its children are
/// ordinary again.
pub(crate) fn go_first() -> bool {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the structure lives over the call; zero means the calling thread.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const priority) == 0
    }
}
