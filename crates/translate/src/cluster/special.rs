//! The clusters that every proxy has.

use std::time::Duration;

use meltemi_model::{MeshConfig, Shared};
use meltemi_names::cluster::{BLACK_HOLE, INBOUND_PASSTHROUGH, PASSTHROUGH};

use super::{
    HttpSettings, UpstreamHttp, from_loop_breaker, original_destination, policy, set_http_options,
    set_type, stat_name,
};
use crate::pb;

/// What shapes the fixed clusters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpecialClustersInput {
    /// Settings of the mesh.
    pub mesh: Shared<MeshConfig>,
    /// A router has only the black hole.
    pub router: bool,
}

/// Connections that pass through are closed when nothing moves for so long.
const PASSTHROUGH_IDLE: Duration = Duration::from_secs(300);

/// The fixed clusters.
#[must_use]
pub fn special(input: &SpecialClustersInput) -> Vec<pb::cluster::Cluster> {
    let mut clusters = vec![black_hole(&input.mesh)];
    if !input.router {
        clusters.push(passthrough(PASSTHROUGH, &input.mesh));
        let mut inbound = passthrough(INBOUND_PASSTHROUGH, &input.mesh);
        from_loop_breaker(&mut inbound);
        clusters.push(inbound);
    }
    clusters
}

fn black_hole(mesh: &MeshConfig) -> pb::cluster::Cluster {
    let mut cluster = named(BLACK_HOLE, mesh);
    set_type(&mut cluster, pb::cluster::cluster::DiscoveryType::Static);
    cluster
}

fn passthrough(name: &str, mesh: &MeshConfig) -> pb::cluster::Cluster {
    let mut cluster = named(name, mesh);
    original_destination(&mut cluster);
    cluster.circuit_breakers = Some(policy::circuit_breakers(None));
    let common = pb::core::HttpProtocolOptions {
        idle_timeout: Some(pb::duration(PASSTHROUGH_IDLE)),
        ..Default::default()
    };
    let settings = HttpSettings {
        common: Some(common),
        ..Default::default()
    };
    set_http_options(&mut cluster, UpstreamHttp::AsDownstream, settings);
    cluster
}

fn named(name: &str, mesh: &MeshConfig) -> pb::cluster::Cluster {
    pb::cluster::Cluster {
        name: name.to_owned(),
        alt_stat_name: stat_name(name),
        connect_timeout: Some(pb::duration(mesh.connect_timeout)),
        ..Default::default()
    }
}
