//! What a new cluster holds before its first client: namespaces, RBAC, the `kubernetes` Service.
//!
//! Objects are created where they are missing and never touched again: they are the user's then.

use futures::future::join_all;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::split_api_version;
use crate::state::Api;
use crate::store::{Expect, StoreError};
use crate::validate;

/// Where pods find the API server: the node's gateway relays it.
const GATEWAY: &str = "10.244.0.1";
/// The port on the gateway.
const GATEWAY_PORT: u16 = 6443;
/// The first address of the service range.
const KUBERNETES_IP: &str = "10.96.0.1";

/// Creates what is missing, in one commit where possible.
///
/// # Errors
/// When the store refuses.
pub async fn ensure(api: &Api) -> Result<(), StoreError> {
    let objects = namespaces()
        .into_iter()
        .chain(crate::rbac::bootstrap())
        .chain(node_access())
        .chain(kubernetes_service());
    let writes = join_all(objects.map(|object| create(api, object))).await;
    writes.into_iter().collect()
}

async fn create(api: &Api, mut object: Value) -> Result<(), StoreError> {
    let registry = api.registry();
    let api_version = object["apiVersion"].as_str().unwrap_or_default().to_owned();
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let (group, version) = split_api_version(&api_version);
    let Some(resource) = registry.find_kind(group, version, &kind) else {
        tracing::error!(kind, api_version, "bootstrap object of an unknown kind");
        return Ok(());
    };
    object["metadata"]["uid"] = json!(uuid::Uuid::new_v4().to_string());
    object["metadata"]["creationTimestamp"] =
        json!(Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    validate::default(resource, &mut object);
    validate::prepare_create(resource, &mut object);
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let key = api.key(
        resource,
        &text(&object["metadata"]["namespace"]),
        &text(&object["metadata"]["name"]),
    );
    match api.store.put(key, Expect::Absent, object, None).await {
        Ok(_) | Err(StoreError::AlreadyExists) => Ok(()),
        Err(other) => Err(other),
    }
}

fn namespaces() -> Vec<Value> {
    ["default", "kube-system", "kube-public", "kube-node-lease"]
        .into_iter()
        .map(|name| {
            json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        })
        .collect()
}

/// The node process is kubelet and controllers in one: it may do what both may on a Kubernetes cluster.
fn node_access() -> Vec<Value> {
    let all = ["*"];
    vec![
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "meltemi:node", "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
        "rules": [
            {"apiGroups": all, "resources": all, "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["", "apps", "batch", "discovery.k8s.io", "coordination.k8s.io", "events.k8s.io"],
             "resources": all, "verbs": all},
            // Garbage collection deletes dependents of every kind.
            {"apiGroups": all, "resources": all, "verbs": ["delete", "deletecollection", "patch", "update"]},
            {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
            {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
            {"nonResourceURLs": all, "verbs": ["get"]},
        ]}),
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "meltemi:node", "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "meltemi:node"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}]}),
    ]
}

fn kubernetes_service() -> Vec<Value> {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    vec![
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
            "spec": {"type": "ClusterIP", "clusterIP": KUBERNETES_IP, "clusterIPs": [KUBERNETES_IP],
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "sessionAffinity": "None",
                "internalTrafficPolicy": "Cluster",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": GATEWAY_PORT}]},
            "status": {"loadBalancer": {}}}),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [GATEWAY], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": GATEWAY_PORT, "protocol": "TCP"}]}),
    ]
}
