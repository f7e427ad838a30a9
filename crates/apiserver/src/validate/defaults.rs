//! Kubernetes' own defaults for built-in kinds.

mod pod;
mod workload;

use serde_json::{Map, Value, json};

use crate::kinds::Resource;

/// Fills the defaults of a kind.
// table: one line for each kind.
pub(super) fn builtin(resource: &Resource, object: &mut Value) {
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Pod") => pod::pod(object),
        ("", "Service") => service(object),
        ("", "Secret") => secret(object),
        ("", "Namespace") => namespace(object),
        ("", "Endpoints") => endpoints(object),
        ("", "PersistentVolumeClaim") => {
            set_at(object, &["spec"], "volumeMode", json!("Filesystem"))
        }
        ("apps" | "batch", _) | ("", "ReplicationController") => {
            workload::workload(object, &resource.kind)
        }
        ("autoscaling", _) => set_at(object, &["spec"], "minReplicas", json!(1)),
        ("discovery.k8s.io", _) => endpoint_slice(object),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => role_binding(object),
        ("admissionregistration.k8s.io", kind) => webhooks(object, kind),
        ("networking.k8s.io", "NetworkPolicy") => network_policy(object),
        ("scheduling.k8s.io", _) => {
            set(object, "globalDefault", json!(false));
            set(object, "preemptionPolicy", json!("PreemptLowerPriority"));
        }
        _ => {}
    }
}

/// Sets a member that is absent.
fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(map) = object.as_object_mut()
        && !value.is_null()
        && map.get(key).is_none_or(Value::is_null)
    {
        map.insert(key.to_owned(), value);
    }
}

/// Sets a member, that is absent, of an object that exists.
fn set_at(object: &mut Value, path: &[&str], key: &str, value: Value) {
    let mut at = object;
    for segment in path {
        let Some(next) = at.get_mut(*segment) else {
            return;
        };
        at = next;
    }
    set(at, key, value);
}

/// The items of a list member, for changing.
fn items<'a>(object: &'a mut Value, key: &str) -> impl Iterator<Item = &'a mut Value> {
    object
        .get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// The member as an object, created when absent.
fn ensure<'a>(object: &'a mut Value, key: &str) -> &'a mut Value {
    set(object, key, Value::Object(Map::new()));
    &mut object[key]
}

fn service(object: &mut Value) {
    let spec = ensure(object, "spec");
    set(spec, "sessionAffinity", json!("None"));
    if spec["sessionAffinity"] == "ClientIP" {
        let affinity = ensure(spec, "sessionAffinityConfig");
        set_at(
            ensure_in(affinity, "clientIP"),
            &[],
            "timeoutSeconds",
            json!(10800),
        );
    }
    set(spec, "type", json!("ClusterIP"));
    for port in items(spec, "ports") {
        set(port, "protocol", json!("TCP"));
        let number = port["port"].clone();
        if port["targetPort"] == json!(0) || port["targetPort"] == json!("") {
            port["targetPort"] = number.clone();
        }
        set(port, "targetPort", number);
    }
    let kind = spec["type"].as_str().unwrap_or_default().to_owned();
    if kind == "NodePort" || kind == "LoadBalancer" {
        set(spec, "externalTrafficPolicy", json!("Cluster"));
    }
    if kind == "LoadBalancer" {
        set(spec, "allocateLoadBalancerNodePorts", json!(true));
    }
    if kind != "ExternalName" {
        set(spec, "internalTrafficPolicy", json!("Cluster"));
        set(spec, "ipFamilies", json!(["IPv4"]));
        set(spec, "ipFamilyPolicy", json!("SingleStack"));
    }
    set(ensure(object, "status"), "loadBalancer", json!({}));
}

fn ensure_in<'a>(object: &'a mut Value, key: &str) -> &'a mut Value {
    ensure(object, key)
}

fn secret(object: &mut Value) {
    use base64::Engine as _;
    set(object, "type", json!("Opaque"));
    let Some(Value::Object(plain)) = object
        .as_object_mut()
        .and_then(|o| o.shift_remove("stringData"))
    else {
        return;
    };
    let data = ensure(object, "data");
    for (key, value) in plain {
        let encoded =
            base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
        data[key] = Value::String(encoded);
    }
}

