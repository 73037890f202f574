//! The control socket: a Unix stream socket, one JSON request a line, one JSON answer a line, in order.
//!
//! `{"command":"status"}` is answered by `{"ok":…}` or `{"error":"…"}`; other keys of the request are the command's arguments.
//! Requests come to the daemon's own loop over a channel, so that one loop owns all state and answers in its turn.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, future};

use anyhow::{Context, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

/// The longest request, in bytes, its newline included.
pub const MAX_REQUEST: usize = 64 * 1024;

/// How many clients are served at once; the others wait.
const MAX_CLIENTS: usize = 16;

/// The socket while it is open; dropping it ends its clients' connections and removes its file.
#[derive(Debug)]
pub struct Server {
    requests: mpsc::Receiver<Request>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    /// Device and inode of our socket, so that we never remove another's.
    identity: (u64, u64),
    accepting: JoinHandle<()>,
}

impl Server {
    /// Listens on `path`; with `None`, a server to which no request ever comes.
    ///
    /// A socket file that nobody listens on any more is replaced. Only the file's owner may connect. Must be called within a tokio
    /// runtime. The error says what stands in the way.
    pub fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let (sender, requests) = mpsc::channel(MAX_CLIENTS);
        let Some(path) = path else { return Ok(Self { requests, open: None }) };
        let context = || format!("{}: the control socket cannot be opened", path.display());
        remove_stale(path).with_context(context)?;
        let listener = UnixListener::bind(path).with_context(context)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).with_context(context)?;
        let metadata = fs::symlink_metadata(path).with_context(context)?;
        let accepting = tokio::spawn(accept(listener, sender));
        let identity = (metadata.dev(), metadata.ino());
        Ok(Self { requests, open: Some(Open { path: path.to_owned(), identity, accepting }) })
    }

    /// The next request; waits for ever where there is none. May be dropped and called again without losing a request.
    pub async fn next(&mut self) -> Request {
        match self.requests.recv().await {
            Some(request) => request,
            None => future::pending().await,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(open) = &self.open else { return };
        open.accepting.abort();
        if fs::symlink_metadata(&open.path).is_ok_and(|found| (found.dev(), found.ino()) == open.identity) {
            let _ = fs::remove_file(&open.path);
        }
    }
}

/// One request, waiting for its answer. Dropped without one, the client is told that it was given up.
#[derive(Debug)]
pub struct Request {
    command: String,
    arguments: Map<String, Value>,
    reply: oneshot::Sender<String>,
}

impl Request {
    /// What is asked for.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// The request's other keys as a `T`; the error is a sentence for [`Request::refuse`].
    pub fn arguments<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_value(Value::Object(self.arguments.clone()))
            .map_err(|error| format!("the arguments of '{}': {error}", self.command))
    }

    /// Answers `{"ok": value}`.
    pub fn answer<T: Serialize + ?Sized>(self, value: &T) {
        #[derive(Serialize)]
        struct Answer<'a, T: ?Sized> {
            ok: &'a T,
        }
        match serde_json::to_string(&Answer { ok: value }) {
            // A client that went away needs no answer.
            Ok(line) => drop(self.reply.send(line)),
            Err(error) => self.refuse(&format!("the answer cannot be written as JSON: {error}")),
        }
    }

    /// Answers `{"error": why}`.
    pub fn refuse(self, why: &str) {
        let _ = self.reply.send(error_line(why));
    }

    /// Refuses a command that the daemon does not have, and names those it has.
    pub fn refuse_unknown(self, commands: &[&str]) {
        let why = format!("there is no command '{}'; there is: {}", self.command, commands.join(", "));
        self.refuse(&why);
    }
}

/// Removes a socket file that a dead process left at `path`; an error if something else is there.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!("a file that is no socket is in its place: remove it, or choose another path")
        }
        Ok(_) => match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => bail!("another process listens on it: end it first, or choose another path"),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(fs::remove_file(path)?),
            Err(error) => Err(error).context("it is not known whether another process listens on it"),
        },
    }
}

