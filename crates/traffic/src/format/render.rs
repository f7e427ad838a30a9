//! Operators to bytes.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::HeaderName;

use super::time::digits;
use super::{
    Format, GrpcStyle, JsonNode, MetadataOf, Moment, Operator, Part, PathKind, Piece, Simple,
    TimeUnit,
};
use crate::Str;
use crate::access::{Heads, StreamInfo};
use crate::endpoint::Address;
use crate::headers::Headers;
use crate::matcher::{Field, query_value, split_query};
use crate::metadata::{Metadata, Value};

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

// table: kinds of operators
/// Appends an operator's value; false (and nothing appended) when it has none.
pub(super) fn operator(
    operator: &Operator,
    info: &StreamInfo<'_>,
    heads: Heads<'_>,
    out: &mut Vec<u8>,
) -> bool {
    match operator {
        Operator::StartTime(format) => {
            format.render(info.start, out);
            true
        }
        Operator::Request(main, other, cut) => {
            let fields = [main, other].into_iter().flatten();
            heads.request.is_some_and(|_| {
                fields
                    .into_iter()
                    .any(|field| request_field(field, *cut, heads, out))
            })
        }
        Operator::Response(main, other) => any_header(heads.response, [main, other], out),
        Operator::Trailer(main, other) => any_header(heads.trailers, [main, other], out),
        Operator::Path(query, kind) => path(*query, *kind, heads, out),
        Operator::Query(name) => {
            let value = heads
                .request
                .and_then(|r| query_value(split_query(r.path()).1, name.as_bytes()));
            value.is_some_and(|value| text_bytes(value, out))
        }
        Operator::Simple(which) => simple(*which, info, heads, out),
        Operator::Metadata(whose, namespace, keys) => {
            let found = metadata_of(*whose, info).and_then(|m| {
                if keys.is_empty() {
                    m.namespaces.get(namespace)
                } else {
                    m.get(namespace, keys)
                }
            });
            found.is_some_and(|value| {
                match value {
                    Value::String(text) => out.extend_from_slice(text.as_bytes()),
                    other => write_value(other, out),
                }
                true
            })
        }
        Operator::FilterState(upstream, key) => {
            let states = if *upstream {
                info.upstream_filter_state
            } else {
                info.filter_state
            };
            states
                .iter()
                .find(|(have, _)| have == key)
                .is_some_and(|(_, value)| text(value, out))
        }
        Operator::GrpcStatus(style) => info.grpc_status.is_some_and(|status| {
            grpc_status(status, *style, out);
            true
        }),
        Operator::CommonDuration(from, to, unit) => {
            let span = moment(*from, info)
                .zip(moment(*to, info))
                .and_then(|(a, b)| b.checked_sub(a));
            span.is_some_and(|span| {
                let count = match unit {
                    TimeUnit::Millis => span.as_millis(),
                    TimeUnit::Micros => span.as_micros(),
                    TimeUnit::Nanos => span.as_nanos(),
                };
                number(u64::try_from(count).unwrap_or(u64::MAX), out)
            })
        }
        Operator::Constant(value) => text(value, out),
    }
}

fn text(value: &str, out: &mut Vec<u8>) -> bool {
    text_bytes(value.as_bytes(), out)
}

fn text_bytes(value: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(value);
    !value.is_empty()
}

fn number(value: u64, out: &mut Vec<u8>) -> bool {
    digits(value, 1, out);
    true
}

fn millis(span: Option<Duration>, out: &mut Vec<u8>) -> bool {
    span.is_some_and(|span| number(u64::try_from(span.as_millis()).unwrap_or(u64::MAX), out))
}

fn request_field(field: &Field, cut_query: bool, heads: Heads<'_>, out: &mut Vec<u8>) -> bool {
    let Some(request) = heads.request else {
        return false;
    };
    let value = match field {
        Field::Method => request.method(),
        Field::Path => request.path(),
        Field::Authority => request.authority(),
        Field::Scheme => request.scheme(),
        Field::Name(name) => match request.get(name) {
            Some(value) => value,
            None => return false,
        },
    };
    text_bytes(
        if cut_query {
            split_query(value).0
        } else {
            value
        },
        out,
    )
}

