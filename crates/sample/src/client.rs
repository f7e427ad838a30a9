//! A small HTTP client: one GET with a deadline, connections reused.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

/// Largest answer that is read, bytes.
const MAX_BODY: usize = 16 << 20;
/// Idle connections are closed after this long, before a peer's own idle limit does it.
const IDLE: Duration = Duration::from_secs(10);

/// Reusable connections to other services.
#[derive(Clone)]
pub(crate) struct HttpClient(Client<HttpConnector, Empty<Bytes>>);

impl HttpClient {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Self(client)
    }

    /// GETs a URL; the error is one sentence.
    pub(crate) async fn get(
        &self,
        url: &str,
        headers: &HeaderMap,
        deadline: Duration,
    ) -> Result<(StatusCode, Bytes), String> {
        let mut request = Request::get(url)
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        request.headers_mut().extend(
            headers
                .iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        let exchange = async {
            let response = self
                .0
                .request(request)
                .await
                .map_err(|error| error.to_string())?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_BODY)
                .collect()
                .await
                .map_err(|error| error.to_string())?;
            Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(deadline, exchange)
            .await
            .map_err(|_| format!("no answer within {deadline:?}"))?
    }
}
