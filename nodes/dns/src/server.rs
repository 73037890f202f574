//! The server: what it answers on its sockets, with EDNS (RFC 6891), and counts of what was answered and refused.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use hickory_proto::op::{Edns, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
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
    addresses: Vec<SocketAddr>,
}

struct Shared {
    node: String,
    zones: Zones,
    counts: Mutex<Counts>,
    trace: Mutex<TraceSink>,
    traced: Traced,
}

#[derive(Clone)]
struct Handler(Arc<Shared>);

/// One line of the trace: an answer given.
#[derive(Serialize)]
struct Answered<'a> {
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
        let shared = Arc::new(Shared {
            node: node.to_owned(),
            zones,
            counts: Mutex::default(),
            trace: Mutex::new(trace),
            traced,
        });
        let mut sockets = JoinSet::new();
        let mut addresses = Vec::new();
        for &address in listen {
            let (udp, tcp) = bind(address).await?;
            addresses.push(tcp.local_addr()?);
            sockets.spawn(listen::udp(udp, Handler(shared.clone())));
            sockets.spawn(listen::tcp(tcp, Handler(shared.clone())));
        }
        Ok(Self { sockets, shared, addresses })
    }

    /// The addresses served.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What was answered and refused so far.
    pub fn counts(&self) -> Counts {
        self.shared.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

impl Shared {
    fn record(&self, request: &Request, code: ResponseCode) {
        let code = format!("{code:?}").to_uppercase();
        let query = request.request_info().ok().map(|info| info.query);
        let kind = match query.map(|query| query.query_type()) {
            None | Some(RecordType::Unknown(_)) => "other".to_owned(),
            Some(kind) => kind.to_string(),
        };
        if self.traced == Traced::Everything {
            self.trace(|| Answered {
                t: clock::now().as_nanos(),
                node: &self.node,
                what: "dns-answer",
                from: request.src(),
                name: query.map(|query| query.name().to_string()).unwrap_or_default(),
                r#type: kind.clone(),
                code: code.clone(),
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
        let answer = answer(&self.0.zones, &request);
        self.0.record(&request, answer.code);
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = answer.code;
        metadata.authoritative = answer.authoritative;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, MAX_UDP));
            edns.set_rcode_high(answer.code.high());
            edns
        });
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
fn answer(zones: &Zones, request: &Request) -> Answer {
    let refuse = Answer::refusal;
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refuse(ResponseCode::BADVERS);
    }
    if request.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let Ok(info) = request.request_info() else { return refuse(ResponseCode::FormErr) };
    match (info.query.query_class(), info.query.query_type()) {
        // A zone is not for copying.
        (_, RecordType::AXFR | RecordType::IXFR) => refuse(ResponseCode::Refused),
        (DNSClass::IN | DNSClass::ANY, kind) => zones.answer(info.query.name(), kind),
        _ => refuse(ResponseCode::Refused),
    }
}
