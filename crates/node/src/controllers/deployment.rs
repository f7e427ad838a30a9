//! Deployments: one ReplicaSet per template revision, rolled over within surge and unavailability.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use meltemi_kube::events::{self, Kind};
use meltemi_kube::{Api, Error, Key, write};
use serde_json::json;

use super::Controllers;
use super::rollout::{self, HASH_LABEL, Replicas, Slack};
use crate::ownership;
use crate::watches::CATCH_UP;

mod status;

const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A Deployment with its ReplicaSets.
struct Rollout {
    all: Arc<Controllers>,
    key: Key,
    deployment: Arc<Deployment>,
    spec: DeploymentSpec,
    /// The set of the current template.
    new: Option<Arc<ReplicaSet>>,
    /// All other sets, oldest first.
    old: Vec<Arc<ReplicaSet>>,
}

pub(super) async fn reconcile(all: Arc<Controllers>, key: Key) -> Result<Option<Duration>, Error> {
    let Some(deployment) = all.stores.deployments.get(&key) else {
        return Ok(None);
    };
    let Some(spec) = deployment.spec.clone() else {
        return Ok(None);
    };
    let mut rollout = Rollout {
        all,
        key,
        deployment,
        spec,
        new: None,
        old: Vec::new(),
    };
    rollout.sort_sets();
    if rollout.deployment.metadata.deletion_timestamp.is_some() {
        return rollout.write_status().await;
    }
    if rollout.spec.paused != Some(true) {
        rollout.ensure_new().await?;
    }
    rollout.scale_all().await?;
    rollout.forget_history().await?;
    rollout.write_status().await
}

