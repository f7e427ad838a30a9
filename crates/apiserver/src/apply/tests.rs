use super::*;
use crate::kinds::Registry;

const NOW: &str = "2026-01-01T00:00:00Z";

fn by(manager: &'static str) -> Writer<'static> {
    Writer {
        manager,
        subresource: "",
        now: NOW,
    }
}

fn deployments() -> std::sync::Arc<Resource> {
    std::sync::Arc::clone(
        Registry::builtin()
            .find("apps", "v1", "deployments")
            .expect("served"),
    )
}

fn config(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"}, "spec": spec})
}

fn containers(list: Value) -> Value {
    json!({"template": {"spec": {"containers": list}}})
}

fn applied(live: Option<&Value>, spec: Value, manager: &'static str) -> Value {
    apply(&deployments(), live, &config(spec), false, by(manager)).expect("applies")
}

#[test]
fn a_first_apply_creates_and_owns_what_it_names() {
    let object = applied(
        None,
        json!({"replicas": 2, "template": {"spec": {"containers": [{"name": "a", "image": "x", "args": ["1"]}]}}}),
        "me",
    );
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{"manager": "me", "operation": "Apply", "apiVersion": "apps/v1", "time": NOW, "fieldsType": "FieldsV1", "fieldsV1": {
            "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers": {
                "k:{\"name\":\"a\"}": {".": {}, "f:args": {}, "f:image": {}, "f:name": {}}}}}}}}])
    );
}

#[test]
fn what_an_applier_leaves_out_goes_and_the_rest_stays() {
    let first = applied(None, json!({"replicas": 2, "paused": true}), "me");
    let mut live = first;
    live["spec"]["revisionHistoryLimit"] = json!(10);
    let second = applied(Some(&live), json!({"replicas": 2}), "me");
    assert_eq!(
        second["spec"],
        json!({"replicas": 2, "revisionHistoryLimit": 10})
    );
}

#[test]
fn two_appliers_share_a_list_by_its_keys() {
    let first = applied(
        None,
        containers(json!([{"name": "a", "image": "x"}])),
        "one",
    );
    let second = applied(
        Some(&first),
        containers(json!([{"name": "b", "image": "y"}])),
        "two",
    );
    let names: Vec<&str> = second["spec"]["template"]["spec"]["containers"]
        .as_array()
        .expect("list")
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    let third = applied(Some(&second), json!({"paused": true}), "two");
    assert_eq!(
        third["spec"]["template"]["spec"]["containers"],
        json!([{"name": "a", "image": "x"}])
    );
}

#[test]
fn a_field_of_another_manager_is_a_conflict_unless_forced() {
    let first = applied(None, json!({"replicas": 2}), "one");
    let error = apply(
        &deployments(),
        Some(&first),
        &config(json!({"replicas": 3})),
        false,
        by("two"),
    )
    .expect_err("conflict");
    let ApplyError::Conflicts(conflicts) = error else {
        panic!("conflicts")
    };
    assert_eq!(
        conflict_status(&conflicts)["message"],
        "Apply failed with 1 conflict: conflict with \"one\": .spec.replicas"
    );
    let forced = apply(
        &deployments(),
        Some(&first),
        &config(json!({"replicas": 3})),
        true,
        by("two"),
    )
    .expect("forced");
    assert_eq!(forced["spec"]["replicas"], 3);
    let managers = forced["metadata"]["managedFields"]
        .as_array()
        .expect("managers");
    assert_eq!(managers.len(), 1, "the other one owns nothing any more");
    assert_eq!(managers[0]["manager"], "two");
}

#[test]
fn the_same_value_is_shared_without_conflict() {
    let first = applied(None, json!({"replicas": 2}), "one");
    let second = applied(Some(&first), json!({"replicas": 2}), "two");
    assert_eq!(
        second["metadata"]["managedFields"].as_array().map(Vec::len),
        Some(2)
    );
}

#[test]
fn an_update_takes_what_it_changes_and_conflicts_with_a_later_apply() {
    let first = applied(None, json!({"replicas": 2, "paused": true}), "one");
    let mut scaled = first.clone();
    scaled["spec"]["replicas"] = json!(5);
    track_update(
        &deployments(),
        Some(&first),
        &mut scaled,
        by("kubectl-scale"),
    );
    let managers = scaled["metadata"]["managedFields"]
        .as_array()
        .expect("managers");
    assert_eq!(managers[0]["fieldsV1"], json!({"f:spec": {"f:paused": {}}}));
    assert_eq!(
        managers[1]["fieldsV1"],
        json!({"f:spec": {"f:replicas": {}}})
    );
    let error = apply(
        &deployments(),
        Some(&scaled),
        &config(json!({"replicas": 2})),
        false,
        by("one"),
    )
    .expect_err("conflict");
    let ApplyError::Conflicts(conflicts) = error else {
        panic!("conflicts")
    };
    assert_eq!(
        conflict_status(&conflicts)["message"],
        "Apply failed with 1 conflict: conflict with \"kubectl-scale\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn a_create_is_tracked_and_an_update_without_change_changes_nothing() {
    let mut object = config(json!({"replicas": 1, "selector": {"matchLabels": {"a": "b"}}}));
    object["metadata"]["labels"] = json!({"app": "web"});
    track_update(&deployments(), None, &mut object, by("kubectl-create"));
    assert_eq!(
        object["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, "f:spec": {"f:replicas": {}, "f:selector": {}}})
    );
    let mut same = object.clone();
    let later = Writer {
        now: "2026-01-01T00:00:09Z",
        ..by("kubectl-create")
    };
    track_update(&deployments(), Some(&object), &mut same, later);
    assert_eq!(same, object);
}

#[test]
fn an_object_without_record_is_adopted() {
    let live = config(json!({"replicas": 1}));
    let error = apply(
        &deployments(),
        Some(&live),
        &config(json!({"replicas": 2})),
        false,
        by("me"),
    )
    .expect_err("conflict");
    let ApplyError::Conflicts(conflicts) = error else {
        panic!("conflicts")
    };
    assert_eq!(conflicts[0].manager, "before-first-apply");
}

#[test]
fn ports_without_protocol_are_tcp() {
    let live = applied(
        None,
        containers(json!([{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}])),
        "me",
    );
    let again = applied(
        Some(&live),
        containers(json!([{"name": "a", "ports": [{"containerPort": 80, "name": "http"}]}])),
        "me",
    );
    let ports = &again["spec"]["template"]["spec"]["containers"][0]["ports"];
    assert_eq!(ports.as_array().map(Vec::len), Some(1));
    assert_eq!(ports[0]["name"], "http");
}
