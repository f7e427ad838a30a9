//! One check: the question over HTTP/1, HTTP/2, gRPC or plain TCP, and what the answer says.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, StatusCode};
use meltemi_traffic::cluster::{HealthCheck, HealthCheckKind, HttpCheck};
use meltemi_traffic::endpoint::Address;
use meltemi_traffic::health::CheckResult;
use meltemi_wire::http1::head::HeadLimits;
use meltemi_wire::http1::{Framing, Piece};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cluster::Cluster;
use crate::connect::{Dial, SocketDefaults, Target, dial};
use crate::host::Host;
use crate::http1::{Conn, Http1Error};
use crate::stream::Stream;

const DEGRADED: HeaderName = HeaderName::from_static("x-envoy-degraded");
const AGENT: HeaderValue = HeaderValue::from_static("Envoy/HC");
/// Most of an answer that is read; more is no answer to a health check.
const MAX_ANSWER: usize = 64 * 1024;

/// Asks one host one question again and again.
pub(super) struct Prober<'a> {
    cluster: &'a Cluster,
    host: &'a Host,
    settings: &'a HealthCheck,
    defaults: SocketDefaults,
    target: Target,
    alpn: Option<Vec<Vec<u8>>>,
    /// Kept between checks where that is asked for (HTTP/1).
    conn: Option<Conn>,
}

impl<'a> Prober<'a> {
    pub(super) fn new(
        cluster: &'a Cluster,
        host: &'a Host,
        settings: &'a HealthCheck,
        defaults: SocketDefaults,
    ) -> Self {
        let asked = &host.endpoint.check;
        let target = match &asked.address {
            Some(Address::Socket(address)) => Target::Tcp(*address),
            _ => host.target.clone(),
        };
        let target = match (target, asked.port) {
            (Target::Tcp(address), Some(port)) => Target::Tcp((address.ip(), port).into()),
            (target, _) => target,
        };
        let alpn: Vec<Vec<u8>> = settings
            .alpn
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        Self {
            cluster,
            host,
            settings,
            defaults,
            target,
            alpn: (!alpn.is_empty()).then_some(alpn),
            conn: None,
        }
    }

    /// Gives the kept connection up.
    pub(super) fn close(&mut self) {
        self.conn = None;
    }

    /// Asks. Cancel-safe in that dropping the future closes the connection.
    pub(super) async fn ask(&mut self) -> CheckResult {
        let answer = match &self.settings.kind {
            HealthCheckKind::Tcp { send, receive } => self.ask_tcp(send, receive).await,
            HealthCheckKind::Http(check) if check.http2 => self.ask_http2(check).await,
            HealthCheckKind::Http(check) => self.ask_http1(check).await,
            HealthCheckKind::Grpc { service, authority } => self.ask_grpc(service, authority).await,
        };
        answer.unwrap_or(CheckResult::Network)
    }

    async fn connect(&self) -> Option<Stream> {
        dial(Dial {
            target: &self.target,
            more_targets: &[],
            bind: &self.cluster.config.bind,
            keepalive: None,
            defaults: self.defaults,
            timeout: self.settings.timeout,
            tls: self.host.transport.tls.as_ref(),
            alpn: self.alpn.as_deref(),
            sni: None,
            proxy_protocol: None,
        })
        .await
        .ok()
    }

    async fn ask_tcp(&self, send: &[u8], receive: &[Vec<u8>]) -> Option<CheckResult> {
        let mut stream = self.connect().await?;
        let passed = CheckResult::Passed { degraded: false };
        if !send.is_empty() {
            stream.write_all(send).await.ok()?;
            stream.flush().await.ok()?;
        }
        let mut have = Vec::new();
        let mut chunk = [0_u8; 1024];
        while !contains_in_order(&have, receive) {
            let count = stream.read(&mut chunk).await.ok()?;
            if count == 0 || have.len() + count > MAX_ANSWER {
                return None;
            }
            have.extend_from_slice(&chunk[..count]);
        }
        Some(passed)
    }

