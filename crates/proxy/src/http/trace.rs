//! Tracing of an exchange: the decision, the span of the request, one for each attempt where that is asked for, and
//! what both sides' headers say of them.
//!
//! A connection manager without tracing does nothing here but look at an `Option`. A request that is not sampled gets
//! ids and headers, but no tags are gathered for it.

use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use meltemi_traffic::access::{Heads, StreamInfo, Times};
use meltemi_traffic::collector::{OpenTelemetry, Zipkin};
use meltemi_traffic::hcm::{TraceProvider, Tracing};
use meltemi_traffic::listener::Direction;
use meltemi_traffic::route::Route;
use meltemi_traffic::trace::{self, Asked, Incoming, Reason, SpanContext};

use super::early::X_REQUEST_ID;
use super::record::Exchange;
use crate::export::Destination;
use crate::export::spans::{self, Finished};

const CLIENT_TRACE_ID: HeaderName = HeaderName::from_static("x-client-trace-id");
const FORCE_TRACE: HeaderName = HeaderName::from_static("x-envoy-force-trace");
const DECORATOR: HeaderName = HeaderName::from_static("x-envoy-decorator-operation");
const DOWNSTREAM_CLUSTER: HeaderName =
    HeaderName::from_static("x-envoy-downstream-service-cluster");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The spans of an exchange.
#[derive(Debug)]
pub(crate) struct Trace {
    context: SpanContext,
    /// For `%TRACE_ID%` and `%SPAN_ID%`.
    pub trace_id: String,
    pub span_id: String,
    /// A service asked for it: what the traceable filter of logs passes.
    pub forced: bool,
    name: String,
    /// The span stands for a request that came in.
    server: bool,
    egress: bool,
    /// B3 came in one header and goes on so.
    single: bool,
    /// The route's operation name, as the other side is told.
    decorated: Option<HeaderValue>,
    attempt: Option<Attempt>,
}

#[derive(Debug)]
struct Attempt {
    context: SpanContext,
    start: Duration,
    times: Times,
}

/// The tracing settings, when there is somewhere to send spans.
fn settings(exchange: &Exchange) -> Option<(&Tracing, &TraceProvider)> {
    let tracing = exchange.context.hcm().tracing.as_ref()?;
    Some((tracing, tracing.provider.as_ref()?))
}

/// Decides about a request and starts its span.
pub(crate) fn begin(exchange: &mut Exchange) {
    if exchange.context.hcm().tracing.is_none() {
        return;
    }
    let reason = decide(exchange);
    let Some((tracing, provider)) = settings(exchange) else {
        return;
    };
    let egress = exchange.context.info().listener.config.direction == Direction::Outbound;
    let server = !egress || tracing.spawn_upstream_span;
    let traced = reason.is_traced();
    let headers = &exchange.request.headers;
    let (context, single) = match provider {
        TraceProvider::Zipkin(zipkin) => zipkin_context(zipkin, headers, traced, server),
        TraceProvider::OpenTelemetry(_) => (otel_context(headers, traced), false),
    };
    let Some(context) = context else { return };
    let host = String::from_utf8_lossy(&exchange.request.authority);
    let name = match provider {
        TraceProvider::Zipkin(_) => host.into_owned(),
        TraceProvider::OpenTelemetry(_) if egress => format!("egress {host}"),
        TraceProvider::OpenTelemetry(_) => "ingress".to_owned(),
    };
    let span_id = match provider {
        TraceProvider::Zipkin(_) => String::new(),
        TraceProvider::OpenTelemetry(_) => format!("{:016x}", context.span_id),
    };
    let mut own = Trace {
        trace_id: context.trace_text(),
        span_id,
        context,
        forced: reason == Reason::ServiceForced,
        name,
        server,
        egress,
        single,
        decorated: None,
        attempt: None,
    };
    let route = exchange.route.clone();
    decorate(&mut own, &mut exchange.request.headers, route.as_ref());
    exchange.trace = Some(Box::new(own));
}

