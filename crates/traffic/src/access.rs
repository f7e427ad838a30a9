//! What an exchange or connection is known to be, and which of them are logged where.
//!
//! A driver fills one [`StreamInfo`] while the exchange runs; formats, filters of access logs and header formatters
//! read it. The heads stay apart, because a header mutation changes the head that its own format reads.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::collector::{AlsLog, OtelLog};
use crate::endpoint::Address;
use crate::flags::ResponseFlags;
use crate::format::LogFormat;
use crate::headers::{Headers, RequestHead};
use crate::matcher::HeaderMatcher;
use crate::metadata::{Metadata, MetadataMatcher, Value};
use crate::tls::PeerIdentity;
use crate::{Fraction, Str};

/// Protocol of a connection or exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    Http11,
    /// HTTP/2
    Http2,
}

impl Protocol {
    /// As Envoy prints it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// The heads of an exchange.
#[derive(Clone, Copy, Default)]
pub struct Heads<'a> {
    /// The request as it is now.
    pub request: Option<&'a dyn RequestHead>,
    /// The response's fields.
    pub response: Option<&'a dyn Headers>,
    /// The response's trailers.
    pub trailers: Option<&'a dyn Headers>,
}

/// Everything else that formats and log filters can ask for. Absent things are `None` or empty.
#[derive(Debug, Clone, Default)]
pub struct StreamInfo<'a> {
    /// Start, since the Unix epoch.
    pub start: Duration,
    /// Start to the last byte out.
    pub duration: Option<Duration>,
    /// Moments in between.
    pub times: Times,
    /// Protocol of the request; `None` for TCP.
    pub protocol: Option<Protocol>,
    /// Protocol spoken upstream.
    pub upstream_protocol: Option<Protocol>,
    /// Status; `None` when none was sent.
    pub response_code: Option<u16>,
    /// Why that status (`via_upstream`, `route_not_found`...).
    pub response_code_details: &'a str,
    /// Why a connection ended.
    pub connection_termination_details: &'a str,
    /// Flags.
    pub flags: ResponseFlags,
    /// Request body (HTTP) or connection bytes (TCP).
    pub bytes_received: u64,
    /// Response body (HTTP) or connection bytes (TCP).
    pub bytes_sent: u64,
    /// Bytes written to and read from the upstream connection.
    pub upstream_wire: (u64, u64),
    /// Bytes read from and written to the client's connection.
    pub downstream_wire: (u64, u64),
    /// Number of the upstream connection; 0 is none.
    pub upstream_connection_id: u64,
    /// The host.
    pub upstream_host: Option<&'a Address>,
    /// Name of the host.
    pub upstream_hostname: &'a str,
    /// Cluster's statistics name.
    pub upstream_cluster: &'a str,
    /// Cluster's name.
    pub upstream_cluster_raw: &'a str,
    /// Own address of the upstream connection.
    pub upstream_local: Option<SocketAddr>,
    /// TLS or connect failure text.
    pub upstream_failure: &'a str,
    /// Attempts made.
    pub attempts: u32,
    /// Restored destination.
    pub downstream_local: Option<SocketAddr>,
    /// The socket's own destination, where it differs from the restored one.
    pub downstream_direct_local: Option<SocketAddr>,
    /// The client, after X-Forwarded-For or a PROXY header.
    pub downstream_remote: Option<SocketAddr>,
    /// The TCP peer.
    pub downstream_direct_remote: Option<SocketAddr>,
    /// Path of the unix socket that the client came to, in place of the addresses above.
    pub downstream_pipe: &'a str,
    /// TLS failure text.
    pub downstream_failure: &'a str,
    /// SNI.
    pub requested_server_name: &'a str,
    /// Route.
    pub route_name: &'a str,
    /// Virtual cluster.
    pub virtual_cluster: &'a str,
    /// Filter chain.
    pub filter_chain: &'a str,
    /// Downstream TLS.
    pub downstream_tls: Tls<'a>,
    /// Upstream TLS.
    pub upstream_tls: Tls<'a>,
    /// Connection number.
    pub connection_id: u64,
    /// Stream's unique id.
    pub stream_id: &'a str,
    /// Trace id.
    pub trace_id: &'a str,
    /// Span id.
    pub span_id: &'a str,
    /// The request is traced because a service asked for it; nothing else counts.
    pub traced: bool,
    /// The request is a health check that the proxy answered.
    pub health_check: bool,
    /// Body of a local reply.
    pub local_reply_body: &'a str,
    /// gRPC status, from trailers or derived.
    pub grpc_status: Option<u32>,
    /// Dynamic metadata.
    pub metadata: Option<&'a Metadata>,
    /// The route's metadata.
    pub route_metadata: Option<&'a Metadata>,
    /// The cluster's metadata.
    pub cluster_metadata: Option<&'a Metadata>,
    /// The host's metadata.
    pub host_metadata: Option<&'a Metadata>,
    /// The listener's metadata.
    pub listener_metadata: Option<&'a Metadata>,
    /// The filter chain's metadata.
    pub chain_metadata: Option<&'a Metadata>,
    /// Filter state as text, by key.
    pub filter_state: &'a [(Str, Str)],
    /// Upstream filter state as text, by key.
    pub upstream_filter_state: &'a [(Str, Str)],
    /// The workloads at both ends, as peers told of them: filter state `downstream_peer` and `upstream_peer`.
    pub peers: Peers<'a>,
    /// The process's environment, for `%ENVIRONMENT%`.
    pub environment: &'a [(Str, Str)],
    /// This host's name.
    pub hostname: &'a str,
    /// Kind of log entry (`DownstreamEnd`...).
    pub log_type: &'a str,
}

