//! The stub's sockets: UDP and TCP on one address. Queries go to the daemon's own loop as bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ntm_daemon::program::Failure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Queries that wait for the daemon's loop; the kernel keeps what comes more.
const QUEUE: usize = 64;
/// The largest UDP query; a longer one is cut, and so malformed.
const MAX_QUERY: usize = 4096;
/// TCP clients that are served at once; the others wait.
const MAX_CLIENTS: usize = 64;
/// Answers that may wait for a TCP client to read them.
const BACKLOG: usize = 32;
/// How long a TCP client may be silent, or may leave an answer unread (RFC 7766, section 6.2.3).
const IDLE: Duration = Duration::from_secs(10);

/// The stub's server; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Stub {
    received: mpsc::Receiver<io::Result<Received>>,
    _tasks: JoinSet<()>,
}

/// A query that came.
#[derive(Debug)]
pub(crate) struct Received {
    /// The message, as it came.
    pub(crate) bytes: Vec<u8>,
    /// From whom.
    pub(crate) client: SocketAddr,
    /// The way back.
    pub(crate) way: Way,
}

/// The way back to a client.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// A datagram to this address.
    Udp(Arc<UdpSocket>, SocketAddr),
    /// The connection's queue of answers.
    Tcp(mpsc::Sender<Vec<u8>>),
}

type Queue = mpsc::Sender<io::Result<Received>>;

impl Stub {
    /// Serves `address` by UDP and TCP. Must be called within a tokio runtime.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let refused = |kind: &'static str| move |error: io::Error| refusal(kind, address, error);
        let udp = UdpSocket::bind(address).await.map_err(refused("UDP"))?;
        let tcp = TcpListener::bind(address).await.map_err(refused("TCP"))?;
        let (queue, received) = mpsc::channel(QUEUE);
        let mut tasks = JoinSet::new();
        let failed = queue.clone();
        let from_udp = queue.clone();
        tasks.spawn(async move {
            let Err(error) = serve_udp(Arc::new(udp), from_udp).await;
            // Nobody listens any more where the daemon ends.
            let _ = failed.send(Err(error)).await;
        });
        tasks.spawn(serve_tcp(tcp, queue));
        Ok(Self { received, _tasks: tasks })
    }

    /// The next query. An error is the socket's, and the last that comes. May be dropped and called again without losing a query.
    pub(crate) async fn next(&mut self) -> io::Result<Received> {
        self.received.recv().await.unwrap_or_else(|| Err(io::Error::other("the stub's tasks ended")))
    }
}

impl Way {
    /// Sends an answer. One that cannot be sent is lost as on any network: the client asks again.
    pub(crate) fn send(&self, answer: Vec<u8>) {
        let lost = match self {
            Way::Udp(socket, client) => {
                socket.try_send_to(&answer, *client).err().map(|error| error.to_string())
            }
            Way::Tcp(answers) => answers.try_send(answer).err().map(|error| error.to_string()),
        };
        if let Some(why) = lost {
            tracing::debug!("an answer to a DNS client is lost: {why}");
        }
    }
}

fn refusal(kind: &str, address: SocketAddr, error: io::Error) -> Failure {
    let text = format!("dns_listen: {kind} {address} cannot be bound: {error}");
    match error.kind() {
        io::ErrorKind::PermissionDenied => Failure::Lacks(format!(
            "{text}: ports below 1024 need the right CAP_NET_BIND_SERVICE: run as root"
        )),
        io::ErrorKind::AddrInUse => Failure::Other(anyhow::anyhow!(
            "{text}: another DNS server has it: end it, or configure another address"
        )),
        io::ErrorKind::AddrNotAvailable => Failure::Other(anyhow::anyhow!(
            "{text}: no interface has it: bring the loopback interface up, or configure another address"
        )),
        _ => Failure::Other(anyhow::anyhow!("{text}")),
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, queue: Queue) -> Result<std::convert::Infallible, io::Error> {
    let mut buffer = vec![0; MAX_QUERY];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An answer to a client that went away.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        let way = Way::Udp(Arc::clone(&socket), client);
        let received = Received { bytes: buffer[..length].to_vec(), client, way };
        queue.send(Ok(received)).await.map_err(|_| io::Error::other("the daemon ends"))?;
    }
}

