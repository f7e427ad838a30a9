//! JSON to wire bytes.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::JsonError;
use super::table::{self, Enum, Field, Kind, Message};
use super::wire::{BYTES, FIXED32, FIXED64, VARINT, put_bytes, put_tag, put_varint, zigzag};
use crate::any::type_name;

type Done = Result<(), JsonError>;

fn expected<T>(what: &str) -> Result<T, JsonError> {
    Err(JsonError::new(format!("expected {what}")))
}

fn object(value: &Value) -> Result<&Map<String, Value>, JsonError> {
    value.as_object().map_or_else(|| expected("an object"), Ok)
}

fn string(value: &Value) -> Result<&str, JsonError> {
    value.as_str().map_or_else(|| expected("a string"), Ok)
}

/// Writes the fields of a message.
pub(super) fn message(message: Message, value: &Value, out: &mut Vec<u8>) -> Done {
    if let Some(known) = WellKnown::of(message.name) {
        return known.read(message, value, out);
    }
    plain(message, object(value)?, &[], out)
}

fn plain(message: Message, fields: &Map<String, Value>, skip: &[&str], out: &mut Vec<u8>) -> Done {
    let mut choices: Vec<u32> = Vec::new();
    for (key, value) in fields {
        if skip.contains(&key.as_str()) {
            continue;
        }
        let Some(field) = message.field_named(key) else {
            return Err(JsonError::new(format!("no such field in {}", message.name)).below(key));
        };
        // null means unset, except where null is itself a value.
        if value.is_null()
            && !(field.kind == Kind::Message && field.message().name == "google.protobuf.Value")
        {
            continue;
        }
        if let Some(choice) = field.oneof {
            if choices.contains(&choice) {
                return Err(
                    JsonError::new("another member of the same choice is set").below(field.name)
                );
            }
            choices.push(choice);
        }
        field_value(field, value, out).map_err(|e| e.below(field.name))?;
    }
    Ok(())
}

fn field_value(field: Field, value: &Value, out: &mut Vec<u8>) -> Done {
    if field.map {
        return map(field, value, out);
    }
    if !field.repeated {
        return single(field, value, out);
    }
    let Some(items) = value.as_array() else {
        return expected("a list");
    };
    for (position, item) in items.iter().enumerate() {
        single(field, item, out).map_err(|e| e.below(&format!("[{position}]")))?;
    }
    Ok(())
}

fn map(field: Field, value: &Value, out: &mut Vec<u8>) -> Done {
    let entry = field.message();
    let (Some(key_field), Some(value_field)) = (entry.field(1), entry.field(2)) else {
        return expected("a map");
    };
    for (key, item) in object(value)? {
        let mut bytes = Vec::new();
        let within = |e: JsonError| e.below(&format!("[{key}]"));
        let key_value = match key_field.kind {
            Kind::Bool => Value::Bool(key == "true"),
            _ => Value::String(key.clone()),
        };
        single(key_field, &key_value, &mut bytes).map_err(within)?;
        single(value_field, item, &mut bytes).map_err(within)?;
        put_bytes(field.number, &bytes, out);
    }
    Ok(())
}

fn single(field: Field, value: &Value, out: &mut Vec<u8>) -> Done {
    let number = field.number;
    match field.kind {
        Kind::Message => {
            let mut bytes = Vec::new();
            message(field.message(), value, &mut bytes)?;
            put_bytes(number, &bytes, out);
        }
        Kind::String => put_bytes(number, string(value)?.as_bytes(), out),
        Kind::Bytes => put_bytes(number, &base64_bytes(string(value)?)?, out),
        Kind::Bool => {
            let Some(bool) = value.as_bool() else {
                return expected("true or false");
            };
            put_tag(number, VARINT, out);
            put_varint(u64::from(bool), out);
        }
        Kind::Enum => {
            put_tag(number, VARINT, out);
            put_varint(
                i64::from(enum_number(field.enumeration(), value)?).cast_unsigned(),
                out,
            );
        }
        Kind::Double => {
            put_tag(number, FIXED64, out);
            out.extend_from_slice(&float(value)?.to_le_bytes());
        }
        Kind::Float => {
            put_tag(number, FIXED32, out);
            out.extend_from_slice(&(float(value)? as f32).to_le_bytes());
        }
        integer => put_integer(number, integer, value, out)?,
    }
    Ok(())
}

