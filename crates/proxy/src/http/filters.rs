//! The HTTP filters of a connection manager, in their order.
//!
//! Each arm asks `traffic` for a decision and carries it out; Istio's filters also act before an attempt
//! ([`before_attempt`]), on the response ([`on_response`]) and at the end ([`report`]).

use std::future::Future;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, ORIGIN};
use meltemi_filters::istio::peer;
use meltemi_telemetry::istio::{
    Labels, Outcome, Protocol, Reporter, Request as RequestFacts, Service, ServiceFacts,
    WorkloadMetadata,
};
use meltemi_traffic::cors::CorsDecision;
use meltemi_traffic::fault::{ABORT_BODY, AbortKind, Fault};
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::hcm::{FilterOverride, HttpFilterKind};
use meltemi_traffic::listener::Direction;
use meltemi_traffic::metadata::Value;
use meltemi_traffic::mutation::HeaderOp;
use meltemi_traffic::rbac::{AuthzFacts, DENIED_BODY, RbacFilter};
use meltemi_upstream::cluster::{Cluster, Host};

use super::downstream::{ClientError, Downstream};
use super::exchange::Plan;
use super::record::Exchange;
use super::reply::Reply;
use crate::idle::IdleTimer;

/// Why a request goes no further than the filters.
pub(crate) enum Stop {
    /// A filter refuses or answers.
    Reply(Reply),
    /// The client left while a filter made it wait.
    ClientGone(ClientError),
}

impl From<Reply> for Stop {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

/// Lets every filter see the request.
///
/// # Errors
/// The reply of the filter that refuses or answers, or the client's end.
pub(crate) async fn run(
    exchange: &mut Exchange,
    down: &mut Downstream<'_>,
    plan: &Plan,
    idle: &mut IdleTimer,
) -> Result<(), Stop> {
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
                    return Err(reply.into());
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
) -> Result<(), Stop> {
    let plan = fault.plan(&exchange.request, &exchange.cluster_name, || {
        fastrand::u64(..)
    });
    if let Some(delay) = plan.delay {
        exchange.flags.add(ResponseFlags::DELAY_INJECTED);
        wait(delay, down).await.map_err(Stop::ClientGone)?;
        idle.touch();
    }
    let abort = |status: StatusCode| {
        Reply::new(status, ABORT_BODY, "fault_filter_abort").flag(ResponseFlags::FAULT_INJECTED)
    };
    match plan.abort {
        None | Some(AbortKind::FromHeader) => Ok(()),
        Some(AbortKind::Http(status)) => Err(abort(
            StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
        )
        .into()),
        Some(AbortKind::Grpc(status)) => {
            let http = meltemi_traffic::access::http_status_of(status);
            let mut reply =
                abort(StatusCode::from_u16(http).unwrap_or(StatusCode::SERVICE_UNAVAILABLE));
            reply.grpc_status = Some(status);
            Err(reply.into())
        }
    }
}

/// Waits, unless the client leaves. Over HTTP/1 that shows only once its body has been taken.
async fn wait(delay: Duration, down: &mut Downstream<'_>) -> Result<(), ClientError> {
    let mut pause = std::pin::pin!(tokio::time::sleep(delay));
    std::future::poll_fn(|cx| {
        if pause.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if down.is_http2() || down.body_finished() {
            return down.poll_gone(cx).map(Err);
        }
        Poll::Pending
    })
    .await
}

/// Reads who the client is from its sidecar's headers, which end here.
fn discover_client(exchange: &mut Exchange) {
    if exchange.context.info().listener.config.direction != Direction::Inbound {
        return;
    }
    if let Some(metadata) = exchange.request.headers.remove(peer::METADATA) {
        let peers = &exchange.context.worker().shared.peers;
        exchange.peer = peers.get(metadata.as_bytes(), peer::decode);
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
            .and_then(|text| peers.get(text.as_bytes(), |_| WorkloadMetadata::from_endpoint(text)));
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
                && let Some(found) = exchange
                    .context
                    .worker()
                    .shared
                    .peers
                    .get(metadata.as_bytes(), peer::decode)
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
    let (peer_principal, local_principal) = if inbound {
        let own = info
            .tls
            .as_ref()
            .and_then(|tls| tls.local_uris.first().cloned());
        (
            info.peer_principal().cloned(),
            own.filter(|_| info.is_mutual_tls()),
        )
    } else {
        let peer = exchange
            .upstream
            .peer
            .as_ref()
            .and_then(|peer| peer.uri_sans.first().cloned());
        (
            peer,
            shared.own_principal().filter(|_| exchange.upstream.tls),
        )
    };
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
        peer: exchange.peer.clone(),
        peer_principal: peer_principal.unwrap_or_default(),
        local_principal: local_principal.unwrap_or_default(),
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
