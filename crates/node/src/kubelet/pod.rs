//! One pod's life: bound, given a network and volumes, its containers run in order, ended, deleted.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use meltemi_kube::events::Kind;
use meltemi_kube::{Api, Key, Resource as _, Task, write};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Kubelet;
use super::container::{Place, RestartPolicy, Stop, Supervisor};
use super::reporter::Reporter;
use super::state::{Doing, PodRuntime, Role};
use super::volumes::Volumes;

mod ending;
mod sandbox;

pub(crate) use sandbox::hostname;

/// How long containers get when the whole node ends.
const NODE_ENDS: Duration = Duration::from_secs(2);

/// How long the node waits for pods' last status when it ends.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Pause after a failed attempt to delete an ended pod.
const DELETE_AGAIN: Duration = Duration::from_millis(200);

/// What the rest of the kubelet tells a pod's worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// Live on (or end as the pod's own deletion timestamp says).
    AsWritten,
    /// The object is gone from the API: end at once and leave nothing.
    Gone,
    /// The node ends: stop the containers, leave the API alone.
    NodeEnds,
}

/// The worker of one pod.
pub(super) struct Worker {
    pub(super) kubelet: Arc<Kubelet>,
    pub(super) pod: watch::Receiver<Arc<Pod>>,
    pub(super) wish: watch::Receiver<Wish>,
    pub(super) runtime: Arc<PodRuntime>,
    /// Ends main and init containers.
    stop: watch::Sender<Option<Stop>>,
    /// Ends sidecars, after the main containers.
    stop_sidecars: watch::Sender<Option<Stop>>,
    volumes: Arc<Volumes>,
}

impl Worker {
    pub(super) fn new(
        kubelet: Arc<Kubelet>,
        pod: watch::Receiver<Arc<Pod>>,
        wish: watch::Receiver<Wish>,
        runtime: Arc<PodRuntime>,
    ) -> Self {
        let first = Arc::clone(&pod.borrow());
        let group = first
            .spec
            .as_ref()
            .and_then(|spec| spec.security_context.as_ref()?.fs_group);
        let group = group
            .and_then(|g| u32::try_from(g).ok())
            .filter(|_| kubelet.settings.maps_users);
        let root = kubelet.volume_directory(&first);
        let volumes = Arc::new(Volumes::new(kubelet.client.clone(), root, group));
        let (stop, stop_sidecars) = (watch::Sender::new(None), watch::Sender::new(None));
        Self {
            kubelet,
            pod,
            wish,
            runtime,
            stop,
            stop_sidecars,
            volumes,
        }
    }

    fn now(&self) -> Arc<Pod> {
        Arc::clone(&self.pod.borrow())
    }

    fn key(&self) -> Key {
        Key::of(&*self.now())
    }

    /// Runs the pod to its end and, when it is being deleted, removes it from the API.
    pub(super) async fn run(self) {
        let reporter = Reporter::start(
            Arc::clone(&self.kubelet),
            self.pod.clone(),
            Arc::clone(&self.runtime),
        );
        let deadline = Task::spawn(ending::end_in_time(
            self.pod.clone(),
            self.wish.clone(),
            Arc::clone(&self.runtime),
            self.stop.clone(),
        ));
        self.live().await;
        drop(deadline);
        self.remove_sandbox().await;
        if *self.wish.borrow() == Wish::NodeEnds {
            // What has ended is said, if the API server still listens.
            let _ = tokio::time::timeout(LAST_WORDS, reporter.settled()).await;
            return;
        }
        self.runtime.update(|state| state.finished = true);
        self.wait_for_deletion(&reporter).await;
        self.remove_files();
    }

    async fn live(&self) {
        let mut stop = self.stop.subscribe();
        let prepared = async { tokio::join!(self.bind(), self.prepare()).1 };
        let place = tokio::select! {
            place = prepared => place,
            _ = stop.wait_for(Option::is_some) => return,
        };
        let refresh = self.refresh_volumes(place.address);
        let run = self.run_containers(place.clone());
        tokio::pin!(run);
        tokio::select! {
            () = &mut run => {}
            () = refresh => {}
        }
    }

    /// Assigns the pod to this node, as the scheduler does.
    async fn bind(&self) {
        let pod = self.now();
        if pod
            .spec
            .as_ref()
            .is_none_or(|spec| spec.node_name.is_none())
        {
            self.assign(&pod).await;
        }
        self.runtime.update(|state| state.bound = true);
    }

