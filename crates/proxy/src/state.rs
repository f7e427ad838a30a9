//! What the whole process shares: clusters, listeners, routes, secrets, counters, and the signals that end it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use arc_swap::{ArcSwap, ArcSwapOption};
use http::header::HeaderValue;
use meltemi_filters::istio::peer;
use meltemi_telemetry::istio::{DEFAULT_MAX_SERIES, Metrics, PeerCache, WorkloadMetadata};
use meltemi_traffic::Str;
use meltemi_traffic::route::RouteTable;
use meltemi_upstream::connect::SocketDefaults;
use meltemi_upstream::manager::ClusterManager;
use meltemi_upstream::tls::SecretStore;
use tokio::sync::{Notify, watch};

use crate::listener::Listeners;
use crate::logs::LogSinks;
use crate::stats::Stats;

/// Who this proxy is, for statistics, metadata exchange and the admin port.
#[derive(Debug, Clone, Default)]
pub struct NodeIdentity {
    /// xDS node id.
    pub id: Str,
    /// xDS node cluster.
    pub cluster: Str,
    /// Name of the pod.
    pub name: Str,
    /// Namespace of the pod.
    pub namespace: Str,
    /// Name of the workload.
    pub workload: Str,
    /// `ISTIO_META_CLUSTER_ID`.
    pub cluster_id: Str,
    /// `ISTIO_META_OWNER`.
    pub owner: Str,
    /// Labels of the pod.
    pub labels: Vec<(Str, Str)>,
}

/// What metadata exchange and metrics say of us, made once.
#[derive(Debug)]
pub(crate) struct OwnIdentity {
    /// The workload.
    pub workload: WorkloadMetadata,
    /// Value of `x-envoy-peer-metadata`.
    pub metadata: HeaderValue,
    /// Value of `x-envoy-peer-metadata-id`.
    pub node_id: HeaderValue,
}

impl OwnIdentity {
    fn of(node: &NodeIdentity) -> Self {
        let label = |key: &str| {
            let found = node
                .labels
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value.as_str());
            found.filter(|value| !value.is_empty())
        };
        let workload = WorkloadMetadata {
            name: node.name.clone(),
            namespace: node.namespace.clone(),
            workload: node.workload.clone(),
            cluster: node.cluster_id.clone(),
            owner: node.owner.clone(),
            ..WorkloadMetadata::default()
        }
        .labelled(label);
        let value = |text: &str| {
            HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
        };
        Self {
            metadata: value(&peer::encode(&workload)),
            node_id: value(&node.id),
            workload,
        }
    }
}

/// Shared state.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Clusters by name.
    pub clusters: Arc<ClusterManager>,
    /// Listeners and their sockets.
    pub listeners: Listeners,
    /// Routes that came by RDS.
    pub routes: Routes,
    /// Secrets that came by SDS.
    pub secrets: Arc<SecretStore>,
    /// Counters.
    pub stats: Stats,
    /// Access logs.
    pub logs: LogSinks,
    /// Who we are.
    pub node: NodeIdentity,
    /// What metadata exchange and metrics say of us.
    pub identity: OwnIdentity,
    /// Istio's standard metrics.
    pub istio: Metrics,
    /// Peers by the text that described them.
    pub peers: PeerCache,
    /// Options of upstream sockets.
    pub sockets: SocketDefaults,
    /// When the process started.
    pub started: Instant,
    /// Number of workers.
    pub concurrency: usize,
    /// Updates taken and refused.
    pub updates: Updates,
    /// Somebody asked the process to end.
    pub quit: Notify,
    /// The first configuration is complete and the workers serve it.
    pub live: AtomicBool,
    principal: ArcSwapOption<Str>,
    drain: watch::Sender<Drain>,
    next_connection: AtomicU64,
}

/// How far the end of the process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Drain {
    /// Serving.
    Off,
    /// Answers end their connections; new connections are still taken.
    Graceful,
    /// Listeners are closed, idle connections too.
    Closing,
    /// Whatever still runs is dropped.
    Forced,
}

impl Shared {
    /// The state of a proxy that has no configuration yet.
    pub(crate) fn new(
        node: NodeIdentity,
        sockets: SocketDefaults,
        concurrency: usize,
    ) -> Arc<Self> {
        let secrets = Arc::<SecretStore>::default();
        let identity = OwnIdentity::of(&node);
        Arc::new(Self {
            clusters: ClusterManager::new(Arc::clone(&secrets)),
            listeners: Listeners::new(concurrency),
            routes: Routes::default(),
            secrets,
            stats: Stats::default(),
            logs: LogSinks::default(),
            istio: Metrics::new(identity.workload.clone(), DEFAULT_MAX_SERIES),
            peers: PeerCache::default(),
            identity,
            node,
            principal: ArcSwapOption::empty(),
            sockets,
            started: Instant::now(),
            concurrency,
            updates: Updates::default(),
            quit: Notify::new(),
            live: AtomicBool::new(false),
            drain: watch::channel(Drain::Off).0,
            next_connection: AtomicU64::new(1),
        })
    }

    /// Our SPIFFE id, once there is a certificate.
    pub(crate) fn own_principal(&self) -> Option<Str> {
        self.principal.load().as_deref().cloned()
    }

    /// Remembers our SPIFFE id.
    pub(crate) fn set_principal(&self, principal: Option<Str>) {
        self.principal.store(principal.map(Arc::new));
    }

    /// A number for the next connection.
    pub(crate) fn connection_id(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    /// Moves the end on; never back.
    pub(crate) fn set_drain(&self, to: Drain) {
        self.drain.send_if_modified(|now| {
            let moved = *now < to;
            *now = (*now).max(to);
            moved
        });
    }

    /// Watches the end.
    pub(crate) fn drain(&self) -> watch::Receiver<Drain> {
        self.drain.subscribe()
    }

    /// How far the end has come.
    pub(crate) fn drain_state(&self) -> Drain {
        *self.drain.borrow()
    }

    /// Time since the start.
    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}

/// Route configurations by name.
#[derive(Debug, Default)]
pub(crate) struct Routes(ArcSwap<AHashMap<Str, Arc<RouteTable>>>);

impl Routes {
    /// A route configuration.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<RouteTable>> {
        self.0.load().get(name).cloned()
    }

    /// Adds, replaces and removes, as one change.
    pub(crate) fn apply(&self, tables: Vec<Arc<RouteTable>>, removed: &[Str]) {
        let mut map = AHashMap::clone(&self.0.load());
        for name in removed {
            map.remove(name);
        }
        for table in tables {
            map.insert(table.name.clone(), table);
        }
        self.0.store(Arc::new(map));
    }
}

/// Configuration updates by kind.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    pub clusters: AtomicU64,
    pub clusters_rejected: AtomicU64,
    pub listeners: AtomicU64,
    pub listeners_rejected: AtomicU64,
}
