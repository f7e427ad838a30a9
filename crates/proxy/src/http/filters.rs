//! The HTTP filters of a connection manager, in their order.
//!
//! Each arm asks `traffic` for a decision and carries it out; Istio's filters also act before an attempt
//! ([`before_attempt`]), on the response ([`on_response`]) and at the end ([`report`]).

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, ORIGIN};
use meltemi_filters::istio::stats::{Labels, Reporter, Request as RequestFacts};
use meltemi_filters::istio::{Peer, peer};
use meltemi_traffic::Str;
use meltemi_traffic::cors::CorsDecision;
use meltemi_traffic::fault::{ABORT_BODY, AbortKind, Fault};
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::hcm::{FilterOverride, HttpFilterKind};
use meltemi_traffic::listener::Direction;
use meltemi_traffic::metadata::Value;
use meltemi_traffic::mutation::HeaderOp;
use meltemi_traffic::rbac::{AuthzFacts, DENIED_BODY, RbacFilter};
use meltemi_upstream::cluster::{Cluster, Host};

use super::downstream::Downstream;
use super::exchange::Plan;
use super::record::Exchange;
use super::reply::Reply;
use crate::idle::IdleTimer;

/// Lets every filter see the request.
///
/// # Errors
/// The reply of the filter that refuses or answers.
pub(crate) async fn run(
    exchange: &mut Exchange,
    down: &mut Downstream<'_>,
    plan: &Plan,
    idle: &mut IdleTimer,
) -> Result<(), Reply> {
    let hcm = Arc::clone(exchange.context.hcm());
    for filter in &hcm.filters {
        let setting = plan.overrides().get(&filter.name);
        let off = match setting {
            Some(FilterOverride::Disabled) => true,
            Some(_) => false,
            None => filter.disabled,
        };
        if off {
            continue;
        }
        match (&filter.kind, setting) {
            (HttpFilterKind::Rbac(_), Some(FilterOverride::Rbac(None))) => {}
            (HttpFilterKind::Rbac(_), Some(FilterOverride::Rbac(Some(rbac)))) => {
                authorize(exchange, rbac)?
            }
            (HttpFilterKind::Rbac(rbac), _) => authorize(exchange, rbac)?,
            (HttpFilterKind::Fault(_), Some(FilterOverride::Fault(fault))) => {
                inject(exchange, fault, down, idle).await?
            }
            (HttpFilterKind::Fault(fault), _) => inject(exchange, fault, down, idle).await?,
            (HttpFilterKind::Cors, Some(FilterOverride::Cors(policy))) => {
                if let CorsDecision::Answer(headers) =
                    policy.decide(&exchange.request, exchange.early.random)
                {
                    let mut reply = Reply::new(StatusCode::OK, "", "cors_response");
                    reply.headers.extend(headers);
                    return Err(reply);
                }
            }
            (HttpFilterKind::HeaderMutation(own), setting) => {
                exchange.change_request(&own.request);
                if let Some(FilterOverride::HeaderMutation(levels)) = setting {
                    for level in levels {
                        exchange.change_request(&level.request);
                    }
                }
            }
            (HttpFilterKind::IstioPeerMetadata(_), _) => discover_client(exchange),
            _ => {}
        }
    }
    Ok(())
}

/// Asks the policies; the verdict of shadow rules goes to dynamic metadata.
fn authorize(exchange: &mut Exchange, rbac: &RbacFilter) -> Result<(), Reply> {
    let context = exchange.context.clone();
    let info = context.info();
    let (denied, shadow) = info.with_facts(|connection| {
        let facts = AuthzFacts {
            request: Some(&exchange.request),
            connection,
            remote_ip: exchange.early.remote.unwrap_or_else(|| info.remote.ip()),
            peer: info.tls.as_ref().and_then(|tls| tls.peer.as_ref()),
            metadata: Some(&exchange.metadata),
            filter_state: &[],
        };
        let shadow = rbac.shadow.as_ref().map(|rules| {
            let verdict = rules.judge(&facts);
            (verdict.allowed, verdict.policy.cloned())
        });
        let verdict = rbac.rules.as_ref().map(|rules| rules.judge(&facts));
        let denied = verdict
            .filter(|verdict| !verdict.allowed)
            .map(|verdict| verdict.denial_details());
        (denied, shadow)
    });
    if let Some((allowed, policy)) = shadow {
        let result = if allowed { "allowed" } else { "denied" };
        let key = |name: &str| format!("{}{name}", rbac.shadow_prefix);
        let space = "envoy.filters.http.rbac";
        exchange.metadata.set(
            space,
            &key("shadow_engine_result"),
            Value::String(result.into()),
        );
        if let Some(policy) = policy {
            exchange.metadata.set(
                space,
                &key("shadow_effective_policy_id"),
                Value::String(policy),
            );
        }
    }
    match denied {
        Some(details) => Err(Reply::new(StatusCode::FORBIDDEN, DENIED_BODY, details)),
        None => Ok(()),
    }
}

