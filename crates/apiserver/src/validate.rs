//! What the API does to an object between decoding and storing it: strict decoding, defaults and validation, for
//! built-in kinds and custom resources alike. CRDs themselves are [`crate::crd`]'s.
//!
//! The order for create: [`decode`], [`default`], (mutating admission, then
//! [`decode`] and [`default`] again), [`prepare_create`] (the uid and the generated name are set by then), [`create`].
//! For update: [`decode`], [`default`], [`prepare_update`], admission, [`update`].

mod config;
mod decode;
mod defaults;
mod meta;
pub mod names;
mod others;
mod pod;
mod service;
mod strategy;
mod workload;

pub(crate) use pod::amount;

use serde_json::{Value, json};

use crate::field::FieldError;
use crate::kinds::Resource;

/// The body does not fit the kind's types (400).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// Checks types and removes unknown fields.
/// Returns the messages of what was removed: `unknown field "spec.foo"`.
///
/// # Errors
/// When a value has another type than the kind says (`json: cannot unmarshal string into Go struct field ...`);
/// the caller puts `Pod in version "v1" cannot be handled as a Pod: ` in front.
pub fn decode(resource: &Resource, object: &mut Value) -> Result<Vec<String>, DecodeError> {
    let Some(custom) = &resource.custom else {
        return decode::builtin(resource, object);
    };
    let mut unknown = decode::metadata_only(object)?;
    let pruned = custom.schema.prune(object);
    unknown.extend(
        pruned
            .into_iter()
            .map(|path| format!("unknown field {path:?}")),
    );
    Ok(unknown)
}

/// The duplicate keys of a JSON body, as messages: `duplicate field "spec.replicas"`.
#[must_use]
pub fn duplicate_fields(body: &[u8]) -> Vec<String> {
    decode::duplicates(body)
}

/// The 400 message of `fieldValidation=Strict` for the messages of [`decode`] and [`duplicate_fields`].
#[must_use]
pub fn strict_error(messages: &[String]) -> String {
    format!("strict decoding error: {}", messages.join(", "))
}

/// Fills Kubernetes' defaults, or those of a CRD's schema. Applying it twice changes nothing.
pub fn default(resource: &Resource, object: &mut Value) {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    if let Some(custom) = &resource.custom {
        custom.schema.fill_defaults(object);
    } else {
        defaults::builtin(resource, object);
    }
}

/// What a create drops or sets before validation: status where it is a subresource, generation 1,
/// phases of namespaces and pods, job selectors. `metadata.uid` must be set.
pub fn prepare_create(resource: &Resource, object: &mut Value) {
    strategy::create(resource, object);
}

/// What an update carries over from the stored object: status where it is a subresource (or everything but
/// status and managed metadata when `subresource` is `status`), and the generation, raised when the spec changed.
pub fn prepare_update(resource: &Resource, subresource: &str, object: &mut Value, old: &Value) {
    strategy::update(resource, subresource, object, old);
}

/// Validates a new object.
#[must_use]
pub fn create(resource: &Resource, object: &Value) -> Vec<FieldError> {
    let mut errors = meta::create(resource, object);
    match &resource.custom {
        Some(custom) => errors.extend(custom.schema.validate(object, None)),
        None => errors.extend(kind_rules(resource, object, None)),
    }
    errors
}

/// Validates an update (`subresource` is empty or `status`), immutable fields included.
#[must_use]
pub fn update(
    resource: &Resource,
    subresource: &str,
    object: &Value,
    old: &Value,
) -> Vec<FieldError> {
    let mut errors = meta::update(object, old);
    if let Some(custom) = &resource.custom {
        errors.extend(custom.schema.validate(object, Some(old)));
        return errors;
    }
    if subresource != "status" {
        errors.extend(kind_rules(resource, object, Some(old)));
        errors.extend(immutable(resource, object, old));
    }
    errors
}

// table: the rules of each kind.
fn kind_rules(resource: &Resource, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Pod") if old.is_none_or(|old| old["spec"] != object["spec"]) => {
            pod::spec(&object["spec"], "spec", &[])
        }
        ("", "Service") => service::check(object),
        ("", kind @ ("ConfigMap" | "Secret")) => config::data(kind, object),
        ("", "ReplicationController") | ("apps" | "batch", _) => {
            workload::check(&resource.kind, object)
        }
        ("discovery.k8s.io", _) => service::endpoint_slice(object),
        ("rbac.authorization.k8s.io", kind @ ("Role" | "ClusterRole")) => {
            config::role(kind, object)
        }
        ("rbac.authorization.k8s.io", kind) => config::role_binding(kind, object),
        ("admissionregistration.k8s.io", _) => config::webhooks(object),
        (group, kind) => others::check(group, kind, object),
    }
}

// table: what may not change in each kind.
fn immutable(resource: &Resource, object: &Value, old: &Value) -> Vec<FieldError> {
    match (resource.group.as_ref(), resource.kind.as_ref()) {
        ("", "Pod") => pod::update(object, old),
        ("", "Service") => service::update(object, old),
        ("", kind @ ("ConfigMap" | "Secret")) => config::data_update(kind, object, old),
        ("apps" | "batch", kind) => workload::update(kind, object, old),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => {
            config::role_binding_update(object, old)
        }
        ("discovery.k8s.io", _) => fixed(object, old, "addressType"),
        ("scheduling.k8s.io", _) => fixed(object, old, "value"),
        _ => Vec::new(),
    }
}

fn fixed(object: &Value, old: &Value, key: &str) -> Vec<FieldError> {
    if object[key] == old[key] {
        return Vec::new();
    }
    vec![FieldError::invalid(key, &object[key], "field is immutable")]
}

/// Warnings of the API for a valid object (deprecated fields and the like).
#[must_use]
pub fn warnings(resource: &Resource, _object: &Value) -> Vec<String> {
    resource
        .custom
        .iter()
        .filter_map(|c| c.deprecation_warning.clone())
        .collect()
}

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;
