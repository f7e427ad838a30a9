//! Format strings to pieces.

use http::header::HeaderName;

use super::{
    Format, GrpcStyle, MetadataOf, Moment, Operator, Part, PathKind, Piece, Simple, TimeFormat,
    TimeUnit,
};
use crate::Str;
use crate::matcher::Field;

/// A format that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No such operator.
    #[error("unknown command operator {0}")]
    Unknown(String),
    /// An operator that is not closed or does not parse.
    #[error("malformed command operator at {0}")]
    Malformed(String),
    /// An argument that the operator does not take.
    #[error("command operator {operator} does not take the argument {argument}")]
    Argument {
        /// The operator.
        operator: String,
        /// What was given.
        argument: String,
    },
}

/// Shown of a malformed operator.
const SHOWN: usize = 40;

pub(super) fn parse(text: &str) -> Result<Format, FormatError> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        literal.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let malformed = || FormatError::Malformed(rest[at..].chars().take(SHOWN).collect());
        let (name, argument, length, after) = command(tail).ok_or_else(malformed)?;
        if !literal.is_empty() {
            pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
        }
        pieces.push(Piece::Operator(operator(name, argument)?, length));
        rest = after;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.into()));
    }
    Ok(Format { pieces })
}

/// Splits `NAME(argument):LENGTH%rest`.
fn command(text: &str) -> Option<(&str, Option<&str>, Option<usize>, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
    let (name, mut rest) = text.split_at(end);
    if name.is_empty() {
        return None;
    }
    let mut argument = None;
    if let Some(tail) = rest.strip_prefix('(') {
        // An argument ends at the parenthesis before `%` or `:N%`; it may hold parentheses and, in times, percents.
        let close = tail.match_indices(')').map(|(at, _)| at).find(|at| {
            let after = &tail[at + 1..];
            after.starts_with('%') || (after.starts_with(':') && length(after).is_some())
        })?;
        argument = Some(&tail[..close]);
        rest = &tail[close + 1..];
    }
    let (limit, rest) = if rest.starts_with(':') {
        let (limit, after) = length(rest)?;
        (Some(limit), after)
    } else {
        (None, rest)
    };
    Some((name, argument, limit, rest.strip_prefix('%')?))
}

fn length(text: &str) -> Option<(usize, &str)> {
    let digits = text.strip_prefix(':')?;
    let end = digits.find(|c: char| !c.is_ascii_digit())?;
    let limit = digits[..end].parse().ok()?;
    digits[end..]
        .starts_with('%')
        .then_some((limit, &digits[end..]))
}

// table: every operator that takes an argument, then the simple ones
fn operator(name: &str, argument: Option<&str>) -> Result<Operator, FormatError> {
    let refused = || FormatError::Argument {
        operator: name.to_owned(),
        argument: argument.unwrap_or("(none)").to_owned(),
    };
    let needed = || argument.filter(|a| !a.is_empty()).ok_or_else(refused);
    Ok(match name {
        "START_TIME" | "DOWNSTREAM_START_TIME" | "START_TIME_LOCAL" | "EMIT_TIME" => {
            Operator::StartTime(argument.map_or(TimeFormat::Default, TimeFormat::parse))
        }
        "REQ" | "REQ_WITHOUT_QUERY" => {
            let (main, other) = alternatives(needed()?);
            let field = |text: &str| Field::parse(text).ok_or_else(refused);
            let other = other.map(field).transpose()?;
            Operator::Request(Some(field(main)?), other, name.ends_with("QUERY"))
        }
        "RESP" | "RESP_WITHOUT_QUERY" | "TRAILER" => {
            let (main, other) = alternatives(needed()?);
            let field = |text: &str| header(text).ok_or_else(refused);
            let (main, other) = (field(main)?, other.map(field).transpose()?.flatten());
            if name == "TRAILER" {
                Operator::Trailer(main, other)
            } else {
                Operator::Response(main, other)
            }
        }
        "PATH" => path(argument).ok_or_else(refused)?,
        "QUERY_PARAM" => Operator::Query(needed()?.into()),
        "DYNAMIC_METADATA" => metadata(MetadataOf::Dynamic, needed()?),
        "CLUSTER_METADATA" => metadata(MetadataOf::Cluster, needed()?),
        "UPSTREAM_METADATA" => metadata(MetadataOf::Host, needed()?),
        "METADATA" => {
            let (whose, rest) = needed()?.split_once(':').ok_or_else(refused)?;
            let whose = match whose {
                "DYNAMIC" => MetadataOf::Dynamic,
                "ROUTE" => MetadataOf::Route,
                "CLUSTER" => MetadataOf::Cluster,
                "UPSTREAM_HOST" => MetadataOf::Host,
                _ => return Err(refused()),
            };
            metadata(whose, rest)
        }
        "FILTER_STATE" | "UPSTREAM_FILTER_STATE" => {
            let key = needed()?.split(':').next().unwrap_or_default();
            Operator::FilterState(name.starts_with('U'), key.into())
        }
        "GRPC_STATUS" => Operator::GrpcStatus(match argument {
            None | Some("" | "CAMEL_STRING") => GrpcStyle::Camel,
            Some("SNAKE_STRING") => GrpcStyle::Snake,
            Some("NUMBER") => GrpcStyle::Number,
            Some(_) => return Err(refused()),
        }),
        "GRPC_STATUS_NUMBER" => Operator::GrpcStatus(GrpcStyle::Number),
        "COMMON_DURATION" => duration(needed()?).ok_or_else(refused)?,
        // There is no environment in a pure crate, and secrets do not belong in logs.
        "ENVIRONMENT" => Operator::Constant(Str::from("-")),
        _ if argument.is_some_and(|a| !a.is_empty()) => {
            return Err(if simple(name).is_some() {
                refused()
            } else {
                FormatError::Unknown(name.to_owned())
            });
        }
        _ => Operator::Simple(simple(name).ok_or_else(|| FormatError::Unknown(name.to_owned()))?),
    })
}

