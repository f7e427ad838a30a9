//! What the backends got: one entry for each request or connection, in order of arrival.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;

use crate::bytes_spec::observed;

/// Longest wait for requests that are still arriving when a step has ended.
const SETTLE: Duration = Duration::from_millis(500);

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Still arriving.
    Open,
    /// Nobody waits for its end: the backend answers before, or the connection carries bytes as long as it likes.
    Ignored,
    /// Arrived as a whole.
    Complete,
    /// The proxy reset it or closed its connection.
    Aborted,
}

/// A request or connection as a backend got it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// Which backend.
    pub(crate) backend: String,
    /// Method, path, authority, headers and the like; `connection` is taken out unless a case asks for it.
    pub(crate) head: Map<String, Value>,
    /// What came after the head.
    pub(crate) body: Vec<u8>,
    /// Decoded gRPC messages.
    pub(crate) messages: Vec<Value>,
    /// Trailer fields.
    pub(crate) trailers: Value,
    /// How it ended.
    pub(crate) ending: Ending,
    /// A connection of bytes, observed when it has ended.
    pub(crate) is_stream: bool,
    taken: bool,
}

#[derive(Debug, Default)]
struct State {
    seen: Vec<Seen>,
    local_ports: Vec<u16>,
}

/// The record of all backends of one side.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorder {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

/// One entry of the record; dropped before its end it counts as aborted.
#[derive(Debug)]
pub(crate) struct Entry {
    recorder: Recorder,
    index: usize,
    /// True when the body is gRPC messages.
    pub(crate) is_grpc: bool,
}

impl Recorder {
    /// A new entry.
    pub(crate) fn begin(&self, backend: &str, head: Map<String, Value>, is_stream: bool) -> Entry {
        let is_grpc = content_type(&head).starts_with("application/grpc");
        let mut state = self.state.lock();
        state.seen.push(Seen {
            backend: backend.to_owned(),
            head,
            body: Vec::new(),
            messages: Vec::new(),
            trailers: Value::Null,
            ending: Ending::Open,
            is_stream,
            taken: false,
        });
        let index = state.seen.len() - 1;
        drop(state);
        self.changed.notify_waiters();
        Entry {
            recorder: self.clone(),
            index,
            is_grpc,
        }
    }

    /// Remembers the proxy's port of a connection, which the kernel chose.
    pub(crate) fn local_port(&self, port: u16) {
        self.state.lock().local_ports.push(port);
    }

    /// Ports that the kernel chose for the proxy's connections.
    pub(crate) fn local_ports(&self) -> Vec<u16> {
        self.state.lock().local_ports.clone()
    }

    /// Waits until a condition on all entries holds, at most until the deadline.
    pub(crate) async fn wait(&self, limit: Duration, holds: impl Fn(&[Seen]) -> bool) -> bool {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                if holds(&self.state.lock().seen) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(limit, waiting).await.is_ok()
    }

    /// Entries since the last call, after those that are arriving had time to end. Open streams come when they have
    /// ended; they are waited for unless the client keeps connections open.
    pub(crate) async fn take(&self, client_keeps_open: bool) -> Vec<Seen> {
        let is_settled =
            |seen: &Seen| seen.ending != Ending::Open || (seen.is_stream && client_keeps_open);
        self.wait(SETTLE, |seen| seen.iter().all(is_settled)).await;
        let mut state = self.state.lock();
        let mut new = Vec::new();
        for seen in &mut state.seen {
            let is_ready = !seen.is_stream || seen.ending != Ending::Open;
            if is_ready && !seen.taken {
                seen.taken = true;
                new.push(seen.clone());
            }
        }
        new
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.end(Ending::Aborted);
    }
}

impl Entry {
    /// Changes the entry.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.recorder.state.lock().seen.get_mut(self.index) {
            change(seen);
        }
        self.recorder.changed.notify_waiters();
    }

    /// Sets how it ended, unless that is known.
    pub(crate) fn end(&self, ending: Ending) {
        self.update(|seen| {
            if seen.ending == Ending::Open {
                seen.ending = ending;
            }
        });
    }
}

fn content_type(head: &Map<String, Value>) -> &str {
    let value = head
        .get("headers")
        .and_then(|headers| headers.get("content-type")?.get(0)?.as_str());
    value.unwrap_or_default()
}

impl Seen {
    /// As an observation.
    pub(crate) fn observation(&self, with_connection: bool) -> Value {
        let mut all = Map::new();
        all.insert("backend".to_owned(), json!(self.backend));
        for (name, value) in &self.head {
            if name != "connection" || with_connection {
                all.insert(name.clone(), value.clone());
            }
        }
        if self.ending == Ending::Ignored {
            return Value::Object(all);
        }
        if self.messages.is_empty() {
            let message = match content_type(&self.head) {
                "application/x-protobuf" => crate::schemaless::decode(&self.body),
                _ => None,
            };
            if let Some(message) = message {
                all.insert("messages".to_owned(), json!([message]));
            } else if !self.body.is_empty() {
                all.insert("body".to_owned(), observed(&self.body));
            }
        } else {
            all.insert("messages".to_owned(), json!(self.messages));
        }
        if !self.trailers.is_null() {
            all.insert("trailers".to_owned(), self.trailers.clone());
        }
        match self.ending {
            Ending::Complete | Ending::Ignored => {}
            Ending::Open => {
                all.insert("ended".to_owned(), json!("open"));
            }
            Ending::Aborted => {
                all.insert("ended".to_owned(), json!("aborted"));
            }
        }
        Value::Object(all)
    }
}
