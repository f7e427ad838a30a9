//! A store that mirrors a watch, and the callback that tells what changed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt as _;
use kube::{Api, Resource};
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use tokio::sync::watch as latest;

use crate::task::Task;
use crate::watch::{Change, Key, Selectors, watch};

/// The current objects of one watch. Cheap to clone; readers never wait for the network.
#[derive(Debug)]
pub struct Store<K> {
    shared: Arc<Shared<K>>,
}

#[derive(Debug)]
struct Shared<K> {
    objects: RwLock<BTreeMap<Key, Arc<K>>>,
    version: latest::Sender<Version>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Version {
    changes: u64,
    synced: bool,
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        let shared = Shared {
            objects: RwLock::default(),
            version: latest::Sender::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }
}

impl<K> Store<K> {
    /// The object with this key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.shared.objects.read().get(key).cloned()
    }

    /// The object with this namespace and name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.get(&Key::new(namespace, name))
    }

    /// All objects, ordered by key.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.objects.read().values().cloned().collect()
    }

    /// All objects of one namespace, ordered by name.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let objects = self.shared.objects.read();
        objects
            .range(Key::new(namespace, "")..)
            .take_while(|(key, _)| &*key.namespace == namespace)
            .map(|(_, object)| Arc::clone(object))
            .collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.shared.objects.read().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether everything that existed at the start has been stored.
    pub fn is_synced(&self) -> bool {
        self.shared.version.borrow().synced
    }

    /// Waits until everything that existed at the start has been stored.
    pub async fn synced(&self) {
        let mut version = self.shared.version.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = version.wait_for(|version| version.synced).await;
    }

    /// Waits until `probe` finds what it looks for in the store, looking again after each change.
    pub async fn until<T>(&self, mut probe: impl FnMut(&Self) -> Option<T>) -> T {
        let mut version = self.shared.version.subscribe();
        loop {
            version.mark_unchanged();
            if let Some(found) = probe(self) {
                return found;
            }
            let _ = version.changed().await;
        }
    }

    /// Waits until the store has caught up with `written` (an answer of the API server), at most
    /// `limit`: a controller that has just written then decides on what it wrote. `false` when the
    /// limit passed, for instance because the object was deleted at once.
    pub async fn seen(&self, written: &K, limit: std::time::Duration) -> bool
    where
        K: Resource,
    {
        let key = Key::of(written);
        let caught_up = |store: &Self| {
            let stored = store.get(&key)?;
            let same = stored.meta().uid == written.meta().uid;
            (same && version(&*stored) >= version(written)).then_some(())
        };
        tokio::time::timeout(limit, self.until(caught_up))
            .await
            .is_ok()
    }

    /// Tells when something in the store changes, from now on.
    pub fn changes(&self) -> Changes {
        Changes(self.shared.version.subscribe())
    }

    /// Puts one object in by hand (used for tests and for objects just written).
    pub fn insert(&self, object: Arc<K>) -> Option<Arc<K>>
    where
        K: Resource,
    {
        let old = self
            .shared
            .objects
            .write()
            .insert(Key::of(&*object), object);
        self.shared
            .version
            .send_modify(|version| version.changes += 1);
        old
    }

    /// Takes one object out.
    pub fn remove(&self, key: &Key) -> Option<Arc<K>> {
        let old = self.shared.objects.write().remove(key);
        self.shared
            .version
            .send_modify(|version| version.changes += 1);
        old
    }

    fn mark_synced(&self) {
        self.shared
            .version
            .send_modify(|version| version.synced = true);
    }
}

/// resourceVersions of one kind are ordered numbers (Kubernetes 1.35 promises it).
fn version<K: Resource>(object: &K) -> u64 {
    object
        .meta()
        .resource_version
        .as_deref()
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

/// Waits for changes of a store; see [`Store::changes`].
#[derive(Debug, Clone)]
pub struct Changes(latest::Receiver<Version>);

impl Changes {
    /// Waits until something has changed since the last call. Never returns once the store is gone.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What a store update replaced.
#[derive(Debug)]
pub struct Updated<'a, K> {
    /// Which object.
    pub key: &'a Key,
    /// Its content before, `None` when it is new.
    pub old: Option<&'a Arc<K>>,
    /// Its content now, `None` when it is gone.
    pub new: Option<&'a Arc<K>>,
}

/// Watches into a store. `on_change` runs after each update of the store, on the watching task: it
/// must not block (put keys into a [`crate::WorkQueue`]). Dropping the task ends the watch.
pub fn reflect<K, F>(api: Api<K>, selectors: Selectors, mut on_change: F) -> (Store<K>, Task)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    F: FnMut(Updated<'_, K>) + Send + 'static,
{
    let store = Store::default();
    let mirror = store.clone();
    let task = Task::spawn(async move {
        let mut changes = std::pin::pin!(watch(api, selectors));
        while let Some(change) = changes.next().await {
            match change {
                Change::Applied(object) => {
                    let key = Key::of(&*object);
                    let old = mirror.insert(Arc::clone(&object));
                    on_change(Updated {
                        key: &key,
                        old: old.as_ref(),
                        new: Some(&object),
                    });
                }
                Change::Deleted(key) => {
                    let old = mirror.remove(&key);
                    on_change(Updated {
                        key: &key,
                        old: old.as_ref(),
                        new: None,
                    });
                }
                Change::InitDone => mirror.mark_synced(),
            }
        }
    });
    (store, task)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(namespace: &str, name: &str) -> Arc<ConfigMap> {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.metadata.namespace = Some(namespace.to_owned());
        Arc::new(object)
    }

    #[test]
    fn a_namespace_listing_holds_only_its_objects() {
        let store = Store::default();
        for (namespace, name) in [("a", "x"), ("b", "x"), ("b", "y"), ("bb", "z")] {
            store.insert(object(namespace, name));
        }
        let names: Vec<_> = store
            .in_namespace("b")
            .iter()
            .map(|o| Key::of(&**o).to_string())
            .collect();
        assert_eq!(names, ["b/x", "b/y"]);
    }

    #[tokio::test]
    async fn until_sees_an_object_that_comes_later() {
        let store = Store::default();
        let other = store.clone();
        let wait = tokio::spawn(async move { other.until(|s| s.find("a", "x")).await });
        store.insert(object("a", "y"));
        store.insert(object("a", "x"));
        let found = wait.await.expect("task ends");
        assert_eq!(found.metadata.name.as_deref(), Some("x"));
    }
}
