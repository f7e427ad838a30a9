//! The registry: Kubernetes and Istio objects in, an immutable [`Snapshot`] of the mesh out.
//!
//! Everything here is a plain value: no async runtime, socket, clock or environment, and no Kubernetes client; the
//! objects arrive as JSON. Both routing APIs compile to the one neutral form of [`routing`], [`destination`] and
//! [`gateway`], so that the translation to xDS knows no API group.
//!
//! # Flow
//!
//! 1. A watch event becomes [`Inputs::apply`] or [`Inputs::remove`]. `convert` brings the object to the neutral form
//!    and resolves its names; an object equal to what is known changes nothing, one that cannot be read leaves its
//!    previous version in force and returns an [`InputError`].
//! 2. `Inputs` notes what became stale: services, the endpoints of a service (through its slices or its pods), or a
//!    configuration object.
//! 3. After the debounce, [`Inputs::snapshot`] rebuilds the stale parts and shares the rest. The [`Changes`] that come
//!    with it tell a push what may differ; a change of endpoints that also changes the service's identities is a
//!    change of the service.
//! 4. Routes pass the [`safe_order`]: those that name subsets which do not exist yet are held back, the last version
//!    in effect stays. Rules of delegates take the place of the rules that refer to them. [`Snapshot::held`] has the reasons, [`Snapshot::safe_order`] is what has to be stored.
//! 5. `translate` asks the snapshot: services visible to a namespace, the destination rule a client follows, routes of
//!    a gateway, endpoints, mutual TLS.

mod changes;
mod convert;
mod delegate;
pub mod destination;
pub mod endpoint;
pub mod gateway;
mod inputs;
mod kubernetes;
mod mesh;
pub mod meta;
pub mod peer_authentication;
pub mod routing;
mod rules;
pub mod safe_order;
pub mod service;
mod shared;
mod snapshot;
mod visibility;

pub use changes::Changes;
pub use convert::ConvertError;
pub use inputs::{InputError, Inputs};
pub use mesh::{
    DEFAULT_RETRY_ON, DefaultRetries, MeshConfig, MeshConfigError, OutboundPolicy,
    PathNormalization,
};
pub use meta::{Kind, ObjectKey};
pub use rules::Client;
pub use safe_order::{Held, SafeOrder};
pub use shared::Shared;
pub use snapshot::Snapshot;
pub use visibility::Visibility;
