//! The API's errors: `Status` objects with Kubernetes' codes, reasons and wording.
//!
//! Every refusal of the server passes through [`ApiError`], so that clients can match on `reason`
//! and people read the sentences they know.

use http::StatusCode;
use serde_json::{Value, json};

use crate::field::FieldError;
use crate::kinds::Resource;
use crate::store::StoreError;

/// A refusal: the `Status` object and the HTTP headers that go with it.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    /// HTTP code, also inside the body.
    pub code: StatusCode,
    /// The `Status` object.
    pub status: Box<Value>,
    /// Seconds for `Retry-After`.
    pub retry_after: Option<u32>,
}

/// Most handlers' result.
pub type ApiResult<T> = Result<T, ApiError>;

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    /// An error with a code, reason and message.
    pub fn new(code: StatusCode, reason: &str, message: impl Into<String>) -> Self {
        Self::with_details(code, reason, message, Value::Null)
    }

    /// An error with `details`.
    pub fn with_details(
        code: StatusCode,
        reason: &str,
        message: impl Into<String>,
        details: Value,
    ) -> Self {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message.into(), "reason": reason, "code": code.as_u16(),
        });
        if !details.is_null() {
            status["details"] = details;
        }
        Self {
            code,
            status: Box::new(status),
            retry_after: None,
        }
    }

    /// From a ready `Status` object.
    pub fn from_status(status: Value) -> Self {
        let code = status["code"]
            .as_u64()
            .and_then(|c| u16::try_from(c).ok())
            .and_then(|c| StatusCode::from_u16(c).ok())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self {
            code,
            status: Box::new(status),
            retry_after: None,
        }
    }

    /// The message alone.
    pub fn message(&self) -> &str {
        self.status["message"].as_str().unwrap_or_default()
    }

    /// Whether this is a 404.
    pub fn is_not_found(&self) -> bool {
        self.code == StatusCode::NOT_FOUND
    }

    /// Whether this is a 409 of any reason.
    pub fn is_conflict(&self) -> bool {
        self.code == StatusCode::CONFLICT
    }

    /// 404 for an object.
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} not found", resource.group_resource());
        Self::with_details(
            StatusCode::NOT_FOUND,
            "NotFound",
            message,
            details(resource, name),
        )
    }

    /// 404 for a path or resource that is not served.
    pub fn no_such_path() -> Self {
        Self::with_details(
            StatusCode::NOT_FOUND,
            "NotFound",
            "the server could not find the requested resource",
            json!({}),
        )
    }

    /// 409 for a create of what exists.
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} {name:?} already exists", resource.group_resource());
        Self::with_details(
            StatusCode::CONFLICT,
            "AlreadyExists",
            message,
            details(resource, name),
        )
    }

    /// 409 with a cause.
    pub fn conflict(resource: &Resource, name: &str, cause: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {name:?}: {cause}",
            resource.group_resource()
        );
        Self::with_details(
            StatusCode::CONFLICT,
            "Conflict",
            message,
            details(resource, name),
        )
    }

    /// The 409 of optimistic concurrency.
    pub fn stale(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 403 by admission.
    pub fn forbidden(resource: &Resource, name: &str, cause: &str) -> Self {
        let message = format!(
            "{} {name:?} is forbidden: {cause}",
            resource.group_resource()
        );
        Self::with_details(
            StatusCode::FORBIDDEN,
            "Forbidden",
            message,
            details(resource, name),
        )
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    /// 422 with field causes.
    pub fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> Self {
        Self::from_status(crate::field::invalid_status(
            &resource.group,
            &resource.kind,
            name,
            errors,
        ))
    }

    /// 405.
    pub fn method_not_supported() -> Self {
        Self::with_details(
            StatusCode::METHOD_NOT_ALLOWED,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
            json!({}),
        )
    }

    /// 415 with the accepted types.
    pub fn unsupported_media_type(accepted: &str) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {accepted}"
            ),
        )
    }

    /// 413.
    pub fn too_large(limit: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    /// 410: the revision left the window.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// 500.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let message = message.to_string();
        let details = json!({"causes": [{"message": message}]});
        Self::with_details(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            format!("Internal error occurred: {message}"),
            details,
        )
    }

    /// 503 with a hint to come back.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let mut error = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            message,
        );
        error.retry_after = Some(1);
        error
    }

    /// 504.
    pub fn timeout(message: impl Into<String>) -> Self {
        let mut error = Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message);
        error.retry_after = Some(1);
        error
    }

    /// 504 for a revision the server has not reached.
    pub fn too_large_revision(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let mut error = Self::with_details(
            StatusCode::GATEWAY_TIMEOUT,
            "Timeout",
            format!("Timeout: {message}"),
            json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                   "retryAfterSeconds": 1}),
        );
        error.retry_after = Some(1);
        error
    }

    /// What a failed store operation means for the object it was about.
    pub fn from_store(error: StoreError, resource: &Resource, name: &str) -> Self {
        match error {
            StoreError::AlreadyExists => Self::already_exists(resource, name),
            StoreError::NotFound => Self::not_found(resource, name),
            StoreError::Conflict { .. } => Self::stale(resource, name),
            StoreError::GuardMissing => Self::new(
                StatusCode::NOT_FOUND,
                "NotFound",
                "the namespace was deleted meanwhile",
            ),
            StoreError::Expired { oldest } => Self::expired(format!(
                "The provided resource version is too old, the oldest available is {oldest}"
            )),
            StoreError::InUse => Self::internal("the store is in use"),
            StoreError::Storage { reason } => Self::internal(format!("storage: {reason}")),
            StoreError::Closed => Self::unavailable("the server is shutting down"),
        }
    }
}

/// The `details` of messages about one object.
pub fn details(resource: &Resource, name: &str) -> Value {
    let mut details = json!({"name": name, "kind": resource.plural});
    if !resource.group.is_empty() {
        details["group"] = json!(resource.group);
    }
    details
}

/// The `Status` of a successful delete.
pub fn deleted(resource: &Resource, name: &str, uid: &Value) -> Value {
    let mut details = details(resource, name);
    details["uid"] = uid.clone();
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Registry;

    #[test]
    fn a_missing_object_reads_like_kubernetes() {
        let registry = Registry::builtin();
        let deployments = registry.find("apps", "v1", "deployments").expect("served");
        let error = ApiError::not_found(deployments, "web");
        assert_eq!(error.message(), "deployments.apps \"web\" not found");
        assert_eq!(error.status["details"]["group"], "apps");
    }
}
