//! What this machine has of what the harness needs, and what to do about what it lacks.
//!
//! Some things can only be known by trying them in a private world: those are tried by a child process ([`probe_world`]), so that
//! `doctor` itself stays where it is.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};
use crate::foreign::program::Program;
use crate::plan::Plan;
use crate::scenario::model::{FlowKind, Place, Role, Scenario};
use crate::{stdout, world};

/// One thing that was looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub what: String,
    /// Whether it is there.
    pub there: bool,
    /// Details if there, what to do if not.
    pub note: String,
    /// Whether runs are impossible without it.
    pub needed: bool,
}

/// A program, its package on Debian and Ubuntu, and what it is for.
struct Tool {
    program: &'static str,
    package: &'static str,
    purpose: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool { program: "nft", package: "nftables", purpose: "NAT routers and relays" },
    Tool { program: "tc", package: "iproute2", purpose: "the rates of links" },
    Tool { program: "ss", package: "iproute2", purpose: "what applications see of their sockets" },
    Tool { program: "iperf3", package: "iperf3", purpose: "iperf3 flows" },
    Tool { program: "ping", package: "iputils-ping", purpose: "ping flows" },
    Tool { program: "curl", package: "curl", purpose: "http and ftp flows" },
    Tool { program: "vsftpd", package: "vsftpd", purpose: "the servers of ftp flows" },
    Tool { program: "sipp", package: "sip-tester", purpose: "sip flows" },
    Tool { program: "busybox", package: "busybox", purpose: "the servers of http flows" },
];

/// The option of the hidden child process.
pub const PROBE: &str = "probe-world";

/// Everything, for `harness doctor`.
pub fn examine() -> Vec<Finding> {
    let mut out = Vec::new();
    out.extend(probe());
    out.extend(TOOLS.iter().map(|tool| {
        let found = find(tool.program);
        Finding {
            what: format!("{} ({})", tool.program, tool.purpose),
            there: found.is_some(),
            note: match found {
                Some(path) => path.display().to_string(),
                None => format!("install the package {} (apt-get install {})", tool.package, tool.package),
            },
            needed: true,
        }
    }));
    out.push(clock());
    out
}

/// Whether a program that makes tunnels is there.
pub fn is_installed(program: Program) -> bool {
    program.binaries().iter().all(|binary| find(binary).is_some())
}

