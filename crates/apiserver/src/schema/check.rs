//! Value validation, with the messages of Kubernetes' OpenAPI validator.

use std::collections::HashSet;

use serde_json::Value;

use super::formats;
use super::node::{Checks, Kind, List, Node};
use crate::field::FieldError;

/// Checks a whole object.
pub(super) fn check(node: &Node, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut walk = Walk {
        path: String::new(),
        errors: Vec::new(),
    };
    walk.value(node, object, old);
    walk.errors
}

struct Walk {
    path: String,
    errors: Vec<FieldError>,
}

impl Walk {
    fn value(&mut self, node: &Node, value: &Value, old: Option<&Value>) {
        // What did not change was accepted before.
        if old == Some(value) {
            return;
        }
        if value.is_null() && node.nullable {
            return;
        }
        if !self.right_type(node, value) {
            return;
        }
        if let Some(checks) = &node.checks {
            self.checks(checks, value);
        }
        match value {
            Value::Object(map) => {
                for (name, child) in map {
                    if self.path.is_empty()
                        && matches!(name.as_str(), "apiVersion" | "kind" | "metadata")
                    {
                        continue;
                    }
                    let Some(field) = node.field(name) else {
                        continue;
                    };
                    let mark = self.enter(name);
                    self.value(field, child, old.and_then(|o| o.get(name)));
                    self.path.truncate(mark);
                }
            }
            Value::Array(items) => self.items(node, items, old),
            _ => {}
        }
    }

    fn enter(&mut self, name: &str) -> usize {
        let mark = self.path.len();
        if mark > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        mark
    }

    fn items(&mut self, node: &Node, items: &[Value], old: Option<&Value>) {
        if let Some(item) = &node.items {
            for (i, child) in items.iter().enumerate() {
                let mark = self.path.len();
                self.path.push_str(&format!("[{i}]"));
                self.value(item, child, same_item(node, child, old));
                self.path.truncate(mark);
            }
        }
        let mut seen = HashSet::new();
        for (i, item) in items.iter().enumerate() {
            let Some(identity) = identity(node, item) else {
                continue;
            };
            if !seen.insert(identity.to_string()) {
                let field = format!("{}[{i}]", self.path);
                self.errors.push(FieldError::duplicate(field, &identity));
            }
        }
    }

    /// Whether the value has the node's type; reports it when not.
    fn right_type(&mut self, node: &Node, value: &Value) -> bool {
        let right = match (node.kind, value) {
            (Kind::Any, Value::Null) => node.preserve,
            (Kind::Any, _)
            | (Kind::Object, Value::Object(_))
            | (Kind::Array, Value::Array(_))
            | (Kind::String | Kind::IntOrString, Value::String(_))
            | (Kind::Boolean, Value::Bool(_))
            | (Kind::Number, Value::Number(_)) => true,
            (Kind::Integer | Kind::IntOrString, Value::Number(n)) => {
                n.is_i64() || n.is_u64() || n.as_f64().is_some_and(|f| f.fract() == 0.0)
            }
            _ => false,
        };
        if !right {
            let found = type_name(value);
            let detail = format!(
                "{} in body must be of type {}: {found:?}",
                self.path,
                node.kind.as_str()
            );
            self.errors
                .push(FieldError::wrong_type(self.path.clone(), found, &detail));
        }
        right
    }

    fn fail(&mut self, value: &Value, detail: &str) {
        let detail = format!("{} in body {detail}", self.path);
        self.errors
            .push(FieldError::invalid(self.path.clone(), value, &detail));
    }

    fn checks(&mut self, checks: &Checks, value: &Value) {
        if !checks.one_of_values.is_empty() && !checks.one_of_values.contains(value) {
            let supported: Vec<&str> = checks
                .one_of_values
                .iter()
                .filter_map(Value::as_str)
                .collect();
            self.errors.push(FieldError::not_supported(
                self.path.clone(),
                value,
                &supported,
            ));
        }
        match value {
            Value::Object(map) => {
                for name in &checks.required {
                    if !map.contains_key(name.as_ref()) {
                        let mark = self.enter(name);
                        self.errors
                            .push(FieldError::required(self.path.clone(), ""));
                        self.path.truncate(mark);
                    }
                }
                let len = map.len() as u64;
                if checks.min_properties.is_some_and(|min| len < min) {
                    let min = checks.min_properties.unwrap_or(0);
                    self.fail(value, &format!("should have at least {min} properties"));
                }
                if let Some(max) = checks.max_properties.filter(|max| len > *max) {
                    self.errors
                        .push(FieldError::too_many(self.path.clone(), len, max));
                }
            }
            Value::Array(items) => self.array(checks, value, items),
            Value::String(text) => self.string(checks, value, text),
            Value::Number(n) => self.number(checks, value, n.as_f64().unwrap_or(0.0)),
            _ => {}
        }
        self.junctors(checks, value);
    }

