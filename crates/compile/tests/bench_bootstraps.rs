//! The benchmark's Envoy bootstraps are accepted as they are, and a wrong field is refused with its path.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use meltemi_compile::{Refusal, bootstrap};
use meltemi_proto::envoy::config::bootstrap::v3::Bootstrap;
use meltemi_proto::json;
use meltemi_traffic::cluster::{LbPolicy, UpstreamProtocol};
use meltemi_traffic::hcm::{HttpFilterKind, RouteSource};
use meltemi_traffic::listener::Terminal;

fn peers() -> Option<PathBuf> {
    let dir = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/bench/peers"
    ));
    if dir.exists() {
        return Some(dir);
    }
    println!("SKIPPED: the benchmark's files are not beside the project");
    None
}

fn parse(text: &str) -> Result<Bootstrap, json::JsonError> {
    let mut text = text.to_owned();
    for (name, value) in [
        ("ADMIN", "9901"),
        ("PORT", "10000"),
        ("BACKEND", "8081"),
        ("PEER", "10001"),
        ("CERTS", "/certs"),
    ] {
        text = text.replace(&format!("${{{name}}}"), value);
    }
    json::parse(&serde_saphyr::from_str::<serde_json::Value>(&text).unwrap())
}

#[test]
fn every_benchmark_bootstrap_is_accepted() {
    let Some(dir) = peers() else { return };
    for name in ["http", "edge", "sidecar-client", "sidecar-server", "tcp"] {
        let text = std::fs::read_to_string(dir.join(format!("envoy-{name}.yaml"))).unwrap();
        let boot = bootstrap(&parse(&text).unwrap())
            .unwrap_or_else(|e| unreachable!("envoy-{name}.yaml: {e}"));
        assert_eq!(boot.listeners.len(), 1, "{name}");
        assert_eq!(boot.clusters.len(), 1, "{name}");
        assert!(boot.admin.is_some(), "{name}");
    }
}

#[test]
fn the_sidecar_bootstrap_has_its_features() {
    let Some(dir) = peers() else { return };
    let text = std::fs::read_to_string(dir.join("envoy-sidecar-client.yaml")).unwrap();
    let boot = bootstrap(&parse(&text).unwrap()).unwrap();
    let cluster = &boot.clusters[0];
    assert!(matches!(cluster.lb, LbPolicy::LeastRequest(_)));
    assert_eq!(cluster.http.protocol, UpstreamProtocol::Http2);
    assert_eq!(cluster.outlier.unwrap().consecutive_5xx, 5);
    let Terminal::Http(manager) = &boot.listeners[0].chains[0].terminal else {
        unreachable!("an HTTP chain")
    };
    assert!(matches!(manager.filters[0].kind, HttpFilterKind::Fault(_)));
    let RouteSource::Inline(routes) = &manager.routes else {
        unreachable!("inline routes")
    };
    assert_eq!(routes.hosts.len(), 2);
    assert_eq!(routes.hosts[1].routes.len(), 3);
}

fn refusal(text: &str) -> Refusal {
    bootstrap(&parse(text).unwrap()).unwrap_err()
}

#[test]
fn a_field_without_effect_is_refused_with_its_path() {
    let base = r#"
static_resources:
  clusters:
  - name: a
    FIELD
"#;
    let with = |field: &str| refusal(&base.replace("FIELD", field)).to_string();
    assert_eq!(
        with("lrs_server: { self: {} }"),
        "static_resources.clusters[0].lrs_server: not supported"
    );
    assert_eq!(
        with(
            "typed_extension_protocol_options: { x: { '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: { http2_protocol_options: { allow_metadata: true } } } }"
        ),
        "static_resources.clusters[0].typed_extension_protocol_options[x].explicit_http_config.http2_protocol_options.allow_metadata: not supported"
    );
    assert_eq!(
        with("connect_timeout: 0s"),
        "static_resources.clusters[0].connect_timeout: must be greater than 0s"
    );
    assert_eq!(
        with("outlier_detection: { base_ejection_time: 10s, max_ejection_time: 5s }"),
        "static_resources.clusters[0].outlier_detection.max_ejection_time: is less than base_ejection_time"
    );
}

const LISTENER: &str = r#"
static_resources:
  listeners:
  - name: l
    address: { socket_address: { address: 127.0.0.1, port_value: 1 } }
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: s
          route_config: { name: r, virtual_hosts: [{ name: v, domains: ["*"], routes: [ROUTE] }] }
          http_filters: [FILTERS{ name: r, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } }]
"#;

const MANAGER: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";

fn listener_refusal(route: &str, filters: &str) -> String {
    let text = LISTENER.replace("ROUTE", route).replace("FILTERS", filters);
    refusal(&text)
        .to_string()
        .strip_prefix(MANAGER)
        .map_or_else(String::new, str::to_owned)
}

#[test]
fn wrong_routes_and_filters_are_refused_with_their_path() {
    let route = |text: &str| listener_refusal(text, "");
    let ok = r#"{ match: { prefix: "/" }, route: { cluster: a } }"#;
    assert_eq!(
        route(r#"{ match: { safe_regex: { regex: "(" } }, route: { cluster: a } }"#)
            .split(": ")
            .next(),
        Some(".route_config.virtual_hosts[0].routes[0].match.safe_regex.regex")
    );
    assert_eq!(
        route(
            r#"{ match: { prefix: "/" }, route: { cluster: a }, request_headers_to_add: [{ header: { key: x, value: "%NOPE%" } }] }"#
        ),
        ".route_config.virtual_hosts[0].routes[0].request_headers_to_add[0].header.value: unknown command operator NOPE"
    );
    assert_eq!(
        route(
            r#"{ match: { prefix: "/" }, route: { weighted_clusters: { clusters: [{ name: a, weight: 0 }] } } }"#
        ),
        ".route_config.virtual_hosts[0].routes[0].route.weighted_clusters.clusters: the sum of the weights must be from 1 to 4294967295"
    );
    assert_eq!(
        listener_refusal(
            ok,
            r#"{ name: lua, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua } },"#
        ),
        ".http_filters[0].typed_config: HTTP filter envoy.extensions.filters.http.lua.v3.Lua is not supported"
    );
}

#[test]
fn two_chains_with_one_match_are_refused() {
    let text = r#"
static_resources:
  listeners:
  - name: l
    address: { socket_address: { address: 127.0.0.1, port_value: 1 } }
    filter_chains: [{ name: a }, { name: b }]
"#;
    assert_eq!(
        refusal(text).to_string(),
        "static_resources.listeners[0].filter_chains[1]: matches the same connections as filter_chains[0]"
    );
}
