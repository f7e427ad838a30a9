//! The API server through its own protocol: the real kubectl, raw requests, and crashes.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod access;
mod crash;
mod kubectl;
mod peers;
mod requests;
mod support;
mod watches;
