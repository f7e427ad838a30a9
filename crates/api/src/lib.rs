//! Istio's custom resources as Rust types: reading, defaulting, validation, and the CRDs generated from them.
//!
//! Pure: no input or output, no clock. The serde names are the CRDs' names, unknown fields are tolerated when
//! an object is read (the API server prunes or refuses them by schema), and [`crds`] derives the published
//! schema from the very same types, so that the two cannot drift apart.

pub mod destination_rule;
pub mod gateway;
pub mod meta;
pub mod scalars;
pub mod schema;
pub mod selection;
pub mod status;
pub mod virtual_service;

pub use destination_rule::DestinationRule;
pub use gateway::Gateway;
pub use meta::{DecodeError, Object, ObjectMeta, Spec};
pub use scalars::{Duration, Percent, PortSelector, StringMatch, StringMatchRef};
pub use virtual_service::VirtualService;
