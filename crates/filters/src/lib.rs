//! Filters with state or encodings of their own.
//!
//! Policy maths (fault, RBAC, CORS) is called by the driver from `traffic`; here is what is more than a decision:
//! the peer metadata that two sidecars exchange.
//!
//! Never here: sockets, routing, the order of filters.

pub mod istio;
