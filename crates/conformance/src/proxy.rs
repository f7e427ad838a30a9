//! Starting and ending a proxy: the real Envoy or ours.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// Longest time from start to ready.
const START: Duration = Duration::from_secs(20);
/// Between two questions whether a proxy is ready; processes give no event.
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// Time for a proxy to end after SIGTERM before it is killed.
const STOP: Duration = Duration::from_secs(8);

/// Which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The oracle.
    Envoy,
    /// What is judged.
    Ours,
}

impl Side {
    /// Name in reports.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Ours => "ours",
        }
    }
}

/// The two programs.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// The real Envoy.
    pub(crate) envoy: PathBuf,
    /// Our binary.
    pub(crate) ours: PathBuf,
    /// Workers.
    pub(crate) concurrency: u32,
}

/// A running proxy.
pub(crate) struct Proxy {
    child: Child,
    errors: PathBuf,
}

impl Programs {
    /// Starts a proxy in the directory that holds `envoy.yaml`.
    pub(crate) fn start(
        &self,
        side: Side,
        directory: &Path,
        case: &crate::case::Case,
    ) -> anyhow::Result<Proxy> {
        let workers = case.workers.unwrap_or(self.concurrency).to_string();
        let config = directory.join("envoy.yaml");
        let mut command = match side {
            Side::Envoy => {
                let mut command = Command::new(&self.envoy);
                command.arg("-c").arg(&config).args([
                    "--disable-hot-restart",
                    "-l",
                    "error",
                    "--file-flush-interval-msec",
                    "10",
                ]);
                command
            }
            Side::Ours => {
                let mut command = Command::new(&self.ours);
                command
                    .arg("proxy")
                    .arg("--config")
                    .arg(&config)
                    .args(["-l", "error"]);
                command
            }
        };
        let errors = directory.join("proxy-errors");
        let output = std::fs::File::create(&errors)?;
        let child = command
            .args(["--concurrency", &workers])
            .envs(&case.environment)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", side.name()))?;
        Ok(Proxy { child, errors })
    }
}

impl Proxy {
    /// Waits until the admin port says that the proxy is live.
    pub(crate) async fn ready(&mut self, admin: u16) -> anyhow::Result<()> {
        let asking = async {
            loop {
                if let Ok(answer) = crate::step::admin::ask(admin, "GET", "/ready").await
                    && answer.status == 200
                {
                    return Ok(());
                }
                if let Some(status) = self.child.try_wait()? {
                    anyhow::bail!("ended at its start with {status}: {}", self.words());
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        match tokio::time::timeout(START, asking).await {
            Ok(ready) => ready,
            Err(_) => anyhow::bail!("not ready after {START:?}: {}", self.words()),
        }
    }

    /// Waits until the proxy ends by itself.
    pub(crate) async fn ends(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        match tokio::time::timeout(START, self.child.wait()).await {
            Ok(status) => Ok(Some(status?)),
            Err(_) => Ok(None),
        }
    }

    /// Ends it: SIGTERM, then SIGKILL. An end that is no orderly one is an error.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            anyhow::ensure!(
                status.success(),
                "ended on its own with {status}: {}",
                self.words()
            );
            return Ok(());
        }
        if let Some(id) = self.child.id() {
            kill(Pid::from_raw(i32::try_from(id)?), Signal::SIGTERM)?;
        }
        if tokio::time::timeout(STOP, self.child.wait()).await.is_err() {
            self.child.kill().await?;
            anyhow::bail!("did not end within {STOP:?} after SIGTERM");
        }
        Ok(())
    }

    /// The last words of the proxy.
    pub(crate) fn words(&self) -> String {
        let text = std::fs::read_to_string(&self.errors).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let from = lines.len().saturating_sub(3);
        lines[from..].join(" | ")
    }
}
