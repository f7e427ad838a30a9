//! The kubelet: runs the pods of this node and says what it observes.
//!
//! [`Kubelet::run`] hands every pod to a worker of its own ([`pod`]), which runs a supervisor for
//! each container ([`container`]) and reports the pod's status ([`status`], [`reporter`]). State is
//! observed, never asserted: what a status says has happened to a process.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use meltemi_capture::pod_network::NodeNetwork;
use meltemi_capture::spawn::SpawnerHandle;
use meltemi_kube::events::{self, Kind, Recorder};
use meltemi_kube::{Client, Key, Task, WorkQueue, write};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::pod_facts;
use crate::watches::Stores;

mod addresses;
mod atomic_dir;
mod container;
mod env;
mod fields;
mod image;
mod logs;
mod node_object;
mod pod;
mod probes;
mod reporter;
pub(crate) mod server;
mod state;
mod status;
mod volumes;

pub(crate) use addresses::Addresses;
pub(crate) use fields::Capacity;
pub(crate) use image::Images;
pub(crate) use node_object::NodeObject;

use env::Sources;
use fields::PodFields;
use pod::{Wish, Worker};
use state::PodRuntime;

/// What does not change while the node runs.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) node_name: Arc<str>,
    /// The platform's state directory; hidden from containers.
    pub(crate) state_dir: PathBuf,
    /// Where pods' files live.
    pub(crate) pods_dir: PathBuf,
    /// Containers can have uids of their own.
    pub(crate) maps_users: bool,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) dns_address: Ipv4Addr,
    pub(crate) cluster_domain: Arc<str>,
    pub(crate) host_resolv_conf: String,
    pub(crate) capacity: Capacity,
}

/// The kubelet and what its parts share.
pub(crate) struct Kubelet {
    pub(crate) client: Client,
    pub(crate) stores: Stores,
    pub(crate) recorder: Recorder,
    pub(crate) scheduler: Recorder,
    pub(crate) spawner: SpawnerHandle,
    pub(crate) network: Arc<NodeNetwork>,
    pub(crate) addresses: Mutex<Addresses>,
    pub(crate) images: Images,
    pub(crate) settings: Settings,
    pub(crate) pods: Mutex<BTreeMap<Key, Handle>>,
}

/// A running worker.
pub(crate) struct Handle {
    uid: String,
    pod: watch::Sender<Arc<Pod>>,
    wish: watch::Sender<Wish>,
    runtime: Arc<PodRuntime>,
    task: Task,
}

impl Kubelet {
    /// Follows the pods until the task is dropped.
    pub(crate) async fn run(self: Arc<Self>, queue: WorkQueue<Key>) {
        self.stores.synced().await;
        self.remove_stale_files();
        let kubelet = &self;
        let again = queue.clone();
        queue
            .run(1, |key| {
                let again = again.clone();
                async move {
                    kubelet.dispatch(&key, &again);
                    Ok::<_, std::convert::Infallible>(None)
                }
            })
            .await;
    }

    /// Starts, informs or ends the worker of one pod.
    fn dispatch(self: &Arc<Self>, key: &Key, queue: &WorkQueue<Key>) {
        let pod = self.stores.pods.get(key);
        let mut pods = self.pods.lock();
        if let Some(handle) = pods.get(key) {
            match &pod {
                Some(pod) if pod.metadata.uid.as_deref() == Some(&handle.uid) => {
                    handle.pod.send_replace(Arc::clone(pod));
                }
                _ => {
                    handle.wish.send_if_modified(|wish| {
                        let tell = *wish == Wish::AsWritten;
                        *wish = if tell { Wish::Gone } else { *wish };
                        tell
                    });
                }
            }
            return;
        }
        let Some(pod) = pod else { return };
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        if node.is_some_and(|node| node != &*self.settings.node_name) || is_gated(&pod) {
            return;
        }
        if pod_facts::is_deleting(&pod) {
            // Nothing of it runs here (any more): no worker, no containers.
            return self.delete_ended(&pod);
        }
        if pod_facts::is_ended(&pod) {
            return;
        }
        pods.insert(key.clone(), self.start_worker(pod, queue.clone()));
    }

