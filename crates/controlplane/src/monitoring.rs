//! Readiness, metrics and debug pages of the control plane. Served from the start, so that readiness can be asked
//! for while nothing else is served.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::{Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use meltemi_xds::session::SyncStatus;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    connections::{accept_plain, serve_http},
    discovery::Connection,
    listeners::Parts,
    metrics::{Metrics, VERSION},
};

type Body = Full<Bytes>;

/// What the pages show.
pub(crate) struct Pages {
    pub(crate) metrics: Arc<Metrics>,
    /// Set when everything is served.
    pub(crate) parts: OnceLock<Arc<Parts>>,
}

/// Serves the pages until `shutdown`.
pub(crate) async fn serve(
    listener: TcpListener,
    pages: Arc<Pages>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let handle = move |request: http::Request<hyper::body::Incoming>| {
        std::future::ready(pages.page(request.uri().path()))
    };
    serve_http(accept_plain(listener), handle, shutdown).await;
}

impl Pages {
    fn connections(&self) -> Vec<Connection> {
        self.parts
            .get()
            .map(|parts| parts.discovery.connections())
            .unwrap_or_default()
    }

    fn page(&self, path: &str) -> Response<Body> {
        match path {
            "/ready" if self.parts.get().is_some() => text(StatusCode::OK, String::new()),
            "/ready" => text(
                StatusCode::SERVICE_UNAVAILABLE,
                "the first snapshot is not complete\n".into(),
            ),
            "/version" => json_page(&json!({"version": VERSION})),
            "/metrics" => metrics(&self.metrics),
            "/debug/syncz" => json_page(&syncz(self.connections())),
            "/debug/connections" => {
                let connections = self.connections();
                let clients = connections
                    .iter()
                    .map(|one| json!({"connectionId": one.proxy}));
                json_page(&json!({
                    "totalClients": connections.len(),
                    "clients": clients.collect::<Vec<_>>(),
                }))
            }
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /ready, /version, /metrics, /debug/syncz, /debug/connections\n".into(),
            ),
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    page(status, "text/plain; charset=utf-8", body)
}

fn page(status: StatusCode, content: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, http::HeaderValue::from_static(content));
    response
}

fn json_page(value: &Value) -> Response<Body> {
    page(StatusCode::OK, "application/json", value.to_string())
}

fn metrics(metrics: &Metrics) -> Response<Body> {
    let content = meltemi_telemetry::PROMETHEUS_TEXT;
    page(StatusCode::OK, content, metrics.render())
}

fn status_text(status: SyncStatus) -> &'static str {
    match status {
        SyncStatus::NotSent => "NOT_SENT",
        SyncStatus::Synced => "SYNCED",
        SyncStatus::Stale => "STALE",
        SyncStatus::Error => "ERROR",
    }
}

fn syncz(connections: Vec<Connection>) -> Value {
    let proxies = connections.into_iter().map(|connection| {
        let types = connection.types.iter().map(|(kind, (status, refusal))| {
            (
                kind.to_string(),
                json!({"status": status_text(*status), "error": refusal}),
            )
        });
        json!({
            "proxy": connection.proxy,
            "type": format!("{:?}", connection.kind),
            "types": types.collect::<serde_json::Map<_, _>>(),
        })
    });
    Value::Array(proxies.collect())
}
