//! Bookinfo: four services that look like a bookstore, with the names, ports, versions and answers that every
//! Istio guide uses.
//!
//! ```text
//! browser ─► productpage ─► details
//!                       └─► reviews (v1 no stars, v2 black, v3 red) ─► ratings (v2, v3)
//! ```
//!
//! A service passes the tracing headers of its caller on, so that a proxy can join the spans of one visit.

pub mod details;
mod page;
pub mod productpage;
pub mod ratings;
pub mod reviews;

use http::{HeaderMap, HeaderName};

/// Headers that every service passes on: request id, the tracing formats, and who the user is.
const PASSED_ON: [&str; 18] = [
    "x-request-id",
    "x-ot-span-context",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "x-datadog-sampling-priority",
    "traceparent",
    "tracestate",
    "x-cloud-trace-context",
    "grpc-trace-bin",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "b3",
    "sw8",
    "authorization",
    "end-user",
];

/// The headers of a request that go to the services behind.
fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::new();
    let names = PASSED_ON
        .iter()
        .map(|name| HeaderName::from_static(name))
        .chain([http::header::USER_AGENT]);
    for name in names {
        if let Some(value) = headers.get(&name) {
            out.insert(name, value.clone());
        }
    }
    out
}

/// The number behind a prefix of a path: `/reviews/0` is 0.
fn id_of(path: &str, prefix: &str) -> Option<u64> {
    path.strip_prefix(prefix)?.parse().ok()
}
