//! The sidecar: a proxy beside the application, and what redirects traffic into it.

use serde_json::{Map, Value, json};

use super::Context;
use super::{capture, proxy, volumes};

pub(super) fn render(context: &Context<'_>) -> Value {
    let mut init = vec![capture::container(context)];
    let mut containers = Vec::new();
    let sidecar = container(context);
    if context.native {
        init.push(sidecar)
    } else {
        containers.push(sidecar)
    }
    let mut spec = json!({
        "initContainers": init,
        "volumes": volumes::sidecar(context),
    });
    if !containers.is_empty() {
        spec["containers"] = Value::Array(containers);
    }
    let secrets = &context.settings.values.global.image_pull_secrets;
    if !secrets.is_empty() {
        spec["imagePullSecrets"] = secrets.iter().map(|s| json!({"name": s})).collect();
    }
    json!({"metadata": {"labels": labels(context), "annotations": annotations(context)}, "spec": spec})
}

fn labels(context: &Context<'_>) -> Value {
    let mut labels = proxy::canonical_labels(context);
    labels["security.istio.io/tlsMode"] = json!(
        context
            .label("security.istio.io/tlsMode")
            .unwrap_or("istio")
    );
    labels
}

fn annotations(context: &Context<'_>) -> Value {
    let mut annotations = Map::new();
    annotations.insert("istio.io/rev".to_owned(), json!(context.revision));
    if let Some(first) = context.app_containers().next() {
        for name in [
            "kubectl.kubernetes.io/default-container",
            "kubectl.kubernetes.io/default-logs-container",
        ] {
            if context.annotation(name).is_none() {
                annotations.insert(name.to_owned(), first["name"].clone());
            }
        }
    }
    if context.settings.values.pilot.cni.enabled {
        capture::annotate_for_cni(context, &mut annotations);
    }
    Value::Object(annotations)
}

fn container(context: &Context<'_>) -> Value {
    let mut container = proxy::container(context, "sidecar");
    container["resources"] = proxy::resources(context);
    container["securityContext"] = security(context);
    let probe = &context.settings.values.global.proxy.startup_probe;
    if context.status_port != 0 && probe.enabled {
        container["startupProbe"] = json!({
            "httpGet": {"path": "/healthz/ready", "port": 15021},
            "periodSeconds": 1,
            "timeoutSeconds": 3,
            "failureThreshold": probe.failure_threshold,
        });
        container["startupProbe"]
            .as_object_mut()
            .map(|p| p.remove("initialDelaySeconds"));
    }
    if let Some(lifecycle) = lifecycle(context) {
        container["lifecycle"] = lifecycle;
    }
    if context.native {
        container["restartPolicy"] = json!("Always");
    }
    container
}

fn lifecycle(context: &Context<'_>) -> Option<Value> {
    let proxy = &context.settings.values.global.proxy;
    let agent = &proxy.agent_command;
    if proxy.lifecycle.is_object() {
        return Some(proxy.lifecycle.clone());
    }
    if context.native {
        // The kubelet stops a native sidecar last, but says so early: drain from then on.
        let port = format!("--debug-port={}", context.status_port);
        let command = json!([agent, "request", port, "POST", "drain"]);
        return Some(json!({"preStop": {"exec": {"command": command}}}));
    }
    // Containers start one after the other, each after the hook of the one before.
    context
        .hold_application
        .then(|| json!({"postStart": {"exec": {"command": [agent, "wait"]}}}))
}

fn security(context: &Context<'_>) -> Value {
    let proxy = &context.settings.values.global.proxy;
    let (user, group) = proxy::user(context);
    let transparent = context.interception_mode() == "TPROXY";
    let binds_low_ports = context.annotation("sidecar.istio.io/capNetBindService") == Some("true");
    let mut added = Vec::new();
    if transparent {
        added.push("NET_ADMIN");
    }
    if proxy.mark_traffic {
        added.push("NET_RAW");
    }
    if binds_low_ports {
        added.push("NET_BIND_SERVICE");
    }
    let mut capabilities = json!({"drop": ["ALL"]});
    if !added.is_empty() {
        capabilities["add"] = json!(added);
    }
    // Transparent sockets and low ports need capabilities that only root keeps across exec.
    let root = transparent || binds_low_ports;
    json!({
        "allowPrivilegeEscalation": proxy.privileged,
        "privileged": proxy.privileged,
        "capabilities": capabilities,
        "readOnlyRootFilesystem": !proxy.enable_core_dump,
        "runAsGroup": group,
        "runAsNonRoot": !root,
        "runAsUser": if root { 0 } else { user },
    })
}
