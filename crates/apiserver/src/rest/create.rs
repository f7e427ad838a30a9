//! `create`: decode, admit, default, validate, store.

use std::sync::Arc;

use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::options::{FieldValidation, WriteOptions};
use super::{Call, convert};
use crate::admission::{self, Operation};
use crate::http::{self as reply, Body};
use crate::kinds::Resource;
use crate::status::{ApiError, ApiResult};
use crate::store::{Expect, StoreError};
use crate::{apply, validate};

/// Letters of generated names: no vowels and nothing that looks like another.
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Random letters after `generateName`.
const SUFFIX: usize = 5;
/// Longest base of a generated name: 63 minus the suffix.
const MAX_BASE: usize = 58;
/// A generated name that is taken is replaced this often.
const NAME_ATTEMPTS: usize = 8;

pub(super) async fn serve(call: &Arc<Call>, body: &[u8]) -> ApiResult<Response<Body>> {
    let options = call.write_options()?;
    let object = decode(call, &options, body)?;
    if !call.path.name.is_empty() {
        return Err(ApiError::method_not_supported());
    }
    let created = create(call, &options, object, Ownership::Tracked).await?;
    call.object(StatusCode::CREATED, &created)
}

/// Who keeps `managedFields` of a new object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// Recorded as an update by the request's manager.
    Tracked,
    /// The object came from server-side apply with its own records.
    Applied,
}

impl Call {
    /// The call's write parameters.
    pub(crate) fn write_options(&self) -> ApiResult<WriteOptions> {
        let agent = self
            .headers
            .get(http::header::USER_AGENT)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default();
        WriteOptions::parse(&self.query, agent)
    }
}

/// Parses and checks a body that has to be an object of the call's kind.
pub(super) fn decode(call: &Call, options: &WriteOptions, body: &[u8]) -> ApiResult<Value> {
    let mut object = reply::parse_object(&call.headers, body)?;
    check_kind(&call.resource, &mut object)?;
    let mut messages = match reply::content_type(&call.headers) {
        "application/json" => validate::duplicate_fields(body),
        _ => Vec::new(),
    };
    messages.extend(strict(&call.resource, &mut object)?);
    report(call, options, &messages)?;
    Ok(object)
}

/// Types and unknown fields; returns what was dropped.
pub(super) fn strict(resource: &Resource, object: &mut Value) -> ApiResult<Vec<String>> {
    validate::decode(resource, object)
        .map_err(|e| ApiError::bad_request(cannot_handle(resource, &e)))
}

/// Reports dropped fields as the client asked.
pub(super) fn report(call: &Call, options: &WriteOptions, messages: &[String]) -> ApiResult<()> {
    if messages.is_empty() {
        return Ok(());
    }
    match options.validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => messages.iter().for_each(|m| call.warn(m.clone())),
        FieldValidation::Strict => {
            let text = validate::strict_error(messages);
            return Err(ApiError::bad_request(cannot_handle(&call.resource, &text)));
        }
    }
    Ok(())
}

fn cannot_handle(resource: &Resource, error: &dyn std::fmt::Display) -> String {
    format!(
        "{kind} in version {:?} cannot be handled as a {kind}: {error}",
        resource.version,
        kind = resource.kind
    )
}

/// Fills or checks `apiVersion` and `kind`.
fn check_kind(resource: &Resource, object: &mut Value) -> ApiResult<()> {
    let expected = resource.api_version();
    match object["apiVersion"].as_str() {
        None | Some("") => object["apiVersion"] = json!(expected),
        Some(found) if found == expected => {}
        Some(found) => {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({found}) does not match the expected API version ({expected})"
            )));
        }
    }
    match object["kind"].as_str() {
        None | Some("") => object["kind"] = json!(resource.kind),
        Some(found) if found == resource.kind => {}
        Some(found) => {
            return Err(ApiError::bad_request(format!(
                "{found} in version {:?} cannot be handled as a {}: no kind {found:?} is registered for version {expected:?}",
                resource.version, resource.kind
            )));
        }
    }
    if !object["metadata"].is_object() {
        object["metadata"] = Value::Object(Map::new());
    }
    Ok(())
}

/// Creates an object; the result is what was (or with dry run: would be) stored, as the client's version.
pub(super) async fn create(
    call: &Arc<Call>,
    options: &WriteOptions,
    mut object: Value,
    ownership: Ownership,
) -> ApiResult<Value> {
    new_metadata(call, &mut object, ownership)?;
    admission::namespace_accepts(call)?;
    let generated = object["metadata"]["generateName"]
        .as_str()
        .map(str::to_owned);
    let named = object["metadata"]["name"]
        .as_str()
        .is_some_and(|n| !n.is_empty());
    let mut attempts = if named || generated.is_none() {
        1
    } else {
        NAME_ATTEMPTS
    };
    loop {
        attempts -= 1;
        let mut attempt = object.clone();
        if let Some(base) = generated.as_deref().filter(|_| !named) {
            attempt["metadata"]["name"] = json!(generate_name(base));
        }
        match attempt_create(call, options, attempt, ownership).await {
            Err(error) if attempts > 0 && error.status["reason"] == "AlreadyExists" => {}
            other => return other,
        }
    }
}

