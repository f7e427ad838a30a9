//! Kubernetes' strategic merge patch over the table of built-in types.
//!
//! Directives: `$patch: replace|delete|merge`, `$retainKeys`, `$deleteFromPrimitiveList/<field>`,
//! `$setElementOrder/<field>`.

use serde_json::{Map, Value};

use super::PatchError;
use crate::types::{Field, Ty, Types};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";

/// Merges `patch` into `object`, both of the type `ty`.
pub(super) fn merge(object: &Value, patch: &Value, ty: &Ty) -> Result<Value, PatchError> {
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(PatchError::BadPatch(
            "a strategic merge patch is a JSON object".to_owned(),
        ));
    };
    merge_object(object.clone(), patch, ty).map(Value::Object)
}

fn merge_object(
    mut object: Map<String, Value>,
    patch: &Map<String, Value>,
    ty: &Ty,
) -> Result<Map<String, Value>, PatchError> {
    match patch.get(PATCH).and_then(Value::as_str) {
        Some("replace") => return Ok(without_directives(patch)),
        Some("delete") => return Ok(Map::new()),
        Some("merge") | None => {}
        Some(other) => return Err(unknown_directive(other)),
    }
    if let Some(keep) = patch.get(RETAIN_KEYS) {
        let keep = strings(keep, RETAIN_KEYS)?;
        object.retain(|key, _| keep.contains(&key.as_str()));
    }
    for (key, value) in patch {
        if key == PATCH || key == RETAIN_KEYS || key.starts_with(ORDER) {
            continue;
        }
        if let Some(field) = key.strip_prefix(DELETE_FROM) {
            delete_from_list(&mut object, field, value)?;
            continue;
        }
        merge_field(&mut object, key, value, patch, ty)?;
    }
    // An order given without items still sorts what is there.
    for (key, order) in patch {
        if let Some(field) = key.strip_prefix(ORDER)
            && !patch.contains_key(field)
            && let Some(Value::Array(items)) = object.get_mut(field)
        {
            let merge_key = field_of(ty, field).and_then(|f| f.merge_key);
            sort_by_order(items, order, merge_key);
        }
    }
    Ok(object)
}

fn merge_field(
    object: &mut Map<String, Value>,
    key: &str,
    value: &Value,
    patch: &Map<String, Value>,
    ty: &Ty,
) -> Result<(), PatchError> {
    if value.is_null() {
        object.remove(key);
        return Ok(());
    }
    let child = child_type(ty, key);
    let field = field_of(ty, key);
    match value {
        Value::Object(inner) => {
            let replaced = field.is_some_and(|f| f.replace);
            let old = match object.remove(key) {
                Some(Value::Object(old)) if !replaced => old,
                _ => Map::new(),
            };
            let merged = merge_object(old, inner, &child)?;
            if inner.get(PATCH).and_then(Value::as_str) != Some("delete") {
                object.insert(key.to_owned(), Value::Object(merged));
            }
        }
        Value::Array(items) if field.is_some_and(|f| f.merge) => {
            let old = match object.remove(key) {
                Some(Value::Array(old)) => old,
                _ => Vec::new(),
            };
            let merge_key = field.and_then(|f| f.merge_key);
            let order = patch.get(&format!("{ORDER}{key}"));
            let merged = merge_list(old, items, order, merge_key, &item_type(&child))?;
            object.insert(key.to_owned(), Value::Array(merged));
        }
        Value::Array(items) => {
            let plain: Vec<Value> = items
                .iter()
                .filter(|i| i.get(PATCH).is_none())
                .cloned()
                .collect();
            object.insert(key.to_owned(), Value::Array(plain));
        }
        other => {
            object.insert(key.to_owned(), other.clone());
        }
    }
    Ok(())
}

