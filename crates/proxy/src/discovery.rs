//! Configuration that comes and goes while the proxy runs: the bootstrap's resources, files and gRPC feed one engine.
//!
//! [`hub`] holds all state and no I/O. [`run`] drives it: one task for each source ([`file`], [`grpc`], or the agent's
//! channel to the control plane), one loop for waits that end and for names on demand ([`demand`]). Everything runs on
//! the main thread, so that an update is applied whole before the next one is looked at.

mod clusters;
pub(crate) mod demand;
mod file;
mod grpc;
mod hub;
mod listeners;
mod routes;
mod secrets;
mod wishes;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use meltemi_proto::envoy::config::core::v3::Node;
use meltemi_traffic::discovery::{Source, StreamSource};
use meltemi_xds::ResourceType;
use meltemi_xds::client::{self, Connector, Options, Service, Subscriber, Update, Wanted};
use tokio::sync::Notify;

use crate::standalone::Task;
use grpc::ClusterConnector;
pub(crate) use hub::{Hub, SharedHub};
use wishes::Subscription;

/// Types of the aggregated stream, in the order in which they are asked for.
const KINDS: [ResourceType; 7] = [
    ResourceType::Cluster,
    ResourceType::Endpoint,
    ResourceType::Listener,
    ResourceType::Route,
    ResourceType::VirtualHost,
    ResourceType::Secret,
    ResourceType::ExtensionConfig,
];

/// Who serves the aggregated stream.
pub(crate) enum Aggregated<C> {
    /// Nobody.
    None,
    /// A cluster of this proxy.
    Cluster(Arc<StreamSource>),
    /// Whoever the agent connects to; incremental.
    Agent(C),
}

/// A connector for proxies without agent.
pub(crate) enum Never {}

impl Connector for Never {
    async fn connect(
        &self,
    ) -> Result<(tonic::transport::Channel, tonic::metadata::MetadataMap), String> {
        match *self {}
    }
}

/// A source's stream: one for the aggregated source, else one for each type.
type StreamKey = (Source, Option<ResourceType>);

/// Follows all sources for ever; call inside a `LocalSet`.
pub(crate) async fn run<C: Connector + 'static>(
    hub: SharedHub,
    node: Node,
    aggregated: Aggregated<C>,
) {
    let shared = Arc::clone(&hub.borrow().shared);
    let mut asked = shared.demand.serve();
    let mut activated = shared.clusters.activated();
    let mut sources = Sources {
        hub: Rc::clone(&hub),
        node: Rc::new(node),
        aggregated: Rc::new(aggregated),
        changed: Rc::new(Notify::new()),
        running: HashMap::new(),
    };
    loop {
        sources.follow_wishes();
        let deadline = hub.borrow().next_deadline();
        let watches = hub.borrow().watches_files();
        let wait = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(file::POLL), if watches => {
                hub.borrow_mut().look_at_secret_files();
            }
            Some(name) = asked.recv() => hub.borrow_mut().demand(name),
            () = sources.changed.notified() => {}
            _ = activated.changed() => {
                for error in hub.borrow_mut().settle() {
                    tracing::error!(%error, "configuration cannot be used");
                }
            }
            () = wait => hub.borrow_mut().end_waits(tokio::time::Instant::now()),
        }
    }
}

struct Sources<C> {
    hub: SharedHub,
    node: Rc<Node>,
    aggregated: Rc<Aggregated<C>>,
    /// An update was applied.
    changed: Rc<Notify>,
    running: HashMap<StreamKey, (Rc<Notify>, Task)>,
}

impl<C: Connector + 'static> Sources<C> {
    /// Starts the streams of new subscriptions and wakes those whose wishes changed.
    fn follow_wishes(&mut self) {
        let changed = self.hub.borrow_mut().wishes.take_changed();
        for subscription in changed {
            let (source, kind) = &subscription;
            let key = match source {
                Source::Ads => (source.clone(), None),
                _ => (source.clone(), Some(kind.clone())),
            };
            match self.running.get(&key) {
                Some((wake, _)) => wake.notify_one(),
                None => {
                    let wake = Rc::new(Notify::new());
                    let task = self.start(subscription, Rc::clone(&wake));
                    self.running.insert(key, (wake, task));
                }
            }
        }
    }

    fn start(&self, (source, kind): Subscription, wake: Rc<Notify>) -> Task {
        let mut follower = Follower {
            hub: Rc::clone(&self.hub),
            source: source.clone(),
            kinds: vec![kind.clone()],
            changed: Rc::clone(&self.changed),
        };
        let node = Rc::clone(&self.node);
        let shared = Arc::clone(&self.hub.borrow().shared);
        let running = match source {
            Source::Static => return Task(tokio::task::spawn_local(async {})),
            Source::File(file) => {
                return Task(tokio::task::spawn_local(file::keep_reading(
                    file, kind, follower,
                )));
            }
            Source::Stream(stream) => {
                let options = options(&stream, Service::Of(kind));
                tokio::task::spawn_local(async move {
                    let connector = ClusterConnector::new(shared, stream);
                    client::run(&connector, &options, &node, &mut follower, &wake).await;
                })
            }
            Source::Ads => {
                follower.kinds = KINDS.to_vec();
                let aggregated = Rc::clone(&self.aggregated);
                tokio::task::spawn_local(async move {
                    match &*aggregated {
                        Aggregated::None => {
                            tracing::warn!(
                                "resources of the aggregated stream are wanted, but there is no ads_config"
                            );
                        }
                        Aggregated::Cluster(stream) => {
                            let options = options(stream, Service::Aggregated);
                            let connector = ClusterConnector::new(shared, Arc::clone(stream));
                            client::run(&connector, &options, &node, &mut follower, &wake).await;
                        }
                        Aggregated::Agent(connector) => {
                            let options = Options {
                                service: Service::Aggregated,
                                delta: true,
                                node_once: true,
                            };
                            client::run(connector, &options, &node, &mut follower, &wake).await;
                        }
                    }
                })
            }
        };
        Task(running)
    }
}

fn options(stream: &StreamSource, service: Service) -> Options {
    Options {
        service,
        delta: stream.delta,
        node_once: stream.node_once,
    }
}

/// The subscriber of one stream.
struct Follower {
    hub: SharedHub,
    source: Source,
    kinds: Vec<ResourceType>,
    changed: Rc<Notify>,
}

impl Subscriber for Follower {
    fn kinds(&self) -> Vec<ResourceType> {
        self.kinds.clone()
    }

    fn wanted(&self, kind: &ResourceType) -> Option<Arc<Wanted>> {
        self.hub.borrow().wishes.wanted(&self.source, kind)
    }

    fn apply(&mut self, kind: &ResourceType, update: Update) -> Result<(), String> {
        let applied = self.hub.borrow_mut().apply(&self.source, kind, &update);
        self.changed.notify_one();
        applied
    }

    fn connected(&mut self, up: bool) {
        if self.source == Source::Ads {
            self.hub.borrow().shared.updates.set_connected(up);
            tracing::info!(up, "connection to the control plane");
        }
    }

    fn failed(&mut self) {
        for kind in &self.kinds {
            self.hub.borrow().shared.updates.of(kind).failed();
        }
    }
}

#[cfg(test)]
mod tests;
