//! The state of the world: watches feed the model's inputs, a debounce makes snapshots of them.
//!
//! One task owns the inputs. The first snapshot is made when every watch has listed everything, so that nobody ever
//! sees half a mesh.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use meltemi_inject as inject;
use meltemi_kube::{Api, Change, Client, DynamicObject, Selectors, Task, watch};
use meltemi_model::{Changes, Inputs, Kind, MeshConfig, ObjectKey, Snapshot};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::{
    sync::{mpsc, watch as latest},
    time::Instant,
};

use crate::{Config, Error, metrics::Metrics, safe_order};

/// Quiet time after a change before a snapshot is made: a `kubectl apply` of a file arrives as one push.
const QUIET: Duration = Duration::from_millis(25);
/// Longest time that changes may keep a snapshot waiting (Istio: 10 s; a small mesh need not wait so long).
const CEILING: Duration = Duration::from_secs(1);
/// Events that may wait for the task that owns the inputs.
const EVENT_QUEUE: usize = 4096;
/// ConfigMap with the mesh configuration.
const MESH_CONFIG: &str = "istio";
/// ConfigMap with the injector's configuration and values.
const INJECTOR_CONFIG: &str = "istio-sidecar-injector";

/// What is watched: group, version, kind, plural.
const WATCHED: [(Kind, &str, &str, &str, &str); 8] = [
    (Kind::Namespace, "", "v1", "Namespace", "namespaces"),
    (Kind::Service, "", "v1", "Service", "services"),
    (Kind::Pod, "", "v1", "Pod", "pods"),
    (
        Kind::EndpointSlice,
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
    ),
    (
        Kind::Gateway,
        "networking.istio.io",
        "v1",
        "Gateway",
        "gateways",
    ),
    (
        Kind::VirtualService,
        "networking.istio.io",
        "v1",
        "VirtualService",
        "virtualservices",
    ),
    (
        Kind::DestinationRule,
        "networking.istio.io",
        "v1",
        "DestinationRule",
        "destinationrules",
    ),
    (
        Kind::PeerAuthentication,
        "security.istio.io",
        "v1",
        "PeerAuthentication",
        "peerauthentications",
    ),
];

/// One state, numbered: what a push is made from.
#[derive(Clone)]
pub(crate) struct State {
    /// Counts snapshots of this process.
    pub(crate) number: u64,
    /// The mesh.
    pub(crate) snapshot: Arc<Snapshot>,
    /// When the first change arrived that is new in it.
    pub(crate) since: Instant,
}

/// Everything that is served is read from here.
pub(crate) struct World {
    states: latest::Sender<State>,
    injector: Mutex<Arc<inject::Settings>>,
}

impl World {
    /// The newest state, and a signal for each newer one.
    pub(crate) fn states(&self) -> latest::Receiver<State> {
        self.states.subscribe()
    }

    /// Settings of injection.
    pub(crate) fn injector(&self) -> Arc<inject::Settings> {
        Arc::clone(&self.injector.lock())
    }
}

