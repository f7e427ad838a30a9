//! The HTTP connection manager and its filters as configuration.

use std::sync::Arc;
use std::time::Duration;

use http::header::HeaderName;

use crate::access::{AccessLog, Heads, StreamInfo};
use crate::collector::{OpenTelemetry, Zipkin};
use crate::cors::CorsPolicy;
use crate::discovery::{Reference, Source};
use crate::ext_authz::{ExtAuthz, ExtAuthzPerRoute};
use crate::fault::Fault;
use crate::format::{Format, MetadataOf};
use crate::jwt::{JwtAuthn, JwtPerRoute};
use crate::matcher::Cidr;
use crate::mutation::HeaderOp;
use crate::ratelimit::{LocalRateLimit, RateLimit, RateLimitPerRoute};
use crate::rbac::RbacFilter;
use crate::route::RouteTable;
use crate::{Limit, Str};

/// `HttpConnectionManager`.
#[derive(Debug)]
pub struct ConnectionManager {
    /// Statistics prefix.
    pub stat_prefix: Str,
    /// Protocol.
    pub codec: Codec,
    /// Routes.
    pub routes: RouteSource,
    /// Filters in request order; the router is last.
    pub filters: Vec<HttpFilter>,
    /// Logs.
    pub access_log: Vec<AccessLog>,
    /// A log line is also written when a request arrives.
    pub log_on_new_request: bool,
    /// Interval of periodic log lines.
    pub log_interval: Limit,
    /// HTTP/1 options.
    pub http1: Http1Options,
    /// HTTP/2 options.
    pub http2: Http2Options,
    /// A connection without streams closes after this; `None` never.
    pub idle_timeout: Limit,
    /// A connection drains after this.
    pub max_connection_duration: Limit,
    /// A stream ends after this.
    pub max_stream_duration: Limit,
    /// Most request fields.
    pub max_headers_count: u32,
    /// Largest request head, in KiB.
    pub max_headers_kb: u32,
    /// A connection closes after so many requests.
    pub max_requests_per_connection: Option<u32>,
    /// What happens to names with underscores.
    pub underscores: Underscores,
    /// A stream without any event ends after this.
    pub stream_idle_timeout: Limit,
    /// The whole request must arrive within this.
    pub request_timeout: Limit,
    /// The head must arrive within this.
    pub request_headers_timeout: Limit,
    /// Time between the first and the final GOAWAY.
    pub drain_timeout: Duration,
    /// Time between the last byte and the close.
    pub delayed_close_timeout: Limit,
    /// The TCP peer is the client.
    pub use_remote_address: bool,
    /// Trusted proxies in front.
    pub xff_trusted_hops: u32,
    /// X-Forwarded-For is not extended.
    pub skip_xff_append: bool,
    /// Addresses that make a request internal.
    pub internal_addresses: Vec<Cidr>,
    /// A unix socket peer is internal.
    pub unix_sockets_internal: bool,
    /// `Via` value; empty adds none.
    pub via: Str,
    /// `server` value.
    pub server_name: Str,
    /// What happens to the upstream's `server`.
    pub server_header: ServerHeader,
    /// x-request-id is generated when it is missing.
    pub generate_request_id: bool,
    /// An outside x-request-id is kept at the edge.
    pub preserve_external_request_id: bool,
    /// x-request-id is always sent back.
    pub always_set_request_id_in_response: bool,
    /// x-request-id carries the trace decision.
    pub pack_trace_reason: bool,
    /// Client certificate forwarding.
    pub xfcc: XfccMode,
    /// What is put into x-forwarded-client-cert.
    pub xfcc_details: XfccDetails,
    /// `Expect: 100-continue` is passed on.
    pub proxy_100_continue: bool,
    /// Upgrades: name in lower case, and whether it is allowed.
    pub upgrades: Vec<(Str, bool)>,
    /// Dot segments and percent-encoding are normalized.
    pub normalize_path: bool,
    /// `//` becomes `/`.
    pub merge_slashes: bool,
    /// What happens to `%2F`.
    pub escaped_slashes: EscapedSlashes,
    /// The port is cut from the host.
    pub strip_port: StripPort,
    /// A trailing dot is cut from the host.
    pub strip_trailing_dot: bool,
    /// A broken message closes the connection rather than the stream.
    pub stream_error_on_invalid: bool,
    /// Requests without user agent get ours.
    pub add_user_agent: bool,
    /// Tracing settings, when on.
    pub tracing: Option<Tracing>,
    /// Formats of local replies.
    pub local_reply: Option<LocalReply>,
    /// Where the client's address is looked for instead of `use_remote_address` and `xff_trusted_hops`; the first that
    /// finds one counts.
    pub address_sources: Vec<AddressSource>,
    /// Changes of the request before its fields are judged.
    pub early_mutations: Vec<HeaderOp>,
    /// x-forwarded-port says which port the client reached.
    pub append_forwarded_port: bool,
    /// What happens to the scheme.
    pub scheme: SchemeRule,
}

