//! The agent with a real Envoy: identity, discovery, readiness, a control plane that goes away, the end.
//!
//! The agent is a process of its own (this test binary once more), because it answers signals.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod agent;
mod control_plane;

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use agent::{Agent, envoy, get, secure_get, until};
use control_plane::{Authority, ControlPlane, backend, free_port, world};
use serde_json::json;

/// Not a test: the body of the agent's process.
#[test]
fn agent_process() {
    agent::serve_if_told();
}

macro_rules! envoy_or_skip {
    () => {
        match envoy() {
            Some(path) => path,
            None => {
                println!("SKIPPED: no Envoy; `cargo xtask tool envoy` installs one");
                return;
            }
        }
    };
}

/// What all tests start with.
struct Setting {
    authority: Arc<Authority>,
    /// Of the control plane, the plain listener and the listener with mutual TLS.
    ports: [u16; 3],
}

impl Setting {
    fn new() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        Self {
            authority: Arc::new(Authority::new()),
            ports: [free_port(), free_port(), free_port()],
        }
    }

    fn agent(&self, envoy: &std::path::Path) -> Agent {
        Agent::start(envoy, self.ports[0], &self.authority)
    }

    async fn control_plane(&self, label: &str) -> ControlPlane {
        let backend = backend("hello").await;
        let [port, plain, secure] = self.ports;
        ControlPlane::start(
            port,
            Arc::clone(&self.authority),
            world(plain, secure, backend, label),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_envoy_serves_what_the_control_plane_says_and_outlives_it() {
    let envoy = envoy_or_skip!();
    let setting = Setting::new();
    let [_, plain, secure] = setting.ports;
    let agent = setting.agent(&envoy);
    until("the agent answers", async || {
        get(agent.ports.agent, "/healthz/ready").await.is_some()
    })
    .await;
    let (status, reason) = get(agent.ports.agent, "/healthz/ready").await.unwrap();
    assert_eq!(status, 503, "{reason}");

    let control_plane = setting.control_plane("first").await;
    until("the pod is ready", async || {
        matches!(
            get(agent.ports.health, "/healthz/ready").await,
            Some((200, _))
        )
    })
    .await;
    assert_eq!(
        control_plane.identities(),
        ["spiffe://cluster.local/ns/default/sa/app"]
    );
    assert_eq!(control_plane.refusals(), Vec::<String>::new());
    let (status, answer) = get(plain, "/").await.expect("served");
    assert_eq!((status, answer.contains("hello")), (200, true), "{answer}");
    assert!(answer.contains("x-label: first"), "{answer}");

    let (peer, answer) = secure_get(secure, &setting.authority)
        .await
        .expect("mutual TLS");
    assert_eq!(peer, ["spiffe://cluster.local/ns/default/sa/app"]);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    for port in [agent.ports.agent, agent.ports.metrics] {
        let (status, metrics) = get(port, "/stats/prometheus").await.expect("metrics");
        assert_eq!(status, 200);
        assert!(metrics.contains("envoy_server_live"), "{metrics}");
        let labelled = "envoy_cluster_upstream_cx_total{cluster_name=\"xds-grpc\"}";
        assert!(metrics.contains(labelled), "{metrics}");
    }

    control_plane.kill();
    for _ in 0..20 {
        let (status, answer) = get(plain, "/").await.expect("served without control plane");
        assert_eq!(status, 200, "{answer}");
    }
    let control_plane = setting.control_plane("second").await;
    until("a changed route arrives", async || {
        let answer = get(plain, "/").await.expect("served at all times");
        assert_eq!(answer.0, 200, "{}", answer.1);
        answer.1.contains("x-label: second")
    })
    .await;
    assert_eq!(control_plane.refusals(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_drains_and_leaves_nothing_behind() {
    let envoy = envoy_or_skip!();
    let setting = Setting::new();
    let plain = setting.ports[1];
    let _control_plane = setting.control_plane("only").await;
    let mut agent = setting.agent(&envoy);
    until("the pod is ready", async || {
        matches!(
            get(agent.ports.health, "/healthz/ready").await,
            Some((200, _))
        )
    })
    .await;
    assert!(agent.directories().iter().any(|path| path.exists()));
    let directories = agent.directories();

    agent.signal("TERM");
    until("the pod is not ready", async || {
        matches!(
            get(agent.ports.agent, "/healthz/ready").await,
            Some((503, _))
        )
    })
    .await;
    let mut closing = false;
    until("answers end their connections", async || {
        if let Some((200, answer)) = agent::keep_alive_get(plain).await {
            closing |= answer.contains("connection: close");
        }
        closing
    })
    .await;
    assert_eq!(agent.exit_code().await, 0);
    assert!(get(agent.ports.admin, "/ready").await.is_none());
    for directory in directories {
        assert!(!directory.exists(), "{}", directory.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_and_its_agent_end_together() {
    let envoy = envoy_or_skip!();
    let setting = Setting::new();
    let live = async |agent: &Agent| {
        until("the engine answers", async || {
            get(agent.ports.admin, "/server_info").await.is_some()
        })
        .await;
    };

    let mut agent = setting.agent(&envoy);
    live(&agent).await;
    let engine = agent.engine_pid().to_string();
    let killed = Command::new("kill").args(["-KILL", &engine]).status();
    assert!(killed.unwrap().success());
    assert_eq!(agent.exit_code().await, 137);

    let mut agent = setting.agent(&envoy);
    live(&agent).await;
    agent.signal("KILL");
    agent.exit_code().await;
    until("the engine is gone", async || {
        get(agent.ports.admin, "/server_info").await.is_none()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_of_the_application_are_asked_by_the_agent() {
    let envoy = envoy_or_skip!();
    let setting = Setting::new();
    let application = backend("well").await;
    let probes = json!({
        "/app-health/app/readyz": {"httpGet": {"path": "/healthz", "port": application.port()}},
        "/app-health/app/livez": {"tcpSocket": {"port": 1}},
    });
    let agent = Agent::start_with(
        &envoy,
        setting.ports[0],
        &setting.authority,
        &[("ISTIO_KUBE_APP_PROBERS", &probes.to_string())],
    );
    until("the application's probe", async || {
        matches!(get(agent.ports.agent, "/app-health/app/readyz").await, Some((200, answer)) if answer.contains("well"))
    })
    .await;
    let (status, _) = get(agent.ports.agent, "/app-health/app/livez")
        .await
        .unwrap();
    assert_eq!(status, 500);
    let (status, _) = get(agent.ports.agent, "/app-health/other").await.unwrap();
    assert_eq!(status, 404);
}

/// Nothing here takes this long; a test that waits longer has failed.
const DEADLINE: Duration = Duration::from_secs(30);
