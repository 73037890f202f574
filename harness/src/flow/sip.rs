//! Calls by SIP (RFC 3261) with a voice by RTP, from sipp to sipp. SIP names addresses and ports in its headers and in the description of the
//! session, which a relay must mend (T5.1.2-b): else the voice reaches nobody.
//!
//! The called end sends back what it hears. So each call has media both ways; who heard how much is told from packets.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::process::{Process, Socket};
use super::{Place, Quantities, bytes, unmeasured};
use crate::capture::Recording;
use crate::capture::packet::{Content, Packet};
use crate::exit::Failure;
use crate::judge::expr::Value;
use crate::world::space::Space;

/// The port that Netfilter's helper looks at.
const PORT: u16 = 5060;
/// Where the called end takes media.
const MEDIA: u16 = 6000;
/// Where the calling end of the first flow does; each flow has a port of its own, and its neighbour for RTCP.
const FIRST_MEDIA: u16 = 16_000;
/// Time for the name, and for what is said before and after the voice.
const GRACE: Duration = Duration::from_secs(10);
/// What is said in a call; `VOICE` stands for the file.
const CALL: &str = include_str!("sip/call.xml");
/// Bytes of a voice of two seconds: G.711 has 8000 a second. It is played again and again.
const VOICE: u64 = 16_000;

/// Calls, one after the other.
pub struct Calls<'a> {
    /// The called end's name.
    pub to: &'a str,
    /// How many.
    pub count: u64,
    /// How long each lasts.
    pub duration: Duration,
    /// Whether there is a voice in them.
    pub media: bool,
}

/// Starts the node's answering end, if no other flow has.
pub async fn serve(space: &Space, place: &Place) -> Result<(), Failure> {
    let address = place.peer.to_string();
    place
        .shared
        .server("sipp", &space.name, || async {
            let name = format!("{}.sipp", space.name);
            let mut process = Process::start(&name, space, "sipp", &place.folder, |command| {
                command.args(["-sn", "uas", "-nostdin", "-rtp_echo"]);
                command.args(["-i", &address, "-p", &PORT.to_string()]);
                command.args(["-mi", &address, "-mp", &MEDIA.to_string()]);
            })?;
            process.listens(Socket::Udp, PORT).await?;
            process.listens(Socket::Udp, MEDIA).await?;
            Ok(process)
        })
        .await
}

/// Makes the calls.
pub async fn run(id: &str, calls: &Calls<'_>, place: &Place) -> Result<Quantities, Failure> {
    let folder = place.pages.join(format!("sip-{id}"));
    let (script, voice) = (folder.join("call.xml"), folder.join("voice"));
    let statistics = place.folder.join(format!("{id}.csv"));
    let made = fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&voice, bytes(VOICE, 0)))
        .and_then(|()| fs::write(&script, what_is_said(&voice, calls.media)));
    made.map_err(Failure::during(folder.display()))?;
    let own = place.own_address()?.to_string();
    let whole = calls.duration.saturating_mul(u32::try_from(calls.count).unwrap_or(u32::MAX)) + GRACE;
    let mut client = Process::start(id, &place.from, "sipp", &place.folder, |command| {
        command.arg(format!("{}:{PORT}", calls.to)).arg("-sf").arg(&script);
        command.args(["-nostdin", "-i", &own, "-p", &own_port(place.index).to_string()]);
        command.args(["-mi", &own, "-mp", &media_port(place.index).to_string()]);
        command.args(["-m", &calls.count.to_string(), "-l", "1", "-r", "100"]);
        command.args(["-d", &calls.duration.as_millis().to_string()]);
        command.args(["-timeout", &format!("{}s", whole.as_secs()), "-timeout_error"]);
        command.args(["-trace_stat", "-fd", "1", "-stf"]).arg(&statistics);
    })?;
    let status = client.finish(place.at_most(whole + Duration::from_secs(1))).await;
    let text = fs::read_to_string(&statistics).unwrap_or_default();
    let mut out = read(&text, &client.complaint());
    let completed = status.is_some_and(|status| status.success());
    out.insert("completed".to_owned(), Ok(Value::Truth(completed)));
    Ok(out)
}

fn what_is_said(voice: &Path, media: bool) -> String {
    if media {
        return CALL.replace("VOICE", &voice.display().to_string());
    }
    let parts = CALL.split_once("<!-- MEDIA -->").zip(CALL.split_once("<!-- END -->"));
    parts.map_or_else(String::new, |((before, _), (_, after))| format!("{before}{after}"))
}

/// Reads the last line of sipp's statistics, whose columns the first line names.
fn read(statistics: &str, complaint: &str) -> Quantities {
    let wanted = [("calls_ok", "SuccessfulCall(C)"), ("calls_failed", "FailedCall(C)")];
    let mut out = unmeasured(&wanted.map(|(name, _)| name), &format!("sipp did not measure it{complaint}"));
    let mut lines = statistics.lines();
    if let (Some(head), Some(last)) = (lines.next(), lines.last()) {
        for (name, column) in wanted {
            let place = head.split(';').position(|title| title == column);
            let value = place.and_then(|place| last.split(';').nth(place)?.parse::<f64>().ok());
            if let Some(value) = value {
                out.insert(name.to_owned(), Ok(Value::Number(value)));
            }
        }
    }
    out
}

