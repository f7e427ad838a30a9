//! Resources for connected proxies: identity check, generation, status.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use envoy_types::pb::{envoy::config::core::v3::Node, google::protobuf::value::Kind};
use meltemi_identity::service::{Authenticator, Credentials, PeerCertificate};
use meltemi_names::SpiffeId;
use meltemi_telemetry::registry::GaugeGuard;
use meltemi_translate::{ProxyKind, ProxyView};
use meltemi_xds::{
    Resource, ResourceType,
    server::{Generator, Peer},
    session::{Names, SyncStatus},
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::Status;

use crate::{
    caller::KubernetesTokens,
    generate::Generated,
    metrics::Metrics,
    world::{State, World},
};

/// Answers discovery streams.
pub(crate) struct Discovery {
    world: Arc<World>,
    caller: Arc<KubernetesTokens>,
    generated: Generated,
    connections: Mutex<BTreeMap<u64, Connection>>,
    next: AtomicU64,
    metrics: Arc<Metrics>,
}

/// A connected proxy.
pub(crate) struct Client {
    number: u64,
    proxy: ProxyView,
    _counted: GaugeGuard,
}

/// What the debug pages show of a connected proxy.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// `pod.namespace`.
    pub(crate) proxy: String,
    /// Sidecar or router.
    pub(crate) kind: ProxyKind,
    /// Per type: how far it is, and why it refused.
    pub(crate) types: BTreeMap<ResourceType, (SyncStatus, Option<String>)>,
}

impl Discovery {
    pub(crate) fn new(
        world: Arc<World>,
        caller: Arc<KubernetesTokens>,
        metrics: Arc<Metrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            world,
            caller,
            generated: Generated::default(),
            connections: Mutex::default(),
            next: AtomicU64::new(1),
            metrics,
        })
    }

    /// All connected proxies.
    pub(crate) fn connections(&self) -> Vec<Connection> {
        self.connections.lock().values().cloned().collect()
    }

    /// The identity of a client must be the workload that its node claims to be (xDS identity check). On the
    /// plaintext port there is no identity, and nothing secret is served there.
    async fn check(&self, proxy: &ProxyView, peer: &Peer) -> Result<(), Status> {
        let Some(certificate) = peer.extensions.get::<PeerCertificate>() else {
            return Ok(());
        };
        let credentials = Credentials::from_parts(&peer.metadata, certificate);
        let identity = self
            .caller
            .authenticate(&credentials)
            .await
            .map_err(|reason| {
                tracing::warn!(proxy = %proxy.id, reason, "discovery refused");
                Status::unauthenticated("authentication failure")
            })?;
        let workload: SpiffeId = identity
            .parse()
            .map_err(|_| Status::unauthenticated("authentication failure"))?;
        let same_account =
            proxy.service_account.is_empty() || workload.service_account == proxy.service_account;
        if workload.namespace != proxy.namespace || !same_account {
            tracing::warn!(proxy = %proxy.id, identity, "discovery refused: the node is another workload than the caller");
            return Err(Status::permission_denied("authorization failure"));
        }
        Ok(())
    }
}

impl Generator for Discovery {
    type Snapshot = State;
    type Client = Client;

    async fn connect(&self, node: Node, peer: &Peer) -> Result<Client, Status> {
        let proxy = ProxyView::from_node(&node)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.check(&proxy, peer).await?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Connection {
            proxy: proxy.id.to_string(),
            kind: proxy.kind,
            types: BTreeMap::new(),
        };
        self.connections.lock().insert(number, connection);
        tracing::info!(proxy = %proxy.id, kind = ?proxy.kind, "proxy connected");
        let counted = self.metrics.connected.with([version(&node)]).hold();
        Ok(Client {
            number,
            proxy,
            _counted: counted,
        })
    }

    fn snapshots(&self) -> watch::Receiver<State> {
        self.world.states()
    }

    fn resources(
        &self,
        state: &State,
        client: &Client,
        kind: &ResourceType,
        names: &Names,
    ) -> Vec<Arc<Resource>> {
        self.generated.resources(state, &client.proxy, kind, names)
    }

    fn sent(&self, _: &Client, kind: &ResourceType, bytes: usize) {
        self.metrics.sent(kind, bytes);
    }

    fn pushed(&self, _: &Client, state: &State) {
        let time = state.since.elapsed().as_secs_f64();
        self.metrics.convergence.observe(time);
    }

    fn report(
        &self,
        client: &Client,
        kind: &ResourceType,
        status: SyncStatus,
        refusal: Option<&str>,
    ) {
        if let Some(reason) = refusal {
            self.metrics.refused(kind);
            tracing::warn!(proxy = %client.proxy.id, kind = %kind, reason, "proxy refused its configuration");
        }
        if let Some(connection) = self.connections.lock().get_mut(&client.number) {
            connection
                .types
                .insert(kind.clone(), (status, refusal.map(str::to_owned)));
        }
    }

    fn disconnected(&self, client: Client) {
        self.connections.lock().remove(&client.number);
        tracing::info!(proxy = %client.proxy.id, "proxy disconnected");
    }
}

/// Version of a proxy, as it says.
fn version(node: &Node) -> &str {
    let fields = node.metadata.as_ref().map(|metadata| &metadata.fields);
    let value = fields.and_then(|fields| fields.get("ISTIO_VERSION")?.kind.as_ref());
    match value {
        Some(Kind::StringValue(version)) => version,
        _ => "unknown",
    }
}
