//! xDS to the runtime model of `traffic`: every field is effective, refused with its path, or listed as without meaning.
//!
//! Flow of one resource: [`coverage`] walks what the message sets and refuses the first field that nothing here reads →
//! the function of its kind makes the runtime type, filling in Envoy's defaults → a [`Refusal`] says what does not fit,
//! which the caller turns into a NACK (or, at start-up, into an exit).
//!
//! Never here: files, sockets, clocks, names of other resources. Whether a cluster or secret exists is found out when
//! a request needs it.

mod access_log;
mod bootstrap;
mod chain;
mod cluster;
mod collector;
pub mod coverage;
mod dns_cache;
mod endpoint;
mod extensions;
mod filter_config;
mod grpc_service;
mod hcm;
mod headers;
mod http_filter;
mod listener;
mod network_filter;
mod overload;
mod pb;
mod rate_limit;
mod rbac;
mod refusal;
mod route;
mod simulate;
mod source;
mod statistics;
mod tls;
mod values;

pub use bootstrap::{Boot, bootstrap};
pub use cluster::cluster;
pub use endpoint::assignment;
pub use extensions::{Extended, extend_listener, extension_config};
pub use listener::listener;
pub use refusal::Refusal;
pub use route::route_table;
pub use simulate::{Call, Explanation, simulate};
pub use tls::secret;