/// Delays, then aborts, as the fault's draw says.
async fn inject(
    exchange: &mut Exchange,
    fault: &Fault,
    down: &mut Downstream<'_>,
    idle: &mut IdleTimer,
) -> Result<(), Reply> {
    let plan = fault.plan(&exchange.request, &exchange.cluster_name, || {
        fastrand::u64(..)
    });
    if let Some(delay) = plan.delay {
        exchange.flags.add(ResponseFlags::DELAY_INJECTED);
        tokio::time::sleep(delay).await;
        idle.touch();
    }
    let _ = down;
    let abort = |status: StatusCode| {
        Reply::new(status, ABORT_BODY, "fault_filter_abort").flag(ResponseFlags::FAULT_INJECTED)
    };
    match plan.abort {
        None | Some(AbortKind::FromHeader) => Ok(()),
        Some(AbortKind::Http(status)) => Err(abort(
            StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
        )),
        Some(AbortKind::Grpc(status)) => {
            let http = meltemi_traffic::access::http_status_of(status);
            let mut reply =
                abort(StatusCode::from_u16(http).unwrap_or(StatusCode::SERVICE_UNAVAILABLE));
            reply.grpc_status = Some(status);
            Err(reply)
        }
    }
}

/// Reads who the client is from its sidecar's headers, which end here.
fn discover_client(exchange: &mut Exchange) {
    if exchange.context.info().listener.config.direction != Direction::Inbound {
        return;
    }
    let headers = &mut exchange.request.headers;
    if let Some(metadata) = headers.remove(peer::METADATA) {
        exchange.peer = Peer::from_header(metadata.as_bytes());
        exchange.propagate_metadata = true;
    }
    headers.remove(peer::METADATA_ID);
}

