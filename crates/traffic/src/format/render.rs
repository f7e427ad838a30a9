//! Operators to bytes.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::HeaderName;

use super::derived;
use super::json::write_value;
use super::time::digits;
use super::{
    AddressOf, Bound, GrpcStyle, MetadataOf, Moment, Operator, Part, PathKind, PeerField,
    ResponseField, ServerNameOrder, Simple, StateStyle, TimeFormat, TimeUnit,
};
use crate::Str;
use crate::access::{Heads, StateObject, StreamInfo};
use crate::endpoint::Address;
use crate::headers::Headers;
use crate::matcher::{Cidr, Field, query_value, split_query};
use crate::metadata::{Metadata, Value};
use crate::tls::PeerIdentity;

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");

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
        Operator::EmitTime(format) => {
            format.render(info.start + info.duration.unwrap_or_default(), out);
            true
        }
        Operator::Validity(upstream, bound, format) => {
            validity(*upstream, *bound, format, info, out)
        }
        Operator::Request(main, other, cut) => [main, other]
            .into_iter()
            .flatten()
            .any(|field| request_field(field, *cut, heads, out)),
        Operator::Response(main, other, cut) => {
            response_field(main, *cut, info, heads, out)
                || other
                    .as_ref()
                    .is_some_and(|other| response_field(other, *cut, info, heads, out))
        }
        Operator::Trailer(main, other) => [main, other]
            .into_iter()
            .flatten()
            .any(|name| header(heads.trailers, name, false, out)),
        Operator::Path(query, kind) => path(*query, *kind, heads, out),
        Operator::Query(name) => query_of(heads)
            .and_then(|query| query_value(query, name.as_bytes()))
            .is_some_and(|value| present(&percent_decode(value), out)),
        Operator::Queries(decoded) => query_of(heads).is_some_and(|query| {
            if *decoded {
                text_bytes(&readable(query), out)
            } else {
                text_bytes(query, out)
            }
        }),
        Operator::Simple(which) => simple(*which, info, out),
        Operator::Masked(of, bits) => masked(*of, *bits, info, out),
        Operator::Metadata(whose, namespace, keys) => {
            metadata_value(*whose, namespace, keys, info).is_some_and(|value| plain(value, out))
        }
        Operator::FilterState(upstream, key, style) => match filter_state(*upstream, key, info) {
            Some(value) => state(value, style, out),
            None => info
                .peers
                .get(key)
                .is_some_and(|object| object_state(object, style, out)),
        },
        Operator::GrpcStatus(style) => info.grpc_status.is_some_and(|status| {
            grpc_status(status, *style, out);
            true
        }),
        Operator::CommonDuration(from, to, unit) => common_duration(*from, *to, *unit, info, out),
        Operator::ServerName(order) => server_name(*order, info, heads, out),
        Operator::Environment(name) => {
            let found = info.environment.iter().find(|(have, _)| have == name);
            let value = found.map_or("-", |(_, value)| value);
            present(value.as_bytes(), out)
        }
        Operator::Coalesce(choices) => derived::first(choices, info, heads, out),
        Operator::Xfcc(field) => derived::xfcc_value(field, heads, out),
        Operator::Size(of) => number(derived::size(*of, info, heads), out),
    }
}

fn validity(
    upstream: bool,
    bound: Bound,
    format: &TimeFormat,
    info: &StreamInfo<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let tls = if upstream {
        &info.upstream_tls
    } else {
        &info.downstream_tls
    };
    let Some(peer) = tls.peer else { return false };
    let seconds = match bound {
        Bound::Start => peer.not_before,
        Bound::End => peer.not_after,
    };
    format.render(Duration::from_secs(seconds), out);
    true
}

