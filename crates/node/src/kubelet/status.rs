//! A pod's status, computed from observed facts. Pure: same facts, same status.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus, ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::state::{ContainerRecord, Doing, Ended, PodState, Role};

/// Condition types that the kubelet writes; others in a status belong to somebody else.
const OWN_CONDITIONS: [&str; 5] = [
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
];

/// Whether the kubelet writes conditions of this type.
pub(crate) fn is_own(kind: &str) -> bool {
    OWN_CONDITIONS.contains(&kind)
}

/// The status of `pod` with these facts. `now` is used for conditions that change.
pub(crate) fn compute(pod: &Pod, state: &PodState, host_ip: &str, now: Timestamp) -> PodStatus {
    let spec = pod.spec.clone().unwrap_or_default();
    let phase = phase(&spec, state);
    let address = state.address.map(|address| address.to_string());
    let statuses = |main: bool| -> Vec<ContainerStatus> {
        let named = state
            .containers
            .iter()
            .filter(|(_, record)| (record.role == Role::Main) == main);
        named
            .map(|(name, record)| container(name, record))
            .collect()
    };
    let init = statuses(false);
    let (reason, message) = state.failed.clone().unzip();
    PodStatus {
        phase: Some(phase.to_owned()),
        reason,
        message,
        conditions: Some(conditions(pod, &spec, state, phase, now)),
        host_ip: Some(host_ip.to_owned()),
        host_ips: Some(vec![HostIP {
            ip: host_ip.to_owned(),
        }]),
        pod_ip: address.clone(),
        pod_ips: address.map(|ip| vec![PodIP { ip }]),
        start_time: state.start_time.map(Time),
        qos_class: Some(qos_class(&spec).to_owned()),
        container_statuses: Some(statuses(true)),
        init_container_statuses: (!init.is_empty()).then_some(init),
        observed_generation: pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// Whether every init container has completed and every sidecar has started.
pub(crate) fn is_initialized(state: &PodState) -> bool {
    state.containers.values().all(|record| match record.role {
        Role::Init => matches!(&record.doing, Doing::Ended(ended) if ended.exit_code == 0),
        Role::Sidecar => record.started || matches!(record.doing, Doing::Ended(_)),
        Role::Main => true,
    })
}

fn phase(spec: &PodSpec, state: &PodState) -> &'static str {
    if state.failed.is_some() {
        return "Failed";
    }
    let of = |role: Role| {
        state
            .containers
            .values()
            .filter(move |record| record.role == role)
    };
    let failed =
        |record: &ContainerRecord| matches!(&record.doing, Doing::Ended(e) if e.exit_code != 0);
    let never = spec.restart_policy.as_deref() == Some("Never");
    if of(Role::Init).any(|record| failed(record) && never) {
        return "Failed";
    }
    if !is_initialized(state)
        && of(Role::Main).all(|record| matches!(record.doing, Doing::Waiting { .. }))
    {
        return "Pending";
    }
    let mut main = of(Role::Main).peekable();
    if main.peek().is_some() && main.all(|record| matches!(record.doing, Doing::Ended(_))) {
        let may_restart = match spec.restart_policy.as_deref() {
            Some("Never") => false,
            Some("OnFailure") => of(Role::Main).any(failed),
            _ => true,
        };
        if may_restart && !state.finished {
            return "Running";
        }
        return if of(Role::Main).any(failed) {
            "Failed"
        } else {
            "Succeeded"
        };
    }
    let unstarted = |record: &ContainerRecord| {
        matches!(record.doing, Doing::Waiting { .. }) && record.last.is_none()
    };
    if of(Role::Main).any(unstarted) {
        "Pending"
    } else {
        "Running"
    }
}

fn conditions(
    pod: &Pod,
    spec: &PodSpec,
    state: &PodState,
    phase: &str,
    now: Timestamp,
) -> Vec<PodCondition> {
    let before = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    let ended = matches!(phase, "Succeeded" | "Failed");
    let initialized = is_initialized(state) || phase == "Succeeded";
    let containers = not_ready(state, ended, phase);
    let ready = containers.clone().or_else(|| closed_gate(spec, &before));
    let completed = || ("PodCompleted".to_owned(), String::new());
    let incomplete = (!initialized).then(|| {
        let waiting = names(state, |record| {
            record.role != Role::Main && !is_done(record)
        });
        (
            "ContainersNotInitialized".to_owned(),
            format!("containers with incomplete status: [{waiting}]"),
        )
    });
    let incomplete = if phase == "Succeeded" {
        None
    } else {
        incomplete
    };
    let mut conditions: Vec<PodCondition> = [
        (
            "PodReadyToStartContainers",
            state
                .sandbox
                .is_none()
                .then(|| (String::new(), String::new())),
        ),
        ("Initialized", incomplete),
        (
            "Ready",
            if phase == "Succeeded" {
                Some(completed())
            } else {
                ready
            },
        ),
        (
            "ContainersReady",
            if phase == "Succeeded" {
                Some(completed())
            } else {
                containers
            },
        ),
        ("PodScheduled", None),
    ]
    .into_iter()
    .map(|(kind, problem)| condition(&before, kind, problem, now))
    .collect();
    conditions.extend(before.into_iter().filter(|c| !is_own(&c.type_)));
    conditions
}

fn is_done(record: &ContainerRecord) -> bool {
    match record.role {
        Role::Init => matches!(&record.doing, Doing::Ended(ended) if ended.exit_code == 0),
        Role::Sidecar => record.started,
        Role::Main => record.ready,
    }
}

/// Why the containers are not all ready, `None` when they are.
fn not_ready(state: &PodState, ended: bool, phase: &str) -> Option<(String, String)> {
    if ended {
        let reason = if phase == "Failed" {
            "PodFailed"
        } else {
            "PodCompleted"
        };
        return Some((reason.to_owned(), String::new()));
    }
    let unready = names(state, |record| record.role != Role::Init && !record.ready);
    (!unready.is_empty()).then(|| {
        (
            "ContainersNotReady".to_owned(),
            format!("containers with unready status: [{unready}]"),
        )
    })
}

fn names(state: &PodState, wanted: impl Fn(&ContainerRecord) -> bool) -> String {
    let names: Vec<&str> = state
        .containers
        .iter()
        .filter(|(_, record)| wanted(record))
        .map(|(name, _)| name.as_str())
        .collect();
    names.join(" ")
}

/// A readiness gate whose condition is not true.
fn closed_gate(spec: &PodSpec, before: &[PodCondition]) -> Option<(String, String)> {
    let gate = spec.readiness_gates.iter().flatten().find(|gate| {
        !before
            .iter()
            .any(|condition| condition.type_ == gate.condition_type && condition.status == "True")
    })?;
    let message = format!(
        "corresponding condition of pod readiness gate \"{}\" does not exist.",
        gate.condition_type
    );
    Some(("ReadinessGatesNotReady".to_owned(), message))
}

/// A condition; `problem` is its reason and message when false. Its transition time is kept while
/// its status stays.
fn condition(
    before: &[PodCondition],
    kind: &str,
    problem: Option<(String, String)>,
    now: Timestamp,
) -> PodCondition {
    let status = if problem.is_none() { "True" } else { "False" };
    let same = before
        .iter()
        .find(|condition| condition.type_ == kind && condition.status == status);
    let (reason, message) = problem.unzip();
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.filter(|text| !text.is_empty()),
        message: message.filter(|text| !text.is_empty()),
        last_transition_time: same
            .and_then(|c| c.last_transition_time.clone())
            .or(Some(Time(now))),
        ..PodCondition::default()
    }
}

