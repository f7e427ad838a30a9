//! The revisioned object store: durable writes, consistent reads, resumable watches.
//!
//! Owns the only copy of every object: raw JSON in memory, the same bytes in redb on disk. One
//! writer thread takes requests from a bounded queue, checks their preconditions, commits whatever
//! is waiting in one transaction (group commit), and only then publishes and acknowledges. It never
//! interprets objects beyond stamping `metadata.resourceVersion`.
//!
//! Invariants:
//! - An acknowledged write was fsynced; a failed one is not visible to any reader.
//! - Revisions are global and strictly increasing, also across restarts and deletions.
//! - A reader sees whole batches only, and always at least what it was acknowledged.
//! - A watch either sees every event after its revision or is told that the window has passed.

mod disk;
pub mod lossy;
mod memory;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};

use disk::Disk;
use memory::Memory;
use writer::{Request, Writer};

pub use disk::BackendFactory;

/// Writes waiting for the writer thread before callers wait; more than the clients of one machine send at once.
const WRITE_QUEUE: usize = 1024;

/// What identifies an object: its resource (`group/plural`), namespace (empty when cluster-scoped) and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `group/plural`, for example `apps/deployments` or `/pods`.
    pub resource: Arc<str>,
    /// Namespace, empty for cluster-scoped objects.
    pub namespace: Box<str>,
    /// Object name.
    pub name: Box<str>,
}

impl Key {
    /// A key from its parts.
    pub fn new(resource: &Arc<str>, namespace: &str, name: &str) -> Self {
        Self {
            resource: Arc::clone(resource),
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

/// One stored version of an object.
#[derive(Debug)]
pub struct Stored {
    /// The revision that wrote it, also inside the JSON as `metadata.resourceVersion`.
    pub revision: u64,
    /// The whole object; starts with its `apiVersion` member.
    pub json: Bytes,
}

impl Stored {
    /// Parses the object. The bytes are our own serialization, so this cannot fail.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.json).expect("the store serialized these bytes itself")
    }
}

/// What a write did to its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Created.
    Added,
    /// Changed.
    Modified,
    /// Removed.
    Deleted,
}

/// One entry of the change log.
#[derive(Debug)]
pub struct Event {
    /// Revision of the change.
    pub revision: u64,
    /// The object's key.
    pub key: Key,
    /// What happened.
    pub kind: EventKind,
    /// The object after the change (for deletions: its last state, stamped with the deletion's revision).
    pub object: Arc<Stored>,
    /// The object before the change.
    pub previous: Option<Arc<Stored>>,
}

/// Precondition of a [`Store::put`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The object does not exist (create).
    Absent,
    /// The object exists at exactly this revision (update).
    Revision(u64),
}

/// Why the store refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A create found the object there.
    #[error("object already exists")]
    AlreadyExists,
    /// An update or delete found nothing.
    #[error("object not found")]
    NotFound,
    /// The object moved on since the caller read it.
    #[error("object changed, it is at revision {current}")]
    Conflict {
        /// Where it is now.
        current: u64,
    },
    /// The object's namespace vanished before the write.
    #[error("the guarding object does not exist")]
    GuardMissing,
    /// The asked revision is older than the change log.
    #[error("revision is compacted, the oldest is {oldest}")]
    Expired {
        /// Oldest revision from which a watch can resume.
        oldest: u64,
    },
    /// Another process has the database open.
    #[error("another process has the database open")]
    InUse,
    /// Disk trouble; nothing of the write is visible.
    #[error("storage: {reason}")]
    Storage {
        /// What the disk layer said.
        reason: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Limits of the change log.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Most events kept for resuming watches and continued lists.
    pub history_events: usize,
    /// Most bytes of superseded objects kept in the change log.
    pub history_bytes: usize,
}

impl Default for StoreOptions {
    /// A few minutes of a busy small cluster in at most 4 MiB.
    fn default() -> Self {
        Self {
            history_events: 4096,
            history_bytes: 4 << 20,
        }
    }
}

