//! UDP datagrams of any size with an answer to each, by sockets of our own: what arrived, what was refused for its length, and what ICMP said.
//!
//! Every datagram is numbered and its bytes are known, so that only whole ones count. Both sockets ask the kernel for its error queue (ip(7),
//! `IP_RECVERR`): it tells what the kernel itself refused from what the network answered.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use tokio::net::UdpSocket;
use tokio::time::{Instant, interval, timeout};

use super::process::Process;
use super::{Place, Quantities, bytes, is_virtual, unmeasured};
use crate::exit::Failure;
use crate::judge::expr::Value;
use crate::world::space::Space;

/// Time for the name.
const RESOLVE_WITHIN: Duration = Duration::from_secs(10);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Number of the datagram and of the flow: what a datagram has at least.
pub const LEAST: u64 = 4;
/// The longest payload of UDP over IPv4.
pub const MOST: u64 = 65_507;

/// What to send.
pub struct Datagrams<'a> {
    /// The server's name.
    pub to: &'a str,
    /// Payload of each, in bytes.
    pub size: u64,
    /// Payload of each answer.
    pub reply: u64,
    /// How many.
    pub count: u64,
    /// Time between two.
    pub interval: Duration,
    /// Whether both ends forbid to cut them up.
    pub whole: bool,
}

/// One end's socket, and what it counted.
struct End {
    socket: UdpSocket,
    counts: Mutex<Counts>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    /// Datagrams that the kernel took.
    sent: u64,
    /// Whole datagrams from the other end.
    received: u64,
    /// Datagrams that the kernel refused as too long.
    refused: u64,
    /// ICMP errors: a datagram was too long for a way, and must not be cut up.
    too_long: u64,
    /// Other ICMP errors.
    unreachable: u64,
}

