//! The server: what it answers on its sockets, with EDNS (RFC 6891), and counts of what was answered and refused.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use hickory_proto::op::{Edns, Message, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, LowerName, RecordType};
use hickory_server::server::{Request, ResponseHandle, ResponseHandler};
use hickory_server::zone_handler::MessageResponseBuilder;
use ntm_daemon::clock;
use ntm_daemon::queue;
use ntm_daemon::trace::TraceSink;
use serde::Serialize;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use crate::answer::{Answer, Zones};
use crate::listen::{self, Listener, Refusal};

/// The largest UDP answer (<https://www.dnsflagday.net/2020/>): no fragments on a path with an MTU of 1280 or more.
const MAX_UDP: u16 = 1232;

/// What was answered and refused since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Questions by type (`A`, `NS`, …); types without a name of their own are `other`.
    pub by_type: BTreeMap<String, u64>,
    /// Answers by code (`NOERROR`, `NXDOMAIN`, …).
    pub by_code: BTreeMap<String, u64>,
    /// What arrived and was no question, by [`Refusal`].
    pub refused: BTreeMap<&'static str, u64>,
}

/// What of a server stands in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traced {
    /// Every answer, and what was refused.
    Everything,
    /// What was refused.
    Refusals,
}

/// A server that answers on its addresses until it is dropped or shut down.
pub struct DnsServer {
    sockets: JoinSet<io::Error>,
    shared: Arc<Shared>,
}

/// The same server for whoever asks it from within its process: a call instead of two datagrams and what carries them.
#[derive(Clone)]
pub struct Inside(Arc<Shared>);

struct Shared {
    node: String,
    zones: Zones,
    addresses: Vec<SocketAddr>,
    counts: Mutex<Answered>,
    trace: Mutex<TraceSink>,
    traced: Traced,
}

/// What [`Counts`] are made of when they are asked for. `None` is a type without a name of its own, or no question at all.
#[derive(Default)]
struct Answered {
    by_type: HashMap<Option<RecordType>, u64>,
    by_code: HashMap<ResponseCode, u64>,
    refused: BTreeMap<&'static str, u64>,
}

#[derive(Clone)]
struct Handler(Arc<Shared>);

/// What is asked, however it came.
struct Question<'q> {
    metadata: &'q Metadata,
    edns: Option<&'q Edns>,
    /// Name, class and type; `None` unless exactly one thing is asked.
    query: Option<(&'q LowerName, DNSClass, RecordType)>,
}

/// One line of the trace: an answer given.
#[derive(Serialize)]
struct AnswerGiven<'a> {
    t: u64,
    node: &'a str,
    what: &'static str,
    from: SocketAddr,
    name: String,
    r#type: String,
    code: String,
}

/// One line of the trace: what was no question.
#[derive(Serialize)]
struct Refused<'a> {
    t: u64,
    node: &'a str,
    what: &'static str,
    from: SocketAddr,
    field: &'static str,
    reason: String,
}

impl DnsServer {
    /// Serves `zones` on every address of `listen`, by UDP and TCP. With port 0 the system chooses one; [`DnsServer::addresses`] says which.
    /// `node` names the server in `trace`, where `traced` is written.
    ///
    /// Must be called within a tokio runtime; an error names the address.
    pub async fn start(
        node: &str,
        zones: Zones,
        listen: &[SocketAddr],
        trace: TraceSink,
        traced: Traced,
    ) -> anyhow::Result<Self> {
        let mut bound = Vec::new();
        let mut addresses = Vec::new();
        for &address in listen {
            let (udp, tcp) = bind(address).await?;
            addresses.push(tcp.local_addr()?);
            bound.push((udp, tcp));
        }
        let shared = Arc::new(Shared {
            node: node.to_owned(),
            zones,
            addresses,
            counts: Mutex::default(),
            trace: Mutex::new(trace),
            traced,
        });
        let mut sockets = JoinSet::new();
        for (udp, tcp) in bound {
            sockets.spawn(listen::udp(udp, Handler(shared.clone())));
            sockets.spawn(listen::tcp(tcp, Handler(shared.clone())));
        }
        Ok(Self { sockets, shared })
    }

    /// The addresses served.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.shared.addresses
    }

    /// For asking it without a socket.
    pub fn inside(&self) -> Inside {
        Inside(self.shared.clone())
    }

    /// What was answered and refused so far.
    pub fn counts(&self) -> Counts {
        self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).named()
    }

    /// Waits until a socket fails: an error of the machine, never of a client.
    pub async fn failed(&mut self) -> io::Error {
        match self.sockets.join_next().await {
            Some(Ok(error)) => error,
            Some(Err(error)) => io::Error::other(error),
            None => io::Error::other("the DNS server has no socket"),
        }
    }

    /// Ends: no new question is taken, the sockets are closed.
    pub async fn shut_down(mut self) {
        self.sockets.shutdown().await;
    }
}

