//! What the API itself sets on create and carries over on update.

use serde_json::{Map, Value, json};

use crate::kinds::Resource;

/// Before a create is validated; see [`super::prepare_create`].
pub(super) fn create(resource: &Resource, object: &mut Value) {
    if resource.has_generation() {
        object["metadata"]["generation"] = json!(1);
    }
    if drops_status(resource)
        && let Some(map) = object.as_object_mut()
    {
        map.shift_remove("status");
    }
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Pod") => {
            object["status"] = json!({"phase": "Pending", "qosClass": qos_class(&object["spec"])});
        }
        ("", "Namespace") => {
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
        }
        ("", "Service") => object["status"] = json!({"loadBalancer": {}}),
        ("batch", "Job") => job(object),
        ("apps", "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet")
        | ("batch", "CronJob") => {
            object["status"] = json!({});
        }
        _ => {}
    }
}

/// Nodes register with their status; everything else gets it from its controller.
fn drops_status(resource: &Resource) -> bool {
    resource.has_status() && resource.kind != "Node" && resource.kind != "CustomResourceDefinition"
}

/// A Job's selector and labels, made from its uid.
fn job(object: &mut Value) {
    object["status"] = json!({});
    if object["spec"]["manualSelector"] == json!(true) {
        return;
    }
    let uid = object["metadata"]["uid"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let spec = &mut object["spec"];
    if !spec["template"]["metadata"]["labels"].is_object() {
        spec["template"]["metadata"]["labels"] = json!({});
    }
    let labels = &mut spec["template"]["metadata"]["labels"];
    for (key, value) in [
        ("batch.kubernetes.io/controller-uid", &uid),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("job-name", &name),
    ] {
        labels[key] = json!(value);
    }
    if !spec["selector"].is_object() {
        spec["selector"] = json!({});
    }
    if !spec["selector"]["matchLabels"].is_object() {
        spec["selector"]["matchLabels"] = json!({});
    }
    spec["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"] = json!(uid);
}

/// A pod's quality of service, from its containers' cpu and memory.
fn qos_class(spec: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for key in ["containers", "initContainers"] {
        for container in spec[key].as_array().into_iter().flatten() {
            for name in ["cpu", "memory"] {
                let (limit, request) = (
                    &container["resources"]["limits"][name],
                    &container["resources"]["requests"][name],
                );
                any |= !limit.is_null() || !request.is_null();
                guaranteed &= !limit.is_null() && (request.is_null() || request == limit);
            }
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// What an update keeps of the stored object; see [`super::prepare_update`].
pub(super) fn update(resource: &Resource, subresource: &str, object: &mut Value, old: &Value) {
    if subresource == "status" {
        status_update(object, old);
    } else if resource.has_status() {
        carry(object, old, "status");
    }
    if resource.group.is_empty() {
        core_update(resource, subresource, object, old);
    }
    if resource.has_generation() {
        let changed = subresource != "status" && spec_changed(resource, object, old);
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
        object["metadata"]["generation"] = json!(if changed { generation + 1 } else { generation });
    }
}

/// A status update changes status and nothing else but managed fields.
fn status_update(object: &mut Value, old: &Value) {
    let status = object.get("status").cloned();
    let managed = object["metadata"].get("managedFields").cloned();
    let version = object["metadata"].get("resourceVersion").cloned();
    *object = old.clone();
    if let Some(map) = object.as_object_mut() {
        match status {
            Some(status) => map.insert("status".to_owned(), status),
            None => map.shift_remove("status"),
        };
    }
    for (key, value) in [("managedFields", managed), ("resourceVersion", version)] {
        if let (Some(metadata), Some(value)) = (object["metadata"].as_object_mut(), value) {
            metadata.insert(key.to_owned(), value);
        }
    }
}

fn core_update(resource: &Resource, subresource: &str, object: &mut Value, old: &Value) {
    match resource.kind.as_ref() {
        "Namespace" if subresource != "finalize" => {
            let finalizers = old["spec"].get("finalizers").cloned();
            if let Some(finalizers) = finalizers {
                if !object["spec"].is_object() {
                    object["spec"] = Value::Object(Map::new());
                }
                object["spec"]["finalizers"] = finalizers;
            }
        }
        "Service" => service_update(object, old),
        "Pod" if object["spec"]["nodeName"].is_null() && !old["spec"]["nodeName"].is_null() => {
            object["spec"]["nodeName"] = old["spec"]["nodeName"].clone();
        }
        "ServiceAccount" if object.get("secrets").is_none() => carry(object, old, "secrets"),
        _ => {}
    }
}

/// What a client leaves out of a Service is what was allocated for it.
fn service_update(object: &mut Value, old: &Value) {
    let (kind, was) = (object["spec"]["type"].clone(), old["spec"]["type"].clone());
    if kind == "ExternalName" || was == "ExternalName" {
        return;
    }
    let unset = |v: &Value| {
        v.is_null() || v.as_str() == Some("") || v.as_array().is_some_and(Vec::is_empty)
    };
    for key in [
        "clusterIP",
        "clusterIPs",
        "ipFamilies",
        "ipFamilyPolicy",
        "healthCheckNodePort",
    ] {
        if unset(&object["spec"][key]) && !unset(&old["spec"][key]) {
            object["spec"][key] = old["spec"][key].clone();
        }
    }
    if kind != "NodePort" && kind != "LoadBalancer" {
        return;
    }
    let old_ports = old["spec"]["ports"].as_array().cloned().unwrap_or_default();
    for port in object["spec"]
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let same = |o: &&Value| o["port"] == port["port"] && o["protocol"] == port["protocol"];
        let number = old_ports.iter().find(same).map(|o| o["nodePort"].clone());
        if let (true, Some(number)) = (port["nodePort"].is_null(), number.filter(|n| !n.is_null()))
        {
            port["nodePort"] = number;
        }
    }
}

fn carry(object: &mut Value, old: &Value, key: &str) {
    let Some(map) = object.as_object_mut() else {
        return;
    };
    match old.get(key) {
        Some(value) => {
            map.insert(key.to_owned(), value.clone());
        }
        None => {
            map.shift_remove(key);
        }
    }
}

/// Whether anything that controllers follow changed: everything outside of metadata and status, and for custom
/// resources and most kinds also the start of deletion.
fn spec_changed(resource: &Resource, object: &Value, old: &Value) -> bool {
    let deleted = |o: &Value| !o["metadata"]["deletionTimestamp"].is_null();
    if deleted(object) != deleted(old) {
        return true;
    }
    let skip = |key: &str| {
        matches!(key, "metadata" | "apiVersion" | "kind")
            || (key == "status" && resource.has_status())
    };
    let part = |o: &Value| -> Map<String, Value> {
        o.as_object()
            .into_iter()
            .flatten()
            .filter(|(k, _)| !skip(k))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    part(object) != part(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    fn resource(group: &str, plural: &str) -> std::sync::Arc<Resource> {
        std::sync::Arc::clone(
            Registry::builtin()
                .find(group, "v1", plural)
                .expect("served"),
        )
    }

    #[test]
    fn generation_rises_only_when_the_spec_changes() {
        let deployments = resource("apps", "deployments");
        let old = json!({"metadata": {"generation": 3}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let mut labelled = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 1}, "status": {"replicas": 9}});
        update(&deployments, "", &mut labelled, &old);
        assert_eq!(labelled["metadata"]["generation"], 3);
        assert_eq!(
            labelled["status"],
            json!({"replicas": 1}),
            "status is not changed here"
        );
        let mut scaled = json!({"metadata": {}, "spec": {"replicas": 2}});
        update(&deployments, "", &mut scaled, &old);
        assert_eq!(scaled["metadata"]["generation"], 4);
    }

    #[test]
    fn a_status_update_leaves_spec_and_labels_alone() {
        let deployments = resource("apps", "deployments");
        let old =
            json!({"metadata": {"generation": 1, "labels": {"a": "1"}}, "spec": {"replicas": 1}});
        let mut new = json!({"metadata": {"labels": {"a": "2"}}, "spec": {"replicas": 5}, "status": {"replicas": 1}});
        update(&deployments, "status", &mut new, &old);
        assert_eq!(new["spec"]["replicas"], 1);
        assert_eq!(new["metadata"]["labels"]["a"], "1");
        assert_eq!(new["status"]["replicas"], 1);
    }

    #[test]
    fn a_service_keeps_its_address_when_the_client_leaves_it_out() {
        let services = resource("", "services");
        let old = json!({"metadata": {}, "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"]}});
        let mut new = json!({"metadata": {}, "spec": {"type": "ClusterIP"}});
        update(&services, "", &mut new, &old);
        assert_eq!(new["spec"]["clusterIP"], "10.96.0.7");
    }

    #[test]
    fn a_job_selects_its_own_pods() {
        let mut object =
            json!({"metadata": {"name": "j", "uid": "u1"}, "spec": {"template": {"spec": {}}}});
        create(&resource("batch", "jobs"), &mut object);
        assert_eq!(
            object["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"],
            "u1"
        );
        assert_eq!(
            object["spec"]["template"]["metadata"]["labels"]["job-name"],
            "j"
        );
    }

    #[test]
    fn a_pod_starts_pending_with_its_quality_of_service() {
        let mut pod = json!({"metadata": {}, "spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]}, "status": {"phase": "Running"}});
        create(&resource("", "pods"), &mut pod);
        assert_eq!(
            pod["status"],
            json!({"phase": "Pending", "qosClass": "Burstable"})
        );
    }
}
