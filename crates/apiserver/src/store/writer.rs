//! The one thread that changes the store: plan a batch, make it durable, publish it, answer.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot};

use super::disk::Disk;
use super::memory::Memory;
use super::{Event, EventKind, Expect, Key, StoreError, Stored};

/// Most writes of one transaction; bounds the latency of the first of them.
const BATCH: usize = 256;

type Reply = oneshot::Sender<Result<Arc<Stored>, StoreError>>;

/// A write waiting for its turn.
#[derive(Debug)]
pub(super) enum Request {
    Put {
        key: Key,
        expect: Expect,
        object: Value,
        guard: Option<Key>,
        reply: Reply,
    },
    Delete {
        key: Key,
        revision: Option<u64>,
        reply: Reply,
    },
}

/// The writer's state between batches: none besides the disk.
#[derive(Debug)]
pub(super) struct Writer {
    disk: Disk,
    memory: Arc<RwLock<Memory>>,
    queue: mpsc::Receiver<Request>,
}

/// A batch under construction: later requests see what earlier ones will have done.
struct Plan<'a> {
    memory: &'a RwLock<Memory>,
    revision: u64,
    overlay: HashMap<Key, Option<Arc<Stored>>>,
    events: Vec<Event>,
}

impl Writer {
    pub(super) fn new(
        disk: Disk,
        memory: Arc<RwLock<Memory>>,
        queue: mpsc::Receiver<Request>,
    ) -> Self {
        Self {
            disk,
            memory,
            queue,
        }
    }

    /// Works until the store is closed and the queue is empty.
    pub(super) fn run(mut self) {
        let mut batch = Vec::new();
        while let Some(first) = self.queue.blocking_recv() {
            batch.push(first);
            while batch.len() < BATCH
                && let Ok(next) = self.queue.try_recv()
            {
                batch.push(next);
            }
            self.commit(std::mem::take(&mut batch));
        }
    }

    fn commit(&mut self, batch: Vec<Request>) {
        if !self.disk.is_open()
            && let Err(error) = self.reopen()
        {
            for request in batch {
                answer(request.into_reply(), Err(error.clone()));
            }
            return;
        }
        let mut plan = Plan {
            memory: &self.memory,
            revision: self.memory.read().revision(),
            overlay: HashMap::new(),
            events: Vec::new(),
        };
        let mut answers = Vec::with_capacity(batch.len());
        for request in batch {
            answers.push(plan.take(request));
        }
        let events = plan.events;
        let outcome = if events.is_empty() {
            Ok(())
        } else {
            self.disk.commit(&events)
        };
        match &outcome {
            Ok(()) => self.memory.write().apply(events),
            Err(error) => {
                tracing::error!(error = %error, "store commit failed");
                // The batch may or may not be on disk: what the disk says is the truth.
                if let Err(error) = self.reopen() {
                    tracing::error!(error = %error, "store cannot be reopened");
                }
            }
        }
        for (reply, result) in answers {
            answer(
                reply,
                match &outcome {
                    Err(error) if result.is_ok() => Err(error.clone()),
                    _ => result,
                },
            );
        }
    }

    fn reopen(&mut self) -> Result<(), StoreError> {
        let mut loaded = self.disk.load()?;
        loaded.revision = loaded.revision.max(self.memory.read().revision()) + 1;
        self.disk.skip_to(loaded.revision)?;
        self.memory.write().reload(loaded);
        Ok(())
    }
}

fn answer(reply: Reply, result: Result<Arc<Stored>, StoreError>) {
    // A caller that went away (closed connection) does not undo the write.
    let _ = reply.send(result);
}

impl Request {
    fn into_reply(self) -> Reply {
        match self {
            Self::Put { reply, .. } | Self::Delete { reply, .. } => reply,
        }
    }
}

impl Plan<'_> {
    fn take(&mut self, request: Request) -> (Reply, Result<Arc<Stored>, StoreError>) {
        match request {
            Request::Put {
                key,
                expect,
                object,
                guard,
                reply,
            } => (reply, self.put(key, expect, object, guard)),
            Request::Delete {
                key,
                revision,
                reply,
            } => (reply, self.delete(key, revision)),
        }
    }

    fn current(&self, key: &Key) -> Option<Arc<Stored>> {
        match self.overlay.get(key) {
            Some(planned) => planned.clone(),
            None => self.memory.read().get(key),
        }
    }

    fn put(
        &mut self,
        key: Key,
        expect: Expect,
        object: Value,
        guard: Option<Key>,
    ) -> Result<Arc<Stored>, StoreError> {
        let previous = self.current(&key);
        match (expect, &previous) {
            (Expect::Absent, Some(_)) => return Err(StoreError::AlreadyExists),
            (Expect::Revision(_), None) => return Err(StoreError::NotFound),
            (Expect::Revision(expected), Some(stored)) if stored.revision != expected => {
                return Err(StoreError::Conflict {
                    current: stored.revision,
                });
            }
            _ => {}
        }
        if guard.is_some_and(|g| self.current(&g).is_none()) {
            return Err(StoreError::GuardMissing);
        }
        let kind = if previous.is_some() {
            EventKind::Modified
        } else {
            EventKind::Added
        };
        Ok(self.record(key, kind, object, previous))
    }

    fn delete(&mut self, key: Key, revision: Option<u64>) -> Result<Arc<Stored>, StoreError> {
        let previous = self.current(&key).ok_or(StoreError::NotFound)?;
        if revision.is_some_and(|r| r != previous.revision) {
            return Err(StoreError::Conflict {
                current: previous.revision,
            });
        }
        let last = previous.value();
        Ok(self.record(key, EventKind::Deleted, last, Some(previous)))
    }

    fn record(
        &mut self,
        key: Key,
        kind: EventKind,
        object: Value,
        previous: Option<Arc<Stored>>,
    ) -> Arc<Stored> {
        self.revision += 1;
        let stored = Arc::new(Stored {
            revision: self.revision,
            json: serialize(object, self.revision),
        });
        let planned = (kind != EventKind::Deleted).then(|| Arc::clone(&stored));
        self.overlay.insert(key.clone(), planned);
        self.events.push(Event {
            revision: self.revision,
            key,
            kind,
            object: Arc::clone(&stored),
            previous,
        });
        stored
    }
}

/// Stamps the revision and writes `apiVersion` first, so that readers can swap it without parsing.
fn serialize(object: Value, revision: u64) -> Bytes {
    let Value::Object(mut object) = object else {
        return Bytes::from_static(b"{}");
    };
    let mut ordered = Map::with_capacity(object.len() + 1);
    for first in ["apiVersion", "kind", "metadata"] {
        if let Some(value) = object.shift_remove(first) {
            ordered.insert(first.to_owned(), value);
        }
    }
    if let Some(Value::Object(metadata)) = ordered.get_mut("metadata") {
        metadata.insert(
            "resourceVersion".into(),
            Value::String(revision.to_string()),
        );
    }
    ordered.extend(object);
    let bytes = serde_json::to_vec(&Value::Object(ordered))
        .expect("a JSON value with string keys always serializes");
    Bytes::from(bytes.into_boxed_slice())
}
