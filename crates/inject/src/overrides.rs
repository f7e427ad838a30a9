//! Containers of the user's own that bear the name of an injected one: their fields win over the template's.

use serde_json::{Map, Value, json};

use crate::merge;

/// Annotation that keeps the user's containers, so that injecting again gives the same pod.
const OVERRIDES: &str = "proxy.istio.io/overrides";
/// Annotation that marks an injected pod.
pub(crate) const STATUS: &str = "sidecar.istio.io/status";
/// Image name with which the user leaves the image to the template.
const AUTO_IMAGE: &str = "auto";
const LISTS: [&str; 2] = ["containers", "initContainers"];

/// The user's containers, by the list in which the template has the container of that name.
#[derive(Debug, Default)]
pub(crate) struct Overridden {
    lists: [Vec<Value>; 2],
    recorded: bool,
}

/// Takes the containers that the template also has out of the pod. Their places stay: a name-only container
/// keeps the order, unless the template has it in the other list.
pub(crate) fn take_out(pod: &Value, overlay: &Value) -> (Value, Overridden) {
    let mut pod = pod.clone();
    let recorded = pod
        .pointer(&format!(
            "/metadata/annotations/{}",
            STATUS.replace('/', "~1")
        ))
        .is_some();
    let earlier = earlier_overrides(&pod);
    let mut overridden = Overridden {
        recorded,
        ..Overridden::default()
    };
    for (target, list) in LISTS.iter().enumerate() {
        for injected in items(overlay, list) {
            let name = &injected["name"];
            let own = if recorded {
                // The container is our own work of an earlier time; the template goes over it again.
                let kept = LISTS.iter().flat_map(|l| items(&earlier, l));
                kept.into_iter().find(|c| &c["name"] == name).cloned()
            } else {
                remove(&mut pod, name, list)
            };
            overridden.lists[target].extend(own.map(as_override));
        }
    }
    (pod, overridden)
}

fn earlier_overrides(pod: &Value) -> Value {
    let text = pod["metadata"]["annotations"][OVERRIDES]
        .as_str()
        .unwrap_or_default();
    serde_json::from_str(text).unwrap_or(Value::Null)
}

fn items<'a>(pod: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    let found = pod
        .pointer(&format!("/spec/{list}"))
        .or_else(|| pod.get(list))
        .and_then(Value::as_array);
    found.into_iter().flatten()
}

/// Removes the container called `name`; where it is in the list that the template uses, its place is kept.
fn remove(pod: &mut Value, name: &Value, keep_place_in: &str) -> Option<Value> {
    let mut found = None;
    for list in LISTS {
        let Some(containers) = pod["spec"].get_mut(list).and_then(Value::as_array_mut) else {
            continue;
        };
        if let Some(at) = containers.iter().position(|c| &c["name"] == name) {
            if list == keep_place_in {
                found = Some(std::mem::replace(
                    &mut containers[at],
                    json!({"name": name}),
                ));
            } else {
                found = Some(containers.remove(at));
            }
        }
    }
    found
}

fn as_override(mut container: Value) -> Value {
    if let Some(fields) = container.as_object_mut() {
        if fields.get("image").is_some_and(|i| i == AUTO_IMAGE) {
            fields.remove("image");
        }
        fields.entry("resources").or_insert_with(|| json!({}));
    }
    container
}

/// Puts the user's fields over the injected containers and records them in the pod.
pub(crate) fn apply(mut pod: Value, overridden: &Overridden, overlay: &Value) -> Value {
    let mut record = Map::new();
    for (list, own) in LISTS.iter().zip(&overridden.lists) {
        for container in own {
            let injected = pod["spec"]
                .get_mut(*list)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten();
            if let Some(target) = injected
                .into_iter()
                .find(|c| c["name"] == container["name"])
            {
                merge::container(target, container);
            }
        }
        if !own.is_empty() {
            record.insert((*list).to_owned(), Value::Array(own.clone()));
        }
    }
    if !overridden.recorded && !record.is_empty() {
        pod["metadata"]["annotations"][OVERRIDES] =
            Value::String(Value::Object(record).to_string());
    }
    capture_follows_user(&mut pod, overlay);
    pod
}

/// Capture exempts the user that the proxy runs as; when the proxy's user was overridden, so is the exemption.
fn capture_follows_user(pod: &mut Value, overlay: &Value) {
    let user = |pod: &Value| {
        LISTS
            .iter()
            .flat_map(|l| items(pod, l))
            .find(|c| c["name"] == "istio-proxy")
            .and_then(|c| {
                c.pointer("/securityContext/runAsUser")
                    .and_then(Value::as_i64)
            })
    };
    let (Some(before), Some(after)) = (user(overlay), user(pod)) else {
        return;
    };
    if before == after || after == 0 {
        return;
    }
    let init = pod["spec"]["initContainers"]
        .as_array_mut()
        .into_iter()
        .flatten();
    for container in init.filter(|c| c["name"] == "istio-init" || c["name"] == "istio-validation") {
        let Some(args) = container.get_mut("args").and_then(Value::as_array_mut) else {
            continue;
        };
        if let Some(at) = args
            .iter()
            .position(|a| a == "-u")
            .filter(|at| at + 1 < args.len())
        {
            args[at + 1] = Value::String(after.to_string());
        }
    }
}