fn put_integer(number: u32, kind: Kind, value: &Value, out: &mut Vec<u8>) -> Done {
    let (low, high) = match kind {
        Kind::Uint32 | Kind::Fixed32 => (0, i128::from(u32::MAX)),
        Kind::Uint64 | Kind::Fixed64 => (0, i128::from(u64::MAX)),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => (i128::from(i32::MIN), i128::from(i32::MAX)),
        _ => (i128::from(i64::MIN), i128::from(i64::MAX)),
    };
    let found = match value {
        Value::Number(n) => n
            .as_i64()
            .map(i128::from)
            .or_else(|| n.as_u64().map(i128::from))
            .or_else(|| {
                n.as_f64()
                    .filter(|f| f.fract() == 0.0 && f.abs() < 9e18)
                    .map(|f| f as i128)
            }),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let Some(found) = found.filter(|n| (low..=high).contains(n)) else {
        return expected(&format!("a number from {low} to {high}"));
    };
    // Two's complement in 64 bits is what the wire carries for negative numbers.
    let bits = found as u64;
    match kind {
        Kind::Fixed32 | Kind::Sfixed32 => {
            put_tag(number, FIXED32, out);
            out.extend_from_slice(&(bits as u32).to_le_bytes());
        }
        Kind::Fixed64 | Kind::Sfixed64 => {
            put_tag(number, FIXED64, out);
            out.extend_from_slice(&bits.to_le_bytes());
        }
        Kind::Sint32 | Kind::Sint64 => {
            put_tag(number, VARINT, out);
            put_varint(zigzag(bits.cast_signed()), out);
        }
        _ => {
            put_tag(number, VARINT, out);
            put_varint(bits, out);
        }
    }
    Ok(())
}

fn float(value: &Value) -> Result<f64, JsonError> {
    match value {
        Value::Number(n) => n.as_f64().map_or_else(|| expected("a number"), Ok),
        Value::String(text) => match text.as_str() {
            "NaN" => Ok(f64::NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            other => other.parse().or_else(|_| expected("a number")),
        },
        _ => expected("a number"),
    }
}

fn enum_number(kind: Enum, value: &Value) -> Result<i32, JsonError> {
    match value {
        Value::String(name) => {
            let found = kind
                .values()
                .find(|(have, _)| have == name)
                .map(|(_, number)| number);
            found.ok_or_else(|| JsonError::new(format!("{name} is no value of {}", kind.name)))
        }
        Value::Number(n) => {
            let number = n.as_i64().and_then(|n| i32::try_from(n).ok());
            number.map_or_else(|| expected("the name of a value"), Ok)
        }
        _ => expected("the name of a value"),
    }
}

fn base64_bytes(text: &str) -> Result<Vec<u8>, JsonError> {
    [STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD]
        .iter()
        .find_map(|engine| engine.decode(text).ok())
        .map_or_else(|| expected("base64"), Ok)
}

/// Messages with a JSON form of their own.
#[derive(Debug, Clone, Copy)]
pub(super) enum WellKnown {
    Any,
    Duration,
    Timestamp,
    Struct,
    Value,
    ListValue,
    Wrapper,
    FieldMask,
}

impl WellKnown {
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name.strip_prefix("google.protobuf.")? {
            "Any" => Self::Any,
            "Duration" => Self::Duration,
            "Timestamp" => Self::Timestamp,
            "Struct" => Self::Struct,
            "Value" => Self::Value,
            "ListValue" => Self::ListValue,
            "FieldMask" => Self::FieldMask,
            "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value"
            | "UInt32Value" | "BoolValue" | "StringValue" | "BytesValue" => Self::Wrapper,
            _ => return None,
        })
    }

    fn read(self, message: Message, value: &Value, out: &mut Vec<u8>) -> Done {
        match self {
            Self::Any => any(value, out),
            Self::Duration => duration(value, out),
            Self::Timestamp => expected("no timestamp in a configuration"),
            Self::Struct => fields_of_struct(object(value)?, out),
            Self::Value => json_value(value, out),
            Self::ListValue => {
                let Some(items) = value.as_array() else {
                    return expected("a list");
                };
                list_value(items, out)
            }
            Self::Wrapper => match message.field(1) {
                Some(field) => single(field, value, out),
                None => expected("a wrapper"),
            },
            Self::FieldMask => {
                let paths = string(value)?;
                for path in paths.split(',').filter(|path| !path.is_empty()) {
                    put_bytes(1, path.as_bytes(), out);
                }
                Ok(())
            }
        }
    }
}

