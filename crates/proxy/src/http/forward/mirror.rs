//! Copies of requests to other clusters, whose responses nobody sees.
//!
//! A copy never slows its original down: when its own upstream does not keep up, the copy is given up.

use std::rc::Rc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue};
use meltemi_traffic::access::Protocol;
use meltemi_traffic::cluster::UpstreamProtocol;
use meltemi_traffic::route::{ClusterName, Forward, Mirror};
use meltemi_upstream::balance::Pick;
use meltemi_upstream::cluster::Cluster;
use meltemi_upstream::exchange::{BodyKind, Exchange as Stream, Outgoing};
use meltemi_upstream::pool::ConnectionNeeds;
use meltemi_wire::http1::Piece;
use meltemi_wire::http1::head::HeadLimits;
use tokio::sync::mpsc;

use crate::http::early;
use crate::http::record::Exchange;
use crate::http::request::Request;
use crate::worker::Worker;

/// Pieces of body that may wait for a mirror.
const WAITING_PIECES: usize = 64;
/// A mirrored request may take so long altogether.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

/// A piece of the original's body.
#[derive(Debug, Clone)]
pub(super) enum Copied {
    Data(Bytes),
    End(Option<HeaderMap>),
}

/// Starts the copies that the route and chance ask for.
pub(super) fn start(exchange: &Exchange, forward: &Forward) -> Vec<mpsc::Sender<Copied>> {
    let mut senders = Vec::new();
    for mirror in &forward.mirrors {
        if !mirror.fraction.hits(fastrand::u64(..)) {
            continue;
        }
        let name = match &mirror.cluster {
            ClusterName::Name(name) => name.to_string(),
            ClusterName::Header(field) => {
                let value = field.first(&exchange.request).unwrap_or_default();
                String::from_utf8_lossy(value).into_owned()
            }
        };
        let worker = exchange.context.worker();
        let Some(cluster) = worker.shared.clusters.get(&name) else {
            continue;
        };
        let (sender, receiver) = mpsc::channel(WAITING_PIECES);
        let copy = copy_of(&exchange.request, mirror);
        let worker = Rc::clone(worker);
        tokio::task::spawn_local(async move {
            let sent = tokio::time::timeout(LIMIT, send(&worker, &cluster, copy, receiver)).await;
            if !matches!(sent, Ok(Some(()))) {
                tracing::debug!(cluster = %cluster.config.name, "mirrored request not completed");
            }
        });
        senders.push(sender);
    }
    senders
}

fn copy_of(request: &Request, mirror: &Mirror) -> Request {
    let authority = match &mirror.host_rewrite {
        Some(host) => Bytes::copy_from_slice(host.as_bytes()),
        None if mirror.shadow_suffix => shadowed(&request.authority),
        None => request.authority.clone(),
    };
    // A copy comes from the proxy itself.
    let mut headers = request.headers.clone();
    headers.insert(early::X_ENVOY_INTERNAL, HeaderValue::from_static("true"));
    early::append_xff(&mut headers, early::own_address());
    Request {
        method: request.method.clone(),
        https: request.https,
        authority,
        path: request.path.clone(),
        headers,
        protocol: request.protocol,
        body: request.body,
        upgrade: false,
        absolute: false,
        case: request.case.clone(),
        announced: None,
    }
}

/// `-shadow` goes before the port.
fn shadowed(authority: &Bytes) -> Bytes {
    let host = meltemi_traffic::select::without_port(authority);
    [host, b"-shadow", &authority[host.len()..]].concat().into()
}

async fn send(
    worker: &Rc<Worker>,
    cluster: &Cluster,
    request: Request,
    mut body: mpsc::Receiver<Copied>,
) -> Option<()> {
    let host = worker.pools.pick(cluster, &Pick::default())?;
    let protocol = match cluster.config.http.protocol {
        UpstreamProtocol::Downstream if request.protocol == Protocol::Http2 => {
            UpstreamProtocol::Http2
        }
        UpstreamProtocol::Downstream => UpstreamProtocol::Http1,
        protocol => protocol,
    };
    let lease = worker
        .pools
        .acquire(cluster, &host, protocol, &ConnectionNeeds::default())
        .await
        .ok()?;
    cluster.stats.rq_total.fetch_add(1, Ordering::Relaxed);
    let outgoing = Outgoing {
        method: &request.method,
        https: request.https,
        authority: &request.authority,
        path: &request.path,
        headers: &request.headers,
        body: request.body,
        case: request.case.as_ref(),
    };
    let mut stream = Stream::start(
        lease,
        &outgoing,
        HeadLimits {
            max_bytes: 80 * 1024,
            ..HeadLimits::default()
        },
    )
    .ok()?;
    if request.body != BodyKind::None {
        loop {
            match body.recv().await? {
                Copied::Data(data) => {
                    std::future::poll_fn(|cx| stream.poll_flush(cx))
                        .await
                        .ok()?;
                    stream.send_data(data, false).ok()?;
                }
                Copied::End(trailers) => {
                    stream.send_end(trailers).ok()?;
                    break;
                }
            }
        }
    }
    std::future::poll_fn(|cx| stream.poll_flush(cx))
        .await
        .ok()?;
    let status = loop {
        let start = std::future::poll_fn(|cx| stream.poll_response(cx)).await;
        let status = start.ok()?.status;
        if !status.is_informational() {
            break status.as_u16();
        }
    };
    cluster.stats.response(status);
    cluster.statuses(true).add(status);
    while let Piece::Data(_) = std::future::poll_fn(|cx| stream.poll_body(cx)).await.ok()? {}
    stream.finish();
    Some(())
}