/// UDP and TCP on one address. A port that the system chose for TCP may be taken for UDP: then it chooses again.
async fn bind(address: SocketAddr) -> anyhow::Result<(UdpSocket, TcpListener)> {
    let mut tries = if address.port() == 0 { 16 } else { 1 };
    loop {
        let tcp = TcpListener::bind(address).await.with_context(|| format!("listening on TCP {address}"))?;
        let chosen = tcp.local_addr()?;
        match UdpSocket::bind(chosen).await {
            Ok(udp) => {
                queue::widen(&udp)?;
                return Ok((udp, tcp));
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 1 => tries -= 1,
            Err(error) => return Err(error).with_context(|| format!("listening on UDP {chosen}")),
        }
    }
}

impl Answered {
    fn named(&self) -> Counts {
        Counts {
            by_type: self.by_type.iter().map(|(kind, count)| (type_name(*kind), *count)).collect(),
            by_code: self.by_code.iter().map(|(code, count)| (code_name(*code), *count)).collect(),
            refused: self.refused.clone(),
        }
    }
}

fn type_name(kind: Option<RecordType>) -> String {
    kind.map_or_else(|| "other".to_owned(), |kind| kind.to_string())
}

fn code_name(code: ResponseCode) -> String {
    format!("{code:?}").to_uppercase()
}

impl Inside {
    /// Whether the server answers at `address`.
    pub fn is_at(&self, address: SocketAddr) -> bool {
        self.0.addresses.contains(&address)
    }

    /// The answer to `question` at `address`, of any length; counted, and traced as asked by the server itself.
    pub fn ask(&self, address: SocketAddr, question: &Message) -> Message {
        let lower = match &question.queries[..] {
            [query] => Some((LowerName::new(query.name()), query.query_class(), query.query_type())),
            _ => None,
        };
        let query = lower.as_ref().map(|(name, class, kind)| (name, *class, *kind));
        let asked = Question { metadata: &question.metadata, edns: question.edns.as_ref(), query };
        let (answer, metadata, edns) = self.0.answer(&asked, address);
        let mut message = Message::new(metadata.id, metadata.message_type, metadata.op_code);
        message.metadata = metadata;
        message.queries.clone_from(&question.queries);
        (message.answers, message.authorities, message.additionals) =
            (answer.answers, answer.authorities, answer.additionals);
        message.edns = edns;
        message
    }
}

impl Shared {
    /// The answer to a question from `from`, counted, and what goes before and after its records.
    fn answer(&self, question: &Question<'_>, from: SocketAddr) -> (Answer, Metadata, Option<Edns>) {
        let answer = answer(&self.zones, question);
        self.record(question, from, answer.code);
        let mut metadata = Metadata::response_from_request(question.metadata);
        metadata.response_code = answer.code;
        metadata.authoritative = answer.authoritative;
        let edns = question.edns.map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, MAX_UDP));
            edns.set_rcode_high(answer.code.high());
            edns
        });
        (answer, metadata, edns)
    }

    fn record(&self, question: &Question<'_>, from: SocketAddr, code: ResponseCode) {
        let kind =
            question.query.map(|(.., kind)| kind).filter(|kind| !matches!(kind, RecordType::Unknown(_)));
        if self.traced == Traced::Everything {
            self.trace(|| AnswerGiven {
                t: clock::now().as_nanos(),
                node: &self.node,
                what: "dns-answer",
                from,
                name: question.query.map(|(name, ..)| name.to_string()).unwrap_or_default(),
                r#type: type_name(kind),
                code: code_name(code),
            });
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.by_type.entry(kind).or_default() += 1;
        *counts.by_code.entry(code).or_default() += 1;
    }

    fn trace<T: Serialize>(&self, line: impl FnOnce() -> T) {
        let mut trace = self.trace.lock().unwrap_or_else(PoisonError::into_inner);
        if trace.is_kept() {
            trace.write(&line());
            trace.flush();
        }
    }
}

impl Listener for Handler {
    async fn question(&self, request: Request, mut response: ResponseHandle) {
        let query = request.request_info().ok().map(|info| info.query);
        let query = query.map(|query| (query.name(), query.query_class(), query.query_type()));
        let question = Question { metadata: &request.metadata, edns: request.edns.as_ref(), query };
        let (answer, metadata, edns) = self.0.answer(&question, request.src());
        let message = MessageResponseBuilder::new(&request.queries, edns.as_ref()).build(
            metadata,
            &answer.answers,
            &answer.authorities,
            [],
            &answer.additionals,
        );
        if let Err(error) = response.send_response(message).await {
            tracing::debug!("the answer to {} was not sent: {error}", request.src());
        }
    }

