//! Where log entries and spans are sent, and how they are gathered on their way.

use std::time::Duration;

use http::header::HeaderName;

use crate::format::JsonNode;
use crate::hcm::TagSource;
use crate::{Limit, Str};

/// A gRPC service behind a cluster (`core.v3.GrpcService` with `envoy_grpc`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GrpcTarget {
    /// The cluster.
    pub cluster: Str,
    /// `:authority`; empty is the cluster's name.
    pub authority: Str,
    /// Deadline of a unary call; `None` is none.
    pub timeout: Limit,
    /// Further request headers.
    pub metadata: Vec<(Str, Str)>,
}

/// An HTTP service behind a cluster (`core.v3.HttpService`, or Zipkin's older collector fields).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpTarget {
    /// The cluster.
    pub cluster: Str,
    /// `Host`.
    pub host: Str,
    /// Path.
    pub path: Str,
    /// Deadline of a request.
    pub timeout: Duration,
    /// Further request headers.
    pub headers: Vec<(Str, Str)>,
}

/// Either kind of service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Collector {
    /// Over gRPC.
    Grpc(GrpcTarget),
    /// Over HTTP.
    Http(HttpTarget),
}

/// When a batch leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Batching {
    /// At the latest this long after its first entry.
    pub interval: Duration,
    /// At once when it holds so many bytes; 0 sends every entry by itself.
    pub bytes: usize,
    /// At once when it holds so many entries.
    pub entries: usize,
}

/// Envoy's access log service (`HttpGrpcAccessLogConfig`, `TcpGrpcAccessLogConfig`).
#[derive(Debug, Clone)]
pub struct AlsLog {
    /// Name that the service gets.
    pub log_name: Str,
    /// The service.
    pub target: GrpcTarget,
    /// Entries are TCP entries.
    pub tcp: bool,
    /// Batches.
    pub batching: Batching,
    /// Request headers in the entries.
    pub request_headers: Vec<HeaderName>,
    /// Response headers in the entries.
    pub response_headers: Vec<HeaderName>,
    /// Response trailers in the entries.
    pub response_trailers: Vec<HeaderName>,
    /// Tags in the entries.
    pub tags: Vec<(Str, TagSource)>,
}

/// OpenTelemetry logs (`OpenTelemetryAccessLogConfig`).
#[derive(Debug, Clone)]
pub struct OtelLog {
    /// `log_name` of the resource.
    pub log_name: Str,
    /// The service.
    pub collector: Collector,
    /// Batches.
    pub batching: Batching,
    /// The record's body.
    pub body: Option<JsonNode>,
    /// The record's attributes.
    pub attributes: Vec<(Str, JsonNode)>,
    /// Attributes of the resource, beside the built-in ones.
    pub resource: Vec<(Str, Str)>,
    /// `log_name`, zone, cluster and node are attributes of the resource.
    pub builtin_labels: bool,
}

/// Zipkin's collector.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Zipkin {
    /// The service.
    pub collector: HttpTarget,
    /// Spans are protobuf messages rather than JSON.
    pub protobuf: bool,
    /// Client and server share a span's id.
    pub shared_span_context: bool,
    /// New trace ids have 128 bits.
    pub trace_id_128bit: bool,
    /// W3C headers are read where B3 is missing, and sent too.
    pub w3c: bool,
}

/// OpenTelemetry's collector for spans.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OpenTelemetry {
    /// The service.
    pub collector: Collector,
    /// `service.name`.
    pub service_name: Str,
    /// `telemetry.sdk.*` are attributes of the resource.
    pub sdk_attributes: bool,
    /// Attributes of the resource from detectors.
    pub resource: Vec<(Str, Str)>,
    /// The environment detector adds `OTEL_RESOURCE_ATTRIBUTES`.
    pub resource_from_environment: bool,
}

/// Envoy's intervals and sizes for batches of logs.
impl Default for Batching {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            bytes: 16 * 1024,
            entries: usize::MAX,
        }
    }
}
