//! Questions for a name, as an application's resolver asks them: datagrams of our own to the server of the node's `resolv.conf` or another, each waited for. What an
//! application's library would make of several answers, a cache, or another attempt is left out: each question is one message and its answer.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::net::UdpSocket;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Place, Quantities, is_virtual, unmeasured};
use crate::exit::Failure;
use crate::judge::expr::Value;

/// How long an answer may take: as long as glibc's resolver waits.
const PATIENCE: Duration = Duration::from_secs(5);
/// The port of DNS servers.
const PORT: u16 = 53;

/// What is measured.
pub const NAMES: &[&str] = &[
    "sent",
    "answered",
    "resolved",
    "rcode",
    "addresses",
    "remote_address",
    "virtual",
    "time_first_ms",
    "time_p50_ms",
    "time_max_ms",
];

/// What may be asked for.
pub const TYPES: &[(&str, RecordType)] = &[
    ("A", RecordType::A),
    ("AAAA", RecordType::AAAA),
    ("CNAME", RecordType::CNAME),
    ("MX", RecordType::MX),
    ("NS", RecordType::NS),
    ("SOA", RecordType::SOA),
    ("TXT", RecordType::TXT),
];

/// What to ask.
pub struct Questions<'a> {
    /// The name.
    pub name: &'a str,
    /// The records.
    pub kind: RecordType,
    /// How often.
    pub count: u64,
    /// From one question to the next; the next waits for the answer to the one before.
    pub interval: Duration,
}

/// What came of them.
#[derive(Default)]
pub struct Heard {
    /// How many questions were asked.
    pub sent: u64,
    /// How long each answer took.
    times: Vec<Duration>,
    /// Answers without an error and with a record of the kind asked for.
    resolved: u64,
    rcode: Option<ResponseCode>,
    addresses: BTreeSet<IpAddr>,
}

/// Asks the server at `place.peer` all of `questions`.
pub async fn run(id: &str, questions: &Questions<'_>, place: &Place) -> Result<Quantities, Failure> {
    let opened = place.from.within(|| {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((place.peer, PORT))?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    })?;
    let socket = opened.map_err(Failure::during(format!("`{id}`: UDP to {}", place.peer)))?;
    let name = Name::from_ascii(questions.name).and_then(|mut name| {
        name.set_fqdn(true);
        Message::query().add_query(Query::query(name.clone(), questions.kind)).to_vec()?;
        Ok(name)
    });
    let name = name.map_err(Failure::during(format!("`{id}`: {}", questions.name)))?;
    let mut heard = Heard::default();
    let begin = Instant::now();
    let limit = place.limit.map(|limit| begin + limit);
    for number in 0..questions.count {
        sleep_until(begin + questions.interval.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX)))
            .await;
        if limit.is_some_and(|limit| Instant::now() >= limit) {
            break;
        }
        heard.ask(&socket, Query::query(name.clone(), questions.kind)).await;
    }
    Ok(heard.quantities())
}

/// A question, as an application's resolver sends it.
pub fn question(query: Query) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(query);
    message
}

impl Heard {
    async fn ask(&mut self, socket: &UdpSocket, query: Query) {
        let kind = query.query_type();
        let message = question(query);
        let Ok(bytes) = message.to_vec() else { return };
        let asked = Instant::now();
        self.sent += 1;
        // What cannot be sent is not answered.
        if socket.send(&bytes).await.is_err() {
            return;
        }
        let mut buffer = [0; 4096];
        while let Ok(Ok(length)) =
            timeout(PATIENCE.saturating_sub(asked.elapsed()), socket.recv(&mut buffer)).await
        {
            // The late answer to an earlier question is passed over.
            if let Ok(answer) = Message::from_vec(&buffer[..length])
                && answer.metadata.id == message.metadata.id
            {
                return self.take(&answer, kind, asked.elapsed());
            }
        }
    }

    /// The answer to a question for records of `kind`, which took so long.
    pub fn take(&mut self, answer: &Message, kind: RecordType, took: Duration) {
        self.times.push(took);
        self.rcode = Some(answer.metadata.response_code);
        let found = answer.answers.iter().any(|record| record.record_type() == kind);
        self.resolved += u64::from(found && answer.metadata.response_code == ResponseCode::NoError);
        self.addresses.extend(answer.answers.iter().filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0)),
            _ => None,
        }));
    }

    /// As quantities of the flow.
    pub fn quantities(mut self) -> Quantities {
        let mut out = unmeasured(NAMES, "no answer came");
        let mut set = |name: &str, value: Value| out.insert(name.to_owned(), Ok(value));
        set("sent", Value::Number(self.sent as f64));
        set("answered", Value::Number(self.times.len() as f64));
        set("resolved", Value::Number(self.resolved as f64));
        if let Some(code) = self.rcode {
            set("rcode", Value::Text(format!("{code:?}").to_uppercase()));
            let shown: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
            set("addresses", Value::Text(shown.join(" ")));
        }
        if let Some(first) = self.addresses.first() {
            set("remote_address", Value::Text(first.to_string()));
            set("virtual", Value::Truth(self.addresses.iter().all(|one| is_virtual(&one.to_string()))));
        }
        let ms = |time: Duration| Value::Number(time.as_secs_f64() * 1e3);
        if let Some(first) = self.times.first() {
            set("time_first_ms", ms(*first));
        }
        self.times.sort_unstable();
        if let Some(longest) = self.times.last() {
            set("time_p50_ms", ms(self.times[self.times.len() / 2]));
            set("time_max_ms", ms(*longest));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::A;

    #[test]
    fn answers_are_counted_by_what_they_say() {
        let name = Name::from_ascii("www.example.test.").unwrap();
        let mut heard = Heard { sent: 3, ..Heard::default() };
        let ms = Duration::from_millis;
        let mut answer = Message::query();
        let address = A::new(198, 18, 128, 1);
        answer.add_answer(Record::from_rdata(name, 60, RData::A(address)));
        heard.take(&answer, RecordType::A, ms(7));
        answer.answers.clear();
        answer.metadata.response_code = ResponseCode::NXDomain;
        heard.take(&answer, RecordType::A, ms(2));
        let measured = heard.quantities();
        let is = |name: &str, value: Value| assert_eq!(measured[name], Ok(value), "{name}");
        is("sent", Value::Number(3.0));
        is("answered", Value::Number(2.0));
        is("resolved", Value::Number(1.0));
        is("rcode", Value::Text("NXDOMAIN".to_owned()));
        is("addresses", Value::Text("198.18.128.1".to_owned()));
        is("virtual", Value::Truth(true));
        is("time_first_ms", Value::Number(7.0));
        is("time_max_ms", Value::Number(7.0));
    }

    #[test]
    fn without_an_answer_nothing_is_invented() {
        let measured = Heard { sent: 1, ..Heard::default() }.quantities();
        assert_eq!(measured.len(), NAMES.len());
        assert_eq!(measured.values().filter(|value| value.is_ok()).count(), 3, "sent, answered, resolved");
    }
}
