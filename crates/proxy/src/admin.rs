//! The admin interface and the other small HTTP endpoints of the process, served by hyper on the main runtime.
//!
//! [`answer`] is a pure function of the shared state, the method and the path; [`listen`] puts it on a socket.

mod dump;
mod server;
mod text;

pub(crate) use dump::{Dump, Kind as DumpKind};
pub(crate) use server::{Answer, listen};

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::state::{Drain, Shared};

const HELP: &str = "admin commands are:
  /certs: certificates in use
  /clusters: upstream clusters and their hosts
  /config_dump: the configuration in use (parameters: resource, name_regex, include_eds)
  /drain_listeners (POST): drain listeners
  /help: this text
  /listeners: listener addresses
  /logging (POST): log level (parameter: level)
  /memory: memory of the process
  /quitquitquit (POST): exit
  /ready: 200 when the proxy is live
  /server_info: version and state
  /stats: counters (parameters: filter, usedonly, format=json|prometheus)
  /stats/prometheus: counters for Prometheus
";

/// Answers one request of the admin port.
pub(crate) fn answer(
    shared: &Arc<Shared>,
    dump: &Dump,
    method: &Method,
    path: &str,
    query: &str,
) -> Answer {
    let post = *method == Method::POST;
    let only_post = || {
        Answer::text(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("Method {method} not allowed, POST required."),
        )
    };
    match path {
        "/" | "/help" => Answer::text(StatusCode::OK, HELP),
        "/ready" => ready(shared),
        "/server_info" => Answer::json(server_info(shared)),
        "/clusters" if query.contains("format=json") => Answer::json(text::clusters_json(shared)),
        "/clusters" => Answer::text(StatusCode::OK, text::clusters(shared)),
        "/listeners" if query.contains("format=json") => Answer::json(text::listeners_json(shared)),
        "/listeners" => Answer::text(StatusCode::OK, text::listeners(shared)),
        "/stats/prometheus" => prometheus(shared),
        "/stats" if query.contains("format=prometheus") => prometheus(shared),
        "/stats" => stats(shared, query),
        "/certs" => Answer::json(text::certs(shared)),
        "/config_dump" => Answer::json(dump.render(shared, query)),
        "/memory" => Answer::json(memory()),
        "/logging" if post => logging(query),
        "/quitquitquit" if post => {
            shared.set_drain(Drain::Graceful);
            shared.quit.notify_one();
            Answer::text(StatusCode::OK, "OK\n")
        }
        "/drain_listeners" if post => {
            shared.set_drain(Drain::Graceful);
            Answer::text(StatusCode::OK, "OK\n")
        }
        "/logging" | "/quitquitquit" | "/drain_listeners" => only_post(),
        _ => Answer::text(StatusCode::NOT_FOUND, format!("invalid path. {HELP}")),
    }
}

fn state_name(shared: &Shared) -> &'static str {
    match (shared.live.load(Ordering::Acquire), shared.drain_state()) {
        (_, Drain::Graceful | Drain::Closing | Drain::Forced) => "DRAINING",
        (true, Drain::Off) => "LIVE",
        (false, Drain::Off) => "PRE_INITIALIZING",
    }
}

/// 200 while the proxy is live.
pub(crate) fn ready(shared: &Shared) -> Answer {
    let name = state_name(shared);
    let status = if name == "LIVE" {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Answer::text(status, format!("{name}\n"))
}

/// Everything for Prometheus.
pub(crate) fn prometheus(shared: &Shared) -> Answer {
    let mut answer = Answer::text(StatusCode::OK, text::prometheus(shared));
    answer.content_type = meltemi_telemetry::PROMETHEUS_TEXT;
    answer
}

fn stats(shared: &Shared, query: &str) -> Answer {
    let parameter = |name: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    };
    let filter = parameter("filter").unwrap_or_default();
    let used_only = query.split('&').any(|pair| pair == "usedonly");
    let all = text::stats(shared);
    let wanted = |name: &str, value: u64| name.contains(filter) && (!used_only || value > 0);
    if parameter("format") == Some("json") {
        let wanted = all.iter().filter(|(name, _, value)| wanted(name, *value));
        let stats: Vec<Value> = wanted
            .map(|(name, _, value)| json!({"name": name, "value": value}))
            .collect();
        return Answer::json(json!({ "stats": stats }));
    }
    let mut lines = String::new();
    for (name, _, value) in all.iter().filter(|(name, _, value)| wanted(name, *value)) {
        let _ = writeln!(lines, "{name}: {value}");
    }
    Answer::text(StatusCode::OK, lines)
}

fn server_info(shared: &Shared) -> Value {
    let seconds = shared.uptime().as_secs();
    json!({
        "version": format!("meltemi/{}", env!("CARGO_PKG_VERSION")),
        "state": state_name(shared),
        "hot_restart_version": "disabled",
        "uptime_current_epoch": format!("{seconds}s"),
        "uptime_all_epochs": format!("{seconds}s"),
        "command_line_options": {"concurrency": shared.concurrency},
        "node": {"id": shared.node.id.as_str(), "cluster": shared.node.cluster.as_str()},
    })
}

fn memory() -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let bytes = |key: &str| (kib(key).unwrap_or_default() * 1024).to_string();
    json!({"allocated": bytes("RssAnon:"), "heap_size": bytes("VmData:"), "total_physical_bytes": bytes("VmRSS:")})
}

fn logging(query: &str) -> Answer {
    let Some(handle) = meltemi_telemetry::logging::of_process() else {
        return Answer::text(
            StatusCode::NOT_IMPLEMENTED,
            "the log was not set up by this process\n",
        );
    };
    match handle.admin(query) {
        Ok(listing) => Answer::text(StatusCode::OK, listing),
        Err(error) => Answer::text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests;
