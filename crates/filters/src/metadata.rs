//! Metadata as protobuf and JSON have it.

use meltemi_proto::google::protobuf as wkt;
use meltemi_proto::google::protobuf::value::Kind;
use meltemi_traffic::Str;
use meltemi_traffic::metadata::{Fields, Value};

/// An object from a message.
#[must_use]
pub fn from_struct(message: &wkt::Struct) -> Fields {
    let fields = message.fields.iter();
    fields
        .map(|(name, value)| (Str::from(name.as_str()), from_value(value)))
        .collect()
}

/// A value from a message.
pub(crate) fn from_value(message: &wkt::Value) -> Value {
    match &message.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(flag)) => Value::Bool(*flag),
        Some(Kind::NumberValue(number)) => Value::Number(*number),
        Some(Kind::StringValue(text)) => Value::String(text.as_str().into()),
        Some(Kind::ListValue(list)) => Value::List(list.values.iter().map(from_value).collect()),
        Some(Kind::StructValue(fields)) => Value::Struct(from_struct(fields)),
    }
}

/// An object as a message.
#[must_use]
pub fn to_struct(fields: &Fields) -> wkt::Struct {
    wkt::Struct {
        fields: fields
            .iter()
            .map(|(name, value)| (name.to_string(), to_value(value)))
            .collect(),
    }
}

fn to_value(value: &Value) -> wkt::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(*flag),
        Value::Number(number) => Kind::NumberValue(*number),
        Value::String(text) => Kind::StringValue(text.to_string()),
        Value::List(items) => Kind::ListValue(wkt::ListValue {
            values: items.iter().map(to_value).collect(),
        }),
        Value::Struct(fields) => Kind::StructValue(to_struct(fields)),
    };
    wkt::Value { kind: Some(kind) }
}

/// A value from JSON.
#[must_use]
pub fn from_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::Bool(flag) => Value::Bool(*flag),
        serde_json::Value::Number(number) => Value::Number(number.as_f64().unwrap_or_default()),
        serde_json::Value::String(text) => Value::String(text.as_str().into()),
        serde_json::Value::Array(items) => Value::List(items.iter().map(from_json).collect()),
        serde_json::Value::Object(fields) => Value::Struct(
            fields
                .iter()
                .map(|(name, value)| (Str::from(name.as_str()), from_json(value)))
                .collect(),
        ),
    }
}
