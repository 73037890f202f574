//! The live lab, as a teacher uses it: a world that stays up, commands in it, a move, captures, status, and an end that leaves nothing.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::{Home, code, eventually, processes, signal};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getsid};
use pcap_file::pcapng::{Block, PcapNgReader};
use serde_json::Value;

/// Two ordinary hosts: a world that is there at once.
const SMALL: &str = r#"
schema = 1
name   = "small"
about  = "two ordinary hosts"
[node]
a = { role = "general", at = "internet" }
b = { role = "general", at = "internet", name = "b.example.test" }
"#;

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn project(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file)
}

/// A lab's commands.
struct Lab(Home);

impl Lab {
    fn up(file: &Path, more: &[&str]) -> (Self, Output) {
        let home = Home::new();
        let output = home.command(&["up"]).arg(file).args(more).output().expect("the harness runs");
        (Self(home), output)
    }

    fn tell(&self, arguments: &[&str]) -> Output {
        self.0.command(arguments).output().expect("the harness runs")
    }

    /// The same of a command that must succeed; what it says.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.tell(arguments);
        assert_eq!(code(&output), 0, "{arguments:?}: {output:?}");
        out(&output)
    }

    fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = self.0.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the harness starts")
    }

    /// A capture that misses nothing from now on.
    fn capture(&self, arguments: &[&str]) -> Child {
        let mut capture = self.begin(&[&["capture"], arguments].concat());
        let mut line = String::new();
        BufReader::new(capture.stderr.as_mut().expect("stderr")).read_line(&mut line).expect("a line");
        assert!(line.starts_with("capturing at "), "{line}");
        capture
    }

    fn nothing_is_left(&self) {
        eventually("processes stay", || processes(self.0.path()).is_empty());
        assert!(
            self.0.states().is_empty() && self.0.runs().is_empty(),
            "{:?} {:?}",
            self.0.states(),
            self.0.runs()
        );
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Where a test failed, its lab would go on.
        let _ = self.0.command(&["down", "--all"]).output();
    }
}

