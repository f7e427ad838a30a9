//! Clusters of the application behind the proxy.

use std::time::Duration;

use meltemi_model::destination::ConnectionPool;
use meltemi_model::service::Service;
use meltemi_model::{MeshConfig, Shared};
use meltemi_names::{ClusterName, Protocol};

use super::outbound::service_value;
use super::{
    HttpSettings, UpstreamHttp, from_loop_breaker, original_destination, policy, set_http_options,
    stat_name,
};
use crate::pb;

/// What shapes the cluster of an application's port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InboundClusterInput {
    /// The port of the application.
    pub port: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// The services that lead there, the oldest first.
    pub services: Vec<Shared<Service>>,
    /// Limits of the oldest service's policy.
    pub pool: Option<ConnectionPool>,
    /// Settings of the mesh.
    pub mesh: Shared<MeshConfig>,
}

/// Idle hosts stay: the address of the application does not change.
const NEVER: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 100);

/// The cluster.
#[must_use]
pub fn inbound(input: &InboundClusterInput) -> pb::cluster::Cluster {
    let name = ClusterName::inbound(input.port).to_string();
    let mut cluster = pb::cluster::Cluster {
        alt_stat_name: stat_name(&name),
        connect_timeout: Some(pb::duration(input.mesh.connect_timeout)),
        circuit_breakers: Some(policy::circuit_breakers(input.pool.as_ref())),
        cleanup_interval: Some(pb::duration(NEVER)),
        ..Default::default()
    };
    original_destination(&mut cluster);
    from_loop_breaker(&mut cluster);
    let upstream = match input.protocol {
        protocol if protocol.is_http2() => UpstreamHttp::Http2,
        Protocol::Auto => UpstreamHttp::AsDownstream,
        _ => UpstreamHttp::Http1,
    };
    let settings = HttpSettings {
        common: policy::common_http(input.pool.as_ref()),
        ..Default::default()
    };
    set_http_options(&mut cluster, upstream, settings);
    let services = input
        .services
        .iter()
        .map(|service| service_value(service))
        .collect();
    cluster.metadata = Some(pb::metadata([(
        "istio",
        pb::fields([("services", pb::list_value(services))]),
    )]));
    cluster.name = name;
    cluster
}
