//! StatefulSets: pods with stable names, started and stopped in order.
//!
//! Rolling updates go from the highest ordinal down; partitions are honoured. Volume claim templates
//! are not provisioned here: pods that name claims say so in their status.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::Pod;
use meltemi_kube::events::{self, Kind};
use meltemi_kube::{Api, Error, Key, write};
use serde_json::json;

use super::{Controllers, rollout};
use crate::ownership;
use crate::pod_facts::{self, Counts};
use crate::watches::CATCH_UP;

const REVISION: &str = "controller-revision-hash";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// One step towards the wanted state.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Create(i32),
    Delete(String),
}

pub(super) async fn reconcile(all: Arc<Controllers>, key: Key) -> Result<Option<Duration>, Error> {
    let Some(set) = all.stores.stateful_sets.get(&key) else {
        return Ok(None);
    };
    let Some(spec) = set.spec.clone() else {
        return Ok(None);
    };
    let revision = format!("{}-{}", key.name, rollout::template_hash(&spec.template, 0));
    if set.metadata.deletion_timestamp.is_none() {
        for step in steps(&spec, &key, &owned(&all, &set), &revision) {
            match step {
                Step::Create(ordinal) => create(&all, &set, &spec, ordinal, &revision).await?,
                Step::Delete(name) => delete(&all, &set, &name).await?,
            }
        }
    }
    write_status(&all, &set, &spec, &revision).await
}

fn owned(all: &Controllers, set: &StatefulSet) -> Vec<Arc<Pod>> {
    let mut pods = all
        .stores
        .pods
        .in_namespace(set.metadata.namespace.as_deref().unwrap_or_default());
    pods.retain(|pod| ownership::is_controlled_by(&pod.metadata, set.metadata.uid.as_deref()));
    pods
}

fn ordinal(pod: &Pod) -> Option<i32> {
    pod.metadata.name.as_ref()?.rsplit_once('-')?.1.parse().ok()
}

fn has_revision(pod: &Pod, revision: &str) -> bool {
    pod.metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(REVISION))
        .is_some_and(|r| r == revision)
}

/// What to do now. With ordered management at most one step, and none while a lower pod is not ready.
fn steps(spec: &StatefulSetSpec, key: &Key, pods: &[Arc<Pod>], revision: &str) -> Vec<Step> {
    let parallel = spec.pod_management_policy.as_deref() == Some("Parallel");
    let start = spec
        .ordinals
        .as_ref()
        .and_then(|ordinals| ordinals.start)
        .unwrap_or(0);
    let end = start + spec.replicas.unwrap_or(1);
    let find = |number: i32| pods.iter().find(|pod| ordinal(pod) == Some(number));
    let mut steps = Vec::new();
    for number in start..end {
        let name = format!("{}-{number}", key.name);
        match find(number) {
            None => steps.push(Step::Create(number)),
            Some(pod) if pod_facts::is_ended(pod) && !pod_facts::is_deleting(pod) => {
                steps.push(Step::Delete(name));
            }
            Some(pod) if pod_facts::is_ready(pod) && !pod_facts::is_deleting(pod) => continue,
            Some(_) if parallel => continue,
            Some(_) => return steps,
        }
        if !parallel {
            return steps;
        }
    }
    let mut extra: Vec<&Arc<Pod>> = pods
        .iter()
        .filter(|pod| ordinal(pod).is_none_or(|n| n < start || n >= end))
        .collect();
    extra.sort_by_key(|pod| std::cmp::Reverse(ordinal(pod)));
    if extra.iter().any(|pod| pod_facts::is_deleting(pod)) && !parallel {
        return steps;
    }
    extra.retain(|pod| !pod_facts::is_deleting(pod));
    let names = extra
        .iter()
        .filter_map(|pod| pod.metadata.name.clone())
        .map(Step::Delete);
    steps.extend(names.take(if parallel { usize::MAX } else { 1 }));
    if steps.is_empty() {
        steps.extend(outdated(spec, pods, (start, end), revision));
    }
    steps
}

/// The highest pod of an old revision, when all pods are ready.
fn outdated(
    spec: &StatefulSetSpec,
    pods: &[Arc<Pod>],
    (start, end): (i32, i32),
    revision: &str,
) -> Option<Step> {
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    let settled = pods
        .iter()
        .all(|pod| pod_facts::is_ready(pod) && !pod_facts::is_deleting(pod));
    if strategy.type_.as_deref() == Some("OnDelete") || !settled {
        return None;
    }
    let partition = strategy
        .rolling_update
        .and_then(|rolling| rolling.partition)
        .unwrap_or(0);
    (start.max(partition)..end).rev().find_map(|number| {
        let pod = pods.iter().find(|pod| ordinal(pod) == Some(number))?;
        (!has_revision(pod, revision))
            .then(|| pod.metadata.name.clone().map(Step::Delete))
            .flatten()
    })
}

