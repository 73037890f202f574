//! What relays passed on, and what daemons cost (T7-c).

use super::Job;
use super::result::Record;
use crate::engine::Engine;
use crate::flow::Quantities;
use crate::judge::catalogue::{RELAY, USAGE};
use crate::judge::expr::Value;
use crate::scenario::model::Role;

/// What every daemon used, and `relay.NAME.…`.
pub(super) fn quantities(job: &Job, record: &Record) -> Quantities {
    let mut out = Quantities::new();
    for host in &job.plan.hosts {
        let name = &host.name;
        if matches!(host.role, Role::General { .. }) {
            continue;
        }
        let used = record.usage.get(name).copied().ok_or_else(|| match job.engine {
            Engine::Simulation => "the simulation has no processes".to_owned(),
            Engine::Emulation => format!("the daemon of `{name}` did not last throughout"),
        });
        let values = [used.clone().map(|used| used.cpu_s), used.clone().map(|used| used.memory_mb)];
        for ((what, ..), value) in USAGE.iter().zip(values) {
            out.insert(format!("node.{name}.{what}"), value.map(Value::Number));
        }
        let used = used.map(|used| used.cpu_s);
        if matches!(host.role, Role::Relay { .. }) {
            let passed = passed(record, name).ok_or_else(|| format!("`{name}` did not say what it counted"));
            for (what, ..) in RELAY {
                let value = match *what {
                    "switcher" | "program_us_per_packet" => of_kernel(what, &record.status[name]["rs_s"]),
                    _ => passed
                        .clone()
                        .and_then(|passed| of(what, passed, &used, seconds(record)).map(Value::Number)),
                };
                out.insert(format!("relay.{name}.{what}"), value);
            }
        }
    }
    out
}

/// Packets and bytes.
type Passed = (f64, f64);

fn of(what: &str, passed: Passed, used: &Result<f64, String>, seconds: Option<f64>) -> Result<f64, String> {
    let (packets, bytes) = passed;
    match what {
        "packets" => Ok(packets),
        "bytes" => Ok(bytes),
        "packets_s" => {
            seconds.map(|seconds| packets / seconds).ok_or_else(|| "no flow came to its end".to_owned())
        }
        _ if bytes == 0.0 => Err("it passed nothing on".to_owned()),
        "cpu_us_per_packet" => used.clone().map(|used| used * 1e6 / packets),
        _ => used.clone().map(|used| used / (bytes / 1e9)),
    }
}

/// What a relay's status tells of RS-S in the kernel.
fn of_kernel(what: &str, status: &serde_json::Value) -> Result<Value, String> {
    if what == "switcher" {
        let path = status["path"].as_str().ok_or("it did not say who switches")?;
        return Ok(Value::Text(path.to_owned()));
    }
    let packets = status["packets"].as_f64().filter(|packets| *packets > 0.0);
    let packets = packets.ok_or("the kernel's program switched nothing")?;
    let time = status["program_ns"].as_f64().ok_or("the machine does not measure the kernel's program")?;
    Ok(Value::Number(time / 1e3 / packets))
}

/// What the relay `name` counted, in both modes and directions.
fn passed(record: &Record, name: &str) -> Option<Passed> {
    let counters = record.status.get(name)?.get("counters")?;
    let sum = |what: &str| {
        // RS-S switches; RS-N takes from its tunnels and puts into them.
        let ways =
            ["forwarded", "tun_in", "tun_out"].map(|way| counters.get(format!("{way}_{what}"))?.as_f64());
        ways.into_iter().sum::<Option<f64>>()
    };
    Some((sum("packets")?, sum("bytes")?))
}

/// From the first flow's beginning to the last one's end.
fn seconds(record: &Record) -> Option<f64> {
    let moments = |what: &'static str| {
        record.own.iter().filter(move |event| event["what"] == what).filter_map(|event| event["t"].as_u64())
    };
    let (from, to) = (moments("flow-started").min()?, moments("flow-ended").max()?);
    Some(to.saturating_sub(from) as f64 / 1e9).filter(|seconds| *seconds > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record() -> Record {
        let counters = json!({
            "forwarded_packets": 10, "forwarded_bytes": 2e9, "tun_in_packets": 1, "tun_in_bytes": 0.5e9, "tun_out_packets": 2,
            "tun_out_bytes": 0.5e9, "udp_in_packets": 99
        });
        let own = [(1.0, "flow-started"), (2.0, "flow-started"), (3.0, "flow-ended"), (6.0, "flow-ended")];
        let own = own.map(|(t, what)| json!({"t": (t * 1e9) as u64, "what": what})).to_vec();
        Record { status: json!({"rs": {"counters": counters}}), own, ..Record::default() }
    }

    /// T7-c: both modes and directions count, over the time in which flows ran.
    #[test]
    fn what_a_relay_cost_is_told_for_what_it_passed_on() {
        let (record, used) = (record(), Ok(1.5));
        let passed = passed(&record, "rs").unwrap();
        assert_eq!(passed, (13.0, 3e9));
        assert_eq!(of("packets_s", passed, &used, seconds(&record)), Ok(13.0 / 5.0));
        assert_eq!(of("cpu_s_per_gb", passed, &used, None), Ok(0.5));
        assert_eq!(of("cpu_us_per_packet", (3e5, 1.0), &used, None), Ok(5.0));
        let kernel = json!({"path": "tcx", "packets": 1000, "program_ns": 400_000});
        assert_eq!(of_kernel("switcher", &kernel), Ok(Value::Text("tcx".to_owned())));
        assert_eq!(of_kernel("program_us_per_packet", &kernel), Ok(Value::Number(0.4)));
    }

    #[test]
    fn nothing_is_made_up() {
        let record = record();
        assert_eq!(super::passed(&record, "other"), None);
        assert!(of("cpu_s_per_gb", (0.0, 0.0), &Ok(1.0), None).is_err());
        assert!(of("cpu_s_per_gb", (1.0, 1.0), &Err("why".to_owned()), None).is_err());
        assert!(of("packets_s", (1.0, 1.0), &Ok(1.0), None).is_err());
        let unmeasured = json!({"path": "tcx", "packets": 1000, "program_ns": null});
        let idle = json!({"path": "userspace", "packets": 0, "program_ns": 9});
        for status in [unmeasured, idle, json!(null)] {
            assert!(of_kernel("program_us_per_packet", &status).is_err());
        }
    }
}