fn common_duration(
    from: Moment,
    to: Moment,
    unit: TimeUnit,
    info: &StreamInfo<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let span = moment(from, info)
        .zip(moment(to, info))
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

fn server_name(
    order: ServerNameOrder,
    info: &StreamInfo<'_>,
    heads: Heads<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let host = |kind: PathKind, out: &mut Vec<u8>| {
        heads.request.is_some_and(|request| {
            let original = request.get(&ORIGINAL_HOST);
            let host = match kind {
                PathKind::Original => original,
                PathKind::Present => Some(request.authority()),
                PathKind::OriginalOrPresent => original.or_else(|| Some(request.authority())),
            };
            host.is_some_and(|host| text_bytes(crate::select::without_port(host), out))
        })
    };
    match order {
        ServerNameOrder::SniOnly => text(info.requested_server_name, out),
        ServerNameOrder::SniFirst(kind) => text(info.requested_server_name, out) || host(kind, out),
        ServerNameOrder::HostFirst(kind) => {
            host(kind, out) || text(info.requested_server_name, out)
        }
    }
}

fn address_of(of: AddressOf, info: &StreamInfo<'_>) -> Option<SocketAddr> {
    match of {
        AddressOf::UpstreamHost | AddressOf::UpstreamRemote => match info.upstream_host {
            Some(Address::Socket(address)) => Some(*address),
            _ => None,
        },
        AddressOf::UpstreamLocal => info.upstream_local,
        AddressOf::DownstreamLocal => info.downstream_local,
        AddressOf::DownstreamDirectLocal => info.downstream_direct_local.or(info.downstream_local),
        AddressOf::DownstreamRemote => info.downstream_remote,
        AddressOf::DownstreamDirectRemote => info.downstream_direct_remote,
    }
}

fn address(of: AddressOf, part: Part, info: &StreamInfo<'_>, out: &mut Vec<u8>) -> bool {
    let connected = info.upstream_connection_id != 0;
    match (of, info.upstream_host) {
        (AddressOf::UpstreamRemote, _) if !connected => return false,
        (AddressOf::UpstreamHost | AddressOf::UpstreamRemote, Some(Address::Pipe(_)))
            if part == Part::Port =>
        {
            return true;
        }
        (
            AddressOf::UpstreamHost | AddressOf::UpstreamRemote,
            Some(other @ (Address::Pipe(_) | Address::Named(..) | Address::Internal(..))),
        ) => return display(other, out),
        _ => {}
    }
    if in_pipe(of, info) {
        let path = match part {
            Part::Whole | Part::Address => info.downstream_pipe,
            Part::Port => "",
        };
        return present(path.as_bytes(), out);
    }
    socket(address_of(of, info), part, out)
}

/// The address is that of a unix socket: what X-Forwarded-For says of the client goes before it.
fn in_pipe(of: AddressOf, info: &StreamInfo<'_>) -> bool {
    let told = info
        .downstream_remote
        .is_some_and(|remote| !remote.ip().is_unspecified());
    !info.downstream_pipe.is_empty()
        && match of {
            AddressOf::UpstreamHost | AddressOf::UpstreamRemote | AddressOf::UpstreamLocal => false,
            AddressOf::DownstreamRemote => !told,
            AddressOf::DownstreamLocal
            | AddressOf::DownstreamDirectLocal
            | AddressOf::DownstreamDirectRemote => true,
        }
}

/// The block of an address, as `10.1.0.0/16`.
fn masked(of: AddressOf, bits: u8, info: &StreamInfo<'_>, out: &mut Vec<u8>) -> bool {
    if in_pipe(of, info) {
        return true;
    }
    let Some(ip) = address_of(of, info).map(|address| address.ip()) else {
        return false;
    };
    let bits = bits.min(if ip.is_ipv4() { 32 } else { 128 });
    let Some(block) = Cidr::new(ip, bits) else {
        return false;
    };
    display(&block.address, out) && {
        out.push(b'/');
        number(bits.into(), out)
    }
}

pub(super) fn metadata_value<'a>(
    whose: MetadataOf,
    namespace: &str,
    keys: &[Str],
    info: &StreamInfo<'a>,
) -> Option<&'a Value> {
    let metadata: &'a Metadata = match whose {
        MetadataOf::Dynamic => info.metadata,
        MetadataOf::Route => info.route_metadata,
        MetadataOf::Cluster => info.cluster_metadata,
        MetadataOf::Host => info.host_metadata,
        MetadataOf::Listener => info.listener_metadata,
        MetadataOf::FilterChain => info.chain_metadata,
    }?;
    if keys.is_empty() {
        metadata.namespaces.get(namespace)
    } else {
        metadata.get(namespace, keys)
    }
}

pub(super) fn filter_state<'a>(
    upstream: bool,
    key: &str,
    info: &StreamInfo<'a>,
) -> Option<&'a Str> {
    let states = if upstream {
        info.upstream_filter_state
    } else {
        info.filter_state
    };
    states
        .iter()
        .find(|(have, _)| have == key)
        .map(|(_, value)| value)
}

/// The objects that filters leave here are strings: typed they are JSON, and they have no fields.
fn state(value: &Str, style: &StateStyle, out: &mut Vec<u8>) -> bool {
    match style {
        StateStyle::Field(_) => false,
        StateStyle::Typed => {
            write_value(&Value::String(value.clone()), out);
            true
        }
        StateStyle::Plain => text(value, out),
    }
}

fn object_state(object: &dyn StateObject, style: &StateStyle, out: &mut Vec<u8>) -> bool {
    match style {
        StateStyle::Field(name) => object.field(name).is_some_and(|value| text(&value, out)),
        StateStyle::Typed => {
            write_value(&object.value(), out);
            true
        }
        StateStyle::Plain => text(&object.text(), out),
    }
}

