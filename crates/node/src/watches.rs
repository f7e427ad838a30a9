//! What the node watches, and which work a change causes.
//!
//! One watch per kind feeds one store that controllers, kubelet and services share. The wiring from
//! "this object changed" to "look at that key" is here and nowhere else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meltemi_kube::{
    Api, Client, Key, Resource, Selectors, Store, Task, Updated, WorkQueue, reflect,
};

use crate::controllers::garbage::Garbage;
use crate::ownership;
use crate::selector;

/// How long a controller waits for its own writes to come back by the watch.
pub(crate) const CATCH_UP: Duration = Duration::from_secs(1);

/// The label that names an EndpointSlice's Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The objects the node follows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stores {
    pub(crate) namespaces: Store<Namespace>,
    pub(crate) accounts: Store<ServiceAccount>,
    pub(crate) config_maps: Store<ConfigMap>,
    pub(crate) secrets: Store<Secret>,
    pub(crate) pods: Store<Pod>,
    pub(crate) services: Store<Service>,
    pub(crate) slices: Store<EndpointSlice>,
    pub(crate) deployments: Store<Deployment>,
    pub(crate) replica_sets: Store<ReplicaSet>,
    pub(crate) stateful_sets: Store<StatefulSet>,
    pub(crate) daemon_sets: Store<DaemonSet>,
    pub(crate) jobs: Store<Job>,
}

/// The work that changes cause.
#[derive(Debug, Clone, Default)]
pub(crate) struct Queues {
    pub(crate) namespaces: WorkQueue<Key>,
    pub(crate) deployments: WorkQueue<Key>,
    pub(crate) replica_sets: WorkQueue<Key>,
    pub(crate) stateful_sets: WorkQueue<Key>,
    pub(crate) daemon_sets: WorkQueue<Key>,
    pub(crate) jobs: WorkQueue<Key>,
    /// Services whose EndpointSlices are to be looked at.
    pub(crate) slices: WorkQueue<Key>,
    /// Services whose load-balancer address is to be looked at.
    pub(crate) balancer: WorkQueue<Key>,
    pub(crate) garbage: WorkQueue<Garbage>,
    /// Pods for the kubelet.
    pub(crate) kubelet: WorkQueue<Key>,
    /// The node's service rules, as a whole.
    pub(crate) rules: WorkQueue<()>,
}

impl Stores {
    /// Starts all watches. Ends with the returned tasks.
    pub(crate) fn start(client: &Client, queues: &Queues) -> (Self, Vec<Task>) {
        let mut watches = Watches {
            client,
            tasks: Vec::new(),
        };
        let services = services(&mut watches, queues);
        let stores = Self {
            namespaces: watches.follow(queues, |queues, update| {
                queues.namespaces.add(update.key.clone())
            }),
            accounts: watches.follow(queues, in_namespace),
            config_maps: watches.follow(queues, in_namespace),
            secrets: watches.follow(queues, |_, _| {}),
            pods: pods(&mut watches, queues, services.clone()),
            slices: watches.follow(queues, slice_changed),
            deployments: watches.follow(queues, |queues, update| {
                queues.deployments.add(update.key.clone())
            }),
            replica_sets: watches.follow(queues, |queues, update| {
                queues.replica_sets.add(update.key.clone());
                owners(&update, "Deployment", &queues.deployments);
            }),
            stateful_sets: watches.follow(queues, |queues, update| {
                queues.stateful_sets.add(update.key.clone())
            }),
            daemon_sets: watches.follow(queues, |queues, update| {
                queues.daemon_sets.add(update.key.clone())
            }),
            jobs: watches.follow(queues, |queues, update| queues.jobs.add(update.key.clone())),
            services,
        };
        let tasks = watches.tasks;
        (stores, tasks)
    }

    /// Waits until every store has seen everything once.
    pub(crate) async fn synced(&self) {
        self.namespaces.synced().await;
        self.accounts.synced().await;
        self.config_maps.synced().await;
        self.secrets.synced().await;
        self.pods.synced().await;
        self.services.synced().await;
        self.slices.synced().await;
        self.deployments.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
        self.daemon_sets.synced().await;
        self.jobs.synced().await;
    }
}

