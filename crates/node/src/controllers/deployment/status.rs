//! A Deployment's status: counts over its sets, and the conditions that `kubectl rollout status`
//! and `kubectl wait` read.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use meltemi_kube::{Api, Error, write};
use serde_json::json;

use super::{Rollout, available};

impl Rollout {
    /// Writes the status when it differs; returns when to look again (progress deadline).
    pub(super) async fn write_status(&self) -> Result<Option<Duration>, Error> {
        let old = self.deployment.status.clone().unwrap_or_default();
        let mut status = self.counts();
        status.collision_count = old.collision_count;
        let (conditions, next) = self.conditions(&old, &status);
        status.conditions = Some(conditions);
        if plain(&status) == plain(&old) {
            return Ok(next);
        }
        let api: Api<Deployment> = Api::namespaced(self.all.client.clone(), &self.key.namespace);
        match write::merge_patch_status(&api, &self.key.name, &json!({"status": complete(&status)}))
            .await
        {
            Err(error) if !write::is_not_found(&error) => Err(error),
            _ => Ok(next),
        }
    }

    fn counts(&self) -> DeploymentStatus {
        let sum = |count: fn(&ReplicaSet) -> i32| -> i32 {
            self.old.iter().chain(&self.new).map(|set| count(set)).sum()
        };
        let replicas = sum(actual);
        let available = sum(available);
        DeploymentStatus {
            replicas: Some(replicas),
            updated_replicas: Some(self.new.as_deref().map_or(0, actual)),
            ready_replicas: Some(sum(|set| {
                set.status
                    .as_ref()
                    .and_then(|s| s.ready_replicas)
                    .unwrap_or(0)
            })),
            available_replicas: Some(available),
            unavailable_replicas: Some((self.replicas().max(replicas) - available).max(0)),
            observed_generation: self.deployment.metadata.generation,
            ..DeploymentStatus::default()
        }
    }

    fn conditions(
        &self,
        old: &DeploymentStatus,
        status: &DeploymentStatus,
    ) -> (Vec<DeploymentCondition>, Option<Duration>) {
        let minimum = self.replicas() - self.slack().unavailable;
        let available = if status.available_replicas.unwrap_or(0) >= minimum {
            (
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.".to_owned(),
            )
        } else {
            (
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.".to_owned(),
            )
        };
        let moved = self.moved(old, status);
        let (progressing, next) = self.progress(old, status, moved);
        let mut conditions = vec![
            condition(old, "Available", available, false),
            condition(old, "Progressing", progressing, moved),
        ];
        if let Some(failure) = self.failure() {
            conditions.push(condition(
                old,
                "ReplicaFailure",
                ("True", "FailedCreate", failure),
                false,
            ));
        }
        (conditions, next)
    }

    fn failure(&self) -> Option<String> {
        let conditions = self.new.as_ref()?.status.as_ref()?.conditions.as_ref()?;
        let failure = conditions
            .iter()
            .find(|c| c.type_ == "ReplicaFailure" && c.status == "True")?;
        failure.message.clone()
    }

    /// Whether the rollout came forward since the stored status.
    fn moved(&self, old: &DeploymentStatus, status: &DeploymentStatus) -> bool {
        status.updated_replicas.unwrap_or(0) != old.updated_replicas.unwrap_or(0)
            || status.ready_replicas.unwrap_or(0) > old.ready_replicas.unwrap_or(0)
            || status.available_replicas.unwrap_or(0) > old.available_replicas.unwrap_or(0)
            || status.replicas.unwrap_or(0) < old.replicas.unwrap_or(0)
            || old.observed_generation != self.deployment.metadata.generation
    }

    fn progress(
        &self,
        old: &DeploymentStatus,
        status: &DeploymentStatus,
        moved: bool,
    ) -> ((&'static str, &'static str, String), Option<Duration>) {
        let replicas = self.replicas();
        let complete = status.updated_replicas == Some(replicas)
            && status.replicas == Some(replicas)
            && status.available_replicas == Some(replicas);
        let name = self.new.as_ref().and_then(|set| set.metadata.name.clone());
        let subject = match &name {
            Some(name) => format!("ReplicaSet \"{name}\""),
            None => format!("Deployment \"{}\"", self.key.name),
        };
        if complete {
            let message = format!("{subject} has successfully progressed.");
            return (("True", "NewReplicaSetAvailable", message), None);
        }
        if self.spec.paused == Some(true) {
            return (
                (
                    "Unknown",
                    "DeploymentPaused",
                    "Deployment is paused".to_owned(),
                ),
                None,
            );
        }
        let before = old
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == "Progressing");
        let deadline = i64::from(self.spec.progress_deadline_seconds.unwrap_or(600));
        let since = before
            .filter(|_| !moved)
            .and_then(|c| c.last_update_time.as_ref());
        let elapsed = since.map_or(0, |time| Timestamp::now().as_second() - time.0.as_second());
        let restarted =
            before.is_some_and(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"));
        if elapsed >= deadline && !restarted {
            let message = format!("{subject} has timed out progressing.");
            return (("False", "ProgressDeadlineExceeded", message), None);
        }
        let wait = Duration::from_secs(u64::try_from((deadline - elapsed).max(1)).unwrap_or(1));
        (
            (
                "True",
                "ReplicaSetUpdated",
                format!("{subject} is progressing."),
            ),
            Some(wait),
        )
    }
}

/// Pods that a set has by its own status; a fresh set without status has none.
fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

/// The condition, with its times carried over where nothing changed.
fn condition(
    old: &DeploymentStatus,
    kind: &str,
    (status, reason, message): (&str, &str, String),
    refresh: bool,
) -> DeploymentCondition {
    let now = Time(Timestamp::now());
    let before = old
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind);
    let same_status = before.filter(|condition| condition.status == status);
    let same = same_status.filter(|condition| {
        condition.reason.as_deref() == Some(reason)
            && condition.message.as_deref() == Some(&message)
            && !refresh
    });
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: same_status
            .and_then(|condition| condition.last_transition_time.clone())
            .or_else(|| Some(now.clone())),
        last_update_time: same
            .and_then(|condition| condition.last_update_time.clone())
            .or(Some(now)),
    }
}

/// What decides whether a status is written: everything but zero-versus-absent.
fn plain(status: &DeploymentStatus) -> serde_json::Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, value| value != 0 && !value.is_null());
    }
    value
}

/// The status with zero counts as explicit nulls, so that a merge removes what went to zero.
fn complete(status: &DeploymentStatus) -> serde_json::Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    if let Some(fields) = value.as_object_mut() {
        for (_, value) in fields.iter_mut() {
            if *value == 0 {
                *value = serde_json::Value::Null;
            }
        }
    }
    value
}
