//! The data plane: listeners, connection drivers, phases, drain, admin port.
//!
//! Input is Envoy v3 configuration as `compile` understands it. Nothing here knows Kubernetes or the control plane's
//! model; the proxy runs from a file of xDS resources alone.
//!
//! A connection's way: `worker` accepts → `accept` inspects, chooses the chain and terminates TLS → `http` or `tcp`
//! serves it.

mod accept;
mod admin;
mod agent;
mod connection;
mod discovery;
mod drain;
mod engine;
mod export;
mod http;
mod idle;
mod limit;
mod listener;
mod logs;
mod overload;
mod standalone;
mod state;
mod stats;
mod stock;
mod support;
mod tcp;
mod worker;

pub use agent::{AgentConfig, Role, run_sidecar};
pub use engine::{Change, Engine, EngineOptions};
pub use listener::ApplyError;
pub use standalone::{ProxyError, StaticConfig, run_static, static_resources};
pub use state::NodeIdentity;
pub use stock::{EngineBinary, run_with_engine};
