//! `VirtualService`: how requests and connections for a host are routed.

mod http;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::http::*;
use crate::meta::{AGE, Column, Spec};
use crate::scalars::PortSelector;

/// Routes for one or more hosts: which requests go where, and what happens to them on the way.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VirtualService {
    /// Hosts the routes are for; none makes this a delegate of another virtual service.
    pub hosts: Vec<String>,
    /// Gateways, as `name` or `namespace/name`, and `mesh` for all sidecars; none means `mesh`.
    pub gateways: Vec<String>,
    /// Rules for HTTP; the first that matches wins.
    pub http: Vec<HttpRoute>,
    /// Rules for TLS that is forwarded unopened, by server name.
    pub tls: Vec<TlsRoute>,
    /// Rules for any other connection.
    pub tcp: Vec<TcpRoute>,
    /// Namespaces in which the routes apply: `.`, `*` or names; none means the mesh's default.
    pub export_to: Vec<String>,
}

impl Spec for VirtualService {
    const GROUP: &'static str = "networking.istio.io";
    const KIND: &'static str = "VirtualService";
    const PLURAL: &'static str = "virtualservices";
    const VERSIONS: &'static [&'static str] = &["v1", "v1alpha3", "v1beta1"];
    const SHORT_NAMES: &'static [&'static str] = &["vs"];
    const COLUMNS: &'static [Column] = &[
        Column::new(
            "Gateways",
            ".spec.gateways",
            "Gateways and sidecars that use the routes.",
        ),
        Column::new("Hosts", ".spec.hosts", "Hosts the routes are for."),
        AGE,
    ];
}

/// A rule for TLS connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["match"]))]
pub struct TlsRoute {
    /// Any of these has to hold.
    #[serde(rename = "match")]
    pub matches: Vec<TlsMatch>,
    /// Where the connection goes.
    pub route: Vec<RouteDestination>,
}

/// Conditions on a TLS connection; all have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["sniHosts"]))]
pub struct TlsMatch {
    /// Server names, with a leading wildcard at most; each within the virtual service's hosts.
    pub sni_hosts: Vec<String>,
    /// Addresses or networks of the destination.
    pub destination_subnets: Vec<String>,
    /// Port of the destination.
    pub port: Option<u32>,
    /// Labels of the client workload.
    pub source_labels: BTreeMap<String, String>,
    /// Gateways this is for, in place of the virtual service's.
    pub gateways: Vec<String>,
    /// Namespace of the client workload.
    pub source_namespace: String,
}

/// A rule for TCP connections.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpRoute {
    /// Any of these has to hold; none matches every connection.
    #[serde(rename = "match")]
    pub matches: Vec<L4Match>,
    /// Where the connection goes.
    pub route: Vec<RouteDestination>,
}

/// Conditions on a TCP connection; all have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct L4Match {
    /// Addresses or networks of the destination.
    pub destination_subnets: Vec<String>,
    /// Port of the destination.
    pub port: Option<u32>,
    /// Address or network of the client; accepted and without effect.
    pub source_subnet: String,
    /// Labels of the client workload.
    pub source_labels: BTreeMap<String, String>,
    /// Gateways this is for, in place of the virtual service's.
    pub gateways: Vec<String>,
    /// Namespace of the client workload.
    pub source_namespace: String,
}

/// A share of the connections and where it goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["destination"]))]
pub struct RouteDestination {
    /// Service, subset and port.
    pub destination: Option<Destination>,
    /// Share, relative to the sum of all weights.
    pub weight: i32,
}

/// A service that traffic is sent to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("required" = ["host"]))]
pub struct Destination {
    /// Host of the service; a short name belongs to the virtual service's own namespace.
    pub host: String,
    /// Subset, defined by a destination rule of the host.
    pub subset: String,
    /// Port of the service; may be left out when the service has only one.
    pub port: Option<PortSelector>,
}
