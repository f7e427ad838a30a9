//! A discovery server of every service and variant over one set of resources, written apart from the product's own
//! server so that the two cannot share a mistake.

mod delta;
mod serve;
mod state_of_the_world;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use meltemi_proto::google::protobuf::Any;
use meltemi_xds::ResourceType;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A resource as it is served.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) version: u64,
    pub(crate) aliases: Vec<String>,
    pub(crate) body: Bytes,
}

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Method of the service, as `DeltaClusters`.
    pub method: String,
    /// Short name of the type, as `Cluster`.
    pub kind: String,
    /// Names that are asked for (all of them in the state-of-the-world variant).
    pub names: Vec<String>,
    /// Names that are no longer wanted.
    pub unsubscribed: Vec<String>,
    /// It answers a response.
    pub answers: bool,
    /// Why that was refused.
    pub refusal: Option<String>,
    /// Versions that the client says it has.
    pub initial: BTreeMap<String, String>,
    /// It carries a node.
    pub node: bool,
}

#[derive(Debug, Default)]
struct State {
    resources: BTreeMap<(ResourceType, String), Stored>,
    seen: Vec<Seen>,
}

/// The resources, and what was asked for; shared by all streams.
#[derive(Debug, Clone)]
pub struct World {
    state: Arc<Mutex<State>>,
    version: watch::Sender<u64>,
}

/// Most requests that are remembered: the first ones are those that tests look at.
const MAX_SEEN: usize = 10_000;

impl Default for World {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            version: watch::channel(1).0,
        }
    }
}

impl World {
    /// Adds or replaces resources given as JSON, then tells every stream once.
    ///
    /// # Panics
    /// When the JSON is no such message.
    pub fn set(&self, kind: &ResourceType, resources: &[(&str, Value)]) {
        let encoded = resources
            .iter()
            .map(|(name, value)| ((*name).to_owned(), Vec::new(), encode(kind, value)));
        self.set_encoded(kind, encoded);
    }

    /// The same for messages that are encoded, with the other names that they are asked for under.
    pub fn set_encoded(
        &self,
        kind: &ResourceType,
        resources: impl Iterator<Item = (String, Vec<String>, Bytes)>,
    ) {
        let mut state = self.state.lock();
        let version = *self.version.borrow() + 1;
        for (name, aliases, body) in resources {
            let stored = Stored {
                version,
                aliases,
                body,
            };
            state.resources.insert((kind.clone(), name), stored);
        }
        drop(state);
        self.version.send_replace(version);
    }

    /// Removes a resource.
    pub fn remove(&self, kind: &ResourceType, name: &str) {
        self.state
            .lock()
            .resources
            .remove(&(kind.clone(), name.to_owned()));
        self.version.send_modify(|version| *version += 1);
    }

    /// The requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().seen.clone()
    }

    fn note(&self, seen: Seen) {
        let mut state = self.state.lock();
        if state.seen.len() < MAX_SEEN {
            state.seen.push(seen);
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn now(&self) -> u64 {
        *self.version.borrow()
    }

    /// A resource by its name or one of its aliases.
    fn find(&self, kind: &ResourceType, name: &str) -> Option<(String, Stored)> {
        let state = self.state.lock();
        if let Some(found) = state.resources.get(&(kind.clone(), name.to_owned())) {
            return Some((name.to_owned(), found.clone()));
        }
        if *kind != ResourceType::VirtualHost {
            return None;
        }
        let found = state
            .resources
            .iter()
            .find(|((own, _), stored)| own == kind && stored.aliases.iter().any(|a| a == name));
        found.map(|((_, name), stored)| (name.clone(), stored.clone()))
    }

    fn all(&self, kind: &ResourceType) -> Vec<(String, Stored)> {
        let state = self.state.lock();
        let of_kind = state.resources.iter().filter(|((own, _), _)| own == kind);
        of_kind
            .map(|((_, name), stored)| (name.clone(), stored.clone()))
            .collect()
    }
}

/// A message of a type from JSON.
///
/// # Panics
/// When the JSON is no such message.
#[must_use]
pub fn encode(kind: &ResourceType, value: &Value) -> Bytes {
    let url = kind.url();
    let message = url.rsplit_once('/').map_or(url, |(_, name)| name);
    meltemi_proto::json::to_wire(message, value)
        .unwrap_or_else(|error| panic!("{message}: {error}: {value}"))
        .into()
}

fn any(kind: &ResourceType, stored: &Stored) -> Any {
    Any {
        type_url: kind.url().to_owned(),
        value: stored.body.to_vec(),
    }
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it serves.
    pub world: World,
    _serving: JoinSet<()>,
}

impl Server {
    /// Serves a world on loopback until it is dropped.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(world: World, address: SocketAddr) -> std::io::Result<Self> {
        let listener = tokio::net::TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(serve::accept(listener, world.clone()));
        Ok(Self {
            address,
            world,
            _serving: serving,
        })
    }
}
