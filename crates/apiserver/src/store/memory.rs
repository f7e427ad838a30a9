//! The in-memory side of the store: current objects, the change log, and the wake-ups of watches.
//!
//! Changed by the writer thread alone (plus subscriptions); readers take the lock for the length of
//! a copy of pointers, never across I/O.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::watch;

use super::{Event, EventKind, Key, Snapshot, StoreError, StoreOptions, Stored};

/// What the disk held at start.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) revision: u64,
    pub(super) objects: BTreeMap<Key, Arc<Stored>>,
    /// The revision of each resource's last change: watches from there on have missed nothing.
    pub(super) last_changes: HashMap<Arc<str>, u64>,
}

/// Objects, log and subscriptions.
#[derive(Debug)]
pub(super) struct Memory {
    revision: u64,
    objects: BTreeMap<Key, Arc<Stored>>,
    history: VecDeque<Arc<Event>>,
    history_bytes: usize,
    /// Start of the log after a compaction or repair: nothing before it is known.
    oldest: u64,
    /// Per resource, its newest event that the log does not hold. An idle resource stays resumable
    /// however much happens elsewhere, also across restarts.
    trimmed: HashMap<Arc<str>, u64>,
    options: StoreOptions,
    topics: HashMap<Arc<str>, watch::Sender<u64>>,
}

impl Memory {
    pub(super) fn new(loaded: Loaded, options: StoreOptions) -> Self {
        Self {
            revision: loaded.revision,
            oldest: 0,
            objects: loaded.objects,
            history: VecDeque::new(),
            history_bytes: 0,
            trimmed: loaded.last_changes,
            options,
            topics: HashMap::new(),
        }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn get(&self, key: &Key) -> Option<Arc<Stored>> {
        self.objects.get(key).cloned()
    }

    pub(super) fn is_empty(&self, resource: &Arc<str>, namespace: &str) -> bool {
        self.range(resource, Some(namespace)).next().is_none()
    }

    /// Objects of a resource in key order; with a namespace, only those.
    fn range<'a>(
        &'a self,
        resource: &'a Arc<str>,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Stored>)> {
        let first = Key::new(resource, namespace.unwrap_or(""), "");
        self.objects
            .range((Bound::Included(first), Bound::Unbounded))
            .take_while(move |(key, _)| {
                key.resource == *resource && namespace.is_none_or(|ns| &*key.namespace == ns)
            })
    }

    pub(super) fn list(
        &self,
        resource: &Arc<str>,
        namespace: Option<&str>,
        at: Option<u64>,
    ) -> Result<Snapshot, StoreError> {
        let current = || {
            self.range(resource, namespace)
                .map(|(k, v)| (k.clone(), Arc::clone(v)))
        };
        let Some(at) = at.filter(|at| *at < self.revision) else {
            return Ok(Snapshot {
                revision: self.revision,
                items: current().collect(),
            });
        };
        self.check_window(resource, at)?;
        // Undo the log backwards: cheap, because the log is short and most of it is of other resources.
        let mut items: BTreeMap<Key, Arc<Stored>> = current().collect();
        for event in self.history.iter().rev().take_while(|e| e.revision > at) {
            if !matches(event, resource, namespace) {
                continue;
            }
            match &event.previous {
                Some(previous) => items.insert(event.key.clone(), Arc::clone(previous)),
                None => items.remove(&event.key),
            };
        }
        Ok(Snapshot {
            revision: at,
            items: items.into_iter().collect(),
        })
    }

    pub(super) fn events_after(
        &self,
        resource: &Arc<str>,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<(Vec<Arc<Event>>, u64), StoreError> {
        self.check_window(resource, revision)?;
        let start = self.history.partition_point(|e| e.revision <= revision);
        let events = self
            .history
            .range(start..)
            .filter(|e| matches(e, resource, namespace))
            .cloned()
            .collect();
        Ok((events, self.revision.max(revision)))
    }

    pub(super) fn subscribe(&mut self, resource: &Arc<str>) -> watch::Receiver<u64> {
        self.topic(resource).subscribe()
    }

    fn topic(&mut self, resource: &Arc<str>) -> &watch::Sender<u64> {
        self.topics
            .entry(Arc::clone(resource))
            .or_insert_with(|| watch::channel(0).0)
    }

    pub(super) fn last_change(&self, resource: &Arc<str>) -> u64 {
        self.topics.get(resource).map_or(0, |t| *t.borrow())
    }

    /// Publishes one committed batch.
    pub(super) fn apply(&mut self, events: Vec<Event>) {
        let mut changed: Vec<Arc<str>> = Vec::new();
        for event in events {
            self.revision = event.revision;
            match event.kind {
                EventKind::Deleted => self.objects.remove(&event.key),
                EventKind::Added | EventKind::Modified => self
                    .objects
                    .insert(event.key.clone(), Arc::clone(&event.object)),
            };
            if !changed.contains(&event.key.resource) {
                changed.push(Arc::clone(&event.key.resource));
            }
            self.history_bytes += superseded(&event);
            self.history.push_back(Arc::new(event));
        }
        self.trim();
        let revision = self.revision;
        for resource in changed {
            self.topic(&resource).send_replace(revision);
        }
    }

    fn trim(&mut self) {
        while self.history.len() > self.options.history_events
            || self.history_bytes > self.options.history_bytes
        {
            let Some(event) = self.history.pop_front() else {
                return;
            };
            self.history_bytes -= superseded(&event);
            self.trimmed
                .insert(Arc::clone(&event.key.resource), event.revision);
        }
    }

    /// Whether the log still has every event of a resource after a revision.
    fn check_window(&self, resource: &Arc<str>, revision: u64) -> Result<(), StoreError> {
        let trimmed = self.trimmed.get(resource).copied().unwrap_or(0);
        let oldest = self.oldest.max(trimmed);
        if revision < oldest {
            return Err(StoreError::Expired { oldest });
        }
        Ok(())
    }

    pub(super) fn compact(&mut self) {
        self.history.clear();
        self.trimmed.clear();
        self.history_bytes = 0;
        self.oldest = self.revision;
        self.wake_all();
    }

    /// Replaces everything by what the disk holds, after a failed commit whose outcome was unknown.
    /// `loaded.revision` is one that nobody has seen: every watch has to list again.
    pub(super) fn reload(&mut self, loaded: Loaded) {
        self.revision = loaded.revision;
        self.objects = loaded.objects;
        self.compact();
    }

    fn wake_all(&self) {
        for topic in self.topics.values() {
            topic.send_replace(self.revision);
        }
    }
}

fn matches(event: &Event, resource: &Arc<str>, namespace: Option<&str>) -> bool {
    event.key.resource == *resource && namespace.is_none_or(|ns| &*event.key.namespace == ns)
}

/// Bytes that only the log still holds on account of this event.
fn superseded(event: &Event) -> usize {
    let last = if event.kind == EventKind::Deleted {
        event.object.json.len()
    } else {
        0
    };
    last + event.previous.as_ref().map_or(0, |p| p.json.len())
}
