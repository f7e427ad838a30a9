//! Counters, clusters, listeners and certificates as text and JSON.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use meltemi_telemetry::envoy::{Scope, Stats};
use meltemi_traffic::tls::{DataSource, SecretKind};
use meltemi_upstream::cluster::Cluster;
use meltemi_upstream::host::Host;
use serde_json::{Value, json};

use crate::listener::BoundAddress;
use crate::state::Shared;
use crate::stats::HttpStats;

/// All counters and gauges.
pub(super) fn stats(shared: &Shared) -> Stats {
    let mut stats = Stats::default();
    let clusters = shared.clusters.all();
    for cluster in &clusters {
        cluster_stats(cluster, &mut stats);
    }
    HttpStats::for_each(|name, value| stats.add_dotted(name, value));
    meltemi_filters::counters::for_each(|name, value| stats.add_dotted(name.to_owned(), value));
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
        ("server", "state", if live == 1 { 0 } else { 3 }),
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

fn cluster_stats(cluster: &Cluster, stats: &mut Stats) {
    let scope = Scope::Cluster(cluster.stat_name());
    cluster
        .stats
        .for_each(|name, value| stats.add(scope, name, value));
    cluster.for_each_limit(&mut |name, value| stats.add(scope, name, value));
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

/// Everything in Prometheus' text format: Istio's metrics, the process's, and Envoy's.
pub(super) fn prometheus(shared: &Shared) -> String {
    let mut out = String::new();
    shared.istio.render(&mut out);
    meltemi_telemetry::istio::build_info("proxy", env!("CARGO_PKG_VERSION"), &mut out);
    meltemi_telemetry::process::render(&mut out);
    stats(shared).prometheus(|_| true, &mut out);
    out
}

/// `/clusters`.
pub(super) fn clusters(shared: &Shared) -> String {
    let mut out = String::new();
    for cluster in shared.clusters.all() {
        let name = &cluster.config.name;
        let _ = writeln!(out, "{name}::observability_name::{}", cluster.stat_name());
        for (priority, breaker) in [
            ("default", cluster.breaker(false)),
            ("high", cluster.breaker(true)),
        ] {
            let limits = &breaker.limits;
            let _ = writeln!(
                out,
                "{name}::{priority}_priority::max_connections::{}",
                limits.max_connections
            );
            let _ = writeln!(
                out,
                "{name}::{priority}_priority::max_pending_requests::{}",
                limits.max_pending
            );
            let _ = writeln!(
                out,
                "{name}::{priority}_priority::max_requests::{}",
                limits.max_requests
            );
            let _ = writeln!(
                out,
                "{name}::{priority}_priority::max_retries::{}",
                limits.max_retries
            );
        }
        let _ = writeln!(out, "{name}::added_via_api::true");
        for host in cluster.hosts.load().all() {
            for (key, value) in host_facts(host) {
                let _ = writeln!(out, "{name}::{}::{key}::{value}", host.target);
            }
        }
    }
    out
}

fn host_facts(host: &Host) -> Vec<(&'static str, String)> {
    let state = &host.state;
    let (external, local) = state.outlier.success_rates();
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed).to_string();
    vec![
        ("cx_active", state.cx_active.get().to_string()),
        ("cx_connect_fail", load(&state.cx_connect_fail)),
        ("cx_total", load(&state.cx_total)),
        ("rq_active", state.active.get().to_string()),
        ("rq_error", load(&state.rq_error)),
        ("rq_success", load(&state.rq_success)),
        ("rq_timeout", load(&state.rq_timeout)),
        ("rq_total", load(&state.rq_total)),
        ("hostname", host.endpoint.hostname.to_string()),
        ("health_flags", host.health_flags()),
        ("weight", host.endpoint.weight.to_string()),
        ("region", host.locality.region.to_string()),
        ("zone", host.locality.zone.to_string()),
        ("sub_zone", host.locality.sub_zone.to_string()),
        ("canary", "false".to_owned()),
        ("priority", host.priority.to_string()),
        ("success_rate", external.to_string()),
        ("local_origin_success_rate", local.to_string()),
    ]
}

/// `/clusters?format=json`, as `istioctl proxy-config endpoints` reads it.
pub(super) fn clusters_json(shared: &Shared) -> Value {
    let one = |cluster: &Cluster| {
        let hosts: Vec<Value> = cluster
            .hosts
            .load()
            .all()
            .iter()
            .map(|host| host_json(host))
            .collect();
        json!({
            "name": cluster.config.name.as_str(),
            "observability_name": cluster.stat_name().as_str(),
            "added_via_api": true,
            "host_statuses": hosts,
        })
    };
    let all: Vec<Value> = shared
        .clusters
        .all()
        .iter()
        .map(|cluster| one(cluster))
        .collect();
    json!({ "cluster_statuses": all })
}

fn host_json(host: &Host) -> Value {
    let address = match &host.target {
        meltemi_upstream::connect::Target::Tcp(address) => {
            json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
        }
        meltemi_upstream::connect::Target::Unix(path) => json!({"pipe": {"path": path.as_str()}}),
    };
    let health = if host.endpoint.health.is_unhealthy() {
        "UNHEALTHY"
    } else {
        "HEALTHY"
    };
    json!({
        "address": address,
        "health_status": {"eds_health_status": health, "failed_outlier_check": host.state.outlier.is_ejected()},
        "weight": host.endpoint.weight,
        "hostname": host.endpoint.hostname.as_str(),
        "priority": host.priority,
        "locality": {
            "region": host.locality.region.as_str(),
            "zone": host.locality.zone.as_str(),
            "sub_zone": host.locality.sub_zone.as_str(),
        },
    })
}

/// `/listeners`.
pub(super) fn listeners(shared: &Shared) -> String {
    let table = shared.listeners.table();
    let mut out = String::new();
    for (bound, owner) in &table.bound {
        let _ = match &bound.address {
            BoundAddress::Tcp(address) => writeln!(out, "{}::{address}", owner.config.name),
            BoundAddress::Unix(path) => writeln!(out, "{}::{path}", owner.config.name),
        };
    }
    out
}

/// `/listeners?format=json`.
pub(super) fn listeners_json(shared: &Shared) -> Value {
    let table = shared.listeners.table();
    let one = |bound: &BoundAddress| match bound {
        BoundAddress::Tcp(address) => {
            json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
        }
        BoundAddress::Unix(path) => json!({"pipe": {"path": path.as_str()}}),
    };
    let all: Vec<Value> = table
        .bound
        .iter()
        .map(|(bound, owner)| json!({"name": owner.config.name.as_str(), "local_address": one(&bound.address)}))
        .collect();
    json!({ "listener_statuses": all })
}

/// `/certs`.
pub(super) fn certs(shared: &Shared) -> Value {
    let mut certificates = Vec::new();
    for secret in shared.secrets.all() {
        let (key, source) = match &secret.kind {
            SecretKind::Certificate(pair) => ("cert_chain", Some(&pair.chain)),
            SecretKind::Validation(validation) => ("ca_cert", validation.trusted_ca.as_ref()),
            SecretKind::TicketKeys(_) | SecretKind::Generic(_) => continue,
        };
        let Some(DataSource::Inline(pem)) = source else {
            continue;
        };
        let text = String::from_utf8_lossy(pem);
        let Ok(chain) = meltemi_identity::certificates("certificate", &text) else {
            continue;
        };
        let Some(facts) = chain
            .first()
            .and_then(|leaf| meltemi_identity::certificate_facts(leaf).ok())
        else {
            continue;
        };
        let time = |seconds: i64| {
            jiff::Timestamp::from_second(seconds)
                .map(|at| at.to_string())
                .unwrap_or_default()
        };
        let uris: Vec<Value> = facts.uris.iter().map(|uri| json!({ "uri": uri })).collect();
        let days = (facts.not_after - jiff::Timestamp::now().as_second()).max(0) / 86_400;
        certificates.push(json!({ key: [{
            "path": format!("<{}>", secret.name),
            "serial_number": facts.serial,
            "subject_alt_names": uris,
            "days_until_expiration": days.to_string(),
            "valid_from": time(facts.not_before),
            "expiration_time": time(facts.not_after),
        }]}));
    }
    json!({ "certificates": certificates })
}
