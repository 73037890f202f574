//! The daemon as a process: readiness, answers by UDP and TCP, EDNS and truncation, status, SIGTERM, exit codes.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};
use hickory_proto::serialize::binary::BinDecodable;

const PATIENCE: Duration = Duration::from_secs(30);
const TEST_ZONE: &str = "\
$TTL 300
@     SOA ns h 1 2 3 4 60
      NS  ns
ns    A   192.0.2.1
dc    NS  ns.dc
ns.dc A   192.0.2.2
";

/// Does `call` until no signal interrupts it: the kernel restarts no call on a socket that has a timeout.
fn steadily<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// The daemon in a folder of its own; killed when dropped.
struct Daemon {
    process: Child,
    folder: tempfile::TempDir,
    address: SocketAddr,
}

fn command(folder: &Path, listen: &str, zone: &str) -> Command {
    fs::write(folder.join("test.zone"), zone).expect("a zone file");
    let config = format!(
        "name = \"tld\"\nlisten = [\"{listen}\"]\ncontrol = \"control\"\ntrace = \"trace\"\n\
         [[zone]]\norigin = \"test.\"\nfile = \"test.zone\"\n"
    );
    fs::write(folder.join("dns.toml"), config).expect("a configuration");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ntm-dns"));
    command.arg("--config").arg(folder.join("dns.toml")).env_remove("NOTIFY_SOCKET").env("NTM_LOG", "warn");
    command
}

impl Daemon {
    /// Starts it with `zone` as the zone `test.`, and waits until it says that it serves.
    fn start(zone: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let notify = UnixDatagram::bind(folder.path().join("notify")).expect("a socket");
        notify.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let process = command(folder.path(), "127.0.0.1:0", zone)
            .env("NOTIFY_SOCKET", folder.path().join("notify"))
            .spawn()
            .expect("the daemon starts");
        let mut text = [0; 512];
        let length = steadily(|| notify.recv(&mut text)).expect("the daemon says that it serves");
        let text = String::from_utf8_lossy(&text[..length]).into_owned();
        let ready = text.strip_prefix("READY=1\nSTATUS=tld serves test. on [").expect("readiness");
        let address = ready.trim_end().trim_end_matches(']').parse().expect("the address");
        Self { process, folder, address }
    }

    fn udp(&self, query: &[u8]) -> Message {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.send_to(query, self.address).expect("sent");
        let mut answer = [0; 65535];
        let length = steadily(|| socket.recv(&mut answer)).expect("an answer");
        Message::from_bytes(&answer[..length]).expect("a message")
    }

    fn tcp(&self, query: &[u8]) -> Message {
        let mut stream = TcpStream::connect(self.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let length = u16::try_from(query.len()).expect("a short query");
        stream.write_all(&[&length.to_be_bytes()[..], query].concat()).expect("sent");
        let mut length = [0; 2];
        stream.read_exact(&mut length).expect("a length");
        let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut answer).expect("an answer");
        Message::from_bytes(&answer).expect("a message")
    }

    fn ask(&self, name: &str, kind: RecordType) -> Message {
        self.udp(&bytes(&query(name, kind)))
    }

    fn status(&self) -> serde_json::Value {
        let mut stream = UnixStream::connect(self.folder.path().join("control")).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(b"{\"command\":\"status\"}\n").expect("sent");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).expect("JSON")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().expect("a message")
}

fn run(folder: &Path, listen: &str, zone: &str, check: bool) -> Output {
    let mut command = command(folder, listen, zone);
    if check {
        command.arg("--check");
    }
    command.stdin(Stdio::null()).output().expect("the daemon runs")
}

#[test]
fn questions_are_answered_by_udp_and_tcp_and_counted() {
    let daemon = Daemon::start(TEST_ZONE);
    let referral = daemon.ask("www.dc.test.", RecordType::A);
    assert_eq!((referral.id, referral.response_code), (4711, ResponseCode::NoError));
    assert!(!referral.authoritative, "a referral is not authoritative");
    let counts = (referral.answers.len(), referral.authorities.len(), referral.additionals.len());
    assert_eq!(counts, (0, 1, 1), "{referral}");
    assert!(referral.edns.is_none(), "EDNS only for those who speak it (RFC 6891, section 7)");

    let apex = daemon.tcp(&bytes(&query("test.", RecordType::NS)));
    assert!(apex.authoritative && apex.answers.len() == 1, "{apex}");
    let nowhere = daemon.tcp(&bytes(&query("nowhere.test.", RecordType::TXT)));
    assert_eq!((nowhere.response_code, nowhere.authorities.len()), (ResponseCode::NXDomain, 1));
    assert_eq!(daemon.ask("example.", RecordType::A).response_code, ResponseCode::Refused);

    let status = daemon.status();
    let expected = serde_json::json!({ "ok": { "name": "tld", "zones": ["test."], "answered": {
        "by_type": { "A": 2, "NS": 1, "TXT": 1 },
        "by_code": { "NOERROR": 2, "NXDOMAIN": 1, "REFUSED": 1 },
        "refused": {},
    } } });
    assert_eq!(status, expected);

    let trace = fs::read_to_string(daemon.folder.path().join("trace")).expect("the trace");
    let lines: Vec<serde_json::Value> =
        trace.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 4);
    let first = &lines[0];
    assert_eq!((first["node"].as_str(), first["what"].as_str()), (Some("tld"), Some("dns-answer")));
    assert_eq!((first["name"].as_str(), first["code"].as_str()), (Some("www.dc.test."), Some("NOERROR")));
}

