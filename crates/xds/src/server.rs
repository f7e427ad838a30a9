//! The gRPC service: one task for each stream, driven by requests and by new snapshots.
//!
//! A stream keeps no queue of pushes: a push starts when the client has taken everything that was sent before, and
//! from the newest snapshot, so that a slow client gets one merged update. The task of a stream ends with it.

mod variant;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task,
    time::Duration,
};

use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        aggregated_discovery_service_server::{
            AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
        },
    },
};
use futures::{Stream, StreamExt};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use crate::{
    resource::{Resource, ResourceType},
    session::{Names, Outgoing, Session, Source, SyncStatus},
};
use variant::{Delta, StateOfTheWorld, Wire};

/// Responses that may wait for a slow client before its task waits too: those of one push.
const RESPONSE_QUEUE: usize = 8;
/// A client that takes nothing for this long is dead; it reconnects and tells what it has.
const SEND_DEADLINE: Duration = Duration::from_secs(60);
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

    /// The resources of a type for a client.
    fn resources(
        &self,
        snapshot: &Self::Snapshot,
        client: &Self::Client,
        kind: &ResourceType,
        names: &Names,
    ) -> Vec<Arc<Resource>>;

    /// A response with this many bytes of resources was handed to the transport.
    fn sent(&self, _client: &Self::Client, _kind: &ResourceType, _bytes: usize) {}

    /// A push of a new snapshot, which brought the client something, is complete.
    fn pushed(&self, _client: &Self::Client, _snapshot: &Self::Snapshot) {}

    /// Told after each answer of a client: how far it is with a type, and why it refused.
    fn report(
        &self,
        client: &Self::Client,
        kind: &ResourceType,
        status: SyncStatus,
        refusal: Option<&str>,
    );

    /// The stream of a client has ended. Called once for each client, also when its task is cut off.
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
        let mut task = JoinSet::new();
        task.spawn(async move {
            let peer = Peer {
                metadata,
                extensions,
            };
            if let Err(status) = stream.run(requests, &peer).await {
                tracing::debug!(%status, "discovery stream ended");
                // The receiver is gone when the client hung up; then nobody needs the status.
                let _ = tokio::time::timeout(SEND_DEADLINE, responses.send(Err(status))).await;
            }
        });
        Box::pin(Responses {
            receiver,
            _task: task,
        })
    }
}

type ResponseStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The responses of a stream and the task that makes them, which ends with it.
struct Responses<T> {
    receiver: mpsc::Receiver<Result<T, Status>>,
    _task: JoinSet<()>,
}

impl<T> Stream for Responses<T> {
    type Item = Result<T, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> task::Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx)
    }
}

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
    snapshot: &'a G::Snapshot,
    client: &'a G::Client,
}

impl<G: Generator> Source for View<'_, G> {
    fn resources(&self, kind: &ResourceType, names: &Names) -> Vec<Arc<Resource>> {
        self.generator
            .resources(self.snapshot, self.client, kind, names)
    }
}

/// A connected client; the generator hears of its end however it comes.
struct Connected<G: Generator> {
    generator: Arc<G>,
    client: Option<G::Client>,
}

impl<G: Generator> Connected<G> {
    fn client(&self) -> &G::Client {
        self.client.as_ref().expect("taken only by drop")
    }

    fn view<'a>(&'a self, snapshot: &'a G::Snapshot) -> View<'a, G> {
        View {
            generator: &self.generator,
            snapshot,
            client: self.client(),
        }
    }
}

impl<G: Generator> Drop for Connected<G> {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            self.generator.disconnected(client);
        }
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
        let client = self.generator.connect(node, peer).await?;
        let connected = Connected {
            generator: Arc::clone(&self.generator),
            client: Some(client),
        };
        self.serve(first, requests, connected).await
    }

    async fn serve(
        &mut self,
        first: W::Request,
        mut requests: Streaming<W::Request>,
        connected: Connected<G>,
    ) -> Result<(), Status> {
        let generator = Arc::clone(&self.generator);
        let mut snapshots = generator.snapshots();
        let mut snapshot = snapshots.borrow_and_update().clone();
        self.request(first, &snapshot, &connected).await?;
        let mut deadline = tokio::time::Instant::now();
        let mut pushing = false;
        loop {
            let waiting = self.session.is_waiting();
            if pushing && !waiting {
                pushing = false;
                generator.pushed(connected.client(), &snapshot);
            }
            tokio::select! {
                biased; // requests first: an answer may be what the pending push waits for
                request = requests.next() => match request.transpose()? {
                    Some(request) => self.request(request, &snapshot, &connected).await?,
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(deadline), if waiting => {
                    tracing::debug!("a client did not warm its clusters in time; the push goes on");
                    let out = self.session.give_up_waiting(&connected.view(&snapshot));
                    self.send(out, &connected).await?;
                }
                changed = newer(&self.responses, &mut snapshots), if !waiting => {
                    changed?;
                    let permit = Arc::clone(&self.pushes).acquire_owned().await;
                    snapshot = snapshots.borrow_and_update().clone();
                    let out = self.session.push(&connected.view(&snapshot));
                    drop(permit);
                    deadline = tokio::time::Instant::now() + WARMING_DEADLINE;
                    pushing = !out.is_empty();
                    self.send(out, &connected).await?;
                }
            }
        }
    }

    async fn request(
        &mut self,
        request: W::Request,
        snapshot: &G::Snapshot,
        connected: &Connected<G>,
    ) -> Result<(), Status> {
        let (kind, incoming) = W::incoming(request);
        let answered = !incoming.nonce.is_empty();
        let out = self
            .session
            .request(&kind, incoming, &connected.view(snapshot));
        if answered
            && let Some((kind, status, refusal)) =
                self.session.status().find(|(known, ..)| **known == kind)
        {
            self.generator
                .report(connected.client(), kind, status, refusal);
        }
        self.send(out, connected).await
    }

    async fn send(&self, out: Vec<Outgoing>, connected: &Connected<G>) -> Result<(), Status> {
        for message in out {
            let kind = message.kind.clone();
            let bytes = message.resources.iter().map(|one| one.body.len()).sum();
            let sending = self.responses.send(Ok(W::response(message)));
            tokio::time::timeout(SEND_DEADLINE, sending)
                .await
                .map_err(|_| Status::deadline_exceeded("the client took nothing for 60 s"))?
                .map_err(|_| Status::cancelled("the client is gone"))?;
            self.generator.sent(connected.client(), &kind, bytes);
        }
        Ok(())
    }
}

/// Resolves when the client has taken what was sent and there is a newer snapshot. Cancel-safe.
async fn newer<T, S>(
    responses: &mpsc::Sender<T>,
    snapshots: &mut watch::Receiver<S>,
) -> Result<(), Status> {
    responses
        .reserve_many(RESPONSE_QUEUE)
        .await
        .map_err(|_| Status::cancelled("the client is gone"))?;
    snapshots
        .changed()
        .await
        .map_err(|_| Status::unavailable("the control plane is shutting down"))
}
