//! The agent's process, and clients.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use meltemi_identity::certificate_facts;
use meltemi_identity::tls::{PeerNames, client_config};
use meltemi_proxy::{AgentConfig, EngineBinary, ProxyError, Role, run_with_engine};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::DEADLINE;
use crate::control_plane::{Authority, TOKEN, free_port};

/// Tells the test binary that it is an agent: a JSON object.
const TOLD: &str = "MELTEMI_TEST_AGENT";
/// How often a condition is looked at.
const TICK: Duration = Duration::from_millis(25);

/// The Envoy that `cargo xtask tool envoy` installs.
pub(crate) fn envoy() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MELTEMI_TEST_ENVOY") {
        return Some(path.into());
    }
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/envoy/lib");
    let versions = std::fs::read_dir(library).ok()?;
    versions
        .filter_map(Result::ok)
        .map(|version| version.path().join("site-packages/envoy/_bin/envoy"))
        .find(|path| path.is_file())
}

/// Looks at a condition until it holds, but not for ever.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            if holds().await {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, wait)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"));
}

/// Runs the agent in this process when it was started for that, and ends it with the agent's exit code.
pub(crate) fn serve_if_told() {
    let Some(told) = std::env::var_os(TOLD) else {
        return;
    };
    let told: Value = serde_json::from_str(told.to_str().unwrap()).unwrap();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let vars: HashMap<String, String> =
        serde_json::from_value(told["environment"].clone()).unwrap();
    let mut config =
        AgentConfig::from_environment(Role::Sidecar, "default.svc.cluster.local", 1, &vars)
            .unwrap();
    let number = |key: &str| u16::try_from(told[key].as_u64().unwrap()).unwrap();
    config.token = told["token"].as_str().unwrap().into();
    config.root_cert = told["root"].as_str().unwrap().into();
    config.ports.health = number("health");
    config.ports.metrics = number("metrics");
    let engine = EngineBinary {
        path: told["envoy"].as_str().unwrap().into(),
        log_level: "warning".to_owned(),
        component_log_level: "misc:error".to_owned(),
    };
    let code = match run_with_engine(config, engine) {
        Ok(()) => 0,
        Err(ProxyError::EngineEnded { code, .. }) => i32::from(code),
        Err(error) => {
            eprintln!("agent: {error}");
            1
        }
    };
    std::process::exit(code);
}

/// Ports of one agent.
pub(crate) struct Ports {
    pub(crate) admin: u16,
    pub(crate) agent: u16,
    pub(crate) health: u16,
    pub(crate) metrics: u16,
}

/// A running agent.
pub(crate) struct Agent {
    pub(crate) ports: Ports,
    child: tokio::process::Child,
    pid: u32,
    _files: tempfile::TempDir,
}

impl Agent {
    pub(crate) fn start(envoy: &Path, discovery: u16, authority: &Authority) -> Self {
        Self::start_with(envoy, discovery, authority, &[])
    }

    pub(crate) fn start_with(
        envoy: &Path,
        discovery: u16,
        authority: &Authority,
        extra: &[(&str, &str)],
    ) -> Self {
        let files = tempfile::tempdir().unwrap();
        let (token, root) = (files.path().join("token"), files.path().join("root"));
        std::fs::write(&token, TOKEN).unwrap();
        std::fs::write(&root, authority.root_pem()).unwrap();
        let ports = Ports {
            admin: free_port(),
            agent: free_port(),
            health: free_port(),
            metrics: free_port(),
        };
        let proxy_config = json!({
            "discoveryAddress": format!("localhost:{discovery}"),
            "proxyAdminPort": ports.admin,
            "statusPort": ports.agent,
            "terminationDrainDuration": "3s",
        });
        let mut environment = json!({
            "POD_NAME": "app-1",
            "POD_NAMESPACE": "default",
            "INSTANCE_IP": "127.0.0.1",
            "SERVICE_ACCOUNT": "app",
            "PROXY_CONFIG": proxy_config.to_string(),
        });
        for (key, value) in extra {
            environment[*key] = json!(value);
        }
        let told = json!({
            "environment": environment, "envoy": envoy, "token": token, "root": root,
            "health": ports.health, "metrics": ports.metrics,
        });
        let child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "agent_process", "--nocapture"])
            .env(TOLD, told.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = child.id().expect("it runs");
        Self {
            ports,
            child,
            pid,
            _files: files,
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = std::process::Command::new("kill")
            .args([format!("-{name}"), self.pid.to_string()])
            .status();
        assert!(status.unwrap().success());
    }

    pub(crate) async fn exit_code(&mut self) -> i32 {
        let status = tokio::time::timeout(DEADLINE, self.child.wait()).await;
        let status = status.expect("the agent ends in time").unwrap();
        status.code().unwrap_or(-1)
    }

    /// The agent's child.
    pub(crate) fn engine_pid(&self) -> u32 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid)).unwrap();
        let children = tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok());
        let all: String = children.collect();
        all.split_whitespace()
            .next()
            .expect("a child")
            .parse()
            .unwrap()
    }

    /// Private directories whose bootstrap names this agent's port.
    pub(crate) fn directories(&self) -> Vec<PathBuf> {
        let port = format!("\"port_value\": {}", self.ports.agent);
        ["/etc/istio/proxy", "/tmp"]
            .iter()
            .filter_map(|parent| std::fs::read_dir(parent).ok())
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let text = std::fs::read_to_string(path.join("bootstrap.json"));
                text.is_ok_and(|text| text.contains(&port))
            })
            .collect()
    }
}

impl Drop for Agent {
    /// A killed agent cannot remove its directory.
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        for directory in self.directories() {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
}

/// Status and the whole answer of a GET; nothing when there is no connection or no answer.
pub(crate) async fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n");
    exchange(stream, &request).await
}

/// The same without asking for the connection's end.
pub(crate) async fn keep_alive_get(port: u16) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let request = "GET / HTTP/1.1\r\nHost: app\r\n\r\n";
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let read = async {
        while !answer.ends_with(b"hello") && stream.read_buf(&mut answer).await.ok()? > 0 {}
        Some(())
    };
    tokio::time::timeout(DEADLINE, read).await.ok()??;
    parsed(&answer)
}

/// The server's identities and the answer of a GET over mutual TLS.
pub(crate) async fn secure_get(port: u16, authority: &Authority) -> Option<(Vec<String>, String)> {
    let own = authority.certificate("spiffe://cluster.local/ns/default/sa/client");
    let expected = PeerNames {
        prefixes: vec!["spiffe://cluster.local/".to_owned()],
        ..PeerNames::default()
    };
    let config = client_config(&own.roots().unwrap(), expected, Some(&own), &[]).unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let name = ServerName::try_from("app").unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .ok()?;
    let leaf = stream.get_ref().1.peer_certificates()?.first()?;
    let peer = certificate_facts(leaf).unwrap().uris;
    let request = "GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n";
    Some((peer, exchange(stream, request).await?.1))
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> Option<(u16, String)> {
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("an answer in time"); // a TLS peer may leave out its farewell
    parsed(&answer)
}

fn parsed(answer: &[u8]) -> Option<(u16, String)> {
    let text = String::from_utf8_lossy(answer).into_owned();
    let status = text.split(' ').nth(1)?.parse().ok()?;
    Some((status, text))
}
