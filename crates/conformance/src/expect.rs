//! Expectations: a tree that an observation must contain, with operators where equality is not enough.

use regex::Regex;
use serde_json::Value;

/// One leaf of an expectation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Where.
    pub(crate) path: String,
    /// `None` when it holds; what is wrong otherwise.
    pub(crate) problem: Option<String>,
}

/// Judges every leaf.
pub(crate) fn judge(expected: &Value, actual: Option<&Value>) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    walk(expected, actual, "", &mut leaves);
    leaves
}

/// True when every leaf holds.
pub(crate) fn holds(expected: &Value, actual: &Value) -> bool {
    judge(expected, Some(actual))
        .iter()
        .all(|leaf| leaf.problem.is_none())
}

fn walk(expected: &Value, actual: Option<&Value>, path: &str, leaves: &mut Vec<Leaf>) {
    match (expected, actual) {
        (Value::Object(map), _) if map.keys().any(|key| key.starts_with('$')) => {
            for (operator, operand) in map {
                apply(operator, operand, actual, path, leaves);
            }
        }
        (Value::Object(map), Some(Value::Object(actual))) if !map.is_empty() => {
            for (key, expected) in map {
                walk(expected, actual.get(key), &join(path, key), leaves);
            }
        }
        (Value::Array(list), Some(Value::Array(actual)))
            if list.len() == actual.len() && !list.is_empty() =>
        {
            for (index, (expected, actual)) in list.iter().zip(actual).enumerate() {
                walk(
                    expected,
                    Some(actual),
                    &join(path, &index.to_string()),
                    leaves,
                );
            }
        }
        // A field of one value may be written without its list.
        (expected, Some(Value::Array(list))) if list.len() == 1 && !expected.is_array() => {
            walk(expected, list.first(), path, leaves);
        }
        _ => leaf(
            is_equal(expected, actual),
            format!("expected {}", short(expected)),
            actual,
            path,
            leaves,
        ),
    }
}

fn leaf(holds: bool, wanted: String, actual: Option<&Value>, path: &str, leaves: &mut Vec<Leaf>) {
    let found = || actual.map_or_else(|| "nothing".to_owned(), short);
    leaves.push(Leaf {
        path: path.to_owned(),
        problem: (!holds).then(|| format!("{wanted}, found {}", found())),
    });
}

fn is_equal(expected: &Value, actual: Option<&Value>) -> bool {
    match (expected, actual) {
        (Value::Null, None | Some(Value::Null)) => true,
        (Value::Number(number), Some(Value::String(text))) => number.to_string() == *text,
        (Value::Bool(truth), Some(Value::String(text))) => truth.to_string() == *text,
        (Value::Number(one), Some(Value::Number(other))) => one.as_f64() == other.as_f64(),
        (expected, Some(actual)) => expected == actual,
        (_, None) => false,
    }
}

fn apply(
    operator: &str,
    operand: &Value,
    actual: Option<&Value>,
    path: &str,
    leaves: &mut Vec<Leaf>,
) {
    let text = || actual.and_then(first_text);
    let number = || match actual {
        Some(Value::Number(number)) => number.as_f64(),
        _ => text().and_then(|text| text.parse().ok()),
    };
    let bound = |index: usize| operand.get(index).and_then(Value::as_f64);
    let compared = |test: fn(f64, f64) -> bool| match (number(), operand.as_f64()) {
        (Some(actual), Some(limit)) => test(actual, limit),
        _ => false,
    };
    let operand_text = operand.as_str().unwrap_or_default();
    let holds = match operator {
        "$regex" => Regex::new(&format!("^(?s:{operand_text})$"))
            .is_ok_and(|regex| text().is_some_and(|text| regex.is_match(&text))),
        "$contains" => text().is_some_and(|text| text.contains(operand_text)),
        "$lacks" => text().is_some_and(|text| !text.contains(operand_text)),
        "$present" => {
            actual.is_some_and(|value| !value.is_null()) == (operand != &Value::Bool(false))
        }
        "$gt" => compared(|actual, limit| actual > limit),
        "$lt" => compared(|actual, limit| actual < limit),
        "$between" => match (number(), bound(0), bound(1)) {
            (Some(actual), Some(low), Some(high)) => low <= actual && actual <= high,
            _ => false,
        },
        "$len" => length(actual) == operand.as_u64(),
        "$oneof" => operand
            .as_array()
            .is_some_and(|list| list.iter().any(|one| is_equal(one, actual))),
        "$not" => !actual.is_some_and(|actual| holds(operand, actual)),
        "$has" => actual
            .and_then(Value::as_array)
            .is_some_and(|list| list.iter().any(|actual| holds(operand, actual))),
        "$json" => {
            let parsed = text().and_then(|text| serde_json::from_str::<Value>(&text).ok());
            return walk(operand, parsed.as_ref(), &join(path, "json"), leaves);
        }
        _ => false,
    };
    leaf(
        holds,
        format!("expected {operator} {}", short(operand)),
        actual,
        path,
        leaves,
    );
}