fn namespace(object: &mut Value) {
    if let Some(name) = object["metadata"]["name"].as_str().map(str::to_owned)
        && !name.is_empty()
    {
        let labels = ensure(ensure(object, "metadata"), "labels");
        labels["kubernetes.io/metadata.name"] = Value::String(name);
    }
}

fn endpoints(object: &mut Value) {
    for subset in items(object, "subsets") {
        for port in items(subset, "ports") {
            set(port, "protocol", json!("TCP"));
        }
    }
}

fn endpoint_slice(object: &mut Value) {
    for port in items(object, "ports") {
        set(port, "name", json!(""));
        set(port, "protocol", json!("TCP"));
    }
}

fn role_binding(object: &mut Value) {
    const GROUP: &str = "rbac.authorization.k8s.io";
    set_at(object, &["roleRef"], "apiGroup", json!(GROUP));
    for subject in items(object, "subjects") {
        if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
            set(subject, "apiGroup", json!(GROUP));
        }
    }
}

fn webhooks(object: &mut Value, kind: &str) {
    for webhook in items(object, "webhooks") {
        set(webhook, "failurePolicy", json!("Fail"));
        set(webhook, "matchPolicy", json!("Equivalent"));
        set(webhook, "namespaceSelector", json!({}));
        set(webhook, "objectSelector", json!({}));
        set(webhook, "timeoutSeconds", json!(10));
        if kind == "MutatingWebhookConfiguration" {
            set(webhook, "reinvocationPolicy", json!("Never"));
        }
        if webhook["clientConfig"]["service"].is_object() {
            set_at(webhook, &["clientConfig", "service"], "port", json!(443));
        }
        for rule in items(webhook, "rules") {
            set(rule, "scope", json!("*"));
        }
    }
}

fn network_policy(object: &mut Value) {
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
    let mut policies = vec![json!("Ingress")];
    if spec["egress"].as_array().is_some_and(|e| !e.is_empty()) {
        policies.push(json!("Egress"));
    }
    set(spec, "policyTypes", Value::Array(policies));
    for direction in ["ingress", "egress"] {
        for rule in items(spec, direction) {
            for port in items(rule, "ports") {
                set(port, "protocol", json!("TCP"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    fn defaulted(group: &str, plural: &str, mut object: Value) -> Value {
        builtin(
            Registry::builtin()
                .find(group, "v1", plural)
                .expect("served"),
            &mut object,
        );
        object
    }

    #[test]
    fn a_services_target_port_is_its_port() {
        let service = defaulted("", "services", json!({"spec": {"ports": [{"port": 80}]}}));
        assert_eq!(
            service["spec"]["ports"][0],
            json!({"port": 80, "protocol": "TCP", "targetPort": 80})
        );
        assert_eq!(service["spec"]["type"], "ClusterIP");
        assert_eq!(service["spec"]["sessionAffinity"], "None");
    }

    #[test]
    fn string_data_becomes_data() {
        let secret = defaulted(
            "",
            "secrets",
            json!({"stringData": {"a": "hello"}, "data": {"b": "eA=="}}),
        );
        assert_eq!(secret["data"], json!({"b": "eA==", "a": "aGVsbG8="}));
        assert_eq!(secret["type"], "Opaque");
        assert!(secret.get("stringData").is_none());
    }

    #[test]
    fn a_webhook_gets_its_policies() {
        let config = defaulted(
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations",
            json!({"webhooks": [{"name": "a", "clientConfig": {"service": {"name": "s"}}, "rules": [{}]}]}),
        );
        let webhook = &config["webhooks"][0];
        assert_eq!(webhook["failurePolicy"], "Fail");
        assert_eq!(webhook["reinvocationPolicy"], "Never");
        assert_eq!(webhook["clientConfig"]["service"]["port"], 443);
        assert_eq!(webhook["rules"][0]["scope"], "*");
    }

    #[test]
    fn defaults_are_stable_when_applied_twice() {
        let once = defaulted(
            "apps",
            "deployments",
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "x"}]}}}}),
        );
        assert_eq!(defaulted("apps", "deployments", once.clone()), once);
    }
}