/// `original_ip_detection_extensions`.
#[derive(Debug, Clone)]
pub enum AddressSource {
    /// X-Forwarded-For: the entry so many from the right; 1 is the last.
    ForwardedFor {
        /// Position.
        entry: usize,
        /// The peer is appended.
        append: bool,
    },
    /// X-Forwarded-For: the last entry that is in none of these blocks, where the peer is in one.
    TrustedBlocks {
        /// Addresses of proxies.
        blocks: Vec<Cidr>,
        /// The peer is appended.
        append: bool,
    },
    /// A header of its own.
    Header {
        /// Its name.
        name: HeaderName,
        /// Its address may make the request internal.
        trusted: bool,
        /// Status of requests without a valid one; `None` goes on.
        refusal: Option<u16>,
    },
}

/// `SchemeHeaderTransformation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SchemeRule {
    /// As it came.
    #[default]
    Keep,
    /// `https` (true) or `http`.
    Overwrite(bool),
    /// That of the upstream's connection.
    MatchUpstream,
}

/// Protocol of a connection manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Codec {
    /// ALPN, else the preface.
    #[default]
    Auto,
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Where routes come from.
#[derive(Debug, Clone)]
pub enum RouteSource {
    /// Given in place.
    Inline(Arc<RouteTable>),
    /// By name from the route discovery service.
    Rds(Reference),
}

/// HTTP/1 options.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Http1Options {
    /// HTTP/1.0 requests are served.
    pub accept_http_10: bool,
    /// Host of HTTP/1.0 requests without one.
    pub default_host: Str,
    /// Trailers pass.
    pub enable_trailers: bool,
    /// Content-Length beside Transfer-Encoding is dropped, not refused.
    pub allow_chunked_length: bool,
    /// Absolute-form targets are refused.
    pub refuse_absolute_url: bool,
    /// Names keep their case.
    pub preserve_case: bool,
    /// Among names that keep their case, new ones are sent as `Proper-Case`.
    pub preserve_case_new_proper: bool,
    /// Names are sent as `Proper-Case`.
    pub proper_case: bool,
    /// A broken message closes the stream only, when set.
    pub stream_error_on_invalid: Option<bool>,
}

/// HTTP/2 options; `None` is Envoy's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Http2Options {
    /// Streams at once.
    pub max_concurrent_streams: Option<u32>,
    /// Window of a stream.
    pub initial_stream_window: Option<u32>,
    /// Window of a connection.
    pub initial_connection_window: Option<u32>,
    /// HPACK table.
    pub hpack_table_size: Option<u32>,
    /// Extended CONNECT is offered.
    pub allow_connect: bool,
    /// PING interval and timeout.
    pub keepalive: Option<Http2KeepAlive>,
    /// A broken message closes the stream only, when set.
    pub stream_error_on_invalid: Option<bool>,
    /// Largest frame.
    pub max_frame_size: Option<u32>,
    /// Received frames in a row without payload.
    pub max_empty_frames: Option<u32>,
    /// Received PRIORITY frames for each stream.
    pub max_priority_per_stream: Option<u32>,
    /// Received WINDOW_UPDATE frames for each DATA frame sent.
    pub max_window_updates_per_data: Option<u32>,
}

/// PING settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2KeepAlive {
    /// Time between PINGs; `None` sends none by time.
    pub interval: Limit,
    /// Time for the answer.
    pub timeout: Duration,
    /// Idle time after which a PING precedes the next stream.
    pub idle_interval: Limit,
}

/// What happens to header names with underscores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Underscores {
    /// Pass.
    #[default]
    Allow,
    /// The request is refused.
    Reject,
    /// The field is dropped.
    Drop,
}

/// What happens to the upstream's `server`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerHeader {
    /// Replaced.
    #[default]
    Overwrite,
    /// Added when absent.
    AppendIfAbsent,
    /// Left.
    PassThrough,
}

/// Client certificate forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum XfccMode {
    /// The header is removed.
    #[default]
    Sanitize,
    /// Passed on mutual TLS connections.
    ForwardOnly,
    /// Extended on mutual TLS connections.
    AppendForward,
    /// Replaced on mutual TLS connections.
    SanitizeSet,
    /// Always passed.
    AlwaysForwardOnly,
}

