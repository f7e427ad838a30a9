//! Field errors with Kubernetes' wording, and the `Status` answer they make.

use std::fmt;

use serde_json::{Value, json};

/// Why a field was refused; the names are the API's `causes[].reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// `FieldValueRequired`
    Required,
    /// `FieldValueInvalid`
    Invalid,
    /// `FieldValueNotSupported`
    NotSupported,
    /// `FieldValueDuplicate`
    Duplicate,
    /// `FieldValueForbidden`
    Forbidden,
    /// `FieldValueTooLong`
    TooLong,
    /// `FieldValueTooMany`
    TooMany,
    /// `FieldValueTypeInvalid`
    TypeInvalid,
    /// `FieldValueNotFound`
    NotFound,
}

impl Reason {
    /// The API's name of the reason.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotFound => "FieldValueNotFound",
        }
    }
}

/// One refused field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Path: `spec.ports[0].name`.
    pub field: String,
    /// Why.
    pub reason: Reason,
    /// The text after the path: `Invalid value: "x": must be ...`.
    pub message: String,
}

impl FieldError {
    /// `Required value: detail`
    pub fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = if detail.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {detail}")
        };
        Self {
            field: field.into(),
            reason: Reason::Required,
            message,
        }
    }

    /// `Invalid value: <value>: detail`
    pub fn invalid(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        Self {
            field: field.into(),
            reason: Reason::Invalid,
            message: format!("Invalid value: {}: {detail}", show(value)),
        }
    }

    /// `Unsupported value: <value>: supported values: "A", "B"`
    pub fn not_supported(field: impl Into<String>, value: &Value, supported: &[&str]) -> Self {
        let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        let tail = if list.is_empty() {
            String::new()
        } else {
            format!(": supported values: {}", list.join(", "))
        };
        Self {
            field: field.into(),
            reason: Reason::NotSupported,
            message: format!("Unsupported value: {}{tail}", show(value)),
        }
    }

    /// `Duplicate value: <value>`
    pub fn duplicate(field: impl Into<String>, value: &Value) -> Self {
        Self {
            field: field.into(),
            reason: Reason::Duplicate,
            message: format!("Duplicate value: {}", show(value)),
        }
    }

    /// `Forbidden: detail`
    pub fn forbidden(field: impl Into<String>, detail: &str) -> Self {
        Self {
            field: field.into(),
            reason: Reason::Forbidden,
            message: format!("Forbidden: {detail}"),
        }
    }

    /// `Too long: may not be more than N bytes`
    pub fn too_long(field: impl Into<String>, max: u64) -> Self {
        Self {
            field: field.into(),
            reason: Reason::TooLong,
            message: format!("Too long: may not be more than {max} bytes"),
        }
    }

    /// `Too many: N: must have at most M items`
    pub fn too_many(field: impl Into<String>, actual: u64, max: u64) -> Self {
        Self {
            field: field.into(),
            reason: Reason::TooMany,
            message: format!("Too many: {actual}: must have at most {max} items"),
        }
    }

    /// `Invalid value: "string": detail`: the value has another type than the schema says.
    pub fn wrong_type(field: impl Into<String>, actual: &str, detail: &str) -> Self {
        Self {
            field: field.into(),
            reason: Reason::TypeInvalid,
            message: format!("Invalid value: {actual:?}: {detail}"),
        }
    }

    /// `Not found: <value>`
    pub fn not_found(field: impl Into<String>, value: &Value) -> Self {
        Self {
            field: field.into(),
            reason: Reason::NotFound,
            message: format!("Not found: {}", show(value)),
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A value as messages print it: strings quoted, other things as compact JSON.
fn show(value: &Value) -> String {
    match value {
        Value::String(s) => format!("{s:?}"),
        other => other.to_string(),
    }
}

/// The text of several errors as Kubernetes joins them: one plain, more in brackets.
#[must_use]
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut lines: Vec<String> = Vec::with_capacity(errors.len());
    for error in errors {
        let line = error.to_string();
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    if lines.len() == 1 {
        lines.remove(0)
    } else {
        format!("[{}]", lines.join(", "))
    }
}

/// The 422 `Status` for an object that was refused.
#[must_use]
pub fn invalid_status(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Value {
    let qualified = if group.is_empty() {
        kind.to_owned()
    } else {
        format!("{kind}.{group}")
    };
    let causes: Vec<Value> = errors
        .iter()
        .map(|e| json!({"reason": e.reason.as_str(), "message": e.message, "field": e.field}))
        .collect();
    let mut details = json!({"name": name, "group": group, "kind": kind, "causes": causes});
    if let Some(map) = details.as_object_mut() {
        map.retain(|_, v| v.as_str() != Some(""));
    }
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("{qualified} {name:?} is invalid: {}", aggregate(errors)),
        "reason": "Invalid", "details": details, "code": 422,
    })
}

/// Appends `.name` or `name` to a path.
#[must_use]
pub fn child(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Appends `[i]` to a path.
#[must_use]
pub fn index(path: &str, i: usize) -> String {
    format!("{path}[{i}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_error_reads_like_kubernetes() {
        let status = invalid_status(
            "apps",
            "Deployment",
            "web",
            &[FieldError::required("spec.selector", "")],
        );
        assert_eq!(
            status["message"],
            "Deployment.apps \"web\" is invalid: spec.selector: Required value"
        );
        assert_eq!(
            status["details"]["causes"][0]["reason"],
            "FieldValueRequired"
        );
    }

    #[test]
    fn several_errors_are_bracketed_without_repeats() {
        let e = FieldError::invalid(
            "spec.replicas",
            &json!(-1),
            "must be greater than or equal to 0",
        );
        let text = aggregate(&[e.clone(), e, FieldError::forbidden("x", "no")]);
        assert_eq!(
            text,
            "[spec.replicas: Invalid value: -1: must be greater than or equal to 0, x: Forbidden: no]"
        );
    }
}
