//! Who the components are and what they may do.

use serde_json::{Value, json};

use crate::Values;
use crate::names::{cluster_wide, labels, namespaced, revisioned};

const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// Service accounts, roles and bindings of the control plane.
pub(crate) fn objects(values: &Values) -> Vec<Value> {
    let labels = labels(values, "istiod");
    let account = revisioned(values, "istiod");
    let reader = "istio-reader-service-account";
    let named = |base: &str| format!("{}-{}", revisioned(values, base), values.namespace());
    let mut objects = vec![
        namespaced(values, "v1", "ServiceAccount", &account, &labels),
        namespaced(values, "v1", "ServiceAccount", reader, &labels),
    ];
    let cluster_roles = [
        (
            named("istiod-clusterrole"),
            control_plane_rules(),
            account.as_str(),
        ),
        (named("istio-reader-clusterrole"), reader_rules(), reader),
    ];
    for (name, rules, account) in cluster_roles {
        let mut role = cluster_wide(RBAC, "ClusterRole", &name, &labels);
        role["rules"] = rules;
        let mut binding = cluster_wide(RBAC, "ClusterRoleBinding", &name, &labels);
        bind(&mut binding, "ClusterRole", &name, account, values);
        objects.extend([role, binding]);
    }
    let mut role = namespaced(values, RBAC, "Role", &account, &labels);
    role["rules"] = own_namespace_rules();
    let mut binding = namespaced(values, RBAC, "RoleBinding", &account, &labels);
    bind(&mut binding, "Role", &account, &account, values);
    objects.extend([role, binding]);
    objects
}

/// Completes a binding.
pub(crate) fn bind(binding: &mut Value, kind: &str, role: &str, account: &str, values: &Values) {
    binding["roleRef"] =
        json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role});
    binding["subjects"] =
        json!([{"kind": "ServiceAccount", "name": account, "namespace": values.namespace()}]);
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

const READ: [&str; 3] = ["get", "list", "watch"];
const REPORT: [&str; 3] = ["get", "update", "patch"];
const ISTIO: [&str; 4] = [
    "networking.istio.io",
    "security.istio.io",
    "telemetry.istio.io",
    "extensions.istio.io",
];

// table: what the control plane does throughout the cluster.
fn control_plane_rules() -> Value {
    let review = ["create"];
    json!([
        rule(&ISTIO, &["*"], &READ),
        rule(&ISTIO, &["*/status"], &REPORT),
        rule(
            &["networking.istio.io"],
            &["workloadentries"],
            &["create", "update", "patch", "delete"]
        ),
        rule(
            &["admissionregistration.k8s.io"],
            &["mutatingwebhookconfigurations"],
            &["get", "list", "watch", "update", "patch"]
        ),
        rule(
            &["admissionregistration.k8s.io"],
            &["validatingwebhookconfigurations"],
            &["get", "list", "watch", "update", "patch"]
        ),
        rule(
            &["apiextensions.k8s.io"],
            &["customresourcedefinitions"],
            &READ
        ),
        rule(
            &[""],
            &[
                "pods",
                "nodes",
                "services",
                "namespaces",
                "endpoints",
                "secrets"
            ],
            &READ
        ),
        rule(&["discovery.k8s.io"], &["endpointslices"], &READ),
        // The roots of trust are published in every namespace.
        rule(
            &[""],
            &["configmaps"],
            &["create", "get", "list", "watch", "update", "patch"]
        ),
        rule(
            &["", "events.k8s.io"],
            &["events"],
            &["create", "patch", "update"]
        ),
        rule(
            &["networking.k8s.io"],
            &["ingresses", "ingressclasses"],
            &READ
        ),
        rule(&["networking.k8s.io"], &["ingresses/status"], &REPORT),
        rule(&["gateway.networking.k8s.io"], &["*"], &READ),
        rule(&["gateway.networking.k8s.io"], &["*/status"], &REPORT),
        rule(&["authentication.k8s.io"], &["tokenreviews"], &review),
        rule(
            &["authorization.k8s.io"],
            &["subjectaccessreviews"],
            &review
        ),
    ])
}

fn reader_rules() -> Value {
    json!([
        rule(&ISTIO, &["*"], &READ),
        rule(
            &[""],
            &[
                "endpoints",
                "pods",
                "services",
                "nodes",
                "replicationcontrollers",
                "namespaces"
            ],
            &READ
        ),
        rule(&["discovery.k8s.io"], &["endpointslices"], &READ),
        rule(&["apps"], &["replicasets"], &READ),
        rule(&["authentication.k8s.io"], &["tokenreviews"], &["create"]),
        rule(
            &["authorization.k8s.io"],
            &["subjectaccessreviews"],
            &["create"]
        ),
    ])
}

/// The CA's key, the record of held routes, and the choice of a leader.
fn own_namespace_rules() -> Value {
    let write = [
        "create", "get", "list", "watch", "update", "patch", "delete",
    ];
    json!([
        rule(&[""], &["secrets", "configmaps"], &write),
        rule(&["coordination.k8s.io"], &["leases"], &write),
        // A trial run with an invalid object shows that the validating webhook answers.
        rule(&["networking.istio.io"], &["gateways"], &["create"]),
    ])
}
