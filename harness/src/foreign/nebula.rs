//! Nebula between a lighthouse, which is the server, and a client: certificates by `nebula-cert`, a configuration in YAML each.

use std::path::PathBuf;

use super::{End, MTU, write};
use crate::exit::Failure;
use crate::flow::process::Process;

fn path(end: &End<'_>, what: &str) -> PathBuf {
    end.folder.join(format!("{}.{what}", end.name))
}

/// Makes an authority, and a certificate by it for each of `ends`.
pub(super) async fn certify(ends: &[End<'_>]) -> Result<(), Failure> {
    let Some(first) = ends.first() else { return Ok(()) };
    let shown = |path: PathBuf| path.display().to_string();
    let (ca, secret) = (shown(path(first, "ca.crt")), shown(path(first, "ca.key")));
    first.call("nebula-cert", &["ca", "-name", "world", "-out-crt", &ca, "-out-key", &secret]).await?;
    for end in ends {
        let (own, certificate, key) =
            (format!("{}/24", end.own), shown(path(end, "crt")), shown(path(end, "key")));
        let of_all = shown(path(end, "ca"));
        std::fs::copy(&ca, &of_all).map_err(Failure::during(of_all.clone()))?;
        let arguments = [
            "sign",
            "-name",
            end.name,
            "-ip",
            &own,
            "-ca-crt",
            &ca,
            "-ca-key",
            &secret,
            "-out-crt",
            &certificate,
            "-out-key",
            &key,
        ];
        end.call("nebula-cert", &arguments).await?;
    }
    Ok(())
}

/// Starts an end.
pub(super) fn start(end: &End<'_>) -> Result<Process, Failure> {
    let file = path(end, "yml");
    write(&file, &configuration(end))?;
    Process::start(end.name, end.space, "nebula", end.folder, |command| {
        command.arg("-config").arg(&file);
    })
}

fn configuration(end: &End<'_>) -> String {
    let [ca, certificate, key] = ["ca", "crt", "key"].map(|what| path(end, what).display().to_string());
    let (hosts, lighthouse, port) = match end.server {
        Some(server) => (format!("{{\"{}\": [\"{server}\"]}}", end.peer), format!("[\"{}\"]", end.peer), 0),
        None => ("{}".to_owned(), "[]".to_owned(), end.port),
    };
    let is_lighthouse = !end.is_client();
    let anybody = "[{port: any, proto: any, host: any}]";
    format!(
        "pki: {{ca: \"{ca}\", cert: \"{certificate}\", key: \"{key}\"}}\n\
         static_host_map: {hosts}\n\
         lighthouse: {{am_lighthouse: {is_lighthouse}, hosts: {lighthouse}}}\n\
         listen: {{host: 0.0.0.0, port: {port}}}\n\
         tun: {{dev: {}, mtu: {MTU}}}\n\
         logging: {{level: warning, format: text}}\n\
         firewall: {{outbound: {anybody}, inbound: {anybody}}}\n",
        end.device
    )
}
