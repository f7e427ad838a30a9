//! What runs beside a container: its `postStart` hook, then its probes.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use meltemi_kube::Task;
use meltemi_kube::events::Kind;
use tokio::sync::{mpsc, watch};

use super::Supervisor;
use crate::kubelet::Kubelet;
use crate::kubelet::probes::{self, Action, Schedule, Target, Verdict};
use crate::kubelet::state::{PodRuntime, Role};

/// Grace of a container that a probe ends, unless the pod says otherwise.
const DEFAULT_GRACE: Duration = Duration::from_secs(30);
/// Deadline of a `postStart` hook. Kubernetes has none; a hook that hangs would hide the container.
const POST_START: Duration = Duration::from_secs(120);

/// End the container.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) message: String,
    pub(super) grace: Duration,
}

struct Monitor {
    kubelet: Arc<Kubelet>,
    pod: watch::Receiver<Arc<Pod>>,
    runtime: Arc<PodRuntime>,
    container: Container,
    role: Role,
    target: Target,
    orders: mpsc::Sender<Order>,
}

impl Supervisor {
    /// Starts watching a container that has just been started.
    pub(super) fn monitor(&self, target: Target, orders: mpsc::Sender<Order>) -> Task {
        let monitor = Monitor {
            kubelet: Arc::clone(&self.kubelet),
            pod: self.pod.clone(),
            runtime: Arc::clone(&self.runtime),
            container: self.container.clone(),
            role: self.role,
            target,
            orders,
        };
        Task::spawn(monitor.run())
    }
}

impl Monitor {
    async fn run(self) {
        if !self.post_start().await {
            return;
        }
        let container = &self.container;
        if let Some(schedule) = container.startup_probe.as_ref().and_then(Schedule::new)
            && !self.startup(&schedule).await
        {
            return;
        }
        let readiness = container.readiness_probe.as_ref().and_then(Schedule::new);
        let liveness = container.liveness_probe.as_ref().and_then(Schedule::new);
        let ready_at_once = readiness.is_none();
        self.runtime.update_container(&container.name, |record| {
            record.started = true;
            record.ready = ready_at_once && record.role != Role::Init;
        });
        let ready = async {
            if let Some(schedule) = &readiness {
                self.readiness(schedule).await;
            }
        };
        let live = async {
            if let Some(schedule) = &liveness {
                self.kill_when_failed(schedule, "Liveness", "liveness")
                    .await;
            }
        };
        futures::join!(ready, live);
    }

    async fn post_start(&self) -> bool {
        let hook = self
            .container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(action) = hook.and_then(Action::of_hook) else {
            return true;
        };
        let Err(error) = self.target.attempt(&action, POST_START).await else {
            return true;
        };
        self.event(
            "FailedPostStartHook",
            format!("PostStartHook failed: {error}"),
        );
        self.end("FailedPostStartHook".to_owned(), None);
        false
    }

    /// Waits for the startup probe; `false` when it failed for good.
    async fn startup(&self, schedule: &Schedule) -> bool {
        let mut passed = false;
        probes::watch(&self.target, schedule, true, |verdict| match verdict {
            Verdict::Passed => {
                passed = true;
                ControlFlow::Break(())
            }
            Verdict::Failing(error) => {
                self.unhealthy("Startup", &error);
                ControlFlow::Continue(())
            }
            Verdict::Failed(error) => {
                self.unhealthy("Startup", &error);
                ControlFlow::Break(())
            }
        })
        .await;
        if !passed {
            let message = format!(
                "Container {} failed startup probe, will be restarted",
                self.container.name
            );
            self.end(message, schedule.grace);
        }
        passed
    }

    async fn readiness(&self, schedule: &Schedule) {
        probes::watch(&self.target, schedule, true, |verdict| {
            match verdict {
                Verdict::Passed => self.set_ready(true),
                Verdict::Failing(error) => self.unhealthy("Readiness", &error),
                Verdict::Failed(error) => {
                    self.unhealthy("Readiness", &error);
                    self.set_ready(false);
                }
            }
            ControlFlow::Continue(())
        })
        .await;
    }

    async fn kill_when_failed(&self, schedule: &Schedule, kind: &str, word: &str) {
        probes::watch(&self.target, schedule, false, |verdict| match verdict {
            Verdict::Passed => ControlFlow::Continue(()),
            Verdict::Failing(error) => {
                self.unhealthy(kind, &error);
                ControlFlow::Continue(())
            }
            Verdict::Failed(error) => {
                self.unhealthy(kind, &error);
                let name = &self.container.name;
                let message = format!("Container {name} failed {word} probe, will be restarted");
                self.end(message, schedule.grace);
                ControlFlow::Break(())
            }
        })
        .await;
    }

    fn set_ready(&self, ready: bool) {
        let before = self
            .runtime
            .read(|state| state.containers.get(&self.container.name).map(|r| r.ready));
        if before != Some(ready) {
            self.runtime
                .update_container(&self.container.name, |record| record.ready = ready);
        }
    }

    fn end(&self, message: String, grace: Option<Duration>) {
        let pod = Arc::clone(&self.pod.borrow());
        let seconds = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds);
        let own = seconds.map(|seconds| Duration::from_secs(seconds.unsigned_abs()));
        let grace = grace.or(own).unwrap_or(DEFAULT_GRACE);
        // A full queue means that the container is being ended already.
        let _ = self.orders.try_send(Order { message, grace });
    }

    fn unhealthy(&self, kind: &str, error: &str) {
        self.event("Unhealthy", format!("{kind} probe failed: {error}"));
    }

    fn event(&self, reason: &str, message: String) {
        let field = if self.role == Role::Main {
            "containers"
        } else {
            "initContainers"
        };
        let path = format!("spec.{field}{{{}}}", self.container.name);
        self.kubelet.event(
            &self.pod.borrow(),
            Some(path),
            Kind::Warning,
            reason,
            message,
        );
    }
}
