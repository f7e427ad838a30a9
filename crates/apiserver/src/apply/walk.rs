//! Walks over objects: which fields a configuration owns, how it merges, what differs, and removal.

use serde_json::{Map, Value};

use super::fields::{self, FieldSet};
use super::shape::{List, Shape};

/// The fields that a configuration sets.
pub(super) fn owned_fields(value: &Value, shape: &Shape<'_>) -> FieldSet {
    let mut set = FieldSet::default();
    own(value, shape, &mut Vec::new(), &mut set);
    set
}

fn own(value: &Value, shape: &Shape<'_>, path: &mut Vec<String>, set: &mut FieldSet) {
    match value {
        Value::Object(map) if !shape.is_atomic() && !map.is_empty() => {
            let depth = path.len();
            for (name, child) in map.iter().filter(|(_, v)| !v.is_null()) {
                path.push(format!("f:{name}"));
                own(child, &shape.field(name, depth), path, set);
                path.pop();
            }
        }
        Value::Array(items) if shape.list() != List::Atomic && !items.is_empty() => {
            for item in items {
                let Some(step) = shape.step(item) else {
                    continue;
                };
                path.push(step);
                set.insert(path);
                own(item, &shape.item(), path, set);
                path.pop();
            }
        }
        _ => set.insert(path),
    }
}

/// The first list of identified items that has one twice, or one without its keys:
/// `.spec.ports: duplicate entries for key [port=80]`.
pub(super) fn bad_list(config: &Value, shape: &Shape<'_>) -> Option<String> {
    bad_list_at(config, shape, &mut Vec::new())
}

fn bad_list_at(value: &Value, shape: &Shape<'_>, path: &mut Vec<String>) -> Option<String> {
    match value {
        Value::Object(map) if !shape.is_atomic() => {
            let depth = path.len();
            map.iter().find_map(|(name, child)| {
                path.push(format!("f:{name}"));
                let found = bad_list_at(child, &shape.field(name, depth), path);
                path.pop();
                found
            })
        }
        Value::Array(items) if shape.list() != List::Atomic => {
            let mut seen = std::collections::HashSet::new();
            for (i, item) in items.iter().enumerate() {
                let place = || path.iter().map(|s| fields::show(s)).collect::<String>();
                let Some(step) = shape.step(item) else {
                    let why = "associative list with keys has an element that omits a key field";
                    return Some(format!("{}: element {i}: {why}", place()));
                };
                if !seen.insert(step.clone()) {
                    return Some(format!(
                        "{}: duplicate entries for key {}",
                        place(),
                        fields::show(&step)
                    ));
                }
                path.push(step);
                let found = bad_list_at(item, &shape.item(), path);
                path.pop();
                if found.is_some() {
                    return found;
                }
            }
            None
        }
        _ => None,
    }
}

/// The live object with a configuration merged into it.
pub(super) fn merge(live: &Value, config: &Value, shape: &Shape<'_>) -> Value {
    merge_at(live, config, shape, 0)
}