/// Whether the programs that `scenario` uses are there; the error names all that are not.
pub fn require(scenario: &Scenario, plan: &Plan) -> Result<(), Failure> {
    require_neighbours(plan, neighbours_held())?;
    let mut needed: Vec<&str> = Vec::new();
    let relays = plan.hosts.iter().any(|host| matches!(host.role, Role::Relay { .. }));
    if relays || !plan.routers.is_empty() {
        needed.push("nft");
    }
    if !scenario.links.is_empty() {
        needed.push("tc");
    }
    for flow in &scenario.flows {
        needed.extend(match &flow.kind {
            FlowKind::Iperf3 { .. } => &["iperf3", "ss"][..],
            FlowKind::Ping { .. } => &["ping"],
            FlowKind::Http { .. } => &["curl", "busybox"],
            FlowKind::Ftp { .. } => &["curl", "vsftpd"],
            FlowKind::Sip { .. } => &["sipp"],
            FlowKind::Dns { .. }
            | FlowKind::Udp { .. }
            | FlowKind::PingPong { .. }
            | FlowKind::Probe { .. }
            | FlowKind::Exec { .. } => &[],
        });
    }
    let tunnels = scenario.tunnels.values().map(|tunnel| tunnel.program);
    if let Some(program) = tunnels.into_iter().find(|program| !is_installed(*program)) {
        let (word, install) = (program.word(), program.install());
        return Err(Failure::unable(format!(
            "this scenario needs {word}, which this machine has not: {install}"
        )));
    }
    if !scenario.tunnels.is_empty() {
        needed.extend(["ping", "tc"]);
    }
    let missing: Vec<&Tool> =
        TOOLS.iter().filter(|tool| needed.contains(&tool.program) && find(tool.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    packages.dedup();
    let names: Vec<&str> = missing.iter().map(|tool| tool.program).collect();
    Err(Failure::unable(format!(
        "this scenario needs {}, which this machine has not: apt-get install {}",
        names.join(", "),
        packages.join(" ")
    )))
}

/// Whether this machine's kernel holds as many neighbours as the nodes of `plan` have; with more, some find nobody any more. It has `held` for all namespaces together.
pub fn require_neighbours(plan: &Plan, held: Option<usize>) -> Result<(), Failure> {
    let (needed, held) = (neighbours(plan), held.unwrap_or(usize::MAX));
    if needed <= held {
        return Ok(());
    }
    Err(Failure::unable(format!(
        "its nodes have about {needed} neighbours, and this machine's kernel holds {held}: run this with --engine sim, or raise \
         net.ipv4.neigh.default.gc_thresh3 (sysctl)"
    )))
}

/// How many neighbours the kernel holds at most.
pub fn neighbours_held() -> Option<usize> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/neigh/default/gc_thresh3").ok()?;
    text.trim().parse().ok()
}

/// About how many neighbours the nodes of `plan` have: each terminal, or the router before it, speaks with its coordinator and measures its way to every relay, and
/// either end knows the other.
fn neighbours(plan: &Plan) -> usize {
    let has = |wanted: fn(&Role) -> bool| plan.hosts.iter().filter(|host| wanted(&host.role)).count();
    let relays = has(|role| matches!(role, Role::Relay { .. }));
    let behind = |at: &Place| matches!(at, Place::Behind(_));
    let interfaces = plan.hosts.iter().filter(|host| host.is_terminal()).flat_map(|host| &host.interfaces);
    let (inside, outside): (Vec<_>, Vec<_>) =
        interfaces.filter(|interface| interface.up).partition(|interface| behind(&interface.at));
    2 * (inside.len() + (outside.len() + plan.routers.len()) * (1 + relays))
}

/// Whether this world's kernel gives what `plan` needs; tried in the namespace that the thread is in.
pub fn require_kernel(plan: &Plan) -> Result<(), Failure> {
    let has = |wanted: fn(&Role) -> bool| plan.hosts.iter().any(|host| wanted(&host.role));
    let relays = has(|role| matches!(role, Role::Relay { .. }));
    let mut findings = Vec::new();
    if relays || has(|role| matches!(role, Role::Terminal(_))) {
        findings.push(tun());
    }
    if relays || !plan.routers.is_empty() {
        findings.push(nftables());
    }
    match findings.into_iter().find(|finding| !finding.there) {
        None => Ok(()),
        Some(missing) => {
            Err(Failure::unable(format!("this scenario needs {}: {}", missing.what, missing.note)))
        }
    }
}

/// Where a program is; like execvp, and in the folders of administration that an ordinary user's PATH may lack.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Runs the child process that tries things in a world, and reads its findings.
fn probe() -> Vec<Finding> {
    let failed =
        |note: String| vec![Finding { what: "private namespaces".into(), there: false, note, needed: true }];
    let own = match std::env::current_exe() {
        Ok(own) => own,
        Err(error) => return failed(error.to_string()),
    };
    match Command::new(own).arg(PROBE).stdin(Stdio::null()).output() {
        Ok(output) => serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
        Err(error) => failed(error.to_string()),
    }
}

/// The child's work: prints findings as JSON.
pub fn probe_world() -> Result<Exit, Failure> {
    let root = nix::unistd::geteuid().is_root();
    let code = world::enter::world(
        |_| Ok(()),
        || {
            // Nothing is left behind, whatever ends it.
            let _ = world::enter::release_signals();
            let mut findings = vec![Finding {
                what: "private namespaces".into(),
                there: true,
                note: if root { "as root" } else { "by a user namespace" }.into(),
                needed: true,
            }];
            findings.extend([nftables(), tun(), netem()]);
            stdout::line(serde_json::to_string(&findings).unwrap_or_default());
            Exit::Held as u8
        },
    )?;
    if code == Exit::Held as u8 {
        Ok(Exit::Held)
    } else {
        Err(Failure::unable("a private world could not be made"))
    }
}

fn succeeds(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            Err(String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("it failed").to_owned())
        }
    }
}