enum Event {
    Changed(Kind, Change<DynamicObject>),
    Settings(&'static str, Option<Arc<ConfigMap>>),
}

/// Starts the watches and waits for the first complete state.
pub(crate) async fn start(
    client: Client,
    config: &Config,
    metrics: Arc<Metrics>,
) -> Result<(Arc<World>, Vec<Task>), Error> {
    let (sender, events) = mpsc::channel(EVENT_QUEUE);
    let mut tasks = Vec::new();
    for (kind, group, version, name, plural) in WATCHED {
        let api = Api::all_with(
            client.clone(),
            &meltemi_kube::resource(group, version, name, plural),
        );
        tasks.push(Task::spawn(follow(kind, api, sender.clone())));
    }
    for name in [MESH_CONFIG, INJECTOR_CONFIG] {
        let api: Api<ConfigMap> = Api::namespaced(client.clone(), &config.namespace);
        tasks.push(Task::spawn(follow_settings(name, api, sender.clone())));
    }
    let mut inputs = Inputs::new(MeshConfig::default());
    inputs.set_safe_order(safe_order::stored(&client, config).await?);
    let (first, state) = tokio::sync::oneshot::channel();
    let owner = Owner {
        inputs,
        events,
        objects: BTreeMap::new(),
        metrics,
        settings: Settings::default(),
        revision: config.revision.clone(),
    };
    tasks.push(Task::spawn(owner.run(first)));
    let world = state
        .await
        .expect("the owner of the inputs answers before it ends");
    Ok((world, tasks))
}

async fn follow(kind: Kind, api: Api<DynamicObject>, sender: mpsc::Sender<Event>) {
    let mut changes = std::pin::pin!(watch(api, Selectors::default()));
    while let Some(change) = changes.next().await {
        if sender.send(Event::Changed(kind, change)).await.is_err() {
            return;
        }
    }
}

async fn follow_settings(name: &'static str, api: Api<ConfigMap>, sender: mpsc::Sender<Event>) {
    let mut seen = false;
    let mut changes = std::pin::pin!(watch(
        api,
        Selectors::fields(format!("metadata.name={name}"))
    ));
    while let Some(change) = changes.next().await {
        let event = match change {
            Change::Applied(map) => {
                seen = true;
                Event::Settings(name, Some(map))
            }
            Change::Deleted(_) => Event::Settings(name, None),
            Change::InitDone if seen => continue,
            Change::InitDone => Event::Settings(name, None),
        };
        if sender.send(event).await.is_err() {
            return;
        }
    }
}

#[derive(Default)]
struct Settings {
    mesh_known: bool,
    injector_known: bool,
    injector: inject::Settings,
}

struct Owner {
    inputs: Inputs,
    events: mpsc::Receiver<Event>,
    /// Objects as they arrived, for when the settings change under which their names were resolved.
    objects: BTreeMap<(Kind, meltemi_kube::Key), Arc<DynamicObject>>,
    metrics: Arc<Metrics>,
    settings: Settings,
    revision: String,
}

impl Owner {
    async fn run(mut self, first: tokio::sync::oneshot::Sender<Arc<World>>) {
        let since = Instant::now();
        let mut listed = BTreeSet::new();
        while listed.len() < WATCHED.len()
            || !self.settings.mesh_known
            || !self.settings.injector_known
        {
            let Some(event) = self.events.recv().await else {
                return;
            };
            if let Event::Changed(kind, Change::InitDone) = event {
                listed.insert(kind);
            }
            self.take_in(event);
        }
        let (snapshot, changes) = self.inputs.snapshot();
        self.count(1, &snapshot, &changes);
        let (states, _) = latest::channel(State {
            number: 1,
            snapshot,
            since,
        });
        let world = Arc::new(World {
            states,
            injector: Mutex::new(Arc::new(self.settings.injector.clone())),
        });
        if first.send(Arc::clone(&world)).is_ok() {
            self.publish(&world).await;
        }
    }

    async fn publish(mut self, world: &World) {
        let mut number = 1;
        while let Some(event) = self.events.recv().await {
            let since = Instant::now();
            self.take_in(event);
            let ceiling = since + CEILING;
            loop {
                let quiet = (Instant::now() + QUIET).min(ceiling);
                match tokio::time::timeout_at(quiet, self.events.recv()).await {
                    Ok(Some(event)) => self.take_in(event),
                    Ok(None) => return,
                    Err(_) => break,
                }
            }
            *world.injector.lock() = Arc::new(self.settings.injector.clone());
            let (snapshot, changes) = self.inputs.snapshot();
            if !changes.is_empty() {
                number += 1;
                tracing::debug!(
                    number,
                    services = changes.services.len(),
                    endpoints = changes.endpoints.len(),
                    objects = changes.objects.len(),
                    "new snapshot"
                );
                self.count(number, &snapshot, &changes);
                world.states.send_replace(State {
                    number,
                    snapshot,
                    since,
                });
            }
        }
    }

