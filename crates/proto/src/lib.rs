//! Wire messages: Envoy's xDS types re-exported, Istio's own, and the proto3 JSON mapping over all of them.
//!
//! Nothing here judges a configuration; `compile` does.

pub mod any;
pub mod istio;
pub mod json;
pub mod otlp;
pub mod typed_struct;
pub mod validate;
pub mod walk;

pub use envoy_types::pb::{envoy, google, opentelemetry, udpa, xds};
