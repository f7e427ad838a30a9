//! Istio's own filters: what two sidecars tell each other ([`peer`], and [`object`] for logs). The metrics that use it
//! are in `telemetry`.

pub mod exchange;
pub mod object;
pub mod peer;
