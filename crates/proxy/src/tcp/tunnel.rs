//! `tunneling_config`: connections of `tcp_proxy` that go upstream inside an HTTP CONNECT or POST.

use bytes::Bytes;
use http::header::HeaderMap;
use http::{Method, StatusCode};
use meltemi_traffic::access::{Heads, StreamInfo};
use meltemi_traffic::cluster::UpstreamProtocol;
use meltemi_traffic::listener::Tunnel as Settings;
use meltemi_traffic::mutation::apply_response;
use meltemi_upstream::cluster::Cluster;
use meltemi_upstream::connect::ConnectError;
use meltemi_upstream::exchange::{BodyKind, Exchange, Outgoing, ResponseStart, StreamError};
use meltemi_upstream::host::Host;
use meltemi_upstream::tunnel::Tunnel;
use meltemi_wire::http1::head::HeadLimits;
use std::sync::Arc;

use super::{Record, needs};
use crate::http::MAX_RESPONSE_HEAD;

/// Why there is no tunnel.
#[derive(Debug)]
pub(super) enum NoTunnel {
    /// No connection.
    Connect(ConnectError),
    /// The stream ended before a response.
    Stream(StreamError),
    /// The upstream refuses.
    Refused(StatusCode),
}

/// What goes before the payload.
struct Head {
    method: Method,
    https: bool,
    authority: Bytes,
    path: Bytes,
    headers: HeaderMap,
}

impl Head {
    fn new(record: &Record, host: &Host, settings: &Settings) -> Self {
        let mut info = StreamInfo {
            start: record.started,
            metadata: Some(&record.metadata),
            ..StreamInfo::default()
        };
        record.info.describe(&mut info);
        let mut headers = HeaderMap::new();
        apply_response(&settings.headers, &mut headers, &info, Heads::default());
        let (method, path) = if settings.use_post {
            (Method::POST, settings.post_path.as_bytes())
        } else {
            (Method::CONNECT, &b""[..])
        };
        Self {
            method,
            https: host.transport.tls.is_some(),
            authority: settings.hostname.to_text(&info, Heads::default()).into(),
            path: Bytes::copy_from_slice(path),
            headers,
        }
    }
}

/// Opens a stream on a host and waits until the host agrees.
pub(super) async fn open(
    record: &Record,
    cluster: &Cluster,
    host: &Arc<Host>,
    settings: &Settings,
) -> Result<Tunnel, NoTunnel> {
    let protocol = match cluster.config.http.protocol {
        UpstreamProtocol::Downstream => UpstreamProtocol::Http1,
        protocol => protocol,
    };
    let pools = &record.info.worker.pools;
    let needs = needs(record, host);
    let lease = pools.acquire(cluster, host, protocol, &needs);
    let lease = lease.await.map_err(NoTunnel::Connect)?;
    let head = Head::new(record, host, settings);
    let outgoing = Outgoing {
        method: &head.method,
        https: head.https,
        authority: &head.authority,
        path: &head.path,
        headers: &head.headers,
        body: if settings.use_post {
            BodyKind::Stream
        } else {
            BodyKind::Tunnel
        },
        case: None,
    };
    let limits = HeadLimits {
        max_bytes: MAX_RESPONSE_HEAD,
        ..HeadLimits::default()
    };
    let mut exchange = Exchange::start(lease, &outgoing, limits).map_err(NoTunnel::Stream)?;
    let start = answer(&mut exchange).await.map_err(NoTunnel::Stream)?;
    // Over HTTP/1 any 2xx agrees (RFC 9110 §9.3.6).
    if start.status == StatusCode::OK || !exchange.is_http2() && start.status.is_success() {
        Ok(Tunnel::new(exchange))
    } else {
        exchange.abort();
        Err(NoTunnel::Refused(start.status))
    }
}

/// The response head, after interim ones.
async fn answer(exchange: &mut Exchange) -> Result<ResponseStart, StreamError> {
    std::future::poll_fn(|cx| exchange.poll_flush(cx)).await?;
    loop {
        let start = std::future::poll_fn(|cx| exchange.poll_response(cx)).await?;
        if !start.status.is_informational() {
            return Ok(start);
        }
    }
}
