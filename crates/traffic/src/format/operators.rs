//! The table of command operators: names, arguments, and what each stands for.
//!
//! Names are those of Envoy's substitution formatter. What is not in here is refused with its name.

use http::header::HeaderName;

use super::derived::{SizeOf, coalesce, xfcc_field};
use super::parse::FormatError;
use super::{
    AddressOf, Bound, GrpcStyle, MetadataOf, Moment, Operator, Part, PathKind, PeerField,
    ResponseField, ServerNameOrder, Simple, StateStyle, TimeFormat, TimeUnit,
};
use crate::Str;
use crate::matcher::Field;

/// Operators whose value may be cut (`:N`).
pub(super) fn takes_length(name: &str) -> bool {
    matches!(
        name,
        "REQ"
            | "REQUEST_HEADER"
            | "REQ_WITHOUT_QUERY"
            | "RESP"
            | "RESPONSE_HEADER"
            | "RESP_WITHOUT_QUERY"
            | "TRAILER"
            | "RESPONSE_TRAILER"
            | "PATH"
            | "QUERY_PARAM"
            | "QUERY_PARAMS"
            | "DYNAMIC_METADATA"
            | "METADATA"
            | "FILTER_STATE"
            | "UPSTREAM_FILTER_STATE"
            | "ENVIRONMENT"
            | "COALESCE"
    )
}

