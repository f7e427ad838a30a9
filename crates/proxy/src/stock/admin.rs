//! A client of the engine's admin port, which is on loopback of the same network namespace.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Most bytes of an answer that are read: the metrics of a large mesh take tens of MiB.
const MAX_ANSWER: usize = 128 << 20;

/// Where the engine's admin port is.
#[derive(Debug, Clone, Copy)]
pub(super) struct EngineAdmin {
    address: SocketAddr,
}

impl EngineAdmin {
    pub(super) fn new(port: u16) -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        }
    }

    /// Reads a page.
    pub(super) async fn get(
        self,
        path: &str,
        deadline: Duration,
    ) -> Result<(StatusCode, Bytes), String> {
        self.within(Method::GET, path, deadline).await
    }

    /// Gives an order.
    pub(super) async fn post(self, path: &str, deadline: Duration) -> Result<(), String> {
        let (status, _) = self.within(Method::POST, path, deadline).await?;
        if status == StatusCode::OK {
            Ok(())
        } else {
            Err(format!("{path} answered {status}"))
        }
    }

    async fn within(
        self,
        method: Method,
        path: &str,
        deadline: Duration,
    ) -> Result<(StatusCode, Bytes), String> {
        tokio::time::timeout(deadline, self.call(method, path))
            .await
            .map_err(|_| format!("{path}: no answer within {} s", deadline.as_secs()))?
            .map_err(|error| format!("{path}: {error}"))
    }

    async fn call(
        self,
        method: Method,
        path: &str,
    ) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.address.to_string())
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())?;
        // The connection ends with the exchange, which `within` limits; a task would outlive a caller that gave up.
        let exchange = async move {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?;
            Ok((head.status, body.to_bytes()))
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            biased; // the answer counts, however the connection ends
            answer = &mut exchange => answer,
            _ = connection => exchange.await,
        }
    }
}
