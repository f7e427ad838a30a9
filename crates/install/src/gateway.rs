//! The gateway at the edge: a proxy of its own, rendered in full, so that it starts without the webhook.

use meltemi_inject::{Mesh, Request, Settings, Workload};
use serde_json::{Value, json};

use crate::Values;
use crate::names::namespaced;
use crate::rbac::bind;

const RBAC: &str = "rbac.authorization.k8s.io/v1";

/// Everything that the gateway consists of.
pub(crate) fn objects(values: &Values) -> Vec<Value> {
    let name = &values.ingress_gateway.name;
    let labels = labels(values);
    let account = format!("{name}-service-account");
    let secrets = format!("{name}-sds");
    let mut role = namespaced(values, RBAC, "Role", &secrets, &labels);
    role["rules"] =
        json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "watch", "list"]}]);
    let mut binding = namespaced(values, RBAC, "RoleBinding", &secrets, &labels);
    bind(&mut binding, "Role", &secrets, &account, values);
    vec![
        namespaced(values, "v1", "ServiceAccount", &account, &labels),
        role,
        binding,
        service(values),
        deployment(values, &account),
    ]
}

/// `istio` is the label that users' gateways select.
fn labels(values: &Values) -> Value {
    let name = &values.ingress_gateway.name;
    let role = name.strip_prefix("istio-").unwrap_or(name);
    json!({"app": name, "istio": role, "istio.io/rev": values.revision(), "release": "istio"})
}

fn selector(values: &Values) -> Value {
    let labels = labels(values);
    json!({"app": labels["app"], "istio": labels["istio"]})
}

fn service(values: &Values) -> Value {
    let gateway = &values.ingress_gateway;
    let mut service = namespaced(values, "v1", "Service", &gateway.name, &labels(values));
    let port = |name: &str, port: u16, target: u16| json!({"name": name, "port": port, "targetPort": target, "protocol": "TCP"});
    service["spec"] = json!({
        "type": gateway.service_type,
        "selector": selector(values),
        "ports": [port("status-port", 15021, 15021), port("http2", 80, 8080), port("https", 443, 8443)],
    });
    service
}

fn deployment(values: &Values, account: &str) -> Value {
    let gateway = &values.ingress_gateway;
    let mut deployment = namespaced(
        values,
        "apps/v1",
        "Deployment",
        &gateway.name,
        &labels(values),
    );
    deployment["spec"] = json!({
        "replicas": 1,
        "selector": {"matchLabels": selector(values)},
        "strategy": {"rollingUpdate": {"maxSurge": "100%", "maxUnavailable": "25%"}},
        "template": pod(values, account),
    });
    deployment
}

/// The pod as the injector makes gateways.
fn pod(values: &Values, account: &str) -> Value {
    let gateway = &values.ingress_gateway;
    let mut labels = labels(values);
    labels["sidecar.istio.io/inject"] = json!("false");
    let ports = [
        (15021, "status-port"),
        (8080, "http2"),
        (8443, "https"),
        (15090, "http-envoy-prom"),
    ];
    let ports: Vec<Value> = ports
        .iter()
        .map(|(port, name)| json!({"containerPort": port, "name": name, "protocol": "TCP"}))
        .collect();
    let bare = json!({
        "metadata": {"labels": labels, "annotations": {"inject.istio.io/templates": "gateway"}},
        "spec": {
            "serviceAccountName": account,
            "terminationGracePeriodSeconds": 30,
            "containers": [{
                "name": "istio-proxy",
                "image": "auto",
                "ports": ports,
                "resources": gateway.resources,
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "privileged": false,
                    "readOnlyRootFilesystem": true,
                    "runAsNonRoot": true,
                },
            }],
        },
    });
    let workload = Workload {
        api_version: "apps/v1".to_owned(),
        kind: "Deployment".to_owned(),
        name: gateway.name.clone(),
    };
    let request = Request {
        pod: &bare,
        namespace: values.namespace(),
        namespace_annotations: None,
        workload: Some(workload),
    };
    let settings = Settings {
        values: values.injection.clone(),
        mesh: serde_json::from_value::<Mesh>(values.mesh()).unwrap_or_default(),
        revision: values.revision().to_owned(),
        ..Settings::default()
    };
    // Only annotations can be refused, and these are ours.
    let mut pod = meltemi_inject::force(&request, &settings).unwrap_or(bare);
    if let Some(annotations) = pod["metadata"]["annotations"].as_object_mut() {
        // This pod was not injected: nothing is to be taken out again.
        for name in [
            "sidecar.istio.io/status",
            "proxy.istio.io/overrides",
            "inject.istio.io/templates",
        ] {
            annotations.remove(name);
        }
    }
    pod
}
