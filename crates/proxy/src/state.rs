//! What the whole process shares: clusters, listeners, routes, secrets, counters, and the signals that end it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use http::header::HeaderValue;
use meltemi_filters::istio::peer;
use meltemi_telemetry::istio::{DEFAULT_MAX_SERIES, Metrics, PeerCache, WorkloadMetadata};
use meltemi_traffic::Str;
use meltemi_traffic::route::RouteTable;
use meltemi_traffic::statistics::Statistics;
use meltemi_upstream::connect::SocketDefaults;
use meltemi_upstream::manager::ClusterManager;
use meltemi_upstream::tls::SecretStore;
use meltemi_wire::peer_exchange;
use meltemi_xds::ResourceType;
use tokio::sync::{Notify, watch};

use crate::discovery::demand::Demand;
use crate::drain::Sequences;
use crate::export::Exports;
use crate::listener::Listeners;
use crate::logs::LogSinks;
use crate::overload::Overload;
use crate::stats::Stats;
use crate::worker::Inboxes;

/// Who this proxy is, for statistics, metadata exchange and the admin port.
#[derive(Debug, Clone, Default)]
pub struct NodeIdentity {
    /// xDS node id.
    pub id: Str,
    /// xDS node cluster.
    pub cluster: Str,
    /// Zone of the node.
    pub zone: Str,
    /// The whole `core.v3.Node`, encoded, for services that want it.
    pub message: Bytes,
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
    /// The same for TCP peers, with its frame.
    pub preamble: Bytes,
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
            preamble: peer_exchange::frame(&peer::encode_preamble(&node.id, &workload)).into(),
            workload,
        }
    }
}

/// What access logs can say of the process.
#[derive(Debug)]
pub(crate) struct ProcessFacts {
    /// Environment variables.
    pub environment: Vec<(Str, Str)>,
    /// This host's name.
    pub hostname: Str,
    /// The address that the host speaks from.
    pub address: IpAddr,
    /// Names, labels and buckets of statistics; without it names are as Istio's bootstrap asks for.
    pub statistics: Option<Statistics>,
}

impl ProcessFacts {
    /// The facts of this process; the environment is the binary's to read.
    pub(crate) fn new(environment: Vec<(Str, Str)>, statistics: Option<Statistics>) -> Self {
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            environment,
            statistics,
            hostname: hostname.trim().into(),
            address: own_address().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        }
    }
}

impl Default for ProcessFacts {
    fn default() -> Self {
        Self::new(Vec::new(), None)
    }
}

