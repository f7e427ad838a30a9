//! What the API server asks the control plane: to inject pods, and to check configuration.

use serde_json::{Value, json};

use crate::Values;
use crate::names::{cluster_wide, labels, revisioned};

const API: &str = "admissionregistration.k8s.io/v1";
const INJECT: &str = "sidecar.istio.io/inject";
const REVISION: &str = "istio.io/rev";
const INJECTION: &str = "istio-injection";

/// The webhook configurations. The control plane fills in its own trust bundle.
pub(crate) fn objects(values: &Values) -> Vec<Value> {
    let mut objects = vec![injector(values)];
    if values.validation {
        objects.extend([revision_validator(values), default_validator(values)]);
    }
    objects
}

fn client(values: &Values, path: &str) -> Value {
    let name = revisioned(values, "istiod");
    json!({"service": {"name": name, "namespace": values.namespace(), "path": path, "port": 443}})
}

fn is(key: &str, operator: &str, values: &[&str]) -> Value {
    json!({"key": key, "operator": operator, "values": values})
}

fn absent(key: &str) -> Value {
    json!({"key": key, "operator": "DoesNotExist"})
}

/// Four webhooks, of which at most one selects a pod: by the namespace's revision, by the pod's revision, by the
/// namespace's `istio-injection` label, by the pod's own wish.
fn injector(values: &Values) -> Value {
    let name = revisioned(values, "istio-sidecar-injector");
    let revision = values.revision();
    let not_refused = is(INJECT, "NotIn", &["false"]);
    let mut webhooks = vec![
        pod_webhook(
            values,
            "rev.namespace",
            &[is(REVISION, "In", &[revision]), absent(INJECTION)],
            std::slice::from_ref(&not_refused),
        ),
        pod_webhook(
            values,
            "rev.object",
            &[absent(REVISION), absent(INJECTION)],
            &[not_refused.clone(), is(REVISION, "In", &[revision])],
        ),
    ];
    if revision == "default" {
        let enabled = is(INJECTION, "In", &["enabled"]);
        let asked = is(INJECT, "In", &["true"]);
        webhooks.extend([
            pod_webhook(values, "namespace", &[enabled], &[not_refused]),
            pod_webhook(
                values,
                "object",
                &[absent(INJECTION), absent(REVISION)],
                &[asked, absent(REVISION)],
            ),
        ]);
    }
    let mut configuration = cluster_wide(
        API,
        "MutatingWebhookConfiguration",
        &name,
        &labels(values, "sidecar-injector"),
    );
    configuration["webhooks"] = Value::Array(webhooks);
    configuration
}

fn pod_webhook(values: &Values, name: &str, namespaces: &[Value], pods: &[Value]) -> Value {
    json!({
        "name": format!("{name}.sidecar-injector.istio.io"),
        "clientConfig": client(values, "/inject"),
        "sideEffects": "None",
        "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        // A pod that should be in the mesh must not start outside of it.
        "failurePolicy": "Fail",
        "reinvocationPolicy": "Never",
        "admissionReviewVersions": ["v1"],
        "namespaceSelector": {"matchExpressions": namespaces},
        "objectSelector": {"matchExpressions": pods},
    })
}

/// Checks the objects of one revision.
fn revision_validator(values: &Values) -> Value {
    let name = format!(
        "{}-{}",
        revisioned(values, "istio-validator"),
        values.namespace()
    );
    let mut webhook = validation_webhook(values, "rev.validation.istio.io");
    webhook["objectSelector"] =
        json!({"matchExpressions": [is(REVISION, "In", &[values.revision()])]});
    validating(values, &name, &webhook)
}

/// Checks the objects that belong to no revision.
fn default_validator(values: &Values) -> Value {
    let webhook = validation_webhook(values, "validation.istio.io");
    validating(values, "istiod-default-validator", &webhook)
}

fn validating(values: &Values, name: &str, webhook: &Value) -> Value {
    let mut configuration = cluster_wide(
        API,
        "ValidatingWebhookConfiguration",
        name,
        &labels(values, "istiod"),
    );
    configuration["webhooks"] = json!([webhook]);
    configuration
}

fn validation_webhook(values: &Values, name: &str) -> Value {
    json!({
        "name": name,
        "clientConfig": client(values, "/validate"),
        "rules": [{
            "operations": ["CREATE", "UPDATE"],
            "apiGroups": ["security.istio.io", "networking.istio.io", "telemetry.istio.io", "extensions.istio.io"],
            "apiVersions": ["*"],
            "resources": ["*"],
        }],
        // The control plane makes it strict once it answers.
        "failurePolicy": "Ignore",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    })
}
