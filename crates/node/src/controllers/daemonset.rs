//! DaemonSets: one pod on the node. Updates replace it (delete, then create).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::Pod;
use meltemi_kube::events::{self, Kind};
use meltemi_kube::{Api, Error, Key, write};
use serde_json::json;

use super::{Controllers, rollout};
use crate::ownership;
use crate::pod_facts::{self, Counts};
use crate::watches::CATCH_UP;

const REVISION: &str = "controller-revision-hash";

pub(super) async fn reconcile(all: Arc<Controllers>, key: Key) -> Result<Option<Duration>, Error> {
    let Some(set) = all.stores.daemon_sets.get(&key) else {
        return Ok(None);
    };
    let Some(spec) = set.spec.clone() else {
        return Ok(None);
    };
    let revision = rollout::template_hash(&spec.template, 0);
    if set.metadata.deletion_timestamp.is_none() {
        place(&all, &set, &spec, &revision).await?;
    }
    write_status(&all, &set, &spec, &revision).await
}

fn owned(all: &Controllers, set: &DaemonSet) -> Vec<Arc<Pod>> {
    let mut pods = all
        .stores
        .pods
        .in_namespace(set.metadata.namespace.as_deref().unwrap_or_default());
    pods.retain(|pod| ownership::is_controlled_by(&pod.metadata, set.metadata.uid.as_deref()));
    pods
}

fn has_revision(pod: &Pod, revision: &str) -> bool {
    pod.metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(REVISION))
        .is_some_and(|r| r == revision)
}

async fn place(
    all: &Controllers,
    set: &Arc<DaemonSet>,
    spec: &DaemonSetSpec,
    revision: &str,
) -> Result<(), Error> {
    let namespace = set.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(all.client.clone(), &namespace);
    let pods = owned(all, set);
    let on_delete = spec
        .update_strategy
        .as_ref()
        .and_then(|s| s.type_.as_deref())
        == Some("OnDelete");
    let keep = |pod: &Pod| pod_facts::is_active(pod) && (on_delete || has_revision(pod, revision));
    let mut kept = 0;
    for pod in &pods {
        if keep(pod) && kept == 0 {
            kept += 1;
        } else if !pod_facts::is_deleting(pod) {
            let name = pod.metadata.name.clone().unwrap_or_default();
            write::delete(&api, &name, write::Deletion::default()).await?;
            let message = format!("Deleted pod: {name}");
            all.recorder.record(
                events::reference(&**set),
                Kind::Normal,
                "SuccessfulDelete",
                message,
            );
        }
    }
    if kept > 0 || !pods.is_empty() {
        return Ok(());
    }
    let mut pod =
        pod_facts::from_template(&spec.template, &namespace, ownership::reference_to(&**set));
    pod.metadata
        .labels
        .get_or_insert_default()
        .insert(REVISION.to_owned(), revision.to_owned());
    let created = api.create(&Default::default(), &pod).await?;
    let message = format!(
        "Created pod: {}",
        created.metadata.name.as_deref().unwrap_or_default()
    );
    all.recorder.record(
        events::reference(&**set),
        Kind::Normal,
        "SuccessfulCreate",
        message,
    );
    all.stores.pods.seen(&created, CATCH_UP).await;
    Ok(())
}

async fn write_status(
    all: &Controllers,
    set: &DaemonSet,
    spec: &DaemonSetSpec,
    revision: &str,
) -> Result<Option<Duration>, Error> {
    let active: Vec<Arc<Pod>> = owned(all, set)
        .into_iter()
        .filter(|pod| pod_facts::is_active(pod))
        .collect();
    let counts = Counts::of(
        active.iter().map(|pod| &**pod),
        spec.min_ready_seconds.unwrap_or(0),
    );
    let updated = active
        .iter()
        .filter(|pod| has_revision(pod, revision))
        .count();
    let status = json!({
        "currentNumberScheduled": active.len().min(1),
        "desiredNumberScheduled": 1,
        "numberMisscheduled": 0,
        "numberReady": counts.ready,
        "numberAvailable": counts.available,
        "numberUnavailable": 1 - counts.available.min(1),
        "updatedNumberScheduled": updated,
        "observedGeneration": set.metadata.generation,
    });
    let before = serde_json::to_value(set.status.clone().unwrap_or_default()).unwrap_or_default();
    let same = status.as_object().is_some_and(|fields| {
        fields
            .iter()
            .all(|(name, value)| before[name] == *value || (*value == 0 && before[name].is_null()))
    });
    if same {
        return Ok(counts.next);
    }
    let api: Api<DaemonSet> = Api::namespaced(
        all.client.clone(),
        set.metadata.namespace.as_deref().unwrap_or_default(),
    );
    let name = set.metadata.name.as_deref().unwrap_or_default();
    match write::merge_patch_status(&api, name, &json!({"status": status})).await {
        Err(error) if !write::is_not_found(&error) => Err(error),
        _ => Ok(counts.next),
    }
}
