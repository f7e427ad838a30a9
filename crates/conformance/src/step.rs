//! The steps of a case. Each kind is a module with a specification and a `run`; [`Action::parse`] is the list of kinds.

pub(crate) mod admin;
pub(crate) mod control;
pub(crate) mod log;
pub(crate) mod raw;
pub(crate) mod repeated;
pub(crate) mod request;
pub(crate) mod stats;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::{BoxFuture, FutureExt as _, join_all};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::backend::Backends;
use crate::certificates::Certificates;
use crate::churn::Churn;
use crate::client::Connections;
use crate::record::Seen;

/// Longest wait for something that a step waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// Between two questions to a process, which gives no event.
pub(crate) const ASK_AGAIN: Duration = Duration::from_millis(20);

/// What steps act on.
pub(crate) struct Context<'a> {
    /// The proxy's first port.
    pub(crate) port: u16,
    /// Its admin port.
    pub(crate) admin: u16,
    /// The case's directory.
    pub(crate) directory: PathBuf,
    /// Certificates of the run.
    pub(crate) certificates: &'a Certificates,
    /// Upstream.
    pub(crate) backends: &'a Backends,
    /// Downstream.
    pub(crate) connections: Connections,
    /// Lines of each log that steps have taken.
    pub(crate) logs: Mutex<BTreeMap<String, usize>>,
    /// Configuration that changes between requests.
    pub(crate) churn: Option<Churn>,
    /// Connection numbers are observed.
    pub(crate) observe_connections: bool,
}

/// A step.
#[derive(Debug)]
pub(crate) struct Step {
    name: Option<String>,
    action: Action,
    /// What must be observed.
    pub(crate) expect: Value,
    /// By how much numbers may differ between the proxies, where choices are random.
    pub(crate) tolerance: f64,
    wait: Option<Awaited>,
}

/// What a step waits for before its observation is taken.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Awaited {
    /// Requests that a backend must have got since the start.
    requests: BTreeMap<String, usize>,
    /// gRPC messages that a backend must have got since the start.
    messages: BTreeMap<String, usize>,
}

#[derive(Debug)]
enum Action {
    Request(Box<request::Request>),
    Repeat(Box<repeated::Repeat>),
    Parallel(Vec<Step>),
    Raw(Box<raw::Raw>),
    Admin(admin::Ask),
    Stats(stats::Stats),
    Log(log::Log),
    Control(control::Control),
}

impl Action {
    fn parse(kind: &str, value: Value) -> anyhow::Result<Self> {
        fn read<T: DeserializeOwned>(value: Value) -> anyhow::Result<T> {
            Ok(serde_json::from_value(value)?)
        }
        Ok(match kind {
            "request" => Self::Request(Box::new(read(value)?)),
            "repeat" => Self::Repeat(Box::new(read(value)?)),
            "raw" => Self::Raw(Box::new(read(value)?)),
            "admin" => Self::Admin(read(value)?),
            "stats" => Self::Stats(read(value)?),
            "log" => Self::Log(read(value)?),
            "parallel" => {
                let steps: Vec<Value> = read(value)?;
                Self::Parallel(
                    steps
                        .into_iter()
                        .map(Step::parse)
                        .collect::<anyhow::Result<_>>()?,
                )
            }
            other => Self::Control(
                read(json!({ other: value }))
                    .with_context(|| format!("no step of kind {other:?}"))?,
            ),
        })
    }
}

