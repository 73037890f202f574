//! The harness's own observations — what it did to the world, and when — in the trace's form.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use crate::clock;

/// Records observations; clones share one list.
#[derive(Debug, Clone, Default)]
pub struct Trace(Arc<Mutex<Vec<Value>>>);

impl Trace {
    /// Notes that `what` happened to `node`, now. `fields` is an object with more to say. Returns the time.
    pub fn note(&self, node: &str, what: &str, fields: Value) -> u64 {
        let t = clock::now().as_nanos();
        let mut record = json!({ "t": t, "node": node, "what": what });
        if let (Value::Object(record), Value::Object(fields)) = (&mut record, fields) {
            record.extend(fields);
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        t
    }

    /// Everything noted so far.
    pub fn all(&self) -> Vec<Value> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
