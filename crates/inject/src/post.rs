//! What is done to the merged pod: metrics, probes, the record of what was injected, the order of containers.

use serde_json::{Value, json};

use crate::merge;
use crate::overrides::STATUS;
use crate::probes;
use crate::template::Context;

/// Finishes the merged pod.
pub(crate) fn finish(mut pod: Value, overlay: &Value, context: &Context<'_>) -> Value {
    merge_metrics(&mut pod, context);
    probes::rewrite(&mut pod, context);
    pod["metadata"]["annotations"][STATUS] =
        Value::String(status(overlay, &context.revision).to_string());
    for (name, value) in &context
        .settings
        .values
        .sidecar_injector_webhook
        .injected_annotations
    {
        pod["metadata"]["annotations"][name] = Value::String(value.clone());
    }
    if !context.settings.values.global.network.is_empty() {
        let network = context.settings.values.global.network.clone();
        pod["metadata"]["labels"]["topology.istio.io/network"] = Value::String(network);
    }
    order(&mut pod, context);
    pod
}

/// The sidecar container of a pod, wherever it is.
pub(crate) fn sidecar(pod: &mut Value) -> Option<&mut Value> {
    let spec = pod.get_mut("spec")?.as_object_mut()?;
    spec.iter_mut()
        .filter(|(list, _)| *list == "containers" || *list == "initContainers")
        .filter_map(|(_, containers)| containers.as_array_mut())
        .flatten()
        .find(|c| c["name"] == "istio-proxy")
}

/// Adds a variable to the sidecar, in place of one of the same name.
pub(crate) fn set_env(pod: &mut Value, name: &str, value: String) {
    if let Some(sidecar) = sidecar(pod) {
        merge::container(sidecar, &json!({"env": [{"name": name, "value": value}]}));
    }
}

/// Points Prometheus at the agent, which serves the application's metrics together with the proxy's.
fn merge_metrics(pod: &mut Value, context: &Context<'_>) {
    let told = |name: &str| context.annotations.get(name).and_then(Value::as_str);
    let merges = context
        .settings
        .mesh
        .enable_prometheus_merge
        .unwrap_or(true);
    let wanted = told("prometheus.istio.io/merge-metrics").map_or(merges, |v| v == "true");
    let scraped = told("prometheus.io/scrape") != Some("false");
    let port = context.default_status_port().to_string();
    if !wanted || !scraped || told("prometheus.io/port") == Some(&port) {
        return;
    }
    let original: Vec<(&str, &str)> = ["scrape", "path", "port"]
        .into_iter()
        .filter_map(|key| told(&format!("prometheus.io/{key}")).map(|value| (key, value)))
        .collect();
    if !original.is_empty() {
        let mut kept = json!({"scrape": "", "path": "", "port": ""});
        for (key, value) in original {
            kept[key] = Value::String(value.to_owned());
        }
        set_env(pod, "ISTIO_PROMETHEUS_ANNOTATIONS", kept.to_string());
    }
    let annotations = &mut pod["metadata"]["annotations"];
    annotations["prometheus.io/port"] = Value::String(port);
    annotations["prometheus.io/path"] = json!("/stats/prometheus");
    annotations["prometheus.io/scrape"] = json!("true");
}

/// The record of what was injected, for tools that take it out again.
fn status(overlay: &Value, revision: &str) -> Value {
    let names = |list: &str| -> Value {
        let items = overlay["spec"][list].as_array();
        let names: Vec<Value> = items
            .into_iter()
            .flatten()
            .map(|i| i["name"].clone())
            .collect();
        if names.is_empty() {
            Value::Null
        } else {
            Value::Array(names)
        }
    };
    json!({
        "initContainers": names("initContainers"),
        "containers": names("containers"),
        "volumes": names("volumes"),
        "imagePullSecrets": names("imagePullSecrets"),
        "revision": revision,
    })
}

/// The order in which containers start.
fn order(pod: &mut Value, context: &Context<'_>) {
    let native = context.native && has(pod, "initContainers", "istio-proxy");
    if let Some(containers) = pod["spec"]
        .get_mut("containers")
        .and_then(Value::as_array_mut)
    {
        // The application is first, because tools take the first container as the default one.
        place(containers, "istio-proxy", context.hold_application);
    }
    let Some(init) = pod["spec"]
        .get_mut("initContainers")
        .and_then(Value::as_array_mut)
    else {
        return;
    };
    if native {
        // Capture, then the proxy, then the rest, which is in the mesh already.
        for name in ["istio-proxy", "istio-validation", "istio-init"] {
            place(init, name, true);
        }
    } else {
        // Capture is set up last: no proxy serves the other init containers yet.
        place(init, "istio-validation", true);
        place(init, "istio-init", false);
    }
}

fn has(pod: &Value, list: &str, name: &str) -> bool {
    pod["spec"][list]
        .as_array()
        .is_some_and(|items| items.iter().any(|c| c["name"] == name))
}

fn place(containers: &mut Vec<Value>, name: &str, first: bool) {
    if let Some(at) = containers.iter().position(|c| c["name"] == name) {
        let container = containers.remove(at);
        let to = if first { 0 } else { containers.len() };
        containers.insert(to, container);
    }
}
