//! Calls of filters to other servers: one request, one response that fits into memory, a deadline, through the proxy's
//! own clusters and this worker's connections.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http::{Method, StatusCode};
use meltemi_traffic::Limit;
use meltemi_traffic::cluster::UpstreamProtocol;
use meltemi_traffic::ext_authz::GrpcTarget;
use meltemi_upstream::balance::Pick;
use meltemi_upstream::exchange::{BodyKind, Exchange, Outgoing};
use meltemi_upstream::outlier::Outcome;
use meltemi_upstream::pool::ConnectionNeeds;
use meltemi_wire::http1::Piece;
use meltemi_wire::http1::case::KeepCase;
use meltemi_wire::http1::head::HeadLimits;
use prost::Message;

use crate::stage::Upstreams;

/// Largest response that is read.
const MAX_RESPONSE: usize = 1 << 20;
/// Longest time of a call without a deadline of its own.
const LONGEST: Duration = Duration::from_secs(3600);
const HEAD_LIMITS: HeadLimits = HeadLimits {
    max_bytes: 80 * 1024,
    max_headers: 100,
    allow_chunked_length: false,
    keep_case: KeepCase::No,
};
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");

/// The address that the host sends from: that of its default route. Nothing is sent to find it out.
static OWN_ADDRESS: std::sync::LazyLock<Option<HeaderValue>> = std::sync::LazyLock::new(|| {
    let socket = std::net::UdpSocket::bind(("0.0.0.0", 0)).ok()?;
    // An address reserved for documentation: it is routed like any other far one.
    socket.connect(("192.0.2.1", 9)).ok()?;
    HeaderValue::from_str(&socket.local_addr().ok()?.ip().to_string()).ok()
});

/// Why a call brought no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The cluster does not exist.
    #[error("no such cluster")]
    NoCluster,
    /// No host may be used, or a circuit breaker is full.
    #[error("no host")]
    NoHost,
    /// The connection failed or broke.
    #[error("connection failed")]
    Broken,
    /// The response is too large or makes no sense.
    #[error("bad response")]
    BadResponse,
    /// It took too long.
    #[error("timeout")]
    Timeout,
    /// A gRPC service answered with this status.
    #[error("grpc status {0}")]
    Status(u32),
}

/// A request.
#[derive(Debug)]
pub struct Call {
    /// `:method`.
    pub method: Method,
    /// `:authority`.
    pub authority: Bytes,
    /// `:path`.
    pub path: Bytes,
    /// Other fields, none that frame the body.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// How the body is announced.
    pub framing: BodyKind,
    /// Our own address is named as the client.
    pub forwarded: bool,
}

/// A response.
#[derive(Debug)]
pub struct Response {
    /// `:status`.
    pub status: StatusCode,
    /// Fields.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
    /// Trailers.
    pub trailers: Option<HeaderMap>,
    /// Time from the request to the end of the response.
    pub took: Duration,
}

/// Makes a call.
///
/// # Errors
/// See [`CallError`]. Cancel-safe: a call that is dropped resets its stream or closes its connection.
pub async fn call(
    upstreams: &Upstreams,
    cluster: &str,
    call: Call,
    limit: Limit,
) -> Result<Response, CallError> {
    let mut call = call;
    call.headers
        .insert(INTERNAL, HeaderValue::from_static("true"));
    if let Some(limit) = limit {
        let millis = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        call.headers.insert(EXPECTED_TIMEOUT, millis.into());
    }
    if call.forwarded
        && let Some(own) = &*OWN_ADDRESS
    {
        call.headers.insert(FORWARDED_FOR, own.clone());
    }
    tokio::time::timeout(limit.unwrap_or(LONGEST), run(upstreams, cluster, call))
        .await
        .unwrap_or(Err(CallError::Timeout))
}

async fn run(upstreams: &Upstreams, name: &str, call: Call) -> Result<Response, CallError> {
    let cluster = upstreams.clusters.get(name).ok_or(CallError::NoCluster)?;
    let breaker = cluster.breaker(false);
    let _running = breaker
        .requests
        .admit(breaker.limits.max_requests)
        .ok_or(CallError::NoHost)?;
    let host = upstreams
        .pools
        .pick(&cluster, &Pick::default())
        .ok_or(CallError::NoHost)?;
    let _active = host.state.active.enter();
    let protocol = match cluster.config.http.protocol {
        UpstreamProtocol::Downstream => UpstreamProtocol::Http1,
        protocol => protocol,
    };
    let lease = upstreams
        .pools
        .acquire(&cluster, &host, protocol, &ConnectionNeeds::default())
        .await
        .map_err(|_| CallError::Broken)?;
    let started = tokio::time::Instant::now();
    let body = call.framing;
    let outgoing = Outgoing {
        method: &call.method,
        https: host.transport.tls.is_some(),
        authority: &call.authority,
        path: &call.path,
        headers: &call.headers,
        body,
        case: None,
    };
    let mut stream =
        Exchange::start(lease, &outgoing, HEAD_LIMITS).map_err(|_| CallError::Broken)?;
    if body != BodyKind::None {
        if !call.body.is_empty() {
            stream
                .send_data(call.body, false)
                .map_err(|_| CallError::Broken)?;
        }
        stream.send_end(None).map_err(|_| CallError::Broken)?;
    }
    let response = receive(&mut stream).await;
    match response {
        Ok(mut response) => {
            stream.finish();
            response.took = started.elapsed();
            cluster.stats.response(response.status.as_u16());
            cluster.report(&host, Outcome::response(response.status.as_u16()));
            Ok(response)
        }
        Err(error) => {
            stream.abort();
            cluster.report(&host, Outcome::ConnectFailed);
            Err(error)
        }
    }
}