async fn serve_tcp(listener: TcpListener, queue: Queue) {
    let mut clients = JoinSet::new();
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while clients.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, client)) => {
                let queue = queue.clone();
                clients.spawn(async move {
                    serve_client(stream, client, queue).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely; the pause keeps the loop from spinning until some are free.
                tracing::warn!("the DNS stub accepts no TCP client: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one connection, until it is idle or its client has gone and has its answers.
async fn serve_client(stream: TcpStream, client: SocketAddr, queue: Queue) {
    let (read, write) = stream.into_split();
    let (way, answers) = mpsc::channel(BACKLOG);
    // Writing ends when the last way back is dropped: after reading has ended, and all queries are answered.
    let (reading, writing) =
        tokio::join!(read_queries(read, client, way, queue), write_answers(write, answers));
    if let Err(error) = reading.and(writing) {
        tracing::debug!("the DNS client {client}: {error}");
    }
}

/// Reads messages, each with its length ahead in two bytes (RFC 1035, section 4.2.2).
async fn read_queries(
    mut read: OwnedReadHalf,
    client: SocketAddr,
    way: mpsc::Sender<Vec<u8>>,
    queue: Queue,
) -> io::Result<()> {
    loop {
        let message = async {
            let length = match read.read_u16().await {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error),
            };
            let mut bytes = vec![0; length.into()];
            read.read_exact(&mut bytes).await?;
            Ok(Some(bytes))
        };
        let Some(bytes) = timeout(IDLE, message).await?? else { return Ok(()) };
        let received = Received { bytes, client, way: Way::Tcp(way.clone()) };
        if queue.send(Ok(received)).await.is_err() {
            return Ok(());
        }
    }
}

async fn write_answers(mut write: OwnedWriteHalf, mut answers: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(answer) = answers.recv().await {
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        // One write: a client may take what one read brings for the whole message.
        let message = [&length.to_be_bytes()[..], &answer].concat();
        timeout(IDLE, write.write_all(&message)).await??;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stub on a port that the system chose, for UDP at least; where TCP has no such luck, another is tried.
    async fn open() -> (Stub, SocketAddr) {
        for _ in 0..16 {
            let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
            let address = udp.local_addr().expect("its address");
            drop(udp);
            if let Ok(stub) = Stub::open(address).await {
                return (stub, address);
            }
        }
        panic!("no port is free for both UDP and TCP");
    }

    #[tokio::test]
    async fn a_datagram_is_answered_to_its_sender() {
        let (mut stub, address) = open().await;
        let client = UdpSocket::bind("127.0.0.1:0").await.expect("a client");
        client.send_to(b"question", address).await.expect("sent");
        let received = stub.next().await.expect("a query");
        assert_eq!(
            (&received.bytes[..], received.client),
            (&b"question"[..], client.local_addr().expect("its"))
        );
        received.way.send(b"answer".to_vec());
        let mut buffer = [0; 16];
        let (length, from) = client.recv_from(&mut buffer).await.expect("an answer");
        assert_eq!((&buffer[..length], from), (&b"answer"[..], address));
    }

    #[tokio::test]
    async fn one_connection_has_many_queries_answered_in_any_order() {
        let (mut stub, address) = open().await;
        let mut client = TcpStream::connect(address).await.expect("connected");
        // The second message comes in two pieces.
        client.write_all(b"\0\x03one\0\x03t").await.expect("sent");
        let one = stub.next().await.expect("a query");
        client.write_all(b"wo").await.expect("sent");
        let two = stub.next().await.expect("a query");
        assert_eq!((&one.bytes[..], &two.bytes[..]), (&b"one"[..], &b"two"[..]));
        client.shutdown().await.expect("half closed");
        two.way.send(b"2".to_vec());
        one.way.send(b"1".to_vec());
        drop((one, two));
        let mut answers = Vec::new();
        client.read_to_end(&mut answers).await.expect("answers, and the end");
        assert_eq!(answers, b"\0\x012\0\x011");
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_told_with_what_to_do() {
        let (_stub, address) = open().await;
        let failure = Stub::open(address).await.expect_err("it is taken");
        assert_eq!(failure.exit_code(), 3);
        let expected = format!("dns_listen: UDP {address} cannot be bound: ");
        assert!(failure.to_string().starts_with(&expected), "{failure}");
        assert!(failure.to_string().ends_with("end it, or configure another address"), "{failure}");
    }
}