/// The decision, which the request id carries on.
fn decide(exchange: &mut Exchange) -> Reason {
    let hcm = Arc::clone(exchange.context.hcm());
    let Some(tracing) = &hcm.tracing else {
        return Reason::NotTraceable;
    };
    let headers = &mut exchange.request.headers;
    let id = headers.get(X_REQUEST_ID).cloned();
    let asked = Asked {
        request_id: id.as_ref().map(HeaderValue::as_bytes),
        client: headers.contains_key(CLIENT_TRACE_ID),
        force: headers.contains_key(FORCE_TRACE),
    };
    let reason = trace::decide(tracing, asked, || fastrand::u64(..));
    if let Some(id) = id
        && hcm.pack_trace_reason
        && Reason::of_request_id(id.as_bytes()) != reason
    {
        let mut packed = id.as_bytes().to_vec();
        if reason.pack(&mut packed)
            && let Ok(packed) = HeaderValue::from_bytes(&packed)
        {
            headers.insert(X_REQUEST_ID, packed);
        }
    }
    reason
}

/// Operation names: the route's; at the receiving side the caller's goes before it.
fn decorate(own: &mut Trace, headers: &mut HeaderMap, route: Option<&Arc<Route>>) {
    if let Some((name, propagate)) = route.and_then(|route| route.decorator.as_ref()) {
        own.name = name.to_string();
        if *propagate {
            own.decorated = HeaderValue::from_str(name).ok();
        }
    }
    if own.egress {
        if let Some(name) = own.decorated.take() {
            headers.insert(DECORATOR, name);
        }
        return;
    }
    if let Some(given) = headers.remove(DECORATOR)
        && let Ok(name) = given.to_str()
        && !name.is_empty()
    {
        own.name = name.to_owned();
        own.decorated = None;
    }
}

fn new_id() -> u64 {
    fastrand::u64(1..)
}

/// Zipkin's start of a span; `None` is no span, because what came cannot be read.
fn zipkin_context(
    zipkin: &Zipkin,
    headers: &HeaderMap,
    traced: bool,
    server: bool,
) -> (Option<SpanContext>, bool) {
    let single = headers.contains_key(trace::B3);
    let mut incoming = trace::read_b3(headers);
    if zipkin.w3c && incoming == Incoming::Nothing {
        incoming = trace::read_w3c(headers);
    }
    let context = match incoming {
        Incoming::Broken => None,
        Incoming::Nothing => Some(new_zipkin_trace(zipkin, traced)),
        Incoming::Sampling(sampled) => Some(new_zipkin_trace(zipkin, sampled)),
        Incoming::Span(parent, sampled) => {
            let joins = server && zipkin.shared_span_context;
            let mut context = if joins {
                SpanContext {
                    shared: true,
                    ..parent
                }
            } else {
                parent.child(new_id())
            };
            context.sampled = sampled.unwrap_or(traced);
            context.remote_parent = true;
            Some(context)
        }
    };
    (context, single)
}

fn new_zipkin_trace(zipkin: &Zipkin, sampled: bool) -> SpanContext {
    let span_id = new_id();
    let high = if zipkin.trace_id_128bit { new_id() } else { 0 };
    SpanContext {
        trace_id: u128::from(high) << 64 | u128::from(span_id),
        wide: zipkin.trace_id_128bit,
        span_id,
        sampled,
        ..SpanContext::default()
    }
}

fn otel_context(headers: &HeaderMap, traced: bool) -> Option<SpanContext> {
    match trace::read_w3c(headers) {
        Incoming::Broken => None,
        Incoming::Span(parent, sampled) => {
            let mut context = parent.child(new_id());
            context.sampled = sampled.unwrap_or(traced) && traced;
            context.remote_parent = true;
            Some(context)
        }
        Incoming::Nothing | Incoming::Sampling(_) => Some(SpanContext {
            trace_id: fastrand::u128(1..),
            wide: true,
            span_id: new_id(),
            sampled: traced,
            ..SpanContext::default()
        }),
    }
}

