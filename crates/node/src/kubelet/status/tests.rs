//! What a status says for given facts.

use super::*;
use crate::kubelet::state::PodRuntime;
use serde_json::json;

fn pod(restart_policy: &str, init: &[&str], main: &[&str]) -> Pod {
    let containers = |names: &[&str]| {
        names
            .iter()
            .map(|name| json!({"name": name, "image": "x"}))
            .collect::<Vec<_>>()
    };
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns"},
        "spec": {"restartPolicy": restart_policy, "initContainers": containers(init), "containers": containers(main)}
    }))
    .expect("a pod")
}

fn running() -> Doing {
    Doing::Running {
        since: Timestamp::UNIX_EPOCH,
    }
}

fn ended(exit_code: i32) -> Doing {
    Doing::Ended(Ended {
        exit_code,
        signal: None,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
        message: None,
        started: None,
        finished: Timestamp::UNIX_EPOCH,
        container_id: String::new(),
    })
}

fn status_with(pod: &Pod, facts: &[(&str, Doing, bool)]) -> PodStatus {
    let runtime = PodRuntime::new(pod);
    for (name, doing, ready) in facts {
        runtime.update_container(name, |record| {
            record.doing = doing.clone();
            record.ready = *ready;
            record.started = *ready;
        });
    }
    runtime.read(|state| compute(pod, state, "10.244.0.1", Timestamp::UNIX_EPOCH))
}

fn is_true(status: &PodStatus, kind: &str) -> bool {
    status
        .conditions
        .iter()
        .flatten()
        .any(|c| c.type_ == kind && c.status == "True")
}

#[test]
fn a_pod_is_pending_until_its_init_containers_are_done() {
    let pod = pod("Always", &["init"], &["app"]);
    let status = status_with(&pod, &[("init", running(), false)]);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert!(!is_true(&status, "Initialized"));
    let status = status_with(
        &pod,
        &[("init", ended(0), false), ("app", running(), false)],
    );
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(is_true(&status, "Initialized"));
    assert!(!is_true(&status, "Ready"));
}

#[test]
fn a_pod_is_ready_when_all_its_containers_are() {
    let pod = pod("Always", &[], &["app", "proxy"]);
    let status = status_with(
        &pod,
        &[("app", running(), true), ("proxy", running(), false)],
    );
    let ready = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "Ready")
        .expect("condition");
    assert_eq!(
        ready.message.as_deref(),
        Some("containers with unready status: [proxy]")
    );
    let status = status_with(
        &pod,
        &[("app", running(), true), ("proxy", running(), true)],
    );
    assert!(is_true(&status, "Ready") && is_true(&status, "ContainersReady"));
}

#[test]
fn a_finished_pod_has_succeeded_or_failed() {
    let pod = pod("Never", &[], &["a", "b"]);
    let phase = |facts: &[(&str, Doing, bool)]| status_with(&pod, facts).phase;
    assert_eq!(
        phase(&[("a", ended(0), false), ("b", running(), true)]).as_deref(),
        Some("Running")
    );
    assert_eq!(
        phase(&[("a", ended(0), false), ("b", ended(0), false)]).as_deref(),
        Some("Succeeded")
    );
    assert_eq!(
        phase(&[("a", ended(0), false), ("b", ended(3), false)]).as_deref(),
        Some("Failed")
    );
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let never = pod("Never", &["init"], &["app"]);
    assert_eq!(
        status_with(&never, &[("init", ended(1), false)])
            .phase
            .as_deref(),
        Some("Failed")
    );
    let always = pod("Always", &["init"], &["app"]);
    assert_eq!(
        status_with(&always, &[("init", ended(1), false)])
            .phase
            .as_deref(),
        Some("Pending")
    );
}

#[test]
fn a_container_that_crashes_keeps_the_pod_running() {
    let pod = pod("Always", &[], &["app"]);
    assert_eq!(
        status_with(&pod, &[("app", ended(1), false)])
            .phase
            .as_deref(),
        Some("Running")
    );
}

#[test]
fn containers_of_before_a_node_restart_count_as_ended() {
    let mut pod = pod("Always", &[], &["app"]);
    pod.status = serde_json::from_value(json!({"containerStatuses": [
        {"name": "app", "image": "x", "imageID": "", "ready": true, "restartCount": 2,
         "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}))
    .expect("a status");
    let status = status_with(&pod, &[("app", running(), true)]);
    let container = &status.container_statuses.expect("statuses")[0];
    assert_eq!(container.restart_count, 3);
    let last = container
        .last_state
        .clone()
        .and_then(|state| state.terminated)
        .expect("last state");
    assert_eq!(
        (last.exit_code, last.reason.as_deref()),
        (137, Some("ContainerStatusUnknown"))
    );
}

#[test]
fn conditions_of_others_and_transition_times_are_kept() {
    let mut pod = pod("Always", &[], &["app"]);
    pod.status = serde_json::from_value(json!({"conditions": [
        {"type": "example.com/gate", "status": "True"},
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}]}))
    .expect("a status");
    let status = status_with(&pod, &[("app", running(), true)]);
    assert!(is_true(&status, "example.com/gate"));
    let scheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|c| c.type_ == "PodScheduled")
        .expect("condition");
    assert_eq!(
        scheduled
            .last_transition_time
            .as_ref()
            .expect("time")
            .0
            .as_second(),
        1_577_836_800
    );
}

#[test]
fn a_pod_that_never_restarts_has_failed_when_the_node_lost_it() {
    let mut pod = pod("Never", &[], &["app"]);
    pod.status = serde_json::from_value(json!({"containerStatuses": [
        {"name": "app", "image": "x", "imageID": "", "ready": true, "restartCount": 0,
         "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}))
    .expect("a status");
    let status = status_with(&pod, &[]);
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(
        status.container_statuses.expect("statuses")[0].restart_count,
        0
    );
}

#[test]
fn a_container_between_failure_and_restart_does_not_fail_its_pod() {
    let pod = pod("OnFailure", &[], &["app"]);
    assert_eq!(
        status_with(&pod, &[("app", ended(1), false)])
            .phase
            .as_deref(),
        Some("Running")
    );
    assert_eq!(
        status_with(&pod, &[("app", ended(0), false)])
            .phase
            .as_deref(),
        Some("Succeeded")
    );
}
