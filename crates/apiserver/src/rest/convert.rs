//! Between the version that a client speaks and the version that is stored.
//!
//! CRDs convert by name only (strategy None); events exist in two groups with one store.

use bytes::Bytes;
use serde_json::Value;

use crate::kinds::{Resource, event};
use crate::store::Stored;

/// The `apiVersion` under which objects of a resource are stored.
pub(super) fn storage_api_version(resource: &Resource) -> String {
    match &resource.custom {
        Some(custom) => crate::kinds::api_version(&resource.group, &custom.storage_version),
        None => resource.api_version(),
    }
}

/// Turns an object of the request's version into the stored one.
pub(crate) fn to_storage(resource: &Resource, object: &mut Value) {
    if is_event_alias(resource) {
        event::to_core(object);
    } else if resource.custom.is_some() {
        object["apiVersion"] = Value::String(storage_api_version(resource));
    }
}

/// Turns a stored object into the request's version.
pub(crate) fn present(resource: &Resource, object: &mut Value) {
    if is_event_alias(resource) {
        event::to_events_v1(object);
    } else if resource.custom.is_some() {
        object["apiVersion"] = Value::String(resource.api_version());
    }
}

/// The bytes of a stored object in the request's version, without parsing where possible.
pub(super) fn raw(resource: &Resource, stored: &Stored) -> Bytes {
    if is_event_alias(resource) {
        return Bytes::from(value(resource, stored).to_string());
    }
    if resource.custom.is_none() {
        return stored.json.clone();
    }
    let wanted = resource.api_version();
    let head = format!("{{\"apiVersion\":\"{wanted}\"");
    if stored.json.starts_with(head.as_bytes()) {
        return stored.json.clone();
    }
    // The store writes apiVersion first, and versions hold no quotes: swap the first member.
    let prefix = b"{\"apiVersion\":\"".len();
    let Some(end) = stored
        .json
        .get(prefix..)
        .and_then(|rest| rest.iter().position(|b| *b == b'"'))
    else {
        return Bytes::from(value(resource, stored).to_string());
    };
    let mut out = head.into_bytes();
    out.extend_from_slice(&stored.json[prefix + end + 1..]);
    Bytes::from(out)
}

/// The parsed stored object in the request's version.
pub(crate) fn value(resource: &Resource, stored: &Stored) -> Value {
    let mut object = stored.value();
    present(resource, &mut object);
    object
}

fn is_event_alias(resource: &Resource) -> bool {
    resource.storage_group != resource.group
}