#[test]
fn a_terminal_is_followed_from_its_first_ping_through_a_move_to_the_end() {
    let (lab, up) = Lab::up(&project("scenarios/handover.toml"), &["--lab", "class"]);
    assert_eq!(code(&up), 0, "{up:?}");
    let text = out(&up);
    for part in [
        "The lab class is up",
        "mn.dc.ntm.test = 198.18.0.1",
        "behind apnat_a by wifi",
        "wlan1",
        "port-restricted",
        "150 Mbit/s",
        "exec mn -- ping www.example.test",
        "handover mn wlan1",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let again =
        lab.tell(&["up", project("scenarios/handover.toml").to_str().expect("a path"), "--lab", "class"]);
    assert!(code(&again) == 2 && err(&again).contains("harness down --lab class"), "{again:?}");

    // Names resolve in the node's way, to a virtual address, through the relay.
    let relay = lab.capture(&["rs", "--messages"]);
    let ping = lab.done(&["exec", "mn", "--", "ping", "-c", "3", "-i", "0.1", "www.example.test"]);
    assert!(ping.contains("(198.18.128.1)") && ping.contains(" 0% packet loss"), "{ping}");
    signal(&relay, Signal::SIGINT);
    let told = relay.wait_with_output().expect("its end");
    assert_eq!(code(&told), 0, "{told:?}");
    let seen = out(&told);
    for part in [
        "dc > rs  RelayDirection",
        "rs > dc  RelayResponse",
        "apnat_a > rs  TunnelRequest path ",
        "rs > apnat_a  TunnelResponse path ",
    ] {
        assert!(seen.contains(part), "{part} is not in\n{seen}");
    }

    // It moves below a ping, once the ping flows.
    let file = lab.0.path().join("mn.pcapng");
    let mut packets = lab.capture(&["mn", "-w", file.to_str().expect("a path")]);
    let flood = lab.begin(&["exec", "mn", "--", "ping", "-c", "150", "-i", "0.02", "-q", "www.example.test"]);
    let on_wlan0 = || fs::read(&file).is_ok_and(|bytes| bytes.windows(8).any(|part| part == b"mn wlan0"));
    eventually("no packet passes wlan0", on_wlan0);
    let moved = lab.done(&["handover", "mn", "wlan1", "--gap", "50ms"]);
    for part in [
        "mn moved from wlan0 to wlan1",
        "gap ",
        "address ",
        "registration ",
        "direction ",
        "tunnel ",
        "first data ",
        "mn > www.example.test  RS-N  to rs 203.0.113.7:4330",
    ] {
        assert!(moved.contains(part), "{part} is not in\n{moved}");
    }
    let flood = flood.wait_with_output().expect("its end");
    let received =
        out(&flood).split(" received").next().and_then(|text| text.rsplit(' ').next()?.parse::<u32>().ok());
    assert!(code(&flood) == 0 && received.is_some_and(|received| received > 120), "{flood:?}");
    signal(&packets, Signal::SIGTERM);
    assert!(packets.wait().expect("its end").success());
    let (mut interfaces, mut named) = (Vec::new(), String::new());
    let bytes = fs::read(&file).expect("a capture");
    let mut reader = PcapNgReader::new(bytes.as_slice()).expect("pcapng");
    let mut count = 0;
    while let Some(Ok(block)) = reader.next_block() {
        match block {
            Block::EnhancedPacket(_) => count += 1,
            Block::NameResolution(names) => named = format!("{names:?}"),
            _ => {}
        }
    }
    interfaces.extend(reader.interfaces().iter().map(|interface| format!("{:?}", interface.options)));
    assert!(count > 200 && named.contains("www.example.test") && named.contains("\"rs\""), "{count} {named}");
    for name in ["mn wlan0", "mn wlan1", "mn ntm0"] {
        assert!(interfaces.iter().any(|options| options.contains(name)), "{name}: {interfaces:?}");
    }

    let status = lab.done(&["status"]);
    for part in [
        "mn  registered  mn.dc.ntm.test  = 198.18.0.1  at 192.0.2.2",
        "mn > www.example.test  RS-N",
        "the peer is a general node",
        "rs  RS-N  path ",
        "which is 203.0.113.5",
        "10.1.0.2:4330 is seen as 203.0.113.3:4330",
    ] {
        assert!(status.contains(part), "{part} is not in\n{status}");
    }

    // What the timeline can do is done by hand, by the same rules.
    lab.done(&["link", "wifi", "--delay", "30ms"]);
    let slow = lab.done(&["exec", "mn", "--", "ping", "-c", "5", "-i", "0.2", "www.example.test"]);
    let fastest = slow
        .split("min/avg/max/mdev = ")
        .nth(1)
        .and_then(|times| times.split('/').next()?.parse::<f64>().ok());
    assert!(fastest.is_some_and(|ms| (60.0..90.0).contains(&ms)), "{slow}");
    lab.done(&["kill", "rs"]);
    let status: Value = serde_json::from_str(&lab.done(&["status", "--format", "json"])).expect("JSON");
    assert_eq!(status["daemons"]["rs"]["dead"], "it was killed");
    assert_eq!(status["daemons"]["dc"]["dead"], Value::Null);
    lab.done(&["start", "rs"]);
    for (arguments, hint) in [
        (&["kill", "rss"][..], "did you mean `rs`?"),
        (&["start", "rs"], "only what was killed is started"),
        (&["handover", "mn", "wlan2"], "did you mean `wlan"),
        (&["handover", "mn", "wlan1"], "is on wlan1 already"),
        (&["link", "wifi", "--delay", "fast"], "fast"),
        (&["exec", "mm", "--", "true"], "did you mean `mn`?"),
        (&["status", "--lab", "clas"], "did you mean class?"),
    ] {
        let refused = lab.tell(arguments);
        assert!(code(&refused) == 2 && err(&refused).contains(hint), "{arguments:?}: {refused:?}");
    }

    assert!(lab.done(&["down"]).contains("the lab class is down"));
    lab.nothing_is_left();
    let status = lab.tell(&["status"]);
    assert!(code(&status) == 2 && err(&status).contains("harness up FILE"), "{status:?}");
}

#[test]
fn a_command_has_its_own_input_signals_and_exit_code() {
    let home = Home::new();
    let (lab, up) = Lab::up(&home.scenario("small", SMALL), &[]);
    assert_eq!(code(&up), 0, "{up:?}");
    let code_of = |script: &str| code(&lab.tell(&["exec", "a", "--", "sh", "-c", script]));
    assert_eq!((code_of("exit 7"), code_of("kill -9 $$")), (7, 137));
    let absent = lab.tell(&["exec", "a", "no-such-program"]);
    assert!(code(&absent) == 127 && err(&absent).contains("no-such-program"), "{absent:?}");
    let mut cat = lab.begin(&["exec", "b", "--", "cat"]);
    cat.stdin.take().expect("its input").write_all(b"through").expect("it takes it");
    assert_eq!(out(&cat.wait_with_output().expect("its end")), "through");
    // A signal reaches the command, which answers it as it likes.
    let script = "trap 'echo told; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    let mut told = lab.begin(&["exec", "a", "--", "sh", "-c", script]);
    let mut line = [0; 6];
    told.stdout.as_mut().expect("its output").read_exact(&mut line).expect("it is ready");
    signal(&told, Signal::SIGTERM);
    let ended = told.wait_with_output().expect("its end");
    assert_eq!((code(&ended), out(&ended).as_str()), (3, "told\n"));
    // It is in the lab's PID namespace, and ends with the lab.
    let mut left = lab.begin(&["exec", "a", "--", "sh", "-c", "echo ready; exec sleep 1000"]);
    left.stdout.as_mut().expect("its output").read_exact(&mut line).expect("it is ready");
    let capture = lab.capture(&["a"]);
    lab.done(&["down"]);
    assert_eq!(code(&left.wait_with_output().expect("its end")), 137);
    assert_eq!(code(&capture.wait_with_output().expect("its end")), 0);
    lab.nothing_is_left();
}

/// A shell that a lab started takes the terminal for itself, and cannot give it back: who started it has it all the same when it ends.
#[test]
fn after_a_shell_the_terminal_is_whose_it_was() {
    let home = Home::new();
    let (lab, up) = Lab::up(&home.scenario("small", SMALL), &[]);
    assert_eq!(code(&up), 0, "{up:?}");
    let exec = lab.0.command(&["exec", "a", "--", "sh", "-i", "-c", "true"]);
    let words: Vec<_> =
        [exec.get_program()].into_iter().chain(exec.get_args()).map(|word| word.to_string_lossy()).collect();
    let line = format!("{}; read answer; echo heard $answer", words.join(" "));
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    let variables = exec.get_envs().filter_map(|(name, value)| Some((name, value?)));
    terminal.envs(variables).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut terminal = terminal.spawn().expect("script runs");
    terminal.stdin.take().expect("its input").write_all(b"a word\n").expect("it takes it");
    let ended = terminal.wait_with_output().expect("its end");
    assert!(code(&ended) == 0 && out(&ended).contains("heard a word"), "{ended:?}");
    lab.done(&["down"]);
}

#[test]
fn two_labs_at_once_have_names_and_a_killed_one_leaves_nothing() {
    let home = Home::new();
    let file = home.scenario("small", SMALL);
    let (lab, up) = Lab::up(&file, &[]);
    assert_eq!(code(&up), 0, "{up:?}");
    let second =
        lab.0.command(&["up"]).arg(&file).args(["--lab", "other"]).output().expect("the harness runs");
    assert_eq!(code(&second), 0, "{second:?}");
    let which = lab.tell(&["exec", "a", "true"]);
    assert!(code(&which) == 2 && err(&which).contains("--lab: other, small"), "{which:?}");
    lab.done(&["exec", "--lab", "other", "a", "--", "ping", "-c", "1", "b.example.test"]);

    let keeper = lab.0.states().iter().find_map(|file| {
        let state: Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
        (state["lab"] == "small").then(|| state["harness"]["pid"].as_i64())?
    });
    let keeper = Pid::from_raw(i32::try_from(keeper.expect("a state file")).expect("a PID"));
    assert_eq!(
        getsid(Some(keeper)),
        Ok(keeper),
        "what ends the terminal that it was started from is not told to it"
    );
    nix::sys::signal::kill(keeper, Signal::SIGKILL).expect("it lives");
    // The other is the only one then.
    eventually("the killed one is still there", || code(&lab.tell(&["exec", "a", "true"])) == 0);
    let cleaned = lab.done(&["clean"]);
    assert!(cleaned.contains("removed") && cleaned.contains("left alone"), "{cleaned}");
    assert!(lab.done(&["down", "--all"]).contains("the lab other is down"));
    lab.nothing_is_left();
}

#[test]
fn a_lab_plays_its_timeline_only_if_told_to() {
    let home = Home::new();
    let played = "[[at]]\ntime = \"50ms\"\ninterface = { node = \"b\", name = \"eth0\", state = \"down\" }\n";
    let file = home.scenario("small", &[SMALL, played].concat());
    let (lab, up) = Lab::up(&file, &["--play"]);
    assert_eq!(code(&up), 0, "{up:?}");
    let up_at_b = || {
        let status: Value = serde_json::from_str(&lab.done(&["status", "--format", "json"])).expect("JSON");
        status["up"]["b"].as_array().map(Vec::len)
    };
    eventually("b goes down", || up_at_b() == Some(0));
    lab.done(&["interface", "b", "eth0", "up"]);
    assert_eq!(up_at_b(), Some(1));
    lab.done(&["down"]);
    let again = lab.0.command(&["up"]).arg(&file).output().expect("the harness runs");
    assert_eq!(code(&again), 0, "{again:?}");
    // Four times as long as it would take.
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(up_at_b(), Some(1));
}

#[test]
fn what_cannot_come_up_says_why_and_leaves_nothing() {
    let home = Home::new();
    let wrong =
        SMALL.replace("role = \"general\", at = \"internet\" }", "role = \"general\", at = \"intrnet\" }");
    let (lab, up) = Lab::up(&home.scenario("wrong", &wrong), &[]);
    assert!(code(&up) == 2 && err(&up).contains("internet"), "{up:?}");
    lab.nothing_is_left();
    // A daemon that is not there is found in the world.
    let (lab, up) =
        Lab::up(&project("scenarios/handover.toml"), &["--bin", home.path().to_str().expect("a path")]);
    assert!(code(&up) == 4 && err(&up).contains("build the workspace first"), "{up:?}");
    lab.nothing_is_left();
    // Who starts it and goes away does not want it.
    let mut starting: Command = lab.0.command(&["up"]);
    let mut starting =
        starting.arg(project("scenarios/handover.toml")).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut line = String::new();
    BufReader::new(starting.stderr.take().expect("stderr")).read_line(&mut line).expect("progress");
    signal(&starting, Signal::SIGINT);
    starting.wait().expect("its end");
    lab.nothing_is_left();
}
