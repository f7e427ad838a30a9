//! Filter chains for byte streams.

use std::time::Duration;

use meltemi_model::{MeshConfig, OutboundPolicy};
use meltemi_names::ArcStr;
use meltemi_names::cluster::{BLACK_HOLE, PASSTHROUGH};

use super::access_log;
use crate::ProxyTraits;
use crate::istio_filters::{self, Side};
use crate::pb;
use crate::pb::tcp_proxy::tcp_proxy::{
    ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight,
};

/// The name of the chain for what no service claims.
const PASSTHROUGH_CHAIN: &str = "PassthroughFilterChain";

/// Where connections go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TcpRoute {
    /// Clusters and their weights.
    pub clusters: Vec<(ArcStr, u32)>,
    /// Idle time of connections.
    pub idle_timeout: Option<Duration>,
    /// Age at which connections are closed.
    pub max_duration: Option<Duration>,
    /// Connections of one client stay with one endpoint.
    pub by_source: bool,
}

impl TcpRoute {
    /// Everything to one cluster.
    #[must_use]
    pub fn to(cluster: impl Into<ArcStr>) -> Self {
        Self {
            clusters: vec![(cluster.into(), 1)],
            idle_timeout: None,
            max_duration: None,
            by_source: false,
        }
    }
}

/// The filters of a byte stream.
pub(super) fn filters(
    side: Side,
    route: &TcpRoute,
    mesh: &MeshConfig,
    traits: ProxyTraits,
) -> Vec<pb::listener::Filter> {
    let mut filters = Vec::with_capacity(3);
    if side == Side::Inbound && traits.filters.tcp_peers {
        filters.push(istio_filters::tcp_metadata_exchange());
    }
    if traits.filters.tcp_stats {
        filters.push(istio_filters::tcp_stats(side));
    }
    filters.push(proxy(route, mesh, traits));
    filters
}

/// Forwards bytes and nothing else.
pub(super) fn proxy(
    route: &TcpRoute,
    mesh: &MeshConfig,
    traits: ProxyTraits,
) -> pb::listener::Filter {
    let weighted: Vec<&(ArcStr, u32)> = match route.clusters.as_slice() {
        [only] => vec![only],
        several => several.iter().filter(|(_, weight)| *weight > 0).collect(),
    };
    let (specifier, stat_prefix) = match weighted[..] {
        [] => (
            ClusterSpecifier::Cluster(BLACK_HOLE.to_owned()),
            BLACK_HOLE.to_owned(),
        ),
        [(cluster, _)] => (
            ClusterSpecifier::Cluster(cluster.to_string()),
            cluster.to_string(),
        ),
        _ => {
            let clusters = weighted.iter().map(|(name, weight)| ClusterWeight {
                name: name.to_string(),
                weight: *weight,
                ..Default::default()
            });
            let first = weighted[0].0.to_string();
            (
                ClusterSpecifier::WeightedClusters(WeightedCluster {
                    clusters: clusters.collect(),
                }),
                first,
            )
        }
    };
    let by_source = pb::kinds::HashPolicy {
        policy_specifier: Some(pb::kinds::hash_policy::PolicySpecifier::SourceIp(
            Default::default(),
        )),
    };
    let config = pb::tcp_proxy::TcpProxy {
        stat_prefix: format!("{stat_prefix};"),
        cluster_specifier: Some(specifier),
        idle_timeout: route.idle_timeout.or(traits.idle_timeout).map(pb::duration),
        max_downstream_connection_duration: route.max_duration.map(pb::duration),
        hash_policy: route.by_source.then_some(by_source).into_iter().collect(),
        access_log: access_log::of_traffic(mesh),
        ..Default::default()
    };
    istio_filters::network("envoy.filters.network.tcp_proxy", &config)
}

/// What becomes of connections that no service claims.
pub(super) fn unclaimed(mesh: &MeshConfig) -> TcpRoute {
    TcpRoute::to(match mesh.outbound_policy {
        OutboundPolicy::AllowAny => PASSTHROUGH,
        OutboundPolicy::RegistryOnly => BLACK_HOLE,
    })
}

/// The default chain of a listener that other services share.
pub(super) fn passthrough_chain(
    mesh: &MeshConfig,
    traits: ProxyTraits,
) -> pb::listener::FilterChain {
    pb::listener::FilterChain {
        name: PASSTHROUGH_CHAIN.to_owned(),
        filters: filters(Side::Outbound, &unclaimed(mesh), mesh, traits),
        ..Default::default()
    }
}
