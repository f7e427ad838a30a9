//! Runs one published case and compares the outcome field by field.

use std::path::Path;

use meltemi_inject::{Injection, NativeSidecars, Request, Settings, Values, Workload, inject};
use serde_json::{Map, Value, json};

/// Differences between the outcome and the expectation; none means the case passed.
pub(crate) fn run(folder: &Path, case: &Value, mode: &str) -> Vec<String> {
    let settings = settings(folder, case);
    let text = std::fs::read_to_string(folder.join(case["input"].as_str().unwrap_or_default()))
        .expect("an input");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("the input is YAML");
    let objects: Vec<Value> = documents
        .into_iter()
        .filter(Value::is_object)
        .flat_map(|d| d["items"].as_array().cloned().unwrap_or_else(|| vec![d]))
        .collect();
    if case["error"] == Value::Bool(true) {
        return expect_error(&objects, &settings, case, mode);
    }
    let expected = case["expect"]
        .as_array()
        .expect("an expectation for each object");
    let mut found = Vec::new();
    for (object, expected) in objects.iter().zip(expected) {
        match outcome(object, &settings, mode) {
            Ok(None) if expected["injected"] == Value::Bool(false) => {}
            Ok(Some((before, after))) if expected["injected"] == Value::Bool(true) => {
                compare(&before, &after, expected, &mut found);
            }
            Ok(pod) => found.push(format!("injected is {}", pod.is_some())),
            Err(error) => found.push(error),
        }
    }
    found
}

fn expect_error(objects: &[Value], settings: &Settings, case: &Value, mode: &str) -> Vec<String> {
    let wanted = case["errorContainsIgnoringCase"]
        .as_str()
        .unwrap_or_default();
    match outcome(&objects[0], settings, mode) {
        Err(error) if error.to_lowercase().contains(wanted) => Vec::new(),
        other => vec![format!("expected an error with {wanted:?}, got {other:?}")],
    }
}

fn settings(folder: &Path, case: &Value) -> Settings {
    let mut values = serde_json::to_value(Values::default()).expect("values are JSON");
    set(
        &mut values,
        "global.hub",
        json!("registry.istio.io/testing"),
    );
    set(&mut values, "global.tag", json!("latest"));
    set(&mut values, "global.proxy.image", json!("proxyv2"));
    set(
        &mut values,
        "global.proxy.agentCommand",
        json!("pilot-agent"),
    );
    set(
        &mut values,
        "global.proxy_init",
        json!({"image": "proxyv2", "command": "istio-iptables"}),
    );
    for option in case["set"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        let (path, value) = option.split_once('=').expect("an option has a value");
        let path = path
            .replace("components.cni", "values.pilot.cni")
            .replace("values.cni", "values.pilot.cni");
        let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
        set(&mut values, path.trim_start_matches("values."), value);
    }
    let mut settings = Settings::default();
    if let Some(file) = case["operatorFile"].as_str() {
        let text = std::fs::read_to_string(folder.join(file)).expect("the file is readable");
        let operator: Value = serde_saphyr::from_str(&text).expect("the file is YAML");
        let own = &operator["spec"]["values"];
        overlay(&mut values, own);
        let templates = own["sidecarInjectorWebhook"]["templates"]
            .as_object()
            .cloned()
            .unwrap_or_default();
        settings.injector.templates = templates.into_iter().collect();
    }
    if case["env"]["PLATFORM"] == "openshift" {
        set(&mut values, "global.platform", json!("openshift"));
    }
    settings.values = serde_json::from_value(values).expect("the values are well-formed");
    if case["meshConfig"].is_object() {
        settings.mesh =
            serde_json::from_value(case["meshConfig"].clone()).expect("a mesh configuration");
    }
    let versions = case["nodeKubeletVersions"].as_array().into_iter().flatten();
    let versions = versions
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let off = case["env"]["ENABLE_NATIVE_SIDECARS"] == "false";
    settings.native_sidecars = if off {
        NativeSidecars::Disabled
    } else {
        NativeSidecars::ByNodes(versions)
    };
    settings
}

fn set(values: &mut Value, path: &str, value: Value) {
    let pointer = format!("/{}", path.replace('.', "/"));
    let mut at = values;
    for key in pointer.split('/').skip(1) {
        at = &mut at[key];
    }
    *at = value;
}

