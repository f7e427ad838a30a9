//! Active health checks: one task for each host of a cluster that has them, on the runtime that keeps clusters.
//!
//! A check's question and answer are `probe`'s; what an answer means is `traffic::health`'s. Here are the tasks, the
//! flags of the hosts, and the end of a cluster's warming: it serves once every host was checked once.

mod probe;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use meltemi_traffic::cluster::HealthCheck;
use meltemi_traffic::endpoint::Health;
use meltemi_traffic::health::{CheckResult, CheckState};
use tokio::task::JoinSet;

use crate::cluster::Cluster;
use crate::connect::SocketDefaults;
use crate::host::{CheckFlag, Host};
use crate::manager::ClusterManager;
use probe::Prober;

/// Counters of a cluster's checks.
#[derive(Debug, Default)]
pub struct CheckStats {
    attempt: AtomicU64,
    success: AtomicU64,
    failure: AtomicU64,
    network_failure: AtomicU64,
    passive_failure: AtomicU64,
}

impl CheckStats {
    /// Calls `each` with the name and value of every counter.
    pub fn for_each(&self, each: &mut dyn FnMut(&str, u64)) {
        // table: name and counter
        let all = [
            ("attempt", &self.attempt),
            ("success", &self.success),
            ("failure", &self.failure),
            ("network_failure", &self.network_failure),
            ("passive_failure", &self.passive_failure),
        ];
        for (name, counter) in all {
            each(name, counter.load(Ordering::Relaxed));
        }
    }

    pub(crate) fn passive(&self) {
        self.failure.fetch_add(1, Ordering::Relaxed);
        self.passive_failure.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self, result: CheckResult) {
        self.attempt.fetch_add(1, Ordering::Relaxed);
        match result {
            CheckResult::Passed { .. } => &self.success,
            CheckResult::Failed | CheckResult::Retriable => &self.failure,
            CheckResult::Network | CheckResult::TimedOut => {
                self.network_failure.fetch_add(1, Ordering::Relaxed);
                &self.failure
            }
        }
        .fetch_add(1, Ordering::Relaxed);
    }
}

/// Checks the cluster's hosts until the task is aborted: those that come get a task, those that go lose theirs.
pub(crate) async fn keep_checked(
    manager: Weak<ClusterManager>,
    cluster: Arc<Cluster>,
    defaults: SocketDefaults,
) {
    let mut tasks = JoinSet::new();
    let mut running: HashMap<u64, tokio::task::AbortHandle> = HashMap::new();
    let mut changes = cluster.watch_hosts();
    loop {
        changes.borrow_and_update();
        let hosts = cluster.hosts.load_full();
        let present = |id: &u64| hosts.all().iter().any(|host| host.state.id == *id);
        running.retain(|id, task| {
            let stays = present(id);
            if !stays {
                task.abort();
            }
            stays
        });
        for host in hosts.all() {
            if running.contains_key(&host.state.id) || host.endpoint.check.disabled {
                continue;
            }
            let check = check_host(Arc::clone(&cluster), Arc::clone(host), defaults);
            running.insert(host.state.id, tasks.spawn(check));
        }
        drop(hosts);
        wait_for_change(&manager, &cluster, &mut changes).await;
        while tasks.try_join_next().is_some() {}
    }
}

/// Waits for other hosts; on the way notices when all have been checked once.
async fn wait_for_change(
    manager: &Weak<ClusterManager>,
    cluster: &Arc<Cluster>,
    changes: &mut tokio::sync::watch::Receiver<u64>,
) {
    loop {
        if !cluster.warm.load(Ordering::Acquire) && cluster.all_checked() {
            cluster.warm.store(true, Ordering::Release);
            let Some(manager) = manager.upgrade() else {
                return;
            };
            manager.resolved(cluster);
        }
        tokio::select! {
            _ = changes.changed() => return,
            () = cluster.checked_first.notified() => {}
        }
    }
}

async fn check_host(cluster: Arc<Cluster>, host: Arc<Host>, defaults: SocketDefaults) {
    let checks = cluster.config.health_checks.iter();
    let mut all: JoinSet<()> = JoinSet::new();
    for settings in checks {
        all.spawn(check(
            Arc::clone(&cluster),
            Arc::clone(&host),
            settings.clone(),
            defaults,
        ));
    }
    while all.join_next().await.is_some() {}
}

async fn check(
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    settings: HealthCheck,
    defaults: SocketDefaults,
) {
    let mut state = CheckState::default();
    let mut prober = Prober::new(&cluster, &host, &settings, defaults);
    tokio::time::sleep(settings.first_in(fastrand::u64(..))).await;
    loop {
        let asked = tokio::time::timeout(settings.timeout, prober.ask());
        let result = asked.await.unwrap_or(CheckResult::TimedOut);
        if !matches!(result, CheckResult::Passed { .. }) || !settings.reuse_connection {
            prober.close();
        }
        cluster.checks().count(result);
        let failed = host.state.checked.has(CheckFlag::Failed);
        let judged = state.judge(&settings, failed, result);
        apply(&cluster, &host, result, judged.failed);
        let traffic = cluster.stats.cx_total.load(Ordering::Relaxed) > 0;
        let passed = matches!(result, CheckResult::Passed { .. });
        let pause = settings.next_in(passed, judged, traffic, fastrand::u64(..));
        tokio::time::sleep(pause).await;
    }
}

/// Sets the host's flags and tells the cluster when its health is another.
fn apply(cluster: &Cluster, host: &Host, result: CheckResult, failed: bool) {
    let flags = &host.state.checked;
    let first = flags.set(CheckFlag::Unchecked, false);
    let mut changed = flags.set(CheckFlag::Pending, false);
    changed |= flags.set(CheckFlag::Failed, failed);
    if changed && !failed {
        host.state.became_healthy();
    }
    if let CheckResult::Passed { degraded } = result {
        changed |= flags.set(CheckFlag::Degraded, degraded);
        flags.set(CheckFlag::ExcludedByImmediateFailure, false);
        changed |= host.state.outlier.is_ejected()
            && cluster
                .config
                .outlier
                .is_none_or(|outlier| outlier.uneject_on_check)
            && cluster.detector().restore(&host.state.outlier);
    }
    flags.set(
        CheckFlag::TimedOut,
        result == CheckResult::TimedOut && failed,
    );
    if changed {
        let health = host.health();
        tracing::debug!(
            cluster = %cluster.config.name,
            host = %host.target,
            healthy = health != Health::Unhealthy,
            "active check changed a host's health"
        );
        cluster.health_changed(host);
    }
    if first {
        cluster.checked_first.notify_one();
    }
}