/// Tells the upstream of its parent.
pub(crate) fn before_attempt(exchange: &mut Exchange) {
    let Some(mut own) = exchange.trace.take() else {
        return;
    };
    let hcm = Arc::clone(exchange.context.hcm());
    if let Some((tracing, provider)) = hcm
        .tracing
        .as_ref()
        .and_then(|tracing| Some((tracing, tracing.provider.as_ref()?)))
    {
        let context = if tracing.spawn_upstream_span {
            let child = own.context.child(new_id());
            own.attempt = Some(Attempt {
                context: child.clone(),
                start: exchange.started + exchange.elapsed(),
                times: exchange.times,
            });
            child
        } else {
            own.context.clone()
        };
        let fields = match provider {
            TraceProvider::Zipkin(zipkin) => {
                let mut fields = trace::write_b3(&context, own.single);
                if zipkin.w3c {
                    fields.extend(trace::write_w3c(&context));
                }
                fields
            }
            TraceProvider::OpenTelemetry(_) => trace::write_w3c(&context),
        };
        for (name, value) in fields {
            match value {
                Some(value) => {
                    exchange.request.headers.insert(name, value);
                }
                None => {
                    exchange.request.headers.remove(name);
                }
            }
        }
    }
    exchange.trace = Some(own);
}

/// Ends the span of an attempt; `retried` when another one follows. `status` is what the upstream answered.
pub(crate) fn attempt_ended(exchange: &mut Exchange, status: Option<u16>, retried: bool) {
    let Some(attempt) = exchange.trace.as_mut().and_then(|own| own.attempt.take()) else {
        return;
    };
    if !attempt.context.sampled {
        return;
    }
    let Some((tracing, provider)) = settings(exchange) else {
        return;
    };
    let mut info = exchange.info();
    if retried {
        info.response_code = None;
    }
    let mut tags: Vec<(String, String)> = Vec::new();
    let mut tag = |name: &str, value: String| tags.push((name.to_owned(), value));
    if exchange.attempts > 1 {
        tag("retry.count", (exchange.attempts - 1).to_string());
    }
    if retried {
        tag("canceled", "true".to_owned());
    }
    if let Some(protocol) = info.upstream_protocol {
        tag("http.protocol", protocol.name().to_owned());
    }
    if let Some(host) = info.upstream_host {
        tag("upstream_address", host.to_string());
        tag("peer.address", host.to_string());
    }
    let failed = status.is_none_or(|status| status >= 500);
    cluster_tags(&info, &mut tags);
    tags.push((
        "http.status_code".to_owned(),
        status.unwrap_or(0).to_string(),
    ));
    tags.push((
        "response_flags".to_owned(),
        flags_of_attempt(&info, retried),
    ));
    if failed {
        tags.push(("error".to_owned(), "true".to_owned()));
    }
    custom_tags(tracing, exchange, &info, &mut tags);
    let cluster = info.upstream_cluster;
    let now = exchange.elapsed();
    let finished = Finished {
        name: format!("router {cluster} egress"),
        server: false,
        start: attempt.start,
        duration: (exchange.started + now).saturating_sub(attempt.start),
        events: if tracing.verbose {
            upstream_events(exchange.started, &exchange.times, &attempt.times)
        } else {
            Vec::new()
        },
        error: failed,
        context: attempt.context,
        tags,
    };
    send(exchange, provider, &finished);
}

fn flags_of_attempt(info: &StreamInfo<'_>, retried: bool) -> String {
    if retried || info.upstream_failure.is_empty() {
        "-".to_owned()
    } else {
        info.flags.short().into_owned()
    }
}

/// What a response changes: the other side's name for the operation, and our own for the caller.
pub(crate) fn on_response(exchange: &mut Exchange, headers: &mut HeaderMap) {
    if exchange.context.hcm().tracing.is_none() {
        return;
    }
    let Some(own) = &mut exchange.trace else {
        return;
    };
    if own.egress {
        if let Some(given) = headers.remove(DECORATOR)
            && let Ok(name) = given.to_str()
            && !name.is_empty()
        {
            own.name = name.to_owned();
        }
    } else if let Some(name) = &own.decorated {
        headers.insert(DECORATOR, name.clone());
    }
}

