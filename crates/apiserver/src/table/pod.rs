//! The pod row: what a user reads first.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age;
use super::format::{list, number, or_none, text};

/// What the container states add up to.
struct Summary<'a> {
    ready: i64,
    total: i64,
    restarts: i64,
    last_restart: Option<&'a str>,
    reason: String,
}

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = summarize(pod);
    let restarts = match summary.last_restart {
        Some(time) if summary.restarts != 0 => {
            format!("{} ({} ago)", summary.restarts, age::since_text(time, now))
        }
        _ => summary.restarts.to_string(),
    };
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let ip = list(&status["podIPs"])
        .next()
        .map_or(&status["podIP"], |ip| &ip["ip"]);
    vec![
        pod["metadata"]["name"].clone(),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.reason),
        json!(restarts),
        json!(age::since(&pod["metadata"]["creationTimestamp"], now)),
        json!(or_none(ip)),
        json!(or_none(&spec["nodeName"])),
        json!(or_none(&status["nominatedNodeName"])),
        json!(readiness_gates(pod)),
    ]
}

fn summarize(pod: &Value) -> Summary<'_> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let mut summary = Summary {
        ready: 0,
        total: list(&spec["containers"]).count() as i64
            + list(&spec["initContainers"])
                .filter(|c| is_sidecar(c))
                .count() as i64,
        restarts: 0,
        last_restart: None,
        reason: first_text(&[&status["reason"], &status["phase"]]),
    };
    if has_condition(status, "PodScheduled", |c| c["reason"] == "SchedulingGated") {
        summary.reason = "SchedulingGated".to_owned();
    }
    let (initializing, sidecar_restarts, sidecar_last) = init_containers(pod, &mut summary);
    if !initializing || has_condition(status, "Initialized", |c| c["status"] == "True") {
        summary.restarts = sidecar_restarts;
        summary.last_restart = sidecar_last;
        containers(status, &mut summary);
    }
    let deleted = !pod["metadata"]["deletionTimestamp"].is_null();
    if deleted && status["reason"] == "NodeLost" {
        summary.reason = "Unknown".to_owned();
    } else if deleted && !matches!(text(&status["phase"]), "Failed" | "Succeeded") {
        summary.reason = "Terminating".to_owned();
    }
    summary
}

fn first_text(values: &[&Value]) -> String {
    values
        .iter()
        .map(|v| text(v))
        .find(|t| !t.is_empty())
        .unwrap_or_default()
        .to_owned()
}

fn is_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

fn has_condition(status: &Value, kind: &str, test: impl Fn(&Value) -> bool) -> bool {
    list(&status["conditions"]).any(|c| c["type"] == kind && test(c))
}

/// Returns whether initialization goes on, and the restarts of sidecars with the last one's time.
fn init_containers<'a>(pod: &'a Value, summary: &mut Summary<'a>) -> (bool, i64, Option<&'a str>) {
    let specs = &pod["spec"]["initContainers"];
    let (mut sidecar_restarts, mut sidecar_last) = (0, None);
    for (i, container) in list(&pod["status"]["initContainerStatuses"]).enumerate() {
        let restarts = number(&container["restartCount"]);
        let last = last_finish(container);
        summary.restarts += restarts;
        summary.last_restart = summary.last_restart.max(last);
        let sidecar = list(specs).any(|s| s["name"] == container["name"] && is_sidecar(s));
        if sidecar {
            sidecar_restarts += restarts;
            sidecar_last = sidecar_last.max(last);
        }
        let (terminated, waiting) = (
            &container["state"]["terminated"],
            &container["state"]["waiting"],
        );
        if terminated.is_object() && number(&terminated["exitCode"]) == 0 {
            continue;
        }
        if sidecar && container["started"] == true {
            summary.ready += i64::from(container["ready"] == true);
            continue;
        }
        summary.reason = if terminated.is_object() {
            format!("Init:{}", exit_reason(terminated))
        } else if !matches!(text(&waiting["reason"]), "" | "PodInitializing") {
            format!("Init:{}", text(&waiting["reason"]))
        } else {
            format!("Init:{i}/{}", list(specs).count())
        };
        return (true, sidecar_restarts, sidecar_last);
    }
    (false, sidecar_restarts, sidecar_last)
}

fn exit_reason(terminated: &Value) -> String {
    match text(&terminated["reason"]) {
        "" if number(&terminated["signal"]) != 0 => {
            format!("Signal:{}", number(&terminated["signal"]))
        }
        "" => format!("ExitCode:{}", number(&terminated["exitCode"])),
        reason => reason.to_owned(),
    }
}

fn containers<'a>(status: &'a Value, summary: &mut Summary<'a>) {
    let mut running = false;
    for container in list(&status["containerStatuses"]).rev() {
        summary.restarts += number(&container["restartCount"]);
        summary.last_restart = summary.last_restart.max(last_finish(container));
        let state = &container["state"];
        if !text(&state["waiting"]["reason"]).is_empty() {
            summary.reason = text(&state["waiting"]["reason"]).to_owned();
        } else if state["terminated"].is_object() {
            summary.reason = exit_reason(&state["terminated"]);
        } else if container["ready"] == true && state["running"].is_object() {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        let ready = has_condition(status, "Ready", |c| c["status"] == "True");
        summary.reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

/// When a container's last run ended; RFC 3339 in UTC sorts as text.
fn last_finish(container: &Value) -> Option<&str> {
    container["lastState"]["terminated"]["finishedAt"].as_str()
}

fn readiness_gates(pod: &Value) -> String {
    let gates: Vec<&str> = list(&pod["spec"]["readinessGates"])
        .map(|g| text(&g["conditionType"]))
        .collect();
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let passed = |gate: &&&str| has_condition(&pod["status"], gate, |c| c["status"] == "True");
    format!("{}/{}", gates.iter().filter(passed).count(), gates.len())
}
