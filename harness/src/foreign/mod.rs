//! Tunnels by programs that are not ours, between two general nodes: started in the nodes' namespaces with a configuration made for them, so that flows
//! through them can be measured beside ours.
//!
//! `program` knows the programs, `wireguard`, `openvpn` and `nebula` how each is told what to do. A tunnel stands when a packet was
//! answered through it.

mod nebula;
mod openvpn;
pub mod program;
mod wireguard;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::exit::Failure;
use crate::flow::process::Process;
use crate::plan::{Plan, TunnelPlan};
use crate::world::build::World;
use crate::world::space::Space;
use program::Program;

/// A tunnel that does not stand by then will not.
const STANDS_WITHIN: Duration = Duration::from_secs(15);
/// How often something that is awaited is looked at, where nobody tells.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The MTU in all tunnels: what WireGuard's programs have by themselves, and little less than ours.
const MTU: u16 = 1420;

/// One end of a tunnel.
#[derive(Clone, Copy)]
struct End<'a> {
    /// Where it runs.
    space: &'a Space,
    /// Names it in files: `wg.pc`.
    name: &'a str,
    /// Its interface.
    device: &'a str,
    /// Its address in the tunnel, and its peer's.
    own: Ipv4Addr,
    peer: Ipv4Addr,
    /// Where the server is, for the client.
    server: Option<SocketAddr>,
    /// The server's port.
    port: u16,
    /// Configurations and what programs print.
    folder: &'a Path,
}

impl End<'_> {
    fn is_client(&self) -> bool {
        self.server.is_some()
    }

    /// Runs a tool to its end in the node's namespaces.
    async fn call(&self, program: &str, arguments: &[&str]) -> Result<(), Failure> {
        let output = self.space.output(Space::command(program).args(arguments)).await;
        let output = output.map_err(Failure::during(format!("{program} for the tunnel {}", self.name)))?;
        if output.status.success() {
            return Ok(());
        }
        let (said, words) = (String::from_utf8_lossy(&output.stderr), arguments.join(" "));
        Err(Failure::error(format!("the tunnel {}: {program} {words}: {}", self.name, said.trim())))
    }

    async fn start(&self, program: Program) -> Result<Process, Failure> {
        match program {
            Program::WireguardGo | Program::Gotatun | Program::Boringtun => {
                wireguard::start(program, self).await
            }
            Program::Openvpn => openvpn::start(self),
            Program::Nebula => nebula::start(self),
        }
    }
}

/// Starts all tunnels of `plan` and waits until they stand. They last as long as what is returned.
pub async fn start(world: &World, plan: &Plan, folder: &Path) -> Result<Vec<Process>, Failure> {
    let mut all = Vec::new();
    for tunnel in &plan.tunnels {
        all.extend(stand(world, plan, tunnel, folder).await?);
    }
    Ok(all)
}

async fn stand(
    world: &World,
    plan: &Plan,
    tunnel: &TunnelPlan,
    folder: &Path,
) -> Result<[Process; 2], Failure> {
    let (from, to) = (world.space(&tunnel.from)?, world.space(&tunnel.to)?);
    let server = plan.host(&tunnel.to).map(|host| SocketAddr::new(host.address(), tunnel.port));
    let [client_name, server_name] = [&tunnel.from, &tunnel.to].map(|node| format!("{}.{node}", tunnel.name));
    let [client_device, server_device] = tunnel.devices();
    let (own, peer, port) = (tunnel.inner_from, tunnel.inner_to, tunnel.port);
    let called = End {
        space: to,
        name: &server_name,
        device: &server_device,
        own: peer,
        peer: own,
        server: None,
        port,
        folder,
    };
    let calling =
        End { space: from, name: &client_name, device: &client_device, own, peer, server, port, folder };
    if tunnel.program == Program::Nebula {
        nebula::certify(&[called, calling]).await?;
    }
    let mut both = [called.start(tunnel.program).await?, calling.start(tunnel.program).await?];
    let deadline = Instant::now() + STANDS_WITHIN;
    // Nobody tells when a tunnel stands: what is awaited is an answer through it.
    while calling.call("ping", &["-n", "-c", "1", "-W", "1", &peer.to_string()]).await.is_err() {
        let [server, client] = &mut both;
        let complaint = server.complaint() + &client.complaint();
        if server.has_ended() || client.has_ended() {
            let message = format!("{} of the tunnel {} ended{complaint}", tunnel.program.word(), tunnel.name);
            return Err(Failure::error(message));
        }
        if Instant::now() > deadline {
            let message = format!(
                "the tunnel {} by {} does not stand after {STANDS_WITHIN:?}{complaint}",
                tunnel.name,
                tunnel.program.word()
            );
            return Err(Failure::error(message));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(both)
}

/// Writes a program's file, which may hold a key.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).map_err(Failure::during(path.display()))
}
