//! From Rust types to Kubernetes' structural schemas: what serde and schemars say, reduced to what a CRD may say.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// Marks schemas whose `null` is meaningful, until [`structural`] turns it into `nullable`.
const NULLABLE: &str = "x-meltemi-nullable";

/// A value that distinguishes "unset" from its zero value and may be `null` (protobuf's wrapper types);
/// used as `#[schemars(with = "Nullable<T>")]`.
pub struct Nullable<T>(std::marker::PhantomData<T>);

impl<T: JsonSchema> JsonSchema for Nullable<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("Nullable_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = T::json_schema(generator);
        schema.insert(NULLABLE.to_owned(), Value::Bool(true));
        schema
    }
}

/// `oneOf` that accepts an object with none or exactly one of `fields`.
pub fn at_most_one(fields: &[&str]) -> Value {
    let each: Vec<Value> = fields.iter().map(|f| json!({"required": [f]})).collect();
    let mut alternatives = vec![json!({"not": {"anyOf": each}})];
    alternatives.extend(each);
    Value::Array(alternatives)
}

/// A CEL rule with its message.
pub fn rule(rule: &str, message: &str) -> Value {
    json!({"rule": rule, "message": message})
}

/// The rules of a port number.
pub fn port_rules() -> Value {
    json!([rule(
        "0 < self && self <= 65535",
        "port must be between 1-65535"
    )])
}

/// The schema of a free-form object.
pub fn free_form(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// The structural schema of `T`: inlined, without nulls, definitions and titles.
pub fn structural<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value();
    reduce(&mut schema);
    schema
}

/// Rewrites one schema and all below it.
fn reduce(schema: &mut Value) {
    if matches!(schema, Value::Bool(true)) {
        *schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    }
    let Value::Object(map) = schema else { return };
    drop_null_alternative(map);
    collapse_enum(map);
    for key in ["$schema", "title", "default", "unevaluatedProperties"] {
        map.remove(key);
    }
    if map.remove(NULLABLE).is_some() {
        map.insert("nullable".to_owned(), Value::Bool(true));
    }
    integer_format(map);
    tidy_description(map);
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(reduce);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = map.get_mut(key) {
            reduce(child);
        }
    }
}

/// `Option<T>` reads as "T or null"; in a CRD an absent field says it.
fn drop_null_alternative(map: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = map.get_mut("type") {
        types.retain(|t| t != "null");
        if types.len() == 1 {
            let only = types.remove(0);
            map.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(values)) = map.get_mut("enum") {
        values.retain(|v| !v.is_null());
    }
    let is_null = |v: &Value| v.get("type").is_some_and(|t| t == "null");
    let Some(Value::Array(any_of)) = map.get("anyOf") else {
        return;
    };
    if any_of.len() == 2 && any_of.iter().any(is_null) {
        let inner = any_of.iter().find(|v| !is_null(v)).cloned();
        map.remove("anyOf");
        for (key, value) in inner
            .as_ref()
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            map.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// Documented unit variants arrive as a list of constants; a CRD wants one enumeration.
fn collapse_enum(map: &mut Map<String, Value>) {
    let Some(Value::Array(variants)) = map.get("oneOf") else {
        return;
    };
    let mut values = Vec::new();
    for variant in variants {
        match (variant.get("const"), variant.get("enum")) {
            (Some(constant), _) => values.push(constant.clone()),
            (None, Some(Value::Array(several))) => values.extend(several.iter().cloned()),
            _ => return,
        }
    }
    map.remove("oneOf");
    map.insert("type".to_owned(), json!("string"));
    map.insert("enum".to_owned(), Value::Array(values));
}

/// OpenAPI has no unsigned formats: the bounds say it.
fn integer_format(map: &mut Map<String, Value>) {
    match map.get("format").and_then(Value::as_str) {
        Some("uint32") => {
            map.remove("format");
            map.entry("maximum").or_insert_with(|| json!(u32::MAX));
        }
        Some("uint64" | "uint") => {
            map.remove("format");
        }
        _ => {}
    }
}

/// Joins the wrapped lines of a doc comment.
fn tidy_description(map: &mut Map<String, Value>) {
    if let Some(Value::String(text)) = map.get_mut("description") {
        let paragraphs: Vec<String> = text
            .split("\n\n")
            .map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        *text = paragraphs.join("\n\n");
    }
}
