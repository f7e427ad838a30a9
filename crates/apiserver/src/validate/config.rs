//! Validation of ConfigMaps, Secrets, roles, bindings and webhooks.

use serde_json::Value;

use super::{names, pod};
use crate::field::{FieldError, child, index};

const MAX_SIZE: usize = 1024 * 1024;

/// A ConfigMap or Secret.
pub(super) fn data(kind: &str, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for member in ["data", "binaryData"] {
        for (key, value) in object[member].as_object().into_iter().flatten() {
            let field = format!("{member}[{key}]");
            let refused = names::config_key(key);
            errors.extend(
                refused
                    .iter()
                    .map(|w| FieldError::invalid(field.clone(), &Value::from(key.as_str()), w)),
            );
            size += value.as_str().map_or(0, str::len);
        }
    }
    if size > MAX_SIZE * if kind == "Secret" { 4 } else { 3 } / 3 {
        errors.push(FieldError::too_long("data", MAX_SIZE as u64));
    }
    if kind == "Secret" {
        for key in required_secret_keys(object["type"].as_str().unwrap_or_default()) {
            if object["data"].get(*key).is_none() {
                errors.push(FieldError::required(format!("data[{key}]"), ""));
            }
        }
    }
    errors
}

// table: keys that a type of secret must have.
fn required_secret_keys(kind: &str) -> &'static [&'static str] {
    match kind {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        _ => &[],
    }
}

/// What may not change in a ConfigMap or Secret.
pub(super) fn data_update(kind: &str, object: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if kind == "Secret" && object["type"] != old["type"] {
        errors.push(FieldError::invalid(
            "type",
            &object["type"],
            "field is immutable",
        ));
    }
    if old["immutable"] == true {
        let detail = "field is immutable when `immutable` is set";
        if object["immutable"] != true {
            errors.push(FieldError::forbidden("immutable", detail));
        }
        for member in ["data", "binaryData"] {
            if object[member] != old[member] {
                errors.push(FieldError::forbidden(member, detail));
            }
        }
    }
    errors
}

/// A Role or ClusterRole.
pub(super) fn role(kind: &str, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (i, rule) in object["rules"].as_array().into_iter().flatten().enumerate() {
        let at = index("rules", i);
        let empty = |key: &str| rule[key].as_array().is_none_or(Vec::is_empty);
        if empty("verbs") {
            errors.push(FieldError::required(
                child(&at, "verbs"),
                "verbs must contain at least one value",
            ));
        }
        if !empty("nonResourceURLs") {
            if kind == "Role" {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.push(FieldError::invalid(
                    child(&at, "nonResourceURLs"),
                    &rule["nonResourceURLs"],
                    detail,
                ));
            }
            if !empty("resources") || !empty("apiGroups") {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(FieldError::invalid(
                    child(&at, "nonResourceURLs"),
                    &rule["nonResourceURLs"],
                    detail,
                ));
            }
            continue;
        }
        if empty("apiGroups") {
            errors.push(FieldError::required(
                child(&at, "apiGroups"),
                "resource rules must supply at least one api group",
            ));
        }
        if empty("resources") {
            errors.push(FieldError::required(
                child(&at, "resources"),
                "resource rules must supply at least one resource",
            ));
        }
    }
    errors
}

