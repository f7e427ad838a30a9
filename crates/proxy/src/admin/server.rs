//! hyper around a synchronous answer function.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Fields of every answer, as Envoy has them.
const FIXED: [(http::HeaderName, &str); 3] = [
    (http::header::CACHE_CONTROL, "no-cache, max-age=0"),
    (http::header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (http::header::SERVER, "envoy"),
];
/// Connections served at once; the endpoints are for operators and scrapers.
const MAX_CONNECTIONS: usize = 64;
/// A request head must arrive within this.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Content type of JSON.
pub(super) const JSON: &str = "application/json";

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
}

impl Answer {
    /// Plain text.
    pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=UTF-8",
            body: body.into(),
        }
    }

    /// JSON.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "callers build the value in place"
    )]
    pub(crate) fn json(value: serde_json::Value) -> Self {
        // Envoy indents by one space, and ends with the line.
        let mut body = Vec::new();
        let layout = serde_json::ser::PrettyFormatter::with_indent(b" ");
        let mut writer = serde_json::Serializer::with_formatter(&mut body, layout);
        // Writing values to memory does not fail.
        let _ = serde::Serialize::serialize(&value, &mut writer);
        body.push(b'\n');
        Self {
            status: StatusCode::OK,
            content_type: JSON,
            body: body.into(),
        }
    }
}

/// Binds an address and answers requests on it until the returned future is dropped.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) fn listen<H, F>(
    address: SocketAddr,
    handler: H,
) -> io::Result<(SocketAddr, impl Future<Output = ()> + Send)>
where
    H: Fn(http::request::Parts) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let socket = std::net::TcpListener::bind(address)?;
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let listener = TcpListener::from_std(socket)?;
    Ok((address, accept(listener, Arc::new(handler))))
}

async fn accept<H, F>(listener: TcpListener, handler: Arc<H>)
where
    H: Fn(http::request::Parts) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let handler = Arc::clone(&handler);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answered = handler(request.into_parts().0);
                async move { Ok::<_, Infallible>(response(answered.await)) }
            });
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT);
            if let Err(error) = builder
                .serve_connection(TokioIo::new(stream), service)
                .await
            {
                tracing::debug!(%error, "admin connection");
            }
            drop(permit);
        });
    }
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    let content_type = http::HeaderValue::from_static(answer.content_type);
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, content_type);
    for (name, value) in FIXED {
        headers.insert(name, http::HeaderValue::from_static(value));
    }
    response
}
