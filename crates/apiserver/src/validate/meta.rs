//! Validation of `metadata`.

use serde_json::Value;

use super::names;
use crate::field::{FieldError, child};
use crate::kinds::Resource;

const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Metadata of a new object.
pub(super) fn create(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let metadata = &object["metadata"];
    let mut errors = Vec::new();
    let generate = metadata["generateName"].as_str().unwrap_or_default();
    let check = name_check(resource);
    if !generate.is_empty() {
        // The generated suffix is added before validation; a trailing dash is fine.
        for why in check(&format!("{}a", generate.trim_end_matches('-'))) {
            errors.push(FieldError::invalid(
                "metadata.generateName",
                &metadata["generateName"],
                &why,
            ));
        }
    }
    match metadata["name"].as_str().filter(|n| !n.is_empty()) {
        None => errors.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        )),
        Some(name) => {
            for why in check(name) {
                errors.push(FieldError::invalid(
                    "metadata.name",
                    &metadata["name"],
                    &why,
                ));
            }
        }
    }
    errors.extend(common(metadata, "metadata"));
    errors
}

/// Labels, annotations, finalizers and owners: of new and changed objects, and of pod templates.
pub(super) fn common(metadata: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = labels(&metadata["labels"], &child(path, "labels"));
    errors.extend(annotations(
        &metadata["annotations"],
        &child(path, "annotations"),
    ));
    for (i, finalizer) in metadata["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let name = finalizer.as_str().unwrap_or_default();
        let field = format!("{path}.finalizers[{i}]");
        for why in names::qualified_name(name) {
            errors.push(FieldError::invalid(field.clone(), finalizer, &why));
        }
    }
    for (i, owner) in metadata["ownerReferences"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        for key in ["apiVersion", "kind", "name", "uid"] {
            if owner[key].as_str().unwrap_or_default().is_empty() {
                let field = format!("{path}.ownerReferences[{i}].{key}");
                errors.push(FieldError::invalid(
                    field,
                    &Value::from(""),
                    "must not be empty",
                ));
            }
        }
    }
    errors
}

/// A map of labels.
pub(super) fn labels(labels: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        for why in names::qualified_name(key) {
            errors.push(FieldError::invalid(path, &Value::from(key.as_str()), &why));
        }
        for why in names::label_value(value.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid(path, value, &why));
        }
    }
    errors
}

fn annotations(annotations: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        for why in names::qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid(path, &Value::from(key.as_str()), &why));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(path, MAX_ANNOTATIONS as u64));
    }
    errors
}

/// Metadata of a changed object.
pub(super) fn update(object: &Value, old: &Value) -> Vec<FieldError> {
    let (metadata, was) = (&object["metadata"], &old["metadata"]);
    let mut errors = Vec::new();
    for key in ["name", "namespace", "uid", "creationTimestamp"] {
        if metadata[key] != was[key] {
            errors.push(FieldError::invalid(
                format!("metadata.{key}"),
                &metadata[key],
                "field is immutable",
            ));
        }
    }
    if !was["deletionTimestamp"].is_null() {
        let had = was["finalizers"].as_array().cloned().unwrap_or_default();
        let added: Vec<&str> = metadata["finalizers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|f| !had.contains(f))
            .filter_map(Value::as_str)
            .collect();
        if !added.is_empty() {
            let list = format!(
                "[{}]",
                added
                    .iter()
                    .map(|a| format!("{a:?}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            );
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                &format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}", list.trim_matches(['[', ']'])),
            ));
        }
    }
    errors.extend(common(metadata, "metadata"));
    errors
}

/// How a kind's names look.
fn name_check(resource: &Resource) -> fn(&str) -> Vec<String> {
    if resource.custom.is_some() {
        return names::dns1123_subdomain;
    }
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Namespace") => names::dns1123_label,
        ("", "Service") => names::dns1035_label,
        ("rbac.authorization.k8s.io", _) => names::path_segment,
        _ => names::dns1123_subdomain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;
    use serde_json::json;

    fn errors(plural: &str, object: &Value) -> Vec<String> {
        let registry = Registry::builtin();
        let found = create(registry.find("", "v1", plural).expect("served"), object);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_bad_name_is_refused_in_kubernetes_words() {
        let found = errors("configmaps", &json!({"metadata": {"name": "Bad_Name"}}));
        assert!(found[0].starts_with("metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain must consist of"), "{found:?}");
        assert_eq!(
            errors("configmaps", &json!({"metadata": {}})),
            ["metadata.name: Required value: name or generateName is required"]
        );
    }

    #[test]
    fn labels_are_checked_by_key_and_value() {
        let found = errors(
            "configmaps",
            &json!({"metadata": {"name": "a", "labels": {"-k": "v", "k": "v v"}}}),
        );
        assert!(
            found[0]
                .starts_with("metadata.labels: Invalid value: \"-k\": name part must consist of"),
            "{found:?}"
        );
        assert!(
            found[1].starts_with(
                "metadata.labels: Invalid value: \"v v\": a valid label must be an empty string or"
            ),
            "{found:?}"
        );
    }

    #[test]
    fn an_object_being_deleted_gets_no_new_finalizers() {
        let old =
            json!({"metadata": {"name": "a", "deletionTimestamp": "x", "finalizers": ["e.io/a"]}});
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!([]);
        assert!(update(&new, &old).is_empty());
        new["metadata"]["finalizers"] = json!(["e.io/a", "e.io/b"]);
        assert_eq!(update(&new, &old).len(), 1);
    }
}
