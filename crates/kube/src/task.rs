//! A spawned task with an owner: dropping the handle ends the task.

/// Handle of a background task; the task is aborted when this is dropped.
#[derive(Debug)]
#[must_use = "dropping the handle ends the task"]
pub struct Task(tokio::task::JoinHandle<()>);

impl Task {
    /// Spawns `future` on the current runtime and owns it.
    pub fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future))
    }

    /// Whether the task has ended (also by panic).
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Waits until the task ends.
    pub async fn join(mut self) {
        if let Err(error) = (&mut self.0).await
            && error.is_panic()
        {
            tracing::error!(%error, "background task panicked");
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
