//! The gRPC service: one task for each stream, driven by requests and by new snapshots.
//!
//! A stream keeps no queue of pushes: when a snapshot arrives while one is being sent, the next push starts from
//! the newest snapshot, so that a slow client gets one merged update. A dead stream ends with its task.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use envoy_types::pb::{
    envoy::{
        config::core::v3::{ControlPlane, Node},
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
            Resource as WireResource,
            aggregated_discovery_service_server::{
                AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
            },
        },
    },
    google::protobuf::Any,
};
use futures::{Stream, StreamExt};
use tokio::sync::{Semaphore, mpsc, watch};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use crate::{
    resource::{Resource, ResourceType},
    session::{Incoming, Outgoing, Protocol, Session, Source, SyncStatus},
};

/// Responses that may wait for a slow client before its task waits too.
const RESPONSE_QUEUE: usize = 16;
/// How long a push waits for a client to warm new clusters before it goes on.
const WARMING_DEADLINE: Duration = Duration::from_secs(5);
/// A client that opens a stream must say something within this time.
const FIRST_REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Largest request that is decoded, bytes (100,000 names of 80 bytes).
const MAX_REQUEST_BYTES: usize = 8 << 20;
/// Streams that compute a push at the same time.
const CONCURRENT_PUSHES: usize = 16;

/// The state of the world behind the service.
pub trait Generator: Send + Sync + 'static {
    /// One consistent state; cheap to clone.
    type Snapshot: Clone + Send + Sync + 'static;
    /// A connected client.
    type Client: Send + Sync + 'static;

    /// Admits a client: checks its identity against what its node says.
    ///
    /// # Errors
    /// `Unauthenticated` or `PermissionDenied`; the stream ends with it.
    fn connect(
        &self,
        node: Node,
        peer: &Peer,
    ) -> impl Future<Output = Result<Self::Client, Status>> + Send;

    /// The newest state, and a signal for each newer one.
    fn snapshots(&self) -> watch::Receiver<Self::Snapshot>;

    /// Recomputes what depends on the snapshot in a client (its own services, say) before a push.
    fn refresh(&self, client: &mut Self::Client, snapshot: &Self::Snapshot);

    /// The resources of a type for a client.
    fn resources(
        &self,
        snapshot: &Self::Snapshot,
        client: &Self::Client,
        kind: &ResourceType,
        names: &crate::session::Names,
    ) -> Vec<Arc<Resource>>;

    /// Told after each answer of a client: how far it is with a type, and why it refused.
    fn report(
        &self,
        client: &Self::Client,
        kind: &ResourceType,
        status: SyncStatus,
        refusal: Option<&str>,
    );

    /// The stream of a client has ended.
    fn disconnected(&self, client: Self::Client);
}

/// What the transport knows of a client.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// gRPC metadata of the stream (`authorization`, `clusterid`).
    pub metadata: MetadataMap,
    /// Extensions of the connection, such as the verified client certificate.
    pub extensions: http::Extensions,
}

/// The aggregated discovery service over a generator.
pub struct AdsService<G> {
    generator: Arc<G>,
    pushes: Arc<Semaphore>,
    streams: AtomicU64,
}

impl<G> std::fmt::Debug for AdsService<G> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdsService").finish_non_exhaustive()
    }
}

