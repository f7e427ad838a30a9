//! The incremental (delta) client of a proxy.
//!
//! One stream carries every type. Each response is handed to the [`Subscriber`], which applies it whole or refuses
//! it; then its wishes are compared with what is subscribed to and the difference is asked for. When the stream
//! breaks, the client reconnects with back-off, tells what it has, and the configuration in use stays as it is.

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    time::Duration,
};

use bytes::Bytes;
use envoy_types::pb::{
    envoy::{
        config::core::v3::Node,
        service::discovery::v3::{
            DeltaDiscoveryRequest, DeltaDiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::rpc::Status as RpcStatus,
};
use meltemi_names::ArcStr;
use tokio::sync::{Notify, mpsc};
use tonic::{Request, Status, metadata::MetadataMap, transport::Channel};

use crate::{resource::ResourceType, session::Names};

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
/// gRPC code of a refusal (INVALID_ARGUMENT), as Envoy sends it.
const REFUSED: i32 = 3;

/// A resource as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// Its name.
    pub name: ArcStr,
    /// The encoded message, without the `Any` around it.
    pub body: Bytes,
}

/// One response.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// New and changed resources.
    pub resources: Vec<Received>,
    /// Names that are gone.
    pub removed: Vec<ArcStr>,
}

/// The user of the configuration.
pub trait Subscriber {
    /// Types to subscribe to when a stream opens, in this order.
    fn initial(&self) -> Vec<ResourceType>;

    /// What is wanted of a type now. Asked after each update and each wake-up.
    fn wanted(&self, kind: &ResourceType) -> Names;

    /// Applies an update. What it accepts is in use when it returns.
    ///
    /// # Errors
    /// The reason with resource and field; the resources in use stay, and the server is told.
    fn apply(&mut self, kind: &ResourceType, update: Update) -> Result<(), String>;

    /// The connection came up or broke.
    fn connected(&mut self, _up: bool) {}
}

/// Opens channels; asked again for each stream, because certificates, roots and tokens change.
pub trait Connector {
    /// A channel and the metadata of the stream (`authorization`, `clusterid`).
    ///
    /// # Errors
    /// Why there is none; the client tries again.
    fn connect(&self) -> impl Future<Output = Result<(Channel, MetadataMap), String>>;
}

