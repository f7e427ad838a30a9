//! Istio's own filters: what two sidecars tell each other ([`peer`]). The metrics that use it are in `telemetry`.

pub mod peer;
