//! Istio's own filters: peer metadata between sidecars, and the metrics of finished exchanges.

use std::time::Duration;

use http::header::HeaderMap;
use meltemi_filters::http::grpc_stats;
use meltemi_filters::istio::object::PeerObject;
use meltemi_filters::istio::peer;
use meltemi_telemetry::istio::{
    Labels, Outcome, Protocol, Reporter, Request as RequestFacts, Service, ServiceFacts,
    WorkloadMetadata,
};
use meltemi_traffic::listener::Direction;
use meltemi_traffic::metadata::Value;
use meltemi_upstream::cluster::Cluster;
use meltemi_upstream::host::Host;

use crate::http::record::Exchange;

/// Reads who the client is from its sidecar's headers, which end here.
pub(super) fn discover_client(exchange: &mut Exchange) {
    if exchange.context.runtime().peer_metadata.is_none()
        || exchange.context.info().listener.config.direction != Direction::Inbound
    {
        return;
    }
    if let Some(metadata) = exchange.request.headers.remove(peer::METADATA) {
        let peers = &exchange.context.worker().shared.peers;
        exchange.peer = peers.get(metadata.as_bytes(), peer::decode).map(PeerObject);
        exchange.propagate_metadata = true;
    }
    exchange.request.headers.remove(peer::METADATA_ID);
}

/// Tells the upstream's sidecar who we are, and takes what endpoint metadata says of the host.
pub(crate) fn before_attempt(exchange: &mut Exchange, host: &Host) {
    if exchange.context.runtime().istio_stats.is_some()
        && exchange.context.info().listener.config.direction != Direction::Inbound
    {
        let peers = &exchange.context.worker().shared.peers;
        let text = host.endpoint.istio_workload();
        exchange.peer = text
            .and_then(|text| peers.get(text.as_bytes(), |_| WorkloadMetadata::from_endpoint(text)))
            .map(PeerObject);
    }
    let Some(settings) = exchange.context.runtime().peer_metadata.clone() else {
        return;
    };
    let external = exchange
        .cluster
        .as_ref()
        .is_some_and(|cluster| is_external(cluster));
    if !settings.upstream_propagation || (external && settings.skip_external) {
        return;
    }
    let shared = &exchange.context.worker().shared;
    let (id, metadata) = (
        shared.identity.node_id.clone(),
        shared.identity.metadata.clone(),
    );
    exchange.request.headers.insert(peer::METADATA_ID, id);
    exchange.request.headers.insert(peer::METADATA, metadata);
}

fn is_external(cluster: &Cluster) -> bool {
    let flag = |key: &str| {
        matches!(
            cluster.config.metadata.get("istio", &[key]),
            Some(Value::Bool(true))
        )
    };
    flag("external") || flag("disable_mx")
}

/// Exchanges peer metadata on a response.
pub(super) fn on_response(exchange: &mut Exchange, headers: &mut HeaderMap) {
    if let Some(settings) = exchange.context.runtime().peer_metadata.clone() {
        if exchange.context.info().listener.config.direction == Direction::Inbound {
            if settings.downstream_propagation && exchange.propagate_metadata {
                let shared = &exchange.context.worker().shared;
                headers.insert(peer::METADATA_ID, shared.identity.node_id.clone());
                headers.insert(peer::METADATA, shared.identity.metadata.clone());
            }
        } else {
            if let Some(metadata) = headers.remove(peer::METADATA)
                && let Some(found) = exchange
                    .context
                    .worker()
                    .shared
                    .peers
                    .get(metadata.as_bytes(), peer::decode)
            {
                exchange.peer = Some(PeerObject(found));
            }
            headers.remove(peer::METADATA_ID);
        }
    }
}

/// Counts a finished gRPC call for its cluster.
fn report_grpc(exchange: &Exchange) {
    if let Some(by_method) = exchange.context.runtime().grpc_stats
        && exchange.grpc
        && let Some(cluster) = &exchange.cluster
    {
        grpc_stats::count(&grpc_stats::Finished {
            cluster: cluster.stat_name(),
            path: &exchange.request.path,
            by_method,
            status: exchange.grpc_status(),
            messages: exchange
                .messages
                .each_ref()
                .map(|counter| counter.messages()),
        });
    }
}

/// Counts a finished exchange in gRPC's and Istio's metrics.
pub(crate) fn report(exchange: &Exchange, duration: Duration) {
    report_grpc(exchange);
    let Some(settings) = &exchange.context.runtime().istio_stats else {
        return;
    };
    let shared = &exchange.context.worker().shared;
    let info = exchange.context.info();
    let inbound = info.listener.config.direction == Direction::Inbound;
    let upstream = &exchange.upstream;
    let (peer_principal, local_principal) = info.principals(upstream.peer.as_deref(), upstream.tls);
    let labels = Labels {
        reporter: if inbound {
            Reporter::Destination
        } else {
            Reporter::Source
        },
        protocol: if exchange.grpc {
            Protocol::Grpc
        } else {
            Protocol::Http
        },
        peer: exchange.peer.as_deref().cloned(),
        peer_principal,
        local_principal,
        service: service(exchange, settings.disable_host_fallback),
    };
    let flags = exchange.flags.short();
    let outcome = Outcome {
        code: exchange.status.map(|status| status.as_u16()),
        grpc_status: exchange.grpc_status(),
        flags: &flags,
    };
    let facts = RequestFacts {
        duration,
        received: exchange.received,
        sent: exchange.sent,
    };
    let edge = shared.istio.edge(&labels);
    edge.request(outcome, facts);
    if exchange.grpc {
        edge.messages(
            exchange.messages[0].messages(),
            exchange.messages[1].messages(),
        );
    }
}

/// The service that was called.
fn service(exchange: &Exchange, no_host_fallback: bool) -> Service {
    let special = matches!(exchange.route_name.as_str(), "block_all" | "allow_any");
    if let Some(known) = exchange
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.service.as_ref())
        .filter(|_| !special)
    {
        return known.clone();
    }
    let authority = meltemi_traffic::select::without_port(&exchange.request.authority);
    Service::resolve(&ServiceFacts {
        declared: None,
        cluster: &exchange.cluster_name,
        route: &exchange.route_name,
        authority: std::str::from_utf8(authority)
            .ok()
            .filter(|_| !no_host_fallback),
    })
}
