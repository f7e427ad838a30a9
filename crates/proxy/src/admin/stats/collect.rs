//! Everything that the process counts, gathered when somebody asks.

use std::sync::atomic::Ordering;

use meltemi_telemetry::distribution::Histogram;
use meltemi_telemetry::envoy::{Scope, Stats};
use meltemi_upstream::cluster::Cluster;

use crate::state::Shared;
use crate::stats::{HttpStats, ListenerStats, TcpStats};

/// All counters, gauges and histograms that the configuration keeps.
pub(super) fn all(shared: &Shared) -> Stats {
    let mut stats = Stats::default();
    for_each_histogram(shared, &mut |scope, name, histogram| {
        stats.add_histogram(scope, name, histogram);
    });
    let clusters = shared.clusters.all();
    for cluster in &clusters {
        cluster_stats(cluster, &mut stats);
    }
    HttpStats::all(|prefix, of| {
        of.for_each(|name, value| stats.add(Scope::Http(prefix), name, value));
    });
    TcpStats::all(|prefix, of| {
        of.for_each(|name, value| stats.add(Scope::Tcp(prefix), name, value));
    });
    ListenerStats::all(|address, of| {
        of.for_each(|name, value| stats.add(Scope::Listener(address), name, value));
    });
    crate::http::counted::for_each(|name, value| stats.add_dotted(name, value));
    shared.clusters.for_each_dns_cache(|cache| {
        let scope = format!("dns_cache.{}", cache.settings().name);
        cache.for_each_stat(|name, value| stats.add_dotted(format!("{scope}.{name}"), value));
    });
    meltemi_filters::counters::for_each(|name, value| stats.add_dotted(name.to_owned(), value));
    process_stats(shared, clusters.len(), &mut stats);
    if let Some(statistics) = &shared.process.statistics {
        stats.keep(|name| statistics.keeps(name));
    }
    stats
}

/// Counters and gauges of the process as a whole.
fn process_stats(shared: &Shared, clusters: usize, stats: &mut Stats) {
    let live = u64::from(shared.live.load(Ordering::Acquire));
    let updates = &shared.updates;
    // table: scope, name, value
    let process = [
        ("cluster_manager", "active_clusters", clusters as u64),
        (
            "cluster_manager",
            "warming_clusters",
            shared.clusters.warming().len() as u64,
        ),
        (
            "listener_manager",
            "total_listeners_active",
            shared.listeners.table().listeners.len() as u64,
        ),
        ("listener_manager", "workers_started", live),
        (
            "control_plane",
            "connected_state",
            updates.connected_state(),
        ),
        ("server", "concurrency", shared.concurrency as u64),
        ("server", "live", live),
        ("server", "state", state(shared)),
        ("server", "total_connections", shared.stats.active()),
        ("server", "uptime", shared.uptime().as_secs()),
    ];
    for (scope, name, value) in process {
        stats.add(Scope::Process(scope), name, value);
    }
    let subscriptions = [
        ("cluster_manager", "cds", &updates.clusters),
        ("listener_manager", "lds", &updates.listeners),
        ("cluster_manager", "eds", &updates.endpoints),
        ("http", "rds", &updates.routes),
        ("server", "sds", &updates.secrets),
        ("server", "ecds", &updates.extensions),
    ];
    for (scope, service, counters) in subscriptions {
        counters.for_each(|name, value| {
            stats.add(Scope::Process(scope), &format!("{service}.{name}"), value);
        });
    }
    for (name, active) in shared.overload.active() {
        let name = format!("envoy.overload_actions.{name}.active");
        stats.add(Scope::Process("overload"), &name, active);
    }
    let all = Scope::Listener("all");
    stats.add(all, "downstream_cx_active", shared.stats.active());
    stats.add(all, "downstream_cx_total", shared.stats.total());
    stats.add(all, "downstream_global_cx_overflow", shared.stats.refused());
    let rejected = shared.overload.rejected.load(Ordering::Relaxed);
    stats.add(all, "downstream_cx_overload_reject", rejected);
    stats.add(all, "downstream_cx_overflow", shared.listeners.refused());
    stats.add(all, "no_filter_chain_match", shared.stats.without_chain());
}

/// Calls `each` with every histogram.
pub(super) fn for_each_histogram(
    shared: &Shared,
    each: &mut dyn FnMut(Scope<'_>, &'static str, &Histogram),
) {
    for cluster in shared.clusters.all() {
        if let Some(recorded) = cluster.recorded() {
            let scope = Scope::Cluster(cluster.stat_name());
            recorded.for_each(|name, histogram| each(scope, name, histogram));
        }
    }
    HttpStats::all(|prefix, of| {
        of.for_each_histogram(|name, histogram| each(Scope::Http(prefix), name, histogram));
    });
    ListenerStats::all(|address, of| {
        of.for_each_histogram(|name, histogram| each(Scope::Listener(address), name, histogram));
    });
}

/// Envoy's number of the process's state.
fn state(shared: &Shared) -> u64 {
    match super::super::state_name(shared) {
        "LIVE" => 0,
        "DRAINING" => 1,
        _ => 2,
    }
}

fn cluster_stats(cluster: &Cluster, stats: &mut Stats) {
    let scope = Scope::Cluster(cluster.stat_name());
    cluster.stats.for_each(|name, value| {
        // Envoy has these only once there was such a response.
        if value > 0 || !name.ends_with("xx") {
            stats.add(scope, name, value);
        }
    });
    cluster.for_each_limit(&mut |name, value| stats.add(scope, name, value));
    let mut answered = 0;
    for (internal, origin) in [(true, "internal"), (false, "external")] {
        cluster.statuses(internal).for_each(|status, count| {
            answered += count;
            stats.add(scope, &format!("upstream_rq_{status}"), count);
            stats.add(scope, &format!("{origin}.upstream_rq_{status}"), count);
            let class = format!("{origin}.upstream_rq_{}xx", status / 100);
            stats.add(scope, &class, count);
            stats.add(scope, &format!("{origin}.upstream_rq_completed"), count);
        });
    }
    stats.add(scope, "upstream_rq_completed", answered);
    let breaker = cluster.breaker(false);
    stats.add(scope, "upstream_rq_active", breaker.requests.get().into());
    stats.add(
        scope,
        "upstream_cx_active",
        breaker.connections.get().into(),
    );
    stats.add(
        scope,
        "upstream_rq_pending_active",
        breaker.pending.get().into(),
    );
    let hosts = cluster.hosts.load();
    let healthy = hosts
        .all()
        .iter()
        .filter(|host| host.health() == meltemi_traffic::endpoint::Health::Healthy)
        .count();
    stats.add(scope, "membership_total", hosts.all().len() as u64);
    stats.add(scope, "membership_healthy", healthy as u64);
    let degraded = hosts.all().iter().filter(|host| host.is_degraded()).count();
    stats.add(scope, "membership_degraded", degraded as u64);
}