    fn start_worker(self: &Arc<Self>, pod: Arc<Pod>, queue: WorkQueue<Key>) -> Handle {
        let runtime = Arc::new(PodRuntime::new(&pod));
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let key = Key::of(&*pod);
        let (pod, latest) = watch::channel(pod);
        let (wish, wishes) = watch::channel(Wish::AsWritten);
        let worker = Worker::new(Arc::clone(self), latest, wishes, Arc::clone(&runtime));
        let (kubelet, own) = (Arc::clone(self), uid.clone());
        let task = Task::spawn(async move {
            worker.run().await;
            // Forgets this worker, then looks again: the name may have a new pod by now. Nothing is
            // awaited after this, so it does not matter that the handle ends its own task.
            let ended = kubelet.forget(&key, &own);
            queue.add(key);
            drop(ended);
        });
        Handle {
            uid,
            pod,
            wish,
            runtime,
            task,
        }
    }

    fn forget(&self, key: &Key, uid: &str) -> Option<Handle> {
        let mut pods = self.pods.lock();
        if pods.get(key).is_some_and(|handle| handle.uid == uid) {
            pods.remove(key)
        } else {
            None
        }
    }

    /// Removes the files of pods that are gone, deleted while no node was there to see it.
    fn remove_stale_files(&self) {
        let pods = self.stores.pods.list();
        let known: BTreeSet<&str> = pods
            .iter()
            .filter_map(|pod| pod.metadata.uid.as_deref())
            .collect();
        for entry in std::fs::read_dir(&self.settings.pods_dir)
            .into_iter()
            .flatten()
            .flatten()
        {
            if !known.contains(&*entry.file_name().to_string_lossy())
                && let Err(error) = std::fs::remove_dir_all(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "files of a pod that is gone not removed");
            }
        }
    }

    /// A pod without worker that is to be deleted: ended or left by an earlier process of this node.
    fn delete_ended(&self, pod: &Arc<Pod>) {
        let meta = pod.metadata.clone();
        let files = self.pod_directory(pod);
        let api: meltemi_kube::Api<Pod> = meltemi_kube::Api::namespaced(
            self.client.clone(),
            meta.namespace.as_deref().unwrap_or_default(),
        );
        tokio::spawn(async move {
            let how = write::Deletion {
                uid: meta.uid,
                grace_seconds: Some(0),
                ..Default::default()
            };
            if let Err(error) =
                write::delete(&api, meta.name.as_deref().unwrap_or_default(), how).await
            {
                tracing::warn!(%error, "ended pod not deleted");
            }
            let _ = std::fs::remove_dir_all(files);
        });
    }

    /// Stops every container, because the node ends. The API is left as it is.
    pub(crate) async fn stop(&self) {
        let handles = std::mem::take(&mut *self.pods.lock());
        for handle in handles.values() {
            handle.wish.send_replace(Wish::NodeEnds);
        }
        for handle in handles.into_values() {
            handle.task.join().await;
        }
    }

    /// The state of a pod that runs here.
    pub(crate) fn find(&self, namespace: &str, name: &str) -> Option<Arc<PodRuntime>> {
        self.pods
            .lock()
            .get(&Key::new(namespace, name))
            .map(|handle| Arc::clone(&handle.runtime))
    }

    /// The log of a container that ended under an earlier process of this node.
    fn log_on_disk(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Option<Arc<logs::LogFile>> {
        let pod = self.stores.pods.find(namespace, pod)?;
        logs::LogFile::newest(&self.log_directory(&pod, container), previous)
    }

    fn event(
        &self,
        pod: &Arc<Pod>,
        field_path: Option<String>,
        kind: Kind,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut about = events::reference(&**pod);
        about.field_path = field_path;
        self.recorder.record(about, kind, reason, message);
    }

    fn scheduled(&self, pod: &Arc<Pod>, message: String) {
        self.scheduler.record(
            events::reference(&**pod),
            Kind::Normal,
            "Scheduled",
            message,
        );
    }

    fn sources<'a>(&'a self, pod: &'a Pod, address: Option<Ipv4Addr>) -> Sources<'a> {
        Sources {
            fields: PodFields {
                pod,
                address,
                host_address: self.settings.gateway,
                node: self.settings.capacity,
                node_name: &self.settings.node_name,
            },
            config_maps: &self.stores.config_maps,
            secrets: &self.stores.secrets,
            services: &self.stores.services,
        }
    }

    fn pod_directory(&self, pod: &Pod) -> PathBuf {
        self.settings
            .pods_dir
            .join(pod.metadata.uid.as_deref().unwrap_or("unknown"))
    }

    fn volume_directory(&self, pod: &Pod) -> PathBuf {
        self.pod_directory(pod).join("volumes")
    }

    fn log_directory(&self, pod: &Pod, container: &str) -> PathBuf {
        self.pod_directory(pod).join("logs").join(container)
    }
}

fn is_gated(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .is_some_and(|spec| spec.scheduling_gates.iter().flatten().next().is_some())
}