fn wanted(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(0)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

fn revision(annotations: Option<&BTreeMap<String, String>>) -> i64 {
    annotations
        .and_then(|a| a.get(REVISION))
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

impl Rollout {
    fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }

    fn recreates(&self) -> bool {
        self.spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
    }

    fn slack(&self) -> Slack {
        if self.recreates() {
            return Slack {
                surge: 0,
                unavailable: self.replicas(),
            };
        }
        let rolling = self
            .spec
            .strategy
            .as_ref()
            .and_then(|strategy| strategy.rolling_update.clone());
        let rolling = rolling.unwrap_or_default();
        Slack::new(
            rolling.max_surge.as_ref(),
            rolling.max_unavailable.as_ref(),
            self.replicas(),
        )
    }

    fn api(&self) -> Api<ReplicaSet> {
        Api::namespaced(self.all.client.clone(), &self.key.namespace)
    }

    /// Reads the owned sets from the store and finds the one of the current template.
    fn sort_sets(&mut self) {
        let uid = self.deployment.metadata.uid.as_deref();
        let mut sets = self
            .all
            .stores
            .replica_sets
            .in_namespace(&self.key.namespace);
        sets.retain(|set| ownership::is_controlled_by(&set.metadata, uid));
        sets.sort_by_key(|set| {
            (
                set.metadata.creation_timestamp.as_ref().map(|time| time.0),
                set.metadata.name.clone(),
            )
        });
        let current = sets.iter().position(|set| {
            let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
            template.is_some_and(|template| rollout::same_template(template, &self.spec.template))
        });
        self.new = current.map(|index| sets.remove(index));
        self.old = sets;
    }

    /// Makes sure that the current template has a set with the highest revision.
    async fn ensure_new(&mut self) -> Result<(), Error> {
        let highest = self
            .old
            .iter()
            .map(|set| revision(set.metadata.annotations.as_ref()))
            .max();
        let next = highest.unwrap_or(0) + 1;
        let number = match &self.new {
            None => {
                self.create_new(next).await?;
                next
            }
            Some(set) => {
                let own = revision(set.metadata.annotations.as_ref());
                if own < next {
                    let patch = json!({"metadata": {"annotations": {REVISION: next.to_string()}}});
                    let name = set.metadata.name.clone().unwrap_or_default();
                    let written = write::merge_patch(&self.api(), &name, &patch).await?;
                    self.all.stores.replica_sets.seen(&written, CATCH_UP).await;
                    self.new = Some(Arc::new(written));
                }
                own.max(next)
            }
        };
        if revision(self.deployment.metadata.annotations.as_ref()) != number {
            let api: Api<Deployment> =
                Api::namespaced(self.all.client.clone(), &self.key.namespace);
            let patch = json!({"metadata": {"annotations": {REVISION: number.to_string()}}});
            let written = write::merge_patch(&api, &self.key.name, &patch).await?;
            self.all.stores.deployments.seen(&written, CATCH_UP).await;
            self.deployment = Arc::new(written);
        }
        Ok(())
    }

    async fn create_new(&mut self, number: i64) -> Result<(), Error> {
        let status = self.deployment.status.clone().unwrap_or_default();
        let collisions = status.collision_count.unwrap_or(0);
        let hash = rollout::template_hash(&self.spec.template, collisions);
        let name = format!("{}-{hash}", self.key.name);
        let size = self.next_sizes().0;
        let set = self.new_set(&name, &hash, size, number);
        match self.api().create(&Default::default(), &set).await {
            Ok(created) => {
                self.all.stores.replica_sets.seen(&created, CATCH_UP).await;
                self.scaled_event(&name, 0, size);
                self.new = Some(Arc::new(created));
                Ok(())
            }
            Err(error) if write::is_already_exists(&error) => {
                self.resolve_collision(&name, collisions).await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// The name is taken: by our own set that the store has not seen yet, or by another hash.
    async fn resolve_collision(&self, name: &str, collisions: i32) -> Result<(), Error> {
        let Some(existing) = self.api().get_opt(name).await? else {
            return Ok(());
        };
        let ours = ownership::is_controlled_by(
            &existing.metadata,
            self.deployment.metadata.uid.as_deref(),
        );
        let same = existing
            .spec
            .as_ref()
            .and_then(|spec| spec.template.as_ref())
            .is_some_and(|t| rollout::same_template(t, &self.spec.template));
        if ours && same {
            self.all.stores.replica_sets.seen(&existing, CATCH_UP).await;
            return Ok(());
        }
        let api: Api<Deployment> = Api::namespaced(self.all.client.clone(), &self.key.namespace);
        let patch = json!({"status": {"collisionCount": collisions + 1}});
        write::merge_patch_status(&api, &self.key.name, &patch)
            .await
            .map(|_| ())
    }

    fn new_set(&self, name: &str, hash: &str, size: i32, number: i64) -> ReplicaSet {
        let mut template = self.spec.template.clone();
        let labels = template
            .metadata
            .get_or_insert_default()
            .labels
            .get_or_insert_default();
        labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
        let labels = labels.clone();
        let mut selector = self.spec.selector.clone();
        selector
            .match_labels
            .get_or_insert_default()
            .insert(HASH_LABEL.to_owned(), hash.to_owned());
        let mut annotations = self
            .deployment
            .metadata
            .annotations
            .clone()
            .unwrap_or_default();
        annotations.remove(LAST_APPLIED);
        annotations.extend(self.size_annotations());
        annotations.insert(REVISION.to_owned(), number.to_string());
        let mut set = ReplicaSet::default();
        set.metadata.name = Some(name.to_owned());
        set.metadata.namespace = Some(self.key.namespace.to_string());
        set.metadata.labels = Some(labels);
        set.metadata.annotations = Some(annotations);
        set.metadata.owner_references = Some(vec![ownership::reference_to(&*self.deployment)]);
        set.spec = Some(ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: self.spec.min_ready_seconds,
            selector,
            template: Some(template),
        });
        set
    }

    fn size_annotations(&self) -> [(String, String); 2] {
        let (desired, surge) = (self.replicas(), self.slack().surge);
        [
            (DESIRED.to_owned(), desired.to_string()),
            (MAXIMUM.to_owned(), (desired + surge).to_string()),
        ]
    }

    /// The sizes that the new and the old sets should have now.
    fn next_sizes(&self) -> (i32, Vec<i32>) {
        let numbers = |set: &Arc<ReplicaSet>| Replicas {
            wanted: wanted(set),
            available: available(set),
        };
        let new = self.new.as_ref().map_or(
            Replicas {
                wanted: 0,
                available: 0,
            },
            numbers,
        );
        let old: Vec<Replicas> = self.old.iter().map(numbers).collect();
        if self.spec.paused == Some(true) {
            // Paused: no rollout, but a changed replica count still scales the newest active set.
            let others: i32 = old.iter().map(|set| set.wanted).sum();
            return (
                (self.replicas() - others).max(0),
                old.iter().map(|set| set.wanted).collect(),
            );
        }
        if self.recreates() {
            let gone = self.old.iter().all(|set| {
                wanted(set) == 0
                    && set
                        .status
                        .as_ref()
                        .is_none_or(|status| status.replicas == 0)
            }) && !self.old_pods_remain();
            return (
                if gone { self.replicas() } else { new.wanted },
                vec![0; old.len()],
            );
        }
        rollout::step(self.replicas(), self.slack(), new, &old)
    }

    /// Whether pods of old sets still run (also those being deleted).
    fn old_pods_remain(&self) -> bool {
        let pods = self.all.stores.pods.in_namespace(&self.key.namespace);
        pods.iter().any(|pod| {
            !crate::pod_facts::is_ended(pod)
                && self.old.iter().any(|set| {
                    ownership::is_controlled_by(&pod.metadata, set.metadata.uid.as_deref())
                })
        })
    }

    async fn scale_all(&mut self) -> Result<(), Error> {
        let (new_size, old_sizes) = self.next_sizes();
        if let Some(set) = self.new.clone() {
            self.new = Some(self.scale(&set, new_size).await?);
        }
        for (index, size) in old_sizes.into_iter().enumerate() {
            let set = Arc::clone(&self.old[index]);
            self.old[index] = self.scale(&set, size).await?;
        }
        Ok(())
    }

    async fn scale(&self, set: &Arc<ReplicaSet>, size: i32) -> Result<Arc<ReplicaSet>, Error> {
        let before = wanted(set);
        let annotations: BTreeMap<String, String> = self.size_annotations().into();
        let annotated = annotations.iter().all(|(k, v)| {
            set.metadata
                .annotations
                .as_ref()
                .is_some_and(|a| a.get(k) == Some(v))
        });
        if before == size && (annotated || size == 0) {
            return Ok(Arc::clone(set));
        }
        let name = set.metadata.name.clone().unwrap_or_default();
        let patch = json!({"metadata": {"annotations": annotations}, "spec": {"replicas": size}});
        let written = write::merge_patch(&self.api(), &name, &patch).await?;
        if before != size {
            self.scaled_event(&name, before, size);
        }
        self.all.stores.replica_sets.seen(&written, CATCH_UP).await;
        Ok(Arc::new(written))
    }

    fn scaled_event(&self, name: &str, from: i32, to: i32) {
        if from == to {
            return;
        }
        let way = if to > from { "up" } else { "down" };
        let message = format!("Scaled {way} replica set {name} from {from} to {to}");
        self.all.recorder.record(
            events::reference(&*self.deployment),
            Kind::Normal,
            "ScalingReplicaSet",
            message,
        );
    }

    /// Deletes empty old sets beyond the history limit, oldest first.
    async fn forget_history(&self) -> Result<(), Error> {
        let limit = usize::try_from(self.spec.revision_history_limit.unwrap_or(10)).unwrap_or(10);
        let mut empty: Vec<&Arc<ReplicaSet>> = self
            .old
            .iter()
            .filter(|set| wanted(set) == 0 && set.status.as_ref().is_none_or(|s| s.replicas == 0))
            .filter(|set| set.metadata.deletion_timestamp.is_none())
            .collect();
        empty.sort_by_key(|set| revision(set.metadata.annotations.as_ref()));
        let excess = empty.len().saturating_sub(limit);
        for set in empty.into_iter().take(excess) {
            let name = set.metadata.name.clone().unwrap_or_default();
            let how = write::Deletion {
                uid: set.metadata.uid.clone(),
                ..Default::default()
            };
            write::delete(&self.api(), &name, how).await?;
        }
        Ok(())
    }
}