/// Merges a list whose patch strategy is `merge`.
fn merge_list(
    old: Vec<Value>,
    patch: &[Value],
    order: Option<&Value>,
    merge_key: Option<&'static str>,
    item: &Ty,
) -> Result<Vec<Value>, PatchError> {
    let Some(merge_key) = merge_key else {
        let mut out = old;
        for value in patch {
            if !out.contains(value) {
                out.push(value.clone());
            }
        }
        if let Some(order) = order {
            sort_by_order(&mut out, order, None);
        }
        return Ok(out);
    };
    if patch
        .iter()
        .any(|p| p.get(PATCH).and_then(Value::as_str) == Some("replace"))
    {
        return Ok(patch
            .iter()
            .filter(|p| p.get(PATCH).is_none())
            .cloned()
            .collect());
    }
    let mut out = old;
    for change in patch {
        let Value::Object(change) = change else {
            return Err(PatchError::BadPatch(format!(
                "an item of a list merged by {merge_key:?} is not an object"
            )));
        };
        let Some(key) = change.get(merge_key) else {
            let shown = Value::Object(change.clone());
            return Err(PatchError::BadPatch(format!(
                "map: {shown} does not contain declared merge key: {merge_key}"
            )));
        };
        let found = out.iter().position(|o| o.get(merge_key) == Some(key));
        match change.get(PATCH).and_then(Value::as_str) {
            Some("delete") => out.retain(|o| o.get(merge_key) != Some(key)),
            Some("merge") | None => match found {
                Some(i) => {
                    let existing = out[i].as_object().cloned().unwrap_or_default();
                    out[i] = Value::Object(merge_object(existing, change, item)?);
                }
                None => out.push(Value::Object(merge_object(Map::new(), change, item)?)),
            },
            Some(other) => return Err(unknown_directive(other)),
        }
    }
    if let Some(order) = order {
        sort_by_order(&mut out, order, Some(merge_key));
    }
    Ok(out)
}

/// Sorts items as `$setElementOrder` says; items it does not name stay at their place relative to the one before.
fn sort_by_order(items: &mut Vec<Value>, order: &Value, merge_key: Option<&str>) {
    let Some(order) = order.as_array() else {
        return;
    };
    let identity = |item: &Value| match merge_key {
        Some(key) => item.get(key).cloned().unwrap_or(Value::Null),
        None => item.clone(),
    };
    let rank = |item: &Value| {
        let id = identity(item);
        order.iter().position(|o| identity(o) == id)
    };
    let old = std::mem::take(items);
    let (mut named, mut others): (Vec<_>, Vec<_>) = (Vec::new(), Vec::new());
    let mut last_named: Option<usize> = None;
    for item in old {
        match rank(&item) {
            Some(r) => {
                last_named = Some(r);
                named.push((r, item));
            }
            None => others.push((last_named, item)),
        }
    }
    named.sort_by_key(|(r, _)| *r);
    let mut out: Vec<Value> = Vec::with_capacity(named.len() + others.len());
    let mut take_after = |after: Option<usize>, out: &mut Vec<Value>| {
        let mut i = 0;
        while i < others.len() {
            if others[i].0 == after {
                out.push(others.remove(i).1);
            } else {
                i += 1;
            }
        }
    };
    take_after(None, &mut out);
    for (r, item) in named {
        out.push(item);
        take_after(Some(r), &mut out);
    }
    *items = out;
}

fn delete_from_list(
    object: &mut Map<String, Value>,
    field: &str,
    values: &Value,
) -> Result<(), PatchError> {
    let Some(values) = values.as_array() else {
        return Err(PatchError::BadPatch(format!(
            "{DELETE_FROM}{field} is not a list"
        )));
    };
    if let Some(Value::Array(items)) = object.get_mut(field) {
        items.retain(|i| !values.contains(i));
    }
    Ok(())
}

/// A copy without directives, for objects that the patch brings whole.
fn without_directives(patch: &Map<String, Value>) -> Map<String, Value> {
    let plain = |(k, v): (&String, &Value)| (!k.starts_with('$')).then(|| (k.clone(), v.clone()));
    patch.iter().filter_map(plain).collect()
}

fn unknown_directive(name: &str) -> PatchError {
    PatchError::BadPatch(format!("Unknown patch type: {name}"))
}