fn any_header(
    from: Option<&dyn Headers>,
    names: [&Option<HeaderName>; 2],
    out: &mut Vec<u8>,
) -> bool {
    let Some(from) = from else { return false };
    names
        .into_iter()
        .flatten()
        .any(|name| from.get(name).is_some_and(|value| text_bytes(value, out)))
}

fn path(query: bool, kind: PathKind, heads: Heads<'_>, out: &mut Vec<u8>) -> bool {
    let Some(request) = heads.request else {
        return false;
    };
    let original = request.get(&ORIGINAL_PATH);
    let value = match kind {
        PathKind::Original => original,
        PathKind::Present => Some(request.path()),
        PathKind::OriginalOrPresent => original.or_else(|| Some(request.path())),
    };
    value.is_some_and(|value| text_bytes(if query { value } else { split_query(value).0 }, out))
}

fn metadata_of<'a>(whose: MetadataOf, info: &StreamInfo<'a>) -> Option<&'a Metadata> {
    match whose {
        MetadataOf::Dynamic => info.metadata,
        MetadataOf::Route => info.route_metadata,
        MetadataOf::Cluster => info.cluster_metadata,
        MetadataOf::Host => info.host_metadata,
    }
}

fn moment(moment: Moment, info: &StreamInfo<'_>) -> Option<Duration> {
    match moment {
        Moment::Start => Some(Duration::ZERO),
        Moment::RequestEnd => info.times.request_end,
        Moment::UpstreamFirstTx => info.times.upstream_first_tx,
        Moment::UpstreamLastTx => info.times.upstream_last_tx,
        Moment::UpstreamFirstRx => info.times.upstream_first_rx,
        Moment::UpstreamLastRx => info.times.upstream_last_rx,
        Moment::FirstTx => info.times.first_tx,
        Moment::LastTx => info.times.last_tx,
    }
}

const GRPC_NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

fn grpc_status(status: u32, style: GrpcStyle, out: &mut Vec<u8>) {
    match (style, GRPC_NAMES.get(status as usize)) {
        (GrpcStyle::Camel, Some((camel, _))) => out.extend_from_slice(camel.as_bytes()),
        (GrpcStyle::Snake, Some((_, snake))) => out.extend_from_slice(snake.as_bytes()),
        _ => digits(u64::from(status), 1, out),
    }
}

fn socket(address: Option<SocketAddr>, part: Part, out: &mut Vec<u8>) -> bool {
    let Some(address) = address else { return false };
    match part {
        Part::Whole => display(&address, out),
        Part::Address => display(&address.ip(), out),
        Part::Port => number(u64::from(address.port()), out),
    }
}

fn display(value: &impl std::fmt::Display, out: &mut Vec<u8>) -> bool {
    use std::io::Write as _;
    // Writing into a Vec cannot fail.
    let _ = write!(out, "{value}");
    true
}

fn names(list: Option<&[Str]>, out: &mut Vec<u8>) -> bool {
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return false;
    };
    for (position, name) in list.iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
    }
    true
}

fn code_details(details: &str, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let set = text(details, out);
    for byte in &mut out[start..] {
        if *byte == b' ' {
            *byte = b'_';
        }
    }
    set
}

