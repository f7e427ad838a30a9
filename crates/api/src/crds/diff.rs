//! Compares definitions by what they mean to an API server, not by their wording or order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::{Map, Value};

/// One difference between two sets of definitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Name of the definition.
    pub crd: String,
    /// Where, such as `v1 .spec.hosts[].maxLength`.
    pub path: String,
    /// What ours says, if anything.
    pub ours: Option<Value>,
    /// What theirs says, if anything.
    pub theirs: Option<Value>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |v: &Option<Value>| {
            v.as_ref()
                .map_or_else(|| "absent".to_owned(), Value::to_string)
        };
        write!(
            f,
            "{} {}: ours {}, theirs {}",
            self.crd,
            self.path,
            show(&self.ours),
            show(&self.theirs)
        )
    }
}

/// Everything in which two sets of definitions differ, descriptions aside.
pub fn diff(ours: &[Value], theirs: &[Value]) -> Vec<Difference> {
    let (ours, theirs) = (by_name(ours), by_name(theirs));
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let mut found = Vec::new();
    for name in names {
        let flat = |set: &BTreeMap<String, &Value>| set.get(name).map(|crd| facts(crd));
        let (ours, theirs) = match (flat(&ours), flat(&theirs)) {
            (Some(ours), Some(theirs)) => (ours, theirs),
            (ours, theirs) => {
                let present = |side: Option<_>| side.map(|_| Value::Bool(true));
                found.push(Difference {
                    crd: name.clone(),
                    path: "definition".to_owned(),
                    ours: present(ours),
                    theirs: present(theirs),
                });
                continue;
            }
        };
        let paths: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
        for path in paths.into_iter().filter(|p| ours.get(*p) != theirs.get(*p)) {
            found.push(Difference {
                crd: name.clone(),
                path: path.clone(),
                ours: ours.get(path).cloned(),
                theirs: theirs.get(path).cloned(),
            });
        }
    }
    found
}

fn by_name(crds: &[Value]) -> BTreeMap<String, &Value> {
    let name = |crd: &Value| {
        crd.pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    crds.iter().map(|crd| (name(crd), crd)).collect()
}

/// A definition as a flat list of statements.
fn facts(crd: &Value) -> BTreeMap<String, Value> {
    let mut facts = BTreeMap::new();
    let spec = &crd["spec"];
    for key in ["group", "scope", "conversion", "preserveUnknownFields"] {
        put(&mut facts, key.to_owned(), spec.get(key));
    }
    for (key, value) in spec["names"].as_object().into_iter().flatten() {
        put(&mut facts, format!("names.{key}"), Some(&sorted(value)));
    }
    for version in spec["versions"].as_array().into_iter().flatten() {
        version_facts(version, &mut facts);
    }
    facts
}

fn version_facts(version: &Value, facts: &mut BTreeMap<String, Value>) {
    let name = version["name"].as_str().unwrap_or_default();
    for key in [
        "served",
        "storage",
        "subresources",
        "deprecated",
        "selectableFields",
    ] {
        put(facts, format!("{name} {key}"), version.get(key));
    }
    for (at, column) in version["additionalPrinterColumns"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        for key in ["name", "jsonPath", "type", "format", "priority"] {
            put(facts, format!("{name} column {at} {key}"), column.get(key));
        }
    }
    schema_facts(
        &format!("{name} "),
        &version["schema"]["openAPIV3Schema"],
        facts,
    );
}

/// Statements of one schema and of all below it. Alternatives under `oneOf` and its like hold no structure of
/// their own in a structural schema, so they are compared whole.
fn schema_facts(path: &str, schema: &Value, facts: &mut BTreeMap<String, Value>) {
    let empty = Map::new();
    for (key, value) in schema.as_object().unwrap_or(&empty) {
        match key.as_str() {
            "description" | "title" | "example" | "externalDocs" => {}
            "properties" => {
                for (name, property) in value.as_object().into_iter().flatten() {
                    let child = format!("{path}.{name}");
                    facts.insert(format!("{child} exists"), Value::Bool(true));
                    schema_facts(&child, property, facts);
                }
            }
            "items" => schema_facts(&format!("{path}[]"), value, facts),
            "additionalProperties" if value.is_object() => {
                schema_facts(&format!("{path}{{}}"), value, facts)
            }
            _ => put(facts, format!("{path} {key}"), Some(&normal(value))),
        }
    }
}

fn put(facts: &mut BTreeMap<String, Value>, path: String, value: Option<&Value>) {
    if let Some(value) = value {
        facts.insert(path, normal(value));
    }
}

/// Lists whose order carries no meaning are sorted: every list in a schema and among the names.
fn sorted(value: &Value) -> Value {
    let Value::Array(items) = value else {
        return value.clone();
    };
    let mut items = items.clone();
    items.sort_by_key(Value::to_string);
    Value::Array(items)
}

fn normal(value: &Value) -> Value {
    match value {
        Value::Array(items) => sorted(&items.iter().map(normal).collect()),
        Value::Object(map) => {
            let ordered: BTreeMap<&String, Value> =
                map.iter().map(|(k, v)| (k, normal(v))).collect();
            ordered.into_iter().map(|(k, v)| (k.clone(), v)).collect()
        }
        // `0` and `0.0` are the same bound.
        Value::Number(number) => number.as_f64().map_or_else(|| value.clone(), Value::from),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn definition(schema: &Value) -> Value {
        json!({
            "metadata": {"name": "things.example.org"},
            "spec": {"group": "example.org", "scope": "Namespaced", "names": {"kind": "Thing"},
                     "versions": [{"name": "v1", "schema": {"openAPIV3Schema": schema}}]},
        })
    }

    #[test]
    fn wording_and_order_do_not_count_but_every_constraint_does() {
        let ours = definition(&json!({"type": "object", "properties": {
            "a": {"type": "string", "description": "one", "enum": ["X", "Y"]},
            "b": {"type": "integer", "maximum": 5},
        }}));
        let theirs = definition(&json!({"properties": {
            "b": {"type": "integer", "maximum": 6},
            "a": {"type": "string", "description": "two", "enum": ["Y", "X"]},
        }, "type": "object"}));
        let found = diff(std::slice::from_ref(&ours), &[theirs]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].to_string(),
            "things.example.org v1 .b maximum: ours 5.0, theirs 6.0"
        );
        assert_eq!(diff(&[ours], &[])[0].path, "definition");
    }
}