    async fn ask_http1(&mut self, check: &HttpCheck) -> Option<CheckResult> {
        let mut conn = match self.conn.take().and_then(reusable) {
            Some(conn) => conn,
            None => Conn::new(self.connect().await?),
        };
        let headers = self.headers(check);
        let host = self.authority(&check.host);
        conn.send_request(
            &check.method,
            check.path.as_bytes(),
            host.as_bytes(),
            &headers,
            Framing::None,
        );
        let limits = HeadLimits {
            max_bytes: MAX_ANSWER,
            ..HeadLimits::default()
        };
        let head = poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = conn.poll_flush(cx) {
                return Poll::Ready(Err(Http1Error::from(error)));
            }
            loop {
                match conn.poll_response(cx, &limits, &check.method) {
                    Poll::Ready(Ok(head)) if head.status.is_informational() => {}
                    other => return other,
                }
            }
        })
        .await
        .ok()?;
        let mut read = 0;
        while let Piece::Data(data) = poll_fn(|cx| conn.poll_body(cx)).await.ok()? {
            read += data.len();
            if read > MAX_ANSWER {
                return None;
            }
        }
        if head.keep_alive {
            conn.release_buffers();
            self.conn = Some(conn);
        }
        Some(judge(check, head.status, &head.headers))
    }

    async fn ask_http2(&self, check: &HttpCheck) -> Option<CheckResult> {
        let mut request = self.http2_head(&check.method, &check.host, &check.path)?;
        *request.headers_mut() = self.headers(check);
        let (status, headers, _) = self.exchange(request, None).await?;
        Some(judge(check, status, &headers))
    }

    async fn ask_grpc(&self, service: &str, authority: &str) -> Option<CheckResult> {
        let path = "/grpc.health.v1.Health/Check";
        let mut request = self.http2_head(&Method::POST, authority, path)?;
        let headers = request.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        let millis = self.settings.timeout.as_millis();
        if let Ok(timeout) = HeaderValue::from_str(&format!("{millis}m")) {
            headers.insert("grpc-timeout", timeout);
        }
        headers.insert(USER_AGENT, AGENT);
        let (status, headers, answer) = self.exchange(request, Some(question(service))).await?;
        if status != StatusCode::OK {
            return Some(CheckResult::Failed);
        }
        let code = answer
            .trailers
            .as_ref()
            .and_then(|trailers| trailers.get("grpc-status"))
            .or_else(|| headers.get("grpc-status"));
        let fine = code.is_some_and(|code| code == "0") && is_serving(&answer.body);
        Some(if fine {
            CheckResult::Passed {
                degraded: headers.contains_key(&DEGRADED),
            }
        } else {
            CheckResult::Failed
        })
    }

    fn headers(&self, check: &HttpCheck) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, AGENT);
        for (name, value) in &check.add {
            headers.insert(name.clone(), value.clone());
        }
        headers
    }

    /// The endpoint's own name for checks, the check's, or the cluster's.
    fn authority<'n>(&'n self, given: &'n str) -> &'n str {
        let own = &self.host.endpoint.check.hostname;
        if !own.is_empty() {
            own
        } else if !given.is_empty() {
            given
        } else {
            &self.cluster.config.name
        }
    }

    fn http2_head(&self, method: &Method, host: &str, path: &str) -> Option<http::Request<()>> {
        let scheme = if self.host.transport.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let uri = http::Uri::builder()
            .scheme(scheme)
            .authority(self.authority(host).replace('|', "_"))
            .path_and_query(path)
            .build()
            .ok()?;
        let request = http::Request::builder().method(method).uri(uri);
        request.version(http::Version::HTTP_2).body(()).ok()
    }

    async fn exchange(
        &self,
        request: http::Request<()>,
        body: Option<Bytes>,
    ) -> Option<(StatusCode, HeaderMap, Answer)> {
        let stream = self.connect().await?;
        let (send, connection) = h2::client::handshake(stream).await.ok()?;
        let asked = async move {
            let mut send = send.ready().await.ok()?;
            let (response, mut out) = send.send_request(request, body.is_none()).ok()?;
            if let Some(body) = body {
                out.send_data(body, true).ok()?;
            }
            let (head, mut body) = response.await.ok()?.into_parts();
            let mut answer = Answer::default();
            while let Some(data) = body.data().await {
                let data = data.ok()?;
                body.flow_control().release_capacity(data.len()).ok()?;
                if answer.body.len() + data.len() > MAX_ANSWER {
                    return None;
                }
                answer.body.extend_from_slice(&data);
            }
            answer.trailers = body.trailers().await.ok()?;
            Some((head.status, head.headers, answer))
        };
        tokio::select! {
            biased;
            answer = asked => answer,
            _ = connection => None,
        }
    }
}

/// What came after a head.
#[derive(Debug, Default)]
struct Answer {
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

fn reusable(mut conn: Conn) -> Option<Conn> {
    conn.is_reusable().then_some(conn)
}

fn judge(check: &HttpCheck, status: StatusCode, headers: &HeaderMap) -> CheckResult {
    let code = status.as_u16();
    let within = |ranges: &[(u16, u16)]| ranges.iter().any(|(a, b)| (*a..*b).contains(&code));
    let expected = if check.expected.is_empty() {
        code == 200
    } else {
        within(&check.expected)
    };
    if expected {
        CheckResult::Passed {
            degraded: headers.contains_key(&DEGRADED),
        }
    } else if within(&check.retriable) {
        CheckResult::Retriable
    } else {
        CheckResult::Failed
    }
}

/// Every block, in order, anywhere in what was received.
fn contains_in_order(have: &[u8], blocks: &[Vec<u8>]) -> bool {
    let mut rest = have;
    blocks.iter().all(|block| {
        let found = rest
            .windows(block.len().max(1))
            .position(|window| window == block.as_slice());
        found.is_some_and(|at| {
            rest = &rest[at + block.len()..];
            true
        })
    })
}

/// `HealthCheckRequest{service}` in a gRPC frame.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        prost_length(service.len(), &mut message);
        message.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0_u8];
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&message);
    frame.into()
}

fn prost_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
        length >>= 7;
    }
    out.push(u8::try_from(length).unwrap_or(0));
}

/// `HealthCheckResponse{status: SERVING}` in a gRPC frame.
fn is_serving(body: &[u8]) -> bool {
    body == [0, 0, 0, 0, 2, 0x08, 0x01]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_in_order_with_anything_between() {
        let blocks = [b"ab".to_vec(), b"cd".to_vec()];
        assert!(contains_in_order(b"xxabyycd", &blocks));
        assert!(!contains_in_order(b"cdab", &blocks));
        assert!(!contains_in_order(b"ab", &blocks));
        assert!(contains_in_order(b"", &[]));
    }

    #[test]
    fn a_question_about_a_service_is_a_framed_message() {
        assert_eq!(question("").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(
            question("ab").as_ref(),
            [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']
        );
    }
}