fn overlay(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                overlay(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

type Pods = Option<(Value, Value)>;

/// The pod before and after injection, or `None` when it stays as it is.
fn outcome(object: &Value, settings: &Settings, mode: &str) -> Result<Pods, String> {
    let kind = object["kind"].as_str().unwrap_or_default();
    let template = match kind {
        "Pod" => object,
        "CronJob" => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => &object["spec"]["template"],
    };
    if !template.is_object() {
        return Ok(None);
    }
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = object["metadata"]["namespace"]
        .as_str()
        .unwrap_or("default");
    let api_version = object["apiVersion"].as_str().unwrap_or_default();
    let mut pod = template.clone();
    let mut workload = None;
    if mode == "webhook" {
        own(&mut pod, kind, api_version, name);
    } else {
        let text = str::to_owned;
        workload = Some(Workload {
            api_version: text(api_version),
            kind: text(kind),
            name: text(name),
        });
    }
    let annotations = openshift_annotations(namespace);
    let request = Request {
        pod: &pod,
        namespace,
        namespace_annotations: Some(&annotations),
        workload,
    };
    match inject(&request, settings) {
        Ok(Injection::Injected(after)) => Ok(Some((pod, *after))),
        Ok(Injection::Skipped(_)) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

/// Makes the pod look as if the workload's controller had made it.
fn own(pod: &mut Value, kind: &str, api_version: &str, name: &str) {
    if kind == "Pod" {
        return;
    }
    let (kind, name) = if kind == "Deployment" {
        pod["metadata"]["labels"]["pod-template-hash"] = json!("fake");
        ("ReplicaSet", format!("{name}-fake"))
    } else {
        (kind, name.to_owned())
    };
    pod["metadata"]["generateName"] = json!(format!("{name}-"));
    pod["metadata"]["ownerReferences"] =
        json!([{"apiVersion": api_version, "kind": kind, "name": name, "controller": true}]);
}

fn openshift_annotations(namespace: &str) -> Map<String, Value> {
    let mut annotations = Map::new();
    if namespace == "test-ns" {
        for name in [
            "openshift.io/sa.scc.uid-range",
            "openshift.io/sa.scc.supplemental-groups",
        ] {
            annotations.insert(name.to_owned(), json!("1000620000/10000"));
        }
    }
    annotations
}

fn compare(before: &Value, after: &Value, expected: &Value, found: &mut Vec<String>) {
    let spec = &after["spec"];
    for list in ["containers", "initContainers"] {
        same(list, &names(&spec[list]), &expected[list], found);
    }
    let location = expected["proxy"]["location"]
        .as_str()
        .unwrap_or("containers");
    compare_proxy(
        named(&spec[location], "istio-proxy"),
        &expected["proxy"],
        found,
    );
    for (key, container) in [("init", "istio-init"), ("validation", "istio-validation")] {
        let actual = named(&spec["initContainers"], container);
        for (field, value) in expected[key].as_object().into_iter().flatten() {
            let field_name = if field == "goldenImage" {
                "image"
            } else {
                field
            };
            same(&format!("{key}.{field}"), &actual[field_name], value, found);
        }
    }
    for (name, kind) in expected["volumesAdded"].as_object().into_iter().flatten() {
        let kind = kind.as_str().filter(|k| *k != "none").unwrap_or("emptyDir");
        if !named(&spec["volumes"], name)
            .as_object()
            .is_some_and(|v| v.contains_key(kind) && v.len() == 2)
        {
            found.push(format!(
                "volume {name} is {}, not {kind}",
                named(&spec["volumes"], name)
            ));
        }
    }
    for (name, source) in expected["volumeSources"].as_object().into_iter().flatten() {
        let mut actual = named(&spec["volumes"], name).clone();
        actual.as_object_mut().map(|v| v.remove("name"));
        same(&format!("volume {name}"), &actual, source, found);
    }
    for (name, value) in expected["podSpecSet"].as_object().into_iter().flatten() {
        same(&format!("spec.{name}"), &spec[name], value, found);
    }
    compare_metadata(before, after, expected, found);
    compare_applications(spec, expected, found);
}

fn compare_proxy(actual: &Value, expected: &Value, found: &mut Vec<String>) {
    let env = |name: &str| named(&actual["env"], name);
    compare_env_names(actual, expected, found);
    for (name, value) in expected["envValues"].as_object().into_iter().flatten() {
        same(
            &format!("proxy.env {name}"),
            &parsed(&env(name)["value"]),
            &parsed(value),
            found,
        );
    }
    for (name, path) in expected["envFrom"].as_object().into_iter().flatten() {
        let from = &env(name)["valueFrom"];
        let actual = from
            .pointer("/fieldRef/fieldPath")
            .or_else(|| from.pointer("/resourceFieldRef/resource"));
        same(
            &format!("proxy.env {name}"),
            actual.unwrap_or(&Value::Null),
            path,
            found,
        );
    }
    for (path, volume) in expected["volumeMounts"].as_object().into_iter().flatten() {
        let mounts = actual["volumeMounts"].as_array().into_iter().flatten();
        let mount = mounts.into_iter().find(|m| &m["mountPath"] == path);
        same(
            &format!("proxy mount {path}"),
            mount.map_or(&Value::Null, |m| &m["name"]),
            volume,
            found,
        );
    }
    for field in [
        "args",
        "command",
        "ports",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
        "resources",
        "securityContext",
        "restartPolicy",
        "imagePullPolicy",
    ] {
        same(
            &format!("proxy.{field}"),
            &actual[field],
            &expected[field],
            found,
        );
    }
    same(
        "proxy.image",
        &actual["image"],
        &expected["goldenImage"],
        found,
    );
}

fn compare_env_names(actual: &Value, expected: &Value, found: &mut Vec<String>) {
    let mut keys: Vec<String> = names(&actual["env"])
        .as_array()
        .into_iter()
        .flatten()
        .map(Value::to_string)
        .collect();
    let mut wanted: Vec<String> = expected["envKeys"]
        .as_array()
        .into_iter()
        .flatten()
        .map(Value::to_string)
        .collect();
    keys.sort();
    wanted.sort();
    same("proxy.env names", &json!(keys), &json!(wanted), found);
}

fn compare_metadata(before: &Value, after: &Value, expected: &Value, found: &mut Vec<String>) {
    let annotations = &after["metadata"]["annotations"];
    let status = parsed(&annotations["sidecar.istio.io/status"]);
    same(
        "status annotation",
        &status,
        &expected["statusAnnotation"],
        found,
    );
    for (place, key) in [("annotations", "annotationsSet"), ("labels", "labelsSet")] {
        let mut changed = Map::new();
        for (name, value) in after["metadata"][place].as_object().into_iter().flatten() {
            if &before["metadata"][place][name] != value && name != "sidecar.istio.io/status" {
                changed.insert(name.clone(), parsed(value));
            }
        }
        let wanted = expected[key].as_object().into_iter().flatten();
        let mut wanted: Map<String, Value> = wanted.map(|(k, v)| (k.clone(), parsed(v))).collect();
        // The published list leaves out what the input had already.
        wanted.retain(|name, value| parsed(&before["metadata"][place][name]) != *value);
        same(key, &Value::Object(changed), &Value::Object(wanted), found);
    }
}

fn compare_applications(spec: &Value, expected: &Value, found: &mut Vec<String>) {
    for application in expected["appContainers"].as_array().into_iter().flatten() {
        let name = application["name"].as_str().unwrap_or_default();
        let both = [&spec["containers"], &spec["initContainers"]];
        let actual = both
            .into_iter()
            .map(|l| named(l, name))
            .find(|c| c.is_object())
            .unwrap_or(&Value::Null);
        for (probe, change) in application["probesRewritten"]
            .as_object()
            .into_iter()
            .flatten()
        {
            same(
                &format!("{name}.{probe}"),
                &actual[probe],
                &change["to"],
                found,
            );
        }
        if application["lifecycle"].is_object() {
            same(
                &format!("{name}.lifecycle"),
                &actual["lifecycle"],
                &application["lifecycle"]["to"],
                found,
            );
        }
    }
}

fn names(list: &Value) -> Value {
    list.as_array()
        .into_iter()
        .flatten()
        .map(|item| item["name"].clone())
        .collect()
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array()
        .into_iter()
        .flatten()
        .find(|item| item["name"] == name)
        .unwrap_or(&Value::Null)
}

/// Text that holds JSON, as what it says.
fn parsed(value: &Value) -> Value {
    let text = value.as_str().unwrap_or_default();
    match serde_json::from_str::<Value>(text) {
        Ok(inner) if inner.is_object() || inner.is_array() => inner,
        _ => value.clone(),
    }
}

fn same(what: &str, actual: &Value, expected: &Value, found: &mut Vec<String>) {
    if canonical(actual) != canonical(expected) {
        found.push(format!("{what}: {actual} instead of {expected}"));
    }
}

/// Equal quantities look equal, and a field that is unset is absent.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, v)| !v.is_null())
            .map(|(k, v)| (k.clone(), canonical(v)))
            .collect(),
        Value::Array(items) => items.iter().map(canonical).collect(),
        Value::String(text) => quantity(text).map_or_else(|| value.clone(), Value::from),
        other => other.clone(),
    }
}

fn quantity(text: &str) -> Option<f64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let scale = match &text[end..] {
        "" => 1000.0,
        "m" => 1.0,
        "Mi" => 1_048_576_000.0,
        "Gi" => 1_073_741_824_000.0,
        _ => return None,
    };
    text[..end].parse::<f64>().ok().map(|n| n * scale)
}
