//! OpenTelemetry log records.

use meltemi_proto::google::protobuf as wkt;
use meltemi_proto::otlp::{AnyValue, KeyValue, KeyValueList, LogRecord, any_value, text};
use meltemi_traffic::Str;
use meltemi_traffic::access::{Heads, StreamInfo};
use meltemi_traffic::collector::OtelLog;
use meltemi_traffic::format::JsonNode;
use meltemi_traffic::metadata::{Fields, Value};
use prost::Message;

use crate::state::NodeIdentity;

/// An encoded record.
pub(super) fn record(log: &OtelLog, info: &StreamInfo<'_>, heads: Heads<'_>) -> Vec<u8> {
    LogRecord {
        time_unix_nano: u64::try_from(info.start.as_nanos()).unwrap_or(u64::MAX),
        body: log.body.as_ref().map(|body| value(body, info, heads)),
        attributes: pairs(&log.attributes, info, heads),
        trace_id: hex(info.trace_id),
        span_id: hex(info.span_id),
    }
    .encode_to_vec()
}

/// The attributes that all records of a log share.
pub(super) fn log_resource(log: &OtelLog, node: &NodeIdentity) -> Vec<(Str, Str)> {
    let mut all = Vec::new();
    if log.builtin_labels {
        all.push((Str::from("log_name"), log.log_name.clone()));
        all.push((Str::from("zone_name"), node.zone.clone()));
        all.push((Str::from("cluster_name"), node.cluster.clone()));
        all.push((Str::from("node_name"), node.id.clone()));
    }
    all.extend(log.resource.iter().cloned());
    all
}

/// Bytes of an id in hexadecimal; none when there is no such id.
fn hex(id: &str) -> Vec<u8> {
    let digits: Vec<u32> = id.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks_exact(2)
        .filter_map(|pair| u8::try_from(pair[0] << 4 | pair[1]).ok())
        .collect()
}

fn pairs(list: &[(Str, JsonNode)], info: &StreamInfo<'_>, heads: Heads<'_>) -> Vec<KeyValue> {
    list.iter()
        .map(|(key, node)| KeyValue {
            key: key.to_string(),
            value: Some(value(node, info, heads)),
            ..KeyValue::default()
        })
        .collect()
}

/// A template filled in; formats always give strings.
fn value(node: &JsonNode, info: &StreamInfo<'_>, heads: Heads<'_>) -> AnyValue {
    use any_value::Value as Any;
    let of = |value| AnyValue { value: Some(value) };
    match node {
        JsonNode::Format(format) => text(format.to_text(info, heads)),
        JsonNode::Object(fields) => of(Any::KvlistValue(KeyValueList {
            values: pairs(fields, info, heads),
        })),
        JsonNode::List(items) => of(Any::ArrayValue(
            meltemi_proto::opentelemetry::proto::common::v1::ArrayValue {
                values: items.iter().map(|item| value(item, info, heads)).collect(),
            },
        )),
        JsonNode::Literal(Value::Bool(given)) => of(Any::BoolValue(*given)),
        JsonNode::Literal(Value::Number(given)) => of(Any::DoubleValue(*given)),
        JsonNode::Literal(Value::String(given)) => text(given.as_str()),
        JsonNode::Literal(_) => AnyValue { value: None },
    }
}

/// Metadata as protobuf's own JSON.
pub(super) fn fields(fields: &Fields) -> wkt::Struct {
    wkt::Struct {
        fields: fields
            .iter()
            .map(|(name, value)| (name.to_string(), json(value)))
            .collect(),
    }
}

fn json(value: &Value) -> wkt::Value {
    use wkt::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(value) => Kind::NumberValue(*value),
        Value::String(value) => Kind::StringValue(value.to_string()),
        Value::List(items) => Kind::ListValue(wkt::ListValue {
            values: items.iter().map(json).collect(),
        }),
        Value::Struct(inner) => Kind::StructValue(fields(inner)),
    };
    wkt::Value { kind: Some(kind) }
}