    fn refused(&self, from: SocketAddr, refusal: Refusal, detail: &str) {
        self.0.trace(|| Refused {
            t: clock::now().as_nanos(),
            node: &self.0.node,
            what: "refused",
            from,
            field: "dns message",
            reason: format!("{}: {detail}", refusal.name()),
        });
        let mut counts = self.0.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.refused.entry(refusal.name()).or_default() += 1;
    }
}

/// The answer to a whole request.
fn answer(zones: &Zones, question: &Question<'_>) -> Answer {
    let refuse = Answer::refusal;
    if question.edns.is_some_and(|edns| edns.version() > 0) {
        return refuse(ResponseCode::BADVERS);
    }
    if question.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    match question.query {
        None => refuse(ResponseCode::FormErr),
        // A zone is not for copying.
        Some((_, _, RecordType::AXFR | RecordType::IXFR)) => refuse(ResponseCode::Refused),
        Some((name, DNSClass::IN | DNSClass::ANY, kind)) => zones.answer(name, kind),
        Some(_) => refuse(ResponseCode::Refused),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hickory_proto::op::{MessageType, Query};
    use hickory_proto::rr::Name;

    use super::*;
    use crate::zone::Zone;

    const ZONE: &str = "$TTL 300\n@ SOA ns h 1 2 3 4 60\n@ NS ns\nns A 192.0.2.1\nalias CNAME ns\nsub NS ns.sub\nns.sub A 192.0.2.2\n";

    fn name(text: &str) -> Name {
        Name::from_ascii(text).expect("a name")
    }

    /// Whoever asks from within is told what a client on the socket is told, and both count.
    #[tokio::test]
    async fn from_within_the_answer_is_the_same() {
        let mut zones = Zones::default();
        zones.add(Zone::parse(&name("test."), ZONE, Path::new("test.zone")).expect("a zone"));
        let nowhere = TraceSink::open(None).expect("no trace");
        let at = [([127, 0, 0, 1], 0).into()];
        let server = DnsServer::start("test", zones, &at, nowhere, Traced::Refusals).await.expect("served");
        let at = server.addresses()[0];
        let inside = server.inside();
        assert!(inside.is_at(at) && !inside.is_at(SocketAddr::new(at.ip(), at.port() ^ 1)));

        let question = |text: &str, kind| {
            let mut question = Message::new(4711, MessageType::Query, OpCode::Query);
            question.metadata.recursion_desired = true;
            question.add_query(Query::query(name(text), kind));
            question
        };
        let mut questions = vec![
            question("test.", RecordType::NS),
            question("NS.test.", RecordType::A),
            question("alias.test.", RecordType::A),
            question("ns.test.", RecordType::AAAA),
            question("nothing.test.", RecordType::A),
            question("www.sub.test.", RecordType::A),
            question("elsewhere.", RecordType::A),
            question("test.", RecordType::AXFR),
            question("test.", RecordType::Unknown(4711)),
        ];
        let mut several = question("test.", RecordType::NS);
        several.add_query(Query::query(name("test."), RecordType::SOA));
        let mut other_class = question("test.", RecordType::NS);
        other_class.queries[0].set_query_class(DNSClass::CH);
        let mut notify = question("test.", RecordType::SOA);
        notify.metadata.op_code = OpCode::Notify;
        let mut edns = question("test.", RecordType::NS);
        edns.set_edns(Edns::new());
        let mut other_edns = edns.clone();
        other_edns.edns.as_mut().expect("EDNS").set_version(1);
        questions.extend([several, other_class, notify, edns, other_edns]);

        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        for question in &questions {
            socket.send_to(&question.to_vec().expect("bytes"), at).await.expect("sent");
            let mut buffer = [0; 4096];
            let length = socket.recv(&mut buffer).await.expect("an answer");
            let told = Message::from_vec(&buffer[..length]).expect("a message");
            let answer = inside.ask(at, question).to_vec().expect("bytes");
            assert_eq!(Message::from_vec(&answer).expect("a message"), told, "{question}");
        }
        let counts = server.counts();
        let asked = |kind: &str| counts.by_type.get(kind).copied();
        assert_eq!((asked("AAAA"), asked("AXFR"), asked("other")), (Some(2), Some(2), Some(4)), "{counts:?}");
        let answered = |code: &str| counts.by_code.get(code).copied();
        assert_eq!(
            ["NXDOMAIN", "REFUSED", "NOTIMP", "FORMERR", "BADVERS"].map(answered),
            [2, 6, 2, 2, 2].map(Some),
            "{counts:?}"
        );
        assert_eq!(counts.by_code.values().sum::<u64>(), 2 * questions.len() as u64);
    }
}
