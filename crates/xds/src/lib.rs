//! The xDS transport: one subscription state machine, served over both variants of the aggregated protocol.
//!
//! - [`session`]: what one connected client has asked for, has been sent and has accepted (no I/O).
//! - [`server`]: the gRPC service around it; resources come from a [`server::Generator`].
//! - [`client`]: the incremental (delta) client of a proxy; updates go to a [`client::Subscriber`].
//!
//! Never here: what a resource means. Bodies are opaque bytes with a name and a content version.

pub mod client;
pub mod resource;
pub mod server;
pub mod session;

pub use resource::{Resource, ResourceType};
