//! The table of built-in kinds with Kubernetes' own names, short names and categories.

use super::{CREATE_ONLY, Resource, STATUS_VERBS, STORED_VERBS, Subresource, Text};

/// One row: group, version, kind, plural, short names, categories, namespaced, subresources.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    bool,
    &'static [&'static str],
);

const NONE: &[&str] = &[];
const ALL: &[&str] = &["all"];
const EXT: &[&str] = &["api-extensions"];
const STATUS: &[&str] = &["status"];
const SCALED: &[&str] = &["scale", "status"];

// table: the stored kinds, in discovery's order of groups.
const STORED: &[Row] = &[
    (
        "",
        "v1",
        "ConfigMap",
        "configmaps",
        &["cm"],
        NONE,
        true,
        NONE,
    ),
    (
        "",
        "v1",
        "Endpoints",
        "endpoints",
        &["ep"],
        NONE,
        true,
        NONE,
    ),
    ("", "v1", "Event", "events", &["ev"], NONE, true, NONE),
    (
        "",
        "v1",
        "LimitRange",
        "limitranges",
        &["limits"],
        NONE,
        true,
        NONE,
    ),
    (
        "",
        "v1",
        "Namespace",
        "namespaces",
        &["ns"],
        NONE,
        false,
        &["finalize", "status"],
    ),
    (
        "",
        "v1",
        "Node",
        "nodes",
        &["no"],
        NONE,
        false,
        &["proxy", "status"],
    ),
    (
        "",
        "v1",
        "PersistentVolumeClaim",
        "persistentvolumeclaims",
        &["pvc"],
        NONE,
        true,
        STATUS,
    ),
    (
        "",
        "v1",
        "Pod",
        "pods",
        &["po"],
        ALL,
        true,
        &[
            "attach",
            "binding",
            "ephemeralcontainers",
            "eviction",
            "exec",
            "log",
            "portforward",
            "proxy",
            "resize",
            "status",
        ],
    ),
    (
        "",
        "v1",
        "ReplicationController",
        "replicationcontrollers",
        &["rc"],
        ALL,
        true,
        SCALED,
    ),
    (
        "",
        "v1",
        "ResourceQuota",
        "resourcequotas",
        &["quota"],
        NONE,
        true,
        STATUS,
    ),
    ("", "v1", "Secret", "secrets", NONE, NONE, true, NONE),
    (
        "",
        "v1",
        "ServiceAccount",
        "serviceaccounts",
        &["sa"],
        NONE,
        true,
        &["token"],
    ),
    (
        "",
        "v1",
        "Service",
        "services",
        &["svc"],
        ALL,
        true,
        &["proxy", "status"],
    ),
    (
        "apps",
        "v1",
        "ControllerRevision",
        "controllerrevisions",
        NONE,
        NONE,
        true,
        NONE,
    ),
    (
        "apps",
        "v1",
        "DaemonSet",
        "daemonsets",
        &["ds"],
        ALL,
        true,
        STATUS,
    ),
    (
        "apps",
        "v1",
        "Deployment",
        "deployments",
        &["deploy"],
        ALL,
        true,
        SCALED,
    ),
    (
        "apps",
        "v1",
        "ReplicaSet",
        "replicasets",
        &["rs"],
        ALL,
        true,
        SCALED,
    ),
    (
        "apps",
        "v1",
        "StatefulSet",
        "statefulsets",
        &["sts"],
        ALL,
        true,
        SCALED,
    ),
    (
        "events.k8s.io",
        "v1",
        "Event",
        "events",
        &["ev"],
        NONE,
        true,
        NONE,
    ),
    (
        "autoscaling",
        "v2",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        &["hpa"],
        ALL,
        true,
        STATUS,
    ),
    (
        "batch",
        "v1",
        "CronJob",
        "cronjobs",
        &["cj"],
        ALL,
        true,
        STATUS,
    ),
    ("batch", "v1", "Job", "jobs", NONE, ALL, true, STATUS),
    (
        "networking.k8s.io",
        "v1",
        "IngressClass",
        "ingressclasses",
        NONE,
        NONE,
        false,
        NONE,
    ),
    (
        "networking.k8s.io",
        "v1",
        "Ingress",
        "ingresses",
        &["ing"],
        NONE,
        true,
        STATUS,
    ),
    (
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
        &["netpol"],
        NONE,
        true,
        NONE,
    ),
    (
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        &["pdb"],
        NONE,
        true,
        STATUS,
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "ClusterRoleBinding",
        "clusterrolebindings",
        NONE,
        NONE,
        false,
        NONE,
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "ClusterRole",
        "clusterroles",
        NONE,
        NONE,
        false,
        NONE,
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "RoleBinding",
        "rolebindings",
        NONE,
        NONE,
        true,
        NONE,
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "Role",
        "roles",
        NONE,
        NONE,
        true,
        NONE,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        NONE,
        EXT,
        false,
        NONE,
    ),
    (
        "admissionregistration.k8s.io",
        "v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        NONE,
        EXT,
        false,
        NONE,
    ),
    (
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        &["crd", "crds"],
        EXT,
        false,
        STATUS,
    ),
    (
        "scheduling.k8s.io",
        "v1",
        "PriorityClass",
        "priorityclasses",
        &["pc"],
        NONE,
        false,
        NONE,
    ),
    (
        "coordination.k8s.io",
        "v1",
        "Lease",
        "leases",
        NONE,
        NONE,
        true,
        NONE,
    ),
    (
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
        NONE,
        NONE,
        true,
        NONE,
    ),
];

