//! Requests of the proxy's own, through its own clusters: picked, pooled and counted as any other.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use meltemi_traffic::Str;
use meltemi_traffic::cluster::UpstreamProtocol;
use meltemi_traffic::collector::{GrpcTarget, HttpTarget};
use meltemi_upstream::balance::Pick;
use meltemi_upstream::exchange::{BodyKind, Exchange, Outgoing};
use meltemi_upstream::pool::ConnectionNeeds;
use meltemi_wire::http1::Piece;
use meltemi_wire::http1::head::HeadLimits;

use crate::worker::Worker;

/// Limits of what a collector answers.
fn limits() -> HeadLimits {
    HeadLimits {
        max_bytes: 64 * 1024,
        ..HeadLimits::default()
    }
}
const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("cluster {0} does not exist")]
    NoCluster(Str),
    #[error("cluster {0} has no host that may be used")]
    NoHost(Str),
    #[error("connect: {0}")]
    Connect(String),
    #[error("stream: {0}")]
    Stream(String),
    #[error("the collector answered {0}")]
    Status(StatusCode),
    #[error("timed out")]
    Timeout,
}

fn headers(worker: &Worker, given: &[(Str, Str)], timeout: Option<Duration>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name.as_bytes()),
            HeaderValue::from_str(value),
        ) {
            headers.append(name, value);
        }
    }
    headers.insert(INTERNAL, HeaderValue::from_static("true"));
    if let Ok(own) = HeaderValue::from_str(&worker.shared.process.address.to_string()) {
        headers.insert(FORWARDED_FOR, own);
    }
    if let Some(timeout) = timeout {
        let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        headers.insert(EXPECTED_TIMEOUT, millis.into());
    }
    headers
}

struct Head<'a> {
    cluster: &'a Str,
    authority: &'a str,
    path: &'a str,
    headers: HeaderMap,
    http2: bool,
}

/// Opens a POST whose body is still to come.
async fn open(worker: &Rc<Worker>, head: Head<'_>) -> Result<Exchange, CallError> {
    let Some(cluster) = worker.shared.clusters.get(head.cluster) else {
        return Err(CallError::NoCluster(head.cluster.clone()));
    };
    let Some(host) = worker.pools.pick(&cluster, &Pick::default()) else {
        cluster
            .stats
            .rq_none_healthy
            .fetch_add(1, Ordering::Relaxed);
        return Err(CallError::NoHost(head.cluster.clone()));
    };
    let protocol = match cluster.config.http.protocol {
        _ if head.http2 => UpstreamProtocol::Http2,
        UpstreamProtocol::Downstream => UpstreamProtocol::Http1,
        protocol => protocol,
    };
    cluster.stats.rq_total.fetch_add(1, Ordering::Relaxed);
    host.state.rq_total.fetch_add(1, Ordering::Relaxed);
    let lease = worker
        .pools
        .acquire(&cluster, &host, protocol, &ConnectionNeeds::default())
        .await
        .map_err(|error| CallError::Connect(error.to_string()))?;
    let outgoing = Outgoing {
        method: &Method::POST,
        https: host.transport.tls.is_some(),
        authority: &Bytes::copy_from_slice(head.authority.as_bytes()),
        path: &Bytes::copy_from_slice(head.path.as_bytes()),
        headers: &head.headers,
        case: None,
        body: BodyKind::Stream,
    };
    Exchange::start(lease, &outgoing, limits())
        .map_err(|error| CallError::Stream(error.to_string()))
}

/// A message with gRPC's five bytes before it.
fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(message.len() + 5);
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    out.put_slice(message);
    out.freeze()
}

/// Opens a gRPC call.
pub(super) async fn open_grpc(
    worker: &Rc<Worker>,
    target: &GrpcTarget,
    path: &str,
) -> Result<Exchange, CallError> {
    let mut headers = headers(worker, &target.metadata, target.timeout);
    headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    let authority = if target.authority.is_empty() {
        &target.cluster
    } else {
        &target.authority
    };
    let head = Head {
        cluster: &target.cluster,
        authority,
        path,
        headers,
        http2: true,
    };
    open(worker, head).await
}

/// Sends one message of a stream.
pub(super) async fn send_message(call: &mut Exchange, message: &[u8]) -> Result<(), CallError> {
    let broken =
        |error: meltemi_upstream::exchange::StreamError| CallError::Stream(error.to_string());
    call.send_data(framed(message), false).map_err(broken)?;
    std::future::poll_fn(|cx| call.poll_flush(cx))
        .await
        .map_err(broken)
}

/// One gRPC call whose answer says nothing.
pub(super) async fn grpc(
    worker: &Rc<Worker>,
    target: &GrpcTarget,
    path: &str,
    message: &[u8],
) -> Result<(), CallError> {
    let call = async {
        let mut call = open_grpc(worker, target, path).await?;
        call.send_data(framed(message), true)
            .map_err(|error| CallError::Stream(error.to_string()))?;
        finish(call).await
    };
    limited(target.timeout.unwrap_or(DEFAULT_TIMEOUT), call).await
}

/// One HTTP request whose answer says nothing.
pub(super) async fn http(
    worker: &Rc<Worker>,
    target: &HttpTarget,
    content_type: &'static str,
    body: Vec<u8>,
) -> Result<(), CallError> {
    let mut headers = headers(worker, &target.headers, Some(target.timeout));
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static(content_type),
    );
    let call = async {
        let head = Head {
            cluster: &target.cluster,
            authority: &target.host,
            path: &target.path,
            headers,
            http2: false,
        };
        let mut call = open(worker, head).await?;
        call.send_data(body.into(), true)
            .map_err(|error| CallError::Stream(error.to_string()))?;
        finish(call).await
    };
    limited(target.timeout, call).await
}

/// Deadline of calls whose configuration gives none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

async fn limited(
    limit: Duration,
    call: impl Future<Output = Result<(), CallError>>,
) -> Result<(), CallError> {
    tokio::time::timeout(limit, call)
        .await
        .unwrap_or(Err(CallError::Timeout))
}

/// Flushes the request and reads the answer to its end.
async fn finish(mut call: Exchange) -> Result<(), CallError> {
    let broken =
        |error: meltemi_upstream::exchange::StreamError| CallError::Stream(error.to_string());
    std::future::poll_fn(|cx| call.poll_flush(cx))
        .await
        .map_err(broken)?;
    let status = loop {
        let head = std::future::poll_fn(|cx| call.poll_response(cx))
            .await
            .map_err(broken)?;
        if !head.status.is_informational() {
            break head.status;
        }
    };
    loop {
        match std::future::poll_fn(|cx| call.poll_body(cx))
            .await
            .map_err(broken)?
        {
            Piece::End(_) => break,
            Piece::Data(_) | Piece::NeedMore => {}
        }
    }
    call.finish();
    if status.is_success() {
        Ok(())
    } else {
        Err(CallError::Status(status))
    }
}
