//! Configuration that Istio's own control plane sent to real proxies compiles.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use meltemi_compile::{assignment, cluster, listener, route_table, secret};
use meltemi_proto::google::protobuf::Any;
use meltemi_proto::json;
use prost::{Message, Name};
use serde_json::Value;

fn shared(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/conformance"
    ))
    .join(path);
    if path.exists() {
        return Some(path);
    }
    println!("SKIPPED: the conformance files are not beside the project");
    None
}

/// Every resource inside a dump, in the order found.
fn resources(value: &Value, out: &mut Vec<Value>) {
    match value {
        Value::Object(fields) => {
            let kind = fields
                .get("@type")
                .and_then(Value::as_str)
                .unwrap_or_default();
            let resource = [
                "listener.v3.Listener",
                "cluster.v3.Cluster",
                "route.v3.RouteConfiguration",
            ]
            .iter()
            .chain(&["endpoint.v3.ClusterLoadAssignment", "tls.v3.Secret"])
            .any(|name| kind.ends_with(name));
            if resource {
                out.push(value.clone());
            } else {
                fields.values().for_each(|inner| resources(inner, out));
            }
        }
        Value::Array(items) => items.iter().for_each(|inner| resources(inner, out)),
        _ => {}
    }
}

fn decode<M: Message + Name + Default>(any: &Any) -> M {
    M::decode(&any.value[..]).unwrap()
}

fn compile(value: &Value) -> Result<(), String> {
    let bytes = json::to_wire("google.protobuf.Any", value).map_err(|e| format!("JSON: {e}"))?;
    let any = Any::decode(&bytes[..]).unwrap();
    let kind = any.type_url.rsplit('.').next().unwrap();
    match kind {
        "Listener" => listener(&decode(&any)).map(|_| ()),
        "Cluster" => cluster(&decode(&any)).map(|_| ()),
        "RouteConfiguration" => route_table(&decode(&any)).map(|_| ()),
        "ClusterLoadAssignment" => assignment(&decode(&any)).map(|_| ()),
        "Secret" => secret(&decode(&any)).map(|_| ()),
        other => unreachable!("{other}"),
    }
    .map_err(|e| e.to_string())
}

fn read(path: &PathBuf) -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Filters of old releases, internal listeners and tunnels of ambient proxies, and a secret whose content the dump
/// leaves out.
const EXPECTED: [&str; 6] = [
    "http.wasm.v3.Wasm is not supported",
    "unknown message io.istio.network.authn.Config",
    "internal_listener: not supported",
    "upgrade_configs[0].connect_config: not supported",
    "tunneling_config.headers_to_add: not supported",
    "a secret needs a content",
];

#[test]
fn resources_of_a_real_sidecars_dump_compile() {
    let mut seen = 0;
    let mut refused = Vec::new();
    for file in [
        "envoy-full.json",
        "envoy-authz-configdump.yaml",
        "envoy-eds.json",
        "envoy-routes-empty-gateway.json",
        "envoy-secret-istio.json",
    ] {
        let Some(path) = shared(&format!("proxy-config/input/{file}")) else {
            return;
        };
        let mut found = Vec::new();
        resources(&read(&path), &mut found);
        for resource in found {
            seen += 1;
            if let Err(reason) = compile(&resource)
                && !EXPECTED.iter().any(|expected| reason.contains(expected))
            {
                refused.push(format!(
                    "{file}: {} {}: {reason}",
                    resource["@type"], resource["name"]
                ));
            }
        }
    }
    println!("{seen} resources, {} refused", refused.len());
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn authorization_filters_as_istio_writes_them_compile() {
    for kind in ["http", "tcp"] {
        let Some(dir) = shared(&format!("authz/{kind}")) else {
            return;
        };
        let mut seen = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if !path.file_stem().unwrap().to_string_lossy().contains("-out") {
                continue;
            }
            let filter = read(&path);
            let any = if filter.get("typedConfig").is_some() {
                &filter["typedConfig"]
            } else {
                &filter["typed_config"]
            };
            if !any["@type"].as_str().unwrap_or_default().ends_with("RBAC") {
                continue;
            }
            seen += 1;
            let wrapped = wrap(kind, &filter);
            compile(&wrapped).unwrap_or_else(|reason| unreachable!("{}: {reason}", path.display()));
        }
        assert!(seen > 0);
    }
}

/// A listener around one filter.
fn wrap(kind: &str, filter: &Value) -> Value {
    let chain = if kind == "tcp" {
        serde_json::json!({ "filters": [filter, { "name": "tcp", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "t", "cluster": "c" } }] })
    } else {
        serde_json::json!({ "filters": [{ "name": "hcm", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "s", "route_config": { "name": "r" },
            "http_filters": [filter, { "name": "router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }] } }] })
    };
    serde_json::json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "l", "address": { "socket_address": { "address": "0.0.0.0", "port_value": 1 } },
        "filter_chains": [chain]
    })
}