async fn accept(listener: UnixListener, requests: mpsc::Sender<Request>) {
    let mut clients = tokio::task::JoinSet::new();
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while clients.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let requests = requests.clone();
                clients.spawn(async move {
                    if let Err(error) = serve_client(stream, requests).await {
                        tracing::debug!("a client of the control socket: {error}");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely; the pause keeps the loop from spinning until some are free.
                tracing::warn!("the control socket accepts no client: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_client(stream: UnixStream, requests: mpsc::Sender<Request>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = Vec::new();
    loop {
        line.clear();
        let size = (&mut read).take(MAX_REQUEST as u64).read_until(b'\n', &mut line).await?;
        if size == 0 {
            return Ok(());
        }
        let too_long = size == MAX_REQUEST && line.last() != Some(&b'\n');
        let mut answer = if too_long {
            error_line(&format!("a request has more than {MAX_REQUEST} bytes"))
        } else {
            match request(&line) {
                Ok((command, arguments)) => ask(&requests, command, arguments).await,
                Err(why) => error_line(&why),
            }
        };
        answer.push('\n');
        write.write_all(answer.as_bytes()).await?;
        if too_long {
            // Where the next request begins is not known.
            return Ok(());
        }
    }
}

async fn ask(requests: &mpsc::Sender<Request>, command: String, arguments: Map<String, Value>) -> String {
    let (reply, answer) = oneshot::channel();
    // Either error means that the daemon is ending, or that its loop dropped the request.
    let sent = requests.send(Request { command, arguments, reply }).await;
    match (sent, answer.await) {
        (Ok(()), Ok(line)) => line,
        _ => error_line("the daemon gave the request up"),
    }
}

fn request(line: &[u8]) -> Result<(String, Map<String, Value>), String> {
    let mut arguments: Map<String, Value> = serde_json::from_slice(line).map_err(|error| {
        format!("a request is one JSON object a line, as in {{\"command\":\"status\"}}: {error}")
    })?;
    match arguments.remove("command") {
        Some(Value::String(command)) => Ok((command, arguments)),
        Some(_) => Err("'command' must be a string".to_owned()),
        None => Err("a request needs a 'command', as in {\"command\":\"status\"}".to_owned()),
    }
}

fn error_line(why: &str) -> String {
    Value::Object(Map::from_iter([("error".to_owned(), Value::from(why))])).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Client(BufReader<UnixStream>);

    impl Client {
        async fn connect(path: &Path) -> Self {
            Self(BufReader::new(UnixStream::connect(path).await.expect("a connection")))
        }

        async fn send(&mut self, bytes: &[u8]) {
            self.0.write_all(bytes).await.expect("a request is sent");
        }

        async fn line(&mut self) -> String {
            let mut line = String::new();
            self.0.read_line(&mut line).await.expect("a line");
            line
        }
    }

    fn socket() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control");
        (folder, path)
    }

    #[tokio::test]
    async fn requests_are_answered_in_order_by_the_daemons_loop() {
        let (_folder, path) = socket();
        let mut server = Server::open(Some(&path)).expect("a server");
        let mut client = Client::connect(&path).await;
        client
            .send(b"{\"command\":\"add\",\"a\":1,\"b\":2}\n{\"command\":\"sub\"}\n{\"command\":\"drop\"}\n")
            .await;

        let request = server.next().await;
        assert_eq!(request.command(), "add");
        let arguments: std::collections::BTreeMap<String, u32> = request.arguments().expect("arguments");
        assert!(request.arguments::<Vec<u32>>().unwrap_err().starts_with("the arguments of 'add': "));
        request.answer(&arguments.values().sum::<u32>());
        assert_eq!(client.line().await, "{\"ok\":3}\n");

        server.next().await.refuse_unknown(&["add", "drop"]);
        assert_eq!(client.line().await, "{\"error\":\"there is no command 'sub'; there is: add, drop\"}\n");

        drop(server.next().await);
        assert_eq!(client.line().await, "{\"error\":\"the daemon gave the request up\"}\n");
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused_and_the_next_one_served() {
        let (_folder, path) = socket();
        let mut server = Server::open(Some(&path)).expect("a server");
        let mut client = Client::connect(&path).await;
        client.send(b"status\n{\"command\":5}\n{}\n{\"command\":\"status\"}\n").await;
        insta::assert_snapshot!(client.line().await, @r#"{"error":"a request is one JSON object a line, as in {\"command\":\"status\"}: expected value at line 1 column 1"}"#);
        insta::assert_snapshot!(client.line().await, @r#"{"error":"'command' must be a string"}"#);
        insta::assert_snapshot!(client.line().await, @r#"{"error":"a request needs a 'command', as in {\"command\":\"status\"}"}"#);
        server.next().await.answer("well");
        assert_eq!(client.line().await, "{\"ok\":\"well\"}\n");
    }

    #[tokio::test]
    async fn a_request_without_end_is_cut_off() {
        let (_folder, path) = socket();
        let _server = Server::open(Some(&path)).expect("a server");
        let mut client = Client::connect(&path).await;
        client.send(&vec![b' '; MAX_REQUEST]).await;
        assert_eq!(client.line().await, "{\"error\":\"a request has more than 65536 bytes\"}\n");
        assert_eq!(client.line().await, "");
    }

    #[tokio::test]
    async fn more_clients_than_places_wait_their_turn() {
        let (_folder, path) = socket();
        let mut server = Server::open(Some(&path)).expect("a server");
        let mut clients = Vec::new();
        for _ in 0..MAX_CLIENTS + 1 {
            let mut client = Client::connect(&path).await;
            client.send(b"{\"command\":\"status\"}\n").await;
            clients.push(client);
        }
        for client in &mut clients[..MAX_CLIENTS] {
            server.next().await.answer(&1);
            assert_eq!(client.line().await, "{\"ok\":1}\n");
        }
        let mut last = clients.pop().expect("the last client");
        drop(clients);
        server.next().await.answer(&2);
        assert_eq!(last.line().await, "{\"ok\":2}\n");
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_ours_is_removed() {
        let (_folder, path) = socket();
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a stale socket"));
        assert!(path.exists());
        let server = Server::open(Some(&path)).expect("a server");
        assert_eq!(fs::metadata(&path).expect("the socket").permissions().mode() & 0o777, 0o600);
        let error = format!("{:#}", Server::open(Some(&path)).unwrap_err());
        assert!(
            error.ends_with("another process listens on it: end it first, or choose another path"),
            "{error}"
        );
        drop(server);
        assert!(!path.exists());

        fs::write(&path, "").expect("a file");
        let error = format!("{:#}", Server::open(Some(&path)).unwrap_err());
        assert!(error.contains("a file that is no socket is in its place"), "{error}");
    }

    #[tokio::test]
    async fn another_servers_socket_is_not_removed() {
        let (_folder, path) = socket();
        let server = Server::open(Some(&path)).expect("a server");
        fs::remove_file(&path).expect("removed");
        let _other = Server::open(Some(&path)).expect("another server");
        drop(server);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn without_a_path_no_request_comes() {
        let mut server = Server::open(None).expect("a server");
        let waited = tokio::time::timeout(std::time::Duration::from_millis(5), server.next()).await;
        assert!(waited.is_err());
    }
}
