//! `update` and `patch`: read, change, admit, validate, write if nothing moved meanwhile.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::create::{self, Ownership};
use super::options::WriteOptions;
use super::{Call, convert, delete};
use crate::admission::{self, Operation};
use crate::field::FieldError;
use crate::http::{self as reply, Body};
use crate::patch::PatchError;
use crate::status::{ApiError, ApiResult};
use crate::store::{Expect, StoreError, Stored};
use crate::{apply, patch as patches, validate};

/// A patch is tried again when the object moved under it: Kubernetes' own number.
const PATCH_ATTEMPTS: usize = 5;

pub(super) async fn put(call: &Arc<Call>, body: &[u8]) -> ApiResult<Response<Body>> {
    let options = call.write_options()?;
    let object = create::decode(call, &options, body)?;
    check_name(call, &object)?;
    let current = call.current()?;
    let updated = if call.path.subresource == "finalize" {
        let old = convert::value(&call.resource, &current);
        check_preconditions(call, &object, &old)?;
        finalize(call, options.dry_run, &current, &old, &object).await?
    } else {
        replace(call, &options, &current, object, Ownership::Tracked).await?
    };
    call.object(StatusCode::OK, &updated)
}

/// `namespaces/{name}/finalize`: sets `spec.finalizers` and nothing else.
async fn finalize(
    call: &Arc<Call>,
    dry_run: bool,
    current: &Stored,
    old: &Value,
    asked: &Value,
) -> ApiResult<Value> {
    let object = crate::lifecycle::finalized(old, asked);
    if dry_run {
        return Ok(object);
    }
    write(call, current, object).await
}

fn check_name(call: &Call, object: &Value) -> ApiResult<()> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if name != call.path.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            call.path.name
        )));
    }
    Ok(())
}

/// Replaces `current` by `object` through the whole pipeline; returns what is stored now.
pub(super) async fn replace(
    call: &Arc<Call>,
    options: &WriteOptions,
    current: &Stored,
    mut object: Value,
    ownership: Ownership,
) -> ApiResult<Value> {
    let resource = &call.resource;
    let old = convert::value(resource, current);
    create::place(call, &mut object)?;
    check_preconditions(call, &object, &old)?;
    keep_metadata(&mut object, &old);
    validate::default(resource, &mut object);
    validate::prepare_update(resource, &call.path.subresource, &mut object, &old);
    let mut object =
        admission::mutate(call, options, Operation::Update, object, Some(&old)).await?;
    create::strict(resource, &mut object)?;
    validate::default(resource, &mut object);
    keep_metadata(&mut object, &old);
    if resource.storage_key() == "services" {
        admission::services::carry_over(&mut object, &old);
    }
    validate::prepare_update(resource, &call.path.subresource, &mut object, &old);
    let _definitions = if create::is_definition(resource) {
        let held = call.api.definitions.lock().await;
        crate::crd::default(&mut object);
        Some(held)
    } else {
        None
    };
    check_valid(call, &object, &old)?;
    if create::is_definition(resource) {
        admission::definitions::accept(&call.api, &mut object);
    }
    if same_but_ownership(&object, &old) && ownership == Ownership::Tracked {
        return Ok(old);
    }
    if ownership == Ownership::Tracked {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        apply::track_update(
            resource,
            Some(&old),
            &mut object,
            create::writer(call, options, &now),
        );
    }
    admission::check(call, options, Operation::Update, &object, Some(&old)).await?;
    if object == old {
        return Ok(old);
    }
    if options.dry_run {
        return Ok(object);
    }
    write(call, current, object).await
}

fn check_valid(call: &Call, object: &Value, old: &Value) -> ApiResult<()> {
    let resource = &call.resource;
    let mut errors = validate::update(resource, &call.path.subresource, object, old);
    if create::is_definition(resource) {
        errors.extend(crate::crd::validate(object, Some(old)));
    }
    errors.extend(new_finalizers(object, old));
    errors.extend(admission::unsupported(resource, object));
    if !errors.is_empty() {
        return Err(ApiError::invalid(resource, &call.path.name, &errors));
    }
    validate::warnings(resource, object)
        .into_iter()
        .for_each(|w| call.warn(w));
    Ok(())
}

