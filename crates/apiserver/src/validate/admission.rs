//! The built-in admission plugins for pods: ServiceAccount, DefaultTolerationSeconds and Priority.
//!
//! The caller runs them on create, before webhooks, and passes in what has to be looked up.

use serde_json::{Value, json};

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The name of the service account that a pod runs as.
#[must_use]
pub fn service_account_of(pod: &Value) -> &str {
    pod["spec"]["serviceAccountName"]
        .as_str()
        .filter(|s| !s.is_empty())
        .unwrap_or("default")
}

/// Completes a new pod: its service account, the projected token volume (`suffix` makes its name unique),
/// tolerations and priority. `service_account` is the stored object.
pub fn complete_pod(pod: &mut Value, service_account: &Value, suffix: &str) {
    let name = service_account_of(pod).to_owned();
    let spec = &mut pod["spec"];
    if !spec.is_object() {
        return;
    }
    spec["serviceAccountName"] = json!(name);
    spec["serviceAccount"] = json!(name);
    if spec["imagePullSecrets"]
        .as_array()
        .is_none_or(Vec::is_empty)
        && let Some(secrets) = service_account["imagePullSecrets"]
            .as_array()
            .filter(|s| !s.is_empty())
    {
        spec["imagePullSecrets"] = Value::Array(secrets.clone());
    }
    let automount = spec["automountServiceAccountToken"]
        .as_bool()
        .or_else(|| service_account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if automount {
        mount_token(spec, suffix);
    }
    tolerations(spec);
    for (key, value) in [
        ("priority", json!(0)),
        ("preemptionPolicy", json!("PreemptLowerPriority")),
    ] {
        if spec[key].is_null() {
            spec[key] = value;
        }
    }
}

fn mount_token(spec: &mut Value, suffix: &str) {
    let volume = format!("kube-api-access-{suffix}");
    let mut used = false;
    for key in ["initContainers", "containers"] {
        for container in spec
            .get_mut(key)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let mounts = container["volumeMounts"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            if mounts.iter().any(|m| m["mountPath"] == TOKEN_PATH) {
                continue;
            }
            used = true;
            let mut mounts = mounts;
            mounts.push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH}));
            container["volumeMounts"] = Value::Array(mounts);
        }
    }
    if !used {
        return;
    }
    let mut volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
    volumes.push(json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}}));
    spec["volumes"] = Value::Array(volumes);
}

fn tolerations(spec: &mut Value) {
    let mut all = spec["tolerations"].as_array().cloned().unwrap_or_default();
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let covered = all.iter().any(|t| {
            (t["key"] == key || t["key"].as_str().unwrap_or_default().is_empty())
                && (t["effect"] == "NoExecute"
                    || t["effect"].as_str().unwrap_or_default().is_empty())
        });
        if !covered {
            all.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}));
        }
    }
    spec["tolerations"] = Value::Array(all);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_gets_the_default_account_and_its_token() {
        let mut pod =
            json!({"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}});
        assert_eq!(service_account_of(&pod), "default");
        complete_pod(&mut pod, &json!({}), "abcde");
        let spec = &pod["spec"];
        assert_eq!(spec["serviceAccountName"], "default");
        assert_eq!(spec["volumes"][0]["name"], "kube-api-access-abcde");
        assert_eq!(
            spec["containers"][0]["volumeMounts"][0]["mountPath"],
            TOKEN_PATH
        );
        assert_eq!(
            spec["initContainers"][0]["volumeMounts"][0]["readOnly"],
            true
        );
        assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn an_account_can_refuse_the_mount_and_the_pod_overrides_it() {
        let account = json!({"automountServiceAccountToken": false});
        let mut pod = json!({"spec": {"containers": [{"name": "a"}]}});
        complete_pod(&mut pod, &account, "x");
        assert!(pod["spec"].get("volumes").is_none_or(Value::is_null));
        let mut pod =
            json!({"spec": {"automountServiceAccountToken": true, "containers": [{"name": "a"}]}});
        complete_pod(&mut pod, &account, "x");
        assert!(pod["spec"]["volumes"].is_array());
    }
}