// table: every operator that takes an argument, then the simple ones
/// The operator of a name with its argument.
pub(super) fn parse(name: &str, argument: Option<&str>) -> Result<Operator, FormatError> {
    let refused = || FormatError::Argument {
        operator: name.to_owned(),
        argument: argument.unwrap_or("(none)").to_owned(),
    };
    let argument = argument.filter(|argument| !argument.is_empty());
    let needed = || argument.ok_or_else(refused);
    let time = |default| argument.map_or(default, TimeFormat::parse);
    Ok(match name {
        "START_TIME" | "DOWNSTREAM_START_TIME" => Operator::StartTime(time(TimeFormat::Default)),
        "START_TIME_LOCAL" => Operator::StartTime(time(TimeFormat::DefaultLocal)),
        "EMIT_TIME" => Operator::EmitTime(time(TimeFormat::Default)),
        "EMIT_TIME_LOCAL" => Operator::EmitTime(time(TimeFormat::DefaultLocal)),
        "DOWNSTREAM_PEER_CERT_V_START" => {
            Operator::Validity(false, Bound::Start, time(TimeFormat::Default))
        }
        "DOWNSTREAM_PEER_CERT_V_END" => {
            Operator::Validity(false, Bound::End, time(TimeFormat::Default))
        }
        "UPSTREAM_PEER_CERT_V_START" => {
            Operator::Validity(true, Bound::Start, time(TimeFormat::Default))
        }
        "UPSTREAM_PEER_CERT_V_END" => {
            Operator::Validity(true, Bound::End, time(TimeFormat::Default))
        }
        "REQ" | "REQUEST_HEADER" | "REQ_WITHOUT_QUERY" => {
            let (main, other) = alternatives(needed()?).ok_or_else(refused)?;
            let field = |text: &str| Field::parse(text).ok_or_else(refused);
            let other = other.map(field).transpose()?;
            Operator::Request(Some(field(main)?), other, name.ends_with("QUERY"))
        }
        "RESP" | "RESPONSE_HEADER" | "RESP_WITHOUT_QUERY" => {
            let (main, other) = alternatives(needed()?).ok_or_else(refused)?;
            let field = |text: &str| response_field(text).ok_or_else(refused);
            let other = other.map(field).transpose()?;
            Operator::Response(field(main)?, other, name.ends_with("QUERY"))
        }
        "TRAILER" | "RESPONSE_TRAILER" => {
            let (main, other) = alternatives(needed()?).ok_or_else(refused)?;
            let field = |text: &str| match response_field(text) {
                Some(ResponseField::Name(name)) => Ok(Some(name)),
                Some(ResponseField::Status | ResponseField::Absent) => Ok(None),
                None => Err(refused()),
            };
            Operator::Trailer(field(main)?, other.map(field).transpose()?.flatten())
        }
        "PATH" => path(argument).ok_or_else(refused)?,
        "QUERY_PARAM" => Operator::Query(needed()?.into()),
        "QUERY_PARAMS" => match argument {
            None | Some("ORIG") => Operator::Queries(false),
            Some("DECODED") => Operator::Queries(true),
            Some(_) => return Err(refused()),
        },
        "DYNAMIC_METADATA" => metadata(MetadataOf::Dynamic, needed()?),
        "CLUSTER_METADATA" => metadata(MetadataOf::Cluster, needed()?),
        "UPSTREAM_METADATA" => metadata(MetadataOf::Host, needed()?),
        "METADATA" => typed_metadata(needed()?).ok_or_else(refused)?,
        "FILTER_STATE" | "UPSTREAM_FILTER_STATE" => {
            filter_state(name.starts_with('U'), needed()?).ok_or_else(refused)?
        }
        "GRPC_STATUS" => Operator::GrpcStatus(match argument {
            None | Some("CAMEL_STRING") => GrpcStyle::Camel,
            Some("SNAKE_STRING") => GrpcStyle::Snake,
            Some("NUMBER") => GrpcStyle::Number,
            Some(_) => return Err(refused()),
        }),
        "GRPC_STATUS_NUMBER" => Operator::GrpcStatus(GrpcStyle::Number),
        "COALESCE" => Operator::Coalesce(coalesce(needed()?)?),
        "XFCC_VALUE" => Operator::Xfcc(xfcc_field(needed()?).ok_or_else(refused)?),
        "REQUEST_HEADERS_BYTES" => Operator::Size(SizeOf::Request),
        "RESPONSE_HEADERS_BYTES" => Operator::Size(SizeOf::Response),
        "RESPONSE_TRAILERS_BYTES" => Operator::Size(SizeOf::Trailers),
        "COMMON_DURATION" => duration(needed()?).ok_or_else(refused)?,
        "REQUESTED_SERVER_NAME" => server_name(argument).ok_or_else(refused)?,
        "ENVIRONMENT" => Operator::Environment(needed()?.into()),
        "RESPONSE_CODE_DETAILS" => Operator::Simple(match argument {
            Some("ALLOW_WHITESPACES") => Simple::ResponseCodeDetailsSpaced,
            _ => Simple::ResponseCodeDetails,
        }),
        _ => return simple_or_masked(name, argument),
    })
}

fn simple_or_masked(name: &str, argument: Option<&str>) -> Result<Operator, FormatError> {
    let found = simple(name).ok_or_else(|| FormatError::Unknown(name.to_owned()))?;
    match (found, argument) {
        (found, None) => Ok(Operator::Simple(found)),
        (Simple::Address(of, Part::Address), Some(bits)) => match bits.parse() {
            Ok(bits) => Ok(Operator::Masked(of, bits)),
            // Envoy prints the whole address when it cannot read the length.
            Err(_) => Ok(Operator::Simple(Simple::Address(of, Part::Address))),
        },
        (_, Some(argument)) => Err(FormatError::Argument {
            operator: name.to_owned(),
            argument: argument.to_owned(),
        }),
    }
}

fn alternatives(argument: &str) -> Option<(&str, Option<&str>)> {
    let mut parts = argument.split('?');
    let (main, other) = (parts.next()?, parts.next());
    parts.next().is_none().then_some((main, other))
}

fn response_field(text: &str) -> Option<ResponseField> {
    if text.starts_with(':') {
        return Some(if text.eq_ignore_ascii_case(":status") {
            ResponseField::Status
        } else {
            ResponseField::Absent
        });
    }
    HeaderName::from_bytes(text.to_ascii_lowercase().as_bytes())
        .ok()
        .map(ResponseField::Name)
}