/// What is put into x-forwarded-client-cert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct XfccDetails {
    /// Subject.
    pub subject: bool,
    /// The certificate.
    pub cert: bool,
    /// The chain.
    pub chain: bool,
    /// DNS names.
    pub dns: bool,
    /// URI names.
    pub uri: bool,
}

/// What happens to `%2F` and `%5C`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EscapedSlashes {
    /// Nothing.
    #[default]
    Keep,
    /// 400.
    Reject,
    /// 307 to the unescaped path.
    UnescapeAndRedirect,
    /// Unescaped.
    UnescapeAndForward,
}

/// Which ports are cut from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StripPort {
    /// None.
    #[default]
    None,
    /// The listener's.
    Matching,
    /// Any.
    Any,
}

/// Tracing settings.
#[derive(Debug, Clone)]
pub struct Tracing {
    /// Percent of requests whose client asks.
    pub client_sampling: f64,
    /// Percent of all.
    pub random_sampling: f64,
    /// Percent that may be traced at all.
    pub overall_sampling: f64,
    /// One span for each upstream attempt.
    pub spawn_upstream_span: bool,
    /// Longest path in a tag.
    pub max_path_tag_length: u32,
    /// More annotations.
    pub verbose: bool,
    /// Tags.
    pub tags: Vec<(Str, TagSource)>,
    /// Where spans go.
    pub provider: Option<TraceProvider>,
}

/// Where a tag's value comes from.
#[derive(Debug, Clone)]
pub enum TagSource {
    /// Constant.
    Literal(Str),
    /// Request header with its default.
    RequestHeader(HeaderName, Str),
    /// Environment variable with its default.
    Environment(Str, Str),
    /// Metadata with its default.
    Metadata(MetadataOf, Str, Vec<Str>, Str),
    /// A format.
    Format(Format),
}

impl TagSource {
    /// The tag's value; `None` leaves the tag out.
    #[must_use]
    pub fn value(&self, info: &StreamInfo<'_>, heads: Heads<'_>) -> Option<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let or_default = |found: Option<String>, default: &Str| {
            found
                .or_else(|| Some(default.to_string()))
                .filter(|value| !value.is_empty())
        };
        match self {
            Self::Literal(value) => Some(value.to_string()),
            Self::RequestHeader(name, default) => {
                let found = heads
                    .request
                    .and_then(|request| request.get(name))
                    .map(text);
                or_default(found, default)
            }
            Self::Environment(name, default) => {
                let found = info.environment.iter().find(|(have, _)| have == name);
                or_default(found.map(|(_, value)| value.to_string()), default)
            }
            Self::Metadata(whose, namespace, path, default) => {
                or_default(info.metadata_text(*whose, namespace, path), default)
            }
            Self::Format(format) => {
                Some(format.to_text(info, heads)).filter(|value| !value.is_empty())
            }
        }
    }
}

/// Where spans go.
#[derive(Debug, Clone)]
pub enum TraceProvider {
    /// Zipkin.
    Zipkin(Arc<Zipkin>),
    /// OpenTelemetry.
    OpenTelemetry(Arc<OpenTelemetry>),
}

/// Formats of local replies.
#[derive(Debug, Clone, Default)]
pub struct LocalReply {
    /// Tried in order.
    pub mappers: Vec<ReplyMapper>,
    /// Body of all whose mapper has none.
    pub body: Option<ReplyFormat>,
}

/// How the body of a local reply is written.
#[derive(Debug, Clone)]
pub struct ReplyFormat {
    /// The body.
    pub body: crate::format::LogFormat,
    /// `content-type` of what is written.
    pub content_type: Str,
}

/// One rule for local replies.
#[derive(Debug, Clone)]
pub struct ReplyMapper {
    /// Which replies.
    pub filter: crate::access::LogFilter,
    /// New status.
    pub status: Option<u16>,
    /// New body.
    pub body: Option<bytes::Bytes>,
    /// Format of the body.
    pub format: Option<ReplyFormat>,
    /// Header changes.
    pub headers: Vec<HeaderOp>,
}

/// One HTTP filter.
#[derive(Debug, Clone)]
pub struct HttpFilter {
    /// Configured name: the key of per-route settings.
    pub name: Str,
    /// What it does.
    pub kind: HttpFilterKind,
    /// Off unless a route switches it on.
    pub disabled: bool,
}

