//! What configuration may ask for that is understood but not carried out yet: refused, never ignored.

use meltemi_traffic::cluster::{Cluster, ClusterKind};
use meltemi_traffic::listener::{Listener, ListenerFilterKind, NetworkFilterKind};

use crate::listener::ApplyError;

/// Refuses a listener that asks for something missing.
pub(crate) fn check_listener(listener: &Listener) -> Result<(), ApplyError> {
    let filters = listener
        .filters
        .iter()
        .filter_map(|filter| match filter.kind {
            ListenerFilterKind::OriginalSrc { .. } => Some("listener filter original_src"),
            ListenerFilterKind::OriginalDst
            | ListenerFilterKind::ProxyProtocol(_)
            | ListenerFilterKind::TlsInspector { .. }
            | ListenerFilterKind::HttpInspector => None,
        });
    let chains = listener.chains.iter().chain(&listener.default_chain);
    let inside = chains.flat_map(|chain| {
        let kinds = chain.filters.iter().map(|filter| &filter.kind);
        kinds.filter_map(network_filter)
    });
    let missing = filters.chain(inside).next();
    missing.map_or(Ok(()), |what| {
        Err(ApplyError::Unsupported {
            kind: "listener",
            name: listener.name.clone(),
            what,
        })
    })
}

/// Refuses a cluster that asks for something missing.
pub(crate) fn check_cluster(cluster: &Cluster) -> Result<(), ApplyError> {
    let what = if matches!(cluster.kind, ClusterKind::DynamicForwardProxy(_)) {
        "the dynamic forward proxy"
    } else if !cluster.filters.is_empty() {
        "an upstream network filter"
    } else {
        return Ok(());
    };
    Err(ApplyError::Unsupported {
        kind: "cluster",
        name: cluster.name.clone(),
        what,
    })
}

fn network_filter(kind: &NetworkFilterKind) -> Option<&'static str> {
    Some(match kind {
        NetworkFilterKind::MetadataExchange { .. } => "network filter istio.metadata_exchange",
        NetworkFilterKind::SetFilterState(_) => "network filter set_filter_state",
        NetworkFilterKind::MongoProxy(_) => "network filter mongo_proxy",
        NetworkFilterKind::MysqlProxy { .. } => "network filter mysql_proxy",
        NetworkFilterKind::Rbac(_)
        | NetworkFilterKind::LocalRateLimit { .. }
        | NetworkFilterKind::ConnectionLimit { .. }
        | NetworkFilterKind::IstioStats(_)
        | NetworkFilterKind::SniCluster => return None,
    })
}
