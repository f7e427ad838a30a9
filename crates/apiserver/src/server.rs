//! The listener: TLS with optional client certificates, HTTP/1.1 and HTTP/2, graceful end.
//!
//! Every connection is a task owned by the server: it ends by itself, with its client, or within
//! [`DRAIN`] of the stop signal.

use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::auth;
use crate::pki::Pki;
use crate::router;
use crate::state::{Api, stopped};

/// Connections at a time: a local cluster has dozens of clients.
const MAX_CONNECTIONS: usize = 1024;
/// Streams of one HTTP/2 connection: Kubernetes' default.
const MAX_STREAMS: u32 = 250;
/// Time for a TLS handshake, and for a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Dead HTTP/2 peers are noticed by pings this often.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long requests may go on after the stop signal.
const DRAIN: Duration = Duration::from_secs(3);
/// Pause after running out of descriptors, so that the loop does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// TLS from the cluster's PKI; client certificates are optional here and checked when shown.
pub(crate) fn tls(pki: &Pki) -> Result<TlsAcceptor, rustls::Error> {
    let other = |e: &dyn std::fmt::Display| rustls::Error::General(e.to_string());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pki.ca.as_bytes()) {
        roots.add(certificate.map_err(|e| other(&e))?)?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .map_err(|e| other(&e))?;
    let chain = CertificateDer::pem_slice_iter(pki.server.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| other(&e))?;
    let key = PrivateKeyDer::from_pem_slice(pki.server.key.as_bytes()).map_err(|e| other(&e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts until the stop signal, then drains.
pub(crate) async fn serve(listener: TcpListener, tls: TlsAcceptor, api: Arc<Api>) {
    let mut stopping = api.stopping.clone();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut stopping) => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((stream, slot)) => {
                let (tls, api) = (tls.clone(), Arc::clone(&api));
                connections.spawn(async move {
                    connection(stream, tls, api).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(error = %error, "accept failed");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        connections.shutdown().await;
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, api: Arc<Api>) {
    // Answers are small and waited for.
    let _ = stream.set_nodelay(true);
    let stream = match tokio::time::timeout(HEAD_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(error = %error, "tls handshake failed");
            return;
        }
        Err(_) => return,
    };
    let certificate = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| auth::user_of_certificate(chain.first()?))
        .map(Arc::new);
    let mut stopping = api.stopping.clone();
    let service = service_fn(move |request| {
        let (api, certificate) = (Arc::clone(&api), certificate.clone());
        async move { Ok::<_, std::convert::Infallible>(router::handle(api, certificate, request).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_EVERY);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %error, "connection ended");
    }
}