/// An object that is being deleted takes no new finalizers.
fn new_finalizers(object: &Value, old: &Value) -> Option<FieldError> {
    if old["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let had = list(&old["metadata"]["finalizers"]);
    let added: Vec<&Value> = list(&object["metadata"]["finalizers"])
        .iter()
        .filter(|f| !had.contains(f))
        .collect();
    (!added.is_empty()).then(|| {
        FieldError::forbidden(
            "metadata.finalizers",
            &format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {}",
                Value::from_iter(added.into_iter().cloned())
            ),
        )
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

async fn write(call: &Arc<Call>, current: &Stored, mut object: Value) -> ApiResult<Value> {
    let resource = &call.resource;
    let key = call.key();
    convert::to_storage(resource, &mut object);
    let done = delete::is_done(resource, &object);
    let fail = |error: StoreError| ApiError::from_store(error, resource, &call.path.name);
    let stored = if done {
        // The last finalizer went: this update is the object's end.
        call.api
            .store
            .delete(key, Some(current.revision))
            .await
            .map_err(fail)?
    } else {
        call.api
            .store
            .put(key, Expect::Revision(current.revision), object, None)
            .await
            .map_err(fail)?
    };
    if create::is_definition(resource) {
        call.api.reload_definitions();
    }
    Ok(convert::value(resource, &stored))
}

/// `uid` and `resourceVersion` of the body against the stored object.
fn check_preconditions(call: &Call, object: &Value, old: &Value) -> ApiResult<()> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let (asked, found) = (
        text(&object["metadata"]["uid"]),
        text(&old["metadata"]["uid"]),
    );
    if !asked.is_empty() && asked != found {
        let cause = format!(
            "Precondition failed: UID in precondition: {asked}, UID in object meta: {found}"
        );
        return Err(ApiError::conflict(&call.resource, &call.path.name, &cause));
    }
    let asked = text(&object["metadata"]["resourceVersion"]);
    if asked.is_empty() {
        if call.resource.custom.is_some() || requires_version(call) {
            let error = FieldError::invalid(
                "metadata.resourceVersion",
                &json!(0),
                "must be specified for an update",
            );
            return Err(ApiError::invalid(&call.resource, &call.path.name, &[error]));
        }
        return Ok(());
    }
    if asked != text(&old["metadata"]["resourceVersion"]) {
        return Err(ApiError::stale(&call.resource, &call.path.name));
    }
    Ok(())
}

/// Built-in kinds that do not take unconditional updates.
fn requires_version(call: &Call) -> bool {
    matches!(
        call.resource.kind.as_ref(),
        "CustomResourceDefinition" | "APIService" | "PriorityLevelConfiguration" | "FlowSchema"
    )
}

/// What only the system sets stays as it was.
fn keep_metadata(object: &mut Value, old: &Value) {
    let Some(metadata) = object["metadata"].as_object_mut() else {
        return;
    };
    for owned in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generateName",
        "resourceVersion",
        "name",
        "namespace",
    ] {
        match old["metadata"].get(owned) {
            Some(value) => metadata.insert(owned.to_owned(), value.clone()),
            None => metadata.shift_remove(owned),
        };
    }
    if !metadata.contains_key("managedFields")
        && let Some(fields) = old["metadata"].get("managedFields")
    {
        metadata.insert("managedFields".into(), fields.clone());
    }
    metadata.shift_remove("selfLink");
}

/// Equal apart from who owns what: such an update writes nothing.
fn same_but_ownership(a: &Value, b: &Value) -> bool {
    let strip = |v: &Value| {
        let mut v = v.clone();
        if let Some(metadata) = v["metadata"].as_object_mut() {
            metadata.shift_remove("managedFields");
        }
        v
    };
    strip(a) == strip(b)
}

/// The patch of a request.
enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Value),
    Apply(Value),
}

impl Patch {
    fn parse(call: &Call, body: &[u8]) -> ApiResult<Self> {
        Ok(match reply::content_type(&call.headers) {
            "application/json-patch+json" => Self::Json(reply::parse_json(body)?),
            "application/merge-patch+json" => Self::Merge(reply::parse_json(body)?),
            "application/strategic-merge-patch+json" => Self::Strategic(reply::parse_json(body)?),
            "application/apply-patch+yaml" => Self::Apply(reply::parse_yaml(body)?),
            _ => {
                return Err(ApiError::unsupported_media_type(
                    "application/json-patch+json, application/merge-patch+json, \
                     application/strategic-merge-patch+json, application/apply-patch+yaml",
                ));
            }
        })
    }

    /// Whether the client itself tied the patch to a revision.
    fn is_conditional(&self) -> bool {
        match self {
            // A JSON patch may test or set it: its own business, and it is cheap to try again.
            Self::Json(_) => false,
            Self::Merge(p) | Self::Strategic(p) | Self::Apply(p) => {
                p["metadata"]["resourceVersion"].is_string()
            }
        }
    }
}

pub(super) async fn patch(call: &Arc<Call>, body: &Bytes) -> ApiResult<Response<Body>> {
    let options = call.write_options()?;
    let patch = Patch::parse(call, body)?;
    if let Patch::Apply(applied) = &patch {
        check_applied(call, applied)?;
    }
    for _ in 1..PATCH_ATTEMPTS {
        match patch_once(call, &options, &patch, body).await {
            Err(error) if is_race(&error) && !patch.is_conditional() => {}
            other => return other,
        }
    }
    patch_once(call, &options, &patch, body).await
}

/// A lost race, as opposed to a conflict over fields or UIDs.
fn is_race(error: &ApiError) -> bool {
    error.is_conflict() && error.message().contains("the object has been modified")
}

