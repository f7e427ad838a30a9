//! Envoy's substitution format: command operators in access logs, header values and local replies.
//!
//! Text is parsed once, when the configuration is made; rendering appends to a caller's buffer and allocates nothing
//! else for the common operators.

mod derived;
mod json;
mod operators;
mod parse;
mod render;
mod time;

use http::header::HeaderName;

use crate::Str;
use crate::access::{Heads, StreamInfo};
use crate::matcher::Field;
use crate::metadata::Value;

pub use derived::{Choice, SizeOf};
pub use parse::FormatError;
pub use time::TimeFormat;

/// A parsed format string.
#[derive(Debug, Clone, Default)]
pub struct Format {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone)]
enum Piece {
    Literal(Str),
    Operator(Operator, Option<usize>),
}

/// How access log entries look.
#[derive(Debug, Clone)]
pub enum LogFormat {
    /// A line.
    Text {
        /// The line, with its newline.
        line: Format,
        /// Unset operators print nothing rather than `-`.
        omit_empty: bool,
    },
    /// A JSON object and a newline.
    Json {
        /// The object.
        root: JsonNode,
        /// Unset values are left out.
        omit_empty: bool,
    },
}

/// A node of a JSON format.
#[derive(Debug, Clone)]
pub enum JsonNode {
    /// A value that is exactly one operator keeps its type; others are strings.
    Format(Format),
    /// A constant.
    Literal(Value),
    /// An object, in order.
    Object(Vec<(Str, Self)>),
    /// A list.
    List(Vec<Self>),
}

/// Command operators.
#[derive(Debug, Clone)]
pub enum Operator {
    /// Start time.
    StartTime(TimeFormat),
    /// Time at which the entry is written.
    EmitTime(TimeFormat),
    /// Start or end of the validity of the client's (false) or upstream's (true) certificate.
    Validity(bool, Bound, TimeFormat),
    /// Request header with an alternative; true: without query.
    Request(Option<Field>, Option<Field>, bool),
    /// Response header with an alternative; true: without query.
    Response(ResponseField, Option<ResponseField>, bool),
    /// Response trailer with an alternative.
    Trailer(Option<HeaderName>, Option<HeaderName>),
    /// Path; true: with query; the second says whether the original, the present, or the original if there is one.
    Path(bool, PathKind),
    /// A query parameter, decoded.
    Query(Str),
    /// The whole query; true: decoded.
    Queries(bool),
    /// Anything without arguments.
    Simple(Simple),
    /// An address without its port, as a block of this prefix length.
    Masked(AddressOf, u8),
    /// Dynamic, route, cluster or host metadata.
    Metadata(MetadataOf, Str, Vec<Str>),
    /// Filter state; true: upstream's.
    FilterState(bool, Str, StateStyle),
    /// gRPC status as `CAMEL_STRING`, `SNAKE_STRING` or `NUMBER`.
    GrpcStatus(GrpcStyle),
    /// Time between two moments in a unit.
    CommonDuration(Moment, Moment, TimeUnit),
    /// The server name: SNI, or the request's host first.
    ServerName(ServerNameOrder),
    /// An environment variable of the process.
    Environment(Str),
    /// The first of these that has a value.
    Coalesce(Vec<Choice>),
    /// A field of x-forwarded-client-cert, by its name in lower case.
    Xfcc(&'static str),
    /// Bytes of a head.
    Size(SizeOf),
}

/// A field of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResponseField {
    /// `:status`.
    Status,
    /// A header.
    Name(HeaderName),
    /// A pseudo header that no response has.
    Absent,
}

/// An end of a validity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// Not before.
    Start,
    /// Not after.
    End,
}

/// Which address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressOf {
    /// The host.
    UpstreamHost,
    /// The other end of the upstream connection.
    UpstreamRemote,
    /// Our end of the upstream connection.
    UpstreamLocal,
    /// The restored destination.
    DownstreamLocal,
    /// The socket's own destination.
    DownstreamDirectLocal,
    /// The client.
    DownstreamRemote,
    /// The TCP peer.
    DownstreamDirectRemote,
}

/// How filter state prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateStyle {
    /// As JSON where it has a structure, else as text.
    Typed,
    /// As text.
    Plain,
    /// One field of it.
    Field(Str),
}

/// Where the server name comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerNameOrder {
    /// SNI only.
    SniOnly,
    /// SNI, else the host.
    SniFirst(PathKind),
    /// The host, else SNI.
    HostFirst(PathKind),
}

/// Which path, or host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// x-envoy-original-path (x-envoy-original-host).
    Original,
    /// `:path` (`:authority`).
    Present,
    /// The original if there is one.
    OriginalOrPresent,
}

