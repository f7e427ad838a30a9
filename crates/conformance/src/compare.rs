//! Differences between what Envoy did and what we did.

use serde_json::Value;

use crate::expect::{join, short};

/// Every difference, as `path: envoy …, ours …`. Numbers may differ by the tolerance, which a step of random choices
/// names.
pub(crate) fn differences(envoy: &Value, ours: &Value, tolerance: f64) -> Vec<String> {
    let mut found = Vec::new();
    walk(Some(envoy), Some(ours), "", tolerance, &mut found);
    found
}

fn walk(
    envoy: Option<&Value>,
    ours: Option<&Value>,
    path: &str,
    tolerance: f64,
    found: &mut Vec<String>,
) {
    match (envoy, ours) {
        (Some(Value::Object(one)), Some(Value::Object(other))) => {
            for (key, value) in one {
                walk(
                    Some(value),
                    other.get(key),
                    &join(path, key),
                    tolerance,
                    found,
                );
            }
            for (key, value) in other.iter().filter(|(key, _)| !one.contains_key(*key)) {
                walk(None, Some(value), &join(path, key), tolerance, found);
            }
        }
        (Some(Value::Array(one)), Some(Value::Array(other))) if one.len() == other.len() => {
            for (index, (one, other)) in one.iter().zip(other).enumerate() {
                walk(
                    Some(one),
                    Some(other),
                    &join(path, &index.to_string()),
                    tolerance,
                    found,
                );
            }
        }
        (Some(Value::Number(one)), Some(Value::Number(other))) if tolerance > 0.0 => {
            let (one, other) = (
                one.as_f64().unwrap_or_default(),
                other.as_f64().unwrap_or_default(),
            );
            if (one - other).abs() > tolerance {
                found.push(format!(
                    "{path}: envoy {one}, ours {other}, tolerance {tolerance}"
                ));
            }
        }
        (None | Some(Value::Null), None | Some(Value::Null)) => {}
        (one, other) if one == other => {}
        (one, other) => {
            let shown = |value: Option<&Value>| value.map_or_else(|| "nothing".to_owned(), short);
            found.push(format!(
                "{path}: envoy {}, ours {}",
                shown(one),
                shown(other)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn order_of_names_does_not_count_but_order_of_values_does() {
        let one = json!({"a": ["1", "2"], "b": 1});
        assert!(differences(&one, &json!({"b": 1, "a": ["1", "2"]}), 0.0).is_empty());
        assert_eq!(
            differences(&one, &json!({"b": 1, "a": ["2", "1"]}), 0.0).len(),
            2
        );
        assert_eq!(
            differences(&one, &json!({"a": ["1", "2"], "c": 2}), 0.0).len(),
            2
        );
    }

    #[test]
    fn a_tolerance_counts_for_numbers_only() {
        assert!(differences(&json!({"n": 10}), &json!({"n": 12}), 2.0).is_empty());
        assert_eq!(
            differences(&json!({"n": 10}), &json!({"n": 13}), 2.0).len(),
            1
        );
        assert_eq!(
            differences(&json!({"n": "10"}), &json!({"n": "11"}), 2.0).len(),
            1
        );
    }
}