async fn patch_once(
    call: &Arc<Call>,
    options: &WriteOptions,
    patch: &Patch,
    body: &[u8],
) -> ApiResult<Response<Body>> {
    let current = call.api.store.get(&call.key());
    let Some(current) = current else {
        return match patch {
            Patch::Apply(applied) => create_applied(call, options, applied, body).await,
            _ => Err(ApiError::not_found(&call.resource, &call.path.name)),
        };
    };
    let old = convert::value(&call.resource, &current);
    let failed = |error: PatchError| patch_error(&error);
    let patched = match patch {
        Patch::Json(p) => patches::json_patch(&old, p).map_err(failed)?,
        Patch::Merge(p) => patches::merge_patch(&old, p).map_err(failed)?,
        Patch::Strategic(p) => patches::strategic_merge(&call.resource, &old, p).map_err(failed)?,
        Patch::Apply(applied) => {
            let applied = checked_config(call, options, applied, body)?;
            let object = applied_on(call, options, Some(&old), &applied)?;
            let updated = replace(call, options, &current, object, Ownership::Applied).await?;
            return call.object(StatusCode::OK, &updated);
        }
    };
    if call.path.subresource == "finalize" {
        let updated = finalize(call, options.dry_run, &current, &old, &patched).await?;
        return call.object(StatusCode::OK, &updated);
    }
    let mut object = patched;
    if !object.is_object() || !object["metadata"].is_object() {
        return Err(ApiError::bad_request(
            "the patch removes the object's metadata",
        ));
    }
    if object["kind"] != old["kind"] || object["apiVersion"] != old["apiVersion"] {
        return Err(ApiError::bad_request(
            "a patch cannot change apiVersion or kind",
        ));
    }
    if object["metadata"]["name"] != old["metadata"]["name"] {
        let error = FieldError::invalid(
            "metadata.name",
            &object["metadata"]["name"],
            "field is immutable",
        );
        return Err(ApiError::invalid(&call.resource, &call.path.name, &[error]));
    }
    let messages = create::strict(&call.resource, &mut object)?;
    create::report(call, options, &messages)?;
    let updated = replace(call, options, &current, object, Ownership::Tracked).await?;
    call.object(StatusCode::OK, &updated)
}

fn patch_error(error: &PatchError) -> ApiError {
    match error {
        PatchError::BadPatch(text) => ApiError::bad_request(text.clone()),
        PatchError::Unprocessable(text) => ApiError::with_details(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            text.clone(),
            // Without kind and name: clients then print the message, which they replace otherwise.
            json!({"causes": [{"reason": "UnexpectedServerResponse", "message": text}]}),
        ),
        PatchError::Unsupported => ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            error.to_string(),
        ),
    }
}

// === server-side apply ===

fn check_applied(call: &Call, applied: &Value) -> ApiResult<()> {
    if call.query.get("fieldManager").is_none() {
        let error = FieldError::required("fieldManager", "is required for apply patch");
        return Err(ApiError::from_status(crate::field::invalid_status(
            "meta.k8s.io",
            "PatchOptions",
            "",
            &[error],
        )));
    }
    let matches = applied["apiVersion"] == call.resource.api_version()
        && applied["kind"] == call.resource.kind.as_ref();
    if !matches {
        return Err(ApiError::bad_request(format!(
            "the apply configuration has to be a {} in version {}",
            call.resource.kind,
            call.resource.api_version()
        )));
    }
    if let Some(name) = applied["metadata"]["name"].as_str()
        && name != call.path.name
    {
        return check_name(call, applied);
    }
    Ok(())
}

/// The configuration with unknown fields reported and dropped.
fn checked_config(
    call: &Call,
    options: &WriteOptions,
    applied: &Value,
    body: &[u8],
) -> ApiResult<Value> {
    let mut applied = applied.clone();
    let mut messages = validate::duplicate_fields(body);
    messages.extend(create::strict(&call.resource, &mut applied)?);
    create::report(call, options, &messages)?;
    Ok(applied)
}

fn applied_on(
    call: &Call,
    options: &WriteOptions,
    live: Option<&Value>,
    applied: &Value,
) -> ApiResult<Value> {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let writer = create::writer(call, options, &now);
    apply::apply(&call.resource, live, applied, options.force, writer).map_err(
        |error| match error {
            apply::ApplyError::Conflicts(conflicts) => {
                ApiError::from_status(apply::conflict_status(&conflicts))
            }
            apply::ApplyError::Invalid(text) => ApiError::bad_request(text),
        },
    )
}

async fn create_applied(
    call: &Arc<Call>,
    options: &WriteOptions,
    applied: &Value,
    body: &[u8],
) -> ApiResult<Response<Body>> {
    if !call.path.subresource.is_empty() {
        return Err(ApiError::not_found(&call.resource, &call.path.name));
    }
    let mut applied = checked_config(call, options, applied, body)?;
    if !applied["metadata"].is_object() {
        applied["metadata"] = json!({});
    }
    applied["metadata"]["name"] = json!(call.path.name);
    let object = applied_on(call, options, None, &applied)?;
    let created = create::create(call, options, object, Ownership::Applied).await?;
    call.object(StatusCode::CREATED, &created)
}
