//! The four patch types of the API except server-side apply, which is in [`crate::apply`].

mod strategic;

use serde_json::Value;

use crate::kinds::Resource;
use crate::types::{Ty, Types};

/// Why a patch could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum PatchError {
    /// The body is not a patch of its type (400).
    #[error("{0}")]
    BadPatch(String),
    /// The patch is well formed, and cannot be applied to this object (422).
    #[error("{0}")]
    Unprocessable(String),
    /// The kind has no strategic merge patch (415: CRDs).
    #[error(
        "the body of the request was in an unknown format - accepted media types include: \
         application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    )]
    Unsupported,
}

/// RFC 6902.
///
/// # Errors
/// When the body is not a JSON patch, or an operation fails.
pub fn json_patch(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let operations: json_patch::Patch =
        serde_json::from_value(patch.clone()).map_err(|e| PatchError::BadPatch(e.to_string()))?;
    let mut out = object.clone();
    json_patch::patch(&mut out, &operations).map_err(|e| {
        PatchError::Unprocessable(format!(
            "the server rejected our request due to an error in our request: {e}"
        ))
    })?;
    Ok(out)
}

/// RFC 7386.
///
/// # Errors
/// When the patch is not an object.
pub fn merge_patch(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    if !patch.is_object() {
        return Err(PatchError::BadPatch(
            "a merge patch is a JSON object".to_owned(),
        ));
    }
    let mut out = object.clone();
    json_patch::merge(&mut out, patch);
    Ok(out)
}

/// Kubernetes' strategic merge patch for built-in kinds.
///
/// # Errors
/// When the kind is a CRD's, or a directive is malformed.
pub fn strategic_merge(
    resource: &Resource,
    object: &Value,
    patch: &Value,
) -> Result<Value, PatchError> {
    if resource.custom.is_some() {
        return Err(PatchError::Unsupported);
    }
    let types = Types::get();
    let root = types.root(&resource.group, &resource.version, &resource.kind);
    strategic::merge(object, patch, &root.map_or(Ty::Any, Ty::Ref))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_failing_test_operation_is_unprocessable() {
        let patch = json!([{"op": "test", "path": "/a", "value": 2}]);
        assert!(matches!(
            json_patch(&json!({"a": 1}), &patch),
            Err(PatchError::Unprocessable(_))
        ));
        assert!(matches!(
            json_patch(&json!({}), &json!({"op": "add"})),
            Err(PatchError::BadPatch(_))
        ));
    }

    #[test]
    fn a_merge_patch_removes_by_null() {
        let new = merge_patch(
            &json!({"a": 1, "b": {"c": 2}}),
            &json!({"a": null, "b": {"d": 3}}),
        );
        assert_eq!(new.expect("applies"), json!({"b": {"c": 2, "d": 3}}));
    }
}
