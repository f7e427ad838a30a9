//! HTTP and network filters with state, waits or encodings of their own.
//!
//! Decisions are `traffic`'s; a filter asks for one and carries it out on a [`stage::Stage`], which the driver
//! implements. Calls to other servers go through the proxy's own clusters.
//!
//! Never here: sockets, routing, the order of filters.

pub mod client;
pub mod counters;
pub mod http;
pub mod istio;
pub mod metadata;
pub mod network;
pub mod stage;

/// Time since the process first asked: the clock of token buckets.
pub(crate) fn clock() -> std::time::Duration {
    static START: std::sync::LazyLock<tokio::time::Instant> =
        std::sync::LazyLock::new(tokio::time::Instant::now);
    START.elapsed()
}
