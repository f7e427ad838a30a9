//! One container's life: start, follow, stop, restart with back-off.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::jiff::Timestamp;
use meltemi_capture::netns::NetNs;
use meltemi_capture::spawn::{Running, SandboxId};
use meltemi_kube::Task;
use meltemi_kube::events::Kind;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::Kubelet;
use super::probes::{Action, ExecTarget, Target};
use super::state::{Doing, Ended, PodRuntime, Role};
use super::volumes::Volumes;

mod monitor;
mod start;

use start::Started;

/// An order to end: SIGTERM at once, SIGKILL at the deadline.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop {
    pub(super) deadline: Instant,
    /// The node itself ends: no hooks, no events.
    pub(super) quiet: bool,
}

/// When a container is started again after it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    /// The policy of a container in `pod`.
    pub(crate) fn of(pod: &Pod, role: Role) -> Self {
        let policy = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.restart_policy.as_deref())
            .unwrap_or("Always");
        match (role, policy) {
            (Role::Sidecar, _) => Self::Always,
            (_, "Never") => Self::Never,
            (Role::Init, _) | (_, "OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// Whether a container that ended like this is started again.
    pub(crate) fn restarts(self, exit_code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// Pauses before restarts: none, then 10 s doubling to 5 min; forgotten after 10 min of running.
#[derive(Debug, Default)]
struct BackOff {
    next: Option<Duration>,
}

impl BackOff {
    const FIRST: Duration = Duration::from_secs(10);
    const LONGEST: Duration = Duration::from_secs(300);
    const FORGET: Duration = Duration::from_secs(600);

    fn after(&mut self, ran: Duration) -> Duration {
        if ran >= Self::FORGET {
            self.next = None;
        }
        let delay = self.next.unwrap_or_default();
        self.next = Some(if delay.is_zero() {
            Self::FIRST
        } else {
            (delay * 2).min(Self::LONGEST)
        });
        delay
    }
}

/// The sandbox a container runs in.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) sandbox: SandboxId,
    pub(super) netns: NetNs,
    pub(super) address: std::net::Ipv4Addr,
}

/// Runs one container of one pod.
pub(super) struct Supervisor {
    pub(super) kubelet: Arc<Kubelet>,
    pub(super) pod: watch::Receiver<Arc<Pod>>,
    pub(super) runtime: Arc<PodRuntime>,
    pub(super) volumes: Arc<Volumes>,
    pub(super) container: Container,
    pub(super) role: Role,
    pub(super) policy: RestartPolicy,
    pub(super) place: Place,
    pub(super) stop: watch::Receiver<Option<Stop>>,
}

impl Supervisor {
    fn pod(&self) -> Arc<Pod> {
        Arc::clone(&self.pod.borrow())
    }

    fn stopping(&self) -> Option<Stop> {
        *self.stop.borrow()
    }

    fn event(&self, kind: Kind, reason: &str, message: impl Into<String>) {
        if self.stopping().is_none_or(|stop| !stop.quiet) {
            let field = if self.role == Role::Main {
                "containers"
            } else {
                "initContainers"
            };
            let path = format!("spec.{field}{{{}}}", self.container.name);
            self.kubelet
                .event(&self.pod(), Some(path), kind, reason, message);
        }
    }

    /// Runs until the container has ended for good or was stopped; its exit code if it ever ran.
    pub(super) async fn run(mut self) -> Option<i32> {
        let mut back_off = BackOff::default();
        let mut exit_code = None;
        while self.stopping().is_none() {
            let began = Instant::now();
            match self.start().await {
                Ok(started) => {
                    let ended = self.follow(started).await;
                    exit_code = Some(ended.exit_code);
                    self.record_end(ended.clone());
                    if self.stopping().is_some() || !self.policy.restarts(ended.exit_code) {
                        break;
                    }
                    self.pause(back_off.after(began.elapsed()), ended).await;
                }
                Err(failure) => {
                    self.fail_to_start(&failure);
                    if failure.is_final(self.policy) {
                        exit_code = Some(128);
                        break;
                    }
                    self.wait_for_change(
                        failure.is_configuration(),
                        back_off.after(Duration::ZERO),
                    )
                    .await;
                }
            }
        }
        exit_code
    }

    fn record_end(&self, ended: Ended) {
        self.runtime
            .update_container(&self.container.name, |record| {
                record.doing = Doing::Ended(ended);
                record.ready = false;
                record.started = false;
                record.process = None;
            });
    }

    fn fail_to_start(&self, failure: &start::Failure) {
        let message = failure.to_string();
        self.event(Kind::Warning, "Failed", format!("Error: {message}"));
        self.runtime
            .update_container(&self.container.name, |record| {
                let reason = failure.reason().to_owned();
                record.doing = Doing::Waiting {
                    reason,
                    message: Some(message),
                };
                record.ready = false;
            });
    }

    /// Waits out a back-off; the state says `CrashLoopBackOff` meanwhile.
    async fn pause(&mut self, delay: Duration, ended: Ended) {
        let pod = self.pod();
        let meta = &pod.metadata;
        if !delay.is_zero() {
            let name = &self.container.name;
            let whole = format!(
                "{}_{}({})",
                meta.name.as_deref().unwrap_or_default(),
                meta.namespace.as_deref().unwrap_or_default(),
                meta.uid.as_deref().unwrap_or_default()
            );
            let text = format!("Back-off restarting failed container {name} in pod {whole}");
            self.event(Kind::Warning, "BackOff", text);
            let message = format!(
                "back-off {} restarting failed container={name} pod={whole}",
                in_go(delay)
            );
            self.runtime.update_container(name, |record| {
                record.doing = Doing::Waiting {
                    reason: "CrashLoopBackOff".to_owned(),
                    message: Some(message),
                };
                record.last = Some(ended);
            });
            let mut stop = self.stop.clone();
            let _ = tokio::time::timeout(delay, stop.wait_for(Option::is_some)).await;
            return;
        }
        self.runtime
            .update_container(&self.container.name, |record| record.last = Some(ended));
    }

    /// Waits for what could let a start succeed: changed configuration, or time.
    async fn wait_for_change(&self, configuration: bool, delay: Duration) {
        let (mut maps, mut secrets) = (
            self.kubelet.stores.config_maps.changes(),
            self.kubelet.stores.secrets.changes(),
        );
        let mut stop = self.stop.clone();
        let change = async {
            if !configuration {
                std::future::pending::<()>().await;
            }
            tokio::select! {
                () = maps.next() => {}
                () = secrets.next() => {}
            }
        };
        tokio::select! {
            () = change => {}
            () = tokio::time::sleep(delay.max(Duration::from_secs(1))) => {}
            _ = stop.wait_for(Option::is_some) => {}
        }
    }

    /// Follows a running container to its end; watches probes and stop orders.
    async fn follow(&mut self, started: Started) -> Ended {
        let Started {
            mut running,
            env,
            pumps,
            since,
            container_id,
            log,
        } = started;
        let exec = ExecTarget {
            spawner: self.kubelet.spawner.clone(),
            process: running.id,
            env,
        };
        let target = Target {
            netns: self.place.netns.clone(),
            address: self.place.address,
            container: self.container.clone(),
            exec,
        };
        let (order, mut orders) = mpsc::channel(1);
        let monitor = self.monitor(target.clone(), order);
        let exit = self.until_exit(&mut running, &target, &mut orders).await;
        drop(monitor);
        // Whoever still holds the pipes is gone with the container; this is for the last lines.
        for pump in pumps {
            let _ = tokio::time::timeout(Duration::from_millis(500), pump.join()).await;
        }
        log.close();
        let (exit_code, signal) = exit;
        let reason = if exit_code == 0 { "Completed" } else { "Error" };
        Ended {
            exit_code,
            signal,
            reason: reason.to_owned(),
            message: None,
            started: Some(since),
            finished: Timestamp::now(),
            container_id,
        }
    }

    async fn until_exit(
        &mut self,
        running: &mut Running,
        target: &Target,
        orders: &mut mpsc::Receiver<monitor::Order>,
    ) -> (i32, Option<i32>) {
        let mut stopping: Option<(Instant, Task)> = None;
        let mut killed = false;
        let mut stop = self.stop.clone();
        stop.mark_changed();
        loop {
            let deadline = stopping.as_ref().map(|(deadline, _)| *deadline);
            tokio::select! {
                exit = running.wait() => {
                    return exit.map_or((255, None), |exit| (exit.code, exit.signal));
                }
                Some(order) = orders.recv(), if stopping.is_none() => {
                    self.event(Kind::Normal, "Killing", order.message);
                    let deadline = Instant::now() + order.grace;
                    stopping = Some((deadline, self.terminate(target, deadline, false)));
                }
                Ok(()) = stop.changed() => {
                    let Some(order) = *stop.borrow_and_update() else { continue };
                    match &mut stopping {
                        Some((deadline, _)) => *deadline = order.deadline.min(*deadline),
                        None => {
                            let message = format!("Stopping container {}", self.container.name);
                            self.event(Kind::Normal, "Killing", message);
                            stopping = Some((order.deadline, self.terminate(target, order.deadline, order.quiet)));
                        }
                    }
                }
                () = sleep_until(deadline), if deadline.is_some() && !killed => {
                    killed = true;
                    if let Err(error) = self.kubelet.spawner.kill(running.id, libc::SIGKILL).await {
                        tracing::warn!(container = self.container.name, %error, "container not killed");
                    }
                }
            }
        }
    }

    /// The `preStop` hook, then SIGTERM.
    fn terminate(&self, target: &Target, deadline: Instant, quiet: bool) -> Task {
        let hook = self
            .container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        let action = hook.filter(|_| !quiet).and_then(Action::of_hook);
        let (target, process) = (target.clone(), target.exec.process);
        Task::spawn(async move {
            if let Some(action) = action {
                let left = deadline.saturating_duration_since(Instant::now());
                if let Err(error) = target.attempt(&action, left).await {
                    tracing::debug!(%error, "preStop hook failed");
                }
            }
            if let Err(error) = target.exec.spawner.kill(process, libc::SIGTERM).await {
                tracing::debug!(%error, "SIGTERM not sent");
            }
        })
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A duration as Go prints it: `10s`, `1m20s`, `5m0s`.
fn in_go(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds => format!("{}m{}s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_immediate_and_later_ones_wait_longer() {
        let mut back_off = BackOff::default();
        let pauses: Vec<u64> = (0..8)
            .map(|_| back_off.after(Duration::ZERO).as_secs())
            .collect();
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(back_off.after(Duration::from_secs(601)), Duration::ZERO);
    }

    #[test]
    fn durations_read_as_in_kubernetes() {
        let texts = [10, 80, 300].map(|seconds| in_go(Duration::from_secs(seconds)));
        assert_eq!(texts, ["10s", "1m20s", "5m0s"]);
    }
}
