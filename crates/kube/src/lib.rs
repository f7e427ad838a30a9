//! The one Kubernetes client layer: connecting, watching into stores, writing, leases, events.
//!
//! Everything that speaks to an API server (node and control plane) goes through here, so that
//! watches resume, back off and report deletions the same way everywhere. Types come from
//! `k8s-openapi`; custom resources travel as [`kube::core::DynamicObject`]. This crate never decides
//! what an object means: it moves objects and says which changed.
//!
//! ```no_run
//! # async fn demo() -> Result<(), meltemi_kube::Error> {
//! use k8s_openapi::api::core::v1::Pod;
//! let client = meltemi_kube::connect::from_kubeconfig("DIR/kubeconfig".as_ref(), "demo").await?;
//! let pods: meltemi_kube::Api<Pod> = meltemi_kube::Api::all(client);
//! let (store, _task) = meltemi_kube::reflect(pods, Default::default(), |change| {
//!     println!("{} changed", change.key);
//! });
//! store.synced().await;
//! # Ok(()) }
//! ```

pub mod connect;
pub mod events;
pub mod lease;
mod queue;
mod store;
mod task;
mod watch;
pub mod write;

pub use kube::api::{ApiResource, DynamicObject};
pub use kube::{Api, Client, Error, Resource, ResourceExt};
pub use queue::WorkQueue;
pub use store::{Changes, Store, Updated, reflect};
pub use task::Task;
pub use watch::{Change, Key, Selectors, watch};

/// Describes a kind that is known only at run time (a custom resource), for [`Api::all_with`] and
/// [`Api::namespaced_with`] of a [`DynamicObject`].
pub fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    let gvk = kube::core::GroupVersionKind::gvk(group, version, kind);
    ApiResource::from_gvk_with_plural(&gvk, plural)
}
