//! What a CRD must look like.

use std::collections::HashSet;

use serde_json::Value;

use crate::field::{FieldError, child, index};
use crate::jsonpath::JsonPath;
use crate::validate::names;

/// All rules; `old` on update.
pub(super) fn check(crd: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let spec = &crd["spec"];
    let mut errors = Vec::new();
    group_and_names(crd, &mut errors);
    scope(spec, &mut errors);
    versions(spec, old, &mut errors);
    stored_versions(crd, &mut errors);
    conversion(spec, &mut errors);
    if let Some(old) = old {
        for (path, key) in [
            ("spec.group", "/spec/group"),
            ("spec.scope", "/spec/scope"),
            ("spec.names.plural", "/spec/names/plural"),
            ("spec.names.kind", "/spec/names/kind"),
        ] {
            if crd.pointer(key) != old.pointer(key) {
                let value = crd.pointer(key).unwrap_or(&Value::Null);
                errors.push(FieldError::invalid(path, value, "field is immutable"));
            }
        }
    }
    errors
}

fn group_and_names(crd: &Value, errors: &mut Vec<FieldError>) {
    let spec = &crd["spec"];
    let group = spec["group"].as_str().unwrap_or_default();
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else {
        let refused = names::dns1123_subdomain(group);
        errors.extend(
            refused
                .iter()
                .map(|w| FieldError::invalid("spec.group", &spec["group"], w)),
        );
        if refused.is_empty() && !group.contains('.') {
            errors.push(FieldError::invalid(
                "spec.group",
                &spec["group"],
                "should be a domain with at least one dot",
            ));
        }
    }
    let wanted = &spec["names"];
    for key in ["plural", "singular", "kind", "listKind"] {
        let field = format!("spec.names.{key}");
        match wanted[key].as_str().filter(|n| !n.is_empty()) {
            None if matches!(key, "plural" | "kind") => {
                errors.push(FieldError::required(field, ""))
            }
            None => {}
            Some(name) => {
                let refused = names::dns1035_label(&name.to_lowercase());
                errors.extend(
                    refused
                        .iter()
                        .map(|w| FieldError::invalid(field.clone(), &wanted[key], w)),
                );
            }
        }
    }
    let expected = format!("{}.{group}", wanted["plural"].as_str().unwrap_or_default());
    if crd["metadata"]["name"] != *expected {
        errors.push(FieldError::invalid(
            "metadata.name",
            &crd["metadata"]["name"],
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    protected(crd, group, errors);
}

/// Groups of the Kubernetes project need an annotation that says where they were approved.
fn protected(crd: &Value, group: &str, errors: &mut Vec<FieldError>) {
    const KEY: &str = "api-approved.kubernetes.io";
    let owned = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|d| group == *d || group.ends_with(&format!(".{d}")));
    if owned
        && crd["metadata"]["annotations"][KEY]
            .as_str()
            .unwrap_or_default()
            .is_empty()
    {
        errors.push(FieldError::required(
            format!("metadata.annotations[{KEY}]"),
            &format!("protected groups must have approval annotation {KEY:?}, see https://github.com/kubernetes/enhancements/pull/1111"),
        ));
    }
}

fn scope(spec: &Value, errors: &mut Vec<FieldError>) {
    match spec["scope"].as_str() {
        None | Some("") => errors.push(FieldError::required("spec.scope", "")),
        Some("Cluster" | "Namespaced") => {}
        Some(_) => errors.push(FieldError::not_supported(
            "spec.scope",
            &spec["scope"],
            &["Cluster", "Namespaced"],
        )),
    }
}

fn versions(spec: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let versions = spec["versions"].as_array().map_or(&[][..], Vec::as_slice);
    if versions.is_empty() {
        return errors.push(FieldError::required(
            "spec.versions",
            "must have exactly one version marked as storage version",
        ));
    }
    let storage = versions.iter().filter(|v| v["storage"] == true).count();
    if storage != 1 {
        errors.push(FieldError::invalid(
            "spec.versions",
            &spec["versions"][0]["name"],
            "must have exactly one version marked as storage version",
        ));
    }
    let mut seen = HashSet::new();
    for (i, version) in versions.iter().enumerate() {
        let at = index("spec.versions", i);
        let name = version["name"].as_str().unwrap_or_default();
        let refused = names::dns1035_label(name);
        errors.extend(
            refused
                .iter()
                .map(|w| FieldError::invalid(child(&at, "name"), &version["name"], w)),
        );
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(child(&at, "name"), &version["name"]));
        }
        schema(version, &at, old, errors);
        columns(version, &at, errors);
        let scale = &version["subresources"]["scale"];
        if scale.is_object() {
            for key in ["specReplicasPath", "statusReplicasPath"] {
                if scale[key].as_str().unwrap_or_default().is_empty() {
                    errors.push(FieldError::required(
                        format!("{at}.subresources.scale.{key}"),
                        "",
                    ));
                }
            }
        }
    }
}

fn schema(version: &Value, at: &str, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let path = format!("{at}.schema.openAPIV3Schema");
    let schema = &version["schema"]["openAPIV3Schema"];
    if !schema.is_object() {
        return errors.push(FieldError::required(path, "schemas are required"));
    }
    if schema["type"] != "object" && schema["type"].is_string() {
        errors.push(FieldError::invalid(
            child(&path, "type"),
            &schema["type"],
            "must be object at the root",
        ));
    }
    // What is stored unchanged has been compiled before.
    let stored = old
        .and_then(|o| o["spec"]["versions"].as_array())
        .into_iter()
        .flatten();
    if stored
        .filter(|v| v["name"] == version["name"])
        .any(|v| v["schema"] == version["schema"])
    {
        return;
    }
    if let Err(found) = super::compiled(schema, &path) {
        errors.extend(found);
    }
}

fn columns(version: &Value, at: &str, errors: &mut Vec<FieldError>) {
    for (i, column) in version["additionalPrinterColumns"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let at = index(&child(at, "additionalPrinterColumns"), i);
        for key in ["name", "type", "jsonPath"] {
            if column[key].as_str().unwrap_or_default().is_empty() {
                errors.push(FieldError::required(child(&at, key), ""));
            }
        }
        let kinds = ["boolean", "date", "integer", "number", "string"];
        if column["type"].as_str().is_some_and(|t| !kinds.contains(&t)) {
            errors.push(FieldError::not_supported(
                child(&at, "type"),
                &column["type"],
                &kinds,
            ));
        }
        if let Some(path) = column["jsonPath"].as_str().filter(|p| !p.is_empty())
            && JsonPath::parse(path).is_none()
        {
            errors.push(FieldError::invalid(
                child(&at, "jsonPath"),
                &column["jsonPath"],
                "must be a simple json path starting with .",
            ));
        }
    }
}

/// Versions in which objects may be stored can not go away.
fn stored_versions(crd: &Value, errors: &mut Vec<FieldError>) {
    let versions = crd["spec"]["versions"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    for (i, stored) in crd["status"]["storedVersions"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        if !versions.iter().any(|v| v["name"] == *stored) {
            let field = index("status.storedVersions", i);
            errors.push(FieldError::invalid(
                field,
                stored,
                "must appear in spec.versions",
            ));
        }
    }
}

/// Objects convert by name only; a webhook would be ignored, so it is refused.
fn conversion(spec: &Value, errors: &mut Vec<FieldError>) {
    let strategy = &spec["conversion"]["strategy"];
    if strategy.as_str().is_some_and(|s| s != "None") {
        errors.push(FieldError::not_supported(
            "spec.conversion.strategy",
            strategy,
            &["None"],
        ));
    }
}
