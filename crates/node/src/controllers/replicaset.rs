//! ReplicaSets: as many pods as asked for, and a status that counts them.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use meltemi_kube::events::{self, Kind};
use meltemi_kube::{Api, Error, Key, write};
use serde_json::json;

use super::Controllers;
use crate::pod_facts::{self, Counts};
use crate::watches::CATCH_UP;
use crate::{ownership, selector};

/// Pods that are made or deleted in one pass.
const BURST: usize = 100;

pub(super) async fn reconcile(all: Arc<Controllers>, key: Key) -> Result<Option<Duration>, Error> {
    let Some(set) = all.stores.replica_sets.get(&key) else {
        return Ok(None);
    };
    let Some(spec) = &set.spec else {
        return Ok(None);
    };
    let pods = owned_pods(&all, &set);
    let mut failure = None;
    if set.metadata.deletion_timestamp.is_none() {
        let active: Vec<&Arc<Pod>> = pods
            .iter()
            .filter(|pod| pod_facts::is_active(pod))
            .collect();
        let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
        if active.len() < wanted {
            failure = create(&all, &set, (wanted - active.len()).min(BURST))
                .await
                .err();
        } else if active.len() > wanted {
            let victims = victims(&active, active.len() - wanted);
            delete(&all, &set, victims).await?;
        }
    }
    let next = write_status(&all, &set, failure.as_ref()).await?;
    failure.map_or(Ok(next), Err)
}

/// The pods that this set controls.
fn owned_pods(all: &Controllers, set: &ReplicaSet) -> Vec<Arc<Pod>> {
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let mut pods = all.stores.pods.in_namespace(namespace);
    pods.retain(|pod| ownership::is_controlled_by(&pod.metadata, set.metadata.uid.as_deref()));
    pods
}

async fn create(all: &Controllers, set: &Arc<ReplicaSet>, count: usize) -> Result<(), Error> {
    let namespace = set.metadata.namespace.clone().unwrap_or_default();
    let Some(template) = set.spec.as_ref().and_then(|spec| spec.template.as_ref()) else {
        return Ok(());
    };
    let pod = pod_facts::from_template(template, &namespace, ownership::reference_to(&**set));
    let api: Api<Pod> = Api::namespaced(all.client.clone(), &namespace);
    let params = Default::default();
    let outcomes = join_all((0..count).map(|_| api.create(&params, &pod))).await;
    let mut failure = None;
    for outcome in outcomes {
        match outcome {
            Ok(created) => {
                let name = created.metadata.name.clone().unwrap_or_default();
                all.recorder.record(
                    events::reference(&**set),
                    Kind::Normal,
                    "SuccessfulCreate",
                    format!("Created pod: {name}"),
                );
                all.stores.pods.seen(&created, CATCH_UP).await;
            }
            Err(error) => failure = Some(error),
        }
    }
    let Some(error) = failure else { return Ok(()) };
    let message = format!("Error creating: {}", reason(&error));
    all.recorder.record(
        events::reference(&**set),
        Kind::Warning,
        "FailedCreate",
        message,
    );
    Err(error)
}

/// The API server's own words for an error.
pub(super) fn reason(error: &Error) -> String {
    match error {
        Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// The pods to delete first, as Kubernetes ranks them: unassigned, then not running, then not ready,
/// then the youngest.
fn victims(active: &[&Arc<Pod>], count: usize) -> Vec<Arc<Pod>> {
    let mut ranked: Vec<Arc<Pod>> = active.iter().map(|pod| Arc::clone(pod)).collect();
    ranked.sort_by_key(|pod| {
        let assigned = pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.node_name.is_some());
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let running = pod_facts::phase(pod) == "Running";
        (
            assigned,
            running,
            pod_facts::is_ready(pod),
            std::cmp::Reverse(created),
        )
    });
    ranked.truncate(count.min(BURST));
    ranked
}

async fn delete(
    all: &Controllers,
    set: &Arc<ReplicaSet>,
    victims: Vec<Arc<Pod>>,
) -> Result<(), Error> {
    let namespace = set.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(all.client.clone(), &namespace);
    for pod in victims {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let how = write::Deletion {
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        };
        if !write::delete(&api, &name, how).await? {
            continue;
        }
        all.recorder.record(
            events::reference(&**set),
            Kind::Normal,
            "SuccessfulDelete",
            format!("Deleted pod: {name}"),
        );
        let key = Key::of(&*pod);
        let gone = all.stores.pods.until(|pods| match pods.get(&key) {
            Some(now) if now.metadata.uid == pod.metadata.uid && !pod_facts::is_deleting(&now) => {
                None
            }
            _ => Some(()),
        });
        let _ = tokio::time::timeout(CATCH_UP, gone).await;
    }
    Ok(())
}

async fn write_status(
    all: &Controllers,
    set: &ReplicaSet,
    failure: Option<&Error>,
) -> Result<Option<Duration>, Error> {
    let Some(spec) = &set.spec else {
        return Ok(None);
    };
    let active: Vec<Arc<Pod>> = owned_pods(all, set)
        .into_iter()
        .filter(|pod| pod_facts::is_active(pod))
        .collect();
    let counts = Counts::of(
        active.iter().map(|pod| &**pod),
        spec.min_ready_seconds.unwrap_or(0),
    );
    let template = spec
        .template
        .as_ref()
        .and_then(|template| template.metadata.as_ref());
    let labels = template
        .and_then(|meta| meta.labels.clone())
        .unwrap_or_default();
    let labeled = active
        .iter()
        .filter(|pod| selector::matches_all(&labels, pod.metadata.labels.as_ref()))
        .count();
    let old = set.status.clone().unwrap_or_default();
    let status = ReplicaSetStatus {
        replicas: i32::try_from(active.len()).unwrap_or(i32::MAX),
        fully_labeled_replicas: i32::try_from(labeled).ok(),
        ready_replicas: Some(counts.ready),
        available_replicas: Some(counts.available),
        observed_generation: set.metadata.generation,
        conditions: None,
        terminating_replicas: None,
    };
    let same = old.replicas == status.replicas
        && old.fully_labeled_replicas.unwrap_or(0) == status.fully_labeled_replicas.unwrap_or(0)
        && old.ready_replicas.unwrap_or(0) == counts.ready
        && old.available_replicas.unwrap_or(0) == counts.available
        && old.observed_generation == status.observed_generation
        && old.conditions.is_some() == failure.is_some();
    if same {
        return Ok(counts.next);
    }
    let conditions = failure.map(|error| {
        json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
                "message": reason(error), "lastTransitionTime": k8s_openapi::jiff::Timestamp::now()}])
    });
    let mut patch = json!({"status": status});
    patch["status"]["conditions"] = conditions.unwrap_or_default();
    let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<ReplicaSet> = Api::namespaced(all.client.clone(), namespace);
    let name = set.metadata.name.as_deref().unwrap_or_default();
    match write::merge_patch_status(&api, name, &patch).await {
        Err(error) if !write::is_not_found(&error) => Err(error),
        _ => Ok(counts.next),
    }
}
