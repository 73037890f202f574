//! ICMP echo by name, with iputils' ping.

use std::time::Duration;

use super::process::Process;
use super::{Place, Quantities, is_virtual, unmeasured};
use crate::exit::Failure;
use crate::judge::expr::Value;

/// Time for the name and for the last answer.
const GRACE: Duration = Duration::from_secs(10);

/// What is measured.
pub const NAMES: &[&str] = &[
    "sent",
    "received",
    "lost",
    "unreachable",
    "rtt_min_ms",
    "rtt_avg_ms",
    "rtt_max_ms",
    "remote_address",
    "virtual",
];

/// Sends `count` requests to `to`, one every `interval`.
pub async fn run(
    id: &str,
    to: &str,
    count: u64,
    interval: Duration,
    place: &Place,
) -> Result<Quantities, Failure> {
    let mut client = Process::start(id, &place.from, "ping", &place.folder, |command| {
        command.args([
            "-n",
            // When each answer came.
            "-D",
            "-W",
            "2",
            "-c",
            &count.to_string(),
            "-i",
            &interval.as_secs_f64().to_string(),
            to,
        ]);
    })?;
    let whole = interval.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)) + GRACE;
    // At this signal it says what it measured.
    client.interrupt(place.at_most(whole)).await;
    Ok(read(&client.printed(), &client.complaint()))
}

/// Reads what ping printed.
fn read(printed: &str, complaint: &str) -> Quantities {
    let mut out = unmeasured(NAMES, &format!("ping did not measure it{complaint}"));
    let mut set = |name: &str, value: Value| out.insert(name.to_owned(), Ok(value));
    // PING www.example.test (198.18.128.1) 56(84) bytes of data.
    let address = printed.lines().next().and_then(|line| Some(line.split_once('(')?.1.split_once(')')?.0));
    if let Some(address) = address {
        set("remote_address", Value::Text(address.to_owned()));
        set("virtual", Value::Truth(is_virtual(address)));
    }
    for line in printed.lines() {
        // 5 packets transmitted, 5 received, 0% packet loss, time 804ms
        if let Some((sent, rest)) = line.split_once(" packets transmitted, ") {
            let received = rest.split_once(" received").map(|(number, _)| number);
            if let (Ok(sent), Some(Ok(received))) = (sent.parse::<f64>(), received.map(str::parse::<f64>)) {
                set("sent", Value::Number(sent));
                set("received", Value::Number(received));
                set("lost", Value::Number(sent - received));
                // From 198.18.128.1 icmp_seq=9 Destination Host Prohibited
                let told = |line: &&str| line.contains("icmp_seq=") && line.contains(" Destination ");
                set("unreachable", Value::Number(printed.lines().filter(told).count() as f64));
            }
        }
        // rtt min/avg/max/mdev = 0.045/0.050/0.060/0.005 ms
        if let Some((_, times)) = line.split_once("min/avg/max/mdev = ") {
            let times: Vec<f64> = times.split(['/', ' ']).map_while(|time| time.parse().ok()).collect();
            for (name, time) in ["rtt_min_ms", "rtt_avg_ms", "rtt_max_ms"].into_iter().zip(times) {
                set(name, Value::Number(time));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ping_prints_is_read() {
        let printed = "PING www.example.test (198.18.128.1) 56(84) bytes of data.\n\
            64 bytes from 198.18.128.1: icmp_seq=1 ttl=62 time=0.5 ms\n\
            [1700000000.5] From 198.18.128.1 icmp_seq=2 Destination Host Prohibited\n\n\
            --- www.example.test ping statistics ---\n\
            5 packets transmitted, 4 received, 20% packet loss, time 804ms\n\
            rtt min/avg/max/mdev = 0.400/0.500/0.600/0.100 ms\n";
        let measured = read(printed, "");
        assert_eq!(measured["lost"], Ok(Value::Number(1.0)));
        assert_eq!(measured["unreachable"], Ok(Value::Number(1.0)));
        assert_eq!(measured["rtt_max_ms"], Ok(Value::Number(0.6)));
        assert_eq!(measured["virtual"], Ok(Value::Truth(true)));
    }

    #[test]
    fn without_an_answer_nothing_is_invented() {
        let measured = read("", ": ping: www.example.test: Temporary failure in name resolution");
        assert!(measured["rtt_avg_ms"].as_ref().unwrap_err().contains("name resolution"));
        assert_eq!(measured.values().filter(|value| value.is_ok()).count(), 0);
    }
}
