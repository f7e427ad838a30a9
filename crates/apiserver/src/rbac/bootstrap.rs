//! The roles and bindings that every cluster starts with.

use serde_json::{Value, json};

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];

/// The roles and bindings that every cluster starts with: `cluster-admin`, `admin`, `edit`, `view`, discovery, and
/// the node's, which acts as kubelet and as the controllers.
#[must_use]
pub fn bootstrap() -> Vec<Value> {
    let mut out = vec![
        role(
            "cluster-admin",
            json!([
                {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
                {"nonResourceURLs": ["*"], "verbs": ["*"]},
            ]),
        ),
        role(
            "system:discovery",
            json!([{"nonResourceURLs": DISCOVERY, "verbs": ["get"]}]),
        ),
        role(
            "system:public-info-viewer",
            json!([{"nonResourceURLs": ["/healthz", "/livez", "/readyz", "/version", "/version/"], "verbs": ["get"]}]),
        ),
        role(
            "system:basic-user",
            json!([
                {"apiGroups": ["authorization.k8s.io"], "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"], "verbs": ["create"]},
                {"apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"], "verbs": ["create"]},
            ]),
        ),
        role(
            "system:auth-delegator",
            json!([
                {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
                {"apiGroups": ["authorization.k8s.io"], "resources": ["subjectaccessreviews"], "verbs": ["create"]},
            ]),
        ),
        role("system:node", node_rules()),
        binding("cluster-admin", "cluster-admin", &["system:masters"]),
        binding(
            "system:discovery",
            "system:discovery",
            &["system:authenticated"],
        ),
        binding(
            "system:public-info-viewer",
            "system:public-info-viewer",
            &["system:authenticated", "system:unauthenticated"],
        ),
        binding(
            "system:basic-user",
            "system:basic-user",
            &["system:authenticated"],
        ),
        binding("system:node", "system:node", &["system:nodes"]),
    ];
    out.extend(user_roles());
    out
}

const DISCOVERY: &[&str] = &[
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/healthz",
    "/livez",
    "/openapi",
    "/openapi/*",
    "/readyz",
    "/version",
    "/version/",
];

/// `admin`, `edit` and `view`, aggregated from the roles labelled for them.
fn user_roles() -> Vec<Value> {
    let label = |to: &str| format!("rbac.authorization.k8s.io/aggregate-to-{to}");
    let selects =
        |to: &str| json!({"clusterRoleSelectors": [{"matchLabels": {label(to): "true"}}]});
    let mut out = Vec::new();
    for name in ["admin", "edit", "view"] {
        let mut object = role(name, json!([]));
        object["aggregationRule"] = selects(name);
        if name != "admin" {
            let up = if name == "edit" { "admin" } else { "edit" };
            object["metadata"]["labels"][label(up)] = json!("true");
        }
        out.push(object);
    }
    let labelled = |name: &str, to: &[&str], rules: Value| {
        let mut object = role(name, rules);
        for t in to {
            object["metadata"]["labels"][label(t)] = json!("true");
        }
        object
    };
    out.push(labelled(
        "system:aggregate-to-view",
        &["view", "edit", "admin"],
        view_rules(),
    ));
    out.push(labelled(
        "system:aggregate-to-edit",
        &["edit", "admin"],
        edit_rules(),
    ));
    out.push(labelled("system:aggregate-to-admin", &["admin"], json!([
        {"apiGroups": ["authorization.k8s.io"], "resources": ["localsubjectaccessreviews"], "verbs": ["create"]},
        {"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"], "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]},
    ])));
    out
}

