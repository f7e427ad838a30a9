//! Filters with state or encodings of their own.
//!
//! Policy maths (fault, RBAC, CORS) is `traffic`'s and is called by the driver; here is what is more than a decision:
//! Istio's peer metadata and standard metrics.
//!
//! Never here: sockets, routing, the order of filters.

pub mod istio;