fn container(name: &str, record: &ContainerRecord) -> ContainerStatus {
    let state = match &record.doing {
        Doing::Waiting { reason, message } => ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.clone()),
                message: message.clone(),
            }),
            ..ContainerState::default()
        },
        Doing::Running { since } => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: Some(Time(*since)),
            }),
            ..ContainerState::default()
        },
        Doing::Ended(ended) => terminated(ended),
    };
    let image_id = if record.container_id.is_empty() {
        String::new()
    } else {
        format!("meltemi://{}", record.image)
    };
    ContainerStatus {
        name: name.to_owned(),
        image: record.image.clone(),
        image_id,
        container_id: (!record.container_id.is_empty()).then(|| record.container_id.clone()),
        ready: record.ready || (record.role == Role::Init && is_done(record)),
        started: Some(record.started),
        restart_count: record.restarts,
        state: Some(state),
        last_state: Some(record.last.as_ref().map(terminated).unwrap_or_default()),
        ..ContainerStatus::default()
    }
}

fn terminated(ended: &Ended) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            exit_code: ended.exit_code,
            signal: ended.signal,
            reason: Some(ended.reason.clone()),
            message: ended.message.clone(),
            started_at: ended.started.map(Time),
            finished_at: Some(Time(ended.finished)),
            container_id: Some(ended.container_id.clone()),
        }),
        ..ContainerState::default()
    }
}

/// Guaranteed when every container limits cpu and memory to its requests, BestEffort when none
/// asks for anything.
fn qos_class(spec: &PodSpec) -> &'static str {
    let all = || {
        spec.containers
            .iter()
            .chain(spec.init_containers.iter().flatten())
    };
    let resources: Vec<ResourceRequirements> = all()
        .map(|c| c.resources.clone().unwrap_or_default())
        .collect();
    let empty = |r: &ResourceRequirements| {
        r.requests
            .iter()
            .flatten()
            .chain(r.limits.iter().flatten())
            .next()
            .is_none()
    };
    if resources.iter().all(empty) {
        return "BestEffort";
    }
    let guaranteed = resources.iter().all(|r| {
        ["cpu", "memory"].iter().all(|name| {
            let limit = r.limits.as_ref().and_then(|limits| limits.get(*name));
            let request = r.requests.as_ref().and_then(|requests| requests.get(*name));
            limit.is_some() && request.is_none_or(|request| Some(request) == limit)
        })
    });
    if guaranteed {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

#[cfg(test)]
mod tests;
