//! The kubelet's HTTPS API: logs, exec, attach and port-forward, for the API server only.
//!
//! Callers must show a client certificate of the cluster's CA whose organization is
//! `system:masters` (the API server's kubelet client). Paths are Kubernetes' own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::Kubelet;
use super::logs::{LogQuery, LogReader};

mod exec;
mod port_forward;
mod query;
mod spdy;

use query::Query;

type Body = BoxBody<Bytes, std::io::Error>;

/// A caller has this long for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections served at once.
const CONNECTIONS: usize = 256;

/// The files of the server.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// The CA that callers' certificates must come from.
    pub(crate) ca: PathBuf,
}

/// Why the server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A certificate or key cannot be read.
    #[error("{path}: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// TLS refuses the files.
    #[error("kubelet TLS: {0}")]
    Tls(String),
}

/// TLS settings from the files.
pub(crate) fn acceptor(files: &Certificates) -> Result<TlsAcceptor, ServerError> {
    let wrong = |path: &PathBuf, reason: String| ServerError::Certificate {
        path: path.clone(),
        reason,
    };
    let read = |path: &PathBuf| std::fs::read(path).map_err(|error| wrong(path, error.to_string()));
    let certificates = |path: &PathBuf| -> Result<Vec<CertificateDer<'static>>, ServerError> {
        CertificateDer::pem_slice_iter(&read(path)?)
            .map(|der| der.map_err(|error| wrong(path, error.to_string())))
            .collect()
    };
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
        .map_err(|error| wrong(&files.key, error.to_string()))?;
    let tls = |error: &dyn std::fmt::Display| ServerError::Tls(error.to_string());
    let mut roots = rustls::RootCertStore::empty();
    for ca in certificates(&files.ca)? {
        roots.add(ca).map_err(|error| tls(&error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| tls(&error))?;
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| tls(&error))?
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(&files.certificate)?, key)
        .map_err(|error| tls(&error))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until the task is dropped.
pub(crate) async fn serve(kubelet: Arc<Kubelet>, listener: TcpListener, acceptor: TlsAcceptor) {
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "kubelet connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (kubelet, acceptor) = (Arc::clone(&kubelet), acceptor.clone());
        tokio::spawn(async move {
            if let Err(error) = connection(kubelet, stream, acceptor).await {
                tracing::debug!(error, "kubelet connection ended");
            }
            drop(slot);
        });
    }
}

async fn connection(
    kubelet: Arc<Kubelet>,
    stream: TcpStream,
    acceptor: TlsAcceptor,
) -> Result<(), String> {
    let stream = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream))
        .await
        .map_err(|_| "TLS handshake took too long".to_owned())?
        .map_err(|error| error.to_string())?;
    let allowed = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .is_some_and(|certificate| is_master(certificate));
    let service = hyper::service::service_fn(move |request| {
        let kubelet = Arc::clone(&kubelet);
        async move {
            let response = if allowed {
                answer(kubelet, request).await
            } else {
                text(
                    StatusCode::FORBIDDEN,
                    "only the API server may call the kubelet",
                )
            };
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
        .map_err(|error| error.to_string())
}

/// Whether the certificate's organization is `system:masters`. The chain is verified already; what
/// is looked for is the attribute's DER: OID 2.5.4.10, then a string.
fn is_master(certificate: &CertificateDer<'_>) -> bool {
    const ORGANIZATION: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x0a];
    const MASTERS: &[u8] = b"system:masters";
    let bytes = certificate.as_ref();
    bytes
        .windows(ORGANIZATION.len() + 2 + MASTERS.len())
        .any(|window| {
            let value = &window[ORGANIZATION.len() + 2..];
            window.starts_with(ORGANIZATION)
                && usize::from(window[ORGANIZATION.len() + 1]) == MASTERS.len()
                && value == MASTERS
        })
}

async fn answer(kubelet: Arc<Kubelet>, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match (request.method(), parts.as_slice()) {
        (&Method::GET, ["healthz"]) => text(StatusCode::OK, "ok"),
        (&Method::GET, ["containerLogs", namespace, pod, container]) => {
            logs(&kubelet, (namespace, pod, container), &query)
        }
        (&Method::GET | &Method::POST, ["exec", namespace, pod, container]) => {
            let place = (*namespace, *pod, *container);
            exec::start(&kubelet, place, &query, request)
        }
        (&Method::GET | &Method::POST, ["portForward", namespace, pod]) => {
            port_forward::start(&kubelet, (namespace, pod), request)
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let body = Full::new(Bytes::from(text.into()))
        .map_err(|never| match never {})
        .boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn logs(
    kubelet: &Kubelet,
    (namespace, pod, container): (&str, &str, &str),
    query: &Query,
) -> Response<Body> {
    let previous = query.flag("previous");
    let found = match kubelet.find(namespace, pod) {
        Some(runtime) => runtime.read(|state| {
            let record = state.containers.get(container)?;
            Some(if previous {
                record.previous_log.clone()
            } else {
                record.log.clone()
            })
        }),
        None => kubelet
            .log_on_disk(namespace, pod, container, previous)
            .map(Some),
    };
    let log = match found {
        None => {
            let message = format!("container {container} is not valid for pod {pod}");
            return text(StatusCode::NOT_FOUND, message);
        }
        Some(None) => {
            let message = if previous {
                format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")
            } else {
                format!(
                    "container \"{container}\" in pod \"{pod}\" is waiting to start: ContainerCreating"
                )
            };
            return text(StatusCode::BAD_REQUEST, message);
        }
        Some(Some(log)) => log,
    };
    let asked = asked(query);
    let reader = match LogReader::new(log, asked) {
        Ok(reader) => reader,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let pieces = futures::stream::unfold(reader, |mut reader| async {
        match reader.next().await {
            Ok(Some(piece)) => Some((Ok(Frame::data(Bytes::from(piece))), reader)),
            Ok(None) => None,
            Err(error) => Some((Err(error), reader)),
        }
    });
    let mut response = Response::new(BodyExt::boxed(StreamBody::new(pieces.boxed_sync())));
    response
        .headers_mut()
        .insert("content-type", http::HeaderValue::from_static("text/plain"));
    response
}

fn asked(query: &Query) -> LogQuery {
    let number = |name: &str| {
        query
            .get(name)
            .and_then(|value| value.parse::<usize>().ok())
    };
    let since = query
        .get("sinceSeconds")
        .and_then(|value| value.parse::<i64>().ok());
    let since = since.and_then(|seconds| {
        Timestamp::now()
            .checked_sub(SignedDuration::from_secs(seconds))
            .ok()
    });
    LogQuery {
        follow: query.flag("follow"),
        timestamps: query.flag("timestamps"),
        tail_lines: number("tailLines"),
        limit_bytes: number("limitBytes"),
        since: since.or_else(|| query.get("sinceTime").and_then(|time| time.parse().ok())),
    }
}

trait BoxedSync: futures::Stream + Sized {
    fn boxed_sync(self) -> std::pin::Pin<Box<dyn futures::Stream<Item = Self::Item> + Send + Sync>>
    where
        Self: Send + Sync + 'static,
    {
        Box::pin(self.map(std::convert::identity))
    }
}
impl<S: futures::Stream> BoxedSync for S {}
