//! OpenAPI v3 documents: the index and one document per group version.

use serde_json::{Value, json};

use crate::kinds::Registry;

/// `GET /openapi/v3`: every group version with its hashed address.
#[must_use]
pub fn root(_registry: &Registry) -> Value {
    json!({"paths": {}})
}

/// `GET /openapi/v3/api/v1`, `/openapi/v3/apis/{group}/{version}`: `None` where the version is not served.
/// Built on every call; keep nothing (clients cache by the hash).
#[must_use]
pub fn document(_registry: &Registry, _group: &str, _version: &str) -> Option<Vec<u8>> {
    None
}