/// An object in filter state that is more than a text.
pub trait StateObject: std::fmt::Debug {
    /// As `%FILTER_STATE(key:PLAIN)%` writes it.
    fn text(&self) -> String;
    /// As `%FILTER_STATE(key:TYPED)%` writes it.
    fn value(&self) -> Value;
    /// One field; `None` when objects of this kind have no such field.
    fn field(&self, name: &str) -> Option<String>;
}

/// The workloads at both ends of a connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peers<'a> {
    /// The client's.
    pub downstream: Option<&'a dyn StateObject>,
    /// The server's.
    pub upstream: Option<&'a dyn StateObject>,
}

impl<'a> Peers<'a> {
    /// The object of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a dyn StateObject> {
        match key {
            "downstream_peer" => self.downstream,
            "upstream_peer" => self.upstream,
            _ => None,
        }
    }
}

/// TLS facts of one side.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tls<'a> {
    /// The peer's certificate.
    pub peer: Option<&'a PeerIdentity>,
    /// The own certificate.
    pub local: Option<&'a PeerIdentity>,
    /// `TLSv1.3`; empty without TLS.
    pub version: &'a str,
    /// Cipher, by the name that OpenSSL gives it.
    pub cipher: &'a str,
    /// Server name sent (upstream only).
    pub server_name: &'a str,
}

/// Moments of an exchange, each since its start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// Last request byte in.
    pub request_end: Option<Duration>,
    /// First byte out to the upstream.
    pub upstream_first_tx: Option<Duration>,
    /// Last byte out to the upstream.
    pub upstream_last_tx: Option<Duration>,
    /// First byte in from the upstream.
    pub upstream_first_rx: Option<Duration>,
    /// Last byte in from the upstream.
    pub upstream_last_rx: Option<Duration>,
    /// First byte out to the client.
    pub first_tx: Option<Duration>,
    /// Last byte out to the client.
    pub last_tx: Option<Duration>,
    /// Downstream handshake's length.
    pub handshake: Option<Duration>,
    /// Wait for an upstream connection.
    pub pool_ready: Option<Duration>,
}

/// One access log.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// Which exchanges; `None` is all.
    pub filter: Option<LogFilter>,
    /// Where lines go.
    pub sink: LogSink,
    /// How they look.
    pub format: LogFormat,
}

/// Where log entries go.
#[derive(Debug, Clone)]
pub enum LogSink {
    /// A file (`/dev/stdout` included).
    File(Str),
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Envoy's access log service.
    Als(Arc<AlsLog>),
    /// OpenTelemetry logs.
    OpenTelemetry(Arc<OtelLog>),
}

