//! Asks a daemon over its control socket: one JSON request a line, one JSON answer a line.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// An answer takes no longer than this, and no more bytes.
const PATIENCE: Duration = Duration::from_secs(2);
const LARGEST: u64 = 16 << 20;

/// The answer to `{"command": command}`: the content of `ok`, or the error as text.
pub async fn ask(socket: &Path, command: &str) -> Result<Value, String> {
    let exchange = async {
        let stream = UnixStream::connect(socket).await.map_err(|error| error.to_string())?;
        let (read, mut write) = stream.into_split();
        write
            .write_all(format!("{}\n", json!({ "command": command })).as_bytes())
            .await
            .map_err(|e| e.to_string())?;
        let mut line = String::new();
        BufReader::new(read.take(LARGEST)).read_line(&mut line).await.map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_str(&line).map_err(|error| format!("not JSON: {error}"))?;
        match answer.get_mut("ok").map(Value::take) {
            Some(ok) => Ok(ok),
            None => Err(answer
                .get("error")
                .and_then(Value::as_str)
                .unwrap_or("an answer without `ok`")
                .to_owned()),
        }
    };
    let text = |why: String| format!("{}: {why}", socket.display());
    tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| text("no answer".into()))?.map_err(text)
}
