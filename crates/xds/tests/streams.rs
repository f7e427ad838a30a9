//! The service over real connections: slow clients, dead clients, clients that warm clusters in their own time.

// A panic is how a test fails, also in what tests share.
#![allow(clippy::panic)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use envoy_types::pb::envoy::{
    config::core::v3::Node,
    service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use meltemi_names::ArcStr;
use meltemi_xds::{
    Resource, ResourceType,
    server::{AdsService, Generator, Peer},
    session::{Names, SyncStatus},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Code, Status, Streaming,
    transport::{Channel, Endpoint, Server},
};

use ResourceType::{Cluster, Endpoint as Eds, Route};

const DEADLINE: Duration = Duration::from_secs(10);
/// Larger than the window of the client below.
const LARGE: usize = 1 << 20;

async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, event)
        .await
        .unwrap_or_else(|_| panic!("waited 10 s for {what}"))
}

type World = BTreeMap<(ResourceType, &'static str), String>;

#[derive(Debug, PartialEq)]
enum Event {
    Sent(ResourceType),
    Disconnected,
}

/// Serves whatever world it is given; a cluster waits for the endpoints of its name.
struct Fake {
    worlds: watch::Sender<Arc<World>>,
    events: mpsc::Sender<Event>,
}

impl Generator for Fake {
    type Snapshot = Arc<World>;
    type Client = ();

    async fn connect(&self, _: Node, _: &Peer) -> Result<(), Status> {
        Ok(())
    }

    fn snapshots(&self) -> watch::Receiver<Arc<World>> {
        self.worlds.subscribe()
    }

    fn resources(
        &self,
        world: &Arc<World>,
        (): &(),
        kind: &ResourceType,
        names: &Names,
    ) -> Vec<Arc<Resource>> {
        let wanted = |name: &str| match names {
            Names::All => true,
            Names::Some(names) => names.contains(name),
        };
        let of_kind = world
            .iter()
            .filter(|((own, name), _)| own == kind && wanted(name));
        of_kind
            .map(|((_, name), text)| {
                let waits_for = (*kind == Cluster).then(|| ArcStr::from(*name));
                Resource::new(*name, text.clone(), waits_for)
            })
            .collect()
    }

    fn sent(&self, (): &(), kind: &ResourceType, _: usize) {
        self.events.try_send(Event::Sent(kind.clone())).ok(); // at the end of a test nobody listens
    }

    fn report(&self, (): &(), _: &ResourceType, _: SyncStatus, _: Option<&str>) {}

    fn disconnected(&self, (): ()) {
        self.events.try_send(Event::Disconnected).ok(); // as above
    }
}

struct Service {
    worlds: watch::Sender<Arc<World>>,
    events: mpsc::Receiver<Event>,
    channel: Channel,
    _server: JoinSet<()>,
}

impl Service {
    async fn start(world: World) -> Self {
        let (worlds, _) = watch::channel(Arc::new(world));
        let (events, seen) = mpsc::channel(256);
        let fake = Arc::new(Fake {
            worlds: worlds.clone(),
            events,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let mut server = JoinSet::new();
        server.spawn(async move {
            let served = Server::builder()
                .add_service(AdsService::new(fake))
                .serve_with_incoming(TcpListenerStream::new(listener));
            served.await.expect("served");
        });
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .expect("address")
            .initial_stream_window_size(65_535);
        let channel = soon("a connection", endpoint.connect()).await;
        Self {
            worlds,
            events: seen,
            channel: channel.expect("connect"),
            _server: server,
        }
    }

    fn publish(&self, world: World) {
        self.worlds.send_replace(Arc::new(world));
    }

    async fn event(&mut self) -> Event {
        soon("an event", self.events.recv()).await.expect("served")
    }

    async fn open(&self) -> Client {
        let (requests, receiver) = mpsc::channel(16);
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel.clone())
            .max_decoding_message_size(4 * LARGE);
        let opening = client.delta_aggregated_resources(ReceiverStream::new(receiver));
        Client {
            requests,
            responses: soon("a stream", opening).await.expect("open").into_inner(),
            node: Some(Node::default()),
        }
    }
}

/// A delta client that does only what it is told to.
struct Client {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    node: Option<Node>,
}

impl Client {
    async fn send(&mut self, request: DeltaDiscoveryRequest) {
        let node = self.node.take();
        self.requests
            .send(DeltaDiscoveryRequest { node, ..request })
            .await
            .expect("open");
    }

    async fn subscribe(&mut self, kind: &ResourceType, names: &[&str]) {
        self.send(DeltaDiscoveryRequest {
            type_url: kind.url().to_owned(),
            resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    async fn accept(&mut self, response: &DeltaDiscoveryResponse) {
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        })
        .await;
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        soon("a response", self.responses.message())
            .await
            .expect("no error")
            .expect("open")
    }

    /// The next response as kind, texts and removed names; accepted.
    async fn take(&mut self) -> (ResourceType, Vec<String>, Vec<String>) {
        let response = self.next().await;
        self.accept(&response).await;
        let texts = response.resources.iter().map(text).collect();
        (
            ResourceType::from_url(&response.type_url),
            texts,
            response.removed_resources,
        )
    }
}

fn text(resource: &envoy_types::pb::envoy::service::discovery::v3::Resource) -> String {
    let body = resource.resource.as_ref().expect("a body");
    let end = body.value.iter().position(|byte| *byte == b' ');
    let shown = &body.value[..end.unwrap_or(body.value.len())];
    String::from_utf8(shown.to_vec()).expect("text")
}

/// Endpoints of version `version`, too many for the window.
fn large(version: usize) -> World {
    [((Eds, "a"), format!("v{version} {}", "x".repeat(LARGE)))].into()
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

#[tokio::test]
async fn a_slow_client_gets_one_merged_push() {
    let mut service = Service::start(large(1)).await;
    let mut client = service.open().await;
    client.subscribe(&Eds, &["a"]).await;
    assert_eq!(service.event().await, Event::Sent(Eds));
    // The first response fills the window; the second one waits to be taken.
    service.publish(large(2));
    assert_eq!(service.event().await, Event::Sent(Eds));
    for version in 3..=40 {
        service.publish(large(version));
        tokio::task::yield_now().await;
    }
    let mut got = Vec::new();
    while got.last().is_none_or(|last| last != "v40") {
        let (kind, mut texts, _) = client.take().await;
        assert_eq!(kind, Eds);
        got.append(&mut texts);
    }
    // What the transport had taken before it was full, and one merged push.
    assert!(got.len() <= 5, "{got:?}");
    for _ in 2..got.len() {
        assert_eq!(service.event().await, Event::Sent(Eds));
    }
    assert!(service.events.try_recv().is_err(), "nothing was sent twice");
}

#[tokio::test]
async fn the_task_of_a_dead_stream_ends_also_while_it_sends() {
    let mut service = Service::start(large(1)).await;
    let mut client = service.open().await;
    client.subscribe(&Eds, &["a"]).await;
    assert_eq!(service.event().await, Event::Sent(Eds));
    drop(client);
    assert_eq!(service.event().await, Event::Disconnected);

    // Full window and full queue: the task waits to send.
    let mut client = service.open().await;
    client.subscribe(&Eds, &["a"]).await;
    assert_eq!(service.event().await, Event::Sent(Eds));
    for _ in 0..16 {
        client.subscribe(&Eds, &["a"]).await;
    }
    for _ in 0..8 {
        assert_eq!(service.event().await, Event::Sent(Eds));
    }
    drop(client);
    loop {
        if service.event().await == Event::Disconnected {
            break;
        }
    }
}

#[tokio::test]
async fn a_route_waits_for_a_client_that_asks_for_endpoints_late() {
    let world = |cluster: &'static str| -> World {
        [
            ((Cluster, cluster), format!("{cluster}1")),
            ((Eds, cluster), format!("{cluster}-endpoints")),
            ((Route, "r"), format!("to-{cluster}")),
        ]
        .into()
    };
    let service = Service::start(world("a")).await;
    let mut client = service.open().await;
    for (kind, names, expected) in [
        (Cluster, &[][..], "a1"),
        (Eds, &["a"], "a-endpoints"),
        (Route, &["r"], "to-a"),
    ] {
        client.subscribe(&kind, names).await;
        let (got, list, _) = client.take().await;
        assert_eq!((got, list), (kind, texts(&[expected])));
    }

    service.publish(world("b"));
    assert_eq!(client.take().await, (Cluster, texts(&["b1"]), vec![]));
    // Requests are handled in order: this answer comes after the acceptance, and the route is not before it.
    client.subscribe(&Route, &["nowhere"]).await;
    assert_eq!(client.take().await, (Route, vec![], texts(&["nowhere"])));
    client.subscribe(&Eds, &["b"]).await;
    assert_eq!(client.take().await, (Eds, texts(&["b-endpoints"]), vec![]));
    assert_eq!(client.take().await, (Route, texts(&["to-b"]), vec![]));
    assert_eq!(
        client.take().await,
        (Cluster, vec![], texts(&["a"])),
        "the old cluster goes last"
    );
}

#[tokio::test]
async fn a_stream_must_tell_who_it_is() {
    let service = Service::start(World::new()).await;
    let mut client = service.open().await;
    client.node = None;
    client.subscribe(&Cluster, &[]).await;
    let refused = soon("an answer", client.responses.message()).await;
    let status = refused.expect_err("refused");
    assert_eq!(
        (status.code(), status.message()),
        (Code::InvalidArgument, "the first request carries no node")
    );
}