fn alternatives(argument: &str) -> (&str, Option<&str>) {
    argument
        .split_once('?')
        .map_or((argument, None), |(main, other)| (main, Some(other)))
}

/// `None` inside is a name that no response holds (pseudo headers).
#[expect(
    clippy::option_option,
    reason = "outer: a valid name; inner: one that can be present"
)]
fn header(text: &str) -> Option<Option<HeaderName>> {
    if text.starts_with(':') {
        return Some(None);
    }
    HeaderName::from_bytes(text.to_ascii_lowercase().as_bytes())
        .ok()
        .map(Some)
}

fn path(argument: Option<&str>) -> Option<Operator> {
    let (mut query, mut kind) = (true, PathKind::OriginalOrPresent);
    for part in argument
        .unwrap_or_default()
        .split(':')
        .filter(|p| !p.is_empty())
    {
        match part {
            "WQ" => query = true,
            "NQ" => query = false,
            "ORIG" => kind = PathKind::Original,
            "PATH" => kind = PathKind::Present,
            "ORIG_OR_PATH" => kind = PathKind::OriginalOrPresent,
            _ => return None,
        }
    }
    Some(Operator::Path(query, kind))
}

fn metadata(whose: MetadataOf, argument: &str) -> Operator {
    let mut parts = argument.split(':').map(Str::from);
    let namespace = parts.next().unwrap_or_default();
    Operator::Metadata(whose, namespace, parts.collect())
}

fn duration(argument: &str) -> Option<Operator> {
    let mut parts = argument.split(':');
    let mut moment = || {
        Some(match parts.next()? {
            "DS_RX_BEG" => Moment::Start,
            "DS_RX_END" => Moment::RequestEnd,
            "US_TX_BEG" => Moment::UpstreamFirstTx,
            "US_TX_END" => Moment::UpstreamLastTx,
            "US_RX_BEG" => Moment::UpstreamFirstRx,
            "US_RX_END" => Moment::UpstreamLastRx,
            "DS_TX_BEG" => Moment::FirstTx,
            "DS_TX_END" => Moment::LastTx,
            _ => return None,
        })
    };
    let (from, to) = (moment()?, moment()?);
    let unit = match parts.next() {
        None | Some("ms") => TimeUnit::Millis,
        Some("us") => TimeUnit::Micros,
        Some("ns") => TimeUnit::Nanos,
        Some(_) => return None,
    };
    Some(Operator::CommonDuration(from, to, unit))
}

