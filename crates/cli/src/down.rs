//! `meltemi down`.

use std::time::Duration;

use anyhow::Context;

use crate::{
    arguments::State,
    platform::{Platform, terminate},
};

/// Pods get their grace period; what is left after this is the supervisor's bug.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often the lock is looked at: a released file lock gives no event.
const POLL: Duration = Duration::from_millis(20);

/// Stops the platform and waits until it is gone.
pub(crate) async fn run(state: &State) -> anyhow::Result<()> {
    let platform = Platform::of(state)?;
    let Some(running) = platform.running() else {
        println!("no platform runs in {}", platform.directory().display());
        return Ok(());
    };
    terminate(running.pid)?;
    let gone = async {
        while platform.is_locked() {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(DEADLINE, gone)
        .await
        .with_context(|| {
            format!(
                "the platform (process {}) did not stop within {DEADLINE:?}; see {}",
                running.pid,
                platform.log("platform").display()
            )
        })?;
    println!("stopped the platform in {}", platform.directory().display());
    Ok(())
}