/// Runs until it is dropped. `wake` makes it look at the subscriber's wishes again (new names on demand).
pub async fn run<C: Connector, S: Subscriber>(
    connector: &C,
    node: &Node,
    subscriber: &mut S,
    wake: &Notify,
) {
    let mut versions = Versions::default();
    let mut pause = FIRST_PAUSE;
    loop {
        let started = tokio::time::Instant::now();
        let reason = match connector.connect().await {
            Ok((channel, metadata)) => {
                let reason = stream(channel, metadata, node, subscriber, &mut versions, wake).await;
                subscriber.connected(false);
                reason.err().map_or_else(
                    || "closed by the control plane".to_owned(),
                    |status| status.to_string(),
                )
            }
            Err(reason) => reason,
        };
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

/// What was accepted, by type and name: told to the server after a reconnection.
type Versions = HashMap<ResourceType, HashMap<ArcStr, String>>;

async fn stream<S: Subscriber>(
    channel: Channel,
    metadata: MetadataMap,
    node: &Node,
    subscriber: &mut S,
    versions: &mut Versions,
    wake: &Notify,
) -> Result<(), Status> {
    let (sender, receiver) = mpsc::channel(REQUEST_QUEUE);
    let mut requests = Requests {
        sender,
        node: Some(node.clone()),
        subscribed: HashMap::new(),
    };
    for kind in subscriber.initial() {
        requests.subscribe(&kind, subscriber, versions).await?;
    }
    let mut request = Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
    *request.metadata_mut() = metadata;
    let mut client = AggregatedDiscoveryServiceClient::new(channel)
        .max_decoding_message_size(MAX_RESPONSE_BYTES);
    let opening = client.delta_aggregated_resources(request);
    let mut responses = tokio::time::timeout(SERVER_DEADLINE, opening)
        .await
        .map_err(|_| Status::deadline_exceeded("no answer within 30 s of opening the stream"))??
        .into_inner();
    subscriber.connected(true);
    loop {
        tokio::select! {
            biased; // configuration before new wishes: it may fulfil them
            response = responses.message() => {
                let Some(response) = response? else { return Ok(()) };
                requests.answer(response, subscriber, versions).await?;
            }
            () = wake.notified() => {}
        }
        requests.follow_wishes(subscriber, versions).await?;
    }
}

struct Requests {
    sender: mpsc::Sender<DeltaDiscoveryRequest>,
    /// Sent with the first request only.
    node: Option<Node>,
    subscribed: HashMap<ResourceType, BTreeSet<ArcStr>>,
}

impl Requests {
    async fn send(&mut self, mut request: DeltaDiscoveryRequest) -> Result<(), Status> {
        request.node = self.node.take();
        tokio::time::timeout(SERVER_DEADLINE, self.sender.send(request))
            .await
            .map_err(|_| Status::deadline_exceeded("no request was taken for 30 s"))?
            .map_err(|_| Status::cancelled("the stream has ended"))
    }

    async fn subscribe<S: Subscriber>(
        &mut self,
        kind: &ResourceType,
        subscriber: &S,
        versions: &Versions,
    ) -> Result<(), Status> {
        let names = match subscriber.wanted(kind) {
            Names::All => BTreeSet::new(),
            Names::Some(names) if names.is_empty() => return Ok(()),
            Names::Some(names) => names,
        };
        let known = versions.get(kind).into_iter().flatten();
        let request = DeltaDiscoveryRequest {
            type_url: kind.url().to_owned(),
            resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
            initial_resource_versions: known
                .map(|(name, version)| (name.to_string(), version.clone()))
                .collect(),
            ..DeltaDiscoveryRequest::default()
        };
        self.subscribed.insert(kind.clone(), names);
        self.send(request).await
    }

    /// Applies a response and accepts or refuses it.
    async fn answer<S: Subscriber>(
        &mut self,
        response: DeltaDiscoveryResponse,
        subscriber: &mut S,
        versions: &mut Versions,
    ) -> Result<(), Status> {
        let kind = ResourceType::from_url(&response.type_url);
        let mut update = Update::default();
        let mut accepted = Vec::with_capacity(response.resources.len());
        for resource in response.resources {
            let name = ArcStr::from(resource.name.as_str());
            let Some(body) = resource.resource else {
                continue;
            };
            update.resources.push(Received {
                name: name.clone(),
                body: body.value.into(),
            });
            accepted.push((name, resource.version));
        }
        update.removed = response
            .removed_resources
            .iter()
            .map(|name| ArcStr::from(name.as_str()))
            .collect();
        let removed = update.removed.clone();
        let refusal = subscriber.apply(&kind, update).err();
        if let Some(reason) = &refusal {
            tracing::warn!(kind = %kind, reason, "configuration refused; the previous one stays in use");
        } else {
            let known = versions.entry(kind.clone()).or_default();
            known.extend(accepted);
            known.retain(|name, _| !removed.contains(name));
        }
        self.send(DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            error_detail: refusal.map(|message| RpcStatus {
                code: REFUSED,
                message,
                ..RpcStatus::default()
            }),
            ..DeltaDiscoveryRequest::default()
        })
        .await
    }

    /// Subscribes to names that are wanted and not subscribed to, and the other way round.
    async fn follow_wishes<S: Subscriber>(
        &mut self,
        subscriber: &S,
        versions: &mut Versions,
    ) -> Result<(), Status> {
        for kind in subscriber.initial() {
            let Names::Some(wanted) = subscriber.wanted(&kind) else {
                continue;
            };
            let Some(subscribed) = self.subscribed.get(&kind) else {
                self.subscribe(&kind, subscriber, versions).await?;
                continue;
            };
            let added: Vec<String> = wanted
                .difference(subscribed)
                .map(ToString::to_string)
                .collect();
            let dropped: Vec<String> = subscribed
                .difference(&wanted)
                .map(ToString::to_string)
                .collect();
            if added.is_empty() && dropped.is_empty() {
                continue;
            }
            if let Some(known) = versions.get_mut(&kind) {
                known.retain(|name, _| wanted.contains(name));
            }
            self.subscribed.insert(kind.clone(), wanted);
            self.send(DeltaDiscoveryRequest {
                type_url: kind.url().to_owned(),
                resource_names_subscribe: added,
                resource_names_unsubscribe: dropped,
                ..DeltaDiscoveryRequest::default()
            })
            .await?;
        }
        Ok(())
    }
}
