//! Writing objects: create, upsert, patch, delete, read-modify-write, and what an error means.

use std::fmt::Debug;

use kube::api::{
    DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::{Api, Error, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What every object type here can do.
pub trait Object: Resource + Clone + Debug + Serialize + DeserializeOwned + Send + Sync {}
impl<K: Resource + Clone + Debug + Serialize + DeserializeOwned + Send + Sync> Object for K {}

/// 404: the object (or its namespace or kind) does not exist.
pub fn is_not_found(error: &Error) -> bool {
    code(error) == Some(404)
}

/// 409: a stale resourceVersion, or a precondition that does not hold.
pub fn is_conflict(error: &Error) -> bool {
    code(error) == Some(409) && reason(error) != Some("AlreadyExists")
}

/// 409 `AlreadyExists`: a create came second.
pub fn is_already_exists(error: &Error) -> bool {
    reason(error) == Some("AlreadyExists")
}

/// HTTP status of an answer of the API server.
pub fn code(error: &Error) -> Option<u16> {
    match error {
        Error::Api(status) => Some(status.code),
        _ => None,
    }
}

fn reason(error: &Error) -> Option<&str> {
    match error {
        Error::Api(status) => Some(&status.reason),
        _ => None,
    }
}

/// Creates `object`; `false` when it exists already (it is then left alone).
pub async fn create_if_absent<K: Object>(api: &Api<K>, object: &K) -> Result<bool, Error> {
    match api.create(&PostParams::default(), object).await {
        Ok(_) => Ok(true),
        Err(error) if is_already_exists(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Creates `object`, or merges it over the existing one (fields it does not name stay).
pub async fn upsert<K: Object>(api: &Api<K>, object: &K) -> Result<K, Error> {
    match api.create(&PostParams::default(), object).await {
        Err(error) if is_already_exists(&error) => {
            let name = object.meta().name.clone().unwrap_or_default();
            api.patch(&name, &PatchParams::default(), &Patch::Merge(object))
                .await
        }
        other => other,
    }
}

/// Server-side apply with force, as `manager`.
pub async fn apply<K: Object>(api: &Api<K>, object: &K, manager: &str) -> Result<K, Error> {
    let name = object.meta().name.clone().unwrap_or_default();
    api.patch(
        &name,
        &PatchParams::apply(manager).force(),
        &Patch::Apply(object),
    )
    .await
}

/// JSON merge patch.
pub async fn merge_patch<K: Object>(api: &Api<K>, name: &str, patch: &Value) -> Result<K, Error> {
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
}

/// JSON merge patch of the `status` subresource; `patch` is the whole document (`{"status": ..}`).
pub async fn merge_patch_status<K: Object>(
    api: &Api<K>,
    name: &str,
    patch: &Value,
) -> Result<K, Error> {
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
}

/// How to delete.
#[derive(Debug, Clone, Default)]
pub struct Deletion {
    /// Only if the object still has this UID.
    pub uid: Option<String>,
    /// Only if the object still has this resourceVersion.
    pub resource_version: Option<String>,
    /// Grace period in seconds; `Some(0)` is immediately.
    pub grace_seconds: Option<u32>,
    /// What happens to dependents; the API server's default when `None`.
    pub propagation: Option<PropagationPolicy>,
}

/// Deletes; `false` when it was gone already (also when another object has the name now).
pub async fn delete<K: Object>(api: &Api<K>, name: &str, how: Deletion) -> Result<bool, Error> {
    let only_uid = how.uid.is_some() && how.resource_version.is_none();
    let preconditions =
        (how.uid.is_some() || how.resource_version.is_some()).then_some(Preconditions {
            uid: how.uid,
            resource_version: how.resource_version,
        });
    let params = DeleteParams {
        grace_period_seconds: how.grace_seconds,
        propagation_policy: how.propagation,
        preconditions,
        ..DeleteParams::default()
    };
    match api.delete(name, &params).await {
        Ok(_) => Ok(true),
        Err(error) if is_not_found(&error) || (only_uid && is_conflict(&error)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Read, change, replace; starts over on a conflict, at most 8 times. `change` returns `false` to
/// leave the object as it is. `None` when the object does not exist.
pub async fn update<K: Object>(
    api: &Api<K>,
    name: &str,
    mut change: impl FnMut(&mut K) -> bool,
) -> Result<Option<K>, Error> {
    let mut attempts = 0;
    loop {
        let Some(mut object) = api.get_opt(name).await? else {
            return Ok(None);
        };
        if !change(&mut object) {
            return Ok(Some(object));
        }
        match api.replace(name, &PostParams::default(), &object).await {
            Ok(object) => return Ok(Some(object)),
            Err(error) if is_not_found(&error) => return Ok(None),
            Err(error) if is_conflict(&error) && attempts < 8 => attempts += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Parses a JSON object into a [`DynamicObject`], for kinds known only at run time.
pub fn dynamic(object: Value) -> Result<DynamicObject, serde_json::Error> {
    serde_json::from_value(object)
}
