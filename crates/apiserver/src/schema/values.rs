//! JSON values as CEL sees them: typed by the schema, with escaped property names.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use cel::objects::{Key, Map};
use serde_json::Value;

use super::node::{Kind, Node};

/// Converts a value at a node; without a node, by its JSON type.
pub(super) fn to_cel(value: &Value, node: Option<&Node>) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(b) => cel::Value::Bool(*b),
        Value::Number(n) => number(n, node),
        Value::String(text) => string(text, node),
        Value::Array(items) => {
            let item = node.and_then(|n| n.items.as_deref());
            cel::Value::List(Arc::new(items.iter().map(|i| to_cel(i, item)).collect()))
        }
        Value::Object(map) => {
            let mut out: HashMap<Key, cel::Value> = HashMap::with_capacity(map.len());
            for (name, child) in map {
                let field = node.and_then(|n| n.field(name));
                let declared = node.is_some_and(|n| n.declares(name));
                // A null where null is not allowed counts as absent.
                if child.is_null() && declared && field.is_some_and(|f| !f.nullable) {
                    continue;
                }
                let key = if declared {
                    escape(name)
                } else {
                    Cow::Borrowed(name.as_str())
                };
                out.insert(Key::from(key.into_owned()), to_cel(child, field));
            }
            cel::Value::Map(Map { map: Arc::new(out) })
        }
    }
}

fn number(n: &serde_json::Number, node: Option<&Node>) -> cel::Value {
    let float = || cel::Value::Float(n.as_f64().unwrap_or(0.0));
    match node.map(|n| n.kind) {
        Some(Kind::Number) => float(),
        _ => match n.as_i64() {
            Some(i) => cel::Value::Int(i),
            None => match n.as_f64() {
                #[allow(clippy::cast_possible_truncation)]
                Some(f) if f.fract() == 0.0 && f.abs() < 9e15 => cel::Value::Int(f as i64),
                _ => float(),
            },
        },
    }
}

fn string(text: &str, node: Option<&Node>) -> cel::Value {
    let plain = || cel::Value::String(Arc::new(text.to_owned()));
    let format = node
        .and_then(|n| n.checks.as_ref())
        .and_then(|c| c.format.as_deref());
    match format {
        Some("date-time") => super::rules::convert("timestamp", text).unwrap_or_else(plain),
        Some("duration") => super::rules::convert("duration", text).unwrap_or_else(plain),
        Some("byte") => {
            let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text);
            bytes.map_or_else(|_| plain(), |b| cel::Value::Bytes(Arc::new(b)))
        }
        _ => plain(),
    }
}

/// A property's name as CEL can select it.
pub(super) fn escape(name: &str) -> Cow<'_, str> {
    const RESERVED: &[&str] = &[
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    if RESERVED.contains(&name) {
        return Cow::Owned(format!("__{name}__"));
    }
    if !name.contains("__") && !name.contains(['.', '-', '/']) {
        return Cow::Borrowed(name);
    }
    let escaped = name
        .replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__");
    Cow::Owned(escaped)
}