/// Ends the request's span and sends it on its way.
pub(crate) fn finish(exchange: &mut Exchange, duration: Duration) {
    if exchange
        .trace
        .as_ref()
        .is_some_and(|own| own.attempt.is_some())
    {
        let status = exchange.status.map(|status| status.as_u16());
        let answered = exchange.times.upstream_first_rx.is_some();
        attempt_ended(exchange, status.filter(|_| answered), false);
    }
    let Some(own) = exchange.trace.as_ref().filter(|own| own.context.sampled) else {
        return;
    };
    let Some((tracing, provider)) = settings(exchange) else {
        return;
    };
    let mut info = exchange.info();
    info.duration = Some(duration);
    let node = &exchange.context.worker().shared.node;
    let mut tags = vec![
        ("node_id".to_owned(), node.id.to_string()),
        ("zone".to_owned(), node.zone.to_string()),
    ];
    request_tags(tracing, exchange, &info, &mut tags);
    tags.push(("request_size".to_owned(), info.bytes_received.to_string()));
    tags.push(("response_size".to_owned(), info.bytes_sent.to_string()));
    cluster_tags(&info, &mut tags);
    let status = info.response_code.unwrap_or(0);
    tags.push(("http.status_code".to_owned(), status.to_string()));
    let failed_grpc = grpc_tags(exchange, &mut tags);
    tags.push(("response_flags".to_owned(), info.flags.short().into_owned()));
    let error = status == 0 || status >= 500 || failed_grpc;
    if error {
        tags.push(("error".to_owned(), "true".to_owned()));
    }
    custom_tags(tracing, exchange, &info, &mut tags);
    let finished = Finished {
        context: own.context.clone(),
        server: own.server,
        name: own.name.clone(),
        start: exchange.started,
        duration,
        events: if tracing.verbose {
            all_events(exchange.started, &exchange.times)
        } else {
            Vec::new()
        },
        error,
        tags,
    };
    send(exchange, provider, &finished);
}

fn request_tags(
    tracing: &Tracing,
    exchange: &Exchange,
    info: &StreamInfo<'_>,
    tags: &mut Vec<(String, String)>,
) {
    if exchange.refused {
        return;
    }
    let request = &exchange.request;
    let field = |name: &HeaderName| request.text(name).map(str::to_owned);
    let mut tag = |name: &str, value: String| tags.push((name.to_owned(), value));
    if let Some(id) = field(&X_REQUEST_ID) {
        tag("guid:x-request-id", id);
    }
    tag("http.url", url(tracing, exchange));
    tag("http.method", request.method.as_str().to_owned());
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
    tag("downstream_cluster", or_dash(field(&DOWNSTREAM_CLUSTER)));
    tag("user_agent", or_dash(field(&http::header::USER_AGENT)));
    tag("http.protocol", request.protocol.name().to_owned());
    if let Some(peer) = info.downstream_direct_remote {
        tag("peer.address", peer.ip().to_string());
    }
    if let Some(id) = field(&CLIENT_TRACE_ID) {
        tag("guid:x-client-trace-id", id);
    }
    if exchange.grpc {
        tag(
            "grpc.path",
            String::from_utf8_lossy(&request.path).into_owned(),
        );
        tag(
            "grpc.authority",
            String::from_utf8_lossy(&request.authority).into_owned(),
        );
        if let Some(kind) = field(&http::header::CONTENT_TYPE) {
            tag("grpc.content_type", kind);
        }
        if let Some(timeout) = field(&GRPC_TIMEOUT) {
            tag("grpc.timeout", timeout);
        }
    }
}

fn url(tracing: &Tracing, exchange: &Exchange) -> String {
    let request = &exchange.request;
    let original = request.headers.get(ORIGINAL_PATH);
    let path = original.map_or(&request.path[..], HeaderValue::as_bytes);
    let longest = tracing.max_path_tag_length as usize;
    let path = String::from_utf8_lossy(&path[..path.len().min(longest)]);
    let scheme = request
        .text(&super::early::X_FORWARDED_PROTO)
        .unwrap_or(if request.https { "https" } else { "http" });
    let host = String::from_utf8_lossy(&request.authority);
    format!("{scheme}://{host}{path}")
}

fn cluster_tags(info: &StreamInfo<'_>, tags: &mut Vec<(String, String)>) {
    tags.push(("component".to_owned(), "proxy".to_owned()));
    if !info.upstream_cluster_raw.is_empty() {
        let raw = info.upstream_cluster_raw.to_owned();
        tags.push(("upstream_cluster".to_owned(), raw));
        let name = info.upstream_cluster.to_owned();
        tags.push(("upstream_cluster.name".to_owned(), name));
    }
}

