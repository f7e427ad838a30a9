//! Envoy's substitution format: command operators in access logs, header values and local replies.
//!
//! Text is parsed once, when the configuration is made; rendering appends to a caller's buffer and allocates nothing
//! else for the common operators.

mod parse;
mod render;
mod time;

use http::header::HeaderName;

use crate::Str;
use crate::access::{Heads, StreamInfo};
use crate::matcher::Field;
use crate::metadata::Value;

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
    /// Request header with an alternative; true: without query.
    Request(Option<Field>, Option<Field>, bool),
    /// Response header with an alternative.
    Response(Option<HeaderName>, Option<HeaderName>),
    /// Response trailer with an alternative.
    Trailer(Option<HeaderName>, Option<HeaderName>),
    /// Path; true: with query; the second says whether the original, the present, or the original if there is one.
    Path(bool, PathKind),
    /// A query parameter.
    Query(Str),
    /// Anything without arguments.
    Simple(Simple),
    /// Dynamic, route, cluster or host metadata.
    Metadata(MetadataOf, Str, Vec<Str>),
    /// Filter state; true: upstream's.
    FilterState(bool, Str),
    /// gRPC status as `CAMEL_STRING`, `SNAKE_STRING` or `NUMBER`.
    GrpcStatus(GrpcStyle),
    /// Time between two moments in a unit.
    CommonDuration(Moment, Moment, TimeUnit),
    /// A constant found at configuration time.
    Constant(Str),
}

/// Which path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathKind {
    /// x-envoy-original-path.
    Original,
    /// `:path`.
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

/// Operators without arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the operator of the same name")]
pub enum Simple {
    Protocol,
    UpstreamProtocol,
    Method,
    Scheme,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    ResponseFlagsLong,
    ConnectionTerminationDetails,
    BytesReceived,
    BytesSent,
    UpstreamWireBytesSent,
    UpstreamWireBytesReceived,
    Duration,
    RequestDuration,
    RequestTxDuration,
    ResponseDuration,
    ResponseTxDuration,
    RoundtripDuration,
    DownstreamHandshakeDuration,
    UpstreamConnectionPoolReadyDuration,
    UpstreamHost(Part),
    UpstreamHostName,
    UpstreamCluster,
    UpstreamClusterRaw,
    UpstreamLocalAddress(Part),
    UpstreamTransportFailureReason,
    UpstreamRequestAttemptCount,
    UpstreamPeerUriSan,
    UpstreamPeerDnsSan,
    UpstreamPeerSubject,
    UpstreamPeerIssuer,
    UpstreamTlsVersion,
    UpstreamTlsCipher,
    DownstreamLocalAddress(Part),
    DownstreamRemoteAddress(Part),
    DownstreamDirectRemoteAddress(Part),
    DownstreamTransportFailureReason,
    DownstreamPeerUriSan,
    DownstreamPeerDnsSan,
    DownstreamPeerSubject,
    DownstreamPeerIssuer,
    DownstreamPeerSerial,
    DownstreamPeerFingerprint256,
    DownstreamLocalUriSan,
    DownstreamLocalDnsSan,
    DownstreamLocalSubject,
    DownstreamTlsVersion,
    DownstreamTlsCipher,
    RequestedServerName,
    RouteName,
    VirtualClusterName,
    FilterChainName,
    ConnectionId,
    StreamId,
    TraceId,
    Hostname,
    LocalReplyBody,
    AccessLogType,
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
                        out.truncate(out.len().min(start + limit));
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
                render::json(root, info, heads, *omit_empty, out);
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
}
