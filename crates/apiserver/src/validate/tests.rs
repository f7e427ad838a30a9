use super::*;
use crate::kinds::Registry;

fn resource(group: &str, plural: &str) -> std::sync::Arc<Resource> {
    std::sync::Arc::clone(
        Registry::builtin()
            .find(group, "v1", plural)
            .expect("served"),
    )
}

fn created(group: &str, plural: &str, mut object: Value) -> Vec<String> {
    let resource = resource(group, plural);
    decode(&resource, &mut object).expect("decodes");
    default(&resource, &mut object);
    prepare_create(&resource, &mut object);
    create(&resource, &object)
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "a", "image": "x"}]}}}})
}

#[test]
fn a_good_deployment_passes() {
    assert_eq!(
        created("apps", "deployments", deployment()),
        Vec::<String>::new()
    );
}

#[test]
fn a_selector_that_misses_the_template_is_refused() {
    let mut object = deployment();
    object["spec"]["template"]["metadata"]["labels"] = json!({"app": "other"});
    assert_eq!(
        created("apps", "deployments", object),
        [
            "spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`"
        ]
    );
}

#[test]
fn a_pod_without_image_or_with_an_unknown_mount_is_refused() {
    let errors = created(
        "",
        "pods",
        json!({"metadata": {"name": "p"}, "spec": {"restartPolicy": "Sometimes",
        "containers": [{"name": "a", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}, {"name": "a", "image": "x"}]}}),
    );
    assert_eq!(
        errors,
        [
            "spec.containers[0].image: Required value",
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            "spec.containers[1].name: Duplicate value: \"a\"",
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \"OnFailure\"",
        ]
    );
}

#[test]
fn a_deployments_selector_is_immutable() {
    let deployments = resource("apps", "deployments");
    let mut old = deployment();
    default(&deployments, &mut old);
    let mut new = old.clone();
    new["spec"]["selector"]["matchLabels"]["tier"] = json!("x");
    new["spec"]["template"]["metadata"]["labels"]["tier"] = json!("x");
    let errors = update(&deployments, "", &new, &old);
    assert_eq!(errors.len(), 1);
    assert_eq!(
        errors[0].to_string(),
        "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"web\",\"tier\":\"x\"}}: field is immutable"
    );
}

#[test]
fn a_running_pod_may_change_its_image_and_little_else() {
    let pods = resource("", "pods");
    let mut old =
        json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "x:1"}]}});
    default(&pods, &mut old);
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = json!("x:2");
    assert!(update(&pods, "", &new, &old).is_empty());
    new["spec"]["containers"][0]["command"] = json!(["sh"]);
    assert!(
        update(&pods, "", &new, &old)[0]
            .message
            .starts_with("Forbidden: pod updates may not change fields other than")
    );
}

#[test]
fn a_service_needs_ports_with_names_when_several() {
    let service = |spec: Value| {
        created(
            "",
            "services",
            json!({"metadata": {"name": "s"}, "spec": spec}),
        )
    };
    assert_eq!(service(json!({})), ["spec.ports: Required value"]);
    assert_eq!(service(json!({"clusterIP": "None"})), Vec::<String>::new());
    assert_eq!(
        service(json!({"ports": [{"port": 80}, {"port": 70000, "name": "b"}]})),
        [
            "spec.ports[0].name: Required value",
            "spec.ports[1].port: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.ports[1].targetPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ]
    );
}

#[test]
fn a_service_keeps_its_cluster_ip() {
    let services = resource("", "services");
    let old = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80}]}});
    let mut new = old.clone();
    new["spec"]["clusterIP"] = json!("10.96.0.10");
    let errors = update(&services, "", &new, &old);
    assert_eq!(
        errors[0].to_string(),
        "spec.clusterIPs[0]: Invalid value: [\"10.96.0.10\"]: may not change once set"
    );
}

#[test]
fn an_immutable_config_map_stays_as_it_is() {
    let maps = resource("", "configmaps");
    let old = json!({"metadata": {"name": "c"}, "immutable": true, "data": {"a": "1"}});
    let mut new = old.clone();
    new["data"]["a"] = json!("2");
    assert_eq!(
        update(&maps, "", &new, &old)[0].to_string(),
        "data: Forbidden: field is immutable when `immutable` is set"
    );
}

#[test]
fn a_binding_keeps_its_role() {
    let bindings = resource("rbac.authorization.k8s.io", "rolebindings");
    let old = json!({"metadata": {"name": "b"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}});
    let mut new = old.clone();
    new["roleRef"]["name"] = json!("q");
    assert!(
        update(&bindings, "", &new, &old)[0]
            .message
            .ends_with("cannot change roleRef")
    );
}

#[test]
fn a_webhook_must_say_its_side_effects() {
    let errors = created(
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
        json!({"metadata": {"name": "w"}, "webhooks": [{"name": "a.b.c", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://x"}}]}),
    );
    assert_eq!(
        errors,
        ["webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun"]
    );
}
