//! `delete` and `deletecollection`: preconditions, grace, finalizers, propagation.

use std::sync::Arc;

use http::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::options::{self, Selection};
use super::{Call, convert};
use crate::admission;
use crate::http::{self as reply, Body};
use crate::kinds::Resource;
use crate::status::{self, ApiError, ApiResult};
use crate::store::{Expect, StoreError, Stored};

/// Grace of a pod that does not say: Kubernetes' default.
const DEFAULT_GRACE: i64 = 30;
/// An object that keeps moving is tried this often.
const ATTEMPTS: usize = 5;
/// Finalizer of background-less deletion: dependents first.
const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of a deletion that leaves dependents alone.
const ORPHAN: &str = "orphan";

/// What a delete asks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace: Option<i64>,
    pub(crate) uid: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) propagation: Option<String>,
    pub(crate) dry_run: bool,
}

impl DeleteOptions {
    /// From the body (a `DeleteOptions` object, may be empty) and the query.
    fn parse(call: &Call, body: &[u8]) -> ApiResult<Self> {
        let given = if body.is_empty() {
            Value::Null
        } else {
            reply::parse_object(&call.headers, body)?
        };
        let text = |v: &Value| v.as_str().filter(|s| !s.is_empty()).map(str::to_owned);
        let in_body = given["dryRun"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let dry_run = in_body
            .iter()
            .filter_map(Value::as_str)
            .chain(call.query.all("dryRun"));
        let query_grace = call
            .query
            .get("gracePeriodSeconds")
            .and_then(|g| g.parse().ok());
        let mut propagation = text(&given["propagationPolicy"])
            .or_else(|| call.query.get("propagationPolicy").map(str::to_owned));
        if propagation.is_none() && given["orphanDependents"] == true {
            propagation = Some("Orphan".into());
        }
        if let Some(policy) = &propagation
            && !matches!(policy.as_str(), "Orphan" | "Background" | "Foreground")
        {
            return Err(ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "Invalid",
                format!(
                    "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {policy:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
                ),
            ));
        }
        Ok(Self {
            grace: given["gracePeriodSeconds"].as_i64().or(query_grace),
            uid: text(&given["preconditions"]["uid"]),
            revision: text(&given["preconditions"]["resourceVersion"]),
            propagation,
            dry_run: options::dry_run(dry_run)?,
        })
    }
}

pub(super) async fn one(call: &Arc<Call>, body: &[u8]) -> ApiResult<Response<Body>> {
    let options = DeleteOptions::parse(call, body)?;
    let removal = remove(call, &options).await?;
    let returns_object = matches!(
        call.resource.kind.as_ref(),
        "Pod" | "Service" | "ServiceAccount"
    );
    if removal.gone && !returns_object {
        let status = status::deleted(
            &call.resource,
            &call.path.name,
            &removal.object["metadata"]["uid"],
        );
        return Ok(reply::value(StatusCode::OK, &status));
    }
    call.object(StatusCode::OK, &removal.object)
}

