//! Prints what the compiled configuration of a mesh of N services takes: `mesh_memory 10000`.

use std::io::Write as _;

use meltemi_compile::{assignment, cluster, route_table};
use meltemi_proto::json;
use meltemi_traffic::RuntimeConfig;
use prost::{Message, Name};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

fn read<M: Message + Name + Default>(value: &Value) -> Result<M, Failure> {
    Ok(json::parse(value)?)
}

/// Resident memory in KiB.
fn resident() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .ok_or("no VmRSS")?;
    Ok(line
        .split_ascii_whitespace()
        .nth(1)
        .ok_or("no number")?
        .parse()?)
}

fn main() -> Result<(), Failure> {
    let count: usize = std::env::args()
        .nth(1)
        .map_or(Ok(1000), |text| text.parse())?;
    let mut out = std::io::stdout();
    let before = resident()?;
    let mut config = RuntimeConfig::default();
    for number in 0..count {
        let name = format!(
            "outbound|80||svc-{number}.ns-{}.svc.cluster.local",
            number % 100
        );
        let tls = json!({ "name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": format!("outbound_.80_._.svc-{number}.ns.svc.cluster.local"),
            "common_tls_context": { "alpn_protocols": ["istio"], "tls_certificate_sds_secret_configs": [{ "name": "default" }],
                "combined_validation_context": { "default_validation_context": { "match_subject_alt_names": [
                    { "exact": format!("spiffe://cluster.local/ns/ns-{}/sa/default", number % 100) }] },
                    "validation_context_sds_secret_config": { "name": "ROOTCA" } } } } });
        let wire = json!({ "name": name, "type": "EDS", "eds_cluster_config": { "eds_config": { "ads": {} } },
            "lb_policy": "LEAST_REQUEST", "connect_timeout": "10s",
            "circuit_breakers": { "thresholds": [{ "max_connections": 4294967295_u32 }] },
            "metadata": { "filter_metadata": { "istio": { "services": [{ "host": name, "name": "a", "namespace": "b" }] } } },
            "transport_socket_matches": [{ "name": "tlsMode-istio", "match": { "tlsMode": "istio" }, "transport_socket": tls },
                { "name": "tlsMode-disabled", "match": {}, "transport_socket": { "name": "envoy.transport_sockets.raw_buffer" } }] });
        config
            .clusters
            .insert(name.as_str().into(), cluster(&read(&wire)?)?);
        let host = json!({ "endpoint": { "address": { "socket_address": { "address": "10.1.2.3", "port_value": 80 } } },
            "metadata": { "filter_metadata": { "istio": { "workload": format!("w-{number};ns;w;v1;Kubernetes") },
                "envoy.transport_socket_match": { "tlsMode": "istio" } } } });
        let hosts =
            json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": [host, host] }] });
        config
            .endpoints
            .insert(name.as_str().into(), assignment(&read(&hosts)?)?);
    }
    let clusters = resident()?;
    let hosts: Vec<Value> = (0..count).map(|number| {
        let host = format!("svc-{number}.ns.svc.cluster.local");
        json!({ "name": format!("{host}:80"), "domains": [host, format!("{host}."), format!("svc-{number}"), format!("svc-{number}.ns"),
            format!("10.96.{}.{}", number / 250, number % 250)], "include_request_attempt_count": true,
          "routes": [{ "name": "default", "match": { "prefix": "/" }, "decorator": { "operation": format!("{host}:80/*") },
            "route": { "cluster": format!("outbound|80||{host}"), "timeout": "0s", "retry_policy": {
                "retry_on": "connect-failure,refused-stream", "num_retries": 2 } } }] })
    }).collect();
    config.routes.insert(
        "80".into(),
        route_table(&read(&json!({ "name": "80", "virtual_hosts": hosts }))?)?,
    );
    drop(hosts);
    let all = resident()?;
    writeln!(
        out,
        "{count} services: clusters and endpoints {} KiB, with routes {} KiB",
        clusters - before,
        all - before
    )?;
    Ok(())
}
