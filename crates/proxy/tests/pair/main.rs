//! Two of our proxies in a row, as sidecars stand: client, outbound proxy, mutual TLS, inbound proxy, application.
//!
//! hyper and plain sockets are the independent peers at both ends.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

#[path = "../proxy/support.rs"]
#[allow(
    dead_code,
    reason = "shared with the tests of one proxy, which use all of it"
)]
mod support;

mod balancing;
mod client;
mod drain;
mod exchange;
mod policies;
mod records;
mod sidecars;
mod streams;
mod tunnels;
