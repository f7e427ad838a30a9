//! Jobs: pods until enough have succeeded, or too many have failed.
//!
//! Indexed completion, success policies and pod failure policies are not followed.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use meltemi_kube::events::{self, Kind};
use meltemi_kube::{Api, Error, Key, write};
use serde_json::{Value, json};

use super::Controllers;
use crate::watches::CATCH_UP;
use crate::{ownership, pod_facts};

/// How a Job stands.
struct Progress {
    active: Vec<Arc<Pod>>,
    ready: usize,
    succeeded: i32,
    failed: Vec<Arc<Pod>>,
}

pub(super) async fn reconcile(all: Arc<Controllers>, key: Key) -> Result<Option<Duration>, Error> {
    let Some(job) = all.stores.jobs.get(&key) else {
        return Ok(None);
    };
    let Some(spec) = job.spec.clone() else {
        return Ok(None);
    };
    if job.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    if let Some(finished) = finished_at(&job) {
        return expire(&all, &key, &job, &spec, finished).await;
    }
    let progress = progress(&all, &job);
    let verdict = verdict(&job, &spec, &progress);
    let mut next = None;
    if verdict.is_some() || spec.suspend == Some(true) {
        delete_pods(&all, &key, &progress.active).await?;
    } else {
        next = start_pods(&all, &job, &spec, &progress).await?;
    }
    write_status(&all, &key, &job, verdict).await?;
    let deadline = spec
        .active_deadline_seconds
        .map(|seconds| remaining(&job, seconds));
    Ok([next, deadline].into_iter().flatten().min())
}

fn finished_at(job: &Job) -> Option<Timestamp> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let done = conditions
        .iter()
        .find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    done.last_transition_time.as_ref().map(|time| time.0)
}

/// Deletes a finished Job after its time to live.
async fn expire(
    all: &Controllers,
    key: &Key,
    job: &Job,
    spec: &JobSpec,
    finished: Timestamp,
) -> Result<Option<Duration>, Error> {
    let Some(ttl) = spec.ttl_seconds_after_finished else {
        return Ok(None);
    };
    let left = finished.as_second() + i64::from(ttl) - Timestamp::now().as_second();
    if left > 0 {
        return Ok(Some(Duration::from_secs(left.unsigned_abs())));
    }
    let api: Api<Job> = Api::namespaced(all.client.clone(), &key.namespace);
    let how = write::Deletion {
        uid: job.metadata.uid.clone(),
        propagation: Some(kube::api::PropagationPolicy::Background),
        ..Default::default()
    };
    write::delete(&api, &key.name, how).await?;
    Ok(None)
}

fn progress(all: &Controllers, job: &Job) -> Progress {
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let mut pods = all.stores.pods.in_namespace(namespace);
    pods.retain(|pod| ownership::is_controlled_by(&pod.metadata, job.metadata.uid.as_deref()));
    let succeeded = pods
        .iter()
        .filter(|pod| pod_facts::phase(pod) == "Succeeded")
        .count();
    let failed: Vec<Arc<Pod>> = pods
        .iter()
        .filter(|pod| pod_facts::phase(pod) == "Failed")
        .cloned()
        .collect();
    pods.retain(|pod| pod_facts::is_active(pod));
    Progress {
        ready: pods.iter().filter(|pod| pod_facts::is_ready(pod)).count(),
        active: pods,
        succeeded: i32::try_from(succeeded).unwrap_or(i32::MAX),
        failed,
    }
}

/// Whether the Job is over: its condition, reason and message.
fn verdict(
    job: &Job,
    spec: &JobSpec,
    progress: &Progress,
) -> Option<(&'static str, &'static str, String)> {
    let limit = spec.backoff_limit.unwrap_or(6);
    let restarts: i32 = progress.active.iter().map(|pod| restarts(pod)).sum();
    let failed = i32::try_from(progress.failed.len()).unwrap_or(i32::MAX);
    if failed.saturating_add(restarts) > limit {
        let message = "Job has reached the specified backoff limit".to_owned();
        return Some(("Failed", "BackoffLimitExceeded", message));
    }
    if spec
        .active_deadline_seconds
        .is_some_and(|seconds| remaining(job, seconds).is_zero())
    {
        let message = "Job was active longer than specified deadline".to_owned();
        return Some(("Failed", "DeadlineExceeded", message));
    }
    let complete = match spec.completions {
        Some(completions) => progress.succeeded >= completions,
        None => progress.succeeded > 0 && progress.active.is_empty(),
    };
    complete.then(|| {
        (
            "Complete",
            "CompletionsReached",
            "Reached expected number of succeeded pods".to_owned(),
        )
    })
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .iter()
        .filter_map(|status| status.container_statuses.as_ref());
    statuses.flatten().map(|status| status.restart_count).sum()
}

/// Time left of the active deadline.
fn remaining(job: &Job, seconds: i64) -> Duration {
    let start = job
        .status
        .as_ref()
        .and_then(|status| status.start_time.as_ref());
    let elapsed = start.map_or(0, |start| {
        Timestamp::now().as_second() - start.0.as_second()
    });
    Duration::from_secs(u64::try_from(seconds - elapsed).unwrap_or(0))
}