/// The calling end's port for SIP, of the flow numbered `index`.
fn own_port(index: usize) -> u16 {
    PORT + 1 + index as u16
}

/// The calling end's port for media, of the flow numbered `index`.
fn media_port(index: usize) -> u16 {
    FIRST_MEDIA + 4 * index as u16
}

/// What packets tell of a flow's media: `client` and `server` are the recordings where applications' packets can be seen as they see them;
/// `from` to `to` is the flow's time, `moved` when the first handover was done, in nanoseconds.
pub fn media(
    index: usize,
    client: &Recording,
    server: &Recording,
    (from, to): (u64, u64),
    moved: Option<u64>,
) -> Quantities {
    let own = media_port(index);
    let at = |recording: &'_ Recording, outgoing: bool, port: u16| -> Vec<Packet> {
        let is_its = |packet: &&Packet| {
            let address = if packet.outgoing { packet.source } else { packet.destination };
            let in_time = (from..=to).contains(&packet.t);
            in_time
                && packet.outgoing == outgoing
                && address.port() == port
                && matches!(packet.content, Content::Udp(_))
        };
        recording.packets.iter().filter(is_its).copied().collect()
    };
    let count = |packets: &[Packet]| Ok(Value::Number(packets.len() as f64));
    let heard = at(client, false, own);
    let arrived = at(server, false, MEDIA);
    let mut out = Quantities::from([
        ("rtp_sent".to_owned(), count(&at(client, true, own))),
        ("rtp_received".to_owned(), count(&heard)),
        ("server_rtp_sent".to_owned(), count(&at(server, true, MEDIA))),
        ("server_rtp_received".to_owned(), count(&arrived)),
    ]);
    let after = moved.map(|moved| heard.iter().filter(|packet| packet.t > moved).count() as f64);
    out.insert(
        "rtp_received_after".to_owned(),
        after.map(Value::Number).ok_or_else(|| "there was no handover".to_owned()),
    );
    let source = |packets: Vec<Packet>, what: &str| {
        let first = packets.first().map(|packet| Value::Text(packet.source.ip().to_string()));
        first.ok_or_else(|| format!("the server's node got no {what}"))
    };
    out.insert("source_address".to_owned(), source(at(server, false, PORT), "SIP message"));
    out.insert("rtp_source_address".to_owned(), source(arrived, "media"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_the_statistics_counts() {
        let text = "StartTime;SuccessfulCall(P);SuccessfulCall(C);FailedCall(C);\nx;0;0;0;\nx;1;2;1;\n";
        let measured = read(text, "");
        assert_eq!(measured["calls_ok"], Ok(Value::Number(2.0)));
        assert_eq!(measured["calls_failed"], Ok(Value::Number(1.0)));
        assert!(read("", ": no route").values().all(Result::is_err));
    }

    #[test]
    fn a_call_without_media_says_the_rest() {
        let (with, without) = (what_is_said(Path::new("/v"), true), what_is_said(Path::new("/v"), false));
        assert!(with.contains("rtp_stream=\"/v,-1") && !without.contains("rtp_stream"));
        for text in [&with, &without] {
            assert!(text.contains("INVITE sip:") && text.contains("<pause/>") && text.contains("BYE sip:"));
        }
    }

    #[test]
    fn media_are_counted_at_their_own_ports_and_in_their_time() {
        let packet = |t: u64, outgoing: bool, source: &str, destination: &str| Packet {
            t,
            outgoing,
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            content: Content::Udp(172),
        };
        let (mn, gn) = ("198.18.0.1:16004", "198.18.128.1:6000");
        let client = Recording {
            packets: vec![
                packet(5, true, mn, gn),
                packet(6, false, gn, mn),
                packet(7, false, gn, "198.18.0.1:16000"),
                packet(20, false, gn, mn),
                packet(99, false, gn, mn),
            ],
            ..Recording::default()
        };
        let server = Recording {
            packets: vec![packet(6, false, "203.0.113.20:16004", "203.0.113.80:6000")],
            ..Recording::default()
        };
        let measured = media(1, &client, &server, (1, 50), Some(10));
        for (name, expected) in
            [("rtp_sent", 1.0), ("rtp_received", 2.0), ("rtp_received_after", 1.0), ("server_rtp_sent", 0.0)]
        {
            assert_eq!(measured[name], Ok(Value::Number(expected)), "{name}");
        }
        assert_eq!(measured["rtp_source_address"], Ok(Value::Text("203.0.113.20".to_owned())));
        assert!(measured["source_address"].is_err());
    }
}
