//! Volumes of the proxy and where they are mounted.

use serde_json::{Value, json};

use super::Context;

// table: mount path and volume, in the order in which they are listed.
const MOUNTS: [(&str, &str); 9] = [
    ("/var/run/secrets/workload-spiffe-uds", "workload-socket"),
    ("/var/run/secrets/credential-uds", "credential-socket"),
    (
        "/var/run/secrets/workload-spiffe-credentials",
        "workload-certs",
    ),
    ("/var/run/secrets/istio", "istiod-ca-cert"),
    ("/var/run/secrets/istio/crl", REVOKED),
    ("/var/lib/istio/data", "istio-data"),
    ("/etc/istio/proxy", "istio-envoy"),
    ("/var/run/secrets/tokens", "istio-token"),
    ("/etc/istio/pod", "istio-podinfo"),
];

/// The list of revoked certificates; sidecars only.
const REVOKED: &str = "istio-ca-crl";

/// Another data plane's program, from the node.
const ENGINE: &str = "meltemi-engine";
/// Where it is mounted.
const ENGINE_PATH: &str = "/run/meltemi-engine/envoy";

/// The program that is the data plane instead of our own, as a path in the container; `None` for our own.
pub(super) fn engine<'a>(context: &'a Context<'_>) -> Option<&'a str> {
    let proxy = &context.settings.values.global.proxy;
    let wanted = context
        .annotation("meltemi.io/engine")
        .unwrap_or(&proxy.engine);
    match (wanted, &*proxy.engine_host_path, &*proxy.engine_path) {
        ("envoy", "", "") => Some("envoy"),
        ("envoy", "", path) => Some(path),
        ("envoy", _, _) => Some(ENGINE_PATH),
        _ => None,
    }
}

pub(super) fn mounts(context: &Context<'_>, role: &str) -> Value {
    let wanted = MOUNTS
        .iter()
        .filter(|(_, volume)| role == "sidecar" || *volume != REVOKED);
    let mut mounts: Vec<Value> = wanted
        .map(|(path, volume)| json!({"mountPath": path, "name": volume}))
        .collect();
    if engine(context) == Some(ENGINE_PATH) {
        mounts.push(json!({"mountPath": ENGINE_PATH, "name": ENGINE, "readOnly": true}));
    }
    Value::Array(mounts)
}

pub(super) fn gateway(context: &Context<'_>) -> Value {
    Value::Array(shared(context))
}

pub(super) fn sidecar(context: &Context<'_>) -> Value {
    let mut volumes = shared(context);
    volumes.push(json!({"name": REVOKED, "configMap": {"name": "istio-ca-crl", "optional": true}}));
    Value::Array(volumes)
}

fn shared(context: &Context<'_>) -> Vec<Value> {
    let field = |path: &str, from: &str| json!({"path": path, "fieldRef": {"fieldPath": from}});
    let mut volumes = vec![
        json!({"name": "workload-socket", "emptyDir": {}}),
        json!({"name": "credential-socket", "emptyDir": {}}),
        json!({"name": "workload-certs", "emptyDir": {}}),
        json!({"name": "istio-envoy", "emptyDir": {"medium": "Memory"}}),
        json!({"name": "istio-data", "emptyDir": {}}),
        json!({"name": "istio-podinfo", "downwardAPI": {"items": [
            field("labels", "metadata.labels"),
            field("annotations", "metadata.annotations"),
        ]}}),
        json!({"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": {
            "path": "istio-token",
            "expirationSeconds": 43200,
            "audience": "istio-ca",
        }}]}}),
        json!({"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}}),
    ];
    if engine(context) == Some(ENGINE_PATH) {
        let path = &context.settings.values.global.proxy.engine_host_path;
        volumes.push(json!({"name": ENGINE, "hostPath": {"path": path, "type": "File"}}));
    }
    volumes
}
