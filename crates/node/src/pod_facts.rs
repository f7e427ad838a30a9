//! What other parts ask about a pod: ready, available, ended, being deleted.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;

/// The condition of that type.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == kind)
}

/// Whether the pod's `Ready` condition is true.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|condition| condition.status == "True")
}

/// The pod's phase, `Pending` when it has none yet.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending")
}

/// Whether all containers have ended for good.
pub(crate) fn is_ended(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether deletion has been asked for.
pub(crate) fn is_deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether a controller counts the pod as one of its replicas.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_ended(pod) && !is_deleting(pod)
}

/// Whether the pod has been ready for `min_ready_seconds`; otherwise how long that still takes.
pub(crate) fn availability(pod: &Pod, min_ready_seconds: i32) -> Availability {
    let Some(ready) = condition(pod, "Ready").filter(|condition| condition.status == "True") else {
        return Availability::No;
    };
    let wanted = i64::from(min_ready_seconds);
    let since = ready
        .last_transition_time
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let elapsed = Timestamp::now().as_second() - since.as_second();
    if wanted <= 0 || elapsed >= wanted {
        Availability::Yes
    } else {
        Availability::In(Duration::from_secs(
            u64::try_from(wanted - elapsed).unwrap_or(1),
        ))
    }
}

/// Answer of [`availability`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Availability {
    /// Ready long enough.
    Yes,
    /// Ready, but not long enough yet.
    In(Duration),
    /// Not ready.
    No,
}

/// How many pods are ready and available, and when to look again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Ready pods.
    pub(crate) ready: i32,
    /// Pods that have been ready for long enough.
    pub(crate) available: i32,
    /// When the next pod becomes available without any event.
    pub(crate) next: Option<Duration>,
}

impl Counts {
    /// Counts `pods`.
    pub(crate) fn of<'a>(pods: impl IntoIterator<Item = &'a Pod>, min_ready_seconds: i32) -> Self {
        let mut counts = Self::default();
        for pod in pods {
            match availability(pod, min_ready_seconds) {
                Availability::Yes => {
                    counts.ready += 1;
                    counts.available += 1;
                }
                Availability::In(wait) => {
                    counts.ready += 1;
                    counts.next = Some(counts.next.map_or(wait, |next| next.min(wait)));
                }
                Availability::No => {}
            }
        }
        counts
    }
}

/// A pod from a controller's template.
pub(crate) fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    owner: OwnerReference,
) -> Pod {
    let mut pod = Pod {
        spec: template.spec.clone(),
        ..Pod::default()
    };
    if let Some(meta) = &template.metadata {
        pod.metadata.labels = meta.labels.clone();
        pod.metadata.annotations = meta.annotations.clone();
        pod.metadata.finalizers = meta.finalizers.clone();
    }
    pod.metadata.namespace = Some(namespace.to_owned());
    pod.metadata.generate_name = Some(format!("{}-", owner.name));
    pod.metadata.owner_references = Some(vec![owner]);
    pod
}
