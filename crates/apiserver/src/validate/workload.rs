//! Validation of the kinds that own pods.

use serde_json::Value;

use super::{meta, pod};
use crate::field::FieldError;
use crate::selector::LabelSelector;

/// A new or changed workload.
pub(super) fn check(kind: &str, object: &Value) -> Vec<FieldError> {
    let spec = &object["spec"];
    let mut errors = Vec::new();
    match kind {
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "ReplicationController" => {
            pod::not_negative(&spec["replicas"], "spec.replicas", &mut errors);
            pod::not_negative(
                &spec["minReadySeconds"],
                "spec.minReadySeconds",
                &mut errors,
            );
            pod::not_negative(
                &spec["revisionHistoryLimit"],
                "spec.revisionHistoryLimit",
                &mut errors,
            );
            selector(kind, spec, &mut errors);
            let claims = spec["volumeClaimTemplates"]
                .as_array()
                .into_iter()
                .flatten();
            let claims: Vec<&str> = claims
                .filter_map(|c| c["metadata"]["name"].as_str())
                .collect();
            template(
                &spec["template"],
                "spec.template",
                &["Always"],
                &claims,
                &mut errors,
            );
            if kind == "Deployment" {
                strategy(spec, &mut errors);
            }
        }
        "Job" => job(spec, "spec", &mut errors),
        "CronJob" => {
            if spec["schedule"].as_str().unwrap_or_default().is_empty() {
                errors.push(FieldError::required("spec.schedule", ""));
            }
            pod::one_of(
                spec,
                "concurrencyPolicy",
                "spec",
                &["Allow", "Forbid", "Replace"],
                &mut errors,
            );
            job(
                &spec["jobTemplate"]["spec"],
                "spec.jobTemplate.spec",
                &mut errors,
            );
        }
        _ => {}
    }
    errors
}

/// A Deployment's strategy.
fn strategy(spec: &Value, errors: &mut Vec<FieldError>) {
    pod::one_of(
        &spec["strategy"],
        "type",
        "spec.strategy",
        &["Recreate", "RollingUpdate"],
        errors,
    );
    if spec["strategy"]["type"] == "Recreate" && spec["strategy"]["rollingUpdate"].is_object() {
        errors.push(FieldError::forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        ));
    }
}

fn job(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for key in [
        "parallelism",
        "completions",
        "backoffLimit",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
    ] {
        pod::not_negative(&spec[key], &format!("{path}.{key}"), errors);
    }
    template(
        &spec["template"],
        &format!("{path}.template"),
        &["OnFailure", "Never"],
        &[],
        errors,
    );
}

/// The selector must be there, must not be empty and must select the template.
fn selector(kind: &str, spec: &Value, errors: &mut Vec<FieldError>) {
    let field = "spec.selector";
    if kind == "ReplicationController" {
        return;
    }
    if !spec["selector"].is_object() {
        return errors.push(FieldError::required(field, ""));
    }
    let selector = match LabelSelector::from_object(&spec["selector"]) {
        Ok(selector) => selector,
        Err(why) => return errors.push(FieldError::invalid(field, &spec["selector"], &why.0)),
    };
    if selector.is_empty() {
        let detail = format!("empty selector is invalid for {}", lower_first(kind));
        return errors.push(FieldError::invalid(field, &spec["selector"], &detail));
    }
    let labels = &spec["template"]["metadata"]["labels"];
    if !selector.matches(labels) {
        let shown = if labels.is_null() {
            Value::Null
        } else {
            labels.clone()
        };
        errors.push(FieldError::invalid(
            "spec.template.metadata.labels",
            &shown,
            "`selector` does not match template `labels`",
        ));
    }
}

fn lower_first(kind: &str) -> String {
    let mut chars = kind.chars();
    chars
        .next()
        .map_or_else(String::new, |c| c.to_lowercase().chain(chars).collect())
}

fn template(
    template: &Value,
    path: &str,
    restart: &[&str],
    claims: &[&str],
    errors: &mut Vec<FieldError>,
) {
    if !template.is_object() {
        return errors.push(FieldError::required(path, ""));
    }
    errors.extend(meta::common(
        &template["metadata"],
        &format!("{path}.metadata"),
    ));
    errors.extend(pod::spec(
        &template["spec"],
        &format!("{path}.spec"),
        claims,
    ));
    let policy = &template["spec"]["restartPolicy"];
    if policy
        .as_str()
        .is_some_and(|p| !restart.contains(&p) && ["Always", "Never", "OnFailure"].contains(&p))
    {
        errors.push(FieldError::not_supported(
            format!("{path}.spec.restartPolicy"),
            policy,
            restart,
        ));
    }
}

/// What may not change.
pub(super) fn update(kind: &str, object: &Value, old: &Value) -> Vec<FieldError> {
    let (spec, was) = (&object["spec"], &old["spec"]);
    let immutable = |key: &str| -> Option<FieldError> {
        (spec[key] != was[key])
            .then(|| FieldError::invalid(format!("spec.{key}"), &spec[key], "field is immutable"))
    };
    match kind {
        "Deployment" | "ReplicaSet" | "DaemonSet" => immutable("selector").into_iter().collect(),
        "Job" => ["completionMode", "selector", "template"]
            .into_iter()
            .filter_map(|key| {
                let suspended = key == "template" && was["suspend"] == true;
                immutable(key).filter(|_| !suspended)
            })
            .collect(),
        "StatefulSet" => stateful_set(spec, was),
        _ => Vec::new(),
    }
}

fn stateful_set(spec: &Value, was: &Value) -> Vec<FieldError> {
    const MUTABLE: &[&str] = &[
        "replicas",
        "ordinals",
        "template",
        "updateStrategy",
        "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy",
        "minReadySeconds",
    ];
    let fixed = |v: &Value| -> Vec<(String, Value)> {
        let mut members: Vec<_> = v
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(k, _)| !MUTABLE.contains(&k.as_str()))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        members.sort_by(|a, b| a.0.cmp(&b.0));
        members
    };
    if fixed(spec) == fixed(was) {
        return Vec::new();
    }
    vec![FieldError::forbidden(
        "spec",
        "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
    )]
}
