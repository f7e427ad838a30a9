//! A client for both HTTP versions, with hyper.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{Body, Proxy, full, soon};

/// What the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// Both, for tests that hold for each.
pub(crate) const BOTH: [Version; 2] = [Version::Http1, Version::Http2];

impl Version {
    /// As access logs print it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// A connection to a proxy.
pub(crate) enum Client {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

/// A complete answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Client {
    pub(crate) async fn connect(proxy: &Proxy, version: Version) -> Self {
        let stream = TokioIo::new(proxy.connect().await);
        match version {
            Version::Http1 => {
                let (client, connection) = http1::handshake(stream).await.unwrap();
                tokio::spawn(connection);
                Self::Http1(client)
            }
            Version::Http2 => {
                let handshake = http2::handshake(TokioExecutor::new(), stream);
                let (client, connection) = handshake.await.unwrap();
                tokio::spawn(connection);
                Self::Http2(client)
            }
        }
    }

    /// Sends a request; the URI has to be absolute (`http://host/path`).
    pub(crate) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::Http1(client) => {
                client.ready().await?;
                client.send_request(origin_form(request)).await
            }
            Self::Http2(client) => {
                client.ready().await?;
                client.send_request(request).await
            }
        }
    }

    /// Sends a request and takes the whole answer.
    pub(crate) async fn call(&mut self, request: Request<Body>) -> Answer {
        let response = soon("response", self.send(request)).await.unwrap();
        answer(response).await
    }

    /// GETs a path.
    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        let request = Request::get(format!("http://server.test{path}"));
        self.call(request.body(full("")).unwrap()).await
    }
}

/// Takes the rest of an answer.
pub(crate) async fn answer(response: Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let collected = soon("body", body.collect()).await.unwrap();
    let trailers = collected.trailers().cloned();
    let body = String::from_utf8_lossy(&collected.to_bytes()).into_owned();
    Answer {
        status: head.status,
        headers: head.headers,
        body,
        trailers,
    }
}

fn origin_form(mut request: Request<Body>) -> Request<Body> {
    let uri = request.uri().clone();
    let host = uri.authority().unwrap().as_str().parse().unwrap();
    request.headers_mut().insert(http::header::HOST, host);
    *request.uri_mut() = uri.path_and_query().unwrap().as_str().parse().unwrap();
    request
}

/// A body whose pieces come through a channel.
pub(crate) fn piecewise() -> (mpsc::Sender<Bytes>, BoxBody<Bytes, Infallible>) {
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let pieces = futures::StreamExt::map(ReceiverStream::new(receiver), |piece| {
        Ok::<_, Infallible>(Frame::data(piece))
    });
    (sender, StreamBody::new(pieces).boxed())
}

/// The next piece of a body.
pub(crate) async fn piece(body: &mut Incoming) -> Bytes {
    let frame = soon("piece", body.frame()).await.unwrap().unwrap();
    frame.into_data().unwrap()
}