/// The answering end; it ends when dropped.
pub struct Server {
    end: Arc<End>,
    task: tokio::task::AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl End {
    fn open(space: &Space, port: u16, whole: bool) -> Result<Self, Failure> {
        let opened = space.within(|| {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
            socket.set_nonblocking(true)?;
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
            discover(&socket, whole)?;
            UdpSocket::from_std(socket)
        })?;
        let socket = opened.map_err(Failure::during(format!("UDP port {port} of `{}`", space.name)))?;
        Ok(Self { socket, counts: Mutex::default() })
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends one datagram to the end that the socket is connected to.
    async fn send(&self, datagram: &[u8]) -> Result<(), Failure> {
        self.errors()?;
        // Once more where an error of an earlier datagram was told instead of sending this one.
        for _ in 0..2 {
            match self.socket.send(datagram).await {
                Ok(_) => {
                    self.counts().sent += 1;
                    return Ok(());
                }
                Err(_) => {
                    if self.errors()? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads the error queue: whether the kernel refused a datagram as too long.
    fn errors(&self) -> Result<bool, Failure> {
        // Told once, by whatever is called next.
        let _ = self.socket.take_error();
        let mut refused = false;
        loop {
            let mut room = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in);
            let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
            let message =
                match recvmsg::<SockaddrIn>(self.socket.as_raw_fd(), &mut [], Some(&mut room), flags) {
                    Ok(message) => message,
                    Err(nix::errno::Errno::EAGAIN) => return Ok(refused),
                    Err(nix::errno::Errno::EINTR) => continue,
                    Err(error) => {
                        return Err(Failure::error(format!("the error queue of a UDP socket: {error}")));
                    }
                };
            let mut counts = self.counts();
            for control in message.cmsgs().into_iter().flatten() {
                let ControlMessageOwned::Ipv4RecvErr(error, _) = control else { continue };
                let too_long = error.ee_errno == libc::EMSGSIZE as u32;
                match error.ee_origin {
                    libc::SO_EE_ORIGIN_LOCAL if too_long => {
                        counts.refused += 1;
                        refused = true;
                    }
                    libc::SO_EE_ORIGIN_ICMP if too_long => counts.too_long += 1,
                    libc::SO_EE_ORIGIN_ICMP => counts.unreachable += 1,
                    _ => {}
                }
            }
        }
    }

    /// Takes the next datagram; `None` for what was an error's telling.
    async fn receive(&self, buffer: &mut [u8]) -> Result<Option<(usize, SocketAddr)>, Failure> {
        match self.socket.recv_from(buffer).await {
            Ok(received) => Ok(Some(received)),
            Err(_) => self.errors().map(|_| None),
        }
    }

    /// Counts a datagram if it is one of `size` bytes, whole: its number.
    fn take(&self, datagram: &[u8], size: u64) -> Option<u32> {
        let number = u32::from_le_bytes(*datagram.first_chunk()?);
        let whole = datagram == payload(number, size);
        self.counts().received += u64::from(whole);
        whole.then_some(number)
    }
}

/// The datagram numbered `number`.
fn payload(number: u32, size: u64) -> Vec<u8> {
    let mut out = bytes(size, number.into());
    for (byte, own) in out.iter_mut().zip(number.to_le_bytes()) {
        *byte = own;
    }
    out
}

/// Whether datagrams go out with "don't fragment" and are refused where they would have to be cut up; else the kernel does as for any program.
fn discover(socket: &std::net::UdpSocket, whole: bool) -> io::Result<()> {
    let value: libc::c_int = if whole { libc::IP_PMTUDISC_DO } else { libc::IP_PMTUDISC_WANT };
    let size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the option's value is an int that lives over the call, and its size is told.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const value).cast(),
            size,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Server {
    /// Opens the answering end, which answers each whole datagram of `size` bytes by one of `reply` bytes.
    pub fn start(space: &Space, place: &Place, size: u64, reply: u64, whole: bool) -> Result<Self, Failure> {
        let end = Arc::new(End::open(space, place.port, whole)?);
        let own = Arc::clone(&end);
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            let mut connected = false;
            // What fails here is seen by what does not arrive.
            while let Ok(received) = own.receive(&mut buffer).await {
                let Some((length, from)) = received else { continue };
                let Some(number) = own.take(&buffer[..length], size) else { continue };
                // Errors are told to connected sockets only.
                connected = connected || own.socket.connect(from).await.is_ok();
                if own.send(&payload(number, reply)).await.is_err() {
                    break;
                }
            }
        });
        Ok(Self { end, task: task.abort_handle() })
    }
}

/// Sends the datagrams and waits for the answers.
pub async fn run(
    id: &str,
    datagrams: &Datagrams<'_>,
    place: &Place,
    server: Option<&Server>,
) -> Result<Quantities, Failure> {
    let names = [
        "sent",
        "arrived",
        "answered",
        "received",
        "too_big",
        "answers_too_big",
        "icmp_too_big",
        "icmp_unreachable",
        "lost",
        "remote_address",
        "virtual",
    ];
    let Some(address) = resolve(id, datagrams.to, place).await? else {
        return Ok(unmeasured(&names, &format!("{} has no address", datagrams.to)));
    };
    let end = End::open(&place.from, 0, datagrams.whole)?;
    let connected = end.socket.connect((address, place.port)).await;
    connected.map_err(Failure::during(format!("`{id}`: {address}")))?;
    let mut ticks = interval(datagrams.interval.max(Duration::from_millis(1)));
    let sending = async {
        for number in 0..datagrams.count {
            ticks.tick().await;
            end.send(&payload(number as u32, datagrams.size)).await?;
        }
        Ok::<(), Failure>(())
    };
    let mut buffer = vec![0; 1 << 16];
    let mut sent = false;
    let mut deadline = Instant::now();
    tokio::pin!(sending);
    loop {
        tokio::select! {
            done = &mut sending, if !sent => {
                done?;
                sent = true;
                deadline = Instant::now() + PATIENCE;
            }
            received = timeout(PATIENCE, end.receive(&mut buffer)) => {
                if let Ok(received) = received
                    && let Some((length, _)) = received?
                {
                    end.take(&buffer[..length], datagrams.reply);
                }
            }
        }
        let counts = *end.counts();
        let answered = counts.received + counts.too_long + counts.unreachable;
        if sent && (answered >= counts.sent || Instant::now() >= deadline) {
            break;
        }
    }
    end.errors()?;
    let counts = *end.counts();
    let theirs = server.map(|server| server.end.errors().map(|_| *server.end.counts())).transpose()?;
    let mut out = quantities(&counts, &theirs.unwrap_or_default());
    out.insert("remote_address".to_owned(), Ok(Value::Text(address.to_string())));
    out.insert("virtual".to_owned(), Ok(Value::Truth(is_virtual(&address.to_string()))));
    Ok(out)
}

fn quantities(client: &Counts, server: &Counts) -> Quantities {
    let too_long = client.too_long + server.too_long;
    let unreachable = client.unreachable + server.unreachable;
    let gone = (client.sent + server.sent).saturating_sub(client.received + server.received);
    [
        ("sent", client.sent),
        ("arrived", server.received),
        ("answered", server.sent),
        ("received", client.received),
        ("too_big", client.refused),
        ("answers_too_big", server.refused),
        ("icmp_too_big", too_long),
        ("icmp_unreachable", unreachable),
        ("lost", gone.saturating_sub(too_long + unreachable)),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), Ok(Value::Number(value as f64))))
    .collect()
}

/// The address that an application on the flow's node gets for `name`.
pub(super) async fn resolve(id: &str, name: &str, place: &Place) -> Result<Option<IpAddr>, Failure> {
    let mut asking =
        Process::start(&format!("{id}.name"), &place.from, "getent", &place.folder, |command| {
            command.args(["ahostsv4", name]);
        })?;
    asking.finish(RESOLVE_WITHIN).await;
    Ok(asking.printed().split_whitespace().next().and_then(|address| address.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_knows_its_number_and_its_bytes() {
        let (one, other) = (payload(7, 100), payload(8, 100));
        assert_eq!((one.len(), &one[..4]), (100, &[7, 0, 0, 0][..]));
        assert_ne!(one[4..], other[4..]);
    }

    #[test]
    fn lost_is_what_neither_arrived_nor_was_answered() {
        let client = Counts { sent: 10, received: 6, refused: 3, too_long: 0, unreachable: 1 };
        let server = Counts { sent: 8, received: 8, refused: 1, too_long: 1, unreachable: 0 };
        let measured = quantities(&client, &server);
        assert_eq!(measured["lost"], Ok(Value::Number(2.0)), "one each way");
        assert_eq!(measured["answers_too_big"], Ok(Value::Number(1.0)));
        assert_eq!(measured["too_big"], Ok(Value::Number(3.0)));
    }
}