/// A consistent list at one revision.
#[derive(Debug)]
pub struct Snapshot {
    /// The revision it shows.
    pub revision: u64,
    /// Objects in key order.
    pub items: Vec<(Key, Arc<Stored>)>,
}

/// The store; shared by reference, closed by [`Store::close`] or drop.
#[derive(Debug)]
pub struct Store {
    memory: Arc<RwLock<Memory>>,
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens or creates the database file. Fails with one sentence when the directory is full or read-only.
    pub fn open(path: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        Self::start(Disk::file(path), options)
    }

    /// Opens a store over any redb backend; tests plug in one that loses everything not synced.
    pub fn with_backend(
        factory: BackendFactory,
        options: StoreOptions,
    ) -> Result<Self, StoreError> {
        Self::start(Disk::backend(factory), options)
    }

    fn start(mut disk: Disk, options: StoreOptions) -> Result<Self, StoreError> {
        let loaded = disk.load()?;
        let memory = Arc::new(RwLock::new(Memory::new(loaded, options)));
        let (requests, queue) = mpsc::channel(WRITE_QUEUE);
        let writer = Writer::new(disk, Arc::clone(&memory), queue);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run())
            .map_err(|e| StoreError::Storage {
                reason: format!("start the writer thread: {e}"),
            })?;
        Ok(Self {
            memory,
            requests: Mutex::new(Some(requests)),
            writer: Mutex::new(Some(thread)),
        })
    }

    /// Ends the writer after everything queued is durable.
    pub fn close(&self) {
        drop(self.requests.lock().take());
        if let Some(thread) = self.writer.lock().take() {
            // A panicked writer has nothing left to flush.
            let _ = thread.join();
        }
    }

    /// Writes an object if `expect` holds. With `guard`, that object (the namespace) must exist too.
    pub async fn put(
        &self,
        key: Key,
        expect: Expect,
        object: Value,
        guard: Option<Key>,
    ) -> Result<Arc<Stored>, StoreError> {
        self.send(|reply| Request::Put {
            key,
            expect,
            object,
            guard,
            reply,
        })
        .await
    }

    /// Removes an object (at `revision` if given) and returns its last state with the deletion's revision.
    pub async fn delete(&self, key: Key, revision: Option<u64>) -> Result<Arc<Stored>, StoreError> {
        self.send(|reply| Request::Delete {
            key,
            revision,
            reply,
        })
        .await
    }

    async fn send(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<Arc<Stored>, StoreError>>) -> Request,
    ) -> Result<Arc<Stored>, StoreError> {
        let queue = self.requests.lock().clone().ok_or(StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        queue
            .send(request(reply))
            .await
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// The latest committed revision.
    pub fn revision(&self) -> u64 {
        self.memory.read().revision()
    }

    /// The newest version of one object.
    pub fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        self.memory.read().get(key)
    }

    /// All objects of a resource, in a namespace if given, now or `at` an earlier revision.
    pub fn list(
        &self,
        resource: &Arc<str>,
        namespace: Option<&str>,
        at: Option<u64>,
    ) -> Result<Snapshot, StoreError> {
        self.memory.read().list(resource, namespace, at)
    }

    /// Whether a resource has any object in the namespace.
    pub fn is_empty(&self, resource: &Arc<str>, namespace: &str) -> bool {
        self.memory.read().is_empty(resource, namespace)
    }

    /// Events of a resource after `revision`, and the revision they reach up to.
    pub fn events_after(
        &self,
        resource: &Arc<str>,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<(Vec<Arc<Event>>, u64), StoreError> {
        self.memory
            .read()
            .events_after(resource, namespace, revision)
    }

    /// Wakes when the resource changed; the value is the revision of its last change.
    pub fn subscribe(&self, resource: &Arc<str>) -> watch::Receiver<u64> {
        self.memory.write().subscribe(resource)
    }

    /// Revision of the last change of a resource since start (0: none); a cheap cache key.
    pub fn last_change(&self, resource: &Arc<str>) -> u64 {
        self.memory.read().last_change(resource)
    }

    /// Forgets the change log up to now: older watches get "expired". For tests and after repairs.
    pub fn compact(&self) {
        self.memory.write().compact();
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}
