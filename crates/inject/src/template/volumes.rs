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

pub(super) fn mounts(role: &str) -> Value {
    let wanted = MOUNTS
        .iter()
        .filter(|(_, volume)| role == "sidecar" || *volume != REVOKED);
    wanted
        .map(|(path, volume)| json!({"mountPath": path, "name": volume}))
        .collect()
}

pub(super) fn gateway(_: &Context<'_>) -> Value {
    Value::Array(shared())
}

pub(super) fn sidecar(_: &Context<'_>) -> Value {
    let mut volumes = shared();
    volumes.push(json!({"name": REVOKED, "configMap": {"name": "istio-ca-crl", "optional": true}}));
    Value::Array(volumes)
}

fn shared() -> Vec<Value> {
    let field = |path: &str, from: &str| json!({"path": path, "fieldRef": {"fieldPath": from}});
    vec![
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
    ]
}
