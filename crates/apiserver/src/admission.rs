//! Admission: what may be written, and what the server adds to it.
//!
//! Order as in Kubernetes: built-in mutation, mutating webhooks, built-in mutation again where a
//! webhook changed something (so that an injected container gets its token too), then, after
//! validation, validating webhooks. Status updates and the server's own writes pass webhooks
//! only where these ask for the subresource.

pub(crate) mod definitions;
mod escalation;
mod pods;
pub(crate) mod services;
pub mod webhook;

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use crate::field::FieldError;
use crate::kinds::Resource;
use crate::rest::{Call, WriteOptions};
use crate::status::{ApiError, ApiResult};

/// The admission operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

impl Operation {
    /// As webhooks' rules and reviews write it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
        }
    }
}

/// Runs the mutating half; returns the object to validate and store.
pub(crate) async fn mutate(
    call: &Arc<Call>,
    options: &WriteOptions,
    operation: Operation,
    object: Value,
    old: Option<&Value>,
) -> ApiResult<Value> {
    let object = built_in(call, operation, object).await?;
    let review = webhook::Review {
        operation,
        object: Some(&object),
        old,
        dry_run: options.dry_run,
    };
    match webhook::mutate(call, &review).await? {
        Some(changed) => built_in(call, operation, changed).await,
        None => Ok(object),
    }
}

/// Runs the validating half.
pub(crate) async fn check(
    call: &Arc<Call>,
    options: &WriteOptions,
    operation: Operation,
    object: &Value,
    old: Option<&Value>,
) -> ApiResult<()> {
    escalation::check(call, object)?;
    let review = webhook::Review {
        operation,
        object: Some(object),
        old,
        dry_run: options.dry_run,
    };
    webhook::validate(call, &review).await
}

/// Asks the webhooks that watch deletions.
pub(crate) async fn check_delete(call: &Arc<Call>, dry_run: bool, old: &Value) -> ApiResult<()> {
    let review = webhook::Review {
        operation: Operation::Delete,
        object: None,
        old: Some(old),
        dry_run,
    };
    webhook::mutate(call, &review).await?;
    webhook::validate(call, &review).await
}

async fn built_in(call: &Arc<Call>, operation: Operation, mut object: Value) -> ApiResult<Value> {
    let creates_pod = operation == Operation::Create
        && call.resource.storage_key() == "pods"
        && call.path.subresource.is_empty();
    if creates_pod {
        pods::complete(call, &mut object).await?;
    }
    Ok(object)
}

/// Fields of an otherwise valid object that this server cannot honour.
pub(crate) fn unsupported(resource: &Resource, object: &Value) -> Vec<FieldError> {
    match resource.kind.as_ref() {
        "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
            webhook::unsupported(object)
        }
        _ => Vec::new(),
    }
}

/// New objects need a namespace that exists and is not going away.
pub(crate) fn namespace_accepts(call: &Call) -> ApiResult<()> {
    if !call.resource.namespaced {
        return Ok(());
    }
    let namespace = &call.path.namespace;
    let stored = call
        .api
        .store
        .get(&call.api.namespace_key(namespace))
        .ok_or_else(|| no_namespace(namespace))?;
    let object = stored.value();
    if object["metadata"]["deletionTimestamp"].is_null() {
        return Ok(());
    }
    let cause = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let mut error = ApiError::forbidden(&call.resource, &call.path.name, &cause);
    error.status["details"]["causes"] = json!([{"reason": "NamespaceTerminating",
        "message": format!("namespace {namespace} is being terminated"), "field": "metadata.namespace"}]);
    Err(error)
}

/// 404 for a namespace.
pub(crate) fn no_namespace(namespace: &str) -> ApiError {
    ApiError::with_details(
        StatusCode::NOT_FOUND,
        "NotFound",
        format!("namespaces {namespace:?} not found"),
        json!({"name": namespace, "kind": "namespaces"}),
    )
}

/// The namespaces without which a cluster is none cannot be deleted.
pub(crate) fn protect(call: &Call) -> ApiResult<()> {
    let immortal = ["default", "kube-system", "kube-public"];
    if call.resource.storage_key() == "namespaces" && immortal.contains(&call.path.name.as_str()) {
        return Err(ApiError::forbidden(
            &call.resource,
            &call.path.name,
            "this namespace may not be deleted",
        ));
    }
    Ok(())
}
