//! What Kubernetes' built-in admission adds to a new pod: service account and its token volume,
//! priority, and the tolerations every pod has.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::rest::Call;
use crate::status::{ApiError, ApiResult};
use crate::store::{Key, Stored};

/// Where a container finds its token, CA and namespace.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Prefix of the volume's generated name.
const VOLUME_PREFIX: &str = "kube-api-access-";
/// Life of projected tokens; 3607 tells the API server that it may extend them.
const TOKEN_SECONDS: u32 = 3607;
/// A new namespace's `default` account is made by a controller: pods wait for it this long.
const ACCOUNT_WAIT: Duration = Duration::from_secs(5);

/// Completes a new pod; running it again changes nothing but newly added containers.
pub(super) async fn complete(call: &Arc<Call>, pod: &mut Value) -> ApiResult<()> {
    let spec = &mut pod["spec"];
    if spec["serviceAccountName"]
        .as_str()
        .unwrap_or_default()
        .is_empty()
    {
        let older = spec["serviceAccount"]
            .as_str()
            .filter(|s| !s.is_empty())
            .map(str::to_owned);
        spec["serviceAccountName"] = json!(older.unwrap_or_else(|| "default".into()));
    }
    spec["serviceAccount"] = spec["serviceAccountName"].clone();
    let name = spec["serviceAccountName"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let account = account(call, &name, pod).await?.value();
    let spec = &mut pod["spec"];
    let automount = spec["automountServiceAccountToken"]
        .as_bool()
        .or_else(|| account["automountServiceAccountToken"].as_bool())
        .unwrap_or(true);
    if automount {
        mount_token(spec);
    }
    let has_secrets = spec["imagePullSecrets"]
        .as_array()
        .is_some_and(|s| !s.is_empty());
    if !has_secrets
        && let Some(secrets) = account["imagePullSecrets"]
            .as_array()
            .filter(|s| !s.is_empty())
    {
        spec["imagePullSecrets"] = json!(secrets);
    }
    if spec["priority"].is_null() {
        spec["priority"] = json!(0);
        spec["preemptionPolicy"] = json!("PreemptLowerPriority");
    }
    tolerate(spec);
    Ok(())
}

async fn account(call: &Call, name: &str, pod: &Value) -> ApiResult<Arc<Stored>> {
    let resource = call.api.resource_key("serviceaccounts");
    let key = Key::new(&resource, &call.path.namespace, name);
    let mut changes = call.api.store.subscribe(&resource);
    let appear = async {
        loop {
            if let Some(found) = call.api.store.get(&key) {
                return Some(found);
            }
            if changes.changed().await.is_err() {
                return None;
            }
        }
    };
    // Only `default` is made by somebody else than whoever creates the pod.
    let wait = if name == "default" {
        ACCOUNT_WAIT
    } else {
        Duration::ZERO
    };
    let found = tokio::time::timeout(wait, appear).await.ok().flatten();
    found.ok_or_else(|| {
        let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let namespace = &call.path.namespace;
        ApiError::forbidden(
            &call.resource,
            pod_name,
            &format!("error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"),
        )
    })
}

/// Adds the projected token volume, and its mount to every container that has nothing there.
fn mount_token(spec: &mut Value) {
    let existing = spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|v| v["name"].as_str())
        .find(|n| n.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let is_new = existing.is_none();
    let volume =
        existing.unwrap_or_else(|| format!("{VOLUME_PREFIX}{}", crate::rest::random_letters(5)));
    let mut mounted = false;
    for kind in ["initContainers", "containers"] {
        for container in spec
            .get_mut(kind)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let taken = container["volumeMounts"]
                .as_array()
                .is_some_and(|m| m.iter().any(|m| m["mountPath"] == MOUNT_PATH));
            if taken {
                continue;
            }
            let mount = json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH});
            push(&mut container["volumeMounts"], mount);
            mounted = true;
        }
    }
    if mounted && is_new {
        push(&mut spec["volumes"], token_volume(&volume));
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

fn tolerate(spec: &mut Value) {
    for key in [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
    ] {
        let tolerated = spec["tolerations"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|t| {
                let key_fits = t["key"] == key || t["key"].as_str().unwrap_or_default().is_empty();
                let effect_fits = t["effect"] == "NoExecute"
                    || t["effect"].as_str().unwrap_or_default().is_empty();
                key_fits && effect_fits
            });
        if !tolerated {
            let toleration = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
            push(&mut spec["tolerations"], toleration);
        }
    }
}

fn push(list: &mut Value, item: Value) {
    match list.as_array_mut() {
        Some(list) => list.push(item),
        None => *list = json!([item]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_once_however_often_it_runs() {
        let mut spec = json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "x", "mountPath": MOUNT_PATH}]}]});
        mount_token(&mut spec);
        if let Some(containers) = spec["containers"].as_array_mut() {
            containers.push(json!({"name": "injected"}));
        }
        mount_token(&mut spec);
        assert_eq!(spec["volumes"].as_array().map(Vec::len), Some(1));
        let volume = spec["volumes"][0]["name"].clone();
        assert_eq!(
            spec["containers"][0]["volumeMounts"]
                .as_array()
                .map(Vec::len),
            Some(1)
        );
        assert_eq!(spec["containers"][1]["volumeMounts"][0]["name"], "x");
        assert_eq!(spec["containers"][2]["volumeMounts"][0]["name"], volume);
    }

    #[test]
    fn own_tolerations_are_respected() {
        let mut spec = json!({"tolerations": [{"operator": "Exists"}]});
        tolerate(&mut spec);
        assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(1));
    }
}
