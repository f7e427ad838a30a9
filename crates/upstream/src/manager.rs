//! All clusters of the process: adding, replacing, warming, removing, and their background duties.
//!
//! Readers (workers) take one snapshot of the table. A cluster whose hosts come from EDS or DNS stays invisible
//! until the first answer, its previous version keeps serving meanwhile.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet};
use arc_swap::ArcSwap;
use meltemi_traffic::Str;
use meltemi_traffic::cluster::{
    Cluster as ClusterConfig, ClusterKind, DnsCache as DnsCacheSettings,
};
use meltemi_traffic::endpoint::{Address, Assignment};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::balance::AssignmentPolicy;
use crate::cluster::Cluster;
use crate::connect::{SocketDefaults, Target};
use crate::dns_cache::DnsCache;
use crate::health;
use crate::host::Discovered;
use crate::resolve;
use crate::tls::SecretStore;

/// Longest pause between looks at the background duties.
const MAINTENANCE: Duration = Duration::from_secs(1);
/// Shortest one.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// The table of clusters.
#[derive(Debug)]
pub struct ClusterManager {
    clusters: ArcSwap<AHashMap<Str, Arc<Cluster>>>,
    secrets: Arc<SecretStore>,
    started: Instant,
    /// Options of the sockets that active checks use.
    sockets: OnceLock<SocketDefaults>,
    inner: Mutex<Inner>,
    activated: watch::Sender<u64>,
    /// Caches of the dynamic forward proxy, by name.
    dns_caches: Mutex<HashMap<Str, Arc<DnsCache>>>,
}

#[derive(Debug, Default)]
struct Inner {
    warming: HashMap<Str, Arc<Cluster>>,
    /// By key of the reference.
    assignments: HashMap<Str, Arc<Assignment>>,
    resolvers: HashMap<Str, OwnedTask>,
    checkers: HashMap<Str, OwnedTask>,
    swept: HashMap<Str, Duration>,
}

