//! Metadata that the objects share.

use serde_json::{Value, json};

use crate::Values;

/// Labels of every object of a component, and what tells it from other revisions.
pub(crate) fn labels(values: &Values, component: &str) -> Value {
    json!({
        "app": component,
        "app.kubernetes.io/managed-by": "meltemi",
        "app.kubernetes.io/part-of": "meltemi",
        "istio.io/rev": values.revision(),
        "operator.istio.io/component": "Pilot",
        "release": "istio",
    })
}

/// `base`, with the revision appended unless it is the default one.
pub(crate) fn revisioned(values: &Values, base: &str) -> String {
    match values.revision() {
        "default" => base.to_owned(),
        revision => format!("{base}-{revision}"),
    }
}

/// An object in the control plane's namespace.
pub(crate) fn namespaced(
    values: &Values,
    api_version: &str,
    kind: &str,
    name: &str,
    labels: &Value,
) -> Value {
    json!({
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": name, "namespace": values.namespace(), "labels": labels},
    })
}

/// An object outside of namespaces.
pub(crate) fn cluster_wide(api_version: &str, kind: &str, name: &str, labels: &Value) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "labels": labels}})
}
