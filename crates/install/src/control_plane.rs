//! The control plane itself: its Service and its Deployment.

use serde_json::{Value, json};

use crate::Values;
use crate::names::{labels, namespaced, revisioned};

// table: name, container port, Service port.
const PORTS: [(&str, u16, Option<u16>); 5] = [
    ("grpc-xds", 15010, Some(15010)),
    ("https-dns", 15012, Some(15012)),
    ("https-webhook", 15017, Some(443)),
    ("http-monitoring", 15014, Some(15014)),
    ("http-debug", 8080, None),
];

/// Service and Deployment.
pub(crate) fn objects(values: &Values) -> Vec<Value> {
    vec![service(values), deployment(values)]
}

fn selector(values: &Values) -> Value {
    json!({"app": "istiod", "istio.io/rev": values.revision()})
}

fn object_labels(values: &Values) -> Value {
    let mut labels = labels(values, "istiod");
    labels["istio"] = json!("pilot");
    labels
}

fn service(values: &Values) -> Value {
    let name = revisioned(values, "istiod");
    let mut service = namespaced(values, "v1", "Service", &name, &object_labels(values));
    let ports = PORTS.iter().filter_map(|(name, target, port)| {
        port.map(
            |port| json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"}),
        )
    });
    service["spec"] = json!({"ports": ports.collect::<Vec<_>>(), "selector": selector(values)});
    service
}

fn deployment(values: &Values) -> Value {
    let name = revisioned(values, "istiod");
    let mut deployment = namespaced(
        values,
        "apps/v1",
        "Deployment",
        &name,
        &object_labels(values),
    );
    let mut pod_labels = object_labels(values);
    pod_labels["sidecar.istio.io/inject"] = json!("false");
    deployment["spec"] = json!({
        "replicas": 1,
        // The new one is ready before the old one goes.
        "strategy": {"rollingUpdate": {"maxSurge": "100%", "maxUnavailable": "25%"}},
        "selector": {"matchLabels": selector(values)},
        "template": {
            "metadata": {
                "labels": pod_labels,
                "annotations": {
                    "prometheus.io/port": "15014",
                    "prometheus.io/scrape": "true",
                    "sidecar.istio.io/inject": "false",
                },
            },
            "spec": {
                "serviceAccountName": name,
                "containers": [container(values)],
                "volumes": volumes(),
            },
        },
    });
    deployment
}

fn container(values: &Values) -> Value {
    let ports: Vec<Value> = PORTS
        .iter()
        .map(|(name, port, _)| json!({"name": name, "containerPort": port, "protocol": "TCP"}))
        .collect();
    let mut container = json!({
        "name": "discovery",
        "image": values.image(),
        "args": ["discovery"],
        "ports": ports,
        "env": env(values),
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": 8080},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
        },
        "resources": values.control_plane_resources,
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": 1337,
            "runAsGroup": 1337,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "istio-token", "mountPath": "/var/run/secrets/tokens", "readOnly": true},
            {"name": "local-certs", "mountPath": "/var/run/secrets/istio-dns"},
            {"name": "cacerts", "mountPath": "/etc/cacerts", "readOnly": true},
        ],
    });
    let policy = &values.injection.global.image_pull_policy;
    if !policy.is_empty() {
        container["imagePullPolicy"] = json!(policy);
    }
    container
}

fn env(values: &Values) -> Value {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let cluster = &values.injection.global.multi_cluster.cluster_name;
    json!([
        {"name": "REVISION", "value": values.revision()},
        {"name": "PILOT_CERT_PROVIDER", "value": values.injection.global.pilot_cert_provider},
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        {"name": "CLUSTER_ID", "value": if cluster.is_empty() { "Kubernetes" } else { cluster }},
    ])
}

fn volumes() -> Value {
    json!([
        {"name": "local-certs", "emptyDir": {"medium": "Memory"}},
        {"name": "istio-token", "projected": {"sources": [{"serviceAccountToken": {
            "audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token",
        }}]}},
        {"name": "cacerts", "secret": {"secretName": "cacerts", "optional": true}},
    ])
}
