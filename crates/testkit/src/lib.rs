//! What tests and benchmarks of the proxy share; nothing ships it.
//!
//! - [`xds`]: a discovery server of every service and variant, which remembers what it was asked.
//! - [`mesh`]: the resources of a mesh of many services.
//! - [`process`]: a proxy as a child process, its memory and its ports.

#![allow(clippy::panic, reason = "a test that cannot go on fails")]

pub mod mesh;
pub mod process;
pub mod xds;
