//! All clusters of the process: adding, replacing, warming, removing, and their background duties.
//!
//! Readers (workers) take one snapshot of the table. A cluster whose hosts come from EDS or DNS stays invisible
//! until the first answer, its previous version keeps serving meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ahash::AHashMap;
use arc_swap::ArcSwap;
use meltemi_traffic::Str;
use meltemi_traffic::cluster::{Cluster as ClusterConfig, ClusterKind, OutlierDetection};
use meltemi_traffic::endpoint::{Address, Assignment};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use crate::balance::AssignmentPolicy;
use crate::cluster::{Cluster, Discovered, Host};
use crate::connect::Target;
use crate::resolve;
use crate::tls::SecretStore;

/// Period of the background duties; outlier intervals and clean-ups are multiples of it in effect.
const MAINTENANCE: Duration = Duration::from_secs(1);

/// The table of clusters.
#[derive(Debug)]
pub struct ClusterManager {
    clusters: ArcSwap<AHashMap<Str, Arc<Cluster>>>,
    secrets: Arc<SecretStore>,
    started: Instant,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    warming: HashMap<Str, Arc<Cluster>>,
    /// By EDS service name.
    assignments: HashMap<Str, Arc<Assignment>>,
    resolvers: HashMap<Str, OwnedTask>,
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
            inner: Mutex::new(Inner::default()),
        })
    }

    /// A cluster that is ready for traffic.
    pub fn get(&self, name: &str) -> Option<Arc<Cluster>> {
        self.clusters.load().get(name).cloned()
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
        for name in removed {
            let gone = table.remove(name);
            let gone = inner.warming.remove(name).or(gone);
            // When it comes back it is subscribed to anew, and old endpoints must not serve until then.
            if let Some(service) = gone.as_deref().and_then(eds_name) {
                inner.assignments.remove(service);
            }
            inner.resolvers.remove(name);
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
                table.insert(name, cluster);
            } else {
                inner.warming.insert(name, cluster);
            }
        }
        self.clusters.store(Arc::new(table));
    }

    /// Takes an endpoint assignment; clusters that waited for it become active.
    pub fn set_assignment(&self, assignment: Arc<Assignment>) {
        let mut inner = self.inner.lock();
        inner
            .assignments
            .insert(assignment.cluster.clone(), Arc::clone(&assignment));
        for cluster in self.clusters.load().values() {
            if eds_name(cluster) == Some(&assignment.cluster) {
                cluster.stats.update_success.fetch_add(1, Ordering::Relaxed);
                cluster.set_hosts(
                    &literal_hosts(&assignment),
                    AssignmentPolicy::of(&assignment),
                );
            }
        }
        let waiting: Vec<_> = inner
            .warming
            .values()
            .filter(|cluster| eds_name(cluster) == Some(&assignment.cluster))
            .cloned()
            .collect();
        for cluster in waiting {
            cluster.set_hosts(
                &literal_hosts(&assignment),
                AssignmentPolicy::of(&assignment),
            );
            self.activate(&mut inner, cluster);
        }
    }

    /// Forgets an assignment that EDS removed; the clusters lose their hosts.
    pub fn remove_assignment(&self, name: &str) {
        self.inner.lock().assignments.remove(name);
        for cluster in self.clusters.load().values() {
            if eds_name(cluster).is_some_and(|wanted| wanted == name) {
                cluster.set_hosts(&[], AssignmentPolicy::default());
            }
        }
    }

    fn activate(&self, inner: &mut Inner, cluster: Arc<Cluster>) {
        let name = cluster.config.name.clone();
        inner.warming.remove(&name);
        let mut table = AHashMap::clone(&self.clusters.load());
        table.insert(name, cluster);
        self.clusters.store(Arc::new(table));
    }

    fn start(self: &Arc<Self>, inner: &mut Inner, cluster: &Arc<Cluster>) {
        let name = cluster.config.name.clone();
        inner.resolvers.remove(&name);
        match &cluster.config.kind {
            ClusterKind::Static => {
                let given = &cluster.config.endpoints;
                cluster.set_hosts(&literal_hosts(given), AssignmentPolicy::of(given));
            }
            ClusterKind::OriginalDst(_) => cluster.set_hosts(&[], AssignmentPolicy::default()),
            ClusterKind::Eds(service) => {
                if let Some(assignment) = inner.assignments.get(service) {
                    cluster.set_hosts(&literal_hosts(assignment), AssignmentPolicy::of(assignment));
                }
            }
            ClusterKind::StrictDns(dns)
            | ClusterKind::LogicalDns(dns)
            | ClusterKind::DynamicForwardProxy(dns) => {
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
        let mut inner = self.inner.lock();
        let waiting = inner
            .warming
            .get(&cluster.config.name)
            .is_some_and(|waiting| Arc::ptr_eq(waiting, cluster));
        if waiting {
            self.activate(&mut inner, Arc::clone(cluster));
        }
    }

    /// Reports how a request to a host ended; ejects the host when outlier detection says so.
    pub fn report(&self, cluster: &Cluster, host: &Host, status: u16) {
        let counter = if status < 500 {
            &host.state.rq_success
        } else {
            &host.state.rq_error
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let Some(settings) = &cluster.config.outlier else {
            return;
        };
        if !host.state.outlier.report(settings, status) {
            return;
        }
        if self.eject(cluster, settings, host) {
            cluster.rebuild_hosts();
        }
    }

    /// Ejects a host unless too many are ejected already; true when it did.
    fn eject(&self, cluster: &Cluster, settings: &OutlierDetection, host: &Host) -> bool {
        let hosts = cluster.hosts.load();
        let ejected = hosts
            .all()
            .iter()
            .filter(|host| host.state.outlier.is_ejected())
            .count();
        let may = crate::outlier::may_eject(settings, ejected, hosts.all().len());
        if may {
            host.state.outlier.eject(settings, self.started.elapsed());
        }
        may
    }

    /// Brings back hosts whose time is over, then ejects those that stood out in the past interval.
    fn sweep(&self, cluster: &Cluster, settings: &OutlierDetection, now: Duration) {
        let hosts = cluster.hosts.load();
        let mut changed = false;
        for host in hosts.all() {
            changed |= host.state.outlier.sweep(now);
        }
        let counts: Vec<_> = hosts
            .all()
            .iter()
            .map(|host| host.state.outlier.take_interval())
            .collect();
        for position in settings.interval_ejections(&counts, || fastrand::u32(0..100)) {
            let host = &hosts.all()[position];
            changed |= !host.state.outlier.is_ejected() && self.eject(cluster, settings, host);
        }
        if changed {
            cluster.rebuild_hosts();
        }
    }

    /// Runs sweeps and clean-ups for ever; the owner aborts it.
    pub async fn maintain(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(MAINTENANCE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let now = self.started.elapsed();
            for cluster in self.clusters.load().values() {
                self.maintain_cluster(cluster, now);
            }
        }
    }

    fn maintain_cluster(&self, cluster: &Cluster, now: Duration) {
        let interval = match (&cluster.config.outlier, &cluster.config.kind) {
            (Some(outlier), _) => outlier.interval,
            (None, ClusterKind::OriginalDst(_)) => cluster.config.cleanup_interval,
            (None, _) => return,
        };
        {
            let mut inner = self.inner.lock();
            let last = inner
                .swept
                .entry(cluster.config.name.clone())
                .or_insert(now);
            if now < last.saturating_add(interval) {
                return;
            }
            *last = now;
        }
        if let Some(settings) = &cluster.config.outlier {
            self.sweep(cluster, settings, now);
        }
        if matches!(cluster.config.kind, ClusterKind::OriginalDst(_)) {
            cluster.forget_idle_destinations();
        }
    }
}

fn eds_name(cluster: &Cluster) -> Option<&Str> {
    match &cluster.config.kind {
        ClusterKind::Eds(name) => Some(name),
        _ => None,
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
            let target = match &endpoint.address {
                Address::Socket(address) => Target::Tcp(*address),
                Address::Pipe(path) => Target::Unix(path.clone()),
                Address::Named(..) | Address::Internal(..) => return None,
            };
            Some(Discovered {
                endpoint: Arc::clone(endpoint),
                target,
                locality: group.locality.clone(),
                priority: group.priority,
                locality_weight: group.weight,
            })
        })
        .collect()
}
