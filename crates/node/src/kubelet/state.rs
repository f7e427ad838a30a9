//! What the kubelet knows about one pod: the observed facts from which its status is computed.

use std::net::Ipv4Addr;
use std::sync::Arc;

use indexmap::IndexMap;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use meltemi_capture::netns::NetNs;
use meltemi_capture::spawn::{ProcessId, SandboxId};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::container::RestartPolicy;
use super::logs::LogFile;

/// How a container takes part in its pod's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs to completion before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside the main containers.
    Sidecar,
    /// One of `spec.containers`.
    Main,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) exit_code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
    pub(crate) started: Option<Timestamp>,
    pub(crate) finished: Timestamp,
    pub(crate) container_id: String,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Not started; why.
    Waiting {
        reason: String,
        message: Option<String>,
    },
    /// Running since.
    Running { since: Timestamp },
    /// Ended, and not to be restarted now.
    Ended(Ended),
}

impl Doing {
    /// Waiting without a message.
    pub(crate) fn waiting(reason: &str) -> Self {
        Self::Waiting {
            reason: reason.to_owned(),
            message: None,
        }
    }
}

/// One container of a pod.
#[derive(Debug, Clone)]
pub(crate) struct ContainerRecord {
    pub(crate) role: Role,
    pub(crate) image: String,
    pub(crate) doing: Doing,
    pub(crate) last: Option<Ended>,
    pub(crate) restarts: i32,
    pub(crate) ready: bool,
    pub(crate) started: bool,
    /// The running process, for exec and signals.
    pub(crate) process: Option<ProcessId>,
    /// Its environment, for exec.
    pub(crate) env: Arc<[(String, String)]>,
    pub(crate) container_id: String,
    /// The log of the present (or last) run, and of the run before.
    pub(crate) log: Option<Arc<LogFile>>,
    pub(crate) previous_log: Option<Arc<LogFile>>,
}

/// A pod's observed facts.
#[derive(Debug, Default)]
pub(crate) struct PodState {
    pub(crate) containers: IndexMap<String, ContainerRecord>,
    /// The address in the status; stays there when the pod has ended.
    pub(crate) address: Option<Ipv4Addr>,
    /// The address to give back.
    pub(crate) leased: Option<Ipv4Addr>,
    pub(crate) netns: Option<NetNs>,
    pub(crate) sandbox: Option<SandboxId>,
    pub(crate) start_time: Option<Timestamp>,
    /// The pod is assigned to this node; before that nothing is reported.
    pub(crate) bound: bool,
    /// The pod failed as a whole: reason and message (`DeadlineExceeded`).
    pub(crate) failed: Option<(String, String)>,
    /// All containers have ended for good and the sandbox is gone.
    pub(crate) finished: bool,
}

/// A pod's state, shared between its tasks and the kubelet's API.
#[derive(Debug)]
pub(crate) struct PodRuntime {
    state: Mutex<PodState>,
    version: watch::Sender<u64>,
}

impl PodRuntime {
    /// The state of a pod about to start. What its status says of earlier runs (before the node
    /// restarted) is carried over: those containers are gone and count as ended.
    pub(crate) fn new(pod: &Pod) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let status = pod.status.clone().unwrap_or_default();
        let mut state = PodState {
            start_time: status.start_time.as_ref().map(|time| time.0),
            ..PodState::default()
        };
        let init = spec.init_containers.iter().flatten().map(|container| {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            (container, if sidecar { Role::Sidecar } else { Role::Init })
        });
        let main = spec
            .containers
            .iter()
            .map(|container| (container, Role::Main));
        for (container, role) in init.chain(main) {
            let statuses = match role {
                Role::Main => &status.container_statuses,
                Role::Init | Role::Sidecar => &status.init_container_statuses,
            };
            let before = statuses.iter().flatten().find(|s| s.name == container.name);
            state.containers.insert(
                container.name.clone(),
                ContainerRecord::new(container, role, RestartPolicy::of(pod, role), before),
            );
        }
        Self {
            state: Mutex::new(state),
            version: watch::Sender::new(0),
        }
    }

    /// Reads the state.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&PodState) -> T) -> T {
        read(&self.state.lock())
    }

    /// Changes the state and wakes who waits for changes.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut PodState) -> T) -> T {
        let result = change(&mut self.state.lock());
        self.version.send_modify(|version| *version += 1);
        result
    }

    /// Changes one container's record.
    pub(crate) fn update_container(&self, name: &str, change: impl FnOnce(&mut ContainerRecord)) {
        self.update(|state| {
            if let Some(record) = state.containers.get_mut(name) {
                change(record);
            }
        });
    }

    /// Tells of changes from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Waits until the state satisfies `done`.
    pub(crate) async fn until<T>(&self, mut done: impl FnMut(&PodState) -> Option<T>) -> T {
        let mut changes = self.changes();
        loop {
            changes.mark_unchanged();
            if let Some(value) = self.read(&mut done) {
                return value;
            }
            // The sender lives in `self`.
            let _ = changes.changed().await;
        }
    }
}

impl ContainerRecord {
    fn new(
        container: &Container,
        role: Role,
        policy: RestartPolicy,
        before: Option<&ContainerStatus>,
    ) -> Self {
        let waiting = if role == Role::Main {
            "ContainerCreating"
        } else {
            "PodInitializing"
        };
        let mut record = Self {
            role,
            image: container.image.clone().unwrap_or_default(),
            doing: Doing::waiting(waiting),
            last: None,
            restarts: 0,
            ready: false,
            started: false,
            process: None,
            env: Arc::default(),
            container_id: String::new(),
            log: None,
            previous_log: None,
        };
        if let Some(before) = before {
            record.carry_over(before, policy);
        }
        record
    }

    /// Takes over what an earlier process of this node wrote about the container: whatever ran
    /// then is gone. It stays ended where the policy forbids another run.
    fn carry_over(&mut self, before: &ContainerStatus, policy: RestartPolicy) {
        self.restarts = before.restart_count;
        let state = before.state.clone().unwrap_or_default();
        self.last = before
            .last_state
            .clone()
            .and_then(|last| last.terminated)
            .map(ended);
        let lost = state.running.map(|running| Ended {
            exit_code: 137,
            signal: None,
            reason: "ContainerStatusUnknown".to_owned(),
            message: Some(
                "The container could not be located when the node was restarted".to_owned(),
            ),
            started: running.started_at.map(|time| time.0),
            finished: Timestamp::now(),
            container_id: before.container_id.clone().unwrap_or_default(),
        });
        let Some(ended) = state.terminated.map(ended).or(lost) else {
            return;
        };
        if self.role == Role::Main && !policy.restarts(ended.exit_code) {
            self.doing = Doing::Ended(ended);
        } else {
            self.last = Some(ended);
            self.restarts += 1;
        }
    }
}

fn ended(terminated: k8s_openapi::api::core::v1::ContainerStateTerminated) -> Ended {
    Ended {
        exit_code: terminated.exit_code,
        signal: terminated.signal,
        reason: terminated.reason.unwrap_or_default(),
        message: terminated.message,
        started: terminated.started_at.map(|time| time.0),
        finished: terminated
            .finished_at
            .map_or_else(Timestamp::now, |time| time.0),
        container_id: terminated.container_id.unwrap_or_default(),
    }
}
