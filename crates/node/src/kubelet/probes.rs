//! Probes and lifecycle hooks: one attempt, and the loops that turn attempts into readiness.
//!
//! Network probes are dialled from a socket made in the pod's own namespace, so that they reach the
//! application directly, as the node's address does on Kubernetes.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meltemi_capture::netns::{NetNs, tcp_connect};
use tokio::time::Instant;

mod attempt;

pub(crate) use attempt::ExecTarget;

/// What to try.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Http(HTTPGetAction),
    Tcp(TCPSocketAction),
    Exec(ExecAction),
    Grpc(GRPCAction),
    Sleep(Duration),
}

impl Action {
    fn of_probe(probe: &Probe) -> Option<Self> {
        let http = probe.http_get.clone().map(Self::Http);
        let tcp = probe.tcp_socket.clone().map(Self::Tcp);
        let exec = probe.exec.clone().map(Self::Exec);
        http.or(tcp)
            .or(exec)
            .or_else(|| probe.grpc.clone().map(Self::Grpc))
    }

    /// The action of a `postStart` or `preStop` hook.
    pub(crate) fn of_hook(hook: &LifecycleHandler) -> Option<Self> {
        let sleep = || {
            hook.sleep
                .as_ref()
                .map(|s| Self::Sleep(Duration::from_secs(s.seconds.unsigned_abs())))
        };
        let http = hook.http_get.clone().map(Self::Http);
        let tcp = hook.tcp_socket.clone().map(Self::Tcp);
        http.or(tcp)
            .or_else(|| hook.exec.clone().map(Self::Exec))
            .or_else(sleep)
    }
}

/// Where attempts go: one running container.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) netns: NetNs,
    pub(crate) address: Ipv4Addr,
    pub(crate) container: Container,
    pub(crate) exec: ExecTarget,
}

impl Target {
    fn port(&self, port: &IntOrString) -> Result<u16, String> {
        let number = match port {
            IntOrString::Int(number) => Some(*number),
            IntOrString::String(name) => {
                let ports = self.container.ports.iter().flatten();
                let named = ports
                    .into_iter()
                    .find(|port| port.name.as_deref() == Some(name));
                named
                    .map(|port| port.container_port)
                    .or_else(|| name.parse().ok())
            }
        };
        let number = number
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| *number > 0);
        number.ok_or_else(|| format!("couldn't find port: {port:?}"))
    }

    fn host(&self, host: Option<&str>) -> Result<std::net::IpAddr, String> {
        match host.filter(|host| !host.is_empty()) {
            None => Ok(self.address.into()),
            Some("localhost") => Ok(Ipv4Addr::LOCALHOST.into()),
            Some(host) => host
                .parse()
                .map_err(|_| format!("probe host {host} is not an address")),
        }
    }

    async fn dial(&self, to: SocketAddr) -> Result<tokio::net::TcpStream, String> {
        let dial_error =
            |error: std::io::Error| format!("dial tcp {to}: connect: {}", in_words(&error));
        tcp_connect(&self.netns, to).await.map_err(dial_error)
    }

    /// One attempt within `timeout`. The error is the text that Kubernetes would show.
    pub(crate) async fn attempt(&self, action: &Action, timeout: Duration) -> Result<(), String> {
        let tried = async {
            match action {
                Action::Http(get) => self.http(get).await,
                Action::Tcp(tcp) => {
                    let to =
                        SocketAddr::new(self.host(tcp.host.as_deref())?, self.port(&tcp.port)?);
                    self.dial(to).await.map(drop)
                }
                Action::Exec(exec) => self.exec.run(exec.command.as_deref().unwrap_or(&[])).await,
                Action::Grpc(grpc) => self.grpc(grpc).await,
                Action::Sleep(time) => {
                    tokio::time::sleep(*time).await;
                    Ok(())
                }
            }
        };
        match tokio::time::timeout(timeout, tried).await {
            Ok(outcome) => outcome,
            Err(_) => Err(match action {
                Action::Exec(exec) => {
                    let command = exec.command.clone().unwrap_or_default().join(" ");
                    format!(
                        "command timed out: \"{command}\" timed out after {}s",
                        timeout.as_secs()
                    )
                }
                _ => "context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
                    .to_owned(),
            }),
        }
    }
}

