//! Many worlds at once, each in a thread of its own choice: they share nothing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// Does `work` for each of `seeds`, `jobs` at a time, and hands each result to `take` as it comes: in no certain order.
pub fn many<R: Send>(
    seeds: &[u64],
    jobs: usize,
    work: impl Fn(u64) -> R + Sync,
    mut take: impl FnMut(u64, R),
) {
    let (next, (sender, receiver)) = (AtomicUsize::new(0), mpsc::channel());
    thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, seeds.len().max(1)) {
            let (next, sender, work) = (&next, sender.clone(), &work);
            scope.spawn(move || {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                    if sender.send((seed, work(seed))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        receiver.iter().for_each(|(seed, result)| take(seed, result));
    });
}
