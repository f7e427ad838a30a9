//! Endless watches: list, follow, resume, and say what disappeared meanwhile.
//!
//! kube-runtime's watcher resumes from the last resource version and lists anew after 410. This
//! adds what its users need anyway: deletions that happened while the watch was down are reported
//! as [`Change::Deleted`], and errors are logged and retried with back-off, never returned.

use std::collections::BTreeSet;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as kube_watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;

/// Namespace and name of an object; the namespace is empty for cluster-scoped kinds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace, or empty.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Key {
    /// The key of `name` in `namespace` (empty: cluster-scoped).
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        )
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.namespace {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// Which objects to watch, in Kubernetes' selector syntax; empty selects everything.
#[derive(Debug, Clone, Default)]
pub struct Selectors {
    /// Label selector.
    pub labels: String,
    /// Field selector.
    pub fields: String,
}

impl Selectors {
    /// Objects with these labels.
    pub fn labels(labels: impl Into<String>) -> Self {
        Self {
            labels: labels.into(),
            fields: String::new(),
        }
    }

    /// Objects with these fields.
    pub fn fields(fields: impl Into<String>) -> Self {
        Self {
            labels: String::new(),
            fields: fields.into(),
        }
    }
}

/// One step of a watch.
#[derive(Debug, Clone)]
pub enum Change<K> {
    /// The object exists with this content.
    Applied(Arc<K>),
    /// The object is gone; also reported for what vanished while the watch was down.
    Deleted(Key),
    /// Everything that exists has been reported once. Comes again after a new list.
    InitDone,
}

/// Watches everything that `api` and `selectors` name, forever. Managed fields are dropped, since
/// nobody here reads them and they are a third of an object.
pub fn watch<K>(api: Api<K>, selectors: Selectors) -> impl Stream<Item = Change<K>> + Send + 'static
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let mut config = watcher::Config::default();
    if !selectors.labels.is_empty() {
        config = config.labels(&selectors.labels);
    }
    if !selectors.fields.is_empty() {
        config = config.fields(&selectors.fields);
    }
    let what = api.resource_url().to_owned();
    let mut known = Known::default();
    let mut failures = 0u32;
    kube_watcher(api, config)
        .backoff(RetryDelay::default())
        .flat_map(move |event| {
            stream::iter(match event {
                Ok(event) => {
                    failures = 0;
                    known.step(event)
                }
                Err(error) => {
                    failures += 1;
                    report(&what, failures, &error);
                    Vec::new()
                }
            })
        })
}

/// An API server that restarts is no news; one that stays away is, now and then.
fn report(resource: &str, failures: u32, error: &watcher::Error) {
    if failures.is_multiple_of(5) {
        tracing::warn!(resource, failures, %error, "watch interrupted, retrying");
    } else {
        tracing::debug!(resource, %error, "watch interrupted, retrying");
    }
}

/// The keys reported so far, and those of the list under way.
#[derive(Default)]
struct Known {
    reported: BTreeSet<Key>,
    listing: Option<BTreeSet<Key>>,
}

impl Known {
    fn step<K: Resource>(&mut self, event: Event<K>) -> Vec<Change<K>> {
        match event {
            Event::Init => {
                self.listing = Some(BTreeSet::new());
                Vec::new()
            }
            Event::InitApply(object) | Event::Apply(object) => vec![self.applied(object)],
            Event::Delete(object) => {
                let key = Key::of(&object);
                self.reported.remove(&key);
                vec![Change::Deleted(key)]
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                let gone: Vec<Key> = self.reported.difference(&listed).cloned().collect();
                self.reported = listed;
                gone.into_iter()
                    .map(Change::Deleted)
                    .chain([Change::InitDone])
                    .collect()
            }
        }
    }

    fn applied<K: Resource>(&mut self, mut object: K) -> Change<K> {
        object.meta_mut().managed_fields = None;
        let key = Key::of(&object);
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
        self.reported.insert(key);
        Change::Applied(Arc::new(object))
    }
}

/// Delays between attempts: 0.2 s doubling to 10 s. Shorter than client-go's 0.8..30 s, because an
/// API server that restarts on the same machine is back within a second.
#[derive(Debug, Default)]
struct RetryDelay {
    attempts: u32,
}

impl Iterator for RetryDelay {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = Duration::from_millis(200) * 2u32.pow(self.attempts.min(6));
        self.attempts = self.attempts.saturating_add(1);
        Some(delay.min(Duration::from_secs(10)))
    }
}

impl Backoff for RetryDelay {
    fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.metadata.namespace = Some("ns".to_owned());
        object
    }

    fn text(changes: &[Change<ConfigMap>]) -> Vec<String> {
        changes
            .iter()
            .map(|change| match change {
                Change::Applied(object) => format!("+{}", Key::of(&**object)),
                Change::Deleted(key) => format!("-{key}"),
                Change::InitDone => "done".to_owned(),
            })
            .collect()
    }

    #[test]
    fn objects_that_vanished_during_an_outage_are_reported_as_deleted() {
        let mut known = Known::default();
        for event in [
            Event::Init,
            Event::InitApply(object("a")),
            Event::InitApply(object("b")),
            Event::InitDone,
        ] {
            known.step(event);
        }
        known.step(Event::Apply(object("c")));
        known.step(Event::<ConfigMap>::Init);
        known.step(Event::InitApply(object("b")));
        assert_eq!(
            text(&known.step(Event::InitDone)),
            ["-ns/a", "-ns/c", "done"]
        );
    }

    #[test]
    fn a_deleted_object_is_not_reported_again() {
        let mut known = Known::default();
        known.step(Event::Apply(object("a")));
        assert_eq!(text(&known.step(Event::Delete(object("a")))), ["-ns/a"]);
        known.step(Event::<ConfigMap>::Init);
        assert_eq!(text(&known.step(Event::InitDone)), ["done"]);
    }

    #[test]
    fn retry_delays_grow_and_stop_growing() {
        let delays: Vec<u128> = RetryDelay::default()
            .take(9)
            .map(|d| d.as_millis())
            .collect();
        assert_eq!(
            delays,
            [200, 400, 800, 1600, 3200, 6400, 10000, 10000, 10000]
        );
    }
}