fn path(argument: Option<&str>) -> Option<Operator> {
    let mut parts = argument.unwrap_or("WQ").split(':');
    let query = match parts.next()? {
        "WQ" => true,
        "NQ" => false,
        _ => return None,
    };
    let kind = match parts.next() {
        None | Some("ORIG_OR_PATH") => PathKind::OriginalOrPresent,
        Some("ORIG") => PathKind::Original,
        Some("PATH") => PathKind::Present,
        Some(_) => return None,
    };
    Some(Operator::Path(query, kind))
}

fn metadata(whose: MetadataOf, argument: &str) -> Operator {
    let mut parts = argument.split(':').map(Str::from);
    let namespace = parts.next().unwrap_or_default();
    Operator::Metadata(whose, namespace, parts.collect())
}

fn typed_metadata(argument: &str) -> Option<Operator> {
    let (whose, rest) = argument.split_once(':')?;
    let whose = match whose {
        "DYNAMIC" => MetadataOf::Dynamic,
        "ROUTE" => MetadataOf::Route,
        "CLUSTER" => MetadataOf::Cluster,
        "UPSTREAM_HOST" => MetadataOf::Host,
        "LISTENER" => MetadataOf::Listener,
        "LISTENER_FILTER_CHAIN" => MetadataOf::FilterChain,
        _ => return None,
    };
    Some(metadata(whose, rest))
}

fn filter_state(upstream: bool, argument: &str) -> Option<Operator> {
    let mut parts = argument.splitn(3, ':');
    let key = parts.next()?;
    let style = match (parts.next(), parts.next()) {
        (None | Some("TYPED"), None) => StateStyle::Typed,
        (Some("PLAIN"), None) => StateStyle::Plain,
        (Some("FIELD"), Some(field)) if !field.is_empty() => StateStyle::Field(field.into()),
        _ => return None,
    };
    Some(Operator::FilterState(upstream, key.into(), style))
}

fn server_name(argument: Option<&str>) -> Option<Operator> {
    let mut parts = argument.unwrap_or("SNI_ONLY").split(':');
    let which = parts.next()?;
    let host = match parts.next() {
        None | Some("ORIG_OR_HOST") => PathKind::OriginalOrPresent,
        Some("ORIG") => PathKind::Original,
        Some("HOST") => PathKind::Present,
        Some(_) => return None,
    };
    Some(Operator::ServerName(match which {
        "SNI_ONLY" => ServerNameOrder::SniOnly,
        "SNI_FIRST" => ServerNameOrder::SniFirst(host),
        "HOST_FIRST" => ServerNameOrder::HostFirst(host),
        _ => return None,
    }))
}