/// Kinds that are only posted: group, version, kind, plural, namespaced.
const POSTED: &[(&str, &str, &str, &str, bool)] = &[
    ("", "v1", "Binding", "bindings", true),
    (
        "authentication.k8s.io",
        "v1",
        "SelfSubjectReview",
        "selfsubjectreviews",
        false,
    ),
    (
        "authentication.k8s.io",
        "v1",
        "TokenReview",
        "tokenreviews",
        false,
    ),
    (
        "authorization.k8s.io",
        "v1",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        true,
    ),
    (
        "authorization.k8s.io",
        "v1",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        false,
    ),
    (
        "authorization.k8s.io",
        "v1",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        false,
    ),
    (
        "authorization.k8s.io",
        "v1",
        "SubjectAccessReview",
        "subjectaccessreviews",
        false,
    ),
];

/// The group order that discovery answers with.
const GROUP_ORDER: &[&str] = &[
    "",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
];

/// How many named groups are built in.
pub(super) fn group_count() -> usize {
    GROUP_ORDER.len() - 1
}

/// All built-in resources, sorted by group order and plural.
pub(super) fn resources() -> Vec<Resource> {
    let mut out: Vec<Resource> = STORED.iter().map(stored).collect();
    out.extend(POSTED.iter().map(posted));
    let rank = |group: &str| GROUP_ORDER.iter().position(|g| *g == group);
    out.sort_by(|a, b| (rank(&a.group), &a.plural).cmp(&(rank(&b.group), &b.plural)));
    out
}

fn stored(row: &Row) -> Resource {
    let &(group, version, kind, plural, short_names, categories, namespaced, subresources) = row;
    Resource {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        list_kind: format!("{kind}List").into(),
        plural: plural.into(),
        singular: kind.to_ascii_lowercase().into(),
        short_names: texts(short_names),
        categories: texts(categories),
        namespaced,
        verbs: STORED_VERBS,
        subresources: subresources
            .iter()
            .map(|name| subresource(kind, name))
            .collect(),
        storage_group: if group == "events.k8s.io" {
            "".into()
        } else {
            group.into()
        },
        custom: None,
    }
}

fn posted(
    &(group, version, kind, plural, namespaced): &(
        &'static str,
        &'static str,
        &'static str,
        &'static str,
        bool,
    ),
) -> Resource {
    Resource {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        list_kind: format!("{kind}List").into(),
        plural: plural.into(),
        singular: kind.to_ascii_lowercase().into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced,
        verbs: CREATE_ONLY,
        subresources: Vec::new(),
        storage_group: group.into(),
        custom: None,
    }
}

fn texts(names: &[&'static str]) -> Vec<Text> {
    names.iter().map(|n| Text::Borrowed(n)).collect()
}

// table: what each subresource speaks.
fn subresource(parent: &'static str, name: &'static str) -> Subresource {
    const CONNECT: &[&str] = &["create", "get"];
    const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
    let (kind, group_version, verbs): (&str, Option<(&str, &str)>, &'static [&'static str]) =
        match (parent, name) {
            (_, "scale") => ("Scale", Some(("autoscaling", "v1")), STATUS_VERBS),
            (_, "token") => (
                "TokenRequest",
                Some(("authentication.k8s.io", "v1")),
                CREATE_ONLY,
            ),
            (_, "eviction") => ("Eviction", Some(("policy", "v1")), CREATE_ONLY),
            (_, "binding") => ("Binding", None, CREATE_ONLY),
            (_, "finalize") => (parent, None, &["update"]),
            (_, "log") => (parent, None, &["get"]),
            ("Pod", "attach") => ("PodAttachOptions", None, CONNECT),
            ("Pod", "exec") => ("PodExecOptions", None, CONNECT),
            ("Pod", "portforward") => ("PodPortForwardOptions", None, CONNECT),
            ("Pod", "proxy") => ("PodProxyOptions", None, PROXY),
            ("Node", "proxy") => ("NodeProxyOptions", None, PROXY),
            ("Service", "proxy") => ("ServiceProxyOptions", None, PROXY),
            _ => (parent, None, STATUS_VERBS),
        };
    Subresource {
        name: name.into(),
        kind: kind.into(),
        group_version: group_version.map(|(g, v)| (g.into(), v.into())),
        verbs,
    }
}

/// Kinds whose `metadata.generation` Kubernetes keeps.
pub(super) fn has_generation(group: &str, kind: &str) -> bool {
    matches!(
        (group, kind),
        ("", "Pod" | "ReplicationController")
            | (
                "apps",
                "DaemonSet" | "Deployment" | "ReplicaSet" | "StatefulSet"
            )
            | ("batch", "Job" | "CronJob")
            | ("policy", _)
            | ("networking.k8s.io", _)
            | ("admissionregistration.k8s.io", _)
            | ("apiextensions.k8s.io", _)
            | ("scheduling.k8s.io", _)
            | ("discovery.k8s.io", _)
    )
}
