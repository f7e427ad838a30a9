//! The proxy configuration of one pod: the mesh's defaults, the pod's annotation over them.

use serde_json::{Map, Value, json};

use crate::InjectError;

/// Name of the annotation that holds a pod's own proxy configuration.
const ANNOTATION: &str = "proxy.istio.io/config";

/// Fields that hold settings by name.
const MERGED: [&str; 2] = ["proxyMetadata", "runtimeValues"];

/// Merges the mesh's proxy configuration and the pod's own.
pub(crate) fn effective(
    defaults: &Map<String, Value>,
    annotations: &Map<String, Value>,
) -> Result<Map<String, Value>, InjectError> {
    let mut merged = defaults.clone();
    let Some(text) = annotations.get(ANNOTATION).and_then(Value::as_str) else {
        return Ok(merged);
    };
    let bad = |problem: String| InjectError::Annotation {
        name: ANNOTATION.to_owned(),
        value: text.to_owned(),
        problem,
    };
    let own: Value = serde_saphyr::from_str(text).map_err(|e| bad(format!("is not YAML: {e}")))?;
    match own {
        Value::Null => {}
        Value::Object(own) => merge(&mut merged, own),
        _ => {
            return Err(bad(
                "must hold the fields of a proxy configuration".to_owned()
            ));
        }
    }
    Ok(merged)
}

/// Fields of the second replace those of the first, except for maps of settings, which merge by key.
fn merge(into: &mut Map<String, Value>, from: Map<String, Value>) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) if MERGED.contains(&key.as_str()) => {
                old.extend(new)
            }
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// What the agent is told: only what differs from the built-in defaults, as one line of JSON.
pub(crate) fn for_agent(config: &Map<String, Value>) -> String {
    let defaults = json!({
        "configPath": "./etc/istio/proxy",
        "binaryPath": "/usr/local/bin/envoy",
        "serviceCluster": "istio-proxy",
        "drainDuration": "45s",
        "discoveryAddress": "istiod.istio-system.svc:15012",
        "proxyAdminPort": 15000,
        "controlPlaneAuthPolicy": "MUTUAL_TLS",
        "statNameLength": 189,
        "statusPort": 15020,
        "terminationDrainDuration": "5s",
    });
    let differing: Map<String, Value> = config
        .iter()
        .filter(|(k, v)| defaults.get(*k) != Some(*v))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    format!("{}\n", Value::Object(differing))
}
