//! Validation of pods and pod templates.

use std::collections::HashSet;

use serde_json::Value;

use super::names;
use crate::field::{FieldError, child, index};

/// A pod spec at `path`; `claims` are the names of a StatefulSet's claim templates, which are volumes too.
pub(super) fn spec(spec: &Value, path: &str, claims: &[&str]) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut volumes = volumes(&spec["volumes"], &child(path, "volumes"), &mut errors);
    volumes.extend(claims.iter().map(|c| (*c).to_owned()));
    if spec["containers"].as_array().is_none_or(Vec::is_empty) {
        errors.push(FieldError::required(child(path, "containers"), ""));
    }
    let mut container_names: HashSet<String> = HashSet::new();
    for key in ["containers", "initContainers"] {
        for (i, container) in list(&spec[key]).enumerate() {
            let at = index(&child(path, key), i);
            self::container(container, &at, &volumes, &mut errors);
            let name = container["name"].as_str().unwrap_or_default();
            if !name.is_empty() && !container_names.insert(name.to_owned()) {
                errors.push(FieldError::duplicate(
                    child(&at, "name"),
                    &container["name"],
                ));
            }
        }
    }
    one_of(
        spec,
        "restartPolicy",
        path,
        &["Always", "Never", "OnFailure"],
        &mut errors,
    );
    one_of(
        spec,
        "dnsPolicy",
        path,
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        &mut errors,
    );
    not_negative(
        &spec["terminationGracePeriodSeconds"],
        &child(path, "terminationGracePeriodSeconds"),
        &mut errors,
    );
    if spec["activeDeadlineSeconds"]
        .as_i64()
        .is_some_and(|n| n < 1)
    {
        let field = child(path, "activeDeadlineSeconds");
        errors.push(FieldError::invalid(
            field,
            &spec["activeDeadlineSeconds"],
            "must be between 1 and 2147483647, inclusive",
        ));
    }
    spec_names(spec, path, &mut errors);
    errors
}

