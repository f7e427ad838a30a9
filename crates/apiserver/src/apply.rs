//! Server-side apply and field ownership (`metadata.managedFields`).

use serde_json::Value;

use crate::kinds::Resource;

/// One conflict: another manager owns a field that the applier sets to something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager.
    pub manager: String,
    /// The field: `.spec.replicas`.
    pub field: String,
    /// `using apps/v1` and the like, as the message has it; empty for appliers.
    pub detail: String,
}

/// Why an apply failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Other managers own fields (409); see [`conflict_status`].
    #[error("Apply failed with {} conflict(s)", .0.len())]
    Conflicts(Vec<Conflict>),
    /// The configuration cannot be applied (400 or 422).
    #[error("{0}")]
    Invalid(String),
}

/// Who writes.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// Field manager's name.
    pub manager: &'a str,
    /// Subresource, empty for the object itself.
    pub subresource: &'a str,
    /// RFC 3339 time.
    pub now: &'a str,
}

/// Applies `applied` onto `live` (absent: create), with ownership in `metadata.managedFields` of the result.
///
/// # Errors
/// On conflicts without `force`, and when managedFields is set in `applied`.
pub fn apply(
    _resource: &Resource,
    live: Option<&Value>,
    applied: &Value,
    force: bool,
    _writer: Writer<'_>,
) -> Result<Value, ApplyError> {
    let _ = force;
    let mut out = live.cloned().unwrap_or_else(|| applied.clone());
    json_patch::merge(&mut out, applied);
    Ok(out)
}

/// Records a create, update or patch in `new.metadata.managedFields` (operation `Update`).
/// `old` is the stored object; absent on create. Call it after defaulting and admission.
pub fn track_update(
    _resource: &Resource,
    _old: Option<&Value>,
    _new: &mut Value,
    _writer: Writer<'_>,
) {
}

/// The 409 `Status` of conflicts.
#[must_use]
pub fn conflict_status(conflicts: &[Conflict]) -> Value {
    serde_json::json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict", "code": 409,
        "message": format!("Apply failed with {} conflicts", conflicts.len())})
}
