//! Whatever kills the harness, nothing of it stays: `kill -9` at many moments of a run, then `harness clean`. And nothing of others
//! is touched.

mod common;

use std::process::Command;
use std::time::Duration;

use common::{Home, code, eventually, processes, signal};
use nix::sys::signal::Signal;

const SCENARIO: &str = r#"
schema = 1
name   = "killed"
about  = "as much as there can be to clean"
[link.lan]
both = { rate = "100mbit" }
[router.home]
nat = "port-restricted"
[node]
root = { role = "dns", at = "internet", zone = "." }
a = { role = "general", at = "home", name = "a.example.test", link = "lan" }
b = { role = "general", at = "internet", name = "b.example.test" }
[[flow]]
id = "bulk"
iperf3 = { from = "a", to = "b.example.test", duration = "60s" }
"#;

fn output(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn kill_9_at_any_moment_leaves_nothing_after_clean() {
    let home = Home::new();
    let scenario = home.scenario("killed", SCENARIO);
    // From before the world is there to the middle of the transfer.
    let mut moments: Vec<Option<Duration>> =
        (0..14).map(|n| Some(Duration::from_millis(1 + n * n * 3))).collect();
    moments.push(None);
    for moment in moments {
        let mut run = home.start(&scenario);
        match moment {
            Some(time) => std::thread::sleep(time),
            None => home.wait_until_begun(&mut run),
        }
        signal(&run, Signal::SIGKILL);
        run.wait().expect("its end");
        eventually(&format!("processes stay, killed at {moment:?}: {:?}", processes(home.path())), || {
            processes(home.path()).is_empty()
        });
        let cleaned = home.command(&["clean"]).output().expect("clean runs");
        assert_eq!(code(&cleaned), 0, "{cleaned:?}");
        assert!(
            home.runs().is_empty() && home.states().is_empty(),
            "killed at {moment:?}: {:?} {:?}",
            home.runs(),
            home.states()
        );
    }
    // Other tests have namespaces meanwhile: what must not be there is what a world of ours has.
    let ours =
        ["-internet", "-scratch", "root", "home", "a", "b", "internet", "lan0", "wan0", "a.eth0", "b.eth0"];
    let first_words = |text: String| -> Vec<String> {
        text.lines().filter_map(|line| Some(line.split([' ', '@']).next()?.to_owned())).collect()
    };
    let seen = [first_words(output("ip", &["netns"])), first_words(output("ip", &["-br", "link"]))].concat();
    assert!(seen.iter().all(|name| !ours.contains(&name.as_str())), "{seen:?}");
    assert!(!output("nft", &["list", "tables"]).contains("ntm"), "a table of ours is on the host");
}

/// A network namespace of someone else, until it is dropped.
struct Others(String);

impl Others {
    fn make() -> Self {
        let name = format!("others-{}", std::process::id());
        assert!(Command::new("ip").args(["netns", "add", &name]).status().expect("ip").success());
        Self(name)
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        output("ip", &["netns", "delete", &self.0]);
    }
}

#[test]
fn what_others_have_stays() {
    let others = Others::make();
    let inside = |arguments: &[&str]| output("ip", &[&["netns", "exec", &others.0], arguments].concat());
    inside(&["ip", "link", "add", "mn.wlan0", "type", "bridge"]);
    inside(&["nft", "add", "table", "ip", "ntm"]);
    let picture = || (inside(&["ip", "-br", "link"]), inside(&["nft", "list", "tables"]));
    let before = picture();
    assert!(before.0.contains("mn.wlan0") && before.1.contains("ntm"), "{before:?}");

    let home = Home::new();
    let mut run = home.start(&home.scenario("killed", SCENARIO));
    home.wait_until_begun(&mut run);
    // While it runs, `clean` lets it be.
    let cleaned = home.command(&["clean"]).output().expect("clean runs");
    assert!(String::from_utf8_lossy(&cleaned.stdout).contains("left alone"), "{cleaned:?}");
    assert_eq!(home.runs().len(), 1);
    signal(&run, Signal::SIGKILL);
    run.wait().expect("its end");
    eventually("processes stay", || processes(home.path()).is_empty());
    let cleaned = home.command(&["clean"]).output().expect("clean runs");
    assert_eq!((code(&cleaned), picture()), (0, before));
    assert!(home.runs().is_empty() && home.states().is_empty());
}
