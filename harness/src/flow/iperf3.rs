//! A transfer by iperf3, TCP's or UDP's, whose two ends both report in JSON.

use std::time::Duration;

use serde_json::Value as Json;
use tokio::time::{Instant, sleep};

use super::process::{Process, Socket};
use super::{Place, Quantities, is_virtual, unmeasured};
use crate::exit::Failure;
use crate::judge::expr::Value;
use crate::world::space::Space;

/// Time for the name, the connections and the exchange of results. Beyond it the transfer counts as broken.
const GRACE: Duration = Duration::from_secs(12);

/// An iperf3 server for one test.
pub struct Server(Process);

impl Server {
    /// Starts it and waits until it listens.
    pub async fn start(id: &str, space: &Space, place: &Place) -> Result<Self, Failure> {
        let mut process =
            Process::start(&format!("{id}.server"), space, "iperf3", &place.folder, |command| {
                command.args([
                    "--server",
                    "--one-off",
                    "--json",
                    "--interval",
                    "0.1",
                    "--port",
                    &place.port.to_string(),
                ]);
            })?;
        process.listens(Socket::Tcp, place.port).await?;
        Ok(Self(process))
    }
}

/// What to transfer.
pub struct Test<'a> {
    /// The server's name.
    pub to: &'a str,
    /// How long.
    pub duration: Duration,
    /// Whether it is datagrams at a steady rate instead of TCP.
    pub udp: bool,
    /// Whether data flows towards the client.
    pub reverse: bool,
    /// At most this many bits per second.
    pub rate: Option<u64>,
    /// Data flows for so long before it is measured.
    pub omit: Duration,
    /// TCP's congestion control, if not the kernel's own.
    pub congestion: Option<&'a str>,
    /// The sockets' buffers in bytes.
    pub window: Option<u64>,
    /// Connections, or streams of datagrams, at once.
    pub streams: u64,
    /// Bytes of each write or datagram, if not iperf3's own.
    pub length: Option<u64>,
}

/// So many streams iperf3 takes.
pub const MOST_STREAMS: u64 = 128;
/// The shortest write or datagram, which holds iperf3's own numbers.
pub const SHORTEST: u64 = 16;
/// The longest write that iperf3 takes.
pub const LONGEST_WRITE: u64 = 1_048_576;

/// Runs the test.
pub async fn run(id: &str, test: &Test<'_>, place: &Place, server: Server) -> Result<Quantities, Failure> {
    let Server(mut server) = server;
    let (port, seconds) = (place.port.to_string(), test.duration.as_secs().to_string());
    let mut client = Process::start(id, &place.from, "iperf3", &place.folder, |command| {
        command.args([
            "--client",
            test.to,
            "--port",
            &port,
            "--time",
            &seconds,
            "--interval",
            "0.1",
            "--json",
        ]);
        if test.udp {
            command.arg("--udp");
        }
        if test.reverse {
            command.arg("--reverse");
        }
        if let Some(congestion) = test.congestion {
            command.args(["--congestion", congestion]);
        }
        if let Some(window) = test.window {
            command.args(["--window", &window.to_string()]);
        }
        if test.streams > 1 {
            command.args(["--parallel", &test.streams.to_string()]);
        }
        if let Some(length) = test.length {
            command.args(["--length", &length.to_string()]);
        }
        if !test.omit.is_zero() {
            command.args(["--omit", &test.omit.as_secs().to_string()]);
        }
        if let Some(rate) = test.rate {
            command.args(["--bitrate", &rate.to_string()]);
        }
    })?;
    let ((status, took), sockets) = {
        let begun = Instant::now();
        let working = async {
            let status = client.finish(place.at_most(test.omit + test.duration + GRACE)).await;
            (status, begun.elapsed())
        };
        tokio::pin!(working);
        tokio::select! {
            // However long it was to last.
            ended = &mut working => (ended, Ok(String::new())),
            () = sleep(test.omit + test.duration / 2) => tokio::join!(working, sockets(id, place)),
        }
    };
    let complete = status.is_some_and(|status| status.success());
    server.finish(Duration::from_secs(if complete { 3 } else { 0 })).await;
    let json = |text: &str| serde_json::from_str::<Json>(text).unwrap_or(Json::Null);
    let ends =
        Reports { client: json(&client.printed()), server: json(&server.printed()), reverse: test.reverse };
    let why = ends.error().unwrap_or_else(|| format!("iperf3 ended early{}", client.complaint()));
    let complete = complete && ends.error().is_none();
    if test.udp {
        let mut out = datagrams(&ends, &why);
        out.insert("completed".to_owned(), Ok(Value::Truth(complete)));
        return Ok(out);
    }
    let mut out = read(&ends, &why);
    out.insert("completed".to_owned(), Ok(Value::Truth(complete)));
    out.insert("time_ms".to_owned(), Ok(Value::Number(took.as_secs_f64() * 1e3)));
    out.extend(seen(&sockets?, &why));
    Ok(out)
}

