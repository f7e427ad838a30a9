//! Small texts that several tables share.

use serde_json::Value;

/// A string or `<none>`.
pub(super) fn or_none(value: &Value) -> String {
    match value.as_str() {
        None | Some("") => "<none>".to_owned(),
        Some(text) => text.to_owned(),
    }
}

/// A string, empty when absent.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A number, zero when absent.
pub(super) fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// A map of labels as `a=b,c=d`, sorted, or `<none>`.
pub(super) fn labels(map: &Value) -> String {
    let mut pairs: Vec<String> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", text(v)))
        .collect();
    if pairs.is_empty() {
        return "<none>".to_owned();
    }
    pairs.sort();
    pairs.join(",")
}

/// A `LabelSelector` object, or `<none>`.
pub(super) fn selector(object: &Value) -> String {
    if !object.is_object() {
        return "<none>".to_owned();
    }
    match crate::selector::LabelSelector::from_object(object) {
        Ok(selector) if selector.is_empty() => "<none>".to_owned(),
        Ok(selector) => selector.to_string(),
        Err(_) => "<error>".to_owned(),
    }
}

/// Names or images of a template's containers.
pub(super) fn containers(spec: &Value, key: &str) -> String {
    let values: Vec<&str> = list(&spec["containers"]).map(|c| text(&c[key])).collect();
    values.join(",")
}

/// At most three entries, then how many more there are.
pub(super) fn up_to_three(entries: &[String], none: &str) -> String {
    if entries.is_empty() {
        return none.to_owned();
    }
    let shown = entries
        .iter()
        .take(3)
        .cloned()
        .collect::<Vec<_>>()
        .join(",");
    match entries.len() {
        n if n > 3 => format!("{shown} + {} more...", n - 3),
        _ => shown,
    }
}

/// The items of a list, none when absent.
pub(super) fn list(value: &Value) -> impl DoubleEndedIterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