/// Which exchanges are logged.
#[derive(Debug, Clone)]
pub enum LogFilter {
    /// Status compared.
    Status(Comparison, u64),
    /// Duration in ms compared.
    Duration(Comparison, u64),
    /// Not a health check.
    NotHealthCheck,
    /// Traced.
    Traceable,
    /// A share of requests.
    Runtime(Fraction),
    /// All.
    And(Vec<Self>),
    /// Any.
    Or(Vec<Self>),
    /// A request header.
    Header(Box<HeaderMatcher>),
    /// Any of these flags; an empty set is any flag.
    Flags(ResponseFlags),
    /// gRPC status in (or, inverted, not in) a set.
    Grpc(Vec<u32>, bool),
    /// Dynamic metadata.
    Metadata {
        /// The test.
        matcher: Box<MetadataMatcher>,
        /// Result when the key is absent.
        when_missing: bool,
    },
    /// Kinds of entries (or, inverted, other kinds).
    LogType(Vec<Str>, bool),
}

/// Comparison operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Eq,
    /// Greater or equal.
    Ge,
    /// Less or equal.
    Le,
    /// Not equal.
    Ne,
}

impl Comparison {
    fn holds(self, left: u64, right: u64) -> bool {
        match self {
            Self::Eq => left == right,
            Self::Ge => left >= right,
            Self::Le => left <= right,
            Self::Ne => left != right,
        }
    }
}

impl AccessLog {
    /// Whether this exchange is logged here. `random` is stable for the request.
    #[must_use]
    pub fn wants(&self, info: &StreamInfo<'_>, heads: Heads<'_>, random: u64) -> bool {
        self.filter
            .as_ref()
            .is_none_or(|filter| filter.passes(info, heads, random))
    }
}

impl LogFilter {
    /// Whether an exchange passes.
    #[must_use]
    pub fn passes(&self, info: &StreamInfo<'_>, heads: Heads<'_>, random: u64) -> bool {
        match self {
            Self::Status(op, value) => op.holds(info.response_code.map_or(0, u64::from), *value),
            Self::Duration(op, value) => {
                let millis = info.duration.unwrap_or_default().as_millis();
                op.holds(u64::try_from(millis).unwrap_or(u64::MAX), *value)
            }
            Self::NotHealthCheck => !info.health_check,
            Self::Traceable => info.traced,
            Self::Runtime(fraction) => fraction.hits(random),
            Self::And(all) => all.iter().all(|f| f.passes(info, heads, random)),
            Self::Or(any) => any.iter().any(|f| f.passes(info, heads, random)),
            Self::Header(matcher) => heads
                .request
                .is_some_and(|request| matcher.matches(request)),
            Self::Flags(flags) if flags.is_empty() => !info.flags.is_empty(),
            Self::Flags(flags) => info.flags.any_of(*flags),
            Self::Grpc(statuses, exclude) => {
                let status = info
                    .grpc_status
                    .unwrap_or_else(|| grpc_status_of(info.response_code));
                statuses.contains(&status) != *exclude
            }
            Self::Metadata {
                matcher,
                when_missing,
            } => {
                let found = info
                    .metadata
                    .and_then(|m| m.get(&matcher.filter, &matcher.path));
                found.map_or(*when_missing, |value| {
                    matcher.value.matches(Some(value)) != matcher.invert
                })
            }
            Self::LogType(types, exclude) => types.iter().any(|t| t == info.log_type) != *exclude,
        }
    }
}

/// HTTP status that stands for a gRPC one (Envoy's `grpcToHttpStatus`).
#[must_use]
pub fn http_status_of_grpc(status: u32) -> u16 {
    match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// The gRPC status that stands for an HTTP status.
#[must_use]
pub fn grpc_status_of(code: Option<u16>) -> u32 {
    match code {
        Some(400) => 13,
        Some(401) => 16,
        Some(403) => 7,
        Some(404) => 12,
        Some(429 | 502 | 503 | 504) => 14,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_no_route_filter_passes_only_that_flag() {
        let filter = LogFilter::Flags(ResponseFlags::NO_ROUTE_FOUND);
        let mut info = StreamInfo::default();
        assert!(!filter.passes(&info, Heads::default(), 0));
        info.flags.add(ResponseFlags::NO_ROUTE_FOUND);
        assert!(filter.passes(&info, Heads::default(), 0));
        assert!(LogFilter::Flags(ResponseFlags::NONE).passes(&info, Heads::default(), 0));
    }

    #[test]
    fn status_filters_compare() {
        let filter = LogFilter::Status(Comparison::Ge, 500);
        let info = |code| StreamInfo {
            response_code: Some(code),
            ..StreamInfo::default()
        };
        assert!(filter.passes(&info(503), Heads::default(), 0));
        assert!(!filter.passes(&info(404), Heads::default(), 0));
    }
}