fn duration(argument: &str) -> Option<Operator> {
    let mut parts = argument.split(':');
    let mut moment = || {
        Some(match parts.next()? {
            "DS_CX_BEG" => Moment::ConnectionStart,
            "DS_CX_END" => Moment::ConnectionEnd,
            "DS_HS_END" => Moment::HandshakeEnd,
            "DS_RX_BEG" => Moment::Start,
            "DS_RX_END" => Moment::RequestEnd,
            "US_CX_BEG" => Moment::UpstreamConnectStart,
            "US_CX_END" => Moment::UpstreamConnectEnd,
            "US_HS_END" => Moment::UpstreamHandshakeEnd,
            "US_TX_BEG" => Moment::UpstreamFirstTx,
            "US_TX_END" => Moment::UpstreamLastTx,
            "US_RX_BEG" => Moment::UpstreamFirstRx,
            "US_RX_END" => Moment::UpstreamLastRx,
            "DS_TX_BEG" => Moment::FirstTx,
            "DS_TX_END" => Moment::LastTx,
            // Envoy takes any name, for moments that extensions set.
            _ => Moment::Never,
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

/// Certificate operators: side and own or peer's, then the field.
fn certificate(name: &str) -> Option<Simple> {
    type Side = fn(PeerField) -> Simple;
    let sides: [(&str, Side); 4] = [
        ("DOWNSTREAM_PEER_", Simple::DownstreamPeer),
        ("DOWNSTREAM_LOCAL_", Simple::DownstreamLocal),
        ("UPSTREAM_PEER_", Simple::UpstreamPeer),
        ("UPSTREAM_LOCAL_", Simple::UpstreamLocal),
    ];
    let (field, side) = sides
        .iter()
        .find_map(|(prefix, side)| Some((name.strip_prefix(prefix)?, side)))?;
    let peer = name.contains("_PEER_");
    let downstream = name.starts_with('D');
    let field = match field {
        "URI_SAN" => PeerField::UriSan,
        "DNS_SAN" => PeerField::DnsSan,
        "IP_SAN" => PeerField::IpSan,
        "EMAIL_SAN" if downstream => PeerField::EmailSan,
        "SUBJECT" if peer || downstream => PeerField::Subject,
        "ISSUER" if peer => PeerField::Issuer,
        "CERT" if peer => PeerField::Cert,
        "SERIAL" if peer && downstream => PeerField::Serial,
        "FINGERPRINT_256" if peer && downstream => PeerField::Fingerprint256,
        "FINGERPRINT_1" if peer && downstream => PeerField::Fingerprint1,
        _ => return None,
    };
    Some(side(field))
}

fn address(name: &str) -> Option<Simple> {
    let whole = |of| (of, Part::Whole);
    let (of, part) = match name {
        "UPSTREAM_HOST" => whole(AddressOf::UpstreamHost),
        "UPSTREAM_REMOTE_ADDRESS" => whole(AddressOf::UpstreamRemote),
        "UPSTREAM_LOCAL_ADDRESS" => whole(AddressOf::UpstreamLocal),
        "DOWNSTREAM_LOCAL_ADDRESS" => whole(AddressOf::DownstreamLocal),
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS" => whole(AddressOf::DownstreamDirectLocal),
        "DOWNSTREAM_REMOTE_ADDRESS" => whole(AddressOf::DownstreamRemote),
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS" => whole(AddressOf::DownstreamDirectRemote),
        _ => {
            let (base, part) = match name.strip_suffix("_ADDRESS_WITHOUT_PORT") {
                Some(base) => (base, Part::Address),
                None => (name.strip_suffix("_PORT")?, Part::Port),
            };
            let of = match base {
                "UPSTREAM_REMOTE" => AddressOf::UpstreamRemote,
                "UPSTREAM_LOCAL" => AddressOf::UpstreamLocal,
                "DOWNSTREAM_LOCAL" => AddressOf::DownstreamLocal,
                "DOWNSTREAM_DIRECT_LOCAL" => AddressOf::DownstreamDirectLocal,
                "DOWNSTREAM_REMOTE" => AddressOf::DownstreamRemote,
                "DOWNSTREAM_DIRECT_REMOTE" => AddressOf::DownstreamDirectRemote,
                _ => return None,
            };
            (of, part)
        }
    };
    Some(Simple::Address(of, part))
}

// table: names of operators without argument
fn simple(name: &str) -> Option<Simple> {
    if let Some(found) = certificate(name).or_else(|| address(name)) {
        return Some(found);
    }
    Some(match name {
        "PROTOCOL" => Simple::Protocol,
        "UPSTREAM_PROTOCOL" => Simple::UpstreamProtocol,
        "RESPONSE_CODE" => Simple::ResponseCode,
        "RESPONSE_FLAGS" => Simple::ResponseFlags,
        "RESPONSE_FLAGS_LONG" => Simple::ResponseFlagsLong,
        "CUSTOM_FLAGS" => Simple::CustomFlags,
        "CONNECTION_TERMINATION_DETAILS" => Simple::ConnectionTerminationDetails,
        "BYTES_RECEIVED" => Simple::BytesReceived,
        "BYTES_SENT" => Simple::BytesSent,
        "BYTES_RETRANSMITTED" => Simple::BytesRetransmitted,
        "PACKETS_RETRANSMITTED" => Simple::PacketsRetransmitted,
        "UPSTREAM_WIRE_BYTES_SENT" => Simple::UpstreamWireBytesSent,
        "UPSTREAM_WIRE_BYTES_RECEIVED" => Simple::UpstreamWireBytesReceived,
        "DOWNSTREAM_WIRE_BYTES_SENT" => Simple::DownstreamWireBytesSent,
        "DOWNSTREAM_WIRE_BYTES_RECEIVED" => Simple::DownstreamWireBytesReceived,
        "DURATION" => Simple::Duration,
        "REQUEST_DURATION" => Simple::RequestDuration,
        "REQUEST_TX_DURATION" => Simple::RequestTxDuration,
        "RESPONSE_DURATION" => Simple::ResponseDuration,
        "RESPONSE_TX_DURATION" => Simple::ResponseTxDuration,
        "ROUNDTRIP_DURATION" => Simple::RoundtripDuration,
        "DOWNSTREAM_HANDSHAKE_DURATION" => Simple::DownstreamHandshakeDuration,
        "UPSTREAM_CONNECTION_POOL_READY_DURATION" => Simple::UpstreamConnectionPoolReadyDuration,
        "UPSTREAM_HOST_NAME" => Simple::UpstreamHostName(Part::Whole),
        "UPSTREAM_HOST_NAME_WITHOUT_PORT" => Simple::UpstreamHostName(Part::Address),
        "UPSTREAM_CONNECTION_ID" => Simple::UpstreamConnectionId,
        "UPSTREAM_CLUSTER" => Simple::UpstreamCluster,
        "UPSTREAM_CLUSTER_RAW" => Simple::UpstreamClusterRaw,
        "UPSTREAM_SERVER_NAME" => Simple::UpstreamServerName,
        "UPSTREAM_TRANSPORT_FAILURE_REASON" => Simple::UpstreamTransportFailureReason,
        "UPSTREAM_REQUEST_ATTEMPT_COUNT" => Simple::UpstreamRequestAttemptCount,
        "UPSTREAM_TLS_VERSION" => Simple::UpstreamTlsVersion,
        "UPSTREAM_TLS_CIPHER" => Simple::UpstreamTlsCipher,
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => Simple::DownstreamTransportFailureReason,
        "DOWNSTREAM_TLS_VERSION" => Simple::DownstreamTlsVersion,
        "DOWNSTREAM_TLS_CIPHER" => Simple::DownstreamTlsCipher,
        "ROUTE_NAME" => Simple::RouteName,
        "VIRTUAL_CLUSTER_NAME" => Simple::VirtualClusterName,
        "FILTER_CHAIN_NAME" => Simple::FilterChainName,
        "CONNECTION_ID" => Simple::ConnectionId,
        "STREAM_ID" => Simple::StreamId,
        "UNIQUE_ID" => Simple::UniqueId,
        "TRACE_ID" => Simple::TraceId,
        "SPAN_ID" => Simple::SpanId,
        "HOSTNAME" => Simple::Hostname,
        "LOCAL_REPLY_BODY" => Simple::LocalReplyBody,
        "ACCESS_LOG_TYPE" => Simple::AccessLogType,
        "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID" | "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID" => {
            Simple::EndpointId
        }
        "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID" => Simple::UpstreamEndpointId,
        // The inspector does not make fingerprints unless it is asked to, which is refused.
        "TLS_JA3_FINGERPRINT" | "TLS_JA4_FINGERPRINT" => Simple::Unset,
        _ => return None,
    })
}
