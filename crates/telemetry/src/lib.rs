//! What a process tells about itself: metrics, and log lines of its own.
//!
//! | module | what |
//! |---|---|
//! | [`names`] | every metric and log field once: name, kind, unit, labels, stability; `docs/metrics.md` is written from it |
//! | [`registry`] | counters, gauges and histograms resolved to a handle once; bounded; Prometheus text |
//! | [`istio`] | Istio's standard service metrics with their exact labels, for both reporters |
//! | [`envoy`] | Envoy's dotted statistics as `/stats` and as Prometheus text |
//! | [`process`] | `process_*` of this process |
//! | [`logging`] | log lines as Istio writes them (text or JSON), with levels that change at run time |
//!
//! Rules: nothing here allocates or formats per request once a label set is known; every number of series has a bound;
//! this crate opens no socket and reads no environment. The access log's record and formats are in `traffic`, because
//! header mutations use the same formats.

pub mod distribution;
pub mod envoy;
pub mod istio;
pub mod logging;
pub mod names;
pub mod process;
pub mod registry;

pub use logging::{Handle as LogHandle, Levels, LogError, LogSpec};
pub use registry::{Counter, Gauge, Histogram, Registry};

/// Content type of everything that renders metrics here.
pub const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