/// What an HTTP filter does.
#[derive(Debug, Clone)]
pub enum HttpFilterKind {
    /// Forwards.
    Router(Arc<Router>),
    /// Delays and aborts.
    Fault(Arc<Fault>),
    /// Cross-origin policy (its settings are per route).
    Cors,
    /// Role-based access.
    Rbac(Arc<RbacFilter>),
    /// Tokens of the client.
    JwtAuthn(Arc<JwtAuthn>),
    /// A server decides.
    ExtAuthz(Arc<ExtAuthz>),
    /// Token bucket.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// A service counts.
    RateLimit(Arc<RateLimit>),
    /// Header changes.
    HeaderMutation(Arc<HeaderMutation>),
    /// The request's host is looked up before it is forwarded to it.
    ForwardProxy(ForwardProxy),
    /// Header values become dynamic metadata.
    HeaderToMetadata(Arc<HeaderToMetadata>),
    /// Sets filter state.
    SetFilterState(Arc<Vec<FilterStateValue>>),
    /// gRPC statistics.
    GrpcStats {
        /// Message counts go to filter state.
        emit_filter_state: bool,
        /// Every method has its own counters.
        all_methods: bool,
    },
    /// gRPC-Web to gRPC.
    GrpcWeb,
    /// Compresses responses.
    Compressor(Arc<Compressor>),
    /// Buffers requests up to so many bytes.
    Buffer(u32),
    /// Istio: ALPN by request protocol.
    IstioAlpn(Arc<IstioAlpn>),
    /// Istio: HTTP metadata exchange.
    IstioPeerMetadata(Arc<PeerMetadata>),
    /// Istio: standard metrics.
    IstioStats(Arc<IstioStats>),
    /// Its configuration was not discovered in time: requests fail.
    Missing,
    /// Virtual hosts and clusters that are not there are asked for.
    OnDemand(OnDemand),
}

/// `on_demand`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OnDemand {
    /// Where clusters come from; `None` asks for virtual hosts only.
    pub clusters: Option<OnDemandClusters>,
}

/// `OnDemandCds`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnDemandClusters {
    /// The source.
    pub source: Source,
    /// Longest wait that is configured for a cluster.
    pub timeout: Option<Duration>,
}

/// `router`.
#[derive(Debug, Clone, Default)]
pub struct Router {
    /// x-envoy-* headers are neither sent nor added.
    pub suppress_envoy_headers: bool,
    /// A span for each upstream attempt.
    pub start_child_span: bool,
    /// Headers that must be valid.
    pub strict_check_headers: Vec<HeaderName>,
    /// x-envoy-expected-rq-timeout-ms is honoured.
    pub respect_expected_timeout: bool,
    /// Logs of upstream attempts.
    pub upstream_log: Vec<AccessLog>,
}

/// `dynamic_forward_proxy`.
#[derive(Debug, Clone)]
pub struct ForwardProxy {
    /// Where hosts are looked up.
    pub cache: Arc<crate::cluster::DnsCache>,
}

/// The host that a route asks the forward proxy for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardHost {
    /// The request's own.
    Unchanged,
    /// This one.
    Literal(Str),
    /// The one that a header names, when it is there.
    Header(HeaderName),
}

/// `header_to_metadata`.
#[derive(Debug, Clone, Default)]
pub struct HeaderToMetadata {
    /// On requests, in order.
    pub request: Vec<HeaderRule>,
    /// On responses, in order.
    pub response: Vec<HeaderRule>,
}

/// A header or cookie that becomes metadata.
#[derive(Debug, Clone)]
pub struct HeaderRule {
    /// Where the value comes from.
    pub source: ValueSource,
    /// What is stored when it is there.
    pub present: Option<MetadataTarget>,
    /// What is stored when it is not.
    pub missing: Option<MetadataTarget>,
    /// Applied to the value first.
    pub rewrite: Option<crate::rewrite::RegexRewrite>,
    /// The header goes no further.
    pub remove: bool,
}

/// Where a rule's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ValueSource {
    /// A header, repeated ones joined by `,`.
    Header(crate::matcher::Field),
    /// A request cookie.
    Cookie(Str),
}

/// Where a value goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataTarget {
    /// Namespace; empty is the filter's own.
    pub namespace: Str,
    /// Key in it.
    pub key: Str,
    /// Stored instead of the header's value; empty is that value.
    pub value: Str,
    /// What the value is read as.
    pub kind: MetadataKind,
    /// It is base64 first.
    pub base64: bool,
}

/// What a header's value is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataKind {
    /// Text.
    Text,
    /// A number.
    Number,
    /// An encoded `google.protobuf.Value`.
    Message,
}