/// What `ss` shows of the client's sockets now.
async fn sockets(id: &str, place: &Place) -> Result<String, Failure> {
    let filter = format!("( dport = :{} )", place.port);
    let mut ss = Process::start(&format!("{id}.ss"), &place.from, "ss", &place.folder, |command| {
        command.args(["-t", "-n", "-H", "-O", "state", "established", &filter]);
    })?;
    ss.finish(Duration::from_secs(2)).await;
    Ok(ss.printed())
}

/// Addresses from lines of ss: `recv-q send-q local:port peer:port`.
fn seen(sockets: &str, why: &str) -> Quantities {
    let mut out =
        unmeasured(&["local_address", "remote_address", "virtual"], &format!("ss showed no socket: {why}"));
    let pairs: Vec<(&str, &str)> = sockets
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace().skip(2);
            let mut address = || Some(fields.next()?.rsplit_once(':')?.0);
            Some((address()?, address()?))
        })
        .collect();
    if let Some((local, remote)) = pairs.first() {
        out.insert("local_address".to_owned(), Ok(Value::Text((*local).to_owned())));
        out.insert("remote_address".to_owned(), Ok(Value::Text((*remote).to_owned())));
        let all = pairs.iter().all(|(local, remote)| is_virtual(local) && is_virtual(remote));
        out.insert("virtual".to_owned(), Ok(Value::Truth(all)));
    }
    out
}

/// What both ends reported.
pub struct Reports {
    client: Json,
    server: Json,
    reverse: bool,
}

/// A stretch of a transfer, in seconds from its start, and the bytes that the receiver got in it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// Bytes.
    pub bytes: f64,
}

impl Reports {
    /// Reads what a flow left in `folder`.
    pub fn load(id: &str, folder: &std::path::Path, reverse: bool) -> Self {
        let json = |name: String| {
            let text = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
            serde_json::from_str(&text).unwrap_or(Json::Null)
        };
        Self { client: json(format!("{id}.out")), server: json(format!("{id}.server.out")), reverse }
    }

    fn receiver(&self) -> &Json {
        if self.reverse { &self.client } else { &self.server }
    }

    /// Seconds that are not measured.
    fn omitted(&self) -> f64 {
        self.receiver().pointer("/start/test_start/omit").and_then(Json::as_f64).unwrap_or(0.0)
    }

    /// Seconds of a processor for 10^9 bytes that the receiver got: what daemons `used` meanwhile, and both ends of iperf3. All is of the whole
    /// transfer, what is not measured included.
    pub fn cost(&self, used: Option<f64>) -> Result<f64, String> {
        let used = used.ok_or("a daemon did not last throughout")?;
        let ends = [&self.client, &self.server].map(|report| {
            let share = report.pointer("/end/cpu_utilization_percent/host_total")?.as_f64()? / 100.0;
            let test = report.pointer("/start/test_start")?;
            let seconds = |key: &str| test.get(key).and_then(Json::as_f64);
            Some(share * (seconds("duration")? + seconds("omit").unwrap_or(0.0)))
        });
        let own = ends.into_iter().sum::<Option<f64>>().ok_or("iperf3 did not tell what it used")?;
        let list = self.receiver().get("intervals").and_then(Json::as_array);
        let bytes = list.into_iter().flatten().filter_map(|one| one.pointer("/sum/bytes")?.as_f64());
        let bytes: f64 = bytes.sum();
        if bytes > 0.0 { Ok((used + own) / (bytes / 1e9)) } else { Err("nothing came".to_owned()) }
    }

    fn error(&self) -> Option<String> {
        [("client", &self.client), ("server", &self.server)]
            .into_iter()
            .find_map(|(end, report)| Some(format!("iperf3's {end}: {}", report.get("error")?.as_str()?)))
    }

