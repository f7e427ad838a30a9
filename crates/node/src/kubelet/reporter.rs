//! Writes a pod's status when it changes: one patch under way at most, changes meanwhile merged.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use meltemi_kube::{Api, Error, write};
use serde_json::json;
use tokio::sync::watch;

use super::state::PodRuntime;
use super::{Kubelet, status};

/// The status writer of one pod.
pub(super) struct Reporter {
    kubelet: Arc<Kubelet>,
    pod: watch::Receiver<Arc<Pod>>,
    runtime: Arc<PodRuntime>,
    changes: watch::Receiver<u64>,
    written: Option<PodStatus>,
}

impl Reporter {
    pub(super) fn new(
        kubelet: Arc<Kubelet>,
        pod: watch::Receiver<Arc<Pod>>,
        runtime: Arc<PodRuntime>,
    ) -> Self {
        let changes = runtime.changes();
        Self {
            kubelet,
            pod,
            runtime,
            changes,
            written: None,
        }
    }

    /// Reports forever.
    pub(super) async fn follow(&mut self) {
        self.runtime.until(|state| state.bound.then_some(())).await;
        loop {
            self.changes.mark_unchanged();
            self.report_until_written().await;
            let mut pod = self.pod.clone();
            tokio::select! {
                _ = self.changes.changed() => {}
                // Readiness gates and generations come with the object.
                Ok(()) = pod.changed() => {}
            }
        }
    }

    /// Writes the present status; tries again until the API server answers.
    pub(super) async fn report_until_written(&mut self) {
        let mut pause = Duration::from_millis(50);
        loop {
            match self.report().await {
                Ok(()) => return,
                Err(error) if matches!(write::code(&error), Some(404 | 409)) => return,
                Err(error) => tracing::warn!(%error, "pod status not written, retrying"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(5));
        }
    }

    async fn report(&mut self) -> Result<(), Error> {
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
