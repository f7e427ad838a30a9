//! The engine as a child process, and the private directory with its bootstrap and sockets.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use meltemi_capture::process::dies_with_parent;
use serde_json::Value;
use tokio::process::{Child, Command};

use super::EngineBinary;
use crate::agent::AgentConfig;
use crate::standalone::ProxyError;

/// Where the directory is made, in order of preference: the pod's own memory volume first.
const PARENTS: [&str; 2] = ["/etc/istio/proxy", "/tmp"];
/// Names that are tried before giving up.
const ATTEMPTS: usize = 8;
/// `drainDuration` of Istio's proxy configuration when it is not set.
const DRAIN: Duration = Duration::from_secs(45);
/// Time stamps as the agent's own log has them.
const LOG_FORMAT: &str = "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t";

/// A directory that only this user can enter; removed at the end.
#[derive(Debug)]
pub(super) struct Directory(PathBuf);

impl Directory {
    /// Makes a new one.
    pub(super) fn create() -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for parent in PARENTS {
            for _ in 0..ATTEMPTS {
                let path = Path::new(parent).join(format!("meltemi-{:016x}", fastrand::u64(..)));
                match DirBuilder::new().mode(0o700).create(&path) {
                    Ok(()) => return Ok(Self(path)),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
                    Err(error) => {
                        last = error;
                        break;
                    }
                }
            }
        }
        Err(io::Error::new(
            last.kind(),
            format!("no private directory in {}: {last}", PARENTS.join(" or ")),
        ))
    }

    /// The socket of the secret discovery service.
    pub(super) fn secrets(&self) -> PathBuf {
        self.0.join("sds")
    }

    /// The socket of the discovery stream.
    pub(super) fn discovery(&self) -> PathBuf {
        self.0.join("xds")
    }

    /// The engine's bootstrap.
    pub(super) fn bootstrap(&self) -> PathBuf {
        self.0.join("bootstrap.json")
    }

    /// Writes the bootstrap.
    pub(super) fn write_bootstrap(&self, content: &Value) -> io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.bootstrap())?;
        serde_json::to_writer_pretty(&mut file, content)?;
        file.write_all(b"\n")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // what stays is private and goes away with the pod
    }
}

/// The running engine.
#[derive(Debug)]
pub(super) struct Engine {
    path: PathBuf,
    child: Child,
}

impl Engine {
    /// Starts it. It inherits our streams, so that its access log is the container's.
    pub(super) fn start(
        binary: &EngineBinary,
        config: &AgentConfig,
        bootstrap: &Path,
    ) -> Result<Self, ProxyError> {
        let mut command = Command::new(&binary.path);
        command
            .args(arguments(binary, config))
            .arg("--config-path")
            .arg(bootstrap)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            // A terminal's Ctrl-C is ours to answer: the engine would end without draining.
            .process_group(0);
        dies_with_parent(command.as_std_mut());
        let child = command.spawn().map_err(|source| ProxyError::Engine {
            path: binary.path.clone(),
            source,
        })?;
        tracing::info!(engine = %binary.path.display(), pid = child.id(), "engine started");
        Ok(Self {
            path: binary.path.clone(),
            child,
        })
    }

    /// Waits until it ends by itself, and says how.
    pub(super) async fn ended(&mut self) -> ProxyError {
        match self.child.wait().await {
            Ok(status) => ProxyError::EngineEnded {
                path: self.path.clone(),
                code: exit_code(status),
            },
            Err(source) => ProxyError::Engine {
                path: self.path.clone(),
                source,
            },
        }
    }

    /// Waits for its end, and makes one after `grace`.
    pub(super) async fn stop(&mut self, grace: Duration) {
        if tokio::time::timeout(grace, self.child.wait()).await.is_ok() {
            return;
        }
        tracing::warn!("the engine did not end in time");
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "the engine was not killed");
        }
    }
}

/// The exit code that a shell would show.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Flags as Istio's agent gives them.
fn arguments(binary: &EngineBinary, config: &AgentConfig) -> Vec<String> {
    let drain = config
        .proxy_config
        .get("drainDuration")
        .and_then(Value::as_str)
        .and_then(|text| meltemi_names::parse_duration(text).ok())
        .unwrap_or(DRAIN);
    let drain = drain.as_secs().max(1).to_string();
    let mut arguments: Vec<String> = ["--disable-hot-restart", "--drain-strategy", "immediate"]
        .map(str::to_owned)
        .to_vec();
    let mut pair = |flag: &str, value: &str| {
        if !value.is_empty() {
            arguments.extend([flag.to_owned(), value.to_owned()]);
        }
    };
    pair("--drain-time-s", &drain);
    pair("--log-level", &binary.log_level);
    pair("--component-log-level", &binary.component_log_level);
    pair("--log-format", LOG_FORMAT);
    if config.concurrency > 0 {
        pair("--concurrency", &config.concurrency.to_string());
    }
    arguments
}
