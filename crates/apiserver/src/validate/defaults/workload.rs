//! Defaults of the kinds that own pods.

use serde_json::{Value, json};

use super::{ensure, pod, set};

/// A kind of `apps` or `batch`, or a ReplicationController.
pub(super) fn workload(object: &mut Value, kind: &str) {
    match kind {
        "CronJob" => return cron_job(object),
        "ControllerRevision" => return,
        _ => {}
    }
    if let Some(template) = object
        .get_mut("spec")
        .and_then(|s| s.get_mut("template"))
        .filter(|t| t.is_object())
    {
        pod::pod_spec(ensure(template, "spec"));
    }
    let template_labels = object["spec"]["template"]["metadata"]["labels"].clone();
    if matches!(kind, "ReplicaSet" | "DaemonSet" | "ReplicationController")
        && template_labels.is_object()
    {
        let metadata = ensure(object, "metadata");
        if metadata["labels"]
            .as_object()
            .is_none_or(serde_json::Map::is_empty)
        {
            metadata["labels"] = template_labels.clone();
        }
    }
    let spec = ensure(object, "spec");
    match kind {
        "Deployment" => deployment(spec),
        "ReplicaSet" => set(spec, "replicas", json!(1)),
        "ReplicationController" => {
            set(spec, "replicas", json!(1));
            if template_labels.is_object() {
                set(spec, "selector", template_labels);
            }
        }
        "StatefulSet" => stateful_set(spec),
        "DaemonSet" => daemon_set(spec),
        "Job" => job(spec),
        _ => {}
    }
}

fn deployment(spec: &mut Value) {
    set(spec, "replicas", json!(1));
    let strategy = ensure(spec, "strategy");
    set(strategy, "type", json!("RollingUpdate"));
    if strategy["type"] == "RollingUpdate" {
        let rolling = ensure(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", json!("25%"));
        set(rolling, "maxSurge", json!("25%"));
    }
    set(spec, "revisionHistoryLimit", json!(10));
    set(spec, "progressDeadlineSeconds", json!(600));
}

fn stateful_set(spec: &mut Value) {
    set(spec, "podManagementPolicy", json!("OrderedReady"));
    let strategy = ensure(spec, "updateStrategy");
    set(strategy, "type", json!("RollingUpdate"));
    if strategy["type"] == "RollingUpdate" {
        set(ensure(strategy, "rollingUpdate"), "partition", json!(0));
    }
    let retention = ensure(spec, "persistentVolumeClaimRetentionPolicy");
    set(retention, "whenDeleted", json!("Retain"));
    set(retention, "whenScaled", json!("Retain"));
    set(spec, "replicas", json!(1));
    set(spec, "revisionHistoryLimit", json!(10));
}

fn daemon_set(spec: &mut Value) {
    let strategy = ensure(spec, "updateStrategy");
    set(strategy, "type", json!("RollingUpdate"));
    if strategy["type"] == "RollingUpdate" {
        let rolling = ensure(strategy, "rollingUpdate");
        set(rolling, "maxUnavailable", json!(1));
        set(rolling, "maxSurge", json!(0));
    }
    set(spec, "revisionHistoryLimit", json!(10));
}

fn job(spec: &mut Value) {
    if spec.get("completions").is_none() && spec.get("parallelism").is_none() {
        set(spec, "completions", json!(1));
    }
    set(spec, "parallelism", json!(1));
    set(spec, "backoffLimit", json!(6));
    set(spec, "completionMode", json!("NonIndexed"));
    set(spec, "suspend", json!(false));
    set(spec, "manualSelector", json!(false));
    let policy = if spec["podFailurePolicy"].is_object() {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    set(spec, "podReplacementPolicy", json!(policy));
}

fn cron_job(object: &mut Value) {
    let spec = ensure(object, "spec");
    set(spec, "concurrencyPolicy", json!("Allow"));
    set(spec, "suspend", json!(false));
    set(spec, "successfulJobsHistoryLimit", json!(3));
    set(spec, "failedJobsHistoryLimit", json!(1));
    let template = spec
        .get_mut("jobTemplate")
        .and_then(|t| t.get_mut("spec"))
        .and_then(|s| s.get_mut("template"));
    if let Some(template) = template.filter(|t| t.is_object()) {
        pod::pod_spec(ensure(template, "spec"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_rolls_a_quarter_at_a_time() {
        let mut object =
            json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "x"}]}}}});
        workload(&mut object, "Deployment");
        assert_eq!(object["spec"]["replicas"], 1);
        assert_eq!(
            object["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(
            object["spec"]["template"]["spec"]["restartPolicy"],
            "Always"
        );
        assert_eq!(
            object["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"],
            "Always"
        );
    }

    #[test]
    fn recreate_has_no_rolling_update() {
        let mut object = json!({"spec": {"strategy": {"type": "Recreate"}}});
        workload(&mut object, "Deployment");
        assert_eq!(object["spec"]["strategy"], json!({"type": "Recreate"}));
    }
}
