//! What a relay costs for a small packet on wires that take each by itself: ours, by what the relay's status and its process say; and coturn, which is told to
//! relay datagrams to a peer that sends them back. PURE.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::world::{Configuration, Kind, Way};
use crate::flow;

/// The quantity: millionths of a second of a processor for each packet that was passed on.
pub const COST: &str = "us_per_packet";

/// What coturn is measured by: its clock ticks before and after, and what its client says.
const SERVER: &str = "flow.server.stdout";
const CLIENT: &str = "flow.relayed.stdout";

/// Clock ticks of a second in `/proc/PID/stat`, on every Linux (`USER_HZ`).
const TICKS: f64 = 100.0;

/// The quantities that the cost of `configuration` is made of.
pub fn needed(configuration: &Configuration) -> impl Iterator<Item = &'static str> {
    let names: &[&str] = match configuration.kind {
        Kind::Turn => &[SERVER, CLIENT],
        Kind::Ours { way: Way::RsSKernel, .. } => &["relay.rs.program_us_per_packet"],
        _ => &["relay.rs.cpu_us_per_packet"],
    };
    names.iter().copied()
}

/// The cost by what a world of `configuration` measured.
pub fn cost(configuration: &Configuration, quantities: &BTreeMap<String, Json>) -> Option<f64> {
    if configuration.kind != Kind::Turn {
        return quantities.get(needed(configuration).next()?)?.as_f64();
    }
    let text = |name: &str| quantities.get(name)?.as_str();
    let times: Vec<f64> = text(SERVER)?.lines().filter_map(ticks).collect();
    let (from, to) = (times.first()?, times.get(1)?);
    let packets = relayed(text(CLIENT)?)?;
    Some((to - from) / TICKS * 1e6 / packets)
}

/// User and system time in a line of `/proc/PID/stat`.
fn ticks(stat: &str) -> Option<f64> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_whitespace().skip(11);
    Some(fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?)
}

/// Packets that were relayed, both ways, by the client's last count.
fn relayed(said: &str) -> Option<f64> {
    let last = said.lines().rfind(|line| line.contains("tot_send_msgs="))?;
    let number = |name: &str| -> Option<f64> {
        let (_, behind) = last.split_once(name)?;
        behind.split(',').next()?.trim().parse().ok()
    };
    let packets = number("tot_send_msgs=")? + number("tot_recv_msgs=")?;
    (packets > 0.0).then_some(packets)
}

/// The world of coturn: its server where our relay is, the client and the peer where our terminals are, wires without offload.
pub fn scenario(seed: u64) -> String {
    const RELAY: &str = "203.0.113.9";
    /// Of the router before the peer.
    const OUTSIDE: &str = "203.0.113.10";
    let server = format!(
        "turnserver -n -L {RELAY} --no-auth --no-tls --no-dtls --no-cli --relay-threads 1 --log-file /dev/null \
         --no-stdout-log --pidfile /dev/null >/dev/null 2>&1 & \
         relay=$!; sleep 1; cat /proc/$relay/stat; sleep 11; cat /proc/$relay/stat; kill $relay"
    );
    // It serves at the port that is forwarded to it.
    let peer = "exec timeout 12 turnutils_peer -p $NTM_PORT";
    let client = format!(
        "timeout 8 turnutils_uclient -c -m 20 -n 3000 -z 1 -l 200 -e {OUTSIDE} -r {} {RELAY} | grep --line-buffered tot_send_msgs",
        flow::port(0)
    );
    format!(
        "schema   = 1\nname     = \"bench\"\nabout    = \"coturn\"\nseed     = {seed}\ncaptures = false\n\n\
         [router.apnat_a]\nnat  = \"symmetric\"\nlink = \"bare\"\n\n\
         [router.apnat_b]\nnat     = \"symmetric\"\naddress = \"{OUTSIDE}\"\nforward = \"gn\"\nlink    = \"bare\"\n\n\
         [link.bare]\noffload = false\n\n[node]\n\
         pc = {{ role = \"general\", at = \"apnat_a\", link = \"bare\" }}\n\
         rs = {{ role = \"general\", at = \"internet\", address = \"{RELAY}\", link = \"bare\" }}\n\
         gn = {{ role = \"general\", at = \"apnat_b\", link = \"bare\" }}\n\n\
         [[flow]]\nid   = \"peer\"\nexec = {{ node = \"gn\", command = [\"sh\", \"-c\", \"{peer}\"], timeout = \"15s\" }}\n\
         ends = \"failed\"\n\n\
         [[flow]]\nid   = \"server\"\nexec = {{ node = \"rs\", command = [\"sh\", \"-c\", \"{server}\"], timeout = \"15s\" }}\n\n\
         [[flow]]\nid    = \"relayed\"\nstart = \"1500ms\"\nexec  = {{ node = \"pc\", command = [\"sh\", \"-c\", \"{client}\"], timeout = \"10s\" }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Configuration {
        Configuration::all().into_iter().find(|one| one.name == name).unwrap()
    }

    #[test]
    fn coturns_cost_is_its_processs_time_for_what_it_relayed() {
        let stat =
            |user, system| format!("41 (turn server) S 39 39 0 0 -1 41 11 0 1 0 {user} {system} 0 0 20 0");
        let client = "1: : start_mclient: msz=10, tot_send_msgs=7, tot_recv_msgs=6, tot_send_bytes ~ 1\n\
                      7: : start_mclient: tot_send_msgs=10000, tot_recv_msgs=9000";
        let of = |server: String, client: &str| {
            let said = [(SERVER, server), (CLIENT, client.to_owned())];
            cost(&named("coturn"), &said.map(|(name, said)| (name.to_owned(), said.into())).into())
        };
        assert_eq!(of(stat(1, 0) + "\n" + &stat(14, 6), client), Some(10.0));
        assert_eq!(of(stat(1, 0), client), None, "it ended");
        assert_eq!(of(stat(1, 0) + "\n" + &stat(14, 6), "error"), None);
    }

    #[test]
    fn ours_is_the_processs_time_or_the_programs() {
        let quantities = [("relay.rs.cpu_us_per_packet", 4.0), ("relay.rs.program_us_per_packet", 0.4)];
        let quantities = quantities.map(|(name, value)| (name.to_owned(), value.into())).into();
        assert_eq!(cost(&named("aes-128-cbc-rs-s"), &quantities), Some(4.0));
        assert_eq!(cost(&named("aes-128-cbc-rs-s-tcx"), &quantities), Some(0.4));
        assert_eq!(cost(&named("aes-128-cbc-rs-s-tcx"), &BTreeMap::new()), None);
    }
}