fn in_words(error: &std::io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => "connection refused".to_owned(),
        Some(libc::EHOSTUNREACH) => "no route to host".to_owned(),
        Some(libc::ENETUNREACH) => "network is unreachable".to_owned(),
        _ => error.to_string(),
    }
}

/// A probe with Kubernetes' defaults filled in.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    action: Action,
    initial_delay: Duration,
    period: Duration,
    timeout: Duration,
    success_threshold: u32,
    failure_threshold: u32,
    pub(crate) grace: Option<Duration>,
}

impl Schedule {
    /// `None` when the probe names nothing to try.
    pub(crate) fn new(probe: &Probe) -> Option<Self> {
        let seconds = |value: Option<i32>, default: u64| {
            let value = value
                .and_then(|value| u64::try_from(value).ok())
                .filter(|value| *value > 0);
            Duration::from_secs(value.unwrap_or(default))
        };
        let count = |value: Option<i32>, default: u32| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(default)
        };
        Some(Self {
            action: Action::of_probe(probe)?,
            initial_delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            success_threshold: count(probe.success_threshold, 1),
            failure_threshold: count(probe.failure_threshold, 3),
            grace: probe
                .termination_grace_period_seconds
                .map(|seconds| Duration::from_secs(seconds.unsigned_abs())),
        })
    }
}

/// The first pauses of a probe that waits for a container to come up. Kubernetes waits a whole
/// period; a pod on this machine is up long before that, and a local attempt costs next to nothing.
const QUICK: [u64; 4] = [20, 30, 50, 75];
/// Every later quick pause.
const QUICK_REST: u64 = 100;

/// What a loop of attempts reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The success threshold is reached (said once per change).
    Passed,
    /// One attempt at the probe's own pace failed; worth an event.
    Failing(String),
    /// The failure threshold is reached.
    Failed(String),
}

/// Probes forever and reports changes. While the probe has not passed, it tries again much faster
/// than its period (see [`QUICK`]) if `quick`; only attempts at the probe's own pace count as
/// failures, so thresholds mean what they mean on Kubernetes.
pub(crate) async fn watch<F>(target: &Target, schedule: &Schedule, quick: bool, mut report: F)
where
    F: FnMut(Verdict) -> std::ops::ControlFlow<()>,
{
    tokio::time::sleep(schedule.initial_delay).await;
    let (mut passed, mut successes, mut failures, mut tries) = (false, 0u32, 0u32, 0usize);
    let mut counted_at = Instant::now();
    // A container that is only just starting has not failed yet.
    let mut counts = false;
    loop {
        let outcome = target.attempt(&schedule.action, schedule.timeout).await;
        let verdict = match outcome {
            Ok(()) => {
                failures = 0;
                successes += 1;
                let now_passed = successes >= schedule.success_threshold && !passed;
                passed |= now_passed;
                now_passed.then_some(Verdict::Passed)
            }
            Err(message) if counts => {
                successes = 0;
                failures += 1;
                if failures >= schedule.failure_threshold {
                    passed = false;
                    Some(Verdict::Failed(message))
                } else {
                    Some(Verdict::Failing(message))
                }
            }
            Err(_) => {
                successes = 0;
                None
            }
        };
        if let Some(verdict) = verdict
            && report(verdict).is_break()
        {
            return;
        }
        let now = Instant::now();
        let due = counted_at + schedule.period;
        let soon = now + Duration::from_millis(QUICK.get(tries).copied().unwrap_or(QUICK_REST));
        tries += 1;
        let waiting = quick && !passed;
        counts = !waiting || soon >= due;
        let next = if counts { due.max(now) } else { soon };
        if counts {
            counted_at = next;
        }
        tokio::time::sleep_until(next).await;
    }
}