impl Step {
    /// Reads a step: one kind, and `name`, `expect`, `tolerance`, `await` beside it.
    pub(crate) fn parse(value: Value) -> anyhow::Result<Self> {
        let Value::Object(mut map) = value else {
            anyhow::bail!("a step is a map");
        };
        let name = map
            .remove("name")
            .and_then(|name| name.as_str().map(str::to_owned));
        let expect = map.remove("expect").unwrap_or_default();
        let tolerance = map
            .remove("tolerance")
            .and_then(|value| value.as_f64())
            .unwrap_or_default();
        let wait = map
            .remove("await")
            .map(serde_json::from_value)
            .transpose()
            .context("await")?;
        let mut kinds = map.into_iter();
        let (kind, value) = kinds.next().context("a step without its kind")?;
        if let Some((more, _)) = kinds.next() {
            anyhow::bail!("{more:?} beside {kind:?}: a step has one kind");
        }
        let action = Action::parse(&kind, value).context(kind)?;
        Ok(Self {
            name,
            action,
            expect,
            tolerance,
            wait,
        })
    }

    /// How reports call it.
    pub(crate) fn title(&self, index: usize) -> String {
        match &self.name {
            Some(name) => format!("step {} ({name})", index + 1),
            None => format!("step {}", index + 1),
        }
    }

    /// Acts, waits, observes.
    pub(crate) async fn run(&self, context: &Context<'_>) -> anyhow::Result<Value> {
        let mut seen = self.act(context).await?;
        if let Some(wait) = &self.wait {
            wait.run(context).await?;
        }
        let repeats = matches!(self.action, Action::Repeat(_));
        let upstream = context
            .backends
            .recorder
            .take(!context.connections.is_empty())
            .await;
        if let (Value::Object(map), false) = (&mut seen, upstream.is_empty()) {
            if repeats {
                map.insert("backends".to_owned(), repeated::shares(&upstream));
            } else {
                map.insert("upstream".to_owned(), self.upstream(context, upstream));
            }
        }
        Ok(seen)
    }

    fn upstream(&self, context: &Context<'_>, upstream: Vec<Seen>) -> Value {
        let mut all: Vec<Value> = upstream
            .iter()
            .map(|seen| seen.observation(context.observe_connections))
            .collect();
        // What happens at the same time arrives in any order; shadows always do.
        if matches!(self.action, Action::Parallel(_)) || self.wait.is_some() {
            let key = |seen: &Value| {
                format!(
                    "{} {} {}",
                    seen["backend"], seen["path"], seen["headers"]["x-id"]
                )
            };
            all.sort_by_key(key);
        }
        json!(all)
    }

    fn act<'a>(&'a self, context: &'a Context<'_>) -> BoxFuture<'a, anyhow::Result<Value>> {
        async move {
            match &self.action {
                Action::Request(request) => request.run(context).await,
                Action::Repeat(repeat) => repeat.run(context).await,
                Action::Raw(raw) => raw.run(context).await,
                Action::Admin(ask) => ask.run(context).await,
                Action::Stats(stats) => stats.run(context, &self.expect).await,
                Action::Log(log) => log.run(context, &self.expect).await,
                Action::Control(control) => control.run(context).await,
                Action::Parallel(steps) => {
                    let all = join_all(steps.iter().map(|step| step.act(context))).await;
                    let all: anyhow::Result<Vec<Value>> = all.into_iter().collect();
                    let mut map = Map::new();
                    map.insert("all".to_owned(), json!(all?));
                    Ok(Value::Object(map))
                }
            }
        }
        .boxed()
    }
}

impl Awaited {
    async fn run(&self, context: &Context<'_>) -> anyhow::Result<()> {
        let requests =
            |seen: &[Seen], name: &str| seen.iter().filter(|seen| seen.backend == name).count();
        let messages = |seen: &[Seen], name: &str| -> usize {
            seen.iter()
                .filter(|seen| seen.backend == name)
                .map(|seen| seen.messages.len())
                .sum()
        };
        let came = context
            .backends
            .recorder
            .wait(PATIENCE, |seen| {
                self.requests
                    .iter()
                    .all(|(name, count)| requests(seen, name) >= *count)
                    && self
                        .messages
                        .iter()
                        .all(|(name, count)| messages(seen, name) >= *count)
            })
            .await;
        anyhow::ensure!(came, "waited in vain for {self:?}");
        Ok(())
    }
}
