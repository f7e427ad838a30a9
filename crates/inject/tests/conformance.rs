//! The published injection cases against this injector.

#[path = "conformance/cases.rs"]
mod cases;

use std::path::PathBuf;

use meltemi_inject::{
    Injection, InjectorConfig, NativeSidecars, Request, Settings, decide, inject, proxy_image,
    use_native_sidecar, validate_annotations,
};
use serde_json::{Map, Value, json};

/// Cases that need what is not built yet, with what it is.
const NOT_YET: [(&str, &str); 1] = [(
    "hello-otel-semconv",
    "resource attributes for OpenTelemetry providers of the mesh configuration",
)];

fn folder() -> Option<PathBuf> {
    let folder = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/conformance/inject"
    ));
    if folder.exists() {
        return Some(folder);
    }
    println!("SKIPPED: {} is not there", folder.display());
    None
}

fn yaml(path: &std::path::Path) -> Value {
    let text = std::fs::read_to_string(path).expect("the file is readable");
    serde_saphyr::from_str(&text).expect("the file is YAML")
}

#[test]
fn injected_workloads_are_as_published() {
    let Some(folder) = folder() else { return };
    let table = yaml(&folder.join("expect.yaml"));
    let (mut passed, mut failed, mut later) = (0, Vec::new(), 0);
    for case in table["cases"].as_array().expect("a list of cases") {
        let name = case["name"].as_str().unwrap_or_default();
        for mode in case["modes"]
            .as_array()
            .expect("every case names its modes")
        {
            let mode = mode.as_str().unwrap_or_default();
            let found = cases::run(&folder, case, mode);
            if found.is_empty() {
                passed += 1;
            } else if NOT_YET.iter().any(|(n, _)| *n == name) {
                later += 1;
            } else {
                failed.push(format!("{name} ({mode}):\n    {}", found.join("\n    ")));
            }
        }
    }
    println!(
        "{passed} passed, {} failed, {later} not built yet",
        failed.len()
    );
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn decisions_are_as_published() {
    let Some(folder) = folder() else { return };
    let table = yaml(&folder.join("decisions.yaml"));
    for case in table["required"].as_array().expect("a list") {
        let config: InjectorConfig =
            serde_json::from_value(case["config"].clone()).expect("a configuration");
        let decision = decide(&case["pod"], "test-namespace", &config);
        assert_eq!(
            Value::Bool(decision.injects()),
            case["inject"],
            "{}",
            case["name"]
        );
    }
    for namespace in table["ignoredNamespaces"].as_array().expect("a list") {
        let decision = decide(
            &json!({}),
            namespace.as_str().unwrap_or_default(),
            &InjectorConfig::default(),
        );
        assert!(!decision.injects(), "{namespace}");
    }
    for case in table["proxyImage"].as_array().expect("a list") {
        let text = |key: &str| case[key].as_str().unwrap_or_default();
        let annotation = case["annotations"]["sidecar.istio.io/proxyImageType"].as_str();
        let variant = annotation.unwrap_or_else(|| text("proxyConfigImageType"));
        assert_eq!(
            proxy_image(text("hub"), text("tag"), variant, "proxyv2"),
            text("image"),
            "{}",
            case["name"]
        );
    }
    for case in table["annotationValidation"].as_array().expect("a list") {
        let annotations = case["annotations"].as_object().expect("a map");
        assert_eq!(
            Value::Bool(validate_annotations(annotations).is_ok()),
            case["valid"],
            "{}",
            case["name"]
        );
    }
}

#[test]
fn native_sidecars_are_chosen_as_published() {
    let Some(folder) = folder() else { return };
    let table = yaml(&folder.join("decisions.yaml"));
    for case in table["nativeSidecar"].as_array().expect("a list") {
        let annotations = case["annotations"].as_object().cloned().unwrap_or_default();
        let versions = case["nodeKubeletVersions"].as_array().into_iter().flatten();
        let versions: Vec<String> = versions
            .map(|v| v.as_str().unwrap_or_default().to_owned())
            .collect();
        let cluster = match (
            case["mode"].as_str(),
            case["clusterNativeSidecar"].as_bool(),
        ) {
            (Some("auto"), _) => NativeSidecars::ByNodes(versions),
            (Some("enabled"), _) | (_, Some(true)) => NativeSidecars::Enabled,
            _ => NativeSidecars::Disabled,
        };
        let native = use_native_sidecar(&annotations, &cluster);
        let expected = case["nativeSidecar"]
            .as_bool()
            .unwrap_or_else(|| case["istioProxyIn"] == "initContainers");
        assert_eq!(native, expected, "{}", case["name"]);
    }
}

fn pod(annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web-1", "labels": {"app": "web"}, "annotations": annotations},
        "spec": {"containers": [{"name": "web", "image": "web:1"}]},
    })
}