// table: names of operators without argument
fn simple(name: &str) -> Option<Simple> {
    Some(match name {
        "PROTOCOL" => Simple::Protocol,
        "UPSTREAM_PROTOCOL" => Simple::UpstreamProtocol,
        "METHOD" => Simple::Method,
        "SCHEME" => Simple::Scheme,
        "RESPONSE_CODE" => Simple::ResponseCode,
        "RESPONSE_CODE_DETAILS" => Simple::ResponseCodeDetails,
        "RESPONSE_FLAGS" => Simple::ResponseFlags,
        "RESPONSE_FLAGS_LONG" => Simple::ResponseFlagsLong,
        "CONNECTION_TERMINATION_DETAILS" => Simple::ConnectionTerminationDetails,
        "BYTES_RECEIVED" => Simple::BytesReceived,
        "BYTES_SENT" => Simple::BytesSent,
        "UPSTREAM_WIRE_BYTES_SENT" => Simple::UpstreamWireBytesSent,
        "UPSTREAM_WIRE_BYTES_RECEIVED" => Simple::UpstreamWireBytesReceived,
        "DURATION" => Simple::Duration,
        "REQUEST_DURATION" => Simple::RequestDuration,
        "REQUEST_TX_DURATION" => Simple::RequestTxDuration,
        "RESPONSE_DURATION" => Simple::ResponseDuration,
        "RESPONSE_TX_DURATION" => Simple::ResponseTxDuration,
        "ROUNDTRIP_DURATION" => Simple::RoundtripDuration,
        "DOWNSTREAM_HANDSHAKE_DURATION" => Simple::DownstreamHandshakeDuration,
        "UPSTREAM_CONNECTION_POOL_READY_DURATION" => Simple::UpstreamConnectionPoolReadyDuration,
        "UPSTREAM_HOST" | "UPSTREAM_REMOTE_ADDRESS" => Simple::UpstreamHost(Part::Whole),
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Simple::UpstreamHost(Part::Address),
        "UPSTREAM_REMOTE_PORT" => Simple::UpstreamHost(Part::Port),
        "UPSTREAM_HOST_NAME" => Simple::UpstreamHostName,
        "UPSTREAM_CLUSTER" => Simple::UpstreamCluster,
        "UPSTREAM_CLUSTER_RAW" => Simple::UpstreamClusterRaw,
        "UPSTREAM_LOCAL_ADDRESS" => Simple::UpstreamLocalAddress(Part::Whole),
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Simple::UpstreamLocalAddress(Part::Address),
        "UPSTREAM_LOCAL_PORT" => Simple::UpstreamLocalAddress(Part::Port),
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Simple::UpstreamTransportFailureReason,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Simple::UpstreamRequestAttemptCount,
        "UPSTREAM_PEER_URI_SAN" => Simple::UpstreamPeerUriSan,
        "UPSTREAM_PEER_DNS_SAN" => Simple::UpstreamPeerDnsSan,
        "UPSTREAM_PEER_SUBJECT" => Simple::UpstreamPeerSubject,
        "UPSTREAM_PEER_ISSUER" => Simple::UpstreamPeerIssuer,
        "UPSTREAM_TLS_VERSION" => Simple::UpstreamTlsVersion,
        "UPSTREAM_TLS_CIPHER" => Simple::UpstreamTlsCipher,
        "DOWNSTREAM_LOCAL_ADDRESS" => Simple::DownstreamLocalAddress(Part::Whole),
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT" => Simple::DownstreamLocalAddress(Part::Address),
        "DOWNSTREAM_LOCAL_PORT" => Simple::DownstreamLocalAddress(Part::Port),
        "DOWNSTREAM_REMOTE_ADDRESS" => Simple::DownstreamRemoteAddress(Part::Whole),
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT" => Simple::DownstreamRemoteAddress(Part::Address),
        "DOWNSTREAM_REMOTE_PORT" => Simple::DownstreamRemoteAddress(Part::Port),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => Simple::DownstreamDirectRemoteAddress(Part::Whole),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT" => {
            Simple::DownstreamDirectRemoteAddress(Part::Address)
        }
        "DOWNSTREAM_DIRECT_REMOTE_PORT" => Simple::DownstreamDirectRemoteAddress(Part::Port),
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => Simple::DownstreamTransportFailureReason,
        "DOWNSTREAM_PEER_URI_SAN" => Simple::DownstreamPeerUriSan,
        "DOWNSTREAM_PEER_DNS_SAN" => Simple::DownstreamPeerDnsSan,
        "DOWNSTREAM_PEER_SUBJECT" => Simple::DownstreamPeerSubject,
        "DOWNSTREAM_PEER_ISSUER" => Simple::DownstreamPeerIssuer,
        "DOWNSTREAM_PEER_SERIAL" => Simple::DownstreamPeerSerial,
        "DOWNSTREAM_PEER_FINGERPRINT_256" => Simple::DownstreamPeerFingerprint256,
        "DOWNSTREAM_LOCAL_URI_SAN" => Simple::DownstreamLocalUriSan,
        "DOWNSTREAM_LOCAL_DNS_SAN" => Simple::DownstreamLocalDnsSan,
        "DOWNSTREAM_LOCAL_SUBJECT" => Simple::DownstreamLocalSubject,
        "DOWNSTREAM_TLS_VERSION" => Simple::DownstreamTlsVersion,
        "DOWNSTREAM_TLS_CIPHER" => Simple::DownstreamTlsCipher,
        "REQUESTED_SERVER_NAME" => Simple::RequestedServerName,
        "ROUTE_NAME" => Simple::RouteName,
        "VIRTUAL_CLUSTER_NAME" => Simple::VirtualClusterName,
        "FILTER_CHAIN_NAME" => Simple::FilterChainName,
        "CONNECTION_ID" => Simple::ConnectionId,
        "STREAM_ID" | "UNIQUE_ID" => Simple::StreamId,
        "TRACE_ID" => Simple::TraceId,
        "HOSTNAME" => Simple::Hostname,
        "LOCAL_REPLY_BODY" => Simple::LocalReplyBody,
        "ACCESS_LOG_TYPE" => Simple::AccessLogType,
        _ => return None,
    })
}
