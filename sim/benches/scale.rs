//! What a world costs as it grows (`cargo bench -p ntm-sim --bench scale`): terminals that register within a minute and then send Keep-alives for another
//! minute of virtual time. Each size runs in a process of its own, so that its memory is known.

// The time that it takes is what is measured.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Parser;
use ntm_sim::{INTERNET, Interface, Link, World};

/// Measures what a world of many terminals costs.
#[derive(Parser)]
struct Options {
    /// Numbers of terminals
    #[arg(default_values_t = [1_000, 10_000, 100_000, 1_000_000])]
    terminals: Vec<u32>,
    /// Runs one size in this process
    #[arg(long, hide = true)]
    alone: bool,
    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// How long terminals take to come, and then how long they stay.
const MINUTE: Duration = Duration::from_secs(60);

fn main() {
    let options = Options::parse();
    if options.alone {
        return options.terminals.iter().for_each(|terminals| measure(*terminals));
    }
    println!(
        "| terminals | registered | registering | keep-alives, 60 s | events | a second | ns an event | memory |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|");
    let this = std::env::current_exe().expect("this program has a path");
    for terminals in options.terminals {
        let status = Command::new(&this).args(["--alone", &terminals.to_string()]).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "{terminals} terminals did not come to their end"
        );
    }
}

fn measure(terminals: u32) {
    let mut world = World::new(42);
    world.forget();
    let link = Link::of(Duration::from_millis(5));
    let dc = world.coordinator("dc", "ntm.test", "10.0.0.0/8", "203.0.113.3", link);
    let first = u32::from(Ipv4Addr::new(100, 64, 0, 1));
    let ids: Vec<_> = (0..terminals)
        .map(|n| {
            let address = IpAddr::V4(Ipv4Addr::from(first + n));
            world.terminal(&format!("t{n}"), dc, Interface { network: INTERNET, address, link })
        })
        .collect();
    world.start(dc);
    let begin = Instant::now();
    let apart = MINUTE / terminals;
    for id in &ids {
        world.start(*id);
        world.run_for(apart);
    }
    let (registering, before, middle) = (begin.elapsed(), world.events(), Instant::now());
    world.run_for(MINUTE);
    let (took, events) = (middle.elapsed(), world.events() - before);
    let registered = ids
        .iter()
        .filter(|id| world.at_terminal(**id).is_some_and(|terminal| terminal.vip().is_some()))
        .count();
    println!(
        "| {terminals} | {registered} | {:.2} s | {:.2} s | {events} | {:.0} | {:.0} | {} MB |",
        registering.as_secs_f64(),
        took.as_secs_f64(),
        events as f64 / took.as_secs_f64(),
        took.as_nanos() as f64 / events as f64,
        memory() / 1_000_000
    );
    // Taking it down piece by piece takes as long, and tells nothing.
    std::mem::forget(world);
}

/// The most memory that this process held, in bytes.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse::<u64>().ok()).unwrap_or_default() * 1024
}
