//! gRPC channels to the control plane: our mark on the socket, TLS against the mesh's roots.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use meltemi_capture::socket_options::set_mark;
use meltemi_xds::client::Connector;
use tokio::net::{TcpSocket, TcpStream};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Uri};

use super::config::{AgentConfig, host_of};

/// Time for a connection to the control plane.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A dead control plane is noticed within this, although nothing is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Opens channels for the CSR client.
#[derive(Debug, Clone)]
pub(crate) struct CaChannel {
    config: Arc<AgentConfig>,
}

impl CaChannel {
    pub(crate) fn new(config: Arc<AgentConfig>) -> Self {
        Self { config }
    }

    /// A channel that connects when it is used.
    pub(super) async fn open(&self) -> Result<Channel, String> {
        open(&self.config, &self.config.ca_address).await
    }
}

/// Opens channels for the discovery stream.
#[derive(Debug)]
pub(super) struct AdsConnector {
    config: Arc<AgentConfig>,
}

impl AdsConnector {
    pub(super) fn new(config: Arc<AgentConfig>) -> Self {
        Self { config }
    }
}

impl Connector for AdsConnector {
    async fn connect(&self) -> Result<(Channel, MetadataMap), String> {
        let channel = open(&self.config, &self.config.discovery_address).await?;
        let token = tokio::fs::read_to_string(&self.config.token)
            .await
            .map_err(|error| format!("read {}: {error}", self.config.token.display()))?;
        let mut metadata = MetadataMap::new();
        let bearer = MetadataValue::try_from(format!("Bearer {}", token.trim()))
            .map_err(|_| "the token holds bytes that no header can carry".to_owned())?;
        metadata.insert("authorization", bearer);
        if let Some(Ok(cluster)) = self
            .config
            .metadata
            .get("CLUSTER_ID")
            .map(|id| MetadataValue::try_from(id.as_str()))
        {
            metadata.insert("clusterid", cluster);
        }
        Ok((channel, metadata))
    }
}

async fn open(config: &AgentConfig, address: &str) -> Result<Channel, String> {
    let roots = tokio::fs::read(&config.root_cert)
        .await
        .map_err(|error| format!("read {}: {error}", config.root_cert.display()))?;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(roots))
        .domain_name(host_of(address));
    let endpoint = Endpoint::from_shared(format!("https://{address}"))
        .and_then(|endpoint| endpoint.tls_config(tls))
        .map_err(|error| format!("control plane address {address}: {error}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_while_idle(true);
    let mark = config.mark;
    let connector =
        tower::service_fn(
            move |uri: Uri| async move { connect(&uri, mark).await.map(TokioIo::new) },
        );
    endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| format!("connect to {address}: {}", chain(&error)))
}

/// The whole chain of reasons: the outermost alone says only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// Connects to host and port of a URI, with our mark.
pub(crate) async fn connect(uri: &Uri, mark: Option<u32>) -> io::Result<TcpStream> {
    let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the address needs host and port",
        ));
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(mark) = mark {
            set_mark(&socket, mark)?;
        }
        match socket.connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
