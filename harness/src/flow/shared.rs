//! Servers that the flows to one node share, for their protocol has one port.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::process::Process;
use crate::exit::Failure;

/// The shared servers of a run; they end with the last handle.
#[derive(Clone, Default)]
pub struct Shared(Arc<Mutex<Servers>>);

/// By program and node.
type Servers = BTreeMap<(&'static str, String), Arc<OnceCell<Process>>>;

impl Shared {
    /// Returns when the server that `start` starts is there: `program` on `node`, started by whoever asks first.
    pub async fn server<F>(
        &self,
        program: &'static str,
        node: &str,
        start: impl FnOnce() -> F,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Result<Process, Failure>>,
    {
        let server = {
            let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(servers.entry((program, node.to_owned())).or_default())
        };
        server.get_or_try_init(start).await.map(drop)
    }
}
