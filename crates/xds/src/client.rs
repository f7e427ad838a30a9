//! The client of a proxy, in both variants of the protocol, aggregated or one type to a stream.
//!
//! Each response is handed to the [`Subscriber`], which applies it whole or refuses it; then its wishes are compared
//! with what is subscribed to and the difference is asked for. When the stream breaks, the client reconnects with
//! back-off, tells what it has, and the configuration in use stays as it is.

mod delta;
mod expiry;
mod service;
mod state_of_the_world;

use std::{collections::BTreeSet, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use meltemi_names::ArcStr;
use prost::Message;
use tokio::sync::{Notify, mpsc};
use tonic::{Request, Status, Streaming, client::Grpc, metadata::MetadataMap, transport::Channel};
use tonic_prost::ProstCodec;

use crate::resource::ResourceType;
use delta::Delta;
use expiry::Expiry;
pub use service::Service;
use state_of_the_world::StateOfTheWorld;

/// First pause before a reconnection; doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause before a reconnection (Istio's agent: about 30 s; a mesh on one machine should not wait so long).
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A stream that lived this long resets the back-off.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// Requests that may wait to be sent.
const REQUEST_QUEUE: usize = 64;
/// Largest response that is decoded, bytes.
const MAX_RESPONSE_BYTES: usize = 256 << 20;
/// The server must answer the first requests, and take later ones, within this time.
const SERVER_DEADLINE: Duration = Duration::from_secs(30);

/// A resource as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its name.
    pub name: ArcStr,
    /// Other names that it was asked for under.
    pub aliases: Vec<ArcStr>,
    /// The encoded message, without the `Any` around it.
    pub body: Bytes,
}

/// One response.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// Version of the whole response, as the server calls it.
    pub version: ArcStr,
    /// New and changed resources.
    pub resources: Vec<Received>,
    /// Names that are gone.
    pub removed: Vec<ArcStr>,
    /// Names that were asked for and do not exist.
    pub absent: Vec<ArcStr>,
}

/// What is wanted of a type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Everything that the server has for us.
    pub all: bool,
    /// These.
    pub names: BTreeSet<ArcStr>,
}

/// The user of the configuration.
pub trait Subscriber {
    /// Types that may be subscribed to, in the order in which they are asked for.
    fn kinds(&self) -> Vec<ResourceType>;

    /// What is wanted of a type now; `None` is no subscription. Asked after each update and each wake-up: the same
    /// `Arc` is nothing new.
    fn wanted(&self, kind: &ResourceType) -> Option<Arc<Wanted>>;

    /// Applies an update. What it accepts is in use when it returns.
    ///
    /// # Errors
    /// The reason with resource and field; the resources in use stay, and the server is told.
    fn apply(&mut self, kind: &ResourceType, update: Update) -> Result<(), String>;

    /// The connection came up or broke.
    fn connected(&mut self, _up: bool) {}

    /// A stream could not be opened or broke.
    fn failed(&mut self) {}
}

/// Opens channels; asked again for each stream, because certificates, roots and tokens change.
pub trait Connector {
    /// A channel and the metadata of the stream (`authorization`, `clusterid`).
    ///
    /// # Errors
    /// Why there is none; the client tries again.
    fn connect(&self) -> impl Future<Output = Result<(Channel, MetadataMap), String>>;
}

/// How a stream is spoken.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which service.
    pub service: Service,
    /// Only changes are sent.
    pub delta: bool,
    /// The node is sent with the first request only.
    pub node_once: bool,
}

/// One variant of the protocol: what it remembers across streams, and its messages.
trait Variant {
    type Request: Message + 'static;
    type Response: Message + Default + 'static;

    /// A stream opens: subscriptions are made anew.
    fn reset(&mut self);
    /// The request that turns the present subscription into `wanted`.
    fn subscribe(
        &mut self,
        kind: &ResourceType,
        wanted: Option<Arc<Wanted>>,
    ) -> Option<Self::Request>;
    /// Reads a response.
    fn update(&mut self, response: Self::Response) -> (ResourceType, Arrived);
    /// Accepts or refuses the last response of a type.
    fn answer(
        &mut self,
        kind: &ResourceType,
        receipt: Receipt,
        refusal: Option<String>,
    ) -> Self::Request;
    /// Forgets a resource that expired.
    fn expired(&mut self, kind: &ResourceType, name: &str);
    /// Puts the node in.
    fn set_node(request: &mut Self::Request, node: Node);
}

/// A response with what belongs to the protocol.
struct Arrived {
    update: Update,
    receipt: Receipt,
    /// Resources with a time to live, and heartbeats.
    lifetimes: Vec<(ArcStr, Option<Duration>)>,
}

/// What an answer to a response needs.
struct Receipt {
    nonce: String,
    /// Version of each resource (delta), of the response (state of the world).
    versions: Vec<(ArcStr, String)>,
    version: String,
    removed: Vec<ArcStr>,
}

/// Runs until it is dropped. `wake` makes it look at the subscriber's wishes again (new names on demand).
pub async fn run<C: Connector, S: Subscriber>(
    connector: &C,
    options: &Options,
    node: &Node,
    subscriber: &mut S,
    wake: &Notify,
) {
    if options.delta {
        keep_connected(connector, options, node, subscriber, wake, Delta::default()).await;
    } else {
        let variant = StateOfTheWorld::default();
        keep_connected(connector, options, node, subscriber, wake, variant).await;
    }
}