fn any(value: &Value, out: &mut Vec<u8>) -> Done {
    let fields = object(value)?;
    let Some(url) = fields.get("@type").and_then(Value::as_str) else {
        // An empty object is an empty Any.
        return if fields.is_empty() {
            Ok(())
        } else {
            expected("@type")
        };
    };
    let Some(inner) = table::message(type_name(url)) else {
        return Err(JsonError::new(format!("unknown type {url}")).below("@type"));
    };
    let mut bytes = Vec::new();
    match WellKnown::of(inner.name) {
        Some(known) => {
            let value = fields.get("value").unwrap_or(&Value::Null);
            known
                .read(inner, value, &mut bytes)
                .map_err(|e| e.below("value"))?;
        }
        None => plain(inner, fields, &["@type"], &mut bytes)?,
    }
    put_bytes(1, url.as_bytes(), out);
    put_bytes(2, &bytes, out);
    Ok(())
}

/// `1.5s`
fn duration(value: &Value, out: &mut Vec<u8>) -> Done {
    const WHAT: &str = "a duration such as 1.5s";
    let Some(text) = value.as_str().and_then(|text| text.strip_suffix('s')) else {
        return expected(WHAT);
    };
    let (negative, digits) = text
        .strip_prefix('-')
        .map_or((false, text), |rest| (true, rest));
    let (seconds, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if seconds.is_empty() || !plain(seconds) || !plain(fraction) || fraction.len() > 9 {
        return expected(WHAT);
    }
    let (Ok(seconds), Ok(nanos)) = (
        seconds.parse::<i64>(),
        format!("{fraction:0<9}").parse::<i64>(),
    ) else {
        return expected(WHAT);
    };
    let sign = if negative { -1 } else { 1 };
    for (number, part) in [(1, seconds * sign), (2, nanos * sign)] {
        if part != 0 {
            put_tag(number, VARINT, out);
            put_varint(part.cast_unsigned(), out);
        }
    }
    Ok(())
}

fn fields_of_struct(fields: &Map<String, Value>, out: &mut Vec<u8>) -> Done {
    for (key, value) in fields {
        let (mut entry, mut bytes) = (Vec::new(), Vec::new());
        put_bytes(1, key.as_bytes(), &mut entry);
        json_value(value, &mut bytes)?;
        put_bytes(2, &bytes, &mut entry);
        put_bytes(1, &entry, out);
    }
    Ok(())
}

fn list_value(items: &[Value], out: &mut Vec<u8>) -> Done {
    for item in items {
        let mut bytes = Vec::new();
        json_value(item, &mut bytes)?;
        put_bytes(1, &bytes, out);
    }
    Ok(())
}

fn json_value(value: &Value, out: &mut Vec<u8>) -> Done {
    match value {
        Value::Null => {
            put_tag(1, VARINT, out);
            out.push(0);
        }
        Value::Number(_) => {
            put_tag(2, FIXED64, out);
            out.extend_from_slice(&float(value)?.to_le_bytes());
        }
        Value::String(text) => put_bytes(3, text.as_bytes(), out),
        Value::Bool(bool) => {
            put_tag(4, VARINT, out);
            out.push(u8::from(*bool));
        }
        Value::Object(fields) => {
            let mut bytes = Vec::new();
            fields_of_struct(fields, &mut bytes)?;
            put_tag(5, BYTES, out);
            put_varint(bytes.len() as u64, out);
            out.extend_from_slice(&bytes);
        }
        Value::Array(items) => {
            let mut bytes = Vec::new();
            list_value(items, &mut bytes)?;
            put_bytes(6, &bytes, out);
        }
    }
    Ok(())
}
