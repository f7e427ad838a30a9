//! Merging parts of a pod into a pod, as Kubernetes' strategic merge does for the lists of a pod.

use serde_json::{Map, Value};

/// Merges `overlay` over `base`.
pub(crate) fn pod(base: &Value, overlay: &Value) -> Value {
    let mut merged = base.clone();
    merge("", &mut merged, overlay);
    merged
}

/// Merges one container over another of the same name.
pub(crate) fn container(base: &mut Value, overlay: &Value) {
    merge("container", base, overlay);
}

fn merge(field: &str, base: &mut Value, overlay: &Value) {
    match (base, overlay) {
        (Value::Object(base), Value::Object(overlay)) => merge_fields(field, base, overlay),
        (Value::Array(base), Value::Array(overlay)) if list_key(field).is_some() => {
            merge_list(field, base, overlay)
        }
        (base, overlay) => *base = overlay.clone(),
    }
}

fn merge_fields(field: &str, base: &mut Map<String, Value>, overlay: &Map<String, Value>) {
    if field == "volumes" && overlay.len() > 1 {
        // A volume has one source: the overlay's replaces what is there.
        base.retain(|key, _| key == "name");
    }
    for (key, value) in overlay {
        if value.is_null() {
            base.remove(key);
        } else if let Some(old) = base.get_mut(key) {
            merge(key, old, value);
        } else {
            base.insert(key.clone(), value.clone());
        }
    }
}

/// Items with the same key merge, others are added at the end.
fn merge_list(field: &str, base: &mut Vec<Value>, overlay: &[Value]) {
    let key = list_key(field).unwrap_or("name");
    for item in overlay {
        match base
            .iter_mut()
            .find(|b| b.get(key).is_some() && b.get(key) == item.get(key))
        {
            Some(old) => merge(field, old, item),
            None => base.push(item.clone()),
        }
    }
}

/// The field that identifies items of a list; other lists are replaced as a whole.
fn list_key(field: &str) -> Option<&'static str> {
    match field {
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" | "sysctls" => {
            Some("name")
        }
        "volumeMounts" => Some("mountPath"),
        "ports" => Some("containerPort"),
        _ => None,
    }
}
