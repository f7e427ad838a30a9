//! Connections that the API server makes itself: to kubelets and to admission webhooks.
//!
//! Webhooks behind a Service live in the node's network, which the server does not share: they are
//! reached through the node's HTTP CONNECT proxy on a unix socket. Every wait has a deadline.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::pki::Pair;

/// Time for connecting and the TLS handshake; everything is on this machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer of the CONNECT proxy before the tunnel starts.
const PROXY_HEAD_LIMIT: usize = 4096;

/// A byte stream to a peer.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Why a peer was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Connecting failed.
    #[error("dial {target}: {source}")]
    Connect {
        /// Host and port.
        target: String,
        /// Why.
        source: std::io::Error,
    },
    /// The CONNECT proxy refused.
    #[error("dial {target} through the node: {reason}")]
    Proxy {
        /// Host and port.
        target: String,
        /// First line of its answer.
        reason: String,
    },
    /// Not a server name or not a certificate.
    #[error("{0}")]
    Config(String),
    /// Took too long.
    #[error("dial {target}: timed out")]
    Timeout {
        /// Host and port.
        target: String,
    },
}

/// Makes connections.
#[derive(Debug)]
pub struct Dialer {
    kubelet: Arc<ClientConfig>,
    egress: PathBuf,
}

impl Dialer {
    /// `client` is the certificate shown to kubelets; `egress` is the node's CONNECT socket.
    ///
    /// # Errors
    /// When the certificates do not parse.
    pub fn new(ca: &str, client: &Pair, egress: PathBuf) -> Result<Self, DialError> {
        let config = |e: &dyn std::fmt::Display| DialError::Config(e.to_string());
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(client.certificate.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|e| config(&e))?;
        let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes()).map_err(|e| config(&e))?;
        let kubelet = builder()
            .with_root_certificates(roots(ca)?)
            .with_client_auth_cert(chain, key)
            .map_err(|e| config(&e))?;
        Ok(Self {
            kubelet: Arc::new(kubelet),
            egress,
        })
    }

    /// TLS to a kubelet.
    ///
    /// # Errors
    /// When it is not reachable or not trusted.
    pub async fn kubelet(&self, host: &str, port: u16) -> Result<Box<dyn Stream>, DialError> {
        let target = format!("{host}:{port}");
        deadline(&target, async {
            let tcp = tcp(host, port).await?;
            tls(&target, Arc::clone(&self.kubelet), host, tcp).await
        })
        .await
    }

    /// TLS to a webhook, verified against `ca_bundle` (PEM) for `server_name`.
    ///
    /// # Errors
    /// When it is not reachable or not trusted.
    pub async fn webhook(&self, target: &WebhookTarget<'_>) -> Result<Box<dyn Stream>, DialError> {
        let name = format!("{}:{}", target.host, target.port);
        let config = builder()
            .with_root_certificates(roots(target.ca_bundle)?)
            .with_no_client_auth();
        deadline(&name, async {
            if target.through_node {
                let tunnel = self.tunnel(&name).await?;
                tls(&name, Arc::new(config), target.server_name, tunnel).await
            } else {
                let tcp = tcp(target.host, target.port).await?;
                tls(&name, Arc::new(config), target.server_name, tcp).await
            }
        })
        .await
    }

    async fn tunnel(&self, target: &str) -> Result<UnixStream, DialError> {
        let connect = |source| DialError::Connect {
            target: target.to_owned(),
            source,
        };
        let mut stream = UnixStream::connect(&self.egress).await.map_err(connect)?;
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(connect)?;
        // One byte at a time: what follows the head belongs to TLS.
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") && head.len() < PROXY_HEAD_LIMIT {
            head.push(stream.read_u8().await.map_err(connect)?);
        }
        let head = String::from_utf8_lossy(&head);
        let first = head.lines().next().unwrap_or_default();
        if first.split(' ').nth(1) == Some("200") {
            return Ok(stream);
        }
        Err(DialError::Proxy {
            target: target.to_owned(),
            reason: first.to_owned(),
        })
    }
}

/// Where an admission webhook is.
#[derive(Debug)]
pub struct WebhookTarget<'a> {
    /// IP address or host.
    pub host: &'a str,
    /// Port.
    pub port: u16,
    /// Name in the certificate.
    pub server_name: &'a str,
    /// Trusted CAs, PEM.
    pub ca_bundle: &'a str,
    /// Through the node's network (Services) or directly (URLs).
    pub through_node: bool,
}

fn builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
}

fn roots(pem: &str) -> Result<RootCertStore, DialError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        certificate
            .map_err(|e| e.to_string())
            .and_then(|c| roots.add(c).map_err(|e| e.to_string()))
            .map_err(|e| DialError::Config(format!("CA bundle: {e}")))?;
    }
    Ok(roots)
}

async fn tcp(host: &str, port: u16) -> Result<TcpStream, DialError> {
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|source| DialError::Connect {
            target: format!("{host}:{port}"),
            source,
        })?;
    // Small requests and answers: waiting to fill a segment only costs time.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

async fn tls<S: Stream + 'static>(
    target: &str,
    config: Arc<ClientConfig>,
    server_name: &str,
    stream: S,
) -> Result<Box<dyn Stream>, DialError> {
    let name = ServerName::try_from(server_name.to_owned())
        .map_err(|e| DialError::Config(format!("{server_name}: {e}")))?;
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|source| DialError::Connect {
            target: target.to_owned(),
            source,
        })?;
    Ok(Box::new(stream))
}

async fn deadline<T>(
    target: &str,
    work: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    tokio::time::timeout(CONNECT_TIMEOUT, work)
        .await
        .unwrap_or_else(|_| {
            Err(DialError::Timeout {
                target: target.to_owned(),
            })
        })
}