struct Watches<'a> {
    client: &'a Client,
    tasks: Vec<Task>,
}

impl Watches<'_> {
    fn follow<K>(
        &mut self,
        queues: &Queues,
        changed: impl Fn(&Queues, Updated<'_, K>) + Send + 'static,
    ) -> Store<K>
    where
        K: Resource<DynamicType = ()>
            + Clone
            + serde::de::DeserializeOwned
            + std::fmt::Debug
            + Send
            + Sync
            + 'static,
    {
        let queues = queues.clone();
        let kind = K::kind(&()).into_owned();
        let (store, task) = reflect(
            Api::all(self.client.clone()),
            Selectors::default(),
            move |update| {
                garbage(&queues, &kind, &update);
                changed(&queues, update);
            },
        );
        self.tasks.push(task);
        store
    }
}

/// Deleted owners and objects that wait for their dependents concern the garbage collector.
fn garbage<K: Resource>(queues: &Queues, kind: &str, update: &Updated<'_, K>) {
    if let (Some(old), None) = (update.old, update.new)
        && let Some(uid) = &old.meta().uid
    {
        queues.garbage.add(Garbage::OwnerGone(uid.clone()));
        for owner in old.meta().owner_references.iter().flatten() {
            queues
                .garbage
                .add(Garbage::DependentGone(owner.uid.clone()));
        }
    }
    if let Some(new) = update.new {
        let meta = new.meta();
        let waits =
            meta.deletion_timestamp.is_some() && meta.finalizers.iter().flatten().next().is_some();
        if waits || meta.owner_references.iter().flatten().next().is_some() && update.old.is_none()
        {
            queues.garbage.add(Garbage::Object {
                kind: kind.to_owned(),
                key: update.key.clone(),
            });
        }
    }
}

fn in_namespace<K: Resource>(queues: &Queues, update: Updated<'_, K>) {
    queues.namespaces.add(Key::new("", &update.key.namespace));
}

/// Adds the controlling owner of `kind` to `queue`.
fn owners<K: Resource>(update: &Updated<'_, K>, kind: &str, queue: &WorkQueue<Key>) {
    for object in [update.old, update.new].into_iter().flatten() {
        if let Some(owner) = ownership::controller(object.meta())
            && owner.kind == kind
        {
            queue.add(Key::new(&update.key.namespace, &owner.name));
        }
    }
}

fn services(watches: &mut Watches<'_>, queues: &Queues) -> Store<Service> {
    watches.follow(queues, |queues, update| {
        queues.slices.add(update.key.clone());
        queues.balancer.add(update.key.clone());
        queues.rules.add(());
    })
}

fn slice_changed(queues: &Queues, update: Updated<'_, EndpointSlice>) {
    queues.rules.add(());
    for slice in [update.old, update.new].into_iter().flatten() {
        if let Some(service) = slice
            .metadata
            .labels
            .iter()
            .flatten()
            .find(|(k, _)| *k == SERVICE_NAME)
        {
            queues
                .slices
                .add(Key::new(&update.key.namespace, service.1));
        }
    }
}

fn pods(watches: &mut Watches<'_>, queues: &Queues, services: Store<Service>) -> Store<Pod> {
    watches.follow(queues, move |queues, update: Updated<'_, Pod>| {
        queues.kubelet.add(update.key.clone());
        owners(&update, "ReplicaSet", &queues.replica_sets);
        owners(&update, "StatefulSet", &queues.stateful_sets);
        owners(&update, "DaemonSet", &queues.daemon_sets);
        owners(&update, "Job", &queues.jobs);
        let metas: Vec<&ObjectMeta> = [update.old, update.new]
            .into_iter()
            .flatten()
            .map(|pod| &pod.metadata)
            .collect();
        for service in services.in_namespace(&update.key.namespace) {
            if metas
                .iter()
                .any(|meta| selects(&service, meta.labels.as_ref()))
            {
                queues.slices.add(Key::of(&*service));
            }
        }
    })
}

/// Whether a service's selector matches; a service without selector selects nothing.
pub(crate) fn selects(service: &Arc<Service>, labels: Option<&BTreeMap<String, String>>) -> bool {
    let selector = service
        .spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector.is_empty() && selector::matches_all(selector, labels))
}
