//! Istio's standard metrics, one registry for the process.
//!
//! Label values are gathered in one hashable struct; a series is found by it and counted with atomics. The number of
//! series is bounded: beyond [`MAX_SERIES`] new ones are counted in a single overflow counter.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ahash::AHashMap;
use meltemi_traffic::Str;
use meltemi_traffic::flags::ResponseFlags;
use parking_lot::Mutex;

use super::Peer;

/// Most label combinations kept; an unbounded Host header or principal must not eat the proxy's memory.
pub const MAX_SERIES: usize = 10_000;
/// Istio's histogram bounds; milliseconds and bytes alike.
const BOUNDS: [f64; 19] = [
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0, 30_000.0, 60_000.0,
    300_000.0, 600_000.0, 1_800_000.0, 3_600_000.0,
];

/// Which end reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's sidecar.
    Source,
    /// The server's.
    Destination,
}

/// All labels of a series.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Labels {
    /// Which end reports.
    pub reporter: Reporter,
    /// The client.
    pub source: Peer,
    /// Its SPIFFE id.
    pub source_principal: Str,
    /// The server.
    pub destination: Peer,
    /// Its SPIFFE id.
    pub destination_principal: Str,
    /// Host of the service.
    pub service: Str,
    /// Its short name.
    pub service_name: Str,
    /// Its namespace.
    pub service_namespace: Str,
    /// `http`, `grpc` or `tcp`.
    pub protocol: &'static str,
    /// Status; `None` for TCP.
    pub response_code: Option<u16>,
    /// gRPC status of gRPC requests.
    pub grpc_status: Option<u32>,
    /// Flags.
    pub flags: ResponseFlags,
    /// `mutual_tls`, `none` or `unknown`.
    pub security: &'static str,
}

/// What one exchange adds.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// From first byte in to last byte out.
    pub duration: Duration,
    /// Request body.
    pub received: u64,
    /// Response body.
    pub sent: u64,
}

/// A histogram with Istio's bounds.
#[derive(Debug, Default)]
struct Histogram {
    counts: [AtomicU64; BOUNDS.len() + 1],
    /// Sum in thousandths.
    sum: AtomicU64,
}

impl Histogram {
    fn observe(&self, value: f64) {
        let at = BOUNDS.iter().position(|bound| value <= *bound).unwrap_or(BOUNDS.len());
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        // Durations and sizes are never negative and far below 2^53.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        self.sum.fetch_add((value * 1000.0) as u64, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct RequestSeries {
    total: AtomicU64,
    duration: Histogram,
    received: Histogram,
    sent: Histogram,
}

/// Counters of TCP connections with the same labels.
#[derive(Debug, Default)]
pub struct TcpSeries {
    /// Connections opened.
    pub opened: AtomicU64,
    /// Connections closed.
    pub closed: AtomicU64,
    /// Bytes sent to the client.
    pub sent: AtomicU64,
    /// Bytes received from the client.
    pub received: AtomicU64,
}

/// All series of the process.
#[derive(Debug, Default)]
pub struct Registry {
    requests: Mutex<AHashMap<Labels, Arc<RequestSeries>>>,
    tcp: Mutex<AHashMap<Labels, Arc<TcpSeries>>>,
    overflow: AtomicU64,
}

impl Registry {
    /// Counts one exchange.
    pub fn request(&self, labels: Labels, request: Request) {
        let Some(series) = series(&self.requests, labels) else {
            self.overflow.fetch_add(1, Ordering::Relaxed);
            return;
        };
        series.total.fetch_add(1, Ordering::Relaxed);
        series.duration.observe(request.duration.as_secs_f64() * 1000.0);
        // Body sizes above 2^52 do not occur.
        #[allow(clippy::cast_precision_loss)]
        {
            series.received.observe(request.received as f64);
            series.sent.observe(request.sent as f64);
        }
    }

    /// The series of a TCP connection; `None` when there are too many.
    pub fn tcp(&self, labels: Labels) -> Option<Arc<TcpSeries>> {
        series(&self.tcp, labels)
    }

    /// Writes everything in Prometheus' text format.
    pub fn render(&self, out: &mut String) {
        let requests: Vec<_> = {
            let all = self.requests.lock();
            all.iter().map(|(labels, series)| (text(labels), Arc::clone(series))).collect()
        };
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        if !requests.is_empty() {
            out.push_str("# TYPE istio_requests_total counter\n");
            for (labels, series) in &requests {
                let _ = writeln!(out, "istio_requests_total{{{labels}}} {}", load(&series.total));
            }
            histogram(out, "istio_request_duration_milliseconds", requests.iter().map(|(l, s)| (l, &s.duration)));
            histogram(out, "istio_request_bytes", requests.iter().map(|(l, s)| (l, &s.received)));
            histogram(out, "istio_response_bytes", requests.iter().map(|(l, s)| (l, &s.sent)));
        }
        let tcp: Vec<_> = {
            let all = self.tcp.lock();
            all.iter().map(|(labels, series)| (text(labels), Arc::clone(series))).collect()
        };
        type Pick = fn(&TcpSeries) -> &AtomicU64;
        let counters: [(&str, Pick); 4] = [
            ("istio_tcp_connections_opened_total", |series| &series.opened),
            ("istio_tcp_connections_closed_total", |series| &series.closed),
            ("istio_tcp_sent_bytes_total", |series| &series.sent),
            ("istio_tcp_received_bytes_total", |series| &series.received),
        ];
        for (name, pick) in counters.into_iter().filter(|_| !tcp.is_empty()) {
            let _ = writeln!(out, "# TYPE {name} counter");
            for (labels, series) in &tcp {
                let _ = writeln!(out, "{name}{{{labels}}} {}", load(pick(series)));
            }
        }
        let overflow = load(&self.overflow);
        if overflow > 0 {
            let _ = writeln!(out, "# TYPE meltemi_metric_series_overflow_total counter");
            let _ = writeln!(out, "meltemi_metric_series_overflow_total {overflow}");
        }
    }
}

fn series<T: Default>(all: &Mutex<AHashMap<Labels, Arc<T>>>, labels: Labels) -> Option<Arc<T>> {
    let mut all = all.lock();
    if let Some(series) = all.get(&labels) {
        return Some(Arc::clone(series));
    }
    if all.len() >= MAX_SERIES {
        return None;
    }
    Some(Arc::clone(all.entry(labels).or_default()))
}

fn histogram<'s>(out: &mut String, name: &str, all: impl Iterator<Item = (&'s String, &'s Histogram)>) {
    let _ = writeln!(out, "# TYPE {name} histogram");
    for (labels, histogram) in all {
        let mut sum = 0;
        for (bound, count) in BOUNDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]).zip(&histogram.counts) {
            sum += count.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {sum}");
        }
        // Thousandths of a sum that stays far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let total = histogram.sum.load(Ordering::Relaxed) as f64 / 1000.0;
        let _ = writeln!(out, "{name}_sum{{{labels}}} {total}");
        let _ = writeln!(out, "{name}_count{{{labels}}} {sum}");
    }
}