/// A metadata value in text: strings bare, the rest as JSON.
pub(super) fn plain(value: &Value, out: &mut Vec<u8>) -> bool {
    match value {
        Value::Null => return false,
        Value::String(text) => out.extend_from_slice(text.as_bytes()),
        other => write_value(other, out),
    }
    true
}

fn query_of<'a>(heads: Heads<'a>) -> Option<&'a [u8]> {
    Some(split_query(heads.request?.path()).1)
}

/// `%XX` decoded; anything else stays.
fn percent_decode(text: &[u8]) -> Vec<u8> {
    let digit = |at: usize| Some(char::from(*text.get(at)?).to_digit(16)?.to_le_bytes()[0]);
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// A query decoded as far as it stays one line: what does not print is encoded again.
fn readable(query: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(query.len());
    for byte in percent_decode(query) {
        match byte {
            b'%' | 0..=b' ' | 0x7f.. => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            byte => out.push(byte),
        }
    }
    out
}

/// A value that is there, be it empty.
fn present(value: &[u8], out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(value);
    true
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

fn without_query(value: &[u8], cut: bool) -> &[u8] {
    if cut { split_query(value).0 } else { value }
}

fn request_field(field: &Field, cut: bool, heads: Heads<'_>, out: &mut Vec<u8>) -> bool {
    let Some(request) = heads.request else {
        return false;
    };
    match field {
        Field::Method => text_bytes(request.method(), out),
        Field::Path => text_bytes(without_query(request.path(), cut), out),
        Field::Authority => text_bytes(request.authority(), out),
        Field::Scheme => text_bytes(request.scheme(), out),
        Field::Name(name) => request
            .get(name)
            .is_some_and(|value| present(without_query(value, cut), out)),
    }
}

fn response_field(
    field: &ResponseField,
    cut: bool,
    info: &StreamInfo<'_>,
    heads: Heads<'_>,
    out: &mut Vec<u8>,
) -> bool {
    match field {
        ResponseField::Status => {
            info.protocol.is_some()
                && info
                    .response_code
                    .is_some_and(|status| number(status.into(), out))
        }
        ResponseField::Name(name) => header(heads.response, name, cut, out),
        ResponseField::Absent => false,
    }
}

fn header(from: Option<&dyn Headers>, name: &HeaderName, cut: bool, out: &mut Vec<u8>) -> bool {
    from.and_then(|from| from.get(name))
        .is_some_and(|value| present(without_query(value, cut), out))
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
    value.is_some_and(|value| text_bytes(without_query(value, !query), out))
}

fn moment(moment: Moment, info: &StreamInfo<'_>) -> Option<Duration> {
    let times = &info.times;
    match moment {
        Moment::Start => info.protocol.map(|_| Duration::ZERO),
        Moment::RequestEnd => times.request_end,
        Moment::UpstreamFirstTx => times.upstream_first_tx,
        Moment::UpstreamLastTx => times.upstream_last_tx,
        Moment::UpstreamFirstRx => times.upstream_first_rx,
        Moment::UpstreamLastRx => times.upstream_last_rx,
        Moment::FirstTx => times.first_tx,
        Moment::LastTx => times.last_tx,
        Moment::UpstreamConnectEnd => times.pool_ready,
        Moment::HandshakeEnd => times.handshake,
        Moment::ConnectionStart
        | Moment::ConnectionEnd
        | Moment::UpstreamConnectStart
        | Moment::UpstreamHandshakeEnd
        | Moment::Never => None,
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

fn names(list: &[Str], out: &mut Vec<u8>) -> bool {
    for (position, name) in list.iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        out.extend_from_slice(name.as_bytes());
    }
    !list.is_empty()
}

fn spaced(details: &str, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let set = text(details, out);
    for byte in &mut out[start..] {
        if byte.is_ascii_whitespace() {
            *byte = b'_';
        }
    }
    set
}

fn certificate(peer: Option<&PeerIdentity>, field: PeerField, out: &mut Vec<u8>) -> bool {
    let Some(peer) = peer else { return false };
    match field {
        PeerField::UriSan => names(&peer.uri_sans, out),
        PeerField::DnsSan => names(&peer.dns_sans, out),
        PeerField::IpSan => names(&peer.ip_sans, out),
        PeerField::EmailSan => names(&peer.email_sans, out),
        PeerField::Subject => text(&peer.subject, out),
        PeerField::Issuer => text(&peer.issuer, out),
        PeerField::Serial => text(&peer.serial, out),
        PeerField::Fingerprint256 => text(&peer.fingerprint_256, out),
        PeerField::Fingerprint1 => text(&peer.fingerprint_1, out),
        PeerField::Cert => text(&peer.url_encoded_pem(), out),
    }
}

// table: simple operators
fn simple(which: Simple, info: &StreamInfo<'_>, out: &mut Vec<u8>) -> bool {
    let times = &info.times;
    match which {
        Simple::Protocol => info.protocol.is_some_and(|p| text(p.name(), out)),
        Simple::UpstreamProtocol => info.upstream_protocol.is_some_and(|p| text(p.name(), out)),
        Simple::ResponseCode => number(info.response_code.map_or(0, u64::from), out),
        Simple::ResponseCodeDetails => spaced(info.response_code_details, out),
        Simple::ResponseCodeDetailsSpaced => text(info.response_code_details, out),
        Simple::ResponseFlags => text(&info.flags.short(), out),
        Simple::ResponseFlagsLong => text(&info.flags.long(), out),
        Simple::CustomFlags | Simple::EndpointId => true,
        Simple::UpstreamEndpointId => info.upstream_connection_id != 0,
        Simple::ConnectionTerminationDetails => text(info.connection_termination_details, out),
        Simple::BytesReceived => number(info.bytes_received, out),
        Simple::BytesSent => number(info.bytes_sent, out),
        Simple::BytesRetransmitted | Simple::PacketsRetransmitted => number(0, out),
        Simple::UpstreamWireBytesSent => number(info.upstream_wire.0, out),
        Simple::UpstreamWireBytesReceived => number(info.upstream_wire.1, out),
        Simple::DownstreamWireBytesReceived => number(info.downstream_wire.0, out),
        Simple::DownstreamWireBytesSent => number(info.downstream_wire.1, out),
        Simple::Duration => millis(info.duration, out),
        Simple::RequestDuration => millis(times.request_end, out),
        Simple::RequestTxDuration => millis(times.upstream_last_tx, out),
        Simple::ResponseDuration => millis(times.upstream_first_rx, out),
        Simple::ResponseTxDuration => {
            let ends = times.last_tx.zip(times.upstream_first_rx);
            millis(ends.and_then(|(last, first)| last.checked_sub(first)), out)
        }
        // The client's acknowledgement is known of QUIC only.
        Simple::RoundtripDuration | Simple::Unset => false,
        Simple::DownstreamHandshakeDuration => millis(times.handshake, out),
        Simple::UpstreamConnectionPoolReadyDuration => millis(times.pool_ready, out),
        Simple::Address(of, part) => address(of, part, info, out),
        Simple::UpstreamHostName(part) => host_name(part, info, out),
        Simple::UpstreamConnectionId => number(info.upstream_connection_id, out),
        Simple::UpstreamCluster => text(info.upstream_cluster, out),
        Simple::UpstreamClusterRaw => text(info.upstream_cluster_raw, out),
        Simple::UpstreamServerName => text(info.upstream_tls.server_name, out),
        Simple::UpstreamTransportFailureReason => spaced(info.upstream_failure, out),
        Simple::UpstreamRequestAttemptCount => number(info.attempts.into(), out),
        Simple::UpstreamPeer(field) => certificate(info.upstream_tls.peer, field, out),
        Simple::UpstreamLocal(field) => certificate(info.upstream_tls.local, field, out),
        Simple::UpstreamTlsVersion => text(info.upstream_tls.version, out),
        Simple::UpstreamTlsCipher => text(info.upstream_tls.cipher, out),
        Simple::DownstreamTransportFailureReason => spaced(info.downstream_failure, out),
        Simple::DownstreamPeer(field) => certificate(info.downstream_tls.peer, field, out),
        Simple::DownstreamLocal(field) => certificate(info.downstream_tls.local, field, out),
        Simple::DownstreamTlsVersion => text(info.downstream_tls.version, out),
        Simple::DownstreamTlsCipher => text(info.downstream_tls.cipher, out),
        Simple::RouteName => text(info.route_name, out),
        Simple::VirtualClusterName => text(info.virtual_cluster, out),
        Simple::FilterChainName => text(info.filter_chain, out),
        Simple::ConnectionId => number(info.connection_id, out),
        Simple::StreamId | Simple::UniqueId => text(info.stream_id, out),
        Simple::TraceId => text(info.trace_id, out),
        Simple::SpanId => text(info.span_id, out),
        Simple::Hostname => text(info.hostname, out),
        Simple::LocalReplyBody => present(info.local_reply_body.as_bytes(), out),
        Simple::AccessLogType => text(info.log_type, out),
    }
}

/// The host's name where discovery gives one, else its address.
fn host_name(part: Part, info: &StreamInfo<'_>, out: &mut Vec<u8>) -> bool {
    if info.upstream_hostname.is_empty() {
        return address(AddressOf::UpstreamHost, part, info, out);
    }
    match (part, info.upstream_hostname.rsplit_once(':')) {
        (Part::Address, Some((name, port))) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            text(name, out)
        }
        _ => text(info.upstream_hostname, out),
    }
}
