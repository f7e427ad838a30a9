//! The proxy container, as far as sidecars and gateways share it.

use serde_json::{Map, Value, json};

use super::{Context, volumes};
use crate::image::proxy_image;
use crate::proxy_config;

/// User and group of the proxy; capture exempts this user.
const PROXY_ID: i64 = 1337;
/// Longest value of a label.
const LABEL_LENGTH: usize = 63;

/// The container in its role, `sidecar` or `router`.
pub(super) fn container(context: &Context<'_>, role: &str) -> Value {
    let values = &context.settings.values;
    let mut container = json!({
        "name": "istio-proxy",
        "image": image(context, &values.global.proxy.image),
        "ports": [{"containerPort": 15090, "protocol": "TCP", "name": "http-envoy-prom"}],
        "args": arguments(context, role),
        "env": env(context),
        "volumeMounts": volumes::mounts(context, role),
    });
    if !values.global.image_pull_policy.is_empty() {
        container["imagePullPolicy"] = json!(values.global.image_pull_policy);
    }
    if let Some(probe) = readiness(context) {
        container["readinessProbe"] = probe;
    }
    container
}

/// The image of a container.
pub(super) fn image(context: &Context<'_>, name: &str) -> String {
    if let Some(own) = context.annotation("sidecar.istio.io/proxyImage") {
        return own.to_owned();
    }
    let global = &context.settings.values.global;
    let configured = context
        .proxy_config
        .get("image")
        .and_then(|i| i["imageType"].as_str());
    let variant = context
        .annotation("sidecar.istio.io/proxyImageType")
        .or(configured)
        .unwrap_or(&global.variant);
    let tag = global
        .tag
        .as_str()
        .map_or_else(|| global.tag.to_string(), str::to_owned);
    proxy_image(&global.hub, &tag, variant, name)
}

/// User and group of the proxy: the platform's range on OpenShift, else fixed.
pub(super) fn user(context: &Context<'_>) -> (i64, i64) {
    if context.settings.values.global.platform != "openshift" {
        return (PROXY_ID, PROXY_ID);
    }
    let last_of = |name: &str| {
        let range = context.namespace_annotations?.get(name)?.as_str()?;
        let (first, size) = range.split_once('/')?;
        Some(first.parse::<i64>().ok()? + size.parse::<i64>().ok()? - 1)
    };
    let user = last_of("openshift.io/sa.scc.uid-range").unwrap_or(PROXY_ID);
    (
        user,
        last_of("openshift.io/sa.scc.supplemental-groups").unwrap_or(user),
    )
}

fn arguments(context: &Context<'_>, role: &str) -> Vec<String> {
    let global = &context.settings.values.global;
    let level = |name: &str, default: &str| {
        context
            .annotation(&format!("sidecar.istio.io/{name}"))
            .unwrap_or(default)
            .to_owned()
    };
    let mut args: Vec<String> = ["proxy", role, "--domain"].map(str::to_owned).to_vec();
    args.push(format!(
        "$(POD_NAMESPACE).svc.{}",
        global.proxy.cluster_domain
    ));
    args.push(format!(
        "--proxyLogLevel={}",
        level("logLevel", &global.proxy.log_level)
    ));
    args.push(format!(
        "--proxyComponentLogLevel={}",
        level("componentLogLevel", &global.proxy.component_log_level)
    ));
    args.push(format!(
        "--log_output_level={}",
        level("agentLogLevel", &global.logging.level)
    ));
    if global.log_as_json {
        args.push("--log_as_json".to_owned());
    }
    if let Some(path) = volumes::engine(context) {
        args.extend(["--engine".to_owned(), path.to_owned()]);
    }
    args
}

fn readiness(context: &Context<'_>) -> Option<Value> {
    if context.status_port == 0 {
        return None;
    }
    let proxy = &context.settings.values.global.proxy;
    let told = |name: &str, default: u32| {
        let annotation = context.annotation(&format!("readiness.status.sidecar.istio.io/{name}"));
        annotation.and_then(|v| v.parse().ok()).unwrap_or(default)
    };
    let mut probe = json!({
        "httpGet": {"path": "/healthz/ready", "port": 15021},
        "periodSeconds": told("periodSeconds", proxy.readiness_period_seconds),
        "timeoutSeconds": 3,
        "failureThreshold": told("failureThreshold", proxy.readiness_failure_threshold),
    });
    let delay = told("initialDelaySeconds", proxy.readiness_initial_delay_seconds);
    if delay != 0 {
        probe["initialDelaySeconds"] = json!(delay);
    }
    Some(probe)
}

/// Resources: the pod's annotations, else the install values without what they set to null.
pub(super) fn resources(context: &Context<'_>) -> Value {
    let told = |name: &str| context.annotation(&format!("sidecar.istio.io/{name}"));
    let block = |cpu: Option<&str>, memory: Option<&str>| -> Map<String, Value> {
        let pairs = [("cpu", cpu), ("memory", memory)];
        pairs
            .into_iter()
            .filter_map(|(k, v)| v.map(|v| (k.to_owned(), json!(v))))
            .collect()
    };
    let requests = block(told("proxyCPU"), told("proxyMemory"));
    let limits = block(told("proxyCPULimit"), told("proxyMemoryLimit"));
    let mut resources = Map::new();
    if requests.is_empty() && limits.is_empty() {
        let values = context.settings.values.global.proxy.resources.as_object();
        for (key, block) in values.into_iter().flatten() {
            let set = block
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(_, v)| !v.is_null());
            let set: Map<String, Value> = set.map(|(k, v)| (k.clone(), v.clone())).collect();
            resources.insert(key.clone(), Value::Object(set));
        }
    } else {
        resources.insert("requests".to_owned(), Value::Object(requests));
        resources.insert("limits".to_owned(), Value::Object(limits));
    }
    resources.retain(|_, block| block.as_object().is_some_and(|b| !b.is_empty()));
    Value::Object(resources)
}

