//! Rows of the kinds that own pods.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age;
use super::format::{containers, labels, list, number, or_none, selector, text};

pub(super) fn cells(kind: &str, object: &Value, now: Timestamp) -> Vec<Value> {
    match kind {
        "Deployment" => deployment(object, now),
        "ReplicaSet" => replica_set(object, now),
        "StatefulSet" => stateful_set(object, now),
        "DaemonSet" => daemon_set(object, now),
        "Job" => job(object, now),
        "CronJob" => cron_job(object, now),
        _ => controller_revision(object, now),
    }
}

fn name(object: &Value) -> Value {
    object["metadata"]["name"].clone()
}

fn created(object: &Value, now: Timestamp) -> Value {
    json!(age::since(&object["metadata"]["creationTimestamp"], now))
}

/// Containers, images and selector: the wide columns.
fn wide(object: &Value) -> [Value; 3] {
    let (spec, template) = (&object["spec"], &object["spec"]["template"]["spec"]);
    [
        json!(containers(template, "name")),
        json!(containers(template, "image")),
        json!(selector(&spec["selector"])),
    ]
}

fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let mut out = vec![
        name(object),
        json!(format!(
            "{}/{}",
            number(&status["readyReplicas"]),
            number(&spec["replicas"])
        )),
        json!(number(&status["updatedReplicas"])),
        json!(number(&status["availableReplicas"])),
        created(object, now),
    ];
    out.extend(wide(object));
    out
}

pub(super) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let mut out = vec![
        name(object),
        json!(number(&spec["replicas"])),
        json!(number(&status["replicas"])),
        json!(number(&status["readyReplicas"])),
        created(object, now),
    ];
    out.extend(wide(object));
    if object["kind"] == "ReplicationController"
        && let Some(last) = out.last_mut()
    {
        *last = json!(labels(&spec["selector"]));
    }
    out
}

fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = format!(
        "{}/{}",
        number(&object["status"]["readyReplicas"]),
        number(&object["spec"]["replicas"])
    );
    let [names, images, _] = wide(object);
    vec![
        name(object),
        json!(ready),
        created(object, now),
        names,
        images,
    ]
}

fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = &object["status"];
    let mut out = vec![name(object)];
    for key in [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ] {
        out.push(json!(number(&status[key])));
    }
    out.push(json!(labels(
        &object["spec"]["template"]["spec"]["nodeSelector"]
    )));
    out.push(created(object, now));
    out.extend(wide(object));
    out
}

fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let succeeded = number(&status["succeeded"]);
    let completions = match (spec["completions"].as_i64(), number(&spec["parallelism"])) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let duration = match (
        status["startTime"].as_str(),
        status["completionTime"].as_str(),
    ) {
        (None, _) => String::new(),
        (Some(start), None) => age::since_text(start, now),
        (Some(_), Some(_)) => age::between(&status["startTime"], &status["completionTime"])
            .map_or_else(String::new, age::human),
    };
    let mut out = vec![
        name(object),
        json!(job_status(object)),
        json!(completions),
        json!(duration),
        created(object, now),
    ];
    out.extend(wide(object));
    out
}

fn job_status(object: &Value) -> &'static str {
    let is = |kind: &str| {
        list(&object["status"]["conditions"]).any(|c| c["type"] == kind && c["status"] == "True")
    };
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if !object["metadata"]["deletionTimestamp"].is_null() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

fn cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let last = match status["lastScheduleTime"].as_str() {
        Some(time) => age::since_text(time, now),
        None => "<none>".to_owned(),
    };
    let template = &spec["jobTemplate"]["spec"];
    vec![
        name(object),
        json!(text(&spec["schedule"])),
        json!(or_none(&spec["timeZone"])),
        json!(if spec["suspend"] == true {
            "True"
        } else {
            "False"
        }),
        json!(list(&status["active"]).count()),
        json!(last),
        created(object, now),
        json!(containers(&template["template"]["spec"], "name")),
        json!(containers(&template["template"]["spec"], "image")),
        json!(selector(&template["selector"])),
    ]
}

fn controller_revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let owner = list(&object["metadata"]["ownerReferences"]).find(|o| o["controller"] == true);
    let controller = owner.map_or_else(
        || "<none>".to_owned(),
        |o| {
            let group = crate::kinds::split_api_version(text(&o["apiVersion"])).0;
            format!(
                "{}.{group}/{}",
                text(&o["kind"]).to_lowercase(),
                text(&o["name"])
            )
        },
    );
    vec![
        name(object),
        json!(controller),
        json!(number(&object["revision"])),
        created(object, now),
    ]
}