/// Tells the upstream's sidecar who we are, and takes what endpoint metadata says of the host.
pub(crate) fn before_attempt(exchange: &mut Exchange, host: &Host) {
    if exchange.context.runtime().istio_stats.is_some()
        && exchange.context.info().listener.config.direction != Direction::Inbound
    {
        exchange.peer = host.endpoint.istio_workload().map(Peer::from_workload);
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

/// What filters do with a response that came from the upstream.
pub(crate) fn on_response(exchange: &mut Exchange, plan: &Plan, headers: &mut HeaderMap) {
    if let Some(settings) = exchange.context.runtime().peer_metadata.clone() {
        if exchange.context.info().listener.config.direction == Direction::Inbound {
            if settings.downstream_propagation && exchange.propagate_metadata {
                let shared = &exchange.context.worker().shared;
                headers.insert(peer::METADATA_ID, shared.identity.node_id.clone());
                headers.insert(peer::METADATA, shared.identity.metadata.clone());
            }
        } else {
            if let Some(metadata) = headers.remove(peer::METADATA)
                && let Some(found) = Peer::from_header(metadata.as_bytes())
            {
                exchange.peer = Some(found);
            }
            headers.remove(peer::METADATA_ID);
        }
    }
    let hcm = Arc::clone(exchange.context.hcm());
    for filter in hcm.filters.iter().rev() {
        match (&filter.kind, plan.overrides().get(&filter.name)) {
            (HttpFilterKind::Cors, Some(FilterOverride::Cors(policy))) => {
                let origin = exchange.request.headers.get(ORIGIN).cloned();
                let decision = policy.decide(&exchange.request, exchange.early.random);
                if let (Some(_), CorsDecision::Decorate(origin)) = (origin, decision) {
                    policy.decorate(&origin, headers);
                }
            }
            (HttpFilterKind::HeaderMutation(own), setting) => {
                change_response(exchange, &own.response, headers);
                if let Some(FilterOverride::HeaderMutation(levels)) = setting {
                    for level in levels {
                        change_response(exchange, &level.response, headers);
                    }
                }
            }
            _ => {}
        }
    }
}

fn change_response(exchange: &Exchange, ops: &[HeaderOp], headers: &mut HeaderMap) {
    super::respond::change(exchange, ops, headers);
}

/// Counts a finished exchange in Istio's metrics.
pub(crate) fn report(exchange: &Exchange, duration: Duration) {
    let Some(settings) = &exchange.context.runtime().istio_stats else {
        return;
    };
    let shared = &exchange.context.worker().shared;
    let info = exchange.context.info();
    let inbound = info.listener.config.direction == Direction::Inbound;
    let service = destination(exchange, settings.disable_host_fallback);
    let own = shared.identity.peer.clone();
    let other = exchange.peer.clone().unwrap_or_default();
    let own_principal = info
        .tls
        .as_ref()
        .and_then(|tls| tls.local_uris.first().cloned());
    let labels = if inbound {
        Labels {
            reporter: Reporter::Destination,
            source: other,
            source_principal: info.peer_principal().cloned().unwrap_or_default(),
            destination: own,
            destination_principal: own_principal
                .filter(|_| info.is_mutual_tls())
                .unwrap_or_default(),
            security: if info.is_mutual_tls() {
                "mutual_tls"
            } else {
                "none"
            },
            ..skeleton(exchange, service)
        }
    } else {
        let peer_principal = exchange
            .upstream
            .peer
            .as_ref()
            .and_then(|peer| peer.uri_sans.first().cloned());
        Labels {
            source: own,
            source_principal: shared
                .own_principal()
                .filter(|_| exchange.upstream.tls)
                .unwrap_or_default(),
            destination: other,
            destination_principal: peer_principal.unwrap_or_default(),
            ..skeleton(exchange, service)
        }
    };
    let facts = RequestFacts {
        duration,
        received: exchange.received,
        sent: exchange.sent,
    };
    shared.istio.request(labels, facts);
}

fn skeleton(exchange: &Exchange, service: [Str; 3]) -> Labels {
    let [service, service_name, service_namespace] = service;
    Labels {
        reporter: Reporter::Source,
        source: Peer::default(),
        source_principal: Str::default(),
        destination: Peer::default(),
        destination_principal: Str::default(),
        service,
        service_name,
        service_namespace,
        protocol: if exchange.grpc { "grpc" } else { "http" },
        response_code: Some(exchange.status.map_or(0, |status| status.as_u16())),
        grpc_status: exchange.grpc_status(),
        flags: exchange.flags,
        security: "unknown",
    }
}

/// Host, name and namespace of the service that was called.
fn destination(exchange: &Exchange, no_host_fallback: bool) -> [Str; 3] {
    let special = match exchange.route_name.as_str() {
        "block_all" => Some("BlackHoleCluster"),
        "allow_any" => Some("PassthroughCluster"),
        _ => None,
    };
    let authority = || {
        let host = meltemi_traffic::select::without_port(&exchange.request.authority);
        Str::from(String::from_utf8_lossy(host).as_ref())
    };
    let host_or_unknown = || {
        if no_host_fallback {
            Str::default()
        } else {
            authority()
        }
    };
    service_of(exchange.cluster.as_deref(), special)
        .unwrap_or_else(|| [host_or_unknown(), host_or_unknown(), Str::default()])
}

/// What the cluster says of its service.
pub(crate) fn service_of(
    cluster: Option<&Cluster>,
    special: Option<&'static str>,
) -> Option<[Str; 3]> {
    let special = special.or_else(|| {
        let name = cluster?.config.name.as_str();
        [
            "BlackHoleCluster",
            "PassthroughCluster",
            "InboundPassthroughCluster",
        ]
        .into_iter()
        .find(|known| *known == name)
    });
    if let Some(special) = special {
        return Some([special.into(), special.into(), Str::default()]);
    }
    let (host, name, namespace) = cluster?.config.istio_service()?;
    Some([host.into(), name.into(), namespace.into()])
}
