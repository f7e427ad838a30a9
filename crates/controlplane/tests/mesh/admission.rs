//! Webhooks, called by the API server.

use base64::Engine as _;
use serde_json::{Value, json};

use crate::support::Mesh;

const ADMISSION: &str = "admissionregistration.k8s.io/v1";

#[tokio::test]
async fn webhook_configurations_get_the_trust_bundle_also_when_it_is_taken_away() {
    let mesh = Mesh::start().await;
    let bundle = base64::engine::general_purpose::STANDARD.encode(mesh.root().await);
    let all_have_it = |object: &Value| {
        let hooks = object["webhooks"].as_array().expect("webhooks");
        hooks
            .iter()
            .all(|hook| hook["clientConfig"]["caBundle"] == bundle.as_str())
    };
    let mutating = || mesh.kind(ADMISSION, "MutatingWebhookConfiguration", None);
    mesh.until("mutating", mutating(), all_have_it).await;
    let validating = mesh.kind(ADMISSION, "ValidatingWebhookConfiguration", None);
    let object = mesh.until("validating", validating, all_have_it).await;
    assert_eq!(object["webhooks"][0]["failurePolicy"], "Fail");
    // An installation over an existing one.
    mesh.install().await;
    mesh.until("mutating again", mutating(), all_have_it).await;
}

#[tokio::test]
async fn a_pod_is_injected_where_its_namespace_asks_for_it() {
    let mut mesh = Mesh::start().await;
    mesh.apply(json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "default", "labels": {"istio-injection": "enabled"}},
    }))
    .await;
    mesh.token("default", "istio-ca").await; // makes the account, which pods need
    let pod = mesh
        .apply(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "details", "namespace": "default", "labels": {"app": "details"}},
            "spec": {"containers": [{"name": "details", "image": "details"}]},
        }))
        .await;
    let names = |list: &str| -> Vec<String> {
        let containers = pod.data["spec"][list]
            .as_array()
            .cloned()
            .unwrap_or_default();
        containers
            .iter()
            .filter_map(|one| one["name"].as_str().map(str::to_owned))
            .collect()
    };
    assert!(names("containers").contains(&"istio-proxy".to_owned()));
    assert_eq!(names("initContainers"), ["istio-init"]);
    let (_, metrics) = mesh.page("/metrics").await;
    assert!(
        metrics.contains("sidecar_injection_success_total 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_bad_virtual_service_is_refused_with_its_field() {
    let mut mesh = Mesh::start().await;
    let routes = |first: u8, second: u8| {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "reviews", "namespace": "default"},
            "spec": {"hosts": ["reviews"], "http": [{"route": [
                {"destination": {"host": "reviews"}, "weight": first},
                {"destination": {"host": "reviews", "subset": "v2"}, "weight": second},
            ]}]},
        })
    };
    // The definition's schema allows it: only the control plane knows better.
    let refused = mesh.try_apply(routes(0, 0)).await.expect_err("refused");
    let refused = refused.to_string();
    for part in ["VirtualService default/reviews", "spec.http[0]", "weight"] {
        assert!(refused.contains(part), "{part} in {refused}");
    }
    mesh.apply(routes(50, 50)).await;
    let (_, metrics) = mesh.page("/metrics").await;
    let resource = "group=\"networking.istio.io\",version=\"v1\",resource=\"virtualservices\"";
    for line in [
        format!("galley_validation_passed{{{resource}}} 1"),
        format!("galley_validation_failed{{{resource},reason=\"invalid_resource\"}} 1"),
    ] {
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
}
