//! What arrives on the sockets, UDP and TCP: questions go on, and what is none is refused, with the reason.
//!
//! Framing, sending and a TCP client's idle time are hickory's; its whole server is not used, for that drops in silence what it cannot read.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;
use hickory_proto::op::{Header, Message, MessageType, ResponseCode, SerialMessage};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use hickory_server::net::runtime::TokioRuntimeProvider;
use hickory_server::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_server::net::tcp::TcpStream;
use hickory_server::net::udp::UdpStream;
use hickory_server::net::xfer::Protocol;
use hickory_server::net::{BufDnsStreamHandle, DnsStreamHandle};
use hickory_server::server::{Request, ResponseHandle, TimeoutStream};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// How long a TCP client may be silent.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// How many answers may wait for a TCP client to read them.
const TCP_BACKLOG: usize = 32;

/// Why something that arrived is no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Shorter than a header.
    Short,
    /// It cannot be decoded. Its sender is told, by FORMERR.
    Malformed,
    /// It is an answer. It gets none, or two servers could keep each other busy.
    Answer,
    /// Nobody can be answered at port 0.
    Sender,
    /// A TCP connection ended in the middle of a message.
    CutShort,
    /// A TCP client had not sent a whole message within the time it has.
    Silent,
}

impl Refusal {
    /// Its name, in counts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Malformed => "malformed",
            Self::Answer => "answer",
            Self::Sender => "sender",
            Self::CutShort => "cut-short",
            Self::Silent => "silent",
        }
    }
}

/// Takes what arrives.
pub(crate) trait Listener: Clone + Send + Sync + 'static {
    /// Answers a question.
    fn question(&self, request: Request, answer: ResponseHandle) -> impl Future<Output = ()> + Send;

    /// Takes note of what was none; `detail` says more.
    fn refused(&self, from: SocketAddr, refusal: Refusal, detail: &str);
}

/// Serves a UDP socket; returns when it fails.
pub(crate) async fn udp(socket: UdpSocket, listener: impl Listener) -> io::Error {
    // The address is of no meaning: every answer says where it goes.
    let nowhere = ([127, 255, 255, 254], 0).into();
    let (mut stream, handle) = UdpStream::<TokioRuntimeProvider>::with_bound(socket, nowhere);
    while let Some(received) = stream.next().await {
        match received {
            Ok(message) => {
                let handle = handle.with_remote_addr(message.addr());
                take(message, Protocol::Udp, handle, &listener).await;
            }
            Err(error) if is_of_the_socket(&error) => return error,
            // An ICMP error that an earlier answer got.
            Err(error) => tracing::debug!("receiving: {error}"),
        }
    }
    io::Error::other("the UDP socket closed")
}

/// Serves a TCP socket, each client by a task of its own; returns when it fails.
pub(crate) async fn tcp(socket: TcpListener, listener: impl Listener) -> io::Error {
    let mut clients = JoinSet::new();
    loop {
        match socket.accept().await {
            Ok((stream, from)) => {
                clients.spawn(client(stream, from, listener.clone()));
            }
            Err(error) if is_of_the_socket(&error) => return error,
            Err(error) => tracing::debug!("accepting: {error}"),
        }
        while clients.try_join_next().is_some() {}
    }
}

async fn client(stream: tokio::net::TcpStream, from: SocketAddr, listener: impl Listener) {
    let (stream, handle) =
        TcpStream::from_stream_with_buffer_size(AsyncIoTokioAsStd(stream), from, TCP_BACKLOG);
    let mut stream = TimeoutStream::new(stream, TCP_IDLE);
    let mut has_spoken = false;
    while let Some(received) = stream.next().await {
        match received {
            Ok(message) => {
                if !take(message, Protocol::Tcp, handle.clone(), &listener).await {
                    return;
                }
            }
            Err(error) => {
                let refusal = match error.kind() {
                    io::ErrorKind::BrokenPipe => Some(Refusal::CutShort),
                    io::ErrorKind::TimedOut if !has_spoken => Some(Refusal::Silent),
                    _ => None,
                };
                if let Some(refusal) = refusal {
                    listener.refused(from, refusal, &error.to_string());
                }
                return;
            }
        }
        has_spoken = true;
    }
}

/// Hands a message on; returns whether its sender has been, or will be, told something.
async fn take(
    message: SerialMessage,
    protocol: Protocol,
    mut handle: BufDnsStreamHandle,
    listener: &impl Listener,
) -> bool {
    let (bytes, from) = message.into_parts();
    let header = match Header::read(&mut BinDecoder::new(&bytes)) {
        _ if from.port() == 0 => Err((Refusal::Sender, "port 0".to_owned())),
        Err(error) => Err((Refusal::Short, error.to_string())),
        Ok(header) if header.metadata.message_type == MessageType::Response => {
            Err((Refusal::Answer, "to no question of this server".to_owned()))
        }
        Ok(header) => Ok(header.metadata),
    };
    let asked = match header {
        Ok(asked) => asked,
        Err((refusal, detail)) => {
            listener.refused(from, refusal, &detail);
            return false;
        }
    };
    match Request::from_bytes(bytes, from, protocol) {
        Ok(request) => listener.question(request, ResponseHandle::new(from, handle, protocol)).await,
        Err(error) => {
            listener.refused(from, Refusal::Malformed, &error.to_string());
            let answer = Message::error_msg(asked.id, asked.op_code, ResponseCode::FormErr);
            let sent = answer.to_vec().map(|bytes| handle.send(SerialMessage::new(bytes, from)));
            if !matches!(sent, Ok(Ok(()))) {
                tracing::debug!("{from} was not told that its message is malformed");
            }
        }
    }
    true
}

/// Whether no more can be received; else it concerns one client.
fn is_of_the_socket(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted)
}
