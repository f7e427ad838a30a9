//! The proxy over real sockets on loopback, with hyper and plain sockets as independent peers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod differential;
mod http1;
mod http2;
mod support;
mod tcp;
mod tls;