/// Whose metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataOf {
    /// The request's.
    Dynamic,
    /// The route's.
    Route,
    /// The cluster's.
    Cluster,
    /// The host's.
    Host,
    /// The listener's.
    Listener,
    /// The filter chain's.
    FilterChain,
}

/// How a gRPC status prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrpcStyle {
    /// `NotFound`
    Camel,
    /// `NOT_FOUND`
    Snake,
    /// `5`
    Number,
}

/// Moments of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// `DS_CX_BEG`
    ConnectionStart,
    /// `DS_CX_END`
    ConnectionEnd,
    /// `DS_HS_END`
    HandshakeEnd,
    /// `US_CX_BEG`
    UpstreamConnectStart,
    /// `US_CX_END`
    UpstreamConnectEnd,
    /// `US_HS_END`
    UpstreamHandshakeEnd,
    /// A name that nothing sets.
    Never,
    /// `DS_RX_BEG`
    Start,
    /// `DS_RX_END`
    RequestEnd,
    /// `US_TX_BEG`
    UpstreamFirstTx,
    /// `US_TX_END`
    UpstreamLastTx,
    /// `US_RX_BEG`
    UpstreamFirstRx,
    /// `US_RX_END`
    UpstreamLastRx,
    /// `DS_TX_BEG`
    FirstTx,
    /// `DS_TX_END`
    LastTx,
}

/// Units of a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// ms
    Millis,
    /// us
    Micros,
    /// ns
    Nanos,
}

/// Which part of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Address and port.
    Whole,
    /// Address.
    Address,
    /// Port.
    Port,
}

/// A fact of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each variant is the ending of the operator's name"
)]
pub enum PeerField {
    UriSan,
    DnsSan,
    IpSan,
    EmailSan,
    Subject,
    Issuer,
    Serial,
    Fingerprint256,
    Fingerprint1,
    Cert,
}

/// Operators without arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the operator of the same name")]
pub enum Simple {
    Protocol,
    UpstreamProtocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseCodeDetailsSpaced,
    ResponseFlags,
    ResponseFlagsLong,
    CustomFlags,
    ConnectionTerminationDetails,
    BytesReceived,
    BytesSent,
    BytesRetransmitted,
    PacketsRetransmitted,
    UpstreamWireBytesSent,
    UpstreamWireBytesReceived,
    DownstreamWireBytesSent,
    DownstreamWireBytesReceived,
    Duration,
    RequestDuration,
    RequestTxDuration,
    ResponseDuration,
    ResponseTxDuration,
    RoundtripDuration,
    DownstreamHandshakeDuration,
    UpstreamConnectionPoolReadyDuration,
    Address(AddressOf, Part),
    UpstreamHostName(Part),
    UpstreamConnectionId,
    UpstreamCluster,
    UpstreamClusterRaw,
    UpstreamServerName,
    UpstreamTransportFailureReason,
    UpstreamRequestAttemptCount,
    UpstreamPeer(PeerField),
    UpstreamLocal(PeerField),
    UpstreamTlsVersion,
    UpstreamTlsCipher,
    DownstreamTransportFailureReason,
    DownstreamPeer(PeerField),
    DownstreamLocal(PeerField),
    DownstreamTlsVersion,
    DownstreamTlsCipher,
    RouteName,
    VirtualClusterName,
    FilterChainName,
    ConnectionId,
    StreamId,
    UniqueId,
    TraceId,
    SpanId,
    Hostname,
    LocalReplyBody,
    AccessLogType,
    /// The endpoint id of an internal address: others print nothing.
    EndpointId,
    /// The same of the upstream, once there is a connection.
    UpstreamEndpointId,
    /// What this proxy never has a value for (`TLS_JA3_FINGERPRINT`).
    Unset,
}

impl Format {
    /// Parses a format.
    ///
    /// # Errors
    /// When an operator is unknown, malformed or not closed.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        parse::parse(text)
    }

    /// A constant.
    #[must_use]
    pub fn literal(text: &str) -> Self {
        Self {
            pieces: vec![Piece::Literal(text.into())],
        }
    }

    /// The constant that this format always gives, when it is one.
    #[must_use]
    pub fn as_literal(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the text; `unset` stands for operators without value.
    pub fn render(&self, info: &StreamInfo<'_>, heads: Heads<'_>, unset: &str, out: &mut Vec<u8>) {
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Operator(operator, limit) => {
                    let start = out.len();
                    if !render::operator(operator, info, heads, out) {
                        out.extend_from_slice(unset.as_bytes());
                    }
                    if let Some(limit) = limit {
                        out.truncate(out.len().min(start.saturating_add(*limit)));
                    }
                }
            }
        }
    }

    /// The text as a string, `-` for unset operators.
    #[must_use]
    pub fn to_text(&self, info: &StreamInfo<'_>, heads: Heads<'_>) -> String {
        let mut out = Vec::new();
        self.render(info, heads, "-", &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }
}