/// Starts missing pods; after failures with a growing pause (10 s doubling to 6 min).
async fn start_pods(
    all: &Controllers,
    job: &Arc<Job>,
    spec: &JobSpec,
    progress: &Progress,
) -> Result<Option<Duration>, Error> {
    let parallel = spec.parallelism.unwrap_or(1);
    let wanted = match spec.completions {
        Some(completions) => parallel.min(completions - progress.succeeded),
        None if progress.succeeded > 0 => 0,
        None => parallel,
    };
    let active = i32::try_from(progress.active.len()).unwrap_or(i32::MAX);
    if wanted <= active {
        return Ok(None);
    }
    if let Some(pause) = pause(&progress.failed) {
        return Ok(Some(pause));
    }
    let namespace = job.metadata.namespace.clone().unwrap_or_default();
    let name = job.metadata.name.clone().unwrap_or_default();
    let uid = job.metadata.uid.clone().unwrap_or_default();
    let mut pod =
        pod_facts::from_template(&spec.template, &namespace, ownership::reference_to(&**job));
    let labels = pod.metadata.labels.get_or_insert_default();
    for (key, value) in [
        ("batch.kubernetes.io/job-name", &name),
        ("job-name", &name),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("controller-uid", &uid),
    ] {
        labels.insert(key.to_owned(), value.clone());
    }
    let api: Api<Pod> = Api::namespaced(all.client.clone(), &namespace);
    for _ in active..wanted {
        let created = match api.create(&Default::default(), &pod).await {
            Ok(created) => created,
            Err(error) => {
                let message = format!("Error creating: {}", super::replicaset::reason(&error));
                all.recorder.record(
                    events::reference(&**job),
                    Kind::Warning,
                    "FailedCreate",
                    message,
                );
                return Err(error);
            }
        };
        let message = format!(
            "Created pod: {}",
            created.metadata.name.as_deref().unwrap_or_default()
        );
        all.recorder.record(
            events::reference(&**job),
            Kind::Normal,
            "SuccessfulCreate",
            message,
        );
        all.stores.pods.seen(&created, CATCH_UP).await;
    }
    Ok(None)
}

fn pause(failed: &[Arc<Pod>]) -> Option<Duration> {
    let ended = |pod: &Arc<Pod>| {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        statuses
            .iter()
            .filter_map(|s| {
                Some(
                    s.state
                        .as_ref()?
                        .terminated
                        .as_ref()?
                        .finished_at
                        .as_ref()?
                        .0,
                )
            })
            .max()
    };
    let last = failed.iter().filter_map(ended).max()?;
    let exponent = u32::try_from(failed.len().saturating_sub(1))
        .unwrap_or(6)
        .min(6);
    let pause = (10i64 << exponent).min(360);
    let left = last.as_second() + pause - Timestamp::now().as_second();
    (left > 0).then(|| Duration::from_secs(left.unsigned_abs()))
}

async fn delete_pods(all: &Controllers, key: &Key, pods: &[Arc<Pod>]) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(all.client.clone(), &key.namespace);
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let how = write::Deletion {
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        };
        write::delete(&api, &name, how).await?;
    }
    Ok(())
}

async fn write_status(
    all: &Controllers,
    key: &Key,
    job: &Job,
    verdict: Option<(&str, &str, String)>,
) -> Result<(), Error> {
    let progress = progress(all, job);
    let now = Timestamp::now();
    let old = serde_json::to_value(job.status.clone().unwrap_or_default()).unwrap_or_default();
    let count = |number: usize| {
        if number == 0 {
            Value::Null
        } else {
            json!(number)
        }
    };
    let mut status = json!({
        "active": count(progress.active.len()),
        "ready": count(progress.ready),
        "succeeded": count(usize::try_from(progress.succeeded).unwrap_or(0)),
        "failed": count(progress.failed.len()),
    });
    let changed = ["active", "ready", "succeeded", "failed"]
        .iter()
        .any(|field| old[field] != status[field]);
    if old["startTime"].is_null() {
        status["startTime"] = json!(now);
    }
    let over = verdict.is_some();
    if let Some((kind, reason, message)) = verdict {
        let condition = |kind: &str| {
            json!({"type": kind, "status": "True", "reason": reason, "message": message,
                   "lastProbeTime": now, "lastTransitionTime": now})
        };
        let before = if kind == "Complete" {
            "SuccessCriteriaMet"
        } else {
            "FailureTarget"
        };
        status["conditions"] = json!([condition(before), condition(kind)]);
        let level = if kind == "Complete" {
            status["completionTime"] = json!(now);
            (Kind::Normal, "Completed", "Job completed")
        } else {
            (Kind::Warning, reason, message.as_str())
        };
        all.recorder
            .record(events::reference(job), level.0, level.1, level.2);
    }
    if !over && !changed && !old["startTime"].is_null() {
        return Ok(());
    }
    let api: Api<Job> = Api::namespaced(all.client.clone(), &key.namespace);
    match write::merge_patch_status(&api, &key.name, &json!({"status": status})).await {
        Ok(written) => {
            all.stores.jobs.seen(&written, CATCH_UP).await;
            Ok(())
        }
        Err(error) if write::is_not_found(&error) => Ok(()),
        Err(error) => Err(error),
    }
}
