//! Writes a pod's status when it changes: one patch under way at most, changes meanwhile merged.
//!
//! The writer is a task of its own, so that a patch under way is never abandoned: one that the API
//! server applies late would overwrite a newer status.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use meltemi_kube::{Api, Error, Key, Task, write};
use serde_json::json;
use tokio::sync::watch;

use super::state::PodRuntime;
use super::{Kubelet, status};

/// The status writer of one pod, seen from its worker.
pub(super) struct Reporter {
    runtime: Arc<PodRuntime>,
    /// The version of the state that was written last.
    reported: watch::Receiver<u64>,
    _task: Task,
}

impl Reporter {
    /// Starts reporting, once the pod is bound.
    pub(super) fn start(
        kubelet: Arc<Kubelet>,
        pod: watch::Receiver<Arc<Pod>>,
        runtime: Arc<PodRuntime>,
    ) -> Self {
        let (sender, reported) = watch::channel(0);
        let writer = Writer {
            kubelet,
            pod,
            runtime: Arc::clone(&runtime),
            written: None,
        };
        Self {
            runtime,
            reported,
            _task: Task::spawn(writer.run(sender)),
        }
    }

    /// Waits until the present state is written. Returns at once for a pod that was never bound.
    pub(super) async fn settled(&self) {
        if !self.runtime.read(|state| state.bound) {
            return;
        }
        let present = *self.runtime.changes().borrow();
        let mut reported = self.reported.clone();
        // The sender lives in the task, and the task in `self`.
        let _ = reported.wait_for(|version| *version >= present).await;
    }
}

struct Writer {
    kubelet: Arc<Kubelet>,
    pod: watch::Receiver<Arc<Pod>>,
    runtime: Arc<PodRuntime>,
    written: Option<PodStatus>,
}

impl Writer {
    async fn run(mut self, reported: watch::Sender<u64>) {
        self.runtime.until(|state| state.bound.then_some(())).await;
        let mut changes = self.runtime.changes();
        let mut pod = self.pod.clone();
        loop {
            let version = *changes.borrow_and_update();
            pod.mark_unchanged();
            self.write_until_taken().await;
            reported.send_replace(version);
            tokio::select! {
                _ = changes.changed() => {}
                // Readiness gates and generations come with the object.
                changed = pod.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Writes the present status; tries again until the API server takes it or the pod is gone.
    async fn write_until_taken(&mut self) {
        let mut pause = Duration::from_millis(50);
        loop {
            match self.write().await {
                Ok(()) => return,
                Err(error) if write::is_not_found(&error) || self.is_gone() => return,
                Err(error) => tracing::debug!(%error, "pod status not written, retrying"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    /// Whether another pod has the name by now.
    fn is_gone(&self) -> bool {
        let own = Arc::clone(&self.pod.borrow());
        let stored = self.kubelet.stores.pods.get(&Key::of(&*own));
        stored.is_none_or(|stored| stored.metadata.uid != own.metadata.uid)
    }

    async fn write(&mut self) -> Result<(), Error> {
        let pod = self.with_written_conditions();
        let host = self.kubelet.settings.gateway.to_string();
        let status = self
            .runtime
            .read(|state| status::compute(&pod, state, &host, Timestamp::now()));
        if self.written.as_ref() == Some(&status) {
            return Ok(());
        }
        let meta = &pod.metadata;
        let api: Api<Pod> = Api::namespaced(
            self.kubelet.client.clone(),
            meta.namespace.as_deref().unwrap_or_default(),
        );
        let patch = json!({"metadata": {"uid": meta.uid}, "status": status});
        write::merge_patch_status(&api, meta.name.as_deref().unwrap_or_default(), &patch).await?;
        self.written = Some(status);
        Ok(())
    }

    /// The pod, with our own conditions as last written (the store may lag) and others' as stored.
    fn with_written_conditions(&self) -> Pod {
        let mut pod = (**self.pod.borrow()).clone();
        let Some(written) = &self.written else {
            return pod;
        };
        let stored = pod
            .status
            .take()
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        let own = written.conditions.clone().unwrap_or_default();
        let mut conditions: Vec<_> = own
            .into_iter()
            .filter(|condition| status::is_own(&condition.type_))
            .collect();
        conditions.extend(
            stored
                .into_iter()
                .filter(|condition| !status::is_own(&condition.type_)),
        );
        pod.status.get_or_insert_default().conditions = Some(conditions);
        pod
    }
}
