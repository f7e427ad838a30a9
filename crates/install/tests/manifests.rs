//! The manifests as a whole.

use std::collections::BTreeSet;

use meltemi_install::{Values, manifests};
use serde_json::{Value, json};

fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects
        .iter()
        .find(|o| o["kind"] == kind && o["metadata"]["name"] == name);
    found.unwrap_or_else(|| unreachable!("{kind} {name} is missing"))
}

#[test]
fn every_object_comes_after_what_it_refers_to() {
    let objects = manifests(&Values::default());
    assert_eq!(objects[0]["kind"], "Namespace");
    let mut seen = BTreeSet::new();
    for object in &objects {
        let text = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        if let Some(namespace) = object["metadata"]["namespace"].as_str() {
            assert!(seen.contains(&("Namespace".to_owned(), namespace.to_owned())));
        }
        for (kind, pointer) in [
            ("ServiceAccount", "/spec/template/spec/serviceAccountName"),
            ("ServiceAccount", "/subjects/0/name"),
            ("Service", "/webhooks/0/clientConfig/service/name"),
        ] {
            let name = text(pointer);
            assert!(
                name.is_empty() || seen.contains(&(kind.to_owned(), name.clone())),
                "{kind} {name}"
            );
        }
        let identity = (text("/kind"), text("/metadata/name"));
        assert!(seen.insert(identity.clone()), "{identity:?} is there twice");
    }
}

#[test]
fn services_reach_ports_that_their_pods_open() {
    let objects = manifests(&Values::default());
    for name in ["istiod", "istio-ingressgateway"] {
        let service = object(&objects, "Service", name);
        let template = &object(&objects, "Deployment", name)["spec"]["template"];
        for (key, value) in service["spec"]["selector"].as_object().expect("a selector") {
            assert_eq!(&template["metadata"]["labels"][key], value, "{name} {key}");
        }
        let open: Vec<&Value> = template["spec"]["containers"][0]["ports"]
            .as_array()
            .expect("ports")
            .iter()
            .map(|p| &p["containerPort"])
            .collect();
        for port in service["spec"]["ports"].as_array().expect("ports") {
            assert!(open.contains(&&port["targetPort"]), "{name} {port}");
        }
    }
}

#[test]
fn the_gateway_starts_without_the_webhook() {
    let objects = manifests(&Values::default());
    let pod = &object(&objects, "Deployment", "istio-ingressgateway")["spec"]["template"];
    let proxy = &pod["spec"]["containers"][0];
    assert_eq!(proxy["args"][1], "router");
    assert_ne!(proxy["image"], "auto");
    assert_eq!(
        pod["metadata"]["labels"]["sidecar.istio.io/inject"],
        "false"
    );
    let env = proxy["env"].as_array().expect("variables");
    let owner = env
        .iter()
        .find(|e| e["name"] == "ISTIO_META_OWNER")
        .expect("an owner");
    let expected =
        "kubernetes://apis/apps/v1/namespaces/istio-system/deployments/istio-ingressgateway";
    assert_eq!(owner["value"], expected);
}

/// Whether a webhook's selectors let a pod through.
fn selects(webhook: &Value, namespace: &Value, pod: &Value) -> bool {
    let holds = |requirement: &Value, labels: &Value| {
        let value = &labels[requirement["key"].as_str().unwrap_or_default()];
        let listed = requirement["values"]
            .as_array()
            .is_some_and(|v| v.contains(value));
        match requirement["operator"].as_str() {
            Some("In") => listed,
            Some("NotIn") => !listed,
            Some("Exists") => !value.is_null(),
            _ => value.is_null(),
        }
    };
    let all = |selector: &str, labels: &Value| {
        webhook[selector]["matchExpressions"]
            .as_array()
            .expect("conditions")
            .iter()
            .all(|r| holds(r, labels))
    };
    all("namespaceSelector", namespace) && all("objectSelector", pod)
}

#[test]
fn at_most_one_webhook_selects_a_pod_and_labels_decide_which() {
    let objects = manifests(&Values::default());
    let configuration = object(
        &objects,
        "MutatingWebhookConfiguration",
        "istio-sidecar-injector",
    );
    let webhooks = configuration["webhooks"].as_array().expect("webhooks");
    assert_eq!(webhooks.len(), 4);
    let enabled = json!({"istio-injection": "enabled"});
    let disabled = json!({"istio-injection": "disabled"});
    let revision = json!({"istio.io/rev": "default"});
    let yes = json!({"sidecar.istio.io/inject": "true"});
    let no = json!({"sidecar.istio.io/inject": "false"});
    let none = json!({});
    for (namespace, pod, expected) in [
        (&enabled, &none, 1),
        (&enabled, &no, 0),
        (&disabled, &yes, 0),
        (&revision, &none, 1),
        (&revision, &no, 0),
        (&none, &none, 0),
        (&none, &yes, 1),
        (&none, &revision, 1),
    ] {
        let selected = webhooks
            .iter()
            .filter(|w| selects(w, namespace, pod))
            .count();
        assert_eq!(selected, expected, "namespace {namespace} pod {pod}");
    }
}

#[test]
fn configuration_survives_its_config_maps() {
    let values = Values::demo();
    let objects = manifests(&values);
    let mesh = &object(&objects, "ConfigMap", "istio")["data"]["mesh"];
    let mesh: Value = serde_saphyr::from_str(mesh.as_str().expect("text")).expect("YAML");
    assert_eq!(mesh["accessLogFile"], "/dev/stdout");
    assert_eq!(
        mesh["defaultConfig"]["discoveryAddress"],
        "istiod.istio-system.svc:15012"
    );
    let injector = &object(&objects, "ConfigMap", "istio-sidecar-injector")["data"];
    let read: meltemi_inject::Values =
        serde_saphyr::from_str(injector["values"].as_str().expect("text")).expect("values");
    assert_eq!(read, values.injection);
    let config: meltemi_inject::InjectorConfig =
        serde_saphyr::from_str(injector["config"].as_str().expect("text")).expect("configuration");
    assert_eq!(config, values.injector);
}

#[test]
fn a_revision_names_its_own_objects() {
    let values = Values {
        revision: "canary".to_owned(),
        ..Values::default()
    };
    let objects = manifests(&values);
    let webhooks = object(
        &objects,
        "MutatingWebhookConfiguration",
        "istio-sidecar-injector-canary",
    );
    assert_eq!(webhooks["webhooks"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        object(&objects, "Deployment", "istiod-canary")["metadata"]["labels"]["istio.io/rev"],
        "canary"
    );
}