fn strings<'a>(value: &'a Value, what: &str) -> Result<Vec<&'a str>, PatchError> {
    let list = value
        .as_array()
        .ok_or_else(|| PatchError::BadPatch(format!("{what} is not a list")))?;
    Ok(list.iter().filter_map(Value::as_str).collect())
}

fn field_of(ty: &Ty, key: &str) -> Option<&'static Field> {
    match ty {
        Ty::Ref(id) => Types::get().def(*id).field(key),
        _ => None,
    }
}

fn child_type(ty: &Ty, key: &str) -> Ty {
    match ty {
        Ty::Ref(_) => field_of(ty, key).map_or(Ty::Any, |f| f.ty.clone()),
        Ty::Map(values) => (**values).clone(),
        _ => Ty::Any,
    }
}

fn item_type(ty: &Ty) -> Ty {
    match ty {
        Ty::Array(item) => (**item).clone(),
        _ => Ty::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(object: &Value, patch: &Value) -> Value {
        let id = Types::get()
            .root("apps", "v1", "Deployment")
            .expect("known");
        merge(object, patch, &Ty::Ref(id)).expect("applies")
    }

    fn containers(list: Value) -> Value {
        json!({"spec": {"template": {"spec": {"containers": list}}}})
    }

    #[test]
    fn containers_merge_by_name_and_keep_other_fields() {
        let old = containers(
            json!([{"name": "a", "image": "x:1", "env": [{"name": "E", "value": "1"}]}, {"name": "b"}]),
        );
        let patch = containers(
            json!([{"name": "a", "image": "x:2", "env": [{"name": "F", "value": "2"}]}]),
        );
        let new = deployment(&old, &patch);
        assert_eq!(
            new,
            containers(json!([
                {"name": "a", "image": "x:2", "env": [{"name": "E", "value": "1"}, {"name": "F", "value": "2"}]},
                {"name": "b"}
            ]))
        );
    }

    #[test]
    fn a_delete_directive_removes_an_item_and_order_sorts_the_rest() {
        let old = containers(json!([{"name": "a"}, {"name": "b"}, {"name": "c"}]));
        let patch = json!({"spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "c"}, {"name": "a"}],
            "containers": [{"name": "b", "$patch": "delete"}]}}}});
        assert_eq!(
            deployment(&old, &patch),
            containers(json!([{"name": "c"}, {"name": "a"}]))
        );
    }

    #[test]
    fn retain_keys_drops_the_other_strategy() {
        let old = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}});
        let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
        assert_eq!(
            deployment(&old, &patch),
            json!({"spec": {"strategy": {"type": "Recreate"}}})
        );
    }

    #[test]
    fn finalizers_are_a_set_that_can_lose_members() {
        let old = json!({"metadata": {"finalizers": ["a", "b"]}});
        let added = deployment(&old, &json!({"metadata": {"finalizers": ["c", "a"]}}));
        assert_eq!(added, json!({"metadata": {"finalizers": ["a", "b", "c"]}}));
        let removed = deployment(
            &old,
            &json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
        );
        assert_eq!(removed, json!({"metadata": {"finalizers": ["b"]}}));
    }

    #[test]
    fn atomic_lists_and_nulls_replace() {
        let old = containers(json!([{"name": "a", "args": ["1", "2"], "image": "x"}]));
        let new = deployment(
            &old,
            &containers(json!([{"name": "a", "args": ["3"], "image": null}])),
        );
        assert_eq!(new, containers(json!([{"name": "a", "args": ["3"]}])));
    }

    #[test]
    fn an_item_without_its_merge_key_is_refused() {
        let id = Types::get()
            .root("apps", "v1", "Deployment")
            .expect("known");
        let error = merge(
            &json!({}),
            &containers(json!([{"image": "x"}])),
            &Ty::Ref(id),
        )
        .expect_err("refused");
        assert!(
            error
                .to_string()
                .contains("does not contain declared merge key: name"),
            "{error}"
        );
    }

    #[test]
    fn replace_directive_swaps_a_map() {
        let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
        let new = deployment(
            &old,
            &json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
        );
        assert_eq!(new, json!({"metadata": {"labels": {"c": "3"}}}));
    }
}
