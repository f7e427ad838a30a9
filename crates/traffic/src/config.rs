//! The whole runtime configuration as shared resources.
//!
//! A proxy keeps these tables (or its own per-resource slots) and swaps single entries: an update costs what it
//! touches, and a long stream pins only the `Arc`s it took.

use std::sync::Arc;

use ahash::AHashMap;
use indexmap::IndexMap;

use crate::Str;
use crate::cluster::Cluster;
use crate::endpoint::Assignment;
use crate::listener::Listener;
use crate::route::RouteTable;
use crate::tls::Secret;

/// Everything a proxy runs from.
#[derive(Debug, Clone, Default)]
pub struct RuntimeConfig {
    /// Listeners by name, in the order they were given.
    pub listeners: IndexMap<Str, Arc<Listener>>,
    /// Route configurations by name (RDS; inline ones live in their connection manager).
    pub routes: AHashMap<Str, Arc<RouteTable>>,
    /// Clusters by name.
    pub clusters: AHashMap<Str, Arc<Cluster>>,
    /// Endpoints by EDS service name.
    pub endpoints: AHashMap<Str, Arc<Assignment>>,
    /// Secrets by name.
    pub secrets: AHashMap<Str, Arc<Secret>>,
}