/// The labels as Prometheus prints them, in Istio's order.
fn text(labels: &Labels) -> String {
    let mut out = String::with_capacity(1024);
    let mut put = |name: &str, value: &str, missing: &str| {
        if !out.is_empty() {
            out.push(',');
        }
        let value = if value.is_empty() { missing } else { value };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{name}=\"{value}\"");
    };
    let unknown = "unknown";
    put("reporter", if labels.reporter == Reporter::Source { "source" } else { "destination" }, unknown);
    for (side, peer, principal) in [
        ("source", &labels.source, &labels.source_principal),
        ("destination", &labels.destination, &labels.destination_principal),
    ] {
        let known = !peer.workload.is_empty();
        put(&format!("{side}_workload"), &peer.workload, unknown);
        put(&format!("{side}_canonical_service"), &peer.canonical_name, unknown);
        put(&format!("{side}_canonical_revision"), &peer.canonical_revision, if known { "latest" } else { unknown });
        put(&format!("{side}_workload_namespace"), &peer.namespace, unknown);
        put(&format!("{side}_principal"), principal, unknown);
        put(&format!("{side}_app"), &peer.app, unknown);
        put(&format!("{side}_version"), &peer.version, unknown);
        put(&format!("{side}_cluster"), &peer.cluster, unknown);
    }
    put("destination_service", &labels.service, unknown);
    put("destination_service_name", &labels.service_name, unknown);
    put("destination_service_namespace", &labels.service_namespace, unknown);
    put("request_protocol", labels.protocol, unknown);
    if let Some(code) = labels.response_code {
        put("response_code", &code.to_string(), "0");
        put("grpc_response_status", &labels.grpc_status.map(|status| status.to_string()).unwrap_or_default(), "");
    }
    put("response_flags", &labels.flags.short(), "-");
    put("connection_security_policy", labels.security, unknown);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(workload: &str) -> Labels {
        Labels {
            reporter: Reporter::Destination,
            source: Peer::default(),
            source_principal: Str::default(),
            destination: Peer { workload: workload.into(), ..Peer::default() },
            destination_principal: "spiffe://td/ns/a/sa/b".into(),
            service: "reviews.default.svc.cluster.local".into(),
            service_name: "reviews".into(),
            service_namespace: "default".into(),
            protocol: "http",
            response_code: Some(200),
            grpc_status: None,
            flags: ResponseFlags::NONE,
            security: "mutual_tls",
        }
    }

    #[test]
    fn a_request_shows_in_counter_and_histograms_with_istios_labels() {
        let registry = Registry::default();
        let request = Request { duration: Duration::from_millis(7), received: 0, sent: 300 };
        registry.request(labels("reviews-v1"), request);
        registry.request(labels("reviews-v1"), request);
        let mut out = String::new();
        registry.render(&mut out);
        let line = out.lines().find(|line| line.starts_with("istio_requests_total")).unwrap();
        assert!(line.ends_with(" 2"), "{line}");
        for part in [
            "reporter=\"destination\"",
            "source_workload=\"unknown\"",
            "destination_workload=\"reviews-v1\"",
            "destination_canonical_revision=\"latest\"",
            "response_code=\"200\"",
            "grpc_response_status=\"\"",
            "response_flags=\"-\"",
            "connection_security_policy=\"mutual_tls\"",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert!(out.contains("istio_request_duration_milliseconds_bucket{"));
        assert!(out.lines().any(|line| line.contains("le=\"10\"} 2") && line.contains("duration")));
        assert!(out.lines().any(|line| line.starts_with("istio_response_bytes_sum") && line.ends_with(" 600")));
    }

    #[test]
    fn the_number_of_series_is_bounded() {
        let registry = Registry::default();
        let request = Request { duration: Duration::ZERO, received: 0, sent: 0 };
        for number in 0..MAX_SERIES + 5 {
            registry.request(labels(&number.to_string()), request);
        }
        assert_eq!(registry.requests.lock().len(), MAX_SERIES);
        assert_eq!(registry.overflow.load(Ordering::Relaxed), 5);
    }
}