pub(super) async fn collection(call: &Arc<Call>, body: &[u8]) -> ApiResult<Response<Body>> {
    let options = DeleteOptions::parse(call, body)?;
    let selection = Selection::parse(&call.query, &call.resource)?;
    let resource = call.api.resource_key(&call.resource.storage_key());
    let namespace = Some(call.path.namespace.as_str()).filter(|n| !n.is_empty());
    let snapshot = call
        .api
        .store
        .list(&resource, namespace, None)
        .map_err(|e| ApiError::from_store(e, &call.resource, ""))?;
    let mut deleted = Vec::new();
    for (key, stored) in snapshot.items {
        let object = convert::value(&call.resource, &stored);
        if !selection.is_everything() && !selection.matches(&object) {
            continue;
        }
        let each = Arc::new(call.retarget(&call.resource, &key.namespace, &key.name));
        match remove(&each, &options).await {
            Ok(removal) => deleted.push(removal.object),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let list = json!({"kind": call.resource.list_kind, "apiVersion": call.resource.api_version(),
        "metadata": {"resourceVersion": snapshot.revision.to_string()}, "items": deleted});
    Ok(reply::value(StatusCode::OK, &list))
}

/// What a delete did.
#[derive(Debug)]
pub(crate) struct Removal {
    /// The object's last, or marked, state.
    pub(crate) object: Value,
    /// Whether it is gone, as opposed to marked.
    pub(crate) gone: bool,
}

/// Deletes the call's object, or marks it for its finalizers and its kubelet.
pub(crate) async fn remove(call: &Arc<Call>, options: &DeleteOptions) -> ApiResult<Removal> {
    let mut attempt = 1;
    loop {
        let current = call.current()?;
        match remove_at(call, options, &current).await {
            Err(StoreOr::Store(StoreError::Conflict { .. })) if attempt < ATTEMPTS => attempt += 1,
            Err(StoreOr::Store(error)) => {
                return Err(ApiError::from_store(error, &call.resource, &call.path.name));
            }
            Err(StoreOr::Api(error)) => return Err(error),
            Ok(removal) => return Ok(removal),
        }
    }
}

/// A lost race is told apart from a refusal.
enum StoreOr {
    Store(StoreError),
    Api(ApiError),
}

impl From<ApiError> for StoreOr {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

async fn remove_at(
    call: &Arc<Call>,
    options: &DeleteOptions,
    current: &Stored,
) -> Result<Removal, StoreOr> {
    let resource = &call.resource;
    let old = convert::value(resource, current);
    check_preconditions(call, options, &old)?;
    admission::protect(call)?;
    admission::check_delete(call, options.dry_run, &old).await?;
    let mut marked = old.clone();
    mark(resource, options, &mut marked);
    let gone = is_done(resource, &marked);
    if options.dry_run {
        return Ok(Removal {
            object: marked,
            gone,
        });
    }
    if gone {
        let last = call
            .api
            .store
            .delete(call.key(), Some(current.revision))
            .await
            .map_err(StoreOr::Store)?;
        if super::create::is_definition(resource) {
            call.api.reload_definitions();
        }
        return Ok(Removal {
            object: convert::value(resource, &last),
            gone: true,
        });
    }
    if marked == old {
        return Ok(Removal {
            object: old,
            gone: false,
        });
    }
    convert::to_storage(resource, &mut marked);
    let stored = call
        .api
        .store
        .put(call.key(), Expect::Revision(current.revision), marked, None)
        .await
        .map_err(StoreOr::Store)?;
    Ok(Removal {
        object: convert::value(resource, &stored),
        gone: false,
    })
}

fn check_preconditions(call: &Call, options: &DeleteOptions, old: &Value) -> ApiResult<()> {
    let found = |name: &str| old["metadata"][name].as_str().unwrap_or_default();
    let pairs = [
        ("UID", options.uid.as_deref(), found("uid")),
        (
            "ResourceVersion",
            options.revision.as_deref(),
            found("resourceVersion"),
        ),
    ];
    for (what, asked, found) in pairs {
        if let Some(asked) = asked
            && asked != found
        {
            let cause = format!(
                "the {what} in the precondition ({asked}) does not match the {what} in record ({found}). \
                 The object might have been deleted and then recreated"
            );
            return Err(ApiError::conflict(&call.resource, &call.path.name, &cause));
        }
    }
    Ok(())
}

/// Sets the deletion's marks: timestamp, grace, finalizers of the propagation policy, phase.
fn mark(resource: &Resource, options: &DeleteOptions, object: &mut Value) {
    let grace = grace(resource, options, object);
    let first = object["metadata"]["deletionTimestamp"].is_null();
    let shorter = object["metadata"]["deletionGracePeriodSeconds"]
        .as_i64()
        .is_some_and(|old| grace < old);
    if first || shorter {
        let end = Timestamp::now() + SignedDuration::from_secs(grace);
        object["metadata"]["deletionTimestamp"] =
            json!(end.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    }
    if first
        && resource.has_generation()
        && let Some(generation) = object["metadata"]["generation"].as_u64()
    {
        object["metadata"]["generation"] = json!(generation + 1);
    }
    if let Some(policy) = &options.propagation {
        set_finalizer(object, ORPHAN, policy == "Orphan");
        set_finalizer(object, FOREGROUND, policy == "Foreground");
    }
    if resource.storage_key() == "namespaces" {
        object["status"]["phase"] = json!("Terminating");
    }
}

fn grace(resource: &Resource, options: &DeleteOptions, object: &Value) -> i64 {
    if resource.storage_key() != "pods" {
        return 0;
    }
    let finished = matches!(
        object["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    );
    let unscheduled = object["spec"]["nodeName"]
        .as_str()
        .unwrap_or_default()
        .is_empty();
    if finished || unscheduled {
        return 0;
    }
    options
        .grace
        .or_else(|| object["spec"]["terminationGracePeriodSeconds"].as_i64())
        .unwrap_or(DEFAULT_GRACE)
        .max(0)
}

fn set_finalizer(object: &mut Value, name: &str, on: bool) {
    let has = object["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|list| list.iter().any(|f| f == name));
    if on && !has {
        match object["metadata"]["finalizers"].as_array_mut() {
            Some(list) => list.push(json!(name)),
            None => object["metadata"]["finalizers"] = json!([name]),
        }
    } else if !on
        && has
        && let Some(list) = object["metadata"]["finalizers"].as_array_mut()
    {
        list.retain(|f| f != name);
    }
}

/// Whether nothing holds a marked object any more: no finalizer, no grace.
pub(super) fn is_done(resource: &Resource, object: &Value) -> bool {
    let empty = |v: &Value| v.as_array().is_none_or(Vec::is_empty);
    let metadata = &object["metadata"];
    let namespace_held =
        resource.storage_key() == "namespaces" && !empty(&object["spec"]["finalizers"]);
    !metadata["deletionTimestamp"].is_null()
        && empty(&metadata["finalizers"])
        && metadata["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) == 0
        && !namespace_held
}
