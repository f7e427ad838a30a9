//! What is known of one end of a call, shared by all label sets that name it.

use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use ahash::{AHashMap, RandomState};
use meltemi_names::ArcStr;
use parking_lot::Mutex;

/// Keys come from peers, so the seed is the process's own.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// One end of a call, as metadata exchange, endpoint metadata or the own node describes it. Empty means unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct WorkloadMetadata {
    /// Pod or machine (`NAME`).
    pub name: ArcStr,
    /// Namespace (`NAMESPACE`).
    pub namespace: ArcStr,
    /// Workload (`WORKLOAD_NAME`).
    pub workload: ArcStr,
    /// Cluster of machines (`CLUSTER_ID`).
    pub cluster: ArcStr,
    /// Label `app`.
    pub app: ArcStr,
    /// Label `version`.
    pub version: ArcStr,
    /// Canonical service.
    pub canonical_name: ArcStr,
    /// Canonical revision.
    pub canonical_revision: ArcStr,
    /// `kubernetes://apis/apps/v1/namespaces/<ns>/deployments/<name>` (`OWNER`).
    pub owner: ArcStr,
}

impl WorkloadMetadata {
    /// Fills application, version, canonical service and revision from a pod's labels, as Istio derives them.
    #[must_use]
    pub fn labelled<'a>(mut self, label: impl Fn(&str) -> Option<&'a str>) -> Self {
        let first = |keys: &[&str]| keys.iter().find_map(|key| label(key)).map(ArcStr::from);
        self.app = first(&["app"]).unwrap_or_default();
        self.version = first(&["version"]).unwrap_or_default();
        self.canonical_name = first(&[
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
        ])
        .unwrap_or_else(|| self.workload.clone());
        self.canonical_revision = first(&[
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ])
        .unwrap_or_else(|| ArcStr::from("latest"));
        self
    }

    /// Reads the endpoint metadata `workload;namespace;canonical-service;canonical-revision;cluster`; `None` when
    /// parts are missing. It does not tell `app` and `version`.
    #[must_use]
    pub fn from_endpoint(text: &str) -> Option<Self> {
        let mut parts = text.split(';').map(ArcStr::from);
        let (workload, namespace) = (parts.next()?, parts.next()?);
        let (canonical_name, canonical_revision, cluster) =
            (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            workload,
            namespace,
            canonical_name,
            canonical_revision,
            cluster,
            ..Self::default()
        })
    }
}

/// A shared value that knows its hash, so that a label set with long texts is hashed and compared in a few cycles.
#[derive(Debug)]
pub(super) struct Hashed<T> {
    hash: u64,
    value: T,
}

impl<T: Hash> Hashed<T> {
    pub(super) fn new(value: T) -> Arc<Self> {
        Arc::new(Self {
            hash: HASHER.hash_one(&value),
            value,
        })
    }
}

impl<T> Hashed<T> {
    pub(super) fn get(&self) -> &T {
        &self.value
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}

impl<T: PartialEq> Hashed<T> {
    pub(super) fn same(left: &Arc<Self>, right: &Arc<Self>) -> bool {
        Arc::ptr_eq(left, right) || (left.hash == right.hash && left.value == right.value)
    }
}

/// A workload shared by label sets. Equal content is equal, whoever made it.
#[derive(Debug, Clone)]
pub struct Peer(Arc<Hashed<WorkloadMetadata>>);

impl Peer {
    /// Shares a workload.
    #[must_use]
    pub fn new(metadata: WorkloadMetadata) -> Self {
        Self(Hashed::new(metadata))
    }
}

impl From<WorkloadMetadata> for Peer {
    fn from(metadata: WorkloadMetadata) -> Self {
        Self::new(metadata)
    }
}

impl Deref for Peer {
    type Target = WorkloadMetadata;
    fn deref(&self) -> &WorkloadMetadata {
        self.0.get()
    }
}

impl PartialEq for Peer {
    fn eq(&self, other: &Self) -> bool {
        Hashed::same(&self.0, &other.0)
    }
}

impl Eq for Peer {}

impl Hash for Peer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash());
    }
}

/// Peers by the text that described them (`x-envoy-peer-metadata`, endpoint metadata), so that a request costs a
/// lookup and not a decoding. Bounded: when it is full, it starts again.
#[derive(Debug)]
pub struct PeerCache {
    peers: Mutex<AHashMap<Box<[u8]>, Option<Peer>>>,
    capacity: usize,
}

impl PeerCache {
    /// Pods that talk to one workload at a time are far fewer; 1,024 of them take about 1 MB of headers.
    pub const DEFAULT_CAPACITY: usize = 1024;
    /// Longer descriptions are decoded every time, not kept.
    const MAX_TEXT: usize = 4096;

    /// An empty cache.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            peers: Mutex::default(),
            capacity,
        }
    }

    /// The peer that `text` describes; `decode` is called for a text not seen before. Unreadable texts are kept too.
    pub fn get(
        &self,
        text: &[u8],
        decode: impl FnOnce(&[u8]) -> Option<WorkloadMetadata>,
    ) -> Option<Peer> {
        if let Some(known) = self.peers.lock().get(text) {
            return known.clone();
        }
        let peer = decode(text).map(Peer::new);
        if text.len() <= Self::MAX_TEXT {
            let mut peers = self.peers.lock();
            if peers.len() >= self.capacity {
                peers.clear();
            }
            peers.insert(text.into(), peer.clone());
        }
        peer
    }
}

impl Default for PeerCache {
    fn default() -> Self {
        Self::new(Self::DEFAULT_CAPACITY)
    }
}
