use super::*;
use crate::kinds::Registry;

fn now() -> Timestamp {
    "2026-01-01T01:00:00Z".parse().expect("a time")
}

fn cells_of(group: &str, plural: &str, object: &Value) -> Vec<Value> {
    let registry = Registry::builtin();
    let resource = registry.find(group, "v1", plural).expect("served");
    let cells = cells(resource, object, now());
    assert_eq!(
        cells.len(),
        columns(resource).len(),
        "a cell for every column"
    );
    cells
}

fn texts(cells: &[Value]) -> Vec<String> {
    cells
        .iter()
        .map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned))
        .collect()
}

fn pod(status: Value) -> Value {
    json!({"kind": "Pod", "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:55:00Z"},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}], "nodeName": "n"},
        "status": status})
}

#[test]
fn a_running_pod_with_a_restart_shows_when_it_was() {
    let object = pod(
        json!({"phase": "Running", "podIP": "10.0.0.1", "initContainerStatuses": [{"name": "i", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}],
        "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 1, "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2026-01-01T00:59:55Z"}}},
            {"name": "b", "ready": true, "restartCount": 0, "state": {"running": {}}}]}),
    );
    assert_eq!(
        texts(&cells_of("", "pods", &object)),
        [
            "p",
            "2/2",
            "Running",
            "1 (5s ago)",
            "5m",
            "10.0.0.1",
            "n",
            "<none>",
            "<none>"
        ]
    );
}

#[test]
fn a_pod_shows_what_keeps_it_from_running() {
    let status = |status: Value| texts(&cells_of("", "pods", &pod(status)))[1..3].to_vec();
    assert_eq!(status(json!({"phase": "Pending"})), ["0/2", "Pending"]);
    assert_eq!(
        status(
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]})
        ),
        ["0/2", "Init:0/1"]
    );
    assert_eq!(
        status(
            json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]})
        ),
        ["0/2", "Init:CrashLoopBackOff"]
    );
    assert_eq!(
        status(
            json!({"phase": "Running", "containerStatuses": [{"ready": false, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}, {"ready": true, "state": {"running": {}}}]})
        ),
        ["1/2", "CrashLoopBackOff"]
    );
    let mut deleted = pod(json!({"phase": "Running"}));
    deleted["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:00Z");
    assert_eq!(texts(&cells_of("", "pods", &deleted))[2], "Terminating");
}

#[test]
fn services_show_their_addresses_and_ports() {
    let mut object = json!({"metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.5", "selector": {"b": "2", "a": "1"},
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}, "status": {"loadBalancer": {}}});
    assert_eq!(
        texts(&cells_of("", "services", &object)),
        [
            "s",
            "LoadBalancer",
            "10.96.0.5",
            "<pending>",
            "80:30080/TCP,53/UDP",
            "60m",
            "a=1,b=2"
        ]
    );
    object["status"]["loadBalancer"]["ingress"] = json!([{"ip": "172.18.255.200"}]);
    assert_eq!(
        texts(&cells_of("", "services", &object))[3],
        "172.18.255.200"
    );
}

#[test]
fn deployments_and_jobs_show_progress() {
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "d"}},
        "template": {"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "b", "image": "y"}]}}},
        "status": {"readyReplicas": 1, "updatedReplicas": 3, "availableReplicas": 1}});
    assert_eq!(
        texts(&cells_of("apps", "deployments", &deployment)),
        ["d", "1/3", "3", "1", "<unknown>", "a,b", "x:1,y", "app=d"]
    );
    let job = json!({"metadata": {"name": "j"}, "spec": {"completions": 1, "template": {"spec": {}}},
        "status": {"succeeded": 1, "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:09Z",
            "conditions": [{"type": "Complete", "status": "True"}]}});
    assert_eq!(
        texts(&cells_of("batch", "jobs", &job))[1..4],
        ["Complete", "1/1", "9s"]
    );
}

#[test]
fn an_event_is_told_by_its_object() {
    let event = json!({"metadata": {"name": "e"}, "lastTimestamp": "2026-01-01T00:59:50Z", "type": "Warning", "reason": "BackOff",
        "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{a}"}, "message": "again ", "count": 4,
        "source": {"component": "kubelet", "host": "n"}});
    assert_eq!(
        texts(&cells_of("", "events", &event)),
        [
            "10s",
            "Warning",
            "BackOff",
            "pod/p",
            "spec.containers{a}",
            "kubelet, n",
            "again",
            "<unknown>",
            "4",
            "e"
        ]
    );
}

#[test]
fn every_kind_has_as_many_cells_as_columns() {
    for resource in Registry::builtin().iter() {
        let object = json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": {"name": "x"}});
        let cells = cells(resource, &object, now());
        assert_eq!(cells.len(), columns(resource).len(), "{}", resource.kind);
    }
}

#[test]
fn a_table_carries_metadata_only_when_asked() {
    let registry = Registry::builtin();
    let resource = registry.find("", "v1", "configmaps").expect("served");
    let object = json!({"metadata": {"name": "c"}, "data": {"a": "b"}});
    let with = table(
        resource,
        [&object],
        &json!({"resourceVersion": "7"}),
        IncludeObject::Metadata,
        now(),
    );
    assert_eq!(with["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(with["rows"][0]["cells"][1], 1);
    assert_eq!(with["metadata"]["resourceVersion"], "7");
    let without = table(resource, [&object], &json!({}), IncludeObject::None, now());
    assert!(without["rows"][0]["object"].is_null());
}