fn view_rules() -> Value {
    json!([
        {"apiGroups": [""], "verbs": READ, "resources": ["bindings", "configmaps", "endpoints", "events", "limitranges",
            "namespaces", "namespaces/status", "persistentvolumeclaims", "persistentvolumeclaims/status", "pods",
            "pods/log", "pods/status", "replicationcontrollers", "replicationcontrollers/scale",
            "replicationcontrollers/status", "resourcequotas", "resourcequotas/status", "serviceaccounts", "services",
            "services/status"]},
        {"apiGroups": ["apps"], "verbs": READ, "resources": ["controllerrevisions", "daemonsets", "daemonsets/status",
            "deployments", "deployments/scale", "deployments/status", "replicasets", "replicasets/scale",
            "replicasets/status", "statefulsets", "statefulsets/scale", "statefulsets/status"]},
        {"apiGroups": ["autoscaling"], "verbs": READ, "resources": ["horizontalpodautoscalers", "horizontalpodautoscalers/status"]},
        {"apiGroups": ["batch"], "verbs": READ, "resources": ["cronjobs", "cronjobs/status", "jobs", "jobs/status"]},
        {"apiGroups": ["discovery.k8s.io"], "verbs": READ, "resources": ["endpointslices"]},
        {"apiGroups": ["networking.k8s.io"], "verbs": READ, "resources": ["ingresses", "ingresses/status", "networkpolicies"]},
        {"apiGroups": ["policy"], "verbs": READ, "resources": ["poddisruptionbudgets", "poddisruptionbudgets/status"]},
    ])
}

fn edit_rules() -> Value {
    json!([
        {"apiGroups": [""], "verbs": READ, "resources": ["pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "secrets", "services/proxy"]},
        {"apiGroups": [""], "verbs": ["impersonate"], "resources": ["serviceaccounts"]},
        {"apiGroups": [""], "verbs": WRITE, "resources": ["configmaps", "endpoints", "events", "persistentvolumeclaims",
            "pods", "pods/attach", "pods/exec", "pods/portforward", "pods/proxy", "replicationcontrollers",
            "replicationcontrollers/scale", "secrets", "serviceaccounts", "services", "services/proxy"]},
        {"apiGroups": [""], "verbs": ["create"], "resources": ["pods/eviction", "serviceaccounts/token"]},
        {"apiGroups": ["apps"], "verbs": WRITE, "resources": ["daemonsets", "deployments", "deployments/scale",
            "replicasets", "replicasets/scale", "statefulsets", "statefulsets/scale"]},
        {"apiGroups": ["autoscaling"], "verbs": WRITE, "resources": ["horizontalpodautoscalers"]},
        {"apiGroups": ["batch"], "verbs": WRITE, "resources": ["cronjobs", "jobs"]},
        {"apiGroups": ["networking.k8s.io"], "verbs": WRITE, "resources": ["ingresses", "networkpolicies"]},
        {"apiGroups": ["policy"], "verbs": WRITE, "resources": ["poddisruptionbudgets"]},
        {"apiGroups": ["coordination.k8s.io"], "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"], "resources": ["leases"]},
    ])
}

/// The node runs pods and is the cluster's controllers: it reads and collects everything, and creates what they create.
fn node_rules() -> Value {
    json!([
        {"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch", "delete", "deletecollection", "patch", "update"]},
        {"apiGroups": [""], "verbs": ["create"], "resources": ["bindings", "configmaps", "endpoints", "events", "nodes",
            "pods", "pods/binding", "pods/eviction", "secrets", "serviceaccounts", "serviceaccounts/token", "services"]},
        {"apiGroups": ["events.k8s.io"], "verbs": ["create"], "resources": ["events"]},
        {"apiGroups": ["apps"], "verbs": ["create"], "resources": ["controllerrevisions", "replicasets"]},
        {"apiGroups": ["batch"], "verbs": ["create"], "resources": ["jobs"]},
        {"apiGroups": ["discovery.k8s.io"], "verbs": ["create"], "resources": ["endpointslices"]},
        {"apiGroups": ["coordination.k8s.io"], "verbs": ["create"], "resources": ["leases"]},
        {"apiGroups": ["authentication.k8s.io"], "verbs": ["create"], "resources": ["tokenreviews"]},
        {"apiGroups": ["authorization.k8s.io"], "verbs": ["create"], "resources": ["subjectaccessreviews"]},
        {"nonResourceURLs": ["*"], "verbs": ["get"]},
    ])
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}})
}

fn role(name: &str, rules: Value) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata(name), "rules": rules})
}

fn binding(name: &str, role: &str, groups: &[&str]) -> Value {
    let subjects: Vec<Value> = groups
        .iter()
        .map(|g| json!({"kind": "Group", "name": g, "apiGroup": "rbac.authorization.k8s.io"}))
        .collect();
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": metadata(name),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}, "subjects": subjects})
}