fn merge_at(live: &Value, config: &Value, shape: &Shape<'_>, depth: usize) -> Value {
    match (live, config) {
        (Value::Object(live), Value::Object(config)) if !shape.is_atomic() => {
            let mut out = live.clone();
            for (name, value) in config.iter().filter(|(_, v)| !v.is_null()) {
                let merged = match live.get(name) {
                    Some(old) => merge_at(old, value, &shape.field(name, depth), depth + 1),
                    None => value.clone(),
                };
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (Value::Array(live), Value::Array(config)) if shape.list() != List::Atomic => {
            Value::Array(merge_list(live, config, shape, depth))
        }
        _ => config.clone(),
    }
}

/// Items of both lists: those of the configuration in its order, the others after the one they followed.
fn merge_list(live: &[Value], config: &[Value], shape: &Shape<'_>, depth: usize) -> Vec<Value> {
    let step = |item: &Value| shape.step(item).unwrap_or_else(|| item.to_string());
    let configured: Vec<String> = config.iter().map(step).collect();
    let mut out: Vec<(String, Value)> = Vec::with_capacity(live.len() + config.len());
    let mut next = 0;
    for item in live {
        let id = step(item);
        let Some(position) = configured.iter().position(|c| *c == id) else {
            out.push((id, item.clone()));
            continue;
        };
        // What the configuration names before this item comes first.
        while next <= position {
            let wanted = &configured[next];
            if !out.iter().any(|(id, _)| id == wanted) {
                let old = live.iter().find(|l| step(l) == *wanted);
                let merged = match old {
                    Some(old) => merge_at(old, &config[next], &shape.item(), depth + 1),
                    None => config[next].clone(),
                };
                out.push((wanted.clone(), merged));
            }
            next += 1;
        }
    }
    for (id, item) in configured.iter().zip(config).skip(next) {
        if !out.iter().any(|(known, _)| known == id) {
            out.push((id.clone(), item.clone()));
        }
    }
    out.into_iter().map(|(_, item)| item).collect()
}

/// What differs between two objects.
#[derive(Debug, Default)]
pub(super) struct Difference {
    /// Fields added or set to something else.
    pub(super) changed: FieldSet,
    /// Fields that are gone.
    pub(super) removed: FieldSet,
}

/// Compares two objects; an absent one has no fields.
pub(super) fn difference(
    old: Option<&Value>,
    new: Option<&Value>,
    shape: &Shape<'_>,
) -> Difference {
    let mut out = Difference::default();
    compare(old, new, shape, &mut Vec::new(), &mut out);
    out
}

fn compare(
    old: Option<&Value>,
    new: Option<&Value>,
    shape: &Shape<'_>,
    path: &mut Vec<String>,
    out: &mut Difference,
) {
    if old == new {
        return;
    }
    let granular = |v: Option<&Value>| match v {
        Some(Value::Object(_)) => !shape.is_atomic(),
        Some(Value::Array(_)) => shape.list() != List::Atomic,
        _ => false,
    };
    match (old, new) {
        (Some(_), None) => {
            out.removed.insert(path);
            return;
        }
        (None, Some(value)) => {
            let leaf = !granular(new) || value.as_object().is_some_and(Map::is_empty);
            // A new map or list is a member itself, except for the top of the object.
            if leaf || path.len() > 1 {
                out.changed.insert(path);
            }
            if leaf {
                return;
            }
        }
        (Some(_), Some(_)) if !granular(old) || !granular(new) => {
            out.changed.insert(path);
            return;
        }
        _ => {}
    }
    if matches!(new, Some(Value::Array(_))) {
        compare_lists(old, new, shape, path, out);
    } else {
        compare_objects(old, new, shape, path, out);
    }
}

fn compare_objects(
    old: Option<&Value>,
    new: Option<&Value>,
    shape: &Shape<'_>,
    path: &mut Vec<String>,
    out: &mut Difference,
) {
    let member = |v: Option<&Value>| v.and_then(Value::as_object).cloned().unwrap_or_default();
    let (old, new) = (member(old), member(new));
    let depth = path.len();
    for name in old
        .keys()
        .chain(new.keys().filter(|k| !old.contains_key(*k)))
    {
        path.push(format!("f:{name}"));
        compare(
            old.get(name),
            new.get(name),
            &shape.field(name, depth),
            path,
            out,
        );
        path.pop();
    }
}

fn compare_lists(
    old: Option<&Value>,
    new: Option<&Value>,
    shape: &Shape<'_>,
    path: &mut Vec<String>,
    out: &mut Difference,
) {
    let items = |v: Option<&Value>| -> Vec<(String, Value)> {
        let list = v.and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|i| Some((shape.step(i)?, i.clone())))
            .collect()
    };
    let (old, new) = (items(old), items(new));
    let find = |list: &'_ [(String, Value)], step: &str| list.iter().position(|(s, _)| s == step);
    for (step, item) in &old {
        path.push(step.clone());
        let now = find(&new, step).map(|i| &new[i].1);
        compare(Some(item), now, &shape.item(), path, out);
        path.pop();
    }
    for (step, item) in new.iter().filter(|(step, _)| find(&old, step).is_none()) {
        path.push(step.clone());
        compare(None, Some(item), &shape.item(), path, out);
        path.pop();
    }
}

/// Removes fields from an object, and the maps and lists that become empty by it.
pub(super) fn remove(value: &mut Value, set: &FieldSet, shape: &Shape<'_>) {
    remove_at(value, set, shape, 0);
}

fn remove_at(value: &mut Value, set: &FieldSet, shape: &Shape<'_>, depth: usize) {
    for (step, member, below) in set.steps() {
        match value {
            Value::Object(map) => {
                let Some(name) = step.strip_prefix("f:") else {
                    continue;
                };
                let Some(child) = map.get_mut(name) else {
                    continue;
                };
                let leaf = member && (below.is_empty() || !is_granular(child));
                remove_at(child, below, &shape.field(name, depth), depth + 1);
                let emptied = !below.is_empty() && is_empty(child);
                if leaf || emptied {
                    map.shift_remove(name);
                }
            }
            Value::Array(items) => {
                let Some(i) = items
                    .iter()
                    .position(|item| shape.step(item).as_deref() == Some(step))
                else {
                    continue;
                };
                if member {
                    items.remove(i);
                } else {
                    remove_at(&mut items[i], below, &shape.item(), depth + 1);
                }
            }
            _ => {}
        }
    }
}

fn is_granular(value: &Value) -> bool {
    value.is_object() || value.is_array()
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}
