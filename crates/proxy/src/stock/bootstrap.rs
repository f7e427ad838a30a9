//! The engine's bootstrap: what it knows before the control plane has spoken. A pure function of the agent's
//! configuration.

mod statistics;

use std::path::{Path, PathBuf};

use meltemi_proto::json::print;
use serde_json::{Value, json};

use crate::agent::AgentConfig;

/// SOL_SOCKET and SO_MARK of Linux.
const SOL_SOCKET: u32 = 1;
const SO_MARK: u32 = 36;
/// Requests and connections to agent and control plane are never refused by circuit breakers.
const UNLIMITED: u32 = 100_000;
/// Connections of the whole process: no limit of its own, as the kernel has one.
const MAX_CONNECTIONS: u32 = i32::MAX as u32;
/// Where the agent listens for the engine.
#[derive(Debug, Clone)]
pub(super) struct Sockets {
    pub(super) secrets: PathBuf,
    pub(super) discovery: PathBuf,
}

/// Renders the bootstrap as JSON.
pub(super) fn render(config: &AgentConfig, sockets: &Sockets) -> Value {
    let mut bootstrap = json!({
        "node": node(config),
        "admin": {
            "address": socket("127.0.0.1", config.ports.admin),
            "ignore_global_conn_limit": true,
        },
        "layered_runtime": {"layers": [
            {"name": "global config", "static_layer": {
                "envoy.reloadable_features.http_reject_path_with_fragment": false,
                "re2.max_program_size.error_level": 32768,
            }},
            {"name": "admin", "admin_layer": {}},
        ]},
        "overload_manager": {"resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                "max_active_downstream_connections": MAX_CONNECTIONS,
            },
        }]},
        "stats_config": statistics::config(config),
        "deferred_stat_options": {"enable_deferred_creation_stats": true},
        "cluster_manager": {"enable_deferred_cluster_creation": true},
        "dynamic_resources": dynamic_resources(),
        "static_resources": {
            "clusters": [
                local("prometheus_stats", &socket("127.0.0.1", config.ports.admin)),
                local("agent", &socket("127.0.0.1", config.ports.agent)),
                grpc("sds-grpc", &sockets.secrets),
                grpc("xds-grpc", &sockets.discovery),
            ],
            "listeners": [metrics_listener(config), health_listener(config)],
        },
    });
    if let Some(mark) = config.mark {
        bootstrap["cluster_manager"]["upstream_bind_config"] = json!({"socket_options": [{
            "description": "passes this pod's redirection",
            "level": SOL_SOCKET,
            "name": SO_MARK,
            "int_value": mark,
            "state": "STATE_PREBIND",
        }]});
    }
    bootstrap
}

/// The node of the agent, without what only our own proxy has: the engine adds its own name, version and extensions.
fn node(config: &AgentConfig) -> Value {
    let mut node = config.node();
    node.extensions.clear();
    node.user_agent_name.clear();
    print(&node)
}

fn dynamic_resources() -> Value {
    let source = json!({"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"});
    json!({
        "lds_config": source,
        "cds_config": source,
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": true,
            "grpc_services": [{"envoy_grpc": {
                "cluster_name": "xds-grpc",
                // A control plane that returns should not wait half a minute for its proxies.
                "retry_policy": {"retry_back_off": {"base_interval": "0.25s", "max_interval": "5s"}},
            }}],
        },
    })
}

fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

/// The statistics' own name ends with a semicolon, where [`statistics`] cuts it out of the full name.
fn cluster(name: &str, address: &Value) -> Value {
    json!({
        "name": name,
        "alt_stat_name": format!("{name};"),
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    })
}

/// A page on loopback of the pod.
fn local(name: &str, address: &Value) -> Value {
    let mut cluster = cluster(name, address);
    cluster["connect_timeout"] = json!("0.25s");
    cluster
}

/// A gRPC service of the agent. The pings go through to whom the agent carries the stream, so that a control plane
/// that is gone without a word is noticed.
fn grpc(name: &str, path: &Path) -> Value {
    let mut cluster = cluster(name, &json!({"pipe": {"path": path}}));
    let limits = |priority: &str| {
        json!({
            "priority": priority,
            "max_connections": UNLIMITED,
            "max_pending_requests": UNLIMITED,
            "max_requests": UNLIMITED,
        })
    };
    cluster["circuit_breakers"] = json!({"thresholds": [limits("DEFAULT"), limits("HIGH")]});
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {
                "connection_keepalive": {"interval": "30s", "timeout": "10s"},
            }},
        },
    });
    cluster
}

/// The engine's own metrics, for Prometheus.
fn metrics_listener(config: &AgentConfig) -> Value {
    let filters = [
        compressor("gzip", "gzip.compressor.v3.Gzip"),
        compressor("zstd", "zstd.compressor.v3.Zstd"),
        compressor("brotli", "brotli.compressor.v3.Brotli"),
    ];
    page(
        config,
        config.ports.metrics,
        ("/stats/prometheus", "prometheus_stats"),
        filters.to_vec(),
    )
}

/// Readiness, which the agent decides.
fn health_listener(config: &AgentConfig) -> Value {
    page(
        config,
        config.ports.health,
        ("/healthz/ready", "agent"),
        Vec::new(),
    )
}

/// A listener that serves one path from one cluster.
fn page(
    config: &AgentConfig,
    port: u16,
    (prefix, cluster): (&str, &str),
    mut filters: Vec<Value>,
) -> Value {
    let any = if config.address.is_ipv4() {
        "0.0.0.0"
    } else {
        "::"
    };
    filters.push(json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    }));
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "codec_type": "AUTO",
        "stat_prefix": cluster,
        "route_config": {"virtual_hosts": [{
            "name": "backend",
            "domains": ["*"],
            "routes": [{"match": {"prefix": prefix}, "route": {"cluster": cluster}}],
        }]},
        "http_filters": filters,
    });
    json!({
        "address": socket(any, port),
        "ignore_global_conn_limit": true,
        "bypass_overload_manager": true,
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager,
        }]}],
    })
}

fn compressor(name: &str, library: &str) -> Value {
    json!({
        "name": format!("envoy.filters.http.compressor.{name}"),
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.compressor.v3.Compressor",
            "compressor_library": {
                "name": name,
                "typed_config": {"@type": format!("type.googleapis.com/envoy.extensions.compression.{library}")},
            },
        },
    })
}

#[cfg(test)]
mod tests;