    async fn assign(&self, pod: &Arc<Pod>) {
        let api: Api<Pod> = Api::namespaced(self.kubelet.client.clone(), &self.key().namespace);
        let name = pod.metadata.name.clone().unwrap_or_default();
        let node = &*self.kubelet.settings.node_name;
        let binding = serde_json::json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": name, "namespace": pod.metadata.namespace, "uid": pod.metadata.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let mut pause = Duration::from_millis(20);
        loop {
            let outcome: Result<serde_json::Value, _> = api
                .create_subresource("binding", &name, &Default::default(), &binding)
                .await;
            match outcome {
                Ok(_) => break,
                // Gone, or assigned already (a lost answer of ours): the watch tells.
                Err(error) if write::is_not_found(&error) => return,
                Err(_)
                    if self
                        .now()
                        .spec
                        .as_ref()
                        .is_some_and(|spec| spec.node_name.is_some()) =>
                {
                    return;
                }
                Err(error) => {
                    tracing::debug!(pod = %self.key(), %error, "binding failed, retrying")
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
        let message = format!("Successfully assigned {} to {node}", self.key());
        self.kubelet.scheduled(pod, message);
    }

    /// Runs init containers in order, then the main ones together, then ends the sidecars.
    async fn run_containers(&self, place: Place) {
        let pod = self.now();
        let spec = pod.spec.clone().unwrap_or_default();
        let has_ended = |name: &str| {
            self.runtime.read(|state| {
                matches!(
                    state.containers.get(name).map(|r| &r.doing),
                    Some(Doing::Ended(_))
                )
            })
        };
        if spec
            .containers
            .iter()
            .all(|container| has_ended(&container.name))
        {
            // Ended under an earlier process of this node, not to be run again.
            return;
        }
        let mut sidecars = JoinSet::new();
        for container in spec.init_containers.unwrap_or_default() {
            if self.stop.borrow().is_some() {
                break;
            }
            let role = if container.restart_policy.as_deref() == Some("Always") {
                Role::Sidecar
            } else {
                Role::Init
            };
            let name = container.name.clone();
            let supervisor = self.supervisor(&pod, container, role, place.clone());
            if role == Role::Sidecar {
                sidecars.spawn(supervisor.run());
                self.until_started(&name).await;
            } else if supervisor.run().await != Some(0) {
                break;
            }
        }
        let ready = self.runtime.read(super::status::is_initialized);
        if ready && self.stop.borrow().is_none() {
            let mut main = JoinSet::new();
            for container in spec.containers.into_iter().filter(|c| !has_ended(&c.name)) {
                main.spawn(
                    self.supervisor(&pod, container, Role::Main, place.clone())
                        .run(),
                );
            }
            while main.join_next().await.is_some() {}
        }
        let left = self
            .stop
            .borrow()
            .map_or_else(|| self.own_deadline(), |stop| stop.deadline);
        let quiet = self.stop.borrow().is_some_and(|stop| stop.quiet);
        // Sidecars get a moment to end even when the main containers have used up the grace.
        let deadline = left.max(Instant::now() + NODE_ENDS);
        self.stop_sidecars
            .send_replace(Some(Stop { deadline, quiet }));
        while sidecars.join_next().await.is_some() {}
    }

    fn own_deadline(&self) -> Instant {
        let seconds = self
            .now()
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds);
        Instant::now() + Duration::from_secs(seconds.map_or(30, i64::unsigned_abs))
    }

    /// Waits until a sidecar has started (its startup probe passed) or the pod is to end.
    async fn until_started(&self, name: &str) {
        let started = self
            .runtime
            .until(|state| state.containers.get(name).filter(|r| r.started).map(|_| ()));
        let mut stop = self.stop.subscribe();
        tokio::select! {
            () = started => {}
            _ = stop.wait_for(Option::is_some) => {}
        }
    }

    fn supervisor(&self, pod: &Pod, container: Container, role: Role, place: Place) -> Supervisor {
        let stop = if role == Role::Sidecar {
            &self.stop_sidecars
        } else {
            &self.stop
        };
        Supervisor {
            kubelet: Arc::clone(&self.kubelet),
            pod: self.pod.clone(),
            runtime: Arc::clone(&self.runtime),
            volumes: Arc::clone(&self.volumes),
            policy: RestartPolicy::of(pod, role),
            container,
            role,
            place,
            stop: stop.subscribe(),
        }
    }

    /// Waits until the pod is to be deleted and its final status is written; then deletes it.
    async fn wait_for_deletion(&self, reporter: &Reporter) {
        let mut wish = self.wish.clone();
        let mut pod = self.pod.clone();
        loop {
            if *wish.borrow_and_update() != Wish::AsWritten {
                return;
            }
            let current = Arc::clone(&pod.borrow_and_update());
            let deleted = async {
                if current.metadata.deletion_timestamp.is_none() {
                    return std::future::pending().await;
                }
                reporter.settled().await;
                if let Err(error) = self.delete(&current).await {
                    tracing::debug!(pod = %self.key(), %error, "pod not deleted, retrying");
                    tokio::time::sleep(DELETE_AGAIN).await;
                    return false;
                }
                true
            };
            tokio::select! {
                done = deleted => if done { return },
                changed = wish.changed() => if changed.is_err() { return },
                changed = pod.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Deletes the object for good: grace 0.
    async fn delete(&self, pod: &Pod) -> Result<(), meltemi_kube::Error> {
        let meta = pod.meta();
        let api: Api<Pod> = Api::namespaced(
            self.kubelet.client.clone(),
            meta.namespace.as_deref().unwrap_or_default(),
        );
        let how = write::Deletion {
            uid: meta.uid.clone(),
            grace_seconds: Some(0),
            ..Default::default()
        };
        write::delete(&api, meta.name.as_deref().unwrap_or_default(), how)
            .await
            .map(|_| ())
    }

    fn event(&self, kind: Kind, reason: &str, message: String) {
        self.kubelet.event(&self.now(), None, kind, reason, message);
    }

    fn remove_files(&self) {
        if *self.wish.borrow() != Wish::NodeEnds {
            let _ = std::fs::remove_dir_all(self.kubelet.pod_directory(&self.now()));
        }
    }
}
