//! Pruning of unknown fields and filling of defaults.

use serde_json::Value;

use super::node::{Kind, Node};

/// Removes what the schema does not know; `resource` marks the root and embedded resources, whose apiVersion, kind
/// and metadata always stay.
pub(super) fn prune(
    node: &Node,
    value: &mut Value,
    path: &mut String,
    resource: bool,
    removed: &mut Vec<String>,
) {
    let mark = path.len();
    match value {
        Value::Object(map) => {
            let names: Vec<String> = map.keys().cloned().collect();
            for name in names {
                if resource && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    continue;
                }
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&name);
                match (node.field(&name), map.get_mut(&name)) {
                    (Some(field), Some(child)) => {
                        prune(field, child, path, field.embedded, removed)
                    }
                    _ if node.preserve
                        || node.any_values
                        || (node.kind == Kind::Any && node.fields.is_empty()) => {}
                    _ => {
                        map.shift_remove(&name);
                        removed.push(path.clone());
                    }
                }
                path.truncate(mark);
            }
        }
        Value::Array(items) => {
            let Some(item) = &node.items else { return };
            for (i, child) in items.iter_mut().enumerate() {
                path.push_str(&format!("[{i}]"));
                prune(item, child, path, item.embedded, removed);
                path.truncate(mark);
            }
        }
        _ => {}
    }
}

/// Fills defaults of absent fields, and of nulls that are not allowed.
pub(super) fn fill(node: &Node, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, field) in &node.fields {
                let Some(default) = &field.default else {
                    continue;
                };
                let absent = map
                    .get(name.as_ref())
                    .is_none_or(|v| v.is_null() && !field.nullable);
                if absent {
                    map.insert(name.to_string(), (**default).clone());
                }
            }
            for (name, child) in map.iter_mut() {
                if let Some(field) = node.field(name) {
                    fill(field, child);
                }
            }
        }
        Value::Array(items) => {
            let Some(item) = &node.items else { return };
            items.iter_mut().for_each(|child| fill(item, child));
        }
        _ => {}
    }
}