// table: simple operators
fn simple(which: Simple, info: &StreamInfo<'_>, heads: Heads<'_>, out: &mut Vec<u8>) -> bool {
    let times = &info.times;
    let down = &info.downstream_tls;
    let up = &info.upstream_tls;
    match which {
        Simple::Protocol => info.protocol.is_some_and(|p| text(p.name(), out)),
        Simple::UpstreamProtocol => info.upstream_protocol.is_some_and(|p| text(p.name(), out)),
        Simple::Method => heads.request.is_some_and(|r| text_bytes(r.method(), out)),
        Simple::Scheme => heads.request.is_some_and(|r| text_bytes(r.scheme(), out)),
        Simple::ResponseCode => number(info.response_code.map_or(0, u64::from), out),
        Simple::ResponseCodeDetails => code_details(info.response_code_details, out),
        Simple::ResponseFlags if info.flags.is_empty() => text("-", out),
        Simple::ResponseFlags => text(&info.flags.short(), out),
        Simple::ResponseFlagsLong if info.flags.is_empty() => text("-", out),
        Simple::ResponseFlagsLong => text(&info.flags.long(), out),
        Simple::ConnectionTerminationDetails => text(info.connection_termination_details, out),
        Simple::BytesReceived => number(info.bytes_received, out),
        Simple::BytesSent => number(info.bytes_sent, out),
        Simple::UpstreamWireBytesSent => number(info.upstream_wire.0, out),
        Simple::UpstreamWireBytesReceived => number(info.upstream_wire.1, out),
        Simple::Duration => millis(info.duration, out),
        Simple::RequestDuration => millis(times.request_end, out),
        Simple::RequestTxDuration => millis(times.upstream_last_tx, out),
        Simple::ResponseDuration => millis(times.upstream_first_rx, out),
        Simple::ResponseTxDuration => millis(
            times
                .last_tx
                .zip(times.upstream_first_rx)
                .and_then(|(a, b)| a.checked_sub(b)),
            out,
        ),
        Simple::RoundtripDuration => millis(times.last_tx, out),
        Simple::DownstreamHandshakeDuration => millis(times.handshake, out),
        Simple::UpstreamConnectionPoolReadyDuration => millis(times.pool_ready, out),
        Simple::UpstreamHost(part) => match info.upstream_host {
            Some(Address::Socket(address)) => socket(Some(*address), part, out),
            Some(other) => display(other, out),
            None => false,
        },
        Simple::UpstreamHostName => text(info.upstream_hostname, out),
        Simple::UpstreamCluster => text(info.upstream_cluster, out),
        Simple::UpstreamClusterRaw => text(info.upstream_cluster_raw, out),
        Simple::UpstreamLocalAddress(part) => socket(info.upstream_local, part, out),
        Simple::UpstreamTransportFailureReason => code_details(info.upstream_failure, out),
        Simple::UpstreamRequestAttemptCount => number(u64::from(info.attempts), out),
        Simple::UpstreamPeerUriSan => names(up.peer.map(|p| &p.uri_sans[..]), out),
        Simple::UpstreamPeerDnsSan => names(up.peer.map(|p| &p.dns_sans[..]), out),
        Simple::UpstreamPeerSubject => up.peer.is_some_and(|p| text(&p.subject, out)),
        Simple::UpstreamPeerIssuer => up.peer.is_some_and(|p| text(&p.issuer, out)),
        Simple::UpstreamTlsVersion => text(up.version, out),
        Simple::UpstreamTlsCipher => text(up.cipher, out),
        Simple::DownstreamLocalAddress(part) => socket(info.downstream_local, part, out),
        Simple::DownstreamRemoteAddress(part) => socket(info.downstream_remote, part, out),
        Simple::DownstreamDirectRemoteAddress(part) => {
            socket(info.downstream_direct_remote, part, out)
        }
        Simple::DownstreamTransportFailureReason => code_details(info.downstream_failure, out),
        Simple::DownstreamPeerUriSan => names(down.peer.map(|p| &p.uri_sans[..]), out),
        Simple::DownstreamPeerDnsSan => names(down.peer.map(|p| &p.dns_sans[..]), out),
        Simple::DownstreamPeerSubject => down.peer.is_some_and(|p| text(&p.subject, out)),
        Simple::DownstreamPeerIssuer => down.peer.is_some_and(|p| text(&p.issuer, out)),
        Simple::DownstreamPeerSerial => down.peer.is_some_and(|p| text(&p.serial, out)),
        Simple::DownstreamPeerFingerprint256 => {
            down.peer.is_some_and(|p| text(&p.fingerprint_256, out))
        }
        Simple::DownstreamLocalUriSan => names(down.local.map(|p| &p.uri_sans[..]), out),
        Simple::DownstreamLocalDnsSan => names(down.local.map(|p| &p.dns_sans[..]), out),
        Simple::DownstreamLocalSubject => down.local.is_some_and(|p| text(&p.subject, out)),
        Simple::DownstreamTlsVersion => text(down.version, out),
        Simple::DownstreamTlsCipher => text(down.cipher, out),
        Simple::RequestedServerName => text(info.requested_server_name, out),
        Simple::RouteName => text(info.route_name, out),
        Simple::VirtualClusterName => text(info.virtual_cluster, out),
        Simple::FilterChainName => text(info.filter_chain, out),
        Simple::ConnectionId => info.connection_id != 0 && number(info.connection_id, out),
        Simple::StreamId => text(info.stream_id, out),
        Simple::TraceId => text(info.trace_id, out),
        Simple::Hostname => text(info.hostname, out),
        Simple::LocalReplyBody => text(info.local_reply_body, out),
        Simple::AccessLogType => text(info.log_type, out),
    }
}