/// The labels under which metrics name the workload.
pub(super) fn canonical_labels(context: &Context<'_>) -> Value {
    let first = |names: &[&str]| names.iter().find_map(|name| context.label(name));
    let name = first(&[
        "service.istio.io/canonical-name",
        "app.kubernetes.io/name",
        "app",
    ]);
    let name = name.unwrap_or(&context.workload.name);
    let cut: String = name.chars().take(LABEL_LENGTH).collect();
    let revision = [
        "service.istio.io/canonical-revision",
        "app.kubernetes.io/version",
        "version",
    ];
    json!({
        "service.istio.io/canonical-name": cut.trim_end_matches(['-', '.', '_']),
        "service.istio.io/canonical-revision": first(&revision).unwrap_or("latest"),
    })
}

fn env(context: &Context<'_>) -> Vec<Value> {
    let global = &context.settings.values.global;
    let mut env = Vec::new();
    let mut set = |name: &str, value: &str| env.push(json!({"name": name, "value": value}));
    if context.settings.mesh.inbound_traffic_policy.mode == "LOCALHOST" {
        set("REWRITE_PROBE_LEGACY_LOCALHOST_DESTINATION", "true");
    }
    set("PILOT_CERT_PROVIDER", &global.pilot_cert_provider);
    let authority = format!("istiod.{}.svc:15012", global.istio_namespace);
    set(
        "CA_ADDR",
        if global.ca_address.is_empty() {
            &authority
        } else {
            &global.ca_address
        },
    );
    env.extend(downward());
    let mut set = |name: &str, value: &str| env.push(json!({"name": name, "value": value}));
    set(
        "PROXY_CONFIG",
        &proxy_config::for_agent(&context.proxy_config),
    );
    set("ISTIO_META_POD_PORTS", &pod_ports(context));
    let names: Vec<&str> = context
        .app_containers()
        .filter_map(|c| c["name"].as_str())
        .collect();
    set("ISTIO_META_APP_CONTAINERS", &names.join(","));
    env.push(json!({
        "name": "GOMEMLIMIT",
        "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1"}},
    }));
    identity(context, &mut env);
    env.extend(
        context
            .proxy_metadata()
            .into_iter()
            .map(|(k, v)| json!({"name": k, "value": v})),
    );
    if global.proxy.mark_traffic {
        env.push(json!({"name": "MELTEMI_SO_MARK", "value": PROXY_ID.to_string()}));
    }
    env
}

/// What the pod knows of itself.
fn downward() -> Vec<Value> {
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("INSTANCE_IP", "status.podIP"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("HOST_IP", "status.hostIP"),
        json!({
            "name": "ISTIO_CPU_LIMIT",
            "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1"}},
        }),
    ]
}

/// Who the workload is, within the cluster and the mesh.
fn identity(context: &Context<'_>, env: &mut Vec<Value>) {
    let global = &context.settings.values.global;
    let trust_domain = context.settings.mesh.trust_domain();
    let or = |value: &str, default: &str| {
        if value.is_empty() {
            default.to_owned()
        } else {
            value.to_owned()
        }
    };
    env.push(json!({"name": "ISTIO_META_CLUSTER_ID", "value": or(&global.multi_cluster.cluster_name, "Kubernetes")}));
    env.push(json!({"name": "ISTIO_META_NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}));
    let mut set = |name: &str, value: &str| env.push(json!({"name": name, "value": value}));
    set("ISTIO_META_INTERCEPTION_MODE", context.interception_mode());
    let network = context
        .label("topology.istio.io/network")
        .unwrap_or(&global.network);
    if !network.is_empty() {
        set("ISTIO_META_NETWORK", network);
    }
    let name = context
        .label("service.istio.io/workload-name")
        .unwrap_or(&context.workload.name);
    if !name.is_empty() {
        set("ISTIO_META_WORKLOAD_NAME", name);
        set(
            "ISTIO_META_OWNER",
            &context.workload.owner_uri(context.namespace),
        );
    }
    set("ISTIO_META_MESH_ID", &or(&global.mesh_id, trust_domain));
    set("TRUST_DOMAIN", trust_domain);
}

/// The application's ports, in the layout that tools parse.
fn pod_ports(context: &Context<'_>) -> String {
    let containers = context.app_containers();
    let ports = containers.flat_map(|c| c["ports"].as_array().cloned().unwrap_or_default());
    let mut text = String::from("[");
    for (at, port) in ports.enumerate() {
        text.push_str(if at == 0 { "\n    " } else { "\n    ," });
        text.push_str(&port.to_string());
    }
    text.push_str("\n]");
    text
}