impl StreamInfo<'_> {
    /// A metadata value as text: strings bare, the rest as JSON.
    #[must_use]
    pub fn metadata_text(
        &self,
        whose: MetadataOf,
        namespace: &str,
        path: &[Str],
    ) -> Option<String> {
        let value = render::metadata_value(whose, namespace, path, self)?;
        let mut out = Vec::new();
        render::plain(value, &mut out).then(|| String::from_utf8_lossy(&out).into_owned())
    }
}

impl LogFormat {
    /// Envoy's default line.
    #[must_use]
    pub fn envoy_default() -> Self {
        let line = Format::parse(ENVOY_DEFAULT).expect("the default format is well formed");
        Self::Text {
            line,
            omit_empty: false,
        }
    }

    /// Istio's default line.
    #[must_use]
    pub fn istio_default() -> Self {
        let line = Format::parse(ISTIO_DEFAULT).expect("the default format is well formed");
        Self::Text {
            line,
            omit_empty: false,
        }
    }

    /// Appends one entry.
    pub fn render(&self, info: &StreamInfo<'_>, heads: Heads<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Text { line, omit_empty } => {
                line.render(info, heads, if *omit_empty { "" } else { "-" }, out)
            }
            Self::Json { root, omit_empty } => {
                json::object(root, info, heads, *omit_empty, out);
                out.push(b'\n');
            }
        }
    }
}

/// Envoy's default access log line.
pub const ENVOY_DEFAULT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% ",
    "\"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" ",
    "\"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n"
);

