//! Translation of a [`Snapshot`](meltemi_model::Snapshot) into xDS resources for one proxy.
//!
//! Pure: the same snapshot and the same proxy yield the same bytes, in every process. Names and contents are Istio's
//! own, so that tools, telemetry and other data planes read them.
//!
//! # Flow
//!
//! 1. A client's first request becomes a [`ProxyView`] ([`ProxyView::from_node`]). Its `extensions` say which optional
//!    filters it has ([`Filters`]); what it does not have is left out, everything else is equal for all data planes.
//! 2. [`Generator::generate`] is asked for resources of a kind, all or by name.
//! 3. `plan` asks the snapshot what this proxy sees and turns the answers into the typed inputs of the generators
//!    ([`cluster::outbound::OutboundClusterInput`], [`route::RouteInput`], [`endpoint::EndpointInput`], …). Everything a
//!    generator may look at is in its input.
//! 4. The input is also the key under which the rendered [`Resource`] is remembered: proxies with equal inputs share
//!    its bytes. Within one snapshot, proxies that it cannot tell apart share whole answers.
//! 5. The caller sends in [`ResourceKind::PUSH_ORDER`], so that nothing refers to what the client has not got yet, and
//!    asks [`touches`] beforehand whether a change concerns a proxy and a kind at all.

mod answers;
mod canonical;
pub mod cluster;
pub mod endpoint;
mod generator;
mod istio_filters;
pub mod listener;
mod pb;
mod plan;
mod proxy;
mod resource;
pub mod route;
mod touches;

pub use generator::{Generator, Wanted};
pub use proxy::{Filters, NodeError, ProxyKind, ProxyTraits, ProxyView};
pub use resource::{Resource, ResourceKind};
pub use touches::touches;
