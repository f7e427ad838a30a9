//! The difference between two objects as a JSON patch.

use serde_json::{Value, json};

/// The operations that turn `before` into `after`. Objects are compared field by field, lists as a whole: the
/// webhook answers for one pod at a time, so nothing else edits the list in between.
pub fn json_patch(before: &Value, after: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    compare("", before, after, &mut operations);
    operations
}

fn compare(path: &str, before: &Value, after: &Value, operations: &mut Vec<Value>) {
    if before == after {
        return;
    }
    let (Value::Object(old), Value::Object(new)) = (before, after) else {
        operations.push(json!({"op": "replace", "path": path, "value": after}));
        return;
    };
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        operations.push(json!({"op": "remove", "path": child(path, key)}));
    }
    for (key, value) in new {
        let path = child(path, key);
        match old.get(key) {
            Some(previous) => compare(&path, previous, value, operations),
            None => operations.push(json!({"op": "add", "path": path, "value": value})),
        }
    }
}

fn child(path: &str, key: &str) -> String {
    format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_slashes_are_escaped_and_equal_parts_are_left_out() {
        let before = json!({"a": {"x/y": 1, "same": [1]}, "gone": 1});
        let after = json!({"a": {"x/y": 2, "same": [1]}, "new": {}});
        let expected = vec![
            json!({"op": "remove", "path": "/gone"}),
            json!({"op": "replace", "path": "/a/x~1y", "value": 2}),
            json!({"op": "add", "path": "/new", "value": {}}),
        ];
        assert_eq!(json_patch(&before, &after), expected);
        assert!(json_patch(&before, &before).is_empty());
    }
}
