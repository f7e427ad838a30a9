//! Readiness, merged metrics and the application's probes: ports 15020, 15021 and 15090.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde_json::Value;

use super::config::AgentConfig;
use super::probe;
use crate::admin::{self, Answer};
use crate::state::{Drain, Shared};

/// Answers for all three ports.
#[derive(Debug)]
pub(super) struct Status {
    shared: Arc<Shared>,
    config: Arc<AgentConfig>,
}

impl Status {
    pub(super) fn new(shared: Arc<Shared>, config: Arc<AgentConfig>) -> Self {
        Self { shared, config }
    }

    /// Answers one request.
    pub(super) async fn answer(&self, head: &http::request::Parts) -> Answer {
        let path = head.uri.path();
        match path {
            "/healthz/ready" => {
                let answer = admin::ready(&self.shared);
                if answer.status == StatusCode::OK {
                    Answer::text(StatusCode::OK, "")
                } else {
                    answer
                }
            }
            "/stats/prometheus" | "/metrics" => self.metrics().await,
            "/quitquitquit" if head.method == Method::POST => {
                self.shared.quit.notify_one();
                Answer::text(StatusCode::OK, "ok")
            }
            "/drain" if head.method == Method::POST => {
                self.shared.set_drain(Drain::Graceful);
                Answer::text(StatusCode::OK, "ok")
            }
            "/quitquitquit" | "/drain" => {
                Answer::text(StatusCode::METHOD_NOT_ALLOWED, "POST required\n")
            }
            _ if path.starts_with("/app-health/") || path.starts_with("/app-lifecycle/") => {
                self.probe(path, head).await
            }
            _ => Answer::text(StatusCode::NOT_FOUND, ""),
        }
    }

    async fn probe(&self, path: &str, head: &http::request::Parts) -> Answer {
        match self.config.probes.get(path) {
            Some(settings) => probe::run(&self.config, settings, head).await,
            None => Answer::text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("no probe is configured for {path}\n"),
            ),
        }
    }

    /// Our metrics, then the application's where an annotation says where they are.
    async fn metrics(&self) -> Answer {
        let mut answer = admin::prometheus(&self.shared);
        let Some(settings) = &self.config.app_metrics else {
            return answer;
        };
        let text = |key: &str| settings.get(key).and_then(Value::as_str);
        if text("scrape") != Some("true") {
            return answer;
        }
        let port = text("port")
            .and_then(|port| port.parse().ok())
            .unwrap_or(80);
        let path = text("path")
            .filter(|path| !path.is_empty())
            .unwrap_or("/metrics");
        if port == self.config.ports.agent {
            return answer;
        }
        match probe::get(&self.config, port, path).await {
            Ok((200, body)) => {
                let mut all = answer.body.to_vec();
                all.extend_from_slice(&body);
                answer.body = all.into();
            }
            Ok((status, _)) => tracing::debug!(status, "application metrics not served"),
            Err(reason) => tracing::debug!(reason, "application metrics not read"),
        }
        answer
    }
}