fn first_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(list) if list.len() == 1 => list.first().and_then(first_text),
        _ => None,
    }
}

fn length(value: Option<&Value>) -> Option<u64> {
    Some(match value? {
        Value::Array(list) => list.len() as u64,
        Value::String(text) => text.len() as u64,
        Value::Object(map) => match map.get("length") {
            Some(length) => length.as_u64()?,
            None => map.len() as u64,
        },
        _ => return None,
    })
}

/// The path of a member.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// A value on one line, cut.
pub(crate) fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(expected: Value, actual: Value) -> usize {
        judge(&expected, Some(&actual))
            .iter()
            .filter(|leaf| leaf.problem.is_some())
            .count()
    }

    #[test]
    fn a_tree_holds_when_every_leaf_is_found() {
        let actual = json!({"status": 200, "headers": {"a": ["1"], "b": ["x", "y"]}, "list": [{"n": 1}, {"n": 2}]});
        assert_eq!(
            problems(
                json!({"status": 200, "headers": {"a": 1, "b": ["x", "y"], "c": null}}),
                actual.clone()
            ),
            0
        );
        assert_eq!(
            problems(
                json!({"status": 201, "headers": {"a": "2", "b": ["y", "x"]}}),
                actual.clone()
            ),
            4
        );
        assert_eq!(problems(json!({"list": [{"n": 1}]}), actual.clone()), 1);
        assert_eq!(problems(json!({"headers": {"c": {"d": null}}}), actual), 1);
    }

    #[test]
    fn operators_hold_and_fail() {
        for (expected, good, bad) in [
            (json!({"$regex": "a+"}), json!("aa"), json!("ab")),
            (json!({"$contains": "b"}), json!("abc"), json!("ac")),
            (json!({"$lacks": "b"}), json!("ac"), json!("abc")),
            (json!({"$gt": 1}), json!(2), json!(1)),
            (json!({"$lt": 2}), json!("1"), json!(2)),
            (json!({"$between": [1, 3]}), json!(["2"]), json!(4)),
            (json!({"$len": 2}), json!([1, 2]), json!([1])),
            (json!({"$oneof": ["a", "b"]}), json!("b"), json!("c")),
            (json!({"$not": "a"}), json!("b"), json!("a")),
            (
                json!({"$has": {"n": 1}}),
                json!([{"n": 2}, {"n": 1}]),
                json!([{"n": 2}]),
            ),
            (
                json!({"$json": {"a": 1}}),
                json!("{\"a\":1,\"b\":2}"),
                json!("{\"a\":2}"),
            ),
            (json!({"$present": true}), json!(1), json!(null)),
            (json!({"$misspelt": 1}), json!(null), json!(1)),
        ] {
            if expected.get("$misspelt").is_none() {
                assert_eq!(problems(expected.clone(), good), 0, "{expected}");
            }
            assert!(problems(expected.clone(), bad) > 0, "{expected}");
        }
    }
}