async fn receive(stream: &mut Exchange) -> Result<Response, CallError> {
    let mut flushed = false;
    let start = loop {
        let start = std::future::poll_fn(|cx| {
            if !flushed {
                match stream.poll_flush(cx) {
                    std::task::Poll::Ready(Ok(())) => flushed = true,
                    // The peer may have answered before it closed: look at the response.
                    std::task::Poll::Ready(Err(_)) => flushed = true,
                    std::task::Poll::Pending => {}
                }
            }
            stream.poll_response(cx)
        })
        .await
        .map_err(|_| CallError::Broken)?;
        if !start.status.is_informational() {
            break start;
        }
    };
    let mut body = BytesMut::new();
    let mut trailers = None;
    while !stream.response_finished() {
        match std::future::poll_fn(|cx| stream.poll_body(cx)).await {
            Ok(Piece::Data(data)) => {
                if body.len() + data.len() > MAX_RESPONSE {
                    return Err(CallError::BadResponse);
                }
                body.put(data);
            }
            Ok(Piece::End(end)) => {
                trailers = end;
                break;
            }
            Ok(Piece::NeedMore) => return Err(CallError::BadResponse),
            Err(_) => return Err(CallError::Broken),
        }
    }
    Ok(Response {
        status: start.status,
        headers: start.headers,
        body: body.freeze(),
        trailers,
        took: Duration::ZERO,
    })
}

/// Makes a unary gRPC call. `path` is `/package.Service/Method`.
///
/// # Errors
/// See [`CallError`]; a status other than OK is one.
pub async fn unary<M: Message, R: Message + Default>(
    upstreams: &Upstreams,
    target: &GrpcTarget,
    path: &'static str,
    message: &M,
) -> Result<R, CallError> {
    let size = message.encoded_len();
    let mut body = BytesMut::with_capacity(size + 5);
    body.put_u8(0);
    body.put_u32(u32::try_from(size).map_err(|_| CallError::BadResponse)?);
    message
        .encode(&mut body)
        .map_err(|_| CallError::BadResponse)?;
    let mut headers: HeaderMap = target.metadata.iter().cloned().collect();
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if let Some(limit) = target.timeout
        && let Ok(value) = HeaderValue::from_str(&grpc_timeout(limit))
    {
        headers.insert(GRPC_TIMEOUT, value);
    }
    let authority = if target.authority.is_empty() {
        &target.cluster
    } else {
        &target.authority
    };
    let request = Call {
        method: Method::POST,
        authority: Bytes::copy_from_slice(authority.as_bytes()),
        path: Bytes::from_static(path.as_bytes()),
        headers,
        body: body.freeze(),
        framing: BodyKind::Stream,
        forwarded: true,
    };
    let response = call(upstreams, &target.cluster, request, target.timeout).await?;
    if response.status != StatusCode::OK {
        return Err(CallError::BadResponse);
    }
    let heads = [response.trailers.as_ref(), Some(&response.headers)];
    let status = heads
        .into_iter()
        .flatten()
        .find_map(|map| map.get("grpc-status"))
        .and_then(|value| value.to_str().ok()?.trim().parse::<u32>().ok())
        .ok_or(CallError::BadResponse)?;
    if status != 0 {
        return Err(CallError::Status(status));
    }
    let mut body = response.body;
    if body.len() < 5 || body.get_u8() != 0 {
        return Err(CallError::BadResponse);
    }
    let length = body.get_u32() as usize;
    if body.len() < length {
        return Err(CallError::BadResponse);
    }
    R::decode(body.split_to(length)).map_err(|_| CallError::BadResponse)
}

/// At most eight digits and a unit, as gRPC has it.
fn grpc_timeout(limit: Duration) -> String {
    let millis = limit.as_millis();
    if millis < 100_000_000 {
        format!("{millis}m")
    } else {
        format!("{}S", limit.as_secs().min(99_999_999))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_at_most_eight_digits() {
        assert_eq!(grpc_timeout(Duration::from_millis(200)), "200m");
        assert_eq!(grpc_timeout(Duration::from_secs(600)), "600000m");
        assert_eq!(grpc_timeout(Duration::from_secs(200_000)), "200000S");
    }
}
