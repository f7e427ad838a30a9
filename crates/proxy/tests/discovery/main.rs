//! Whole proxies from a bootstrap file whose resources come from files and from a discovery server.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod broken;
mod demand;
mod sources;
mod support;