/// True when an operator's value is a number in JSON.
fn numeric(operator: &Operator) -> bool {
    matches!(
        operator,
        Operator::CommonDuration(..)
            | Operator::GrpcStatus(GrpcStyle::Number)
            | Operator::Simple(
                Simple::ResponseCode
                    | Simple::BytesReceived
                    | Simple::BytesSent
                    | Simple::UpstreamWireBytesSent
                    | Simple::UpstreamWireBytesReceived
                    | Simple::Duration
                    | Simple::RequestDuration
                    | Simple::RequestTxDuration
                    | Simple::ResponseDuration
                    | Simple::ResponseTxDuration
                    | Simple::RoundtripDuration
                    | Simple::DownstreamHandshakeDuration
                    | Simple::UpstreamConnectionPoolReadyDuration
                    | Simple::UpstreamRequestAttemptCount
                    | Simple::ConnectionId
                    | Simple::UpstreamHost(Part::Port)
                    | Simple::UpstreamLocalAddress(Part::Port)
                    | Simple::DownstreamLocalAddress(Part::Port)
                    | Simple::DownstreamRemoteAddress(Part::Port)
                    | Simple::DownstreamDirectRemoteAddress(Part::Port)
            )
    )
}

/// Operators whose unset value is the text `-` even in JSON.
fn dash_in_json(operator: &Operator) -> bool {
    matches!(
        operator,
        Operator::Simple(Simple::ResponseFlags | Simple::ResponseFlagsLong)
    )
}

pub(super) fn json(
    node: &JsonNode,
    info: &StreamInfo<'_>,
    heads: Heads<'_>,
    omit: bool,
    out: &mut Vec<u8>,
) {
    match node {
        JsonNode::Format(format) => json_format(format, info, heads, omit, out),
        JsonNode::Literal(value) => write_value(value, out),
        JsonNode::Object(fields) => {
            out.push(b'{');
            let opened = out.len();
            for (key, field) in fields {
                let start = out.len();
                if start > opened {
                    out.push(b',');
                }
                write_string(key.as_bytes(), out);
                out.push(b':');
                let value_at = out.len();
                json(field, info, heads, omit, out);
                if omit && matches!(&out[value_at..], b"null" | b"\"\"") {
                    out.truncate(start);
                }
            }
            out.push(b'}');
        }
        JsonNode::List(items) => {
            out.push(b'[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    out.push(b',');
                }
                json(item, info, heads, omit, out);
            }
            out.push(b']');
        }
    }
}

fn json_format(
    format: &Format,
    info: &StreamInfo<'_>,
    heads: Heads<'_>,
    omit: bool,
    out: &mut Vec<u8>,
) {
    let mut text = Vec::new();
    if let [Piece::Operator(only, limit)] = format.pieces.as_slice() {
        if let (Operator::Metadata(whose, namespace, keys), None) = (only, limit) {
            let value = metadata_of(*whose, info).and_then(|m| m.get(namespace, keys));
            return write_value(value.unwrap_or(&Value::Null), out);
        }
        if operator(only, info, heads, &mut text) {
            if let Some(limit) = limit {
                text.truncate(*limit);
            }
            return if numeric(only) {
                out.extend_from_slice(&text)
            } else {
                write_string(&text, out)
            };
        }
        return out.extend_from_slice(if dash_in_json(only) {
            b"\"-\""
        } else {
            b"null"
        });
    }
    format.render(info, heads, if omit { "" } else { "-" }, &mut text);
    write_string(&text, out);
}

fn write_value(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(n) => {
            display(n, out);
        }
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
        Value::Struct(fields) => {
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
    }
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