impl<G: Generator> AdsService<G> {
    /// The tonic service.
    #[must_use]
    pub fn new(generator: Arc<G>) -> AggregatedDiscoveryServiceServer<Self> {
        let service = Self {
            generator,
            pushes: Arc::new(Semaphore::new(CONCURRENT_PUSHES)),
            streams: AtomicU64::new(0),
        };
        AggregatedDiscoveryServiceServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES)
    }

    fn serve<W: Wire>(
        &self,
        request: Request<Streaming<W::Request>>,
    ) -> ResponseStream<W::Response> {
        let (metadata, extensions, requests) = request.into_parts();
        let (responses, receiver) = mpsc::channel(RESPONSE_QUEUE);
        let salt = format!(
            "{:08x}{:x}",
            fastrand::u32(..),
            self.streams.fetch_add(1, Ordering::Relaxed)
        );
        let stream = ClientStream::<G, W> {
            generator: Arc::clone(&self.generator),
            pushes: Arc::clone(&self.pushes),
            session: Session::new(W::PROTOCOL, salt),
            responses: responses.clone(),
        };
        tokio::spawn(async move {
            let peer = Peer {
                metadata,
                extensions,
            };
            if let Err(status) = stream.run(requests, &peer).await {
                tracing::debug!(%status, "discovery stream ended");
                // The receiver is gone when the client hung up; then nobody needs the status.
                let _ = responses.send(Err(status)).await;
            }
        });
        Box::pin(tokio_stream::wrappers::ReceiverStream::new(receiver))
    }
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl<G: Generator> AggregatedDiscoveryService for AdsService<G> {
    type StreamAggregatedResourcesStream = ResponseStream<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = ResponseStream<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.serve::<StateOfTheWorld>(request)))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(Response::new(self.serve::<Delta>(request)))
    }
}

struct ClientStream<G: Generator, W: Wire> {
    generator: Arc<G>,
    pushes: Arc<Semaphore>,
    session: Session,
    responses: mpsc::Sender<Result<W::Response, Status>>,
}

struct View<'a, G: Generator> {
    generator: &'a G,
    snapshot: G::Snapshot,
    client: &'a G::Client,
}

impl<G: Generator> Source for View<'_, G> {
    fn resources(&self, kind: &ResourceType, names: &crate::session::Names) -> Vec<Arc<Resource>> {
        self.generator
            .resources(&self.snapshot, self.client, kind, names)
    }
}

impl<G: Generator, W: Wire> ClientStream<G, W> {
    async fn run(mut self, mut requests: Streaming<W::Request>, peer: &Peer) -> Result<(), Status> {
        let first = tokio::time::timeout(FIRST_REQUEST_DEADLINE, requests.next())
            .await
            .map_err(|_| {
                Status::deadline_exceeded("no request within 10 s of opening the stream")
            })?;
        let Some(mut first) = first.transpose()? else {
            return Ok(());
        };
        let node = W::node(&mut first)
            .ok_or_else(|| Status::invalid_argument("the first request carries no node"))?;
        let mut client = self.generator.connect(node, peer).await?;
        let result = self.serve(first, requests, &mut client).await;
        self.generator.disconnected(client);
        result
    }

    async fn serve(
        &mut self,
        first: W::Request,
        mut requests: Streaming<W::Request>,
        client: &mut G::Client,
    ) -> Result<(), Status> {
        let generator = Arc::clone(&self.generator);
        let mut snapshots = generator.snapshots();
        let mut snapshot = snapshots.borrow_and_update().clone();
        self.generator.refresh(client, &snapshot);
        self.request(first, &snapshot, client).await?;
        let mut deadline = tokio::time::Instant::now();
        loop {
            let waiting = self.session.is_waiting();
            tokio::select! {
                biased; // requests first: an answer may be what the pending push waits for
                request = requests.next() => match request.transpose()? {
                    Some(request) => self.request(request, &snapshot, client).await?,
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(deadline), if waiting => {
                    tracing::debug!("a client did not warm its clusters in time; the push goes on");
                    let view = View { generator: &*generator, snapshot: snapshot.clone(), client };
                    let out = self.session.give_up_waiting(&view);
                    self.send(out).await?;
                }
                changed = snapshots.changed(), if !waiting => {
                    if changed.is_err() {
                        return Err(Status::unavailable("the control plane is shutting down"));
                    }
                    let permit = Arc::clone(&self.pushes).acquire_owned().await;
                    snapshot = snapshots.borrow_and_update().clone();
                    self.generator.refresh(client, &snapshot);
                    let view = View { generator: &*generator, snapshot: snapshot.clone(), client };
                    let out = self.session.push(&view);
                    drop(permit);
                    deadline = tokio::time::Instant::now() + WARMING_DEADLINE;
                    self.send(out).await?;
                }
            }
        }
    }

    async fn request(
        &mut self,
        request: W::Request,
        snapshot: &G::Snapshot,
        client: &G::Client,
    ) -> Result<(), Status> {
        let (kind, incoming) = W::incoming(request);
        let answered = !incoming.nonce.is_empty();
        let generator = Arc::clone(&self.generator);
        let view = View {
            generator: &*generator,
            snapshot: snapshot.clone(),
            client,
        };
        let out = self.session.request(&kind, incoming, &view);
        if answered
            && let Some((kind, status, refusal)) =
                self.session.status().find(|(known, ..)| **known == kind)
        {
            generator.report(client, kind, status, refusal);
        }
        self.send(out).await
    }

    async fn send(&self, out: Vec<Outgoing>) -> Result<(), Status> {
        for message in out {
            let gone = |_| Status::cancelled("the client is gone");
            self.responses
                .send(Ok(W::response(message)))
                .await
                .map_err(gone)?;
        }
        Ok(())
    }
}

/// How one variant looks on the wire.
trait Wire: Send + 'static {
    const PROTOCOL: Protocol;
    type Request: Send + 'static;
    type Response: Send + 'static;
    fn node(request: &mut Self::Request) -> Option<Node>;
    fn incoming(request: Self::Request) -> (ResourceType, Incoming);
    fn response(message: Outgoing) -> Self::Response;
}