/// Status and message of a gRPC answer; true when the status is the server's fault.
fn grpc_tags(exchange: &Exchange, tags: &mut Vec<(String, String)>) -> bool {
    /// Unknown, deadline exceeded, unimplemented, internal, unavailable, data loss.
    const FAULTS: [u32; 6] = [2, 4, 12, 13, 14, 15];
    let Some(status) = exchange.grpc_status() else {
        return false;
    };
    tags.push(("grpc.status_code".to_owned(), status.to_string()));
    let heads = [exchange.trailers.as_ref(), exchange.response.as_ref()];
    let mut messages = heads.into_iter().flatten();
    if let Some(message) = messages.find_map(|map| map.get("grpc-message")?.to_str().ok()) {
        tags.push(("grpc.message".to_owned(), message.to_owned()));
    }
    FAULTS.contains(&status)
}

fn custom_tags(
    tracing: &Tracing,
    exchange: &Exchange,
    info: &StreamInfo<'_>,
    tags: &mut Vec<(String, String)>,
) {
    let heads = Heads {
        request: (!exchange.refused).then_some(&exchange.request as _),
        response: exchange.response.as_ref().map(|map| map as _),
        trailers: exchange.trailers.as_ref().map(|map| map as _),
    };
    for (name, source) in &tracing.tags {
        if let Some(value) = source.value(info, heads) {
            tags.retain(|(have, _)| have != name.as_str());
            tags.push((name.to_string(), value));
        }
    }
}

type Events = Vec<(Duration, &'static str)>;

fn all_events(start: Duration, times: &Times) -> Events {
    let moments = [
        (times.request_end, "last_downstream_rx_byte_received"),
        (times.upstream_first_tx, "first_upstream_tx_byte_sent"),
        (times.upstream_last_tx, "last_upstream_tx_byte_sent"),
        (times.upstream_first_rx, "first_upstream_rx_byte_received"),
        (times.upstream_last_rx, "last_upstream_rx_byte_received"),
        (times.first_tx, "first_downstream_tx_byte_sent"),
        (times.last_tx, "last_downstream_tx_byte_sent"),
    ];
    let known = moments.into_iter();
    known
        .filter_map(|(at, name)| Some((start + at?, name)))
        .collect()
}

/// Moments of one attempt: those that its exchange did not have before.
fn upstream_events(start: Duration, now: &Times, before: &Times) -> Events {
    let moments = [
        (
            now.upstream_first_tx,
            before.upstream_first_tx,
            "first_upstream_tx_byte_sent",
        ),
        (
            now.upstream_last_tx,
            before.upstream_last_tx,
            "last_upstream_tx_byte_sent",
        ),
        (
            now.upstream_first_rx,
            before.upstream_first_rx,
            "first_upstream_rx_byte_received",
        ),
        (
            now.upstream_last_rx,
            before.upstream_last_rx,
            "last_upstream_rx_byte_received",
        ),
    ];
    let fresh = moments.into_iter().filter(|(now, before, _)| now != before);
    fresh
        .filter_map(|(at, _, name)| Some((start + at?, name)))
        .collect()
}

fn send(exchange: &Exchange, provider: &TraceProvider, span: &Finished) {
    let shared = &exchange.context.worker().shared;
    match provider {
        TraceProvider::Zipkin(zipkin) => {
            let encoded = if zipkin.protobuf {
                span.zipkin_proto(shared)
            } else {
                span.zipkin_json(shared)
            };
            let to = || Destination::Zipkin {
                collector: zipkin.collector.clone(),
                protobuf: zipkin.protobuf,
            };
            shared.exports.put(to, spans::BATCHING, encoded);
        }
        TraceProvider::OpenTelemetry(config) => {
            let config: &OpenTelemetry = config;
            let to = || Destination::OtelSpans {
                collector: config.collector.clone(),
                resource: spans::resource(config, &shared.process.environment),
            };
            shared.exports.put(to, spans::BATCHING, span.otel());
        }
    }
}
