//! Endpoint assignments: the hosts of a cluster as configuration gives them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::metadata::Metadata;
use crate::{Fraction, Str};

/// Where something listens or is dialled.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// IP and port.
    Socket(SocketAddr),
    /// A name that DNS resolves, and a port.
    Named(Str, u16),
    /// A unix socket (a leading `@` is the abstract namespace).
    Pipe(Str),
    /// An internal listener by name, with an endpoint id.
    Internal(Str, Str),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Named(host, port) => write!(f, "{host}:{port}"),
            Self::Pipe(path) => f.write_str(path),
            Self::Internal(name, id) => write!(f, "envoy://{name}/{id}"),
        }
    }
}

/// Region, zone and sub-zone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// Region.
    pub region: Str,
    /// Zone.
    pub zone: Str,
    /// Sub-zone.
    pub sub_zone: Str,
}

/// `ClusterLoadAssignment`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Assignment {
    /// Name it was sent under.
    pub cluster: Str,
    /// Groups of hosts in the order they were sent.
    pub localities: Vec<LocalityEndpoints>,
    /// Percent by which a priority is over-provisioned (default 140).
    pub overprovisioning: u32,
    /// Shares of requests to drop, by category.
    pub drop_overloads: Vec<(Str, Fraction)>,
    /// A priority's health is the share of weight, not of hosts.
    pub weighted_priority_health: bool,
}

impl Assignment {
    /// Envoy's over-provisioning factor.
    pub const DEFAULT_OVERPROVISIONING: u32 = 140;
}

/// Hosts of one locality and priority.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LocalityEndpoints {
    /// The locality.
    pub locality: Locality,
    /// 0 is used first.
    pub priority: u32,
    /// Weight among the localities of the priority; `None` when not given.
    pub weight: Option<u32>,
    /// The hosts.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// Health as the control plane (or a checker) sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Health {
    /// Healthy or unknown.
    #[default]
    Healthy,
    /// Used when the healthy ones do not suffice.
    Degraded,
    /// Not used, except in panic.
    Unhealthy,
    /// Unhealthy because it is going away.
    Draining,
}

impl Health {
    /// May not be picked outside panic.
    #[must_use]
    pub fn is_unhealthy(self) -> bool {
        matches!(self, Self::Unhealthy | Self::Draining)
    }
}

/// One host.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Dialled first.
    pub address: Address,
    /// Other addresses of the same host, for happy eyeballs.
    pub additional: Vec<Address>,
    /// Name, for auto host rewrite and hashing.
    pub hostname: Str,
    /// Health in the assignment.
    pub health: Health,
    /// At least 1.
    pub weight: u32,
    /// `envoy.lb`, `envoy.transport_socket_match`, `istio`...
    pub metadata: Metadata,
    /// How active checks ask this host.
    pub check: CheckTarget,
}

/// Where and how a host's active checks go, when not where its traffic goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckTarget {
    /// Another port.
    pub port: Option<u16>,
    /// Another address; its port counts.
    pub address: Option<Address>,
    /// `Host` of the checks.
    pub hostname: Str,
    /// The host is not checked and always healthy.
    pub disabled: bool,
}

impl Endpoint {
    /// A healthy host of weight 1.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self {
            address,
            additional: Vec::new(),
            hostname: Str::default(),
            health: Health::Healthy,
            weight: 1,
            metadata: Metadata::default(),
            check: CheckTarget::default(),
        }
    }

    /// Istio's workload descriptor `workload;namespace;canonical-service;canonical-revision;cluster`, when present.
    #[must_use]
    pub fn istio_workload(&self) -> Option<&str> {
        self.metadata.get("istio", &["workload"])?.as_str()
    }
}