/// Istio's default access log line.
pub const ISTIO_DEFAULT: &str = concat!(
    "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" ",
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% ",
    "\"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ",
    "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" ",
    "\"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% ",
    "%UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% ",
    "%REQUESTED_SERVER_NAME% %ROUTE_NAME%\n"
);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::access::Protocol;
    use crate::endpoint::Address;
    use crate::flags::ResponseFlags;
    use crate::headers::SimpleRequest;

    fn exchange<'a>(host: &'a Address) -> StreamInfo<'a> {
        StreamInfo {
            start: Duration::new(1_700_000_000, 123_456_789),
            duration: Some(Duration::from_millis(7)),
            protocol: Some(Protocol::Http11),
            response_code: Some(200),
            response_code_details: "via_upstream",
            bytes_sent: 15,
            upstream_host: Some(host),
            upstream_cluster: "outbound|9080||reviews.default.svc.cluster.local;",
            upstream_cluster_raw: "outbound|9080||reviews.default.svc.cluster.local",
            downstream_local: Some(SocketAddr::from(([10, 96, 0, 7], 9080))),
            downstream_remote: Some(SocketAddr::from(([10, 244, 0, 5], 41000))),
            route_name: "default",
            ..StreamInfo::default()
        }
    }

    #[test]
    fn istios_default_line_prints_as_istio_prints_it() {
        let host = Address::Socket(SocketAddr::from(([10, 244, 0, 9], 9080)));
        let request = SimpleRequest::get("reviews:9080", "/reviews/0").with("user-agent", "curl");
        let mut response = http::HeaderMap::new();
        response.insert("x-envoy-upstream-service-time", "6".parse().unwrap());
        let heads = Heads {
            request: Some(&request),
            response: Some(&response),
            trailers: None,
        };
        let mut out = Vec::new();
        LogFormat::istio_default().render(&exchange(&host), heads, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "[2023-11-14T22:13:20.123Z] \"GET /reviews/0 HTTP/1.1\" 200 - via_upstream - \"-\" 0 15 7 6 \"-\" \
             \"curl\" \"-\" \"reviews:9080\" \"10.244.0.9:9080\" outbound|9080||reviews.default.svc.cluster.local - \
             10.96.0.7:9080 10.244.0.5:41000 - default\n"
        );
    }

    #[test]
    fn a_connection_without_request_prints_dashes_and_zero() {
        let info = StreamInfo {
            start: Duration::ZERO,
            flags: ResponseFlags::NO_ROUTE_FOUND,
            ..StreamInfo::default()
        };
        let line = Format::parse(ISTIO_DEFAULT)
            .unwrap()
            .to_text(&info, Heads::default());
        assert!(
            line.starts_with("[1970-01-01T00:00:00.000Z] \"- - -\" 0 NR - - \"-\" 0 0 -"),
            "{line}"
        );
    }

    #[test]
    fn lengths_cut_and_percent_signs_are_literal() {
        let request = SimpleRequest::get("a", "/p").with("x-a", "abcdef");
        let heads = Heads {
            request: Some(&request),
            ..Heads::default()
        };
        let text = |f: &str| {
            Format::parse(f)
                .unwrap()
                .to_text(&StreamInfo::default(), heads)
        };
        assert_eq!(text("%REQ(x-a):3%"), "abc");
        assert_eq!(text("100%%"), "100%");
        assert_eq!(text("%REQ(x-none?x-a)%"), "abcdef");
        assert_eq!(text("%REQ_WITHOUT_QUERY(:PATH)%"), "/p");
    }

    #[test]
    fn malformed_operators_are_refused_with_their_text() {
        for bad in [
            "%NOPE%",
            "%REQ(x",
            "%REQ()x%",
            "%REQ%",
            "%START_TIME",
            "%DURATION(x)%",
            "50%",
            "%METHOD%",
            "%PROTOCOL:3%",
            "%CLUSTER_METADATA(a):3%",
            "%REQ(a?b?c)%",
            "%PATH(ORIG)%",
            "%FILTER_STATE(a:FIELD)%",
            "%ROUTE_RESOLUTION_COUNT%",
        ] {
            assert!(Format::parse(bad).is_err(), "{bad}");
        }
        assert!(
            Format::parse("%NOPE%")
                .unwrap_err()
                .to_string()
                .contains("NOPE")
        );
    }

    #[test]
    fn json_keeps_types_and_order() {
        let host = Address::Socket(SocketAddr::from(([10, 244, 0, 9], 9080)));
        let node = |text: &str| JsonNode::Format(Format::parse(text).unwrap());
        let format = LogFormat::Json {
            root: JsonNode::Object(vec![
                ("code".into(), node("%RESPONSE_CODE%")),
                ("flags".into(), node("%RESPONSE_FLAGS%")),
                ("text".into(), node("%RESPONSE_CODE%!\"")),
                ("none".into(), node("%REQ(x)%")),
            ]),
            omit_empty: false,
        };
        let mut out = Vec::new();
        format.render(&exchange(&host), Heads::default(), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"code\":200,\"flags\":\"-\",\"text\":\"200!\\\"\",\"none\":null}\n"
        );
    }

    #[test]
    fn every_operator_of_the_default_lines_and_its_neighbours_parses() {
        for good in [
            "%DURATION()%",
            "%REQUEST_HEADER(a?b):7%",
            "%RESPONSE_TRAILER(grpc-status)%",
            "%PATH(NQ:ORIG)%",
            "%QUERY_PARAMS(DECODED)%",
            "%COMMON_DURATION(DS_CX_BEG:US_HS_END:ns)%",
            "%DOWNSTREAM_PEER_CERT_V_START(%Y-%m)%",
            "%REQUESTED_SERVER_NAME(HOST_FIRST:ORIG)%",
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(24)%",
            "%FILTER_STATE(wasm.x:FIELD:y):9%",
            "%REQ(a%)%",
        ] {
            assert!(Format::parse(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn empty_headers_print_nothing_and_absent_ones_a_dash() {
        let request = SimpleRequest::get("a", "/p?e=&p=%41%2Bz").with("x-e", "");
        let heads = Heads {
            request: Some(&request),
            ..Heads::default()
        };
        let text = |f: &str| {
            Format::parse(f)
                .unwrap()
                .to_text(&StreamInfo::default(), heads)
        };
        assert_eq!(text("%REQ(x-e)%|%REQ(x-none)%"), "|-");
        assert_eq!(
            text("%QUERY_PARAM(e)%|%QUERY_PARAM(p)%|%QUERY_PARAM(q)%"),
            "|A+z|-"
        );
        assert_eq!(
            text("%QUERY_PARAMS%|%QUERY_PARAMS(DECODED)%"),
            "e=&p=%41%2Bz|e=&p=A+z"
        );
    }

    #[test]
    fn a_masked_address_is_the_block_it_lies_in() {
        let info = StreamInfo {
            downstream_remote: Some(SocketAddr::from(([10, 1, 2, 3], 4))),
            ..StreamInfo::default()
        };
        let text = Format::parse("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(16)%")
            .unwrap()
            .to_text(&info, Heads::default());
        assert_eq!(text, "10.1.0.0/16");
    }

    #[test]
    fn omitted_values_take_their_keys_and_empty_containers_with_them() {
        let node = |text: &str| JsonNode::Format(Format::parse(text).unwrap());
        let none = || node("%REQ(x)%");
        let format = LogFormat::Json {
            root: JsonNode::Object(vec![
                ("a".into(), none()),
                (
                    "l".into(),
                    JsonNode::List(vec![none(), node("%RESPONSE_CODE%")]),
                ),
                ("o".into(), JsonNode::Object(vec![("x".into(), none())])),
                ("z".into(), JsonNode::Format(Format::literal(""))),
            ]),
            omit_empty: true,
        };
        let mut out = Vec::new();
        format.render(&StreamInfo::default(), Heads::default(), &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), "{\"l\":[0],\"z\":\"\"}\n");
    }
}