/// A task that ends with its owner.
#[derive(Debug)]
struct OwnedTask(JoinHandle<()>);

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ClusterManager {
    /// An empty table.
    pub fn new(secrets: Arc<SecretStore>) -> Arc<Self> {
        Arc::new(Self {
            clusters: ArcSwap::from_pointee(AHashMap::new()),
            secrets,
            started: Instant::now(),
            sockets: OnceLock::new(),
            inner: Mutex::new(Inner::default()),
            activated: watch::channel(0).0,
            dns_caches: Mutex::default(),
        })
    }

    /// Sets the options of the sockets that active checks use, once.
    pub fn use_sockets(&self, defaults: SocketDefaults) {
        let _ = self.sockets.set(defaults);
    }

    /// A cluster that is ready for traffic.
    pub fn get(&self, name: &str) -> Option<Arc<Cluster>> {
        self.clusters.load().get(name).cloned()
    }

    /// The DNS cache of a name, made with these settings when there is none. Must run inside a tokio runtime.
    pub fn dns_cache(&self, settings: &Arc<DnsCacheSettings>) -> Arc<DnsCache> {
        let mut caches = self.dns_caches.lock();
        if let Some(known) = caches.get(&settings.name) {
            return Arc::clone(known);
        }
        let cache = DnsCache::new(settings);
        caches.insert(settings.name.clone(), Arc::clone(&cache));
        cache
    }

    /// Calls `each` with every DNS cache.
    pub fn for_each_dns_cache(&self, mut each: impl FnMut(&DnsCache)) {
        for cache in self.dns_caches.lock().values() {
            each(cache);
        }
    }

    /// All active clusters, by name.
    pub fn all(&self) -> Vec<Arc<Cluster>> {
        let mut all: Vec<_> = self.clusters.load().values().cloned().collect();
        all.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        all
    }

    /// Names of clusters that wait for their first hosts.
    pub fn warming(&self) -> Vec<Str> {
        self.inner.lock().warming.keys().cloned().collect()
    }

    /// The secrets that TLS contexts read.
    pub fn secrets(&self) -> &Arc<SecretStore> {
        &self.secrets
    }

    /// Adds or replaces clusters and removes others, as one change.
    ///
    /// Must run inside a tokio runtime: DNS clusters start their resolver here.
    pub fn apply(self: &Arc<Self>, configs: Vec<Arc<ClusterConfig>>, removed: &[Str]) {
        let mut inner = self.inner.lock();
        let mut table = AHashMap::clone(&self.clusters.load());
        let mut replaced = Vec::new();
        for name in removed {
            let gone = table.remove(name);
            replaced.extend(gone.clone());
            let gone = inner.warming.remove(name).or(gone);
            // When it comes back it is subscribed to anew, and old endpoints must not serve until then.
            if let Some(service) = gone.as_deref().and_then(eds_key) {
                inner.assignments.remove(service);
            }
            inner.resolvers.remove(name);
            inner.checkers.remove(name);
        }
        for config in configs {
            let old = table
                .get(&config.name)
                .or_else(|| inner.warming.get(&config.name))
                .cloned();
            let cluster = Cluster::new(config, &self.secrets, old.as_deref());
            self.start(&mut inner, &cluster);
            let name = cluster.config.name.clone();
            if cluster.warm.load(Ordering::Acquire) {
                inner.warming.remove(&name);
                replaced.extend(table.insert(name, cluster));
            } else {
                inner.warming.insert(name, cluster);
            }
        }
        self.publish(table, &replaced);
    }

    /// Puts a table into use; the clusters that it replaces serve no more.
    fn publish(&self, table: AHashMap<Str, Arc<Cluster>>, replaced: &[Arc<Cluster>]) {
        self.clusters.store(Arc::new(table));
        for cluster in replaced {
            cluster.retire();
        }
    }

    /// Takes endpoint assignments, each with the key of its references; clusters that waited for them become active,
    /// as one change.
    pub fn set_assignments(&self, assignments: &[(Str, Arc<Assignment>)]) {
        if assignments.is_empty() {
            return;
        }
        let mut inner = self.inner.lock();
        let new: AHashMap<&Str, &Arc<Assignment>> =
            assignments.iter().map(|(key, new)| (key, new)).collect();
        // Arranging the same hosts again would restart their rotation.
        let mut same = AHashSet::new();
        for (key, assignment) in &new {
            let before = inner
                .assignments
                .insert((*key).clone(), Arc::clone(assignment));
            if before.is_some_and(|before| before == **assignment) {
                same.insert(*key);
            }
        }
        let take = |cluster: &Arc<Cluster>, skip: &dyn Fn(&Str) -> bool| {
            let key = eds_key(cluster)?;
            let assignment = new.get(key)?;
            cluster.stats.update_success.fetch_add(1, Ordering::Relaxed);
            if !skip(key) {
                cluster.set_hosts(&literal_hosts(assignment), AssignmentPolicy::of(assignment));
            }
            Some(())
        };
        for cluster in self.clusters.load().values() {
            take(cluster, &|key| same.contains(key));
        }
        let ready: Vec<_> = inner
            .warming
            .values()
            .filter(|cluster| take(cluster, &|_| false).is_some())
            .cloned()
            .collect();
        self.activate(&mut inner, ready);
    }

    /// An assignment with this key has arrived.
    pub fn has_assignment(&self, key: &str) -> bool {
        self.inner.lock().assignments.contains_key(key)
    }

    /// Some cluster waits for its first hosts.
    pub fn is_warming(&self) -> bool {
        !self.inner.lock().warming.is_empty()
    }

    /// Forgets an assignment that EDS removed; the clusters lose their hosts.
    pub fn remove_assignment(&self, key: &str) {
        self.inner.lock().assignments.remove(key);
        for cluster in self.clusters.load().values() {
            if eds_key(cluster).is_some_and(|wanted| wanted == key) {
                cluster.set_hosts(&[], AssignmentPolicy::default());
            }
        }
    }

    /// The time to wait for an assignment is over: clusters that still wait for it become active without hosts.
    pub fn give_up_assignment(&self, key: &str) {
        let mut inner = self.inner.lock();
        let waiting: Vec<_> = inner
            .warming
            .values()
            .filter(|cluster| eds_key(cluster).is_some_and(|wanted| wanted == key))
            .cloned()
            .collect();
        for cluster in &waiting {
            cluster.set_hosts(&[], AssignmentPolicy::default());
        }
        self.activate(&mut inner, waiting);
    }

    /// A cluster that serves or will serve once it has its hosts.
    pub fn knows(&self, name: &str) -> bool {
        self.clusters.load().contains_key(name) || self.inner.lock().warming.contains_key(name)
    }

    /// Tells when a cluster that waited for its hosts has become active.
    pub fn activated(&self) -> watch::Receiver<u64> {
        self.activated.subscribe()
    }

    fn activate(&self, inner: &mut Inner, clusters: Vec<Arc<Cluster>>) {
        if clusters.is_empty() {
            return;
        }
        let mut table = AHashMap::clone(&self.clusters.load());
        let mut replaced = Vec::new();
        for cluster in clusters {
            let name = cluster.config.name.clone();
            inner.warming.remove(&name);
            replaced.extend(table.insert(name, cluster));
        }
        self.publish(table, &replaced);
        self.activated.send_modify(|count| *count += 1);
    }

    fn start(self: &Arc<Self>, inner: &mut Inner, cluster: &Arc<Cluster>) {
        let name = cluster.config.name.clone();
        inner.resolvers.remove(&name);
        inner.checkers.remove(&name);
        if !cluster.config.health_checks.is_empty() {
            let task = tokio::spawn(health::keep_checked(
                Arc::downgrade(self),
                Arc::clone(cluster),
                self.sockets.get().copied().unwrap_or_default(),
            ));
            inner.checkers.insert(name.clone(), OwnedTask(task));
        }
        match &cluster.config.kind {
            ClusterKind::Static => {
                let given = &cluster.config.endpoints;
                cluster.set_hosts(&literal_hosts(given), AssignmentPolicy::of(given));
            }
            ClusterKind::OriginalDst(_) => cluster.set_hosts(&[], AssignmentPolicy::default()),
            ClusterKind::Eds(service) => {
                if let Some(assignment) = inner.assignments.get(&service.key) {
                    cluster.set_hosts(&literal_hosts(assignment), AssignmentPolicy::of(assignment));
                }
            }
            ClusterKind::DynamicForwardProxy(settings) => {
                // Other settings mean another cache; names are looked up anew.
                let known = self.dns_caches.lock().get(&settings.name).cloned();
                if known.is_some_and(|known| *known.settings() != *settings) {
                    self.dns_caches.lock().remove(&settings.name);
                }
                self.dns_cache(settings);
                cluster.set_hosts(&[], AssignmentPolicy::default());
            }
            ClusterKind::StrictDns(dns) | ClusterKind::LogicalDns(dns) => {
                let logical = matches!(cluster.config.kind, ClusterKind::LogicalDns(_));
                let task = tokio::spawn(resolve::keep_resolved(
                    Arc::downgrade(self),
                    Arc::clone(cluster),
                    dns.clone(),
                    logical,
                ));
                inner.resolvers.insert(name, OwnedTask(task));
            }
        }
    }

    /// Called by a resolver after its first answer, good or bad: Envoy does not hold traffic back for a name that
    /// does not exist.
    pub(crate) fn resolved(&self, cluster: &Arc<Cluster>) {
        // Hosts that nobody has checked do not serve yet.
        if !cluster.all_checked() {
            return;
        }
        let mut inner = self.inner.lock();
        let waiting = inner
            .warming
            .get(&cluster.config.name)
            .is_some_and(|waiting| Arc::ptr_eq(waiting, cluster));
        if waiting {
            self.activate(&mut inner, vec![Arc::clone(cluster)]);
        }
    }

    /// Runs sweeps and clean-ups for ever; the owner aborts it.
    pub async fn maintain(self: Arc<Self>) {
        loop {
            let now = self.started.elapsed();
            let mut pause = MAINTENANCE;
            for cluster in self.clusters.load().values() {
                if let Some(due) = self.maintain_cluster(cluster, now) {
                    pause = pause.min(due);
                }
            }
            tokio::time::sleep(pause.max(SHORTEST_PAUSE)).await;
        }
    }

    /// Time until the cluster's next turn; `None` when it has no duties.
    fn maintain_cluster(&self, cluster: &Cluster, now: Duration) -> Option<Duration> {
        let interval = match (&cluster.config.outlier, &cluster.config.kind) {
            (Some(outlier), _) => outlier.interval,
            (None, ClusterKind::OriginalDst(_) | ClusterKind::DynamicForwardProxy(_)) => {
                cluster.config.cleanup_interval
            }
            (None, _) => return None,
        };
        {
            let mut inner = self.inner.lock();
            let name = &cluster.config.name;
            let last = inner.swept.entry(name.clone()).or_insert(now);
            let due = last.saturating_add(interval);
            if now < due {
                return Some(due - now);
            }
            *last = now;
        }
        cluster.sweep_outliers();
        match &cluster.config.kind {
            ClusterKind::OriginalDst(_) => cluster.forget_idle_destinations(),
            ClusterKind::DynamicForwardProxy(settings) => {
                self.dns_cache(settings).forget_unused();
                cluster.forget_idle_destinations();
            }
            _ => {}
        }
        Some(interval)
    }
}

fn eds_key(cluster: &Cluster) -> Option<&Str> {
    match &cluster.config.kind {
        ClusterKind::Eds(service) => Some(&service.key),
        _ => None,
    }
}

/// Where an address is dialled that needs no resolution.
fn literal(address: &Address) -> Option<Target> {
    match address {
        Address::Socket(address) => Some(Target::Tcp(*address)),
        Address::Pipe(path) => Some(Target::Unix(path.clone())),
        Address::Named(..) | Address::Internal(..) => None,
    }
}

/// Hosts of an assignment whose addresses need no resolution.
pub(crate) fn literal_hosts(assignment: &Assignment) -> Vec<Discovered> {
    let groups = assignment.localities.iter();
    groups
        .flat_map(|group| {
            group
                .endpoints
                .iter()
                .map(move |endpoint| (group, endpoint))
        })
        .filter_map(|(group, endpoint)| {
            let target = literal(&endpoint.address)?;
            Some(Discovered {
                identity: target.clone(),
                endpoint: Arc::clone(endpoint),
                target,
                more_targets: endpoint.additional.iter().filter_map(literal).collect(),
                locality: group.locality.clone(),
                priority: group.priority,
                locality_weight: group.weight,
            })
        })
        .collect()
}