async fn create(
    all: &Controllers,
    set: &Arc<StatefulSet>,
    spec: &StatefulSetSpec,
    number: i32,
    revision: &str,
) -> Result<(), Error> {
    let namespace = set.metadata.namespace.clone().unwrap_or_default();
    let owner = set.metadata.name.as_deref().unwrap_or_default();
    let name = format!("{owner}-{number}");
    let mut pod =
        pod_facts::from_template(&spec.template, &namespace, ownership::reference_to(&**set));
    pod.metadata.generate_name = Some(format!("{owner}-"));
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(REVISION.to_owned(), revision.to_owned());
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), number.to_string());
    if let Some(pod_spec) = &mut pod.spec {
        pod_spec.hostname = Some(name.clone());
        pod_spec.subdomain = spec.service_name.clone();
    }
    let api: Api<Pod> = Api::namespaced(all.client.clone(), &namespace);
    let created = match api.create(&Default::default(), &pod).await {
        Ok(created) => created,
        Err(error) if write::is_already_exists(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    let message = format!("create Pod {name} in StatefulSet {owner} successful");
    all.recorder.record(
        events::reference(&**set),
        Kind::Normal,
        "SuccessfulCreate",
        message,
    );
    all.stores.pods.seen(&created, CATCH_UP).await;
    Ok(())
}

async fn delete(all: &Controllers, set: &Arc<StatefulSet>, name: &str) -> Result<(), Error> {
    let namespace = set.metadata.namespace.clone().unwrap_or_default();
    let owner = set.metadata.name.as_deref().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(all.client.clone(), &namespace);
    if write::delete(&api, name, write::Deletion::default()).await? {
        let message = format!("delete Pod {name} in StatefulSet {owner} successful");
        all.recorder.record(
            events::reference(&**set),
            Kind::Normal,
            "SuccessfulDelete",
            message,
        );
    }
    Ok(())
}

async fn write_status(
    all: &Controllers,
    set: &StatefulSet,
    spec: &StatefulSetSpec,
    revision: &str,
) -> Result<Option<Duration>, Error> {
    let pods = owned(all, set);
    let counts = Counts::of(
        pods.iter().map(|pod| &**pod),
        spec.min_ready_seconds.unwrap_or(0),
    );
    let updated = pods
        .iter()
        .filter(|pod| has_revision(pod, revision))
        .count();
    let old = set.status.clone().unwrap_or_default();
    let complete = updated == pods.len() && counts.ready == spec.replicas.unwrap_or(1);
    let current = match old.current_revision {
        Some(current) if !complete => current,
        _ => revision.to_owned(),
    };
    let on_current = pods
        .iter()
        .filter(|pod| has_revision(pod, &current))
        .count();
    let status = json!({
        "replicas": pods.len(),
        "readyReplicas": counts.ready,
        "availableReplicas": counts.available,
        "currentReplicas": on_current,
        "updatedReplicas": updated,
        "currentRevision": current,
        "updateRevision": revision,
        "observedGeneration": set.metadata.generation,
        "collisionCount": 0,
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
    let api: Api<StatefulSet> = Api::namespaced(
        all.client.clone(),
        set.metadata.namespace.as_deref().unwrap_or_default(),
    );
    let name = set.metadata.name.as_deref().unwrap_or_default();
    match write::merge_patch_status(&api, name, &json!({"status": status})).await {
        Err(error) if !write::is_not_found(&error) => Err(error),
        _ => Ok(counts.next),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(replicas: i32) -> StatefulSetSpec {
        StatefulSetSpec {
            replicas: Some(replicas),
            ..StatefulSetSpec::default()
        }
    }

    fn pod(name: &str, ready: bool, revision: &str) -> Arc<Pod> {
        let ready = if ready { "True" } else { "False" };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "labels": {REVISION: revision}},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}
            }))
            .expect("a pod"),
        )
    }

    #[test]
    fn the_next_pod_waits_for_the_one_before() {
        let key = Key::new("ns", "db");
        assert_eq!(steps(&spec(3), &key, &[], "r"), [Step::Create(0)]);
        assert_eq!(steps(&spec(3), &key, &[pod("db-0", false, "r")], "r"), []);
        assert_eq!(
            steps(&spec(3), &key, &[pod("db-0", true, "r")], "r"),
            [Step::Create(1)]
        );
    }

    #[test]
    fn scaling_down_and_updating_start_at_the_highest_pod() {
        let key = Key::new("ns", "db");
        let pods = [
            pod("db-0", true, "old"),
            pod("db-1", true, "old"),
            pod("db-2", true, "old"),
        ];
        assert_eq!(
            steps(&spec(1), &key, &pods, "old"),
            [Step::Delete("db-2".to_owned())]
        );
        assert_eq!(
            steps(&spec(3), &key, &pods, "new"),
            [Step::Delete("db-2".to_owned())]
        );
    }
}
