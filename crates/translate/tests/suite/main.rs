//! Objects in, resources out.

// Readers of test results outside of test functions.
#![allow(clippy::panic)]

mod bookinfo;
mod destination_rules;
mod envoy;
mod gateways;
mod locality;
mod mesh;
mod order;
mod own_proxy;
mod profiles;
mod scale;
mod virtual_services;