struct StateOfTheWorld;
struct Delta;

fn control_plane() -> Option<ControlPlane> {
    Some(ControlPlane {
        identifier: concat!("meltemi/", env!("CARGO_PKG_VERSION")).to_owned(),
    })
}

fn any(kind: &ResourceType, resource: &Resource) -> Any {
    Any {
        type_url: kind.url().to_owned(),
        value: resource.body.to_vec(),
    }
}

impl Wire for StateOfTheWorld {
    const PROTOCOL: Protocol = Protocol::StateOfTheWorld;
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn node(request: &mut Self::Request) -> Option<Node> {
        request.node.take()
    }

    fn incoming(request: Self::Request) -> (ResourceType, Incoming) {
        let incoming = Incoming {
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
            subscribe: request.resource_names,
            ..Incoming::default()
        };
        (ResourceType::from_url(&request.type_url), incoming)
    }

    fn response(message: Outgoing) -> Self::Response {
        DiscoveryResponse {
            version_info: message.nonce.clone(),
            resources: message
                .resources
                .iter()
                .map(|resource| any(&message.kind, resource))
                .collect(),
            type_url: message.kind.url().to_owned(),
            nonce: message.nonce,
            control_plane: control_plane(),
            ..DiscoveryResponse::default()
        }
    }
}

impl Wire for Delta {
    const PROTOCOL: Protocol = Protocol::Delta;
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn node(request: &mut Self::Request) -> Option<Node> {
        request.node.take()
    }

    fn incoming(request: Self::Request) -> (ResourceType, Incoming) {
        let incoming = Incoming {
            nonce: request.response_nonce,
            error: request.error_detail.map(|status| status.message),
            subscribe: request.resource_names_subscribe,
            unsubscribe: request.resource_names_unsubscribe,
            known: request.initial_resource_versions,
        };
        (ResourceType::from_url(&request.type_url), incoming)
    }

    fn response(message: Outgoing) -> Self::Response {
        let wire = |resource: &Arc<Resource>| WireResource {
            name: resource.name.to_string(),
            version: resource.version_text(),
            resource: Some(any(&message.kind, resource)),
            ..WireResource::default()
        };
        DeltaDiscoveryResponse {
            system_version_info: message.nonce.clone(),
            resources: message.resources.iter().map(wire).collect(),
            removed_resources: message.removed.iter().map(ToString::to_string).collect(),
            type_url: message.kind.url().to_owned(),
            nonce: message.nonce.clone(),
            control_plane: control_plane(),
            ..DeltaDiscoveryResponse::default()
        }
    }
}
