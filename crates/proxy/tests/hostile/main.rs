//! Hostile and odd peers against a whole engine, with raw bytes over real sockets.
//!
//! Each flood shows three things: the peer is stopped or stops itself, memory stays bounded, and another client is
//! served meanwhile.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod floods;
mod frames;
mod h2spec;
mod listeners;
mod pressure;
mod requirements;
mod slow;
mod smuggling;
#[path = "../proxy/support.rs"]
#[allow(
    dead_code,
    reason = "shared with another test binary, which uses the rest"
)]
mod support;

use meltemi_proxy::{Engine, EngineOptions, static_resources};
use support::Proxy;

/// Starts an engine with options; the first listener is called `test`.
fn start_with(yaml: &str, options: EngineOptions) -> Proxy {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let engine = Engine::start(EngineOptions {
        concurrency: 1,
        ..options
    })
    .unwrap();
    let errors = engine.apply(static_resources("test", yaml).unwrap());
    assert!(errors.is_empty(), "{errors:?}");
    engine.set_live();
    let address = engine.addresses("test")[0];
    Proxy { engine, address }
}

/// Memory that this process occupies, in bytes.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}
