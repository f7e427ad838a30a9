//! Checks that a schema cannot make: raw objects become [`Valid`] ones, or a list of what is wrong.
//!
//! Every finding names the field it is about. Warnings are about what works, but probably not as meant.

mod destination_rule;
mod gateway;
mod load_balancer;
pub mod primitives;
mod virtual_service;

use std::fmt;
use std::ops::Deref;

use serde_json::Value;

use crate::meta::{Object, ObjectMeta, Spec};

/// An object that has passed its checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Valid<S> {
    object: Object<S>,
    warnings: Vec<Finding>,
}

impl<S> Valid<S> {
    /// The object itself.
    pub fn into_inner(self) -> Object<S> {
        self.object
    }

    /// What works, but probably not as meant.
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }
}

impl<S> Deref for Valid<S> {
    type Target = Object<S>;

    fn deref(&self) -> &Object<S> {
        &self.object
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Path of the field, such as `spec.http[0].timeout`; empty when it is about the whole object.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

/// Why an object was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("configuration is invalid: {}", joined(.errors))]
pub struct Invalid {
    /// Everything that is wrong.
    pub errors: Vec<Finding>,
    /// What would work, but probably not as meant.
    pub warnings: Vec<Finding>,
}

fn joined(findings: &[Finding]) -> String {
    findings
        .iter()
        .map(Finding::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// A kind with checks of its own.
pub trait Validate: Spec {
    /// Notes everything that is wrong with an object.
    fn check(object: &Object<Self>, findings: &mut Findings);
}

/// Checks an object.
pub fn validate<S: Validate>(object: Object<S>) -> Result<Valid<S>, Invalid> {
    let mut findings = Findings::default();
    annotations(&object.metadata, &mut findings);
    findings.at("spec", |f| S::check(&object, f));
    if findings.errors.is_empty() {
        Ok(Valid {
            object,
            warnings: findings.warnings,
        })
    } else {
        Err(Invalid {
            errors: findings.errors,
            warnings: findings.warnings,
        })
    }
}

/// Checks an object of any kind; `None` when the kind has no checks here. Gives the warnings when it is accepted.
pub fn validate_value(value: &Value) -> Option<Result<Vec<Finding>, Invalid>> {
    fn checked<S: Validate>(value: &Value) -> Result<Vec<Finding>, Invalid> {
        match Object::<S>::from_value(value) {
            Ok(object) => validate(object).map(|valid| valid.warnings),
            Err(error) => {
                let finding = Finding {
                    path: String::new(),
                    message: error.to_string(),
                };
                Err(Invalid {
                    errors: vec![finding],
                    warnings: Vec::new(),
                })
            }
        }
    }
    let group = value["apiVersion"]
        .as_str()
        .and_then(|v| v.split_once('/'))
        .map_or("", |(group, _)| group);
    if group != "networking.istio.io" {
        return None;
    }
    match value["kind"].as_str()? {
        "VirtualService" => Some(checked::<crate::VirtualService>(value)),
        "DestinationRule" => Some(checked::<crate::DestinationRule>(value)),
        "Gateway" => Some(checked::<crate::Gateway>(value)),
        _ => None,
    }
}

/// Annotations that are the control plane's own, or that no kind checked here understands.
fn annotations(meta: &ObjectMeta, findings: &mut Findings) {
    findings.at("metadata.annotations", |f| {
        if meta.annotations.contains_key("istio.io/dry-run") {
            f.error("istio.io/dry-run is only for authorization policies");
        }
        for name in [
            "internal.istio.io/parents",
            "internal.istio.io/parent-namespace",
        ] {
            if meta.annotations.contains_key(name) {
                f.error(format!("{name} is reserved for the control plane"));
            }
        }
        if meta
            .annotations
            .contains_key("internal.istio.io/webhook-always-reject")
        {
            f.error("internal.istio.io/webhook-always-reject asks for this object to be refused");
        }
    });
}

/// Collects findings while a check walks through an object.
#[derive(Debug, Default)]
pub struct Findings {
    errors: Vec<Finding>,
    warnings: Vec<Finding>,
    path: String,
}

impl Findings {
    /// Notes an error at the current field.
    pub fn error(&mut self, message: impl Into<String>) {
        self.errors.push(Finding {
            path: self.path.clone(),
            message: message.into(),
        });
    }

    /// Notes a warning at the current field.
    pub fn warn(&mut self, message: impl Into<String>) {
        self.warnings.push(Finding {
            path: self.path.clone(),
            message: message.into(),
        });
    }

    /// Notes an error unless `holds`.
    pub fn ensure(&mut self, holds: bool, message: impl Into<String>) {
        if !holds {
            self.error(message);
        }
    }

    /// Goes into a field.
    pub fn at<R>(&mut self, field: &str, walk: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.path.len();
        if !self.path.is_empty() && !field.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(field);
        let result = walk(self);
        self.path.truncate(before);
        result
    }

    /// Goes into every item of a list.
    pub fn each<T>(&mut self, field: &str, items: &[T], mut walk: impl FnMut(&mut Self, &T)) {
        for (at, item) in items.iter().enumerate() {
            self.at(&format!("{field}[{at}]"), |f| walk(f, item));
        }
    }
}