fn finding(what: &str, needed: bool, tried: Result<String, String>, remedy: &str) -> Finding {
    match tried {
        Ok(note) => Finding { what: what.into(), there: true, note, needed },
        Err(why) => Finding { what: what.into(), there: false, note: format!("{why}: {remedy}"), needed },
    }
}

fn nftables() -> Finding {
    let rules = "add table ip probe; add chain ip probe nat { type nat hook postrouting priority 100; }; \
                 add rule ip probe nat masquerade";
    let tried = succeeds("nft", &[rules]).map(|()| "NAT rules are taken".to_owned());
    finding(
        "NAT by nftables",
        true,
        tried,
        "install the package nftables, and use a kernel with CONFIG_NF_TABLES and CONFIG_NFT_MASQ",
    )
}

fn tun() -> Finding {
    let attempt = || -> std::io::Result<()> {
        let file = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        // SAFETY: all zero is a value of ifreq, and the ioctl reads and writes just one.
        let done = unsafe {
            let mut request: libc::ifreq = std::mem::zeroed();
            request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as i16;
            libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request)
        };
        if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    };
    let tried =
        attempt().map(|()| "/dev/net/tun".to_owned()).map_err(|error| format!("/dev/net/tun: {error}"));
    finding(
        "TUN devices",
        true,
        tried,
        "run as root, or give this user access to the device; where it is not there, load the module (modprobe tun), and in a container \
         pass the device in",
    )
}

fn netem() -> Finding {
    let tried = succeeds("tc", &["qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"]);
    let tried = tried.map(|()| "delay, jitter and loss by the kernel".to_owned());
    let remedy = "delay, jitter and loss are made in user space, and what was achieved is reported; a kernel with CONFIG_NET_SCH_NETEM makes them itself";
    finding("netem", false, tried, remedy)
}

fn clock() -> Finding {
    let source = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
    let tried = match source.as_deref().map(str::trim) {
        Ok(name @ ("tsc" | "kvm-clock" | "arch_sys_counter")) => Ok(name.to_owned()),
        Ok(name) => Err(format!("the kernel's clock is {name}, which is slow to read")),
        Err(error) => Err(format!("the kernel does not say which clock it uses ({error})")),
    };
    finding("a fast clock", false, tried, "times are right, but reading them costs more")
}

/// The findings for people.
pub fn render(findings: &[Finding]) -> String {
    findings
        .iter()
        .map(|finding| {
            let mark = match (finding.there, finding.needed) {
                (true, _) => "yes    ",
                (false, true) => "MISSING",
                (false, false) => "no     ",
            };
            format!("{mark}  {}: {}\n", finding.what, finding.note)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{check, source::Source};

    #[test]
    fn programs_are_found_where_they_are() {
        assert!(find("sh").is_some_and(|path| path.ends_with("sh")));
        assert_eq!(find("no-such-program"), None);
    }

    #[test]
    fn a_scenario_needs_only_what_it_uses() {
        let text = "schema = 1\nname = \"t\"\nabout = \"t\"\n[node]\na = { role = \"general\", at = \"internet\" }\n";
        let scenario =
            check(&Source { name: "t".into(), text: text.into() }).unwrap_or_else(|m| panic!("{m}"));
        let plan = crate::plan::address::plan(&scenario).unwrap();
        assert_eq!(require(&scenario, &plan), Ok(()));
    }

    #[test]
    fn more_neighbours_than_a_kernel_holds_are_told() {
        let of = |name: &str| {
            let file = format!("{}/../scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"));
            let text = fs::read_to_string(&file).unwrap();
            let scenario = check(&Source { name: file, text }).unwrap_or_else(|m| panic!("{m}"));
            crate::plan::address::plan(&scenario).unwrap()
        };
        // As Linux has it by default.
        assert_eq!(require_neighbours(&of("terminals-200"), Some(1024)), Ok(()));
        let told = require_neighbours(&of("scale-relays"), Some(1024)).unwrap_err();
        assert!(told.message.contains("about 2400 neighbours"), "{told:?}");
        assert_eq!(require_neighbours(&of("scale-relays"), None), Ok(()));
    }
}