async fn attempt_create(
    call: &Arc<Call>,
    options: &WriteOptions,
    mut object: Value,
    ownership: Ownership,
) -> ApiResult<Value> {
    let resource = &call.resource;
    validate::default(resource, &mut object);
    let mut object = admission::mutate(call, options, Operation::Create, object, None).await?;
    strict(resource, &mut object)?;
    validate::default(resource, &mut object);
    validate::prepare_create(resource, &mut object);
    // Both locks are held until the object is stored: what was chosen stays free until then.
    let _allocation = if resource.storage_key() == "services" {
        let held = call.api.allocation.lock().await;
        admission::services::allocate(&call.api, resource, &mut object)?;
        Some(held)
    } else {
        None
    };
    let _definitions = if is_definition(resource) {
        let held = call.api.definitions.lock().await;
        crate::crd::default(&mut object);
        Some(held)
    } else {
        None
    };
    let name = object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let mut errors = validate::create(resource, &object);
    errors.extend(admission::unsupported(resource, &object));
    if is_definition(resource) {
        errors.extend(crate::crd::validate(&object, None));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid(resource, &name, &errors));
    }
    validate::warnings(resource, &object)
        .into_iter()
        .for_each(|w| call.warn(w));
    if is_definition(resource) {
        admission::definitions::accept(&call.api, &mut object);
    }
    if ownership == Ownership::Tracked {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        apply::track_update(resource, None, &mut object, writer(call, options, &now));
    }
    admission::check(call, options, Operation::Create, &object, None).await?;
    store_new(call, options, object, &name).await
}

async fn store_new(
    call: &Arc<Call>,
    options: &WriteOptions,
    mut object: Value,
    name: &str,
) -> ApiResult<Value> {
    let resource = &call.resource;
    let key = call.api.key(resource, &call.path.namespace, name);
    if options.dry_run {
        return match call.api.store.get(&key) {
            Some(_) => Err(ApiError::already_exists(resource, name)),
            None => Ok(object),
        };
    }
    convert::to_storage(resource, &mut object);
    let guard = resource
        .namespaced
        .then(|| call.api.namespace_key(&call.path.namespace));
    let stored = call
        .api
        .store
        .put(key, Expect::Absent, object, guard)
        .await
        .map_err(|error| match error {
            StoreError::GuardMissing => admission::no_namespace(&call.path.namespace),
            other => ApiError::from_store(other, resource, name),
        })?;
    if is_definition(resource) {
        call.api.reload_definitions();
    }
    Ok(convert::value(resource, &stored))
}

pub(super) fn is_definition(resource: &Resource) -> bool {
    resource.kind == "CustomResourceDefinition" && resource.group == "apiextensions.k8s.io"
}

/// Who writes, for `managedFields`.
pub(super) fn writer<'a>(
    call: &'a Call,
    options: &'a WriteOptions,
    now: &'a str,
) -> apply::Writer<'a> {
    apply::Writer {
        manager: &options.manager,
        subresource: &call.path.subresource,
        now,
    }
}

/// Sets what the system owns in new metadata and refuses what a client may not set.
fn new_metadata(call: &Call, object: &mut Value, ownership: Ownership) -> ApiResult<()> {
    place(call, object)?;
    let metadata = object["metadata"]
        .as_object_mut()
        .ok_or_else(|| ApiError::bad_request("metadata has to be an object"))?;
    let empty = |v: Option<&Value>| v.and_then(Value::as_str).unwrap_or_default().is_empty();
    if !empty(metadata.get("resourceVersion")) {
        return Err(ApiError::bad_request(
            "resourceVersion should not be set on objects to be created",
        ));
    }
    if empty(metadata.get("name")) && empty(metadata.get("generateName")) {
        let error =
            crate::field::FieldError::required("metadata.name", "name or generateName is required");
        return Err(ApiError::invalid(&call.resource, "", &[error]));
    }
    for owned in [
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "generation",
    ] {
        metadata.shift_remove(owned);
    }
    if ownership == Ownership::Tracked {
        metadata.shift_remove("managedFields");
    }
    metadata.insert("uid".into(), json!(uuid::Uuid::new_v4().to_string()));
    metadata.insert(
        "creationTimestamp".into(),
        json!(Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
    );
    Ok(())
}

/// Makes the object's namespace the request's.
pub(super) fn place(call: &Call, object: &mut Value) -> ApiResult<()> {
    let metadata = &mut object["metadata"];
    if !call.resource.namespaced {
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.shift_remove("namespace");
        }
        return Ok(());
    }
    if call.path.namespace.is_empty() {
        return Err(ApiError::bad_request(
            "an empty namespace may not be set during creation",
        ));
    }
    match metadata["namespace"].as_str() {
        None | Some("") => metadata["namespace"] = json!(call.path.namespace),
        Some(found) if found == call.path.namespace => {}
        Some(_) => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

fn generate_name(base: &str) -> String {
    let end = base
        .char_indices()
        .map(|(i, _)| i)
        .take_while(|i| *i < MAX_BASE)
        .last();
    let base = if base.len() > MAX_BASE {
        &base[..end.unwrap_or(0)]
    } else {
        base
    };
    format!("{base}{}", random_letters(SUFFIX))
}

/// Letters as Kubernetes' generated names have them.
pub(crate) fn random_letters(count: usize) -> String {
    (0..count)
        .map(|_| char::from(NAME_LETTERS[fastrand::usize(..NAME_LETTERS.len())]))
        .collect()
}
