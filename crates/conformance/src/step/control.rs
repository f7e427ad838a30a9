//! Steps that change the world instead of asking: files, backends, connections, time.

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Context;
use crate::backend::rules::Rule;
use crate::span::Span;

/// What to change.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Control {
    /// Replaces a file of the case's directory by a rename, which is what watchers of files see.
    Write {
        /// Relative path.
        file: String,
        /// New content.
        content: String,
    },
    /// Stops a backend: nobody listens, its connections are closed.
    Stop(String),
    /// Starts it again.
    Start(String),
    /// Gives a backend other rules.
    Respond {
        /// Which.
        backend: String,
        /// From now on.
        responses: Vec<Rule>,
    },
    /// Closes a named connection of the client.
    Close(String),
    /// Lets time pass; only where time itself is what the case is about.
    Pause(Span),
    /// Observes what backends get; use with `await`.
    Observe(Observe),
}

/// Nothing to say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Observe {}

impl Control {
    /// Changes it.
    pub(crate) async fn run(&self, context: &Context<'_>) -> anyhow::Result<Value> {
        match self {
            Self::Write { file, content } => {
                let path = context.directory.join(file);
                let fresh = context.directory.join(format!("{file}.new"));
                std::fs::write(&fresh, content)?;
                std::fs::rename(&fresh, &path)
                    .with_context(|| format!("write {}", path.display()))?;
            }
            Self::Stop(name) => context.backends.stop(name).await?,
            Self::Start(name) => context.backends.listen(name).await?,
            Self::Respond { backend, responses } => {
                context.backends.set_responses(backend, responses.clone())?
            }
            Self::Close(name) => {
                let kept = context.connections.take(name);
                anyhow::ensure!(kept.is_some(), "no connection {name:?}");
            }
            Self::Pause(span) => tokio::time::sleep(span.0).await,
            Self::Observe(_) => {}
        }
        Ok(json!({}))
    }
}