    /// The receiver's intervals, without those that are not measured. Behind those iperf3 counts its time anew.
    pub fn intervals(&self) -> Vec<Interval> {
        let list = self.receiver().get("intervals").and_then(Json::as_array);
        let omitted = self.omitted();
        list.into_iter()
            .flatten()
            .filter_map(|interval| {
                let sum = interval.get("sum")?;
                let number = |key: &str| sum.get(key).and_then(Json::as_f64);
                let (start, end) = (omitted + number("start")?, omitted + number("end")?);
                let is_omitted = sum.get("omitted").and_then(Json::as_bool) == Some(true);
                Some(Interval { start, end, bytes: number("bytes")? }).filter(|_| !is_omitted)
            })
            .collect()
    }
}

/// The bytes that the receiver got.
fn received(ends: &Reports, why: &str) -> Quantities {
    counted(&ends.intervals(), ends.omitted(), why)
}

/// What a receiver's intervals tell; those of the first `omitted` seconds are left out of them.
pub fn counted(intervals: &[Interval], omitted: f64, why: &str) -> Quantities {
    let mut out = unmeasured(&["bytes", "mbits", "bytes_at_end"], why);
    let mut set = |name: &str, value: f64| out.insert(name.to_owned(), Ok(Value::Number(value)));
    if let Some(last) = intervals.last() {
        let bytes: f64 = intervals.iter().map(|interval| interval.bytes).sum();
        set("bytes", bytes);
        // Not by the intervals' own lengths: that of the first one may reach into the time that is not measured.
        set("mbits", bytes * 8.0 / (last.end - omitted) / 1e6);
        set("bytes_at_end", intervals.iter().filter(|i| i.start >= last.end - 1.001).map(|i| i.bytes).sum());
    }
    out
}

/// What the receiver tells of datagrams.
fn datagrams(ends: &Reports, why: &str) -> Quantities {
    let mut out = received(ends, why);
    let told = |name: &str| {
        let sum = ends.receiver().pointer("/end/sum_received")?;
        sum.get(name).and_then(Json::as_f64)
    };
    let numbers = told("packets").zip(told("lost_packets"));
    out.extend(numbered(numbers, told("jitter_ms"), why));
    out
}

/// What the numbers of datagrams tell: how many were sent, and how many of these were lost.
pub fn numbered(numbers: Option<(f64, f64)>, jitter_ms: Option<f64>, why: &str) -> Quantities {
    let mut out = unmeasured(&["sent", "received", "lost", "jitter_ms"], why);
    let mut set = |name: &str, value: f64| out.insert(name.to_owned(), Ok(Value::Number(value)));
    // Of a transfer of which nothing came there is nothing to tell.
    if let Some((sent, lost)) = numbers.filter(|(sent, _)| *sent > 0.0) {
        set("sent", sent);
        set("lost", lost);
        set("received", sent - lost);
        if let Some(jitter) = jitter_ms {
            set("jitter_ms", jitter);
        }
    }
    out
}