/// The names in a pod spec.
fn spec_names(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (key, check) in [
        (
            "serviceAccountName",
            names::dns1123_subdomain as fn(&str) -> Vec<String>,
        ),
        ("nodeName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
    ] {
        if let Some(value) = spec[key].as_str().filter(|s| !s.is_empty()) {
            let refused = check(value);
            errors.extend(
                refused
                    .iter()
                    .map(|why| FieldError::invalid(child(path, key), &spec[key], why)),
            );
        }
    }
}

fn volumes(volumes: &Value, path: &str, errors: &mut Vec<FieldError>) -> HashSet<String> {
    let mut seen = HashSet::new();
    for (i, volume) in list(volumes).enumerate() {
        let at = index(path, i);
        let name = volume["name"].as_str().unwrap_or_default();
        named(
            &volume["name"],
            &child(&at, "name"),
            names::dns1123_label,
            errors,
        );
        if !name.is_empty() && !seen.insert(name.to_owned()) {
            errors.push(FieldError::duplicate(child(&at, "name"), &volume["name"]));
        }
        let sources = volume
            .as_object()
            .map_or(0, |v| v.keys().filter(|k| *k != "name").count());
        if sources == 0 {
            errors.push(FieldError::required(
                at.clone(),
                "must specify a volume type",
            ));
        } else if sources > 1 {
            let second = volume
                .as_object()
                .and_then(|v| v.keys().filter(|k| *k != "name").nth(1))
                .cloned();
            let field = child(&at, &second.unwrap_or_default());
            errors.push(FieldError::forbidden(
                field,
                "may not specify more than 1 volume type",
            ));
        }
        if volume["configMap"].is_object()
            && volume["configMap"]["name"]
                .as_str()
                .unwrap_or_default()
                .is_empty()
        {
            errors.push(FieldError::required(child(&at, "configMap.name"), ""));
        }
    }
    seen
}

fn container(container: &Value, at: &str, volumes: &HashSet<String>, errors: &mut Vec<FieldError>) {
    named(
        &container["name"],
        &child(at, "name"),
        names::dns1123_label,
        errors,
    );
    if container["image"]
        .as_str()
        .unwrap_or_default()
        .trim()
        .is_empty()
    {
        errors.push(FieldError::required(child(at, "image"), ""));
    }
    one_of(
        container,
        "imagePullPolicy",
        at,
        &["Always", "IfNotPresent", "Never"],
        errors,
    );
    ports(&container["ports"], &child(at, "ports"), errors);
    for (i, env) in list(&container["env"]).enumerate() {
        let field = index(&child(at, "env"), i);
        named(
            &env["name"],
            &child(&field, "name"),
            names::env_name,
            errors,
        );
        let value = env["value"].as_str().is_some_and(|v| !v.is_empty());
        if value && env["valueFrom"].is_object() {
            errors.push(FieldError::invalid(
                child(&field, "valueFrom"),
                &Value::from(""),
                "may not be specified when `value` is not empty",
            ));
        }
    }
    let mut paths = HashSet::new();
    for (i, mount) in list(&container["volumeMounts"]).enumerate() {
        let field = index(&child(at, "volumeMounts"), i);
        let name = mount["name"].as_str().unwrap_or_default();
        if name.is_empty() {
            errors.push(FieldError::required(child(&field, "name"), ""));
        } else if !volumes.contains(name) {
            errors.push(FieldError::not_found(child(&field, "name"), &mount["name"]));
        }
        let path = mount["mountPath"].as_str().unwrap_or_default();
        if path.is_empty() {
            errors.push(FieldError::required(child(&field, "mountPath"), ""));
        } else if !paths.insert(path) {
            errors.push(FieldError::invalid(
                child(&field, "mountPath"),
                &mount["mountPath"],
                "must be unique",
            ));
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container[name].is_object() {
            probe(&container[name], &child(at, name), errors);
        }
    }
    resources(&container["resources"], &child(at, "resources"), errors);
}

fn ports(ports: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (i, port) in list(ports).enumerate() {
        let at = index(path, i);
        match port["containerPort"].as_i64() {
            None | Some(0) => errors.push(FieldError::required(child(&at, "containerPort"), "")),
            Some(n) => {
                let refused = names::port_number(n);
                errors.extend(refused.iter().map(|w| {
                    FieldError::invalid(child(&at, "containerPort"), &port["containerPort"], w)
                }));
            }
        }
        if let Some(name) = port["name"].as_str().filter(|n| !n.is_empty()) {
            let refused = names::port_name(name);
            errors.extend(
                refused
                    .iter()
                    .map(|w| FieldError::invalid(child(&at, "name"), &port["name"], w)),
            );
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(child(&at, "name"), &port["name"]));
            }
        }
        one_of(port, "protocol", &at, &["SCTP", "TCP", "UDP"], errors);
    }
}

fn probe(probe: &Value, at: &str, errors: &mut Vec<FieldError>) {
    let handlers: Vec<&str> = ["exec", "httpGet", "tcpSocket", "grpc"]
        .into_iter()
        .filter(|h| probe[*h].is_object())
        .collect();
    match handlers.as_slice() {
        [] => errors.push(FieldError::required(at, "must specify a handler type")),
        [_] => {}
        [_, second, ..] => {
            errors.push(FieldError::forbidden(
                child(at, second),
                "may not specify more than 1 handler type",
            ));
        }
    }
    for key in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        not_negative(&probe[key], &child(at, key), errors);
    }
    if !at.ends_with("readinessProbe") && probe["successThreshold"].as_i64().is_some_and(|n| n != 1)
    {
        errors.push(FieldError::invalid(
            child(at, "successThreshold"),
            &probe["successThreshold"],
            "must be 1",
        ));
    }
    for handler in ["httpGet", "tcpSocket", "grpc"] {
        let port = &probe[handler]["port"];
        if probe[handler].is_object() {
            port_reference(port, &child(&child(at, handler), "port"), errors);
        }
    }
}

