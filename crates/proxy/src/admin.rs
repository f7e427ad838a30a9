//! The admin interface and the other small HTTP endpoints of the process, served by hyper on the main runtime.
//!
//! [`answer`] is a pure function of the shared state, the method and the path; [`listen`] puts it on a socket.

mod clusters;
mod dump;
mod server;
mod stats;
mod text;

pub(crate) use dump::{Dump, Kind as DumpKind};
pub(crate) use server::{Answer, listen};
pub(crate) use stats::keep_histograms;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::{Method, StatusCode};
use meltemi_telemetry::LogError;
use serde_json::{Value, json};

use crate::drain::Scope;
use crate::state::{Drain, Shared};

const HELP: &str = "admin commands are:
  /certs: print certs on machine
  /clusters: upstream cluster status (parameters: format, filter)
  /config_dump: dump current configuration (parameters: resource, mask, name_regex, include_eds)
  /contention: dump current mutex contention stats (never enabled)
  /drain_listeners (POST): drain listeners
  /healthcheck/fail (POST): cause the server to fail health checks
  /healthcheck/ok (POST): cause the server to pass health checks
  /help: print out list of admin commands
  /hot_restart_version: print the hot restart compatibility version
  /init_dump: dump unready targets
  /listeners: print listener info (parameter: format)
  /logging (POST): query/change logging levels (parameters: level, paths)
  /memory: print current allocation/heap usage
  /quitquitquit (POST): exit the server
  /ready: print server state, return 200 if LIVE, otherwise return 503
  /reopen_logs (POST): reopen access logs
  /reset_counters (POST): reset all counters to zero
  /runtime: print runtime values
  /server_info: print server version/status information
  /stats: print server stats (parameters: usedonly, filter, format, type)
  /stats/prometheus: print server stats in prometheus format (parameters: usedonly, filter)
";
const LOGGING: &str = "usage: /logging?<name>=<level> (change single level)
usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)
usage: /logging?level=<level> (change all levels)
usage: /logging?group=<group_name>:<level> (change group of loggers)
levels: trace debug info warning error critical off 
";
const NO_CONTENTION: &str = "Mutex contention tracing is not enabled. To enable, run Envoy with flag --enable-mutex-tracing.";
const NO_LOOKUPS: &str =
    "Lookup tracking is not enabled. Use /stats/recentlookups/enable to enable.\n\ntotal: 0\n";

/// Paths that change something.
const MUTATIONS: [&str; 11] = [
    "/drain_listeners",
    "/healthcheck/fail",
    "/healthcheck/ok",
    "/logging",
    "/quitquitquit",
    "/reopen_logs",
    "/reset_counters",
    "/runtime_modify",
    "/stats/recentlookups/clear",
    "/stats/recentlookups/disable",
    "/stats/recentlookups/enable",
];

/// Answers one request of the admin port.
pub(crate) fn answer(
    shared: &Arc<Shared>,
    dump: &Dump,
    method: &Method,
    path: &str,
    query: &str,
) -> Answer {
    if MUTATIONS.contains(&path) {
        if *method == Method::POST {
            return change(shared, path, query);
        }
        return Answer::text(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("Method {method} not allowed, POST required."),
        );
    }
    let json_wanted = parameter(query, "format") == Some("json");
    match path {
        "/" | "/help" => Answer::text(StatusCode::OK, HELP),
        "/ready" => ready(shared),
        "/server_info" => Answer::json(server_info(shared)),
        "/clusters" if json_wanted => Answer::json(clusters::json(shared, dump)),
        "/clusters" => Answer::text(StatusCode::OK, clusters::text(shared, dump)),
        "/listeners" if json_wanted => Answer::json(text::listeners_json(shared)),
        "/listeners" => Answer::text(StatusCode::OK, text::listeners(shared)),
        "/stats/prometheus" => stats::prometheus(shared, query),
        "/stats" => stats::answer(shared, query),
        "/stats/recentlookups" => Answer::text(StatusCode::OK, NO_LOOKUPS),
        "/certs" => Answer::json(text::certs(shared)),
        "/config_dump" => dump.answer(shared, query),
        "/memory" => Answer::json(memory()),
        "/runtime" => Answer::json(json!({"layers": [], "entries": {}})),
        "/init_dump" => Answer::json(json!({})),
        "/hot_restart_version" => Answer::text(StatusCode::OK, "disabled"),
        "/contention" => Answer::text(StatusCode::OK, NO_CONTENTION),
        _ => Answer::text(StatusCode::NOT_FOUND, format!("invalid path. {HELP}")),
    }
}

