//! `/clusters`: limits of each cluster, counters and health of each host.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use meltemi_upstream::breaker::Breaker;
use meltemi_upstream::cluster::Cluster;
use meltemi_upstream::connect::Target;
use meltemi_upstream::host::Host;
use serde_json::{Map, Value, json};

use super::{Dump, DumpKind};
use crate::state::Shared;

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Counters and gauges of a host, sorted by name within their kind.
fn counters(host: &Host) -> [(&'static str, u64); 6] {
    let state = &host.state;
    [
        ("cx_connect_fail", load(&state.cx_connect_fail)),
        ("cx_total", load(&state.cx_total)),
        ("rq_error", load(&state.rq_error)),
        ("rq_success", load(&state.rq_success)),
        ("rq_timeout", load(&state.rq_timeout)),
        ("rq_total", load(&state.rq_total)),
    ]
}

fn gauges(host: &Host) -> [(&'static str, u64); 3] {
    [
        ("cx_active", host.state.cx_active.get().into()),
        ("rq_active", host.state.active.get().into()),
        ("rq_pending_active", 0),
    ]
}

/// The text form.
pub(super) fn text(shared: &Shared, dump: &Dump) -> String {
    let mut out = String::new();
    for cluster in shared.clusters.all() {
        let name = &cluster.config.name;
        let mut line = |rest: String| {
            let _ = writeln!(out, "{name}::{rest}");
        };
        line(format!("observability_name::{}", cluster.stat_name()));
        if cluster.config.outlier.is_some() {
            for prefix in ["", "local_origin_"] {
                line(format!("outlier::{prefix}success_rate_average::-1"));
                line(format!(
                    "outlier::{prefix}success_rate_ejection_threshold::-1"
                ));
            }
        }
        for (priority, high) in [("default", false), ("high", true)] {
            for (limit, value) in limits(cluster.breaker(high)) {
                line(format!("{priority}_priority::{limit}::{value}"));
            }
        }
        let by_api = !dump.is_from_file(DumpKind::Cluster, name);
        line(format!("added_via_api::{by_api}"));
        for host in cluster.hosts.load().all() {
            for (key, value) in host_facts(host) {
                line(format!("{}::{key}::{value}", host.target));
            }
        }
    }
    out
}

fn limits(breaker: &Breaker) -> [(&'static str, u32); 4] {
    let limits = &breaker.limits;
    [
        ("max_connections", limits.max_connections),
        ("max_pending_requests", limits.max_pending),
        ("max_requests", limits.max_requests),
        ("max_retries", limits.max_retries),
    ]
}

fn host_facts(host: &Host) -> Vec<(&'static str, String)> {
    let (external, local) = host.state.outlier.success_rates();
    let mut numbers: Vec<_> = counters(host).into_iter().chain(gauges(host)).collect();
    numbers.sort_unstable();
    let numbers = numbers.into_iter();
    let mut facts: Vec<_> = numbers
        .map(|(name, value)| (name, value.to_string()))
        .collect();
    facts.extend([
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
    ]);
    facts
}

/// `/clusters?format=json`, as `istioctl proxy-config endpoints` reads it.
pub(super) fn json(shared: &Shared, dump: &Dump) -> Value {
    let all: Vec<Value> = shared
        .clusters
        .all()
        .iter()
        .map(|cluster| one(cluster, dump))
        .collect();
    json!({ "cluster_statuses": all })
}

fn one(cluster: &Cluster, dump: &Dump) -> Value {
    let hosts = cluster.hosts.load();
    let hosts: Vec<Value> = hosts.all().iter().map(|host| host_json(host)).collect();
    let thresholds = |high: bool| {
        let mut fields: Map<String, Value> = limits(cluster.breaker(high))
            .into_iter()
            .map(|(limit, value)| (limit.to_owned(), value.into()))
            .collect();
        if high {
            fields.insert("priority".to_owned(), "HIGH".into());
        }
        Value::Object(fields)
    };
    let mut status = json!({
        "name": cluster.config.name.as_str(),
        "observability_name": cluster.stat_name().as_str(),
        "circuit_breakers": {"thresholds": [thresholds(false), thresholds(true)]},
    });
    // Empty lists and false are not printed, as everywhere in protobuf's JSON.
    if !hosts.is_empty() {
        status["host_statuses"] = hosts.into();
    }
    if !dump.is_from_file(DumpKind::Cluster, &cluster.config.name) {
        status["added_via_api"] = true.into();
    }
    status
}

fn host_json(host: &Host) -> Value {
    let address = match &host.target {
        Target::Tcp(address) => {
            json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
        }
        Target::Unix(path) => json!({"pipe": {"path": path.as_str()}}),
    };
    let stat = |name: &str, value: u64, gauge: bool| {
        let mut fields = json!({ "name": name });
        if gauge {
            fields["type"] = "GAUGE".into();
        }
        if value > 0 {
            fields["value"] = value.to_string().into();
        }
        fields
    };
    let mut stats: Vec<Value> = counters(host)
        .into_iter()
        .map(|(name, value)| stat(name, value, false))
        .collect();
    stats.extend(gauges(host).map(|(name, value)| stat(name, value, true)));
    let health = if host.endpoint.health.is_unhealthy() {
        "UNHEALTHY"
    } else if host.is_degraded() {
        "DEGRADED"
    } else {
        "HEALTHY"
    };
    let mut health = json!({ "eds_health_status": health });
    if host.state.outlier.is_ejected() {
        health["failed_outlier_check"] = true.into();
    }
    let locality = [
        ("region", &host.locality.region),
        ("zone", &host.locality.zone),
        ("sub_zone", &host.locality.sub_zone),
    ];
    let locality: Map<String, Value> = locality
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value.as_str().into()))
        .collect();
    let mut status = json!({
        "address": address,
        "stats": stats,
        "health_status": health,
        "weight": host.endpoint.weight,
        "locality": locality,
    });
    if !host.endpoint.hostname.is_empty() {
        status["hostname"] = host.endpoint.hostname.as_str().into();
    }
    if host.priority > 0 {
        status["priority"] = host.priority.into();
    }
    status
}
