//! The engine's discovery stream: bytes from a unix socket into a TLS connection to the control plane.
//!
//! The engine speaks HTTP/2 without TLS; the control plane sees HTTP/2 over TLS from a client with the workload's
//! certificate, by which it knows whom it serves. Nothing of the stream is read here. When the connection breaks the
//! engine keeps its configuration and opens a new one.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use meltemi_identity::store::CertificateReader;
use meltemi_identity::{WorkloadCertificate, certificates, tls};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::Uri;

use crate::agent::AgentConfig;
use crate::agent::channel::connect;
use crate::agent::config::host_of;
use crate::standalone::{ProxyError, Task};

/// Connections of the engine at once; it needs one.
const MAX_CONNECTIONS: usize = 8;
/// Time for one attempt: address, connection and handshake.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(5);
/// The engine's connection is held this long while the control plane is away: the engine's own attempts are further
/// and further apart.
const HOLD: Duration = Duration::from_secs(20);
/// First pause between attempts; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// Only HTTP/2 is spoken.
const ALPN: &[u8] = b"h2";

/// Serves until the handle is dropped.
pub(super) fn serve(
    path: &Path,
    config: Arc<AgentConfig>,
    certificates: CertificateReader,
) -> Result<Task, ProxyError> {
    let listener = UnixListener::bind(path)?;
    let tunnel = Tunnel {
        config,
        certificates,
    };
    Ok(Task(tokio::spawn(accept(listener, tunnel))))
}

async fn accept(listener: UnixListener, tunnel: Tunnel) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // Connections end with this task, because the set owns them.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((engine, _)) => {
                let tunnel = tunnel.clone();
                connections.spawn(async move {
                    tunnel.carry(engine).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept of the discovery socket failed");
                tokio::time::sleep(FIRST_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// What a connection to the control plane needs.
#[derive(Debug, Clone)]
struct Tunnel {
    config: Arc<AgentConfig>,
    certificates: CertificateReader,
}

impl Tunnel {
    async fn carry(mut self, mut engine: UnixStream) {
        let address = self.config.discovery_address.clone();
        let held = tokio::time::timeout(HOLD, self.open());
        let mut control_plane = match held.await {
            Ok(stream) => stream,
            Err(_) => {
                tracing::warn!(
                    address,
                    "no connection to the control plane; configuration stays in use"
                );
                return;
            }
        };
        tracing::info!(address, "connected to the control plane");
        match tokio::io::copy_bidirectional(&mut engine, &mut control_plane).await {
            Ok(_) => tracing::info!(address, "connection to the control plane closed"),
            Err(error) => tracing::info!(address, %error, "connection to the control plane broke"),
        }
    }

    /// Tries until there is a connection; the caller limits the time.
    async fn open(&mut self) -> TlsStream<TcpStream> {
        let mut pause = FIRST_PAUSE;
        loop {
            let certificate = self.certificate().await;
            let attempt = tokio::time::timeout(ATTEMPT_DEADLINE, self.attempt(&certificate));
            let reason = match attempt.await {
                Ok(Ok(stream)) => return stream,
                Ok(Err(reason)) => reason,
                Err(_) => "timed out".to_owned(),
            };
            let address = &self.config.discovery_address;
            tracing::debug!(address, reason, "control plane not reached, trying again");
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// The current certificate; waits for the first one.
    async fn certificate(&mut self) -> Arc<WorkloadCertificate> {
        loop {
            let current = self.certificates.wait_for(Option::is_some).await;
            match current.ok().and_then(|current| current.clone()) {
                Some(certificate) => return certificate,
                // Its writer is gone: the agent is ending, and this task with it.
                None => std::future::pending().await,
            }
        }
    }

    async fn attempt(
        &self,
        certificate: &WorkloadCertificate,
    ) -> Result<TlsStream<TcpStream>, String> {
        let address = &self.config.discovery_address;
        let uri: Uri = format!("https://{address}")
            .parse()
            .map_err(|error| format!("address {address}: {error}"))?;
        let roots = tokio::fs::read_to_string(&self.config.root_cert)
            .await
            .map_err(|error| format!("read {}: {error}", self.config.root_cert.display()))?;
        let tls = client_config(&roots, certificate).map_err(|error| error.to_string())?;
        let name = ServerName::try_from(host_of(address).to_owned())
            .map_err(|error| format!("name of {address}: {error}"))?;
        let stream = connect(&uri, self.config.mark)
            .await
            .map_err(|error| format!("connect: {error}"))?;
        let stream = TlsConnector::from(Arc::new(tls))
            .connect(name, stream)
            .await
            .map_err(|error: io::Error| format!("TLS: {error}"))?;
        if stream.get_ref().1.alpn_protocol() == Some(ALPN) {
            Ok(stream)
        } else {
            Err("the server does not speak HTTP/2".to_owned())
        }
    }
}

/// Roots from the file, names by the usual rules, our own certificate.
fn client_config(
    roots: &str,
    own: &WorkloadCertificate,
) -> Result<ClientConfig, meltemi_identity::IdentityError> {
    let roots = tls::root_store(&certificates("root-cert.pem", roots)?)?;
    let mut config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(own.chain()?, own.key()?)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}