/// The source address that the system would choose for the world; nothing is sent for it.
fn own_address() -> Option<IpAddr> {
    /// TEST-NET-1: an address that nobody has.
    const NOBODY: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(NOBODY).ok()?;
    Some(socket.local_addr().ok()?.ip())
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
    /// What is shed under pressure.
    pub overload: Arc<Overload>,
    /// Workers, for connections that are spread evenly.
    pub inboxes: Inboxes,
    /// Access logs.
    pub logs: LogSinks,
    /// Log entries and spans on their way to collectors.
    pub exports: Exports,
    /// What access logs can say of the process.
    pub process: ProcessFacts,
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
    /// Names that requests ask for.
    pub demand: Demand,
    /// Somebody asked the process to end.
    pub quit: Notify,
    /// Drain sequences that were begun.
    pub sequences: Sequences,
    /// Somebody asked to fail health checks: answers end their connections until it is taken back.
    pub health_failed: AtomicBool,
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
        process: ProcessFacts,
        sockets: SocketDefaults,
        concurrency: usize,
    ) -> Arc<Self> {
        let secrets = Arc::<SecretStore>::default();
        let identity = OwnIdentity::of(&node);
        let clusters = ClusterManager::new(Arc::clone(&secrets));
        clusters.use_sockets(sockets);
        Arc::new(Self {
            clusters,
            listeners: Listeners::new(concurrency),
            routes: Routes::default(),
            secrets,
            stats: Stats::default(),
            overload: Arc::default(),
            inboxes: Inboxes::new(concurrency),
            logs: LogSinks::default(),
            exports: Exports::default(),
            istio: Metrics::new(identity.workload.clone(), DEFAULT_MAX_SERIES),
            peers: PeerCache::default(),
            identity,
            process,
            node,
            principal: ArcSwapOption::empty(),
            sockets,
            started: Instant::now(),
            concurrency,
            updates: Updates::default(),
            demand: Demand::default(),
            quit: Notify::new(),
            sequences: Sequences::default(),
            health_failed: AtomicBool::new(false),
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

/// Route configurations by the key of their references.
#[derive(Debug, Default)]
pub(crate) struct Routes(ArcSwap<AHashMap<Str, Arc<RouteTable>>>);

impl Routes {
    /// A route configuration.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<RouteTable>> {
        self.0.load().get(name).cloned()
    }

    /// Adds, replaces and removes, as one change.
    pub(crate) fn apply(&self, tables: Vec<(Str, Arc<RouteTable>)>, removed: &[Str]) {
        let mut map = AHashMap::clone(&self.0.load());
        for name in removed {
            map.remove(name);
        }
        map.extend(tables);
        self.0.store(Arc::new(map));
    }
}

/// Configuration updates by kind.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    /// CDS.
    pub clusters: Subscription,
    /// LDS.
    pub listeners: Subscription,
    /// EDS.
    pub endpoints: Subscription,
    /// RDS and VHDS.
    pub routes: Subscription,
    /// SDS.
    pub secrets: Subscription,
    /// ECDS.
    pub extensions: Subscription,
    connected: AtomicBool,
}

impl Updates {
    /// The counters of a type of resource.
    pub(crate) fn of(&self, kind: &ResourceType) -> &Subscription {
        match kind {
            ResourceType::Cluster => &self.clusters,
            ResourceType::Listener => &self.listeners,
            ResourceType::Endpoint => &self.endpoints,
            ResourceType::Route | ResourceType::VirtualHost => &self.routes,
            ResourceType::Secret => &self.secrets,
            ResourceType::ExtensionConfig | ResourceType::NameTable | ResourceType::Other(_) => {
                &self.extensions
            }
        }
    }

    /// The aggregated stream came up or broke.
    pub(crate) fn set_connected(&self, up: bool) {
        self.connected.store(up, Ordering::Relaxed);
    }

    /// `control_plane.connected_state`.
    pub(crate) fn connected_state(&self) -> u64 {
        u64::from(self.connected.load(Ordering::Relaxed))
    }
}

/// Counters of one subscription, as Envoy has them.
#[derive(Debug, Default)]
pub(crate) struct Subscription {
    attempts: AtomicU64,
    success: AtomicU64,
    rejected: AtomicU64,
    failures: AtomicU64,
    timeouts: AtomicU64,
    version: AtomicU64,
}

impl Subscription {
    /// An update was taken or refused.
    pub(crate) fn done(&self, taken: bool, version: &str) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        let counter = if taken { &self.success } else { &self.rejected };
        counter.fetch_add(1, Ordering::Relaxed);
        if taken {
            let hash = meltemi_traffic::hash::xx64(version.as_bytes(), 0);
            self.version.store(hash, Ordering::Relaxed);
        }
    }

    /// The source could not be reached or read.
    pub(crate) fn failed(&self) {
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// The first answer did not come in time.
    pub(crate) fn timed_out(&self) {
        self.timeouts.fetch_add(1, Ordering::Relaxed);
    }

    /// Names and values.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&'static str, u64)) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        each("update_attempt", load(&self.attempts));
        each("update_success", load(&self.success));
        each("update_rejected", load(&self.rejected));
        each("update_failure", load(&self.failures));
        each("init_fetch_timeout", load(&self.timeouts));
        each("version", load(&self.version));
    }
}