#[test]
fn edns_is_answered_and_what_is_too_long_is_cut() {
    let many: String = (0..40).map(|n| format!("many TXT \"number {n} of a long answer, long\"\n")).collect();
    let daemon = Daemon::start(&format!("{TEST_ZONE}{many}"));
    let plain = query("many.test.", RecordType::TXT);
    let cut = daemon.udp(&bytes(&plain));
    assert!(cut.truncation && cut.answers.len() < 40, "{cut}");
    assert!(bytes(&cut).len() <= 512, "RFC 1035, section 4.2.1");
    let whole = daemon.tcp(&bytes(&plain));
    assert!(!whole.truncation && whole.answers.len() == 40);

    let mut edns = plain.clone();
    edns.set_edns(Edns::new());
    edns.edns.as_mut().expect("EDNS").set_max_payload(4096);
    let answer = daemon.udp(&bytes(&edns));
    assert_eq!(answer.edns.as_ref().expect("EDNS").max_payload(), 1232);
    assert!(answer.truncation && answer.answers.len() > cut.answers.len());

    edns.edns.as_mut().expect("EDNS").set_version(1);
    let answer = daemon.udp(&bytes(&edns));
    assert_eq!(answer.edns.as_ref().expect("EDNS").rcode_high(), 1, "BADVERS (RFC 6891, section 6.1.3)");
    assert!(answer.answers.is_empty());
}

#[test]
fn what_is_no_ordinary_question_is_refused() {
    let daemon = Daemon::start(TEST_ZONE);
    let mut chaos = query("test.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(daemon.udp(&bytes(&chaos)).response_code, ResponseCode::Refused);
    assert_eq!(daemon.tcp(&bytes(&query("test.", RecordType::AXFR))).response_code, ResponseCode::Refused);
    let mut notify = query("test.", RecordType::SOA);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(daemon.udp(&bytes(&notify)).response_code, ResponseCode::NotImp);
    let mut two = query("test.", RecordType::NS);
    two.add_query(Query::query(Name::from_ascii("test.").expect("a name"), RecordType::SOA));
    assert_eq!(daemon.udp(&bytes(&two)).response_code, ResponseCode::FormErr);
    // After garbage the next one is served.
    let garbage = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for length in [0, 1, 11, 12, 40] {
        garbage.send_to(&vec![0xff; length], daemon.address).expect("sent");
    }
    let question = bytes(&query("test.", RecordType::NS));
    let cut = &question[..question.len() - 1];
    let told = daemon.udp(cut);
    assert_eq!((told.id, told.response_code), (4711, ResponseCode::FormErr));
    assert_eq!(daemon.tcp(cut).response_code, ResponseCode::FormErr);
    // An answer, and a message that ends too soon, end their connections.
    for bytes in [&[0, 12, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], b"GET / HTTP/1.0\r\n\r\n"] {
        let mut stream = TcpStream::connect(daemon.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.write_all(bytes).expect("sent");
        stream.shutdown(std::net::Shutdown::Write).expect("half closed");
        assert_eq!(stream.read(&mut [0; 1]).expect("an end"), 0);
    }
    assert_eq!(daemon.ask("test.", RecordType::NS).response_code, ResponseCode::NoError);

    // All of that is counted, and traced with the reason.
    let counted = daemon.status()["ok"]["answered"]["refused"].clone();
    assert_eq!(counted, serde_json::json!({ "short": 3, "answer": 3, "malformed": 2, "cut-short": 1 }));
    let trace = fs::read_to_string(daemon.folder.path().join("trace")).expect("the trace");
    let lines = trace.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let refused: Vec<serde_json::Value> =
        lines.filter(|line: &serde_json::Value| line["what"] == "refused").collect();
    assert_eq!(refused.len(), 9, "{trace}");
    let from = garbage.local_addr().expect("its address").to_string();
    assert_eq!(
        (refused[0]["node"].as_str(), refused[0]["from"].as_str()),
        (Some("tld"), Some(from.as_str()))
    );
    assert!(refused[0]["reason"].as_str().expect("a reason").starts_with("short: "), "{}", refused[0]);
}

#[test]
fn sigterm_ends_it_cleanly() {
    let mut daemon = Daemon::start(TEST_ZONE);
    let killed = Command::new("kill").arg(daemon.process.id().to_string()).status().expect("kill runs");
    assert!(killed.success());
    assert_eq!(daemon.process.wait().expect("ended").code(), Some(0));
    assert!(!daemon.folder.path().join("control").exists());
}

#[test]
fn check_and_errors_say_what_and_where() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).replace(&format!("{}/", folder.path().display()), "").trim().to_owned()
    };
    let good = run(folder.path(), "127.0.0.1:0", TEST_ZONE, true);
    assert_eq!((good.status.code(), text(&good.stdout).as_str()), (Some(0), "dns.toml is right"));
    let bad = run(folder.path(), "127.0.0.1:0", &format!("{TEST_ZONE}www A nowhere\n"), true);
    assert_eq!(bad.status.code(), Some(2));
    insta::assert_snapshot!(text(&bad.stderr), @"ntm-dns: test.zone:7: network address parse error: invalid IPv4 address syntax");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let refused = run(folder.path(), &address, TEST_ZONE, false);
    assert_eq!(refused.status.code(), Some(3));
    let expected = format!("ntm-dns: listening on TCP {address}: Address already in use (os error 98)");
    assert_eq!(text(&refused.stderr), expected);
}
