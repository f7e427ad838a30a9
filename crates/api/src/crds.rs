//! The CustomResourceDefinition objects, generated from the types.

mod diff;

use serde_json::{Value, json};

pub use self::diff::{Difference, diff};
use crate::meta::{Column, Spec};
use crate::{schema, status};

/// Every definition, in order of group and name.
pub fn crds() -> Vec<Value> {
    vec![
        crd::<crate::TrafficExtension>(),
        crd::<crate::WasmPlugin>(),
        crd::<crate::DestinationRule>(),
        crd::<crate::EnvoyFilter>(),
        crd::<crate::Gateway>(),
        crd::<crate::ProxyConfig>(),
        crd::<crate::ServiceEntry>(),
        crd::<crate::Sidecar>(),
        crd::<crate::VirtualService>(),
        crd::<crate::WorkloadEntry>(),
        crd::<crate::WorkloadGroup>(),
        crd::<crate::AuthorizationPolicy>(),
        crd::<crate::PeerAuthentication>(),
        crd::<crate::RequestAuthentication>(),
        crd::<crate::Telemetry>(),
    ]
}

/// The definition of one kind.
pub fn crd<S: Spec>() -> Value {
    let category = S::GROUP.replace('.', "-");
    let mut names = json!({
        "kind": S::KIND,
        "listKind": format!("{}List", S::KIND),
        "plural": S::PLURAL,
        "singular": S::KIND.to_lowercase(),
        "categories": ["istio-io", category],
    });
    if !S::SHORT_NAMES.is_empty() {
        names["shortNames"] = json!(S::SHORT_NAMES);
    }
    let schema = object_schema::<S>();
    let versions: Vec<Value> = S::VERSIONS
        .iter()
        .map(|v| version::<S>(v, &schema))
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{}", S::PLURAL, S::GROUP),
            // Definitions outlive an uninstall: with them, every object of the kind would go.
            "annotations": {"helm.sh/resource-policy": "keep"},
            "labels": {"app": "istio-pilot", "app.kubernetes.io/part-of": "meltemi"},
        },
        "spec": {"group": S::GROUP, "names": names, "scope": "Namespaced", "versions": versions},
    })
}

fn version<S: Spec>(name: &str, schema: &Value) -> Value {
    let mut version = json!({
        "name": name,
        "served": true,
        "storage": name == S::STORAGE,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema},
    });
    if !S::COLUMNS.is_empty() {
        version["additionalPrinterColumns"] = S::COLUMNS.iter().map(column).collect();
    }
    version
}

fn column(column: &Column) -> Value {
    json!({
        "name": column.name,
        "jsonPath": column.json_path,
        "type": column.kind,
        "description": column.description,
    })
}

fn object_schema<S: Spec>() -> Value {
    let mut object = json!({
        "type": "object",
        "properties": {"spec": schema::structural::<S>(), "status": status::schema()},
    });
    if S::SPEC_REQUIRED {
        object["required"] = json!(["spec"]);
    }
    object
}
