//! Spans as their collectors want them.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use meltemi_proto::otlp::{Span, SpanEvent, SpanStatus, attribute};
use meltemi_traffic::Str;
use meltemi_traffic::collector::{Batching, OpenTelemetry};
use meltemi_traffic::trace::SpanContext;
use prost::Message;

use crate::state::Shared;

/// Both tracers of Envoy send after five spans or five seconds.
pub(crate) const BATCHING: Batching = Batching {
    interval: Duration::from_secs(5),
    bytes: 1024 * 1024,
    entries: 5,
};

/// A finished span.
#[derive(Debug)]
pub(crate) struct Finished {
    pub context: SpanContext,
    /// Made for a request that came in; else for one that went out.
    pub server: bool,
    pub name: String,
    /// Since the Unix epoch.
    pub start: Duration,
    pub duration: Duration,
    pub tags: Vec<(String, String)>,
    /// Moments since the Unix epoch.
    pub events: Vec<(Duration, &'static str)>,
    pub error: bool,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Finished {
    fn end(&self) -> Duration {
        self.start + self.duration
    }

    /// Zipkin's annotations: the moments, then that the response was sent or received.
    fn annotations(&self) -> impl Iterator<Item = (u64, &'static str)> {
        let last = (micros(self.end()), if self.server { "ss" } else { "cr" });
        let events = self.events.iter();
        events.map(|(at, name)| (micros(*at), *name)).chain([last])
    }

    /// A Zipkin v2 span in JSON.
    pub(crate) fn zipkin_json(&self, shared: &Shared) -> Vec<u8> {
        let mut out = String::with_capacity(1024);
        let _ = write!(
            out,
            "{{\"traceId\":\"{}\",\"id\":\"{:016x}\",",
            self.context.trace_text(),
            self.context.span_id
        );
        if let Some(parent) = self.context.parent {
            let _ = write!(out, "\"parentId\":\"{parent:016x}\",");
        }
        let kind = if self.server { "SERVER" } else { "CLIENT" };
        let _ = write!(out, "\"kind\":\"{kind}\",\"name\":{},", quoted(&self.name));
        let (start, duration) = (micros(self.start), micros(self.duration).max(1));
        let _ = write!(out, "\"timestamp\":{start},\"duration\":{duration},");
        let family = match shared.process.address {
            IpAddr::V4(_) => "ipv4",
            IpAddr::V6(_) => "ipv6",
        };
        let _ = write!(
            out,
            "\"localEndpoint\":{{\"serviceName\":{},\"{family}\":\"{}\",\"port\":0}},",
            quoted(&shared.node.cluster),
            shared.process.address
        );
        out.push_str("\"annotations\":[");
        for (position, (at, name)) in self.annotations().enumerate() {
            let comma = if position > 0 { "," } else { "" };
            let _ = write!(out, "{comma}{{\"timestamp\":{at},\"value\":\"{name}\"}}");
        }
        out.push_str("],\"tags\":{");
        let tags = self.tags.iter().filter(|(_, value)| !value.is_empty());
        for (position, (name, value)) in tags.enumerate() {
            let comma = if position > 0 { "," } else { "" };
            let _ = write!(out, "{comma}{}:{}", quoted(name), quoted(value));
        }
        out.push('}');
        if self.context.shared {
            out.push_str(",\"shared\":true");
        }
        out.push('}');
        out.into_bytes()
    }

    /// A Zipkin v2 span in protobuf (`zipkin.proto3.Span`).
    pub(crate) fn zipkin_proto(&self, shared: &Shared) -> Vec<u8> {
        let mut trace_id = self.context.trace_id.to_be_bytes().to_vec();
        if !self.context.wide {
            trace_id.drain(..8);
        }
        let (ipv4, ipv6) = match shared.process.address {
            IpAddr::V4(address) => (address.octets().to_vec(), Vec::new()),
            IpAddr::V6(address) => (Vec::new(), address.octets().to_vec()),
        };
        let tags = self.tags.iter().filter(|(_, value)| !value.is_empty());
        ZipkinSpan {
            trace_id,
            parent_id: self
                .context
                .parent
                .map(|parent| parent.to_be_bytes().to_vec())
                .unwrap_or_default(),
            id: self.context.span_id.to_be_bytes().to_vec(),
            kind: if self.server { 2 } else { 1 },
            name: self.name.clone(),
            timestamp: micros(self.start),
            duration: micros(self.duration).max(1),
            local_endpoint: Some(ZipkinEndpoint {
                service_name: shared.node.cluster.to_string(),
                ipv4,
                ipv6,
            }),
            annotations: self
                .annotations()
                .map(|(timestamp, value)| ZipkinAnnotation {
                    timestamp,
                    value: value.to_owned(),
                })
                .collect(),
            tags: tags.cloned().collect(),
            shared: self.context.shared,
        }
        .encode_to_vec()
    }

    /// An OpenTelemetry span.
    pub(crate) fn otel(&self) -> Vec<u8> {
        /// `SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK`.
        const KNOWS_REMOTE: u32 = 0x100;
        /// `SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK`.
        const REMOTE: u32 = 0x200;
        let remote = if self.context.remote_parent {
            REMOTE
        } else {
            0
        };
        let events = self.events.iter();
        Span {
            trace_id: self.context.trace_id.to_be_bytes().to_vec(),
            span_id: self.context.span_id.to_be_bytes().to_vec(),
            trace_state: self.context.state.clone(),
            parent_span_id: self
                .context
                .parent
                .map(|parent| parent.to_be_bytes().to_vec())
                .unwrap_or_default(),
            name: self.name.clone(),
            kind: if self.server { 2 } else { 3 },
            start_time_unix_nano: nanos(self.start),
            end_time_unix_nano: nanos(self.end()),
            attributes: self
                .tags
                .iter()
                .map(|(key, value)| attribute(key, value.as_str()))
                .collect(),
            events: events
                .map(|(at, name)| SpanEvent {
                    time_unix_nano: nanos(*at),
                    name: (*name).to_owned(),
                })
                .collect(),
            status: self.error.then_some(SpanStatus { code: 2 }),
            flags: KNOWS_REMOTE | remote | u32::from(self.context.sampled),
        }
        .encode_to_vec()
    }
}

/// The attributes that all spans of a tracer share.
pub(crate) fn resource(config: &OpenTelemetry, environment: &[(Str, Str)]) -> Vec<(Str, Str)> {
    /// The detector's variable: `key=value` pairs joined by commas.
    const VARIABLE: &str = "OTEL_RESOURCE_ATTRIBUTES";
    let pair = |key: &str, value: &str| (Str::from(key), Str::from(value));
    let mut all = Vec::new();
    if config.sdk_attributes {
        all.push(pair("telemetry.sdk.language", "rust"));
        all.push(pair("telemetry.sdk.name", "envoy"));
        all.push(pair("telemetry.sdk.version", env!("CARGO_PKG_VERSION")));
    }
    all.push((Str::from("service.name"), config.service_name.clone()));
    if config.resource_from_environment
        && let Some((_, given)) = environment.iter().find(|(name, _)| name == VARIABLE)
    {
        let pairs = given.split(',').filter_map(|part| part.split_once('='));
        all.extend(pairs.map(|(key, value)| pair(key.trim(), value.trim())));
    }
    all.extend(config.resource.iter().cloned());
    all
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

#[derive(Clone, PartialEq, Message)]
struct ZipkinSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    parent_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    id: Vec<u8>,
    #[prost(int32, tag = "4")]
    kind: i32,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "6")]
    timestamp: u64,
    #[prost(uint64, tag = "7")]
    duration: u64,
    #[prost(message, optional, tag = "8")]
    local_endpoint: Option<ZipkinEndpoint>,
    #[prost(message, repeated, tag = "10")]
    annotations: Vec<ZipkinAnnotation>,
    #[prost(map = "string, string", tag = "11")]
    tags: std::collections::HashMap<String, String>,
    #[prost(bool, tag = "13")]
    shared: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ZipkinEndpoint {
    #[prost(string, tag = "1")]
    service_name: String,
    #[prost(bytes = "vec", tag = "2")]
    ipv4: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    ipv6: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ZipkinAnnotation {
    #[prost(fixed64, tag = "1")]
    timestamp: u64,
    #[prost(string, tag = "2")]
    value: String,
}
