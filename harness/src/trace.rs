//! The harness's own observations — what it did to the world, and when — in the trace's form.

use std::sync::{Arc, Mutex, PoisonError};

use ntm_protocol::time::Instant;
use serde_json::{Value, json};

use crate::clock;

/// The record that `what` happened to `node` at `now`. `fields` is an object with more to say.
pub fn record(now: Instant, node: &str, what: &str, fields: Value) -> Value {
    let mut record = json!({ "t": now, "node": node, "what": what });
    if let (Value::Object(record), Value::Object(fields)) = (&mut record, fields) {
        record.extend(fields);
    }
    record
}

/// Records observations; clones share one list.
#[derive(Debug, Clone, Default)]
pub struct Trace(Arc<Mutex<Vec<Value>>>);

impl Trace {
    /// Notes that `what` happened to `node`, now. `fields` is an object with more to say. Returns the time.
    pub fn note(&self, node: &str, what: &str, fields: Value) -> u64 {
        let now = clock::now();
        let record = record(now, node, what, fields);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        now.as_nanos()
    }

    /// Everything noted so far.
    pub fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