    fn count(&self, number: u64, snapshot: &Snapshot, changes: &Changes) {
        let known = |wanted: Kind| {
            self.objects
                .keys()
                .filter(|(kind, _)| *kind == wanted)
                .count()
        };
        self.metrics
            .snapshot(number, snapshot.held().len(), changes);
        self.metrics
            .known(known(Kind::Service), known(Kind::VirtualService));
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Changed(kind, Change::Applied(object)) => {
                self.apply(kind, &object);
                let key = (kind, meltemi_kube::Key::of(&*object));
                let before = self.objects.insert(key, object);
                let event = if before.is_some() { "update" } else { "add" };
                self.metrics.event(kind, kind_name(kind), event);
            }
            Event::Changed(kind, Change::Deleted(key)) => {
                self.metrics.event(kind, kind_name(kind), "delete");
                self.inputs
                    .remove(&ObjectKey::new(kind, &*key.namespace, &*key.name));
                self.objects.remove(&(kind, key));
            }
            Event::Changed(_, Change::InitDone) => {}
            Event::Settings(MESH_CONFIG, map) => self.set_mesh(map.as_deref()),
            Event::Settings(_, map) => self.set_injector(map.as_deref()),
        }
    }

    fn apply(&mut self, kind: Kind, object: &DynamicObject) {
        let value = match serde_json::to_value(object) {
            Ok(value) => value,
            Err(error) => return tracing::warn!(%error, "object cannot be read"),
        };
        if let Err(error) = self.inputs.apply(kind, &value) {
            tracing::warn!(object = %error.object, reason = %error.source, "object is not usable; its previous version stays in force");
        }
    }

    fn set_mesh(&mut self, map: Option<&ConfigMap>) {
        self.settings.mesh_known = true;
        let text = map
            .and_then(|map| map.data.as_ref()?.get("mesh").cloned())
            .unwrap_or_default();
        let value = match yaml(&text) {
            Ok(value) => value,
            Err(reason) => {
                return tracing::warn!(
                    reason,
                    "mesh configuration is not YAML; the previous one stays in force"
                );
            }
        };
        match MeshConfig::from_value(&value) {
            Ok(mesh) => {
                if self.inputs.set_mesh(mesh) {
                    for ((kind, _), object) in std::mem::take(&mut self.objects) {
                        self.apply(kind, &object);
                        self.objects
                            .insert((kind, meltemi_kube::Key::of(&*object)), object);
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "mesh configuration is not usable; the previous one stays in force")
            }
        }
        match serde_json::from_value(value) {
            Ok(mesh) => self.settings.injector.mesh = mesh,
            Err(error) => tracing::warn!(%error, "mesh configuration is not usable for injection"),
        }
    }

    fn set_injector(&mut self, map: Option<&ConfigMap>) {
        self.settings.injector_known = true;
        self.settings.injector.revision.clone_from(&self.revision);
        let Some(data) = map.and_then(|map| map.data.as_ref()) else {
            return;
        };
        let part = |key: &str| yaml(data.get(key).map(String::as_str).unwrap_or_default());
        match part("config")
            .and_then(|value| serde_json::from_value(value).map_err(|error| error.to_string()))
        {
            Ok(config) => self.settings.injector.injector = config,
            Err(reason) => tracing::warn!(
                reason,
                "injector configuration is not usable; the previous one stays in force"
            ),
        }
        match part("values")
            .and_then(|value| serde_json::from_value(value).map_err(|error| error.to_string()))
        {
            Ok(values) => self.settings.injector.values = values,
            Err(reason) => tracing::warn!(
                reason,
                "injector values are not usable; the previous ones stay in force"
            ),
        }
    }
}

fn kind_name(kind: Kind) -> &'static str {
    WATCHED
        .iter()
        .find(|watched| watched.0 == kind)
        .map_or("", |watched| watched.3)
}

/// YAML (or JSON) as a value; nothing is an empty object.
fn yaml(text: &str) -> Result<Value, String> {
    if text.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}
