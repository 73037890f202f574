//! Watches the machine while a run lasts: a thread that reads the kernel's counters now and then.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Sample;
use crate::clock;

/// A machine that is being watched.
#[derive(Debug)]
pub struct Watch {
    /// Dropped, it ends the thread.
    end: Sender<()>,
    thread: JoinHandle<Vec<Sample>>,
}

impl Watch {
    /// Takes a sample now, one in each `window`, and one at the end.
    pub fn start(window: Duration) -> io::Result<Self> {
        let (end, ended) = channel();
        let watch = move || {
            let mut samples = Vec::new();
            loop {
                samples.extend(sample());
                match ended.recv_timeout(window) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            samples.extend(sample());
            samples
        };
        Ok(Self { end, thread: thread::Builder::new().name("watch".into()).spawn(watch)? })
    }

    /// What was sampled.
    pub fn end(self) -> Vec<Sample> {
        drop(self.end);
        self.thread.join().unwrap_or_default()
    }
}

/// The counters of the kernel's tables of neighbours, as they were opened outside of any world.
static NEIGHBOURS: OnceLock<Vec<File>> = OnceLock::new();

/// Opens what the kernel shows in the machine's own network namespace only. To be called before a world is entered; in a container there is
/// nothing to open, and nothing of it will be known.
pub fn open_outside() {
    let files = ["/proc/net/stat/arp_cache", "/proc/net/stat/ndisc_cache"];
    NEIGHBOURS.get_or_init(|| files.iter().filter_map(|file| File::open(file).ok()).collect());
}

fn sample() -> Option<Sample> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let pressure = fs::read_to_string("/proc/pressure/memory").unwrap_or_default();
    let queues = fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    let neighbours =
        NEIGHBOURS.get().into_iter().flatten().filter_map(|file| table_fulls(&again(file).ok()?));
    let sample = read(clock::now().as_nanos(), &stat, &pressure)?;
    Some(Sample {
        neighbours: neighbours.reduce(|one, other| one + other),
        backlog: dropped(&queues),
        ..sample
    })
}

/// What a file that was opened before holds now; all of it, of which the kernel gives a page at a time.
fn again(mut file: &File) -> io::Result<String> {
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// How often a table of neighbours was full, by its statistics: a line of names, then for each processor a line of hexadecimal numbers.
fn table_fulls(text: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_whitespace);
    let at = lines.next()?.position(|name| name == "table_fulls")?;
    lines.map(|mut line| u64::from_str_radix(line.nth(at)?, 16).ok()).sum()
}

/// Packets dropped because a processor's queue was full, by `/proc/net/softnet_stat`: the second of the hexadecimal numbers in each processor's line.
fn dropped(text: &str) -> Option<u64> {
    let each = text.lines().map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok());
    each.sum::<Option<u64>>().filter(|_| !text.is_empty())
}

/// From `/proc/stat` (`cpu user nice system idle iowait irq softirq steal …`, proc(5)) and `/proc/pressure/memory`, which not every kernel
/// has.
fn read(t: u64, stat: &str, pressure: &str) -> Option<Sample> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = all.split_whitespace().take(8).map_while(|field| field.parse().ok()).collect();
    let [_, _, _, idle, waiting, _, _, steal] = ticks.as_slice() else { return None };
    let some = pressure.lines().find(|line| line.starts_with("some "));
    let waited = some.and_then(|line| line.split_once("total=")?.1.trim().parse().ok());
    Some(Sample {
        t,
        total: ticks.iter().sum(),
        idle: idle + waiting,
        steal: *steal,
        waited,
        ..Sample::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_counters_are_read() {
        let stat = "cpu  10 1 5 100 4 0 2 3 7 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        let pressure = "some avg10=0.00 avg60=0.00 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n";
        let wanted =
            Sample { t: 7, total: 125, idle: 104, steal: 3, waited: Some(1234), ..Sample::default() };
        assert_eq!(read(7, stat, pressure), Some(wanted));
        assert_eq!(read(7, stat, ""), Some(Sample { waited: None, ..wanted }));
        assert_eq!(read(7, "cpu 1 2 3\n", ""), None);
    }

    #[test]
    fn a_file_is_read_whole_again_and_again() {
        let folder = tempfile::tempdir().unwrap();
        let (path, long) = (folder.path().join("stat"), "0123456789abcdef".repeat(1 << 13));
        fs::write(&path, &long).unwrap();
        let file = File::open(&path).unwrap();
        assert!(again(&file).unwrap() == long && again(&file).unwrap() == long);
    }

    #[test]
    fn what_the_kernel_dropped_is_read() {
        let table = "entries  allocs   table_fulls\n00000001 00028905 000000ff\n00000001 00027620 00000002\n";
        assert_eq!(
            (table_fulls(table), table_fulls("entries\n1\n"), table_fulls("")),
            (Some(257), None, None)
        );
        let queues = "14e7438c 00000010 00000012 0\n14d45cbc 00000001 00000015 0\n";
        assert_eq!((dropped(queues), dropped("1\n"), dropped("")), (Some(17), None, None));
    }

    #[test]
    fn a_watch_takes_a_sample_at_its_beginning_and_at_its_end() {
        let samples = Watch::start(Duration::from_secs(60)).unwrap().end();
        assert_eq!(samples.len(), 2);
        assert!(samples[0].t <= samples[1].t && samples[0].total <= samples[1].total);
    }
}