/// What the receiver tells of a TCP transfer, and the sender of what it sent again.
fn read(ends: &Reports, why: &str) -> Quantities {
    let mut out = received(ends, why);
    out.extend(unmeasured(&["connections", "retransmits"], why));
    let mut set = |name: &str, value: f64| out.insert(name.to_owned(), Ok(Value::Number(value)));
    if let Some(connected) = ends.server.pointer("/start/connected").and_then(Json::as_array) {
        set("connections", connected.len() as f64);
    }
    if let Some(count) = ends.client.pointer("/end/sum_sent/retransmits").and_then(Json::as_f64) {
        set("retransmits", count);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reports(error: Option<&str>) -> Reports {
        let intervals: Vec<Json> = (0..20)
            .map(|n| json!({"sum": {"start": f64::from(n) / 10.0, "end": f64::from(n + 1) / 10.0, "bytes": 1000}}))
            .collect();
        let mut server = json!({"start": {"connected": [{}]}, "intervals": intervals});
        if let Some(error) = error {
            server["error"] = json!(error);
        }
        Reports { client: json!({"end": {"sum_sent": {"retransmits": 3}}}), server, reverse: false }
    }

    #[test]
    fn both_reports_are_read() {
        let measured = read(&reports(None), "");
        let number = |name: &str| measured[name].clone().unwrap();
        assert_eq!(number("connections"), Value::Number(1.0));
        assert_eq!(number("bytes"), Value::Number(20_000.0));
        assert_eq!(number("bytes_at_end"), Value::Number(10_000.0));
        assert_eq!(number("mbits"), Value::Number(0.08));
        assert_eq!(number("retransmits"), Value::Number(3.0));
    }

    #[test]
    fn the_cost_is_of_daemons_and_both_ends_for_all_that_came() {
        let start = json!({"test_start": {"omit": 1, "duration": 3}});
        let end = |share: f64| json!({"cpu_utilization_percent": {"host_total": share}});
        let bytes = |bytes: f64, omitted: bool| json!({"sum": {"bytes": bytes, "omitted": omitted}});
        let server =
            json!({"start": start, "end": end(25.0), "intervals": [bytes(5e8, true), bytes(1.5e9, false)]});
        let mut ends = Reports { client: json!({"start": start, "end": end(50.0)}), server, reverse: false };
        assert_eq!(ends.cost(Some(1.0)), Ok(2.0), "1 s, 2 s and 1 s for 2 GB");
        assert!(ends.cost(None).is_err());
        ends.server["intervals"] = json!([]);
        assert!(ends.cost(Some(1.0)).is_err());
    }

    #[test]
    fn the_receiver_tells_of_datagrams() {
        let sum = json!({"packets": 20, "lost_packets": 3, "jitter_ms": 0.25});
        let interval = json!({"sum": {"start": 0, "end": 1, "bytes": 17000}});
        let told = json!({"intervals": [interval], "end": {"sum_received": sum}});
        for reverse in [false, true] {
            let (client, server) =
                if reverse { (told.clone(), json!({})) } else { (json!({}), told.clone()) };
            let measured = datagrams(&Reports { client, server, reverse }, "why");
            for (name, value) in
                [("sent", 20.0), ("lost", 3.0), ("received", 17.0), ("jitter_ms", 0.25), ("bytes", 17000.0)]
            {
                assert_eq!(measured[name], Ok(Value::Number(value)), "{name}");
            }
        }
        let nothing = json!({"end": {"sum_received": {"packets": 0, "lost_packets": 0, "jitter_ms": 0}}});
        let measured = datagrams(&Reports { client: json!({}), server: nothing, reverse: false }, "why");
        assert!(measured.values().all(|value| value == &Err("why".to_owned())), "{measured:?}");
    }

    /// As iperf3 3.12 tells it: the time begins anew, and the first measured interval is said to be twice as long as it is.
    #[test]
    fn what_is_not_measured_does_not_count() {
        let interval = |start: f64, end: f64, bytes: f64, omitted: bool| json!({"sum": {"start": start, "end": end, "seconds": end - start, "bytes": bytes, "omitted": omitted}});
        let mut reports = reports(None);
        reports.server["start"]["test_start"] = json!({"omit": 1});
        reports.server["intervals"] = json!([
            interval(0.0, 0.5, 9e9, true),
            interval(0.5, 0.9, 9e9, true),
            interval(0.4, 0.5, 50_000.0, false),
            interval(0.5, 1.0, 50_000.0, false),
        ]);
        let measured = read(&reports, "");
        assert_eq!(measured["bytes"], Ok(Value::Number(100_000.0)));
        assert_eq!(measured["mbits"], Ok(Value::Number(0.8)));
        assert_eq!(reports.intervals()[1], Interval { start: 1.5, end: 2.0, bytes: 50_000.0 });
    }

    #[test]
    fn an_error_is_told_and_an_absent_report_measures_nothing() {
        assert_eq!(reports(Some("broken")).error().unwrap(), "iperf3's server: broken");
        let none = Reports { client: Json::Null, server: Json::Null, reverse: false };
        assert!(read(&none, "why").values().all(|value| value == &Err("why".to_owned())));
    }

    #[test]
    fn sockets_of_ss_are_read() {
        let text = "0 0 198.18.0.1:40000 198.18.128.1:5201\n0 0 198.18.0.1:40002 198.18.128.1:5201\n";
        assert_eq!(seen(text, "")["virtual"], Ok(Value::Truth(true)));
        let mixed = text.replace("198.18.0.1:40002", "10.1.0.2:40002");
        assert_eq!(seen(&mixed, "")["virtual"], Ok(Value::Truth(false)));
        assert!(seen("", "x")["virtual"].is_err());
    }
}