/// Carries out what was asked by POST.
fn change(shared: &Arc<Shared>, path: &str, query: &str) -> Answer {
    match path {
        "/logging" => return logging(query),
        "/runtime_modify" => {
            return Answer::text(StatusCode::SERVICE_UNAVAILABLE, "No admin layer specified");
        }
        "/quitquitquit" => {
            shared.set_drain(Drain::Graceful);
            shared.quit.notify_one();
        }
        "/drain_listeners" => drain_listeners(shared, query),
        "/healthcheck/fail" => shared.health_failed.store(true, Ordering::Relaxed),
        "/healthcheck/ok" => shared.health_failed.store(false, Ordering::Relaxed),
        // Files are opened for each batch of lines: what waits goes to the old one, what comes to the new one.
        "/reopen_logs" => shared.logs.flush(),
        "/reset_counters" => stats::reset(shared),
        _ => {}
    }
    Answer::text(StatusCode::OK, "OK\n")
}

/// Stops accepting, at once or after a drain sequence.
fn drain_listeners(shared: &Arc<Shared>, query: &str) {
    let asked = |name| parameter(query, name).is_some();
    let scope = if asked("inboundonly") {
        Scope::Inbound
    } else {
        Scope::All
    };
    if !asked("graceful") && !asked("skip_exit") {
        return shared.listeners.close(scope);
    }
    if shared.sequences.begin(scope) && !asked("skip_exit") {
        shared.sequences.stop_afterwards(scope);
    }
}

/// The raw value of a query parameter; empty when it has none.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| {
        let (have, value) = pair.split_once('=').unwrap_or((pair, ""));
        (have == name).then_some(value)
    })
}

/// A query parameter with `%XX` and `+` decoded.
fn decoded(query: &str, name: &str) -> Option<String> {
    let raw = parameter(query, name)?.replace('+', " ");
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let [first, tail @ ..] = rest {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                out.push(byte);
                rest = &tail[2..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

fn state_name(shared: &Shared) -> &'static str {
    let failed = shared.health_failed.load(Ordering::Relaxed);
    match (shared.live.load(Ordering::Acquire), shared.drain_state()) {
        (_, Drain::Graceful | Drain::Closing | Drain::Forced) => "DRAINING",
        (true, Drain::Off) if failed => "DRAINING",
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
    stats::prometheus(shared, "")
}

fn server_info(shared: &Shared) -> Value {
    let seconds = shared.uptime().as_secs();
    json!({
        "version": format!("meltemi/{}", env!("CARGO_PKG_VERSION")),
        "state": state_name(shared),
        "hot_restart_version": "disabled",
        "uptime_current_epoch": format!("{seconds}s"),
        "uptime_all_epochs": format!("{seconds}s"),
        "command_line_options": {
            "concurrency": shared.concurrency,
            "mode": "Serve",
            "disable_hot_restart": true,
            "restart_epoch": 0,
        },
        "node": {
            "id": shared.node.id.as_str(),
            "cluster": shared.node.cluster.as_str(),
            "user_agent_name": "meltemi",
        },
    })
}

fn memory() -> Value {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let bytes = |key: &str| (kib(key).unwrap_or_default() * 1024).to_string();
    json!({
        "allocated": bytes("RssAnon:"),
        "heap_size": bytes("VmData:"),
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": bytes("VmRSS:"),
    })
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
        Err(error) => {
            let why = match &error {
                LogError::Level { .. } => "unknown logger level",
                LogError::Scope { .. } => "unknown logger name",
                _ => "invalid argument",
            };
            let listing = handle.admin("").unwrap_or_default();
            let text = format!("error: {why}\n\n{LOGGING}{listing}");
            Answer::text(StatusCode::BAD_REQUEST, text)
        }
    }
}

#[cfg(test)]
mod tests;
