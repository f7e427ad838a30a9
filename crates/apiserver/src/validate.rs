//! What the API does to an object between decoding and storing it: strict decoding, defaults and validation, for
//! built-in kinds and CRDs alike.
//!
//! The order for create: [`decode`], [`default`], (mutating admission, then [`decode`] and [`default`] again),
//! [`prepare_create`], [`create`]. For update: [`decode`], [`default`], admission, [`prepare_update`], [`update`].

pub mod names;

use serde_json::Value;

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
/// When a value has another type than the kind says (`json: cannot unmarshal string into Go struct field ...`).
pub fn decode(_resource: &Resource, _object: &mut Value) -> Result<Vec<String>, DecodeError> {
    Ok(Vec::new())
}

/// The duplicate keys of a JSON body, as messages: `duplicate field "spec.replicas"`.
#[must_use]
pub fn duplicate_fields(_body: &[u8]) -> Vec<String> {
    Vec::new()
}

/// The 400 message of `fieldValidation=Strict` for the messages of [`decode`] and [`duplicate_fields`].
#[must_use]
pub fn strict_error(messages: &[String]) -> String {
    format!("strict decoding error: {}", messages.join(", "))
}

/// Fills Kubernetes' defaults.
pub fn default(_resource: &Resource, _object: &mut Value) {}

/// What a create drops or sets before validation: status where it is a subresource, generation 1,
/// phases of namespaces and pods, job selectors.
pub fn prepare_create(_resource: &Resource, _object: &mut Value) {}

/// What an update carries over from the stored object: status where it is a subresource (or everything but
/// status and managed metadata when `subresource` is `status`), and the generation, raised when the spec changed.
pub fn prepare_update(_resource: &Resource, _subresource: &str, _object: &mut Value, _old: &Value) {
}

/// Validates a new object.
#[must_use]
pub fn create(_resource: &Resource, _object: &Value) -> Vec<FieldError> {
    Vec::new()
}

/// Validates an update (`subresource` is empty or `status`), immutable fields included.
#[must_use]
pub fn update(
    _resource: &Resource,
    _subresource: &str,
    _object: &Value,
    _old: &Value,
) -> Vec<FieldError> {
    Vec::new()
}

/// Warnings of the API for a valid object (deprecated fields and the like).
#[must_use]
pub fn warnings(_resource: &Resource, _object: &Value) -> Vec<String> {
    Vec::new()
}