/// A port by number or by name.
pub(super) fn port_reference(port: &Value, field: &str, errors: &mut Vec<FieldError>) {
    let refused = match port {
        Value::Number(n) => names::port_number(n.as_i64().unwrap_or(0)),
        Value::String(s) => names::port_name(s),
        _ => return errors.push(FieldError::required(field, "")),
    };
    errors.extend(
        refused
            .iter()
            .map(|why| FieldError::invalid(field, port, why)),
    );
}

fn resources(resources: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (name, request) in resources["requests"].as_object().into_iter().flatten() {
        let limit = &resources["limits"][name.as_str()];
        let (Some(r), Some(l)) = (amount(request), amount(limit)) else {
            continue;
        };
        if r > l {
            let detail = format!(
                "must be less than or equal to {name} limit of {}",
                limit.as_str().unwrap_or_default()
            );
            errors.push(FieldError::invalid(
                format!("{path}.requests"),
                request,
                &detail,
            ));
        }
    }
}

/// A quantity as a number, near enough to compare.
pub(crate) fn amount(quantity: &Value) -> Option<f64> {
    let text = quantity.as_str()?;
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let factor = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        "Pi" => 1_125_899_906_842_624.0,
        "Ei" => 1_152_921_504_606_846_976.0,
        exponent => return format!("{number}{exponent}").parse().ok(),
    };
    number.parse::<f64>().ok().map(|n| n * factor)
}

/// A name that is required and has a form.
pub(super) fn named(
    value: &Value,
    field: &str,
    check: fn(&str) -> Vec<String>,
    errors: &mut Vec<FieldError>,
) {
    match value.as_str().filter(|n| !n.is_empty()) {
        None => errors.push(FieldError::required(field, "")),
        Some(name) => errors.extend(
            check(name)
                .iter()
                .map(|why| FieldError::invalid(field, value, why)),
        ),
    }
}

/// A string that must be one of a few, when set.
pub(super) fn one_of(
    object: &Value,
    key: &str,
    path: &str,
    allowed: &[&str],
    errors: &mut Vec<FieldError>,
) {
    if let Some(value) = object[key].as_str()
        && !allowed.contains(&value)
    {
        errors.push(FieldError::not_supported(
            child(path, key),
            &object[key],
            allowed,
        ));
    }
}

/// A number that must not be negative, when set.
pub(super) fn not_negative(value: &Value, field: &str, errors: &mut Vec<FieldError>) {
    if value.as_i64().is_some_and(|n| n < 0) {
        errors.push(FieldError::invalid(
            field,
            value,
            "must be greater than or equal to 0",
        ));
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// What may change in a running pod.
pub(super) fn update(object: &Value, old: &Value) -> Vec<FieldError> {
    let mut allowed = object["spec"].clone();
    let was = &old["spec"];
    for key in ["containers", "initContainers"] {
        let (Some(now), Some(then)) = (
            allowed.get_mut(key).and_then(Value::as_array_mut),
            was[key].as_array(),
        ) else {
            continue;
        };
        if now.len() != then.len() {
            let detail = "pod updates may not add or remove containers";
            return vec![FieldError::forbidden(format!("spec.{key}"), detail)];
        }
        for (now, then) in now.iter_mut().zip(then) {
            copy(now, then, "image");
        }
    }
    for key in [
        "activeDeadlineSeconds",
        "tolerations",
        "terminationGracePeriodSeconds",
        "schedulingGates",
    ] {
        copy(&mut allowed, was, key);
    }
    if was["nodeName"].is_null() {
        copy(&mut allowed, was, "nodeSelector");
        copy(&mut allowed, was, "affinity");
    }
    if allowed == *was {
        return Vec::new();
    }
    vec![FieldError::forbidden(
        "spec",
        "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
    )]
}

fn copy(into: &mut Value, from: &Value, key: &str) {
    let Some(map) = into.as_object_mut() else {
        return;
    };
    match from.get(key) {
        Some(value) => {
            map.insert(key.to_owned(), value.clone());
        }
        None => {
            map.shift_remove(key);
        }
    }
}
