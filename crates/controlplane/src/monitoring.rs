//! Readiness, metrics and debug pages of the control plane.

use std::{convert::Infallible, fmt::Write, sync::Arc, time::Duration};

use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use meltemi_xds::session::SyncStatus;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::listeners::Parts;

/// A client must send its request head within this time.
const HEADER_DEADLINE: Duration = Duration::from_secs(10);

type Body = Full<bytes::Bytes>;

/// Serves the pages until `shutdown`.
pub(crate) async fn serve(
    listener: TcpListener,
    parts: Arc<Parts>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let accept = async {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let parts = Arc::clone(&parts);
            let service = service_fn(move |request: Request<Incoming>| {
                let response = page(&parts, request.uri().path());
                async move { Ok::<_, Infallible>(response) }
            });
            tokio::spawn(async move {
                let mut server = hyper::server::conn::http1::Builder::new();
                server
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEADER_DEADLINE);
                if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                    tracing::debug!(%error, "connection ended");
                }
            });
        }
    };
    tokio::select! { () = accept => {}, () = shutdown => {} }
}

fn page(parts: &Parts, path: &str) -> Response<Body> {
    match path {
        "/ready" if parts.world.is_ready() => text(StatusCode::OK, String::new()),
        "/ready" => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "the first snapshot is not complete\n".into(),
        ),
        "/version" => json_page(&json!({"version": env!("CARGO_PKG_VERSION")})),
        "/metrics" => text(StatusCode::OK, metrics(parts)),
        "/debug/syncz" => json_page(&syncz(parts)),
        "/debug/connections" => json_page(&json!({
            "totalClients": parts.discovery.connections().len(),
            "clients": parts.discovery.connections().iter().map(|one| json!({"connectionId": one.proxy})).collect::<Vec<_>>(),
        })),
        _ => text(
            StatusCode::NOT_FOUND,
            "there are /ready, /version, /metrics, /debug/syncz, /debug/connections\n".into(),
        ),
    }
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

fn json_page(value: &Value) -> Response<Body> {
    let mut response = text(StatusCode::OK, value.to_string());
    response.headers_mut().insert(
        CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

fn status_text(status: SyncStatus) -> &'static str {
    match status {
        SyncStatus::NotSent => "NOT_SENT",
        SyncStatus::Synced => "SYNCED",
        SyncStatus::Stale => "STALE",
        SyncStatus::Error => "ERROR",
    }
}

fn syncz(parts: &Parts) -> Value {
    let proxies = parts.discovery.connections().into_iter().map(|connection| {
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

fn metrics(parts: &Parts) -> String {
    let connections = parts.discovery.connections();
    let refused = connections
        .iter()
        .flat_map(|one| one.types.values())
        .filter(|(status, _)| *status == SyncStatus::Error)
        .count();
    let state = parts.world.states().borrow().clone();
    let mut out = String::new();
    let mut gauge = |name: &str, help: &str, value: u64| {
        // A String takes everything.
        let _ = write!(
            out,
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"
        );
    };
    gauge("pilot_xds", "Connected proxies.", connections.len() as u64);
    gauge(
        "pilot_xds_rejects",
        "Types whose last configuration a proxy refused.",
        refused as u64,
    );
    gauge(
        "meltemi_snapshots",
        "Snapshots made since the start.",
        state.number,
    );
    gauge(
        "meltemi_routes_held",
        "VirtualServices that wait for subsets.",
        state.snapshot.held().len() as u64,
    );
    out
}
