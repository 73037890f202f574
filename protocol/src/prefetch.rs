//! A hint to the processor.
//!
//! A simulator of a million machines, or a DC of a million terminals, waits for the memory above all: each machine that acts was put aside by the
//! caches long ago. Who knows which acts next has its memory fetched meanwhile.

/// The bytes that the memory hands out together.
const LINE: usize = 64;

/// `value` is going to be needed: its own memory is fetched into the caches, without waiting for it; nothing is read, and where the processor is
/// not known nothing is done.
#[inline]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..size_of::<T>()).step_by(LINE) {
        let line = std::ptr::from_ref(value).cast::<i8>().wrapping_add(at);
        // SAFETY: the instruction is in every processor of this architecture (SSE). It reads nothing that the program could notice and raises
        // no fault, whatever the address is; this one is inside `value`.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (value, LINE);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of whatever size, the value and what is beside it stay as they are.
    #[test]
    fn a_hint_changes_nothing() {
        let values = Box::new([[7u8; 1000]; 3]);
        prefetch(&());
        prefetch(&values[1][999]);
        prefetch(&values[1]);
        prefetch(&*values);
        assert_eq!(*values, [[7; 1000]; 3]);
    }
}
