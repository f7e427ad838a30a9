//! Defaults of pods and pod templates.

use serde_json::{Value, json};

use super::{ensure, items, set, set_at};

/// A Pod, with what only pods get.
pub(super) fn pod(object: &mut Value) {
    let spec = ensure(object, "spec");
    pod_spec(spec);
    set(spec, "enableServiceLinks", json!(true));
    if spec["hostNetwork"] == json!(true) {
        for key in ["containers", "initContainers"] {
            for container in items(spec, key) {
                for port in items(container, "ports") {
                    let number = port["containerPort"].clone();
                    set(port, "hostPort", number);
                }
            }
        }
    }
}

/// A pod spec: of a Pod or of a template.
pub(super) fn pod_spec(spec: &mut Value) {
    set(spec, "restartPolicy", json!("Always"));
    set(spec, "terminationGracePeriodSeconds", json!(30));
    set(spec, "dnsPolicy", json!("ClusterFirst"));
    set(spec, "securityContext", json!({}));
    set(spec, "schedulerName", json!("default-scheduler"));
    mirror_service_account(spec);
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        for c in items(spec, key) {
            container(c);
        }
    }
    for v in items(spec, "volumes") {
        volume(v);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are always set together.
fn mirror_service_account(spec: &mut Value) {
    let name = [&spec["serviceAccountName"], &spec["serviceAccount"]]
        .into_iter()
        .find(|v| v.as_str().is_some_and(|s| !s.is_empty()))
        .cloned();
    if let Some(name) = name {
        spec["serviceAccountName"] = name.clone();
        spec["serviceAccount"] = name;
    }
}

fn container(c: &mut Value) {
    set(c, "terminationMessagePath", json!("/dev/termination-log"));
    set(c, "terminationMessagePolicy", json!("File"));
    let policy = pull_policy(c["image"].as_str().unwrap_or_default());
    set(c, "imagePullPolicy", json!(policy));
    resources(ensure(c, "resources"));
    for port in items(c, "ports") {
        set(port, "protocol", json!("TCP"));
    }
    for env in items(c, "env") {
        if env["valueFrom"]["fieldRef"].is_object() {
            set_at(env, &["valueFrom", "fieldRef"], "apiVersion", json!("v1"));
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = c.get_mut(name).filter(|p| p.is_object()) {
            set(probe, "timeoutSeconds", json!(1));
            set(probe, "periodSeconds", json!(10));
            set(probe, "successThreshold", json!(1));
            set(probe, "failureThreshold", json!(3));
            http_get(probe);
            if let Some(grpc) = probe.get_mut("grpc").filter(|g| g.is_object()) {
                set(grpc, "service", json!(""));
            }
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = c.get_mut("lifecycle").and_then(|l| l.get_mut(hook)) {
            http_get(handler);
        }
    }
}

fn http_get(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet").filter(|g| g.is_object()) {
        set(get, "path", json!("/"));
        set(get, "scheme", json!("HTTP"));
    }
}

/// Limits without a request are also the request.
fn resources(resources: &mut Value) {
    let Some(limits) = resources["limits"].as_object().cloned() else {
        return;
    };
    let requests = ensure(resources, "requests");
    for (name, value) in limits {
        set(requests, &name, value);
    }
}

/// `Always` for `latest` or no tag, else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains('@') {
        return "IfNotPresent";
    }
    match last.split_once(':') {
        Some((_, tag)) if tag != "latest" => "IfNotPresent",
        _ => "Always",
    }
}

fn volume(v: &mut Value) {
    if v.as_object()
        .is_some_and(|o| o.len() == 1 && o.contains_key("name"))
    {
        v["emptyDir"] = json!({});
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if v[source].is_object() {
            set(&mut v[source], "defaultMode", json!(420));
        }
    }
    if v["hostPath"].is_object() {
        set(&mut v["hostPath"], "type", json!(""));
    }
    if let Some(downward) = v.get_mut("downwardAPI") {
        downward_items(downward);
    }
    if let Some(projected) = v.get_mut("projected") {
        for source in items(projected, "sources") {
            if source["serviceAccountToken"].is_object() {
                set(
                    &mut source["serviceAccountToken"],
                    "expirationSeconds",
                    json!(3600),
                );
            }
            if let Some(downward) = source.get_mut("downwardAPI") {
                downward_items(downward);
            }
        }
    }
}

fn downward_items(downward: &mut Value) {
    for item in items(downward, "items") {
        if item["fieldRef"].is_object() {
            set(&mut item["fieldRef"], "apiVersion", json!("v1"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pull_policy_follows_the_tag() {
        assert_eq!(pull_policy("nginx"), "Always");
        assert_eq!(pull_policy("host:5000/nginx:latest"), "Always");
        assert_eq!(pull_policy("host:5000/nginx:1.2"), "IfNotPresent");
        assert_eq!(pull_policy("nginx@sha256:00"), "IfNotPresent");
    }

    #[test]
    fn probes_ports_and_volumes_get_their_defaults() {
        let mut object = json!({"spec": {
            "serviceAccountName": "sa",
            "containers": [{"name": "a", "image": "x:1", "ports": [{"containerPort": 80}],
                "readinessProbe": {"httpGet": {"port": 80}}, "resources": {"limits": {"cpu": "1"}}}],
            "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "m"}}]}});
        pod(&mut object);
        let spec = &object["spec"];
        assert_eq!(spec["serviceAccount"], "sa");
        assert_eq!(spec["enableServiceLinks"], true);
        let c = &spec["containers"][0];
        assert_eq!(c["readinessProbe"]["failureThreshold"], 3);
        assert_eq!(
            c["readinessProbe"]["httpGet"],
            json!({"port": 80, "path": "/", "scheme": "HTTP"})
        );
        assert_eq!(c["ports"][0]["protocol"], "TCP");
        assert_eq!(c["resources"]["requests"]["cpu"], "1");
        assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
        assert_eq!(spec["volumes"][1]["configMap"]["defaultMode"], 420);
    }
}