    fn array(&mut self, checks: &Checks, value: &Value, items: &[Value]) {
        let len = items.len() as u64;
        if let Some(min) = checks.min_items.filter(|min| len < *min) {
            self.fail(value, &format!("should have at least {min} items"));
        }
        if let Some(max) = checks.max_items.filter(|max| len > *max) {
            self.errors
                .push(FieldError::too_many(self.path.clone(), len, max));
        }
        if checks.unique_items {
            let mut seen = HashSet::new();
            if !items.iter().all(|i| seen.insert(i.to_string())) {
                self.fail(value, "shouldn't contain duplicates");
            }
        }
    }

    fn string(&mut self, checks: &Checks, value: &Value, text: &str) {
        let len = || text.chars().count() as u64;
        if let Some(max) = checks.max_length.filter(|max| len() > *max) {
            self.errors
                .push(FieldError::too_long(self.path.clone(), max));
        }
        if let Some(min) = checks.min_length.filter(|min| len() < *min) {
            self.fail(value, &format!("should be at least {min} chars long"));
        }
        if let Some((source, regex)) = &checks.pattern
            && !regex.is_match(text)
        {
            self.fail(value, &format!("should match '{source}'"));
        }
        if let Some(format) = &checks.format
            && !formats::is_valid(format, text)
        {
            self.fail(value, &format!("must be of type {format}: {text:?}"));
        }
    }

    fn number(&mut self, checks: &Checks, value: &Value, n: f64) {
        if let Some(max) = checks.maximum {
            if checks.exclusive_maximum && n >= max {
                self.fail(value, &format!("should be less than {max}"));
            } else if n > max {
                self.fail(value, &format!("should be less than or equal to {max}"));
            }
        }
        if let Some(min) = checks.minimum {
            if checks.exclusive_minimum && n <= min {
                self.fail(value, &format!("should be greater than {min}"));
            } else if n < min {
                self.fail(value, &format!("should be greater than or equal to {min}"));
            }
        }
        if let Some(factor) = checks.multiple_of.filter(|f| *f > 0.0)
            && ((n / factor).round() - n / factor).abs() > 1e-9
        {
            self.fail(value, &format!("should be a multiple of {factor}"));
        }
        if checks.format.as_deref() == Some("int32")
            && (n < f64::from(i32::MIN) || n > f64::from(i32::MAX))
        {
            let detail = format!(
                "Checked value must be of type integer with format int32 in {}",
                self.path
            );
            self.errors
                .push(FieldError::invalid(self.path.clone(), value, &detail));
        }
    }

    /// The errors that a value has against an alternative, at the same place.
    fn against(&self, node: &Node, value: &Value) -> Vec<FieldError> {
        let mut inner = Self {
            path: self.path.clone(),
            errors: Vec::new(),
        };
        inner.value(node, value, None);
        inner.errors
    }

    fn composite(&mut self, detail: &str) {
        let detail = format!("{:?} {detail}", self.path);
        self.errors.push(FieldError::invalid(
            self.path.clone(),
            &Value::from(""),
            &detail,
        ));
    }

    fn junctors(&mut self, checks: &Checks, value: &Value) {
        if !checks.all_of.is_empty() {
            let failed: Vec<FieldError> = checks
                .all_of
                .iter()
                .flat_map(|s| self.against(s, value))
                .collect();
            if !failed.is_empty() {
                self.errors.extend(failed);
                self.composite("must validate all the schemas (allOf)");
            }
        }
        if !checks.any_of.is_empty() {
            let results: Vec<Vec<FieldError>> = checks
                .any_of
                .iter()
                .map(|s| self.against(s, value))
                .collect();
            if results.iter().all(|r| !r.is_empty()) {
                self.composite("must validate at least one schema (anyOf)");
                let best = results.into_iter().min_by_key(Vec::len).unwrap_or_default();
                self.errors.extend(best);
            }
        }
        if !checks.one_of.is_empty() {
            let results: Vec<Vec<FieldError>> = checks
                .one_of
                .iter()
                .map(|s| self.against(s, value))
                .collect();
            match results.iter().filter(|r| r.is_empty()).count() {
                1 => {}
                0 => self
                    .composite("must validate one and only one schema (oneOf). Found none valid"),
                n => self.composite(&format!(
                    "must validate one and only one schema (oneOf). Found {n} valid alternatives"
                )),
            }
        }
        if let Some(not) = &checks.not
            && self.against(not, value).is_empty()
        {
            self.composite("must not validate the schema (not)");
        }
    }
}

/// As messages name a value's type.
pub(super) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What must be unique in a list: the item of a set, the keys of a map's item.
fn identity(node: &Node, item: &Value) -> Option<Value> {
    match &node.list {
        List::Atomic => None,
        List::Set => Some(item.clone()),
        List::Map(keys) => {
            let pairs = keys
                .iter()
                .filter_map(|k| Some((k.to_string(), item.get(k.as_ref())?.clone())));
            Some(Value::Object(pairs.collect()))
        }
    }
}

/// The stored item that corresponds to an item of the new list: by identity, else an equal one.
pub(super) fn same_item<'a>(
    node: &Node,
    item: &Value,
    old: Option<&'a Value>,
) -> Option<&'a Value> {
    let old = old?.as_array()?;
    match identity(node, item) {
        Some(id) => old.iter().find(|o| identity(node, o).as_ref() == Some(&id)),
        None => old.iter().find(|o| *o == item),
    }
}
