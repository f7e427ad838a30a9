//! Probes and lifecycle hooks of the application go through the agent, which is not captured and speaks no TLS
//! to the kubelet; the agent is told where they went before.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::post::set_env;
use crate::template::Context;

const PROBES: [(&str, &str); 3] = [
    ("livenessProbe", "livez"),
    ("readinessProbe", "readyz"),
    ("startupProbe", "startupz"),
];
const HOOKS: [(&str, &str); 2] = [("preStop", "prestopz"), ("postStart", "poststartz")];

/// Rewrites what the kubelet would send to the application itself.
pub(crate) fn rewrite(pod: &mut Value, context: &Context<'_>) {
    let told = context
        .annotations
        .get("sidecar.istio.io/rewriteAppHTTPProbers")
        .and_then(Value::as_str);
    let default = context
        .settings
        .values
        .sidecar_injector_webhook
        .rewrite_app_http_probe;
    if !told.map_or(default, |v| v == "true") {
        return;
    }
    let port = context.status_port;
    let mut moved = BTreeMap::new();
    for list in ["containers", "initContainers"] {
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers
            .into_iter()
            .flatten()
            .filter(|c| c["name"] != "istio-proxy")
        {
            rewrite_container(container, port, &mut moved);
        }
    }
    if !moved.is_empty() {
        let table: Map<String, Value> = moved.into_iter().collect();
        set_env(
            pod,
            "ISTIO_KUBE_APP_PROBERS",
            Value::Object(table).to_string(),
        );
    }
}

fn rewrite_container(container: &mut Value, port: u16, moved: &mut BTreeMap<String, Value>) {
    let name = container["name"].as_str().unwrap_or_default().to_owned();
    let ports = container["ports"].clone();
    for (field, last) in PROBES {
        let path = format!("/app-health/{name}/{last}");
        let Some(probe) = container.get_mut(field) else {
            continue;
        };
        if let Some(original) = redirect(probe, &path, port, &ports) {
            moved.insert(path, original);
        }
    }
    for (field, last) in HOOKS {
        let path = format!("/app-lifecycle/{name}/{last}");
        let Some(hook) = container.pointer_mut(&format!("/lifecycle/{field}")) else {
            continue;
        };
        if let Some(original) = redirect(hook, &path, port, &ports) {
            moved.insert(path, original);
        }
    }
}

/// Sends a probe to the agent; gives what it was, or `None` when it stays as it is.
fn redirect(probe: &mut Value, path: &str, agent: u16, ports: &Value) -> Option<Value> {
    let fields = probe.as_object_mut()?;
    let (kind, action) = ["httpGet", "tcpSocket", "grpc"]
        .into_iter()
        .find_map(|kind| {
            fields
                .get(kind)
                .filter(|a| a.is_object())
                .map(|action| (kind, action.clone()))
        })?;
    let target = port_number(&action["port"], ports)?;
    if kind == "httpGet" && target == i64::from(agent) {
        return None;
    }
    let mut original = action.clone();
    original["port"] = json!(target);
    let mut record = Map::from_iter([(kind.to_owned(), original)]);
    if let Some(timeout) = fields
        .get("timeoutSeconds")
        .filter(|t| t.as_i64() != Some(0))
    {
        record.insert("timeoutSeconds".to_owned(), timeout.clone());
    }
    let mut get = if kind == "httpGet" { action } else { json!({}) };
    get["path"] = json!(path);
    get["port"] = json!(agent);
    if get["scheme"] == "HTTPS" {
        // The kubelet speaks plain HTTP to the agent, the agent HTTPS to the application.
        get["scheme"] = json!("HTTP");
    } else if get["scheme"].is_null() {
        get.as_object_mut()?.remove("scheme");
    }
    fields.remove(kind);
    fields.insert("httpGet".to_owned(), get);
    Some(Value::Object(record))
}

/// The number of a port that may be given by name.
fn port_number(port: &Value, ports: &Value) -> Option<i64> {
    if let Some(number) = port.as_i64() {
        return Some(number);
    }
    let name = port.as_str()?;
    let named = ports
        .as_array()
        .into_iter()
        .flatten()
        .find(|p| p["name"] == name);
    named
        .and_then(|p| p["containerPort"].as_i64())
        .or_else(|| name.parse().ok())
}
