//! Istio's custom resources as Rust types: reading, defaulting, validation, and the CRDs generated from them.
//!
//! Pure: no input or output, no clock. The serde names are the CRDs' names, unknown fields are tolerated when
//! an object is read (the API server prunes or refuses them by schema), and [`mod@crds`] derives the published
//! schema from the very same types, so that the two cannot drift apart.

pub mod authorization_policy;
pub mod crds;
pub mod destination_rule;
pub mod envoy_filter;
pub mod gateway;
pub mod meta;
pub mod peer_authentication;
pub mod proxy_config;
pub mod request_authentication;
pub mod scalars;
pub mod schema;
pub mod selection;
pub mod service_entry;
pub mod sidecar;
pub mod status;
pub mod telemetry;
pub mod traffic_extension;
pub mod validate;
pub mod virtual_service;
pub mod wasm_plugin;
pub mod workload_entry;
pub mod workload_group;

pub use authorization_policy::AuthorizationPolicy;
pub use crds::crds;
pub use destination_rule::DestinationRule;
pub use envoy_filter::EnvoyFilter;
pub use gateway::Gateway;
pub use meta::{DecodeError, Object, ObjectMeta, Spec};
pub use peer_authentication::PeerAuthentication;
pub use proxy_config::ProxyConfig;
pub use request_authentication::RequestAuthentication;
pub use scalars::{Duration, Percent, PortSelector, StringMatch, StringMatchRef};
pub use service_entry::ServiceEntry;
pub use sidecar::Sidecar;
pub use telemetry::Telemetry;
pub use traffic_extension::TrafficExtension;
pub use validate::{Finding, Invalid, Valid, Validate, validate, validate_value};
pub use virtual_service::VirtualService;
pub use wasm_plugin::WasmPlugin;
pub use workload_entry::WorkloadEntry;
pub use workload_group::WorkloadGroup;