fn injected(pod: &Value, settings: &Settings) -> Value {
    let request = Request {
        pod,
        namespace: "default",
        namespace_annotations: None,
        workload: None,
    };
    let injection = inject(&request, settings).expect("the pod is well-formed");
    let Injection::Injected(pod) = injection else {
        unreachable!("the pod is to be injected: {injection:?}")
    };
    *pod
}

fn proxy(pod: &Value) -> &Value {
    let containers = pod["spec"]["containers"].as_array().expect("containers");
    containers
        .iter()
        .find(|c| c["name"] == "istio-proxy")
        .expect("a sidecar")
}

#[test]
fn defaults_use_our_own_image_and_capture_before_the_application_starts() {
    let pod = injected(&pod(&json!({})), &Settings::default());
    let image = format!("meltemi/meltemi:{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(proxy(&pod)["image"], json!(image));
    assert_eq!(
        pod["spec"]["containers"][0]["name"], "web",
        "the application stays the default container"
    );
    let init = &pod["spec"]["initContainers"][0];
    assert_eq!(init["args"][0], "capture");
    assert_eq!(init["image"], json!(image));
}

#[test]
fn injecting_twice_gives_the_same_pod() {
    let once = injected(
        &pod(&json!({"prometheus.io/port": "9080"})),
        &Settings::default(),
    );
    let twice = injected(&once, &Settings::default());
    assert_eq!(
        meltemi_inject::json_patch(&once, &twice),
        Vec::<Value>::new()
    );
}

#[test]
fn traffic_is_marked_only_where_the_platform_asks_for_it() {
    let mut settings = Settings::default();
    let plain = injected(&pod(&json!({})), &settings);
    assert!(proxy(&plain)["securityContext"]["capabilities"]["add"].is_null());
    settings.values.global.proxy.mark_traffic = true;
    let marked = injected(&pod(&json!({})), &settings);
    let sidecar = proxy(&marked);
    assert_eq!(
        sidecar["securityContext"]["capabilities"]["add"],
        json!(["NET_RAW"])
    );
    let env = sidecar["env"].as_array().expect("variables");
    assert!(env.contains(&json!({"name": "MELTEMI_SO_MARK", "value": "1337"})));
}

#[test]
fn a_pod_can_ask_for_a_stock_envoy() {
    let mut settings = Settings::default();
    settings.values.global.proxy.engine_path = "/opt/envoy".to_owned();
    let pod = injected(&pod(&json!({"meltemi.io/engine": "envoy"})), &settings);
    let args = proxy(&pod)["args"].as_array().expect("arguments").clone();
    assert_eq!(
        args[args.len() - 2..],
        [json!("--engine"), json!("/opt/envoy")]
    );
}

#[test]
fn a_stock_envoy_of_the_node_is_mounted_into_the_proxy_only() {
    let mut settings = Settings::default();
    "envoy".clone_into(&mut settings.values.global.proxy.engine);
    "/home/me/envoy".clone_into(&mut settings.values.global.proxy.engine_host_path);
    let pod = injected(&pod(&json!({})), &settings);
    let args = proxy(&pod)["args"].as_array().expect("arguments").clone();
    assert_eq!(args.last(), Some(&json!("/run/meltemi-engine/envoy")));
    let mounts = proxy(&pod)["volumeMounts"].to_string();
    assert!(mounts.contains("/run/meltemi-engine/envoy"), "{mounts}");
    let volumes = pod["spec"]["volumes"].to_string();
    assert!(volumes.contains("/home/me/envoy"), "{volumes}");
}

#[test]
fn an_unknown_template_is_refused_with_the_known_ones() {
    let pod = pod(&json!({"inject.istio.io/templates": "sidecars"}));
    let request = Request {
        pod: &pod,
        namespace: "default",
        namespace_annotations: None,
        workload: None,
    };
    let error = inject(&request, &Settings::default()).expect_err("no such template");
    assert_eq!(
        error.to_string(),
        "injection template \"sidecars\" does not exist; known ones are sidecar, gateway"
    );
}

#[test]
fn pods_on_the_nodes_network_are_left_alone() {
    let mut pod = pod(&json!({"sidecar.istio.io/inject": "true"}));
    pod["spec"]["hostNetwork"] = json!(true);
    let no_annotations = Map::new();
    let request = Request {
        pod: &pod,
        namespace: "default",
        namespace_annotations: Some(&no_annotations),
        workload: None,
    };
    assert!(matches!(
        inject(&request, &Settings::default()),
        Ok(Injection::Skipped(_))
    ));
}