/// A RoleBinding or ClusterRoleBinding.
pub(super) fn role_binding(kind: &str, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let role = &object["roleRef"];
    if role["apiGroup"] != "rbac.authorization.k8s.io" {
        errors.push(FieldError::not_supported(
            "roleRef.apiGroup",
            &role["apiGroup"],
            &["rbac.authorization.k8s.io"],
        ));
    }
    let kinds: &[&str] = if kind == "RoleBinding" {
        &["Role", "ClusterRole"]
    } else {
        &["ClusterRole"]
    };
    if !kinds.iter().any(|k| role["kind"] == *k) {
        errors.push(FieldError::not_supported(
            "roleRef.kind",
            &role["kind"],
            kinds,
        ));
    }
    if role["name"].as_str().unwrap_or_default().is_empty() {
        errors.push(FieldError::required("roleRef.name", ""));
    }
    for (i, subject) in object["subjects"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let at = index("subjects", i);
        if subject["name"].as_str().unwrap_or_default().is_empty() {
            errors.push(FieldError::required(child(&at, "name"), ""));
        }
        match subject["kind"].as_str() {
            Some("User" | "Group") => {}
            Some("ServiceAccount") => {
                if subject["namespace"].as_str().unwrap_or_default().is_empty()
                    && kind == "ClusterRoleBinding"
                {
                    errors.push(FieldError::required(child(&at, "namespace"), ""));
                }
            }
            _ => errors.push(FieldError::not_supported(
                child(&at, "kind"),
                &subject["kind"],
                &["ServiceAccount", "User", "Group"],
            )),
        }
    }
    errors
}

/// A binding's role may not change.
pub(super) fn role_binding_update(object: &Value, old: &Value) -> Vec<FieldError> {
    if object["roleRef"] == old["roleRef"] {
        return Vec::new();
    }
    vec![FieldError::invalid(
        "roleRef",
        &object["roleRef"],
        "cannot change roleRef",
    )]
}

/// A webhook configuration.
pub(super) fn webhooks(object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (i, webhook) in object["webhooks"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let at = index("webhooks", i);
        let name = webhook["name"].as_str().unwrap_or_default();
        let refused = names::dns1123_subdomain(name);
        errors.extend(
            refused
                .iter()
                .map(|w| FieldError::invalid(child(&at, "name"), &webhook["name"], w)),
        );
        if refused.is_empty() && name.split('.').count() < 3 {
            errors.push(FieldError::invalid(
                child(&at, "name"),
                &webhook["name"],
                "should be a domain with at least three segments separated by dots",
            ));
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(child(&at, "name"), &webhook["name"]));
        }
        webhook_body(webhook, &at, &mut errors);
    }
    errors
}

fn webhook_body(webhook: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let versions = webhook["admissionReviewVersions"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    let field = child(at, "admissionReviewVersions");
    if versions.is_empty() {
        errors.push(FieldError::required(
            field,
            "must specify one of v1, v1beta1",
        ));
    } else if !versions.iter().any(|v| v == "v1" || v == "v1beta1") {
        errors.push(FieldError::invalid(
            field,
            &webhook["admissionReviewVersions"],
            "must include at least one of v1, v1beta1",
        ));
    }
    if webhook["sideEffects"].is_null() {
        errors.push(FieldError::required(
            child(at, "sideEffects"),
            "must specify one of None, NoneOnDryRun",
        ));
    } else {
        pod::one_of(
            webhook,
            "sideEffects",
            at,
            &["None", "NoneOnDryRun"],
            errors,
        );
    }
    pod::one_of(webhook, "failurePolicy", at, &["Fail", "Ignore"], errors);
    pod::one_of(webhook, "matchPolicy", at, &["Equivalent", "Exact"], errors);
    pod::one_of(
        webhook,
        "reinvocationPolicy",
        at,
        &["IfNeeded", "Never"],
        errors,
    );
    if webhook["timeoutSeconds"]
        .as_i64()
        .is_some_and(|n| !(1..=30).contains(&n))
    {
        errors.push(FieldError::invalid(
            child(at, "timeoutSeconds"),
            &webhook["timeoutSeconds"],
            "the timeout value must be between 1 and 30 seconds",
        ));
    }
    let client = &webhook["clientConfig"];
    let (url, service) = (client["url"].is_string(), client["service"].is_object());
    if url == service {
        errors.push(FieldError::required(
            child(at, "clientConfig"),
            "exactly one of url or service is required",
        ));
    }
    webhook_rules(webhook, at, errors);
}

fn webhook_rules(webhook: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (j, rule) in webhook["rules"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        for key in ["operations", "apiGroups", "apiVersions", "resources"] {
            if rule[key].as_array().is_none_or(Vec::is_empty) {
                errors.push(FieldError::required(format!("{at}.rules[{j}].{key}"), ""));
            }
        }
    }
}
