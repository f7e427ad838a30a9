//! `/stats` in its formats: counters of clusters, connection managers, listeners and the process.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use http::StatusCode;
use meltemi_telemetry::envoy::{Scope, Stats};
use meltemi_upstream::cluster::Cluster;
use regex::Regex;
use serde_json::{Value, json};

use super::{Answer, decoded, parameter};
use crate::state::Shared;
use crate::stats::HttpStats;

const FORMATS: &str = "usage: /stats?format=(html|active-html|json|prometheus|text)\n\n";

/// Which statistics are asked for.
struct Wanted {
    filter: Option<Regex>,
    inverted: bool,
    used_only: bool,
    counters: bool,
    gauges: bool,
}

impl Wanted {
    /// Reads the parameters that all formats share.
    fn of(query: &str) -> Result<Self, Answer> {
        let refuse = |text: String| Answer::text(StatusCode::BAD_REQUEST, text);
        let filter = match decoded(query, "filter").filter(|filter| !filter.is_empty()) {
            None => None,
            Some(text) => match Regex::new(&text) {
                Ok(regex) => Some(regex),
                Err(error) => return Err(refuse(format!("Invalid re2 regex: {error}"))),
            },
        };
        let (counters, gauges) = match parameter(query, "type") {
            None | Some("All") => (true, true),
            Some("Counters") => (true, false),
            Some("Gauges") => (false, true),
            Some("Histograms" | "TextReadouts") => (false, false),
            Some(_) => return Err(refuse("invalid &type= param".to_owned())),
        };
        Ok(Self {
            filter,
            inverted: parameter(query, "invert_filter").is_some(),
            used_only: parameter(query, "usedonly").is_some(),
            counters,
            gauges,
        })
    }

    fn takes(&self, name: &str, gauge: bool, value: u64) -> bool {
        let kind = if gauge { self.gauges } else { self.counters };
        let named = self
            .filter
            .as_ref()
            .is_none_or(|filter| filter.is_match(name) != self.inverted);
        kind && named && (!self.used_only || value > 0)
    }
}

/// `/stats`.
pub(super) fn answer(shared: &Shared, query: &str) -> Answer {
    let format = parameter(query, "format").unwrap_or("text");
    let wanted = match Wanted::of(query) {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal,
    };
    let all = all(shared);
    let chosen = all
        .iter()
        .filter(|(name, gauge, value)| wanted.takes(name, *gauge, *value));
    match format {
        "prometheus" => prometheus(shared, query),
        "json" => {
            let stats: Vec<Value> = chosen
                .map(|(name, _, value)| json!({"name": name, "value": value}))
                .collect();
            Answer::json(json!({ "stats": stats }))
        }
        "text" | "html" | "active-html" => {
            let mut lines = String::new();
            for (name, _, value) in chosen {
                let _ = writeln!(lines, "{name}: {value}");
            }
            Answer::text(StatusCode::OK, lines)
        }
        _ => Answer::text(StatusCode::BAD_REQUEST, FORMATS),
    }
}

/// Everything in Prometheus' text format: Istio's metrics, the process's, and Envoy's.
pub(super) fn prometheus(shared: &Shared, query: &str) -> Answer {
    let wanted = match Wanted::of(query) {
        Ok(wanted) => wanted,
        Err(refusal) => return refusal,
    };
    let mut out = String::new();
    if wanted.filter.is_none() {
        shared.istio.render(&mut out);
        meltemi_telemetry::istio::build_info("proxy", env!("CARGO_PKG_VERSION"), &mut out);
        meltemi_telemetry::process::render(&mut out);
    }
    let all = all(shared);
    let used = |name: &str| {
        let mut found = all.iter().filter(|(have, ..)| *have == name);
        found.any(|(name, gauge, value)| wanted.takes(name, gauge, value))
    };
    let everything = wanted.filter.is_none() && !wanted.used_only;
    all.prometheus(
        shared.process.tags,
        |name| everything || used(name),
        &mut out,
    );
    let mut answer = Answer::text(StatusCode::OK, out);
    answer.content_type = meltemi_telemetry::PROMETHEUS_TEXT;
    answer
}

/// Sets all counters to zero; gauges stay.
pub(super) fn reset(shared: &Shared) {
    for cluster in shared.clusters.all() {
        cluster.stats.reset();
        for internal in [true, false] {
            cluster.statuses(internal).reset();
        }
    }
    HttpStats::reset_all();
    crate::http::counted::reset();
}

/// All counters and gauges.
fn all(shared: &Shared) -> Stats {
    let mut stats = Stats::default();
    let clusters = shared.clusters.all();
    for cluster in &clusters {
        cluster_stats(cluster, &mut stats);
    }
    HttpStats::for_each(|name, value| stats.add_dotted(name, value));
    crate::http::counted::for_each(|name, value| stats.add_dotted(name, value));
    meltemi_filters::counters::for_each(|name, value| stats.add_dotted(name.to_owned(), value));
    shared.clusters.for_each_dns_cache(|cache| {
        let scope = format!("dns_cache.{}", cache.settings().name);
        cache.for_each_stat(|name, value| stats.add_dotted(format!("{scope}.{name}"), value));
    });
    let live = u64::from(shared.live.load(Ordering::Acquire));
    let updates = &shared.updates;
    // table: scope, name, value
    let process = [
        ("cluster_manager", "active_clusters", clusters.len() as u64),
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
    stats
}

/// Envoy's number of the process's state.
fn state(shared: &Shared) -> u64 {
    match super::state_name(shared) {
        "LIVE" => 0,
        "DRAINING" => 1,
        _ => 2,
    }
}

fn cluster_stats(cluster: &Cluster, stats: &mut Stats) {
    let scope = Scope::Cluster(cluster.stat_name());
    cluster
        .stats
        .for_each(|name, value| stats.add(scope, name, value));
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