/// `header_mutation`.
#[derive(Debug, Clone, Default)]
pub struct HeaderMutation {
    /// On requests.
    pub request: Vec<HeaderOp>,
    /// On responses.
    pub response: Vec<HeaderOp>,
}

/// A filter state entry.
#[derive(Debug, Clone)]
pub struct FilterStateValue {
    /// Key.
    pub key: Str,
    /// Value.
    pub value: Format,
    /// An empty value is not stored.
    pub skip_if_empty: bool,
    /// Upstream connections see it.
    pub shared: bool,
}

/// `compressor` of responses, by gzip.
#[derive(Debug, Clone)]
pub struct Compressor {
    /// Configured name of the library: a part of statistics.
    pub library: Str,
    /// 1 to 9.
    pub level: u32,
    /// Share of responses.
    pub enabled: bool,
    /// Shortest body.
    pub min_content_length: u32,
    /// Content types; empty is Envoy's list.
    pub content_types: Vec<Str>,
    /// A response with an ETag is left.
    pub disable_on_etag: bool,
    /// accept-encoding is removed from requests.
    pub remove_accept_encoding: bool,
}

/// `istio.alpn`: offers by upstream protocol.
#[derive(Debug, Clone, Default)]
pub struct IstioAlpn {
    /// HTTP/1.0.
    pub http10: Vec<Str>,
    /// HTTP/1.1.
    pub http11: Vec<Str>,
    /// HTTP/2.
    pub http2: Vec<Str>,
}

/// Istio's HTTP metadata exchange.
#[derive(Debug, Clone, Default)]
pub struct PeerMetadata {
    /// How the client is found.
    pub downstream_discovery: Vec<Discovery>,
    /// How the server is found.
    pub upstream_discovery: Vec<Discovery>,
    /// Response headers are added.
    pub downstream_propagation: bool,
    /// Request headers are added.
    pub upstream_propagation: bool,
    /// Not towards external clusters.
    pub skip_external: bool,
    /// The peer is also shared with upstream connections.
    pub shared_with_upstream: bool,
    /// Labels sent besides Istio's own.
    pub additional_labels: Vec<Str>,
}

/// Ways to find a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discovery {
    /// x-envoy-peer-metadata headers.
    IstioHeaders,
    /// Workload discovery by address.
    Workload,
    /// Endpoint metadata.
    UpstreamFilterState,
    /// Baggage header.
    Baggage,
}

/// Istio's standard metrics.
#[derive(Debug, Clone, Default)]
pub struct IstioStats {
    /// The Host header never names the service.
    pub disable_host_fallback: bool,
    /// A waypoint reports.
    pub server_gateway: bool,
    /// Interval of TCP reports; `None` is 5 s.
    pub tcp_reporting: Option<Duration>,
    /// Changes to metrics, in order.
    pub overrides: Vec<StatsOverride>,
}

/// One change to Istio's metrics.
#[derive(Debug, Clone, Default)]
pub struct StatsOverride {
    /// Metric without `istio_` (`requests_total`); empty is all.
    pub metric: Str,
    /// Not exported.
    pub drop: bool,
    /// Labels removed.
    pub remove: Vec<Str>,
    /// Labels set to an expression.
    pub set: Vec<(Str, Str)>,
}

/// Per-route settings of filters, resolved over all levels.
#[derive(Debug, Clone)]
pub enum FilterOverride {
    /// The filter is off.
    Disabled,
    /// The filter is on with its own settings.
    Enabled,
    /// `fault`.
    Fault(Arc<Fault>),
    /// `cors`.
    Cors(Arc<CorsPolicy>),
    /// `rbac`; `None` switches it off.
    Rbac(Option<Arc<RbacFilter>>),
    /// `jwt_authn`.
    JwtAuthn(JwtPerRoute),
    /// `ext_authz`, all levels merged.
    ExtAuthz(Arc<ExtAuthzPerRoute>),
    /// `local_ratelimit`.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// `ratelimit`.
    RateLimit(Arc<RateLimitPerRoute>),
    /// `header_mutation`, every level in the order it applies.
    HeaderMutation(Vec<Arc<HeaderMutation>>),
    /// `dynamic_forward_proxy`.
    ForwardProxy(ForwardHost),
    /// `header_to_metadata`, instead of the filter's own rules.
    HeaderToMetadata(Arc<HeaderToMetadata>),
    /// `buffer`; `None` switches it off.
    Buffer(Option<u32>),
    /// `on_demand`.
    OnDemand(OnDemand),
}
