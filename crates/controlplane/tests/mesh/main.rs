//! The control plane against the embedded API server, with real gRPC clients in the place of proxies.

// A panic is how a test fails, also in what tests share.
#![allow(clippy::panic)]

mod admission;
mod certificates;
mod client;
mod discovery;
mod lifecycle;
mod safe_order;
mod support;
