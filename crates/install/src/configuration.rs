//! The ConfigMaps that the control plane follows.

use serde_json::{Value, json};

use crate::Values;
use crate::names::{labels, namespaced, revisioned};

/// Mesh configuration, and what the injector needs.
pub(crate) fn objects(values: &Values) -> Vec<Value> {
    let mut mesh = namespaced(
        values,
        "v1",
        "ConfigMap",
        &revisioned(values, "istio"),
        &labels(values, "istiod"),
    );
    mesh["data"] = json!({"mesh": yaml(&values.mesh()), "meshNetworks": "networks: {}\n"});
    let name = revisioned(values, "istio-sidecar-injector");
    let mut injector = namespaced(
        values,
        "v1",
        "ConfigMap",
        &name,
        &labels(values, "sidecar-injector"),
    );
    injector["data"] = json!({"config": yaml(&json!(values.injector)), "values": pretty(&json!(values.injection))});
    vec![mesh, injector]
}

fn yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).unwrap_or_else(|_| pretty(value))
}

fn pretty(value: &Value) -> String {
    format!("{value:#}")
}
