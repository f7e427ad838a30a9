//! Server-side apply and field ownership (`metadata.managedFields`).
//!
//! Pure: the time and the manager are passed in. Defaults are the caller's, after the merge.

mod fields;
mod managed;
mod shape;
mod walk;

use serde_json::{Value, json};

use crate::kinds::Resource;
use fields::FieldSet;
use managed::Managers;
use shape::Shape;

/// One conflict: another manager owns a field that the applier sets to something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager.
    pub manager: String,
    /// The field: `.spec.replicas`.
    pub field: String,
    /// ` using apps/v1` and the like, as the message has it; empty for appliers.
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
    resource: &Resource,
    live: Option<&Value>,
    applied: &Value,
    force: bool,
    writer: Writer<'_>,
) -> Result<Value, ApplyError> {
    if applied["metadata"]["managedFields"]
        .as_array()
        .is_some_and(|m| !m.is_empty())
    {
        return Err(ApplyError::Invalid(
            "metadata.managedFields must be nil".to_owned(),
        ));
    }
    let shape = Shape::of(resource);
    let mut config = applied.clone();
    drop_foreign(resource, writer.subresource, &mut config);
    if let Some(why) = walk::bad_list(&config, &shape) {
        return Err(ApplyError::Invalid(format!(
            "failed to create typed patch object: {why}"
        )));
    }
    let empty = json!({});
    let current = live.unwrap_or(&empty);
    let mut managers = Managers::read(current);
    if managers.is_empty() && live.is_some() {
        managers.adopt(&resource.api_version(), walk::owned_fields(current, &shape));
    }
    let mut wanted = walk::owned_fields(&config, &shape);
    wanted.strip_system_fields();
    let mut merged = walk::merge(current, &config, &shape);

    // What the merge changes and others own is a conflict, unless forced.
    let changed = walk::difference(Some(current), Some(&merged), &shape).changed;
    let conflicts = managers.conflicts(&writer, &changed.intersection(&wanted));
    if !conflicts.is_empty() && !force {
        return Err(ApplyError::Conflicts(conflicts));
    }
    managers.disown_others(&writer, &changed.intersection(&wanted));

    // What the manager applied before, leaves out now, and nobody else owns, goes.
    let dropped = managers
        .previous(&writer)
        .minus(&wanted)
        .minus(&managers.owned_by_others(&writer));
    walk::remove(&mut merged, &dropped, &shape);

    managers.set_applied(&writer, &resource.api_version(), wanted);
    managers.forget_removed(&walk::difference(Some(current), Some(&merged), &shape).removed);
    restore_system_fields(&mut merged, current);
    managers.write(&mut merged);
    Ok(merged)
}

/// The main endpoint does not own status, nor the status endpoint anything else.
fn drop_foreign(resource: &Resource, subresource: &str, config: &mut Value) {
    let Some(map) = config.as_object_mut() else {
        return;
    };
    if subresource == "status" {
        map.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
    } else if resource.has_status() {
        map.shift_remove("status");
    }
}

/// Fields that the server keeps are not changed by what a configuration says about them.
fn restore_system_fields(merged: &mut Value, current: &Value) {
    for key in [
        "uid",
        "resourceVersion",
        "creationTimestamp",
        "generation",
        "deletionTimestamp",
        "selfLink",
    ] {
        let Some(metadata) = merged["metadata"].as_object_mut() else {
            return;
        };
        if let Some(value) = current["metadata"].get(key) {
            metadata.insert(key.to_owned(), value.clone());
        }
    }
}

/// Records a create, update or patch in `new.metadata.managedFields` (operation `Update`).
/// `old` is the stored object; absent on create. Call it after defaulting and admission.
pub fn track_update(resource: &Resource, old: Option<&Value>, new: &mut Value, writer: Writer<'_>) {
    let shape = Shape::of(resource);
    let reset = new["metadata"]["managedFields"]
        .as_array()
        .is_some_and(|m| {
            m.is_empty()
                || (m.len() == 1 && m[0].as_object().is_some_and(serde_json::Map::is_empty))
        });
    let mut managers = match old {
        // A client may clear the record, or edit it.
        _ if reset => Managers::default(),
        Some(_) if new["metadata"]["managedFields"].is_array() => Managers::read(new),
        Some(old) => Managers::read(old),
        None => Managers::default(),
    };
    let mut difference = walk::difference(old, Some(new), &shape);
    difference.changed.strip_system_fields();
    managers.forget_removed(&difference.removed);
    managers.disown_others(&writer, &difference.changed);
    managers.add_updated(&writer, &resource.api_version(), &difference.changed);
    managers.write(new);
}

/// The 409 `Status` of conflicts.
#[must_use]
pub fn conflict_status(conflicts: &[Conflict]) -> Value {
    let named = |c: &Conflict| format!("{:?}{}", c.manager, c.detail);
    let message = match conflicts {
        [one] => format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            named(one),
            one.field
        ),
        many => {
            let mut managers: Vec<String> = many.iter().map(named).collect();
            managers.sort();
            managers.dedup();
            let parts: Vec<String> = managers
                .iter()
                .map(|m| {
                    let fields = many
                        .iter()
                        .filter(|c| named(c) == *m)
                        .map(|c| format!("- {}", c.field));
                    format!(
                        "conflicts with {m}:\n{}",
                        fields.collect::<Vec<_>>().join("\n")
                    )
                })
                .collect();
            format!(
                "Apply failed with {} conflicts: {}",
                many.len(),
                parts.join("\n")
            )
        }
    };
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|c| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {}", named(c)), "field": c.field}))
        .collect();
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": "Conflict", "details": {"causes": causes}, "code": 409})
}

#[cfg(test)]
mod tests;
