//! Channels to discovery servers that are clusters of this proxy.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use meltemi_traffic::balance::PickState;
use meltemi_traffic::discovery::StreamSource;
use meltemi_upstream::balance::Pick;
use meltemi_upstream::connect::{Dial, dial};
use meltemi_upstream::stream::Stream;
use meltemi_xds::client::Connector;
use parking_lot::Mutex;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::state::Shared;

/// A dead server is noticed within this, although nothing is sent.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Opens channels to a cluster.
#[derive(Debug)]
pub(super) struct ClusterConnector {
    shared: Arc<Shared>,
    stream: Arc<StreamSource>,
}

impl ClusterConnector {
    pub(super) fn new(shared: Arc<Shared>, stream: Arc<StreamSource>) -> Self {
        Self { shared, stream }
    }

    async fn dial(&self) -> Result<Stream, String> {
        let name = &self.stream.cluster;
        let cluster = self.shared.clusters.get(name);
        let cluster = cluster.ok_or_else(|| format!("no cluster {name}"))?;
        // A state of its own: streams are opened rarely, and start anywhere.
        let host = cluster
            .hosts
            .load()
            .pick(&mut PickState::default(), &Pick::default())
            .cloned();
        let host = host.ok_or_else(|| format!("cluster {name} has no healthy host"))?;
        let http2 = [b"h2".to_vec()];
        let dialling = Dial {
            target: &host.target,
            more_targets: &host.more_targets,
            proxy_protocol: None,
            bind: &cluster.config.bind,
            keepalive: cluster.config.keepalive,
            defaults: self.shared.sockets,
            timeout: cluster.config.connect_timeout,
            tls: host.transport.tls.as_ref(),
            alpn: Some(&http2),
            sni: None,
        };
        dial(dialling)
            .await
            .map_err(|error| format!("connect to {} of cluster {name}: {error}", host.address))
    }

    fn metadata(&self) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        for (name, value) in &self.stream.initial_metadata {
            let key = MetadataKey::<Ascii>::from_bytes(name.as_bytes());
            let value = MetadataValue::try_from(value.as_str());
            match (key, value) {
                (Ok(key), Ok(value)) => {
                    metadata.append(key, value);
                }
                _ => tracing::warn!(%name, "initial metadata that no header can carry"),
            }
        }
        metadata
    }
}

impl Connector for ClusterConnector {
    async fn connect(&self) -> Result<(Channel, MetadataMap), String> {
        let stream = self.dial().await?;
        let authority = if self.stream.authority.is_empty() {
            &self.stream.cluster
        } else {
            &self.stream.authority
        };
        let uri = Uri::builder()
            .scheme("http")
            .authority(authority.as_str())
            .path_and_query("/")
            .build()
            .unwrap_or_else(|_| Uri::from_static("http://discovery/"));
        // One connection for one stream: the next stream picks a host anew.
        let slot = Arc::new(Mutex::new(Some(stream)));
        let connector = tower::service_fn(move |_: Uri| {
            let stream = slot.lock().take();
            std::future::ready(
                stream
                    .map(TokioIo::new)
                    .ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)),
            )
        });
        let channel = Endpoint::from(uri)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .connect_with_connector(connector)
            .await
            .map_err(|error| format!("cluster {}: {error}", self.stream.cluster))?;
        Ok((channel, self.metadata()))
    }
}
