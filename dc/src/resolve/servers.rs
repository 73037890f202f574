//! How name servers are spoken to, and what counts as an answer of theirs.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt, future, stream};
use hickory_proto::op::{DnsRequest, DnsResponse, ResponseCode};
use hickory_proto::rr::RecordType;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::xfer::DnsExchange;
use hickory_resolver::net::{DnsError, DnsHandle, NetError};
use hickory_resolver::{ConnectionProvider, NameServerPool, PoolContext, TlsConfig};
use ntm_dns::server::Inside;

/// Makes connections to name servers.
#[derive(Clone)]
pub(super) struct Servers {
    runtime: TokioRuntimeProvider,
    port: u16,
    /// The server in this very process.
    own: Option<Inside>,
    context: Arc<PoolContext>,
}

impl Servers {
    /// Servers on `port`, each of which gets `patience` to answer one question. One of them may be `own`.
    pub(super) fn new(port: u16, patience: Duration, own: Option<Inside>) -> Result<Self, NetError> {
        let mut options = ResolverOpts::default();
        options.timeout = patience;
        options.recursion_desired = false;
        let context = Arc::new(PoolContext::new(options, TlsConfig::new()?));
        Ok(Self { runtime: TokioRuntimeProvider::default(), port, own, context })
    }

    /// What `server` itself answers to `question`, by TCP where that is too long for UDP; `None` if it closes the connection.
    pub(super) async fn ask(
        &self,
        server: IpAddr,
        question: DnsRequest,
    ) -> Option<Result<DnsResponse, NetError>> {
        if let Some(own) = self.inside(server) {
            let answer = own.send(question).next().await?;
            return Some(answer.and_then(|response| Ok(DnsError::from_response(response)?)));
        }
        let server = [NameServerConfig::udp_and_tcp(server)];
        let alone = NameServerPool::from_config(server, self.context.clone(), self.clone());
        alone.send(question).next().await
    }

    /// The connection to `server` if that is the one of this process.
    fn inside(&self, server: IpAddr) -> Option<Connection> {
        let at = SocketAddr::new(server, self.port);
        self.own.as_ref().filter(|own| own.is_at(at)).map(|own| Connection::Inside(at, own.clone()))
    }
}

impl ConnectionProvider for Servers {
    type Conn = Connection;
    type FutureConn = Pin<Box<dyn Future<Output = Result<Connection, NetError>> + Send>>;
    type RuntimeProvider = TokioRuntimeProvider;

    fn new_connection(
        &self,
        ip: IpAddr,
        config: &ConnectionConfig,
        _: &PoolContext,
    ) -> Result<Self::FutureConn, NetError> {
        if let Some(own) = self.inside(ip) {
            return Ok(future::ready(Ok(own)).boxed());
        }
        let mut config = config.clone();
        config.port = self.port;
        let connection = self.runtime.new_connection(ip, &config, &self.context)?;
        Ok(connection.map(|made| made.map(Connection::Net)).boxed())
    }

    fn runtime_provider(&self) -> &TokioRuntimeProvider {
        &self.runtime
    }
}

/// A connection on which only a name server's own answers arrive.
///
/// A zone's servers are tried one after the other only as long as they fail like a network does. So the answer of a server that
/// has no authority here, or is broken, becomes such a failure: another server of the zone may do better.
#[derive(Clone)]
pub(super) enum Connection {
    /// To another machine, or another process.
    Net(DnsExchange<TokioRuntimeProvider>),
    /// To the server in this process, which is at this address.
    Inside(SocketAddr, Inside),
}

impl DnsHandle for Connection {
    type Response = Pin<Box<dyn Stream<Item = Result<DnsResponse, NetError>> + Send>>;
    type Runtime = TokioRuntimeProvider;

    fn send(&self, request: DnsRequest) -> Self::Response {
        match self {
            Self::Net(exchange) => exchange.send(request).map(|response| response.and_then(judge)).boxed(),
            Self::Inside(at, own) => {
                let response = DnsResponse::from_message(own.ask(*at, &request));
                stream::once(future::ready(response.map_err(NetError::from).and_then(judge))).boxed()
            }
        }
    }
}

fn judge(response: DnsResponse) -> Result<DnsResponse, NetError> {
    let code = response.response_code;
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return Err(io::Error::other(format!("it answered {code}")).into());
    }
    // What was cut short is asked for again by TCP.
    if response.authoritative || response.truncation || is_referral(&response) {
        return Ok(response);
    }
    Err(io::Error::other("it has no authority for the name").into())
}

/// Whether it leads towards the name that was asked for; the root's servers are where we come from.
fn is_referral(response: &DnsResponse) -> bool {
    let leads = |owner: &hickory_proto::rr::Name| {
        !owner.is_root() && response.queries.iter().any(|query| owner.zone_of(query.name()))
    };
    response.answers.is_empty()
        && response
            .authorities
            .iter()
            .any(|record| record.record_type() == RecordType::NS && leads(&record.name))
}
