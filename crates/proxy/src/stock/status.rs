//! The agent's port: is the engine ready, its metrics with the application's, the application's probes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::Value;
use tokio::sync::Notify;

use super::admin::EngineAdmin;
use crate::admin::Answer;
use crate::agent::AgentConfig;
use crate::agent::probe;

/// The kubelet's probe gives up after 3 s.
const READY_DEADLINE: Duration = Duration::from_secs(2);
/// A scrape of a large mesh takes its time.
const METRICS_DEADLINE: Duration = Duration::from_secs(10);
/// Time in which an order to drain must be taken.
const ORDER_DEADLINE: Duration = Duration::from_secs(2);
/// What must have happened before the engine is ready; each becomes a counter or gauge above zero.
const STARTED: [&str; 3] = [
    "cluster_manager.cds.update_success",
    "listener_manager.lds.update_success",
    "listener_manager.workers_started",
];

/// Answers for the agent's port.
#[derive(Debug)]
pub(super) struct Status {
    config: Arc<AgentConfig>,
    admin: EngineAdmin,
    /// Configuration has arrived once; it never goes away again.
    started: AtomicBool,
    draining: AtomicBool,
    /// Somebody asked for the end.
    pub(super) quit: Notify,
}

impl Status {
    pub(super) fn new(config: Arc<AgentConfig>, admin: EngineAdmin) -> Self {
        Self {
            config,
            admin,
            started: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            quit: Notify::new(),
        }
    }

    /// From now on the pod is not ready.
    pub(super) fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Answers one request.
    pub(super) async fn answer(&self, head: &http::request::Parts) -> Answer {
        let path = head.uri.path();
        match path {
            "/healthz/ready" => match self.ready().await {
                Ok(()) => Answer::text(StatusCode::OK, ""),
                Err(reason) => Answer::text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            "/stats/prometheus" | "/metrics" => self.metrics().await,
            "/quitquitquit" if head.method == Method::POST => {
                self.quit.notify_one();
                Answer::text(StatusCode::OK, "ok")
            }
            "/drain" if head.method == Method::POST => self.drain().await,
            "/quitquitquit" | "/drain" => {
                Answer::text(StatusCode::METHOD_NOT_ALLOWED, "POST required\n")
            }
            _ => match self.config.probes.get(path) {
                Some(settings) => probe::run(&self.config, settings, head).await,
                None => Answer::text(StatusCode::NOT_FOUND, ""),
            },
        }
    }

    async fn ready(&self) -> Result<(), String> {
        if self.draining.load(Ordering::Acquire) {
            return Err("draining".to_owned());
        }
        if !self.started.load(Ordering::Acquire) {
            let page = format!("/stats?filter=%5E({})%24", STARTED.join("%7C"));
            let (_, body) = self.admin.get(&page, READY_DEADLINE).await?;
            missing(&String::from_utf8_lossy(&body))?;
            self.started.store(true, Ordering::Release);
        }
        let (status, body) = self.admin.get("/ready", READY_DEADLINE).await?;
        if status == StatusCode::OK {
            return Ok(());
        }
        Err(format!(
            "the engine is {}",
            String::from_utf8_lossy(&body).trim()
        ))
    }

    async fn drain(&self) -> Answer {
        self.set_draining();
        let order = self.admin.post("/drain_listeners?graceful", ORDER_DEADLINE);
        match order.await {
            Ok(()) => Answer::text(StatusCode::OK, "ok"),
            Err(reason) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{reason}\n")),
        }
    }

    /// The engine's metrics, then the application's where an annotation says where they are.
    async fn metrics(&self) -> Answer {
        let page = self.admin.get("/stats/prometheus", METRICS_DEADLINE).await;
        let mut all = match page {
            Ok((StatusCode::OK, body)) => body.to_vec(),
            Ok((status, _)) => {
                tracing::debug!(%status, "the engine's metrics not served");
                Vec::new()
            }
            Err(reason) => {
                tracing::debug!(reason, "the engine's metrics not read");
                Vec::new()
            }
        };
        if let Some(own) = self.application_metrics().await {
            all.extend_from_slice(&own);
        }
        let mut answer = Answer::text(StatusCode::OK, all);
        answer.content_type = "text/plain; version=0.0.4; charset=utf-8";
        answer
    }

    async fn application_metrics(&self) -> Option<bytes::Bytes> {
        let settings = self.config.app_metrics.as_ref()?;
        let text = |key: &str| settings.get(key).and_then(Value::as_str);
        if text("scrape") != Some("true") {
            return None;
        }
        let port = text("port")
            .and_then(|port| port.parse().ok())
            .unwrap_or(80);
        if port == self.config.ports.agent {
            return None;
        }
        let path = text("path")
            .filter(|path| !path.is_empty())
            .unwrap_or("/metrics");
        match probe::get(&self.config, port, path).await {
            Ok((200, body)) => return Some(body),
            Ok((status, _)) => tracing::debug!(status, "application metrics not served"),
            Err(reason) => tracing::debug!(reason, "application metrics not read"),
        }
        None
    }
}

/// Says which of [`STARTED`] has not happened, from the lines of `/stats`.
fn missing(stats: &str) -> Result<(), String> {
    let happened = |name: &str| {
        let value = stats
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        value.is_some_and(|value| value.trim() != "0")
    };
    match STARTED.iter().find(|name| !happened(name)) {
        None => Ok(()),
        Some(name) => Err(format!("the engine is starting: {name} is 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_has_started_when_clusters_listeners_and_workers_have() {
        let stats = |listeners: u32| {
            format!(
                "cluster_manager.cds.update_success: 2\nlistener_manager.lds.update_success: {listeners}\nlistener_manager.workers_started: 1\n"
            )
        };
        assert_eq!(missing(&stats(1)), Ok(()));
        let reason = missing(&stats(0)).unwrap_err();
        assert!(reason.contains("lds.update_success"), "{reason}");
        assert!(missing("").is_err());
    }
}
