//! JSON entries: types are kept where a value is exactly one operator.

use super::render::{self, metadata_value};
use super::{Format, GrpcStyle, JsonNode, Operator, Part, Piece, Simple, StateStyle};
use crate::access::{Heads, StreamInfo};
use crate::metadata::{Fields, Value};

/// Appends the object of an entry, which stands even when it is empty.
pub(super) fn object(
    root: &JsonNode,
    info: &StreamInfo<'_>,
    heads: Heads<'_>,
    omit: bool,
    out: &mut Vec<u8>,
) {
    if !node(root, info, heads, omit, out) {
        out.extend_from_slice(b"{}");
    }
}

/// Appends a value; false, with nothing appended, when it is to be left out.
fn node(
    node_of: &JsonNode,
    info: &StreamInfo<'_>,
    heads: Heads<'_>,
    omit: bool,
    out: &mut Vec<u8>,
) -> bool {
    let start = out.len();
    let filled = match node_of {
        JsonNode::Format(format) => return formatted(format, info, heads, omit, out),
        JsonNode::Literal(Value::Null) if omit => return false,
        JsonNode::Literal(value) => {
            write_value(value, out);
            return true;
        }
        JsonNode::Object(fields) => {
            out.push(b'{');
            let opened = out.len();
            for (key, field) in fields {
                let before = out.len();
                if before > opened {
                    out.push(b',');
                }
                write_string(key.as_bytes(), out);
                out.push(b':');
                if !node(field, info, heads, omit, out) {
                    out.truncate(before);
                }
            }
            let filled = out.len() > opened;
            out.push(b'}');
            filled
        }
        JsonNode::List(items) => {
            out.push(b'[');
            let opened = out.len();
            for item in items {
                let before = out.len();
                if before > opened {
                    out.push(b',');
                }
                if !node(item, info, heads, omit, out) {
                    out.truncate(before);
                }
            }
            let filled = out.len() > opened;
            out.push(b']');
            filled
        }
    };
    if omit && !filled {
        out.truncate(start);
        return false;
    }
    true
}

fn formatted(
    format: &Format,
    info: &StreamInfo<'_>,
    heads: Heads<'_>,
    omit: bool,
    out: &mut Vec<u8>,
) -> bool {
    let [Piece::Operator(only, limit)] = format.pieces.as_slice() else {
        let mut text = Vec::new();
        format.render(info, heads, if omit { "" } else { "-" }, &mut text);
        write_string(&text, out);
        return true;
    };
    if limit.is_none()
        && let Some(value) = structured(only, info)
    {
        write_value(value, out);
        return true;
    }
    let mut text = Vec::new();
    if !render::operator(only, info, heads, &mut text) {
        if !omit {
            out.extend_from_slice(b"null");
        }
        return !omit;
    }
    if let Some(limit) = limit {
        text.truncate(*limit);
    }
    let typed_state = matches!(only, Operator::FilterState(_, _, StateStyle::Typed));
    if numeric(only) || (typed_state && limit.is_none()) {
        out.extend_from_slice(&text);
    } else {
        write_string(&text, out);
    }
    true
}

/// The value of an operator that is JSON itself.
fn structured<'a>(operator: &Operator, info: &StreamInfo<'a>) -> Option<&'a Value> {
    let Operator::Metadata(whose, namespace, keys) = operator else {
        return None;
    };
    metadata_value(*whose, namespace, keys, info).filter(|value| **value != Value::Null)
}

/// True when an operator's value is a number in JSON.
fn numeric(operator: &Operator) -> bool {
    matches!(
        operator,
        Operator::CommonDuration(..)
            | Operator::Size(_)
            | Operator::GrpcStatus(GrpcStyle::Number)
            | Operator::Simple(
                Simple::ResponseCode
                    | Simple::BytesReceived
                    | Simple::BytesSent
                    | Simple::BytesRetransmitted
                    | Simple::PacketsRetransmitted
                    | Simple::UpstreamWireBytesSent
                    | Simple::UpstreamWireBytesReceived
                    | Simple::DownstreamWireBytesSent
                    | Simple::DownstreamWireBytesReceived
                    | Simple::Duration
                    | Simple::RequestDuration
                    | Simple::RequestTxDuration
                    | Simple::ResponseDuration
                    | Simple::ResponseTxDuration
                    | Simple::DownstreamHandshakeDuration
                    | Simple::UpstreamConnectionPoolReadyDuration
                    | Simple::UpstreamRequestAttemptCount
                    | Simple::UpstreamConnectionId
                    | Simple::ConnectionId
                    | Simple::Address(_, Part::Port)
            )
    )
}

/// Appends a value as JSON.
pub(super) fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(n) => write_number(*n, out),
        Value::String(text) => write_string(text.as_bytes(), out),
        Value::List(items) => {
            out.push(b'[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                write_value(item, out);
            }
            out.push(b']');
        }
        Value::Struct(fields) => write_fields(fields, out),
    }
}

fn write_fields(fields: &Fields, out: &mut Vec<u8>) {
    out.push(b'{');
    for (position, (key, field)) in fields.iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        write_string(key.as_bytes(), out);
        out.push(b':');
        write_value(field, out);
    }
    out.push(b'}');
}

fn write_number(number: f64, out: &mut Vec<u8>) {
    use std::io::Write as _;
    // Whole numbers print all their digits; beyond this the shortest form that reads back is used.
    const WHOLE: f64 = 1e21;
    // Writing into a Vec cannot fail.
    let _ = if number.fract() == 0.0 && number.abs() < WHOLE {
        #[allow(clippy::cast_possible_truncation, reason = "bounded above")]
        let whole = number as i128;
        write!(out, "{whole}")
    } else {
        write!(out, "{number}")
    };
}

/// A JSON string; bytes that are no UTF-8 become the replacement character.
fn write_string(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for c in String::from_utf8_lossy(bytes).chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            c if c < ' ' => out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes()),
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}
