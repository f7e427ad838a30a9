//! The processes that the supervisor starts. They end with it, whatever ends it.

use std::{process::Stdio, time::Duration};

use anyhow::Context;
use futures::{StreamExt, stream::FuturesUnordered};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};

use crate::platform::Platform;

/// A process that does not end within this time of SIGTERM is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(45);

/// Started processes, in order.
#[derive(Default)]
pub(crate) struct Children(Vec<(&'static str, Child)>);

impl Children {
    /// Starts a role of this binary, its output in its own log.
    pub(crate) fn start(
        &mut self,
        platform: &Platform,
        role: &'static str,
        flags: &[&str],
    ) -> anyhow::Result<()> {
        let log = platform.log(role);
        let output =
            std::fs::File::create(&log).with_context(|| format!("write {}", log.display()))?;
        let child = Command::new(std::env::current_exe()?)
            .arg(role)
            .arg("--state")
            .arg(platform.directory())
            .args(flags)
            // However the supervisor ends, its children must not outlive it.
            .args(["--supervisor", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A Ctrl-C is for the supervisor, which stops the others in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start the {role}"))?;
        self.0.push((role, child));
        Ok(())
    }

    /// Waits for `work` as long as every process lives.
    pub(crate) async fn while_alive<T>(
        &mut self,
        platform: &Platform,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        tokio::select! {
            biased; // a death explains why the work fails
            died = self.first_death(platform) => Err(died),
            done = work => done,
        }
    }

    /// Waits until a process ends, and says why: the last error of its log.
    pub(crate) async fn first_death(&mut self, platform: &Platform) -> anyhow::Error {
        let mut deaths: FuturesUnordered<_> = self
            .0
            .iter_mut()
            .map(|(role, child)| async { (*role, child.wait().await) })
            .collect();
        let Some((role, status)) = deaths.next().await else {
            return std::future::pending().await;
        };
        let log = platform.log(role);
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        match text
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("error: "))
        {
            Some(reason) => anyhow::anyhow!("{reason}"),
            None => {
                let status =
                    status.map_or_else(|error| error.to_string(), |status| status.to_string());
                anyhow::anyhow!(
                    "the {role} ended unexpectedly ({status}); see {}",
                    log.display()
                )
            }
        }
    }

    /// Stops all, the last started first: the node needs the API server to the end.
    pub(crate) async fn stop(&mut self) {
        for (role, mut child) in self.0.drain(..).rev() {
            let Some(pid) = child.id() else { continue };
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGTERM); // it may have ended just now
            if tokio::time::timeout(STOP_DEADLINE, child.wait())
                .await
                .is_err()
            {
                eprintln!(
                    "warning: the {role} did not stop within {STOP_DEADLINE:?} and was killed"
                );
                let _ = child.kill().await; // nothing more can be done
            }
        }
    }
}
