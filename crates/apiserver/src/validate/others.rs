//! Validation of the kinds with few rules.

use serde_json::Value;

use super::pod;
use crate::field::{FieldError, child, index};

/// The rules of a kind that has no module of its own.
// table: rules by kind.
pub(super) fn check(group: &str, kind: &str, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match (group, kind) {
        ("", "Event") => event(object, &mut errors),
        ("", "PersistentVolumeClaim") => claim(&object["spec"], &mut errors),
        ("autoscaling", _) => autoscaler(&object["spec"], &mut errors),
        ("policy", _) => {
            let spec = &object["spec"];
            if !spec["minAvailable"].is_null() && !spec["maxUnavailable"].is_null() {
                let detail = "minAvailable and maxUnavailable cannot be both set";
                errors.push(FieldError::invalid("spec", &Value::from("object"), detail));
            }
        }
        ("coordination.k8s.io", _) => lease(&object["spec"], &mut errors),
        ("networking.k8s.io", "Ingress") => ingress(&object["spec"], &mut errors),
        ("networking.k8s.io", "IngressClass") => {
            required(&object["spec"], "controller", "spec", &mut errors)
        }
        ("scheduling.k8s.io", _) if object["value"].as_i64().is_some_and(|v| v > 1_000_000_000) => {
            let detail = "maximum allowed value of a user defined priority is 1000000000";
            errors.push(FieldError::forbidden("value", detail));
        }
        _ => {}
    }
    errors
}

fn required(object: &Value, key: &str, path: &str, errors: &mut Vec<FieldError>) {
    if object[key].as_str().unwrap_or_default().is_empty() {
        errors.push(FieldError::required(child(path, key), ""));
    }
}

/// An event lives in the namespace of what it is about; cluster objects' events live in `default`.
fn event(object: &Value, errors: &mut Vec<FieldError>) {
    let about = &object["involvedObject"]["namespace"];
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let matches = match about.as_str().unwrap_or_default() {
        "" => matches!(namespace, "" | "default" | "kube-system"),
        about => about == namespace,
    };
    if !matches {
        errors.push(FieldError::invalid(
            "involvedObject.namespace",
            about,
            "does not match event.namespace",
        ));
    }
}

fn claim(spec: &Value, errors: &mut Vec<FieldError>) {
    let modes = spec["accessModes"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    if modes.is_empty() {
        errors.push(FieldError::required(
            "spec.accessModes",
            "at least 1 access mode is required",
        ));
    }
    let known = [
        "ReadOnlyMany",
        "ReadWriteMany",
        "ReadWriteOnce",
        "ReadWriteOncePod",
    ];
    for mode in modes.iter().filter(|m| !known.iter().any(|k| *m == k)) {
        errors.push(FieldError::not_supported("spec.accessModes", mode, &known));
    }
    if spec["resources"]["requests"]["storage"].is_null() {
        errors.push(FieldError::required("spec.resources[storage]", ""));
    }
}

fn autoscaler(spec: &Value, errors: &mut Vec<FieldError>) {
    let (min, max) = (
        spec["minReplicas"].as_i64().unwrap_or(1),
        spec["maxReplicas"].as_i64().unwrap_or(0),
    );
    if min < 1 {
        errors.push(FieldError::invalid(
            "spec.minReplicas",
            &Value::from(min),
            "must be greater than or equal to 1",
        ));
    }
    if max < 1 {
        errors.push(FieldError::invalid(
            "spec.maxReplicas",
            &Value::from(max),
            "must be greater than 0",
        ));
    } else if max < min {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(
            "spec.maxReplicas",
            &Value::from(max),
            detail,
        ));
    }
    for key in ["kind", "name"] {
        required(&spec["scaleTargetRef"], key, "spec.scaleTargetRef", errors);
    }
}

fn lease(spec: &Value, errors: &mut Vec<FieldError>) {
    if spec["leaseDurationSeconds"]
        .as_i64()
        .is_some_and(|n| n <= 0)
    {
        let field = "spec.leaseDurationSeconds";
        errors.push(FieldError::invalid(
            field,
            &spec["leaseDurationSeconds"],
            "must be greater than 0",
        ));
    }
    pod::not_negative(&spec["leaseTransitions"], "spec.leaseTransitions", errors);
}

fn ingress(spec: &Value, errors: &mut Vec<FieldError>) {
    let rules = spec["rules"].as_array().map_or(&[][..], Vec::as_slice);
    if rules.is_empty() && !spec["defaultBackend"].is_object() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid("spec", &Value::from("object"), detail));
    }
    for (i, rule) in rules.iter().enumerate() {
        for (j, path) in rule["http"]["paths"]
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
        {
            let at = index(&format!("spec.rules[{i}].http.paths"), j);
            if path["pathType"].is_null() {
                errors.push(FieldError::required(
                    child(&at, "pathType"),
                    "pathType must be specified",
                ));
            }
            pod::one_of(
                path,
                "pathType",
                &at,
                &["Exact", "ImplementationSpecific", "Prefix"],
                errors,
            );
            let absolute = path["path"].as_str().is_some_and(|p| p.starts_with('/'));
            if path["pathType"] != "ImplementationSpecific" && !absolute {
                errors.push(FieldError::invalid(
                    child(&at, "path"),
                    &path["path"],
                    "must be an absolute path",
                ));
            }
            if path["backend"]["service"].is_object() {
                required(
                    &path["backend"]["service"],
                    "name",
                    &child(&at, "backend.service"),
                    errors,
                );
            }
        }
    }
}