async fn keep_connected<C: Connector, S: Subscriber, V: Variant>(
    connector: &C,
    options: &Options,
    node: &Node,
    subscriber: &mut S,
    wake: &Notify,
    mut variant: V,
) {
    let mut pause = FIRST_PAUSE;
    let mut expiry = Expiry::default();
    loop {
        let started = tokio::time::Instant::now();
        let reason = match connector.connect().await {
            Ok((channel, metadata)) => {
                let mut stream = Stream {
                    options,
                    node,
                    subscriber: &mut *subscriber,
                    variant: &mut variant,
                    expiry: &mut expiry,
                };
                let reason = stream.run(channel, metadata, wake).await;
                reason.err().map_or_else(
                    || "closed by the server".to_owned(),
                    |status| status.to_string(),
                )
            }
            Err(reason) => reason,
        };
        subscriber.connected(false);
        subscriber.failed();
        if started.elapsed() > STABLE_AFTER {
            pause = FIRST_PAUSE;
        }
        let wait = pause.mul_f64(0.5 + fastrand::f64());
        tracing::warn!(
            reason,
            retry_in_ms = wait.as_millis(),
            "no connection to the control plane; configuration stays in use"
        );
        tokio::time::sleep(wait).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

struct Stream<'a, S, V> {
    options: &'a Options,
    node: &'a Node,
    subscriber: &'a mut S,
    variant: &'a mut V,
    expiry: &'a mut Expiry,
}

/// The sending half of a stream.
struct Requests<V: Variant> {
    sender: mpsc::Sender<V::Request>,
    /// Sent with each request, or with the first only.
    node: Option<Node>,
    once: bool,
}

impl<V: Variant> Requests<V> {
    async fn send(&mut self, mut request: V::Request) -> Result<(), Status> {
        let node = if self.once {
            self.node.take()
        } else {
            self.node.clone()
        };
        if let Some(node) = node {
            V::set_node(&mut request, node);
        }
        tokio::time::timeout(SERVER_DEADLINE, self.sender.send(request))
            .await
            .map_err(|_| Status::deadline_exceeded("no request was taken for 30 s"))?
            .map_err(|_| Status::cancelled("the stream has ended"))
    }
}

impl<S: Subscriber, V: Variant> Stream<'_, S, V> {
    async fn run(
        &mut self,
        channel: Channel,
        metadata: MetadataMap,
        wake: &Notify,
    ) -> Result<(), Status> {
        self.variant.reset();
        let (sender, receiver) = mpsc::channel(REQUEST_QUEUE);
        let mut requests = Requests::<V> {
            sender,
            node: Some(self.node.clone()),
            once: self.options.node_once,
        };
        self.follow_wishes(&mut requests).await?;
        let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
        *request.metadata_mut() = metadata;
        let opening = open::<V>(channel, self.options, request);
        let mut responses = tokio::time::timeout(SERVER_DEADLINE, opening)
            .await
            .map_err(|_| {
                Status::deadline_exceeded("no answer within 30 s of opening the stream")
            })??;
        self.subscriber.connected(true);
        loop {
            tokio::select! {
                biased; // configuration before new wishes: it may fulfil them
                response = responses.message() => {
                    let Some(response) = response? else { return Ok(()) };
                    self.answer(response, &mut requests).await?;
                }
                () = self.expiry.wait() => self.expire(),
                () = wake.notified() => {}
            }
            self.follow_wishes(&mut requests).await?;
        }
    }

    /// Applies a response and accepts or refuses it.
    async fn answer(
        &mut self,
        response: V::Response,
        requests: &mut Requests<V>,
    ) -> Result<(), Status> {
        let (kind, arrived) = self.variant.update(response);
        for (name, lifetime) in arrived.lifetimes {
            self.expiry.set(&kind, name, lifetime);
        }
        let refusal = self.subscriber.apply(&kind, arrived.update).err();
        if let Some(reason) = &refusal {
            tracing::warn!(kind = %kind, reason, "configuration refused; the previous one stays in use");
        }
        let answer = self.variant.answer(&kind, arrived.receipt, refusal);
        requests.send(answer).await
    }

    /// Removes what was not renewed in time.
    fn expire(&mut self) {
        for (kind, name) in self.expiry.take_due() {
            self.variant.expired(&kind, &name);
            let update = Update {
                removed: vec![name],
                ..Update::default()
            };
            if let Err(reason) = self.subscriber.apply(&kind, update) {
                tracing::warn!(kind = %kind, reason, "an expired resource could not be removed");
            }
        }
    }

    /// Subscribes to names that are wanted and not subscribed to, and the other way round.
    async fn follow_wishes(&mut self, requests: &mut Requests<V>) -> Result<(), Status> {
        for kind in self.subscriber.kinds() {
            let wanted = self.subscriber.wanted(&kind);
            if let Some(request) = self.variant.subscribe(&kind, wanted) {
                requests.send(request).await?;
            }
        }
        Ok(())
    }
}

async fn open<V: Variant>(
    channel: Channel,
    options: &Options,
    requests: Request<tokio_stream::wrappers::ReceiverStream<V::Request>>,
) -> Result<Streaming<V::Response>, Status> {
    let path = options
        .service
        .path(options.delta)
        .ok_or_else(|| Status::unimplemented("no service for this type and variant"))?;
    let mut grpc = Grpc::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
    grpc.ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<V::Request, V::Response>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    Ok(grpc.streaming(requests, path, codec).await?.into_inner())
}
