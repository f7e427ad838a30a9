//! Rows of services, configuration, nodes, events, roles and the rest.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age;
use super::format::{labels, list, number, or_none, selector, text, up_to_three};

// table: one arm for each kind.
pub(super) fn cells(group: &str, kind: &str, object: &Value, now: Timestamp) -> Vec<Value> {
    let name = object["metadata"]["name"].clone();
    let age = json!(age::since(&object["metadata"]["creationTimestamp"], now));
    let count = |key: &str| json!(object[key].as_array().map_or(0, Vec::len));
    let (spec, status) = (&object["spec"], &object["status"]);
    match (group, kind) {
        ("", "Service") => service(object, name, age),
        ("", "Endpoints") => vec![name, json!(endpoints(object)), age],
        ("", "Namespace") => vec![name, json!(text(&status["phase"])), age],
        ("", "Node") => node(object, name, age),
        ("", "Event") => event(object, now),
        ("", "Secret") => {
            vec![
                name,
                object["type"].clone(),
                json!(members(&object["data"])),
                age,
            ]
        }
        ("", "ConfigMap") => {
            vec![
                name,
                json!(members(&object["data"]) + members(&object["binaryData"])),
                age,
            ]
        }
        ("", "ServiceAccount") => vec![name, count("secrets"), age],
        ("", "PersistentVolumeClaim") => claim(object, name, age),
        ("", "ResourceQuota") => {
            let of = |prefix: bool| quota(object, prefix);
            vec![name, json!(of(false)), json!(of(true)), age]
        }
        ("", "LimitRange")
        | ("apiextensions.k8s.io", _)
        | ("rbac.authorization.k8s.io", "Role" | "ClusterRole") => {
            vec![name, json!(created_at(object))]
        }
        ("rbac.authorization.k8s.io", _) => binding(object, name, age),
        ("admissionregistration.k8s.io", _) => vec![name, count("webhooks"), age],
        ("coordination.k8s.io", _) => vec![name, json!(text(&spec["holderIdentity"])), age],
        ("discovery.k8s.io", _) => endpoint_slice(object, name, age),
        ("autoscaling", _) => autoscaler(object, name, age),
        ("policy", _) => {
            let bound = |v: &Value| {
                if v.is_null() {
                    "N/A".to_owned()
                } else {
                    plain(v)
                }
            };
            vec![
                name,
                json!(bound(&spec["minAvailable"])),
                json!(bound(&spec["maxUnavailable"])),
                json!(number(&status["disruptionsAllowed"])),
                age,
            ]
        }
        ("networking.k8s.io", "Ingress") => ingress(object, name, age),
        ("networking.k8s.io", "IngressClass") => {
            let parameters = &spec["parameters"];
            let shown = if parameters.is_object() {
                format!(
                    "{}.{}/{}",
                    text(&parameters["kind"]),
                    text(&parameters["apiGroup"]),
                    text(&parameters["name"])
                )
            } else {
                "<none>".to_owned()
            };
            vec![name, json!(text(&spec["controller"])), json!(shown), age]
        }
        ("networking.k8s.io", "NetworkPolicy") => {
            vec![name, json!(selector(&spec["podSelector"])), age]
        }
        ("scheduling.k8s.io", _) => vec![
            name,
            json!(number(&object["value"])),
            json!(object["globalDefault"] == true),
            json!(text(&object["preemptionPolicy"])),
            age,
        ],
        _ => vec![name, age],
    }
}

fn members(map: &Value) -> usize {
    map.as_object().map_or(0, serde_json::Map::len)
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn created_at(object: &Value) -> String {
    text(&object["metadata"]["creationTimestamp"]).to_owned()
}

fn service(object: &Value, name: Value, age: Value) -> Vec<Value> {
    let spec = &object["spec"];
    let kind = text(&spec["type"]);
    let external: Vec<&str> = list(&spec["externalIPs"]).map(text).collect();
    let external_ip = match kind {
        "ExternalName" => or_none(&spec["externalName"]),
        "LoadBalancer" => {
            let ingress = list(&object["status"]["loadBalancer"]["ingress"]);
            let mut ips: Vec<&str> = ingress
                .map(|i| {
                    i["ip"]
                        .as_str()
                        .filter(|ip| !ip.is_empty())
                        .unwrap_or_else(|| text(&i["hostname"]))
                })
                .collect();
            ips.extend(&external);
            if ips.is_empty() {
                "<pending>".to_owned()
            } else {
                ips.join(",")
            }
        }
        _ if external.is_empty() => "<none>".to_owned(),
        _ => external.join(","),
    };
    let ports: Vec<String> = list(&spec["ports"])
        .map(|p| match number(&p["nodePort"]) {
            0 => format!("{}/{}", number(&p["port"]), text(&p["protocol"])),
            node => format!("{}:{node}/{}", number(&p["port"]), text(&p["protocol"])),
        })
        .collect();
    let ports = if ports.is_empty() {
        "<none>".to_owned()
    } else {
        ports.join(",")
    };
    vec![
        name,
        json!(kind),
        json!(or_none(&spec["clusterIP"])),
        json!(external_ip),
        json!(ports),
        age,
        json!(labels(&spec["selector"])),
    ]
}

fn endpoints(object: &Value) -> String {
    let mut all = Vec::new();
    for subset in list(&object["subsets"]) {
        for address in list(&subset["addresses"]) {
            if list(&subset["ports"]).next().is_none() {
                all.push(text(&address["ip"]).to_owned());
            }
            for port in list(&subset["ports"]) {
                all.push(format!(
                    "{}:{}",
                    text(&address["ip"]),
                    number(&port["port"])
                ));
            }
        }
    }
    up_to_three(&all, "<none>")
}

fn endpoint_slice(object: &Value, name: Value, age: Value) -> Vec<Value> {
    let ports: Vec<String> = list(&object["ports"])
        .map(|p| {
            p["port"]
                .as_i64()
                .map_or_else(|| "*".to_owned(), |n| n.to_string())
        })
        .collect();
    let addresses: Vec<String> = list(&object["endpoints"])
        .flat_map(|e| list(&e["addresses"]))
        .map(|a| text(a).to_owned())
        .collect();
    vec![
        name,
        object["addressType"].clone(),
        json!(up_to_three(&ports, "<unset>")),
        json!(up_to_three(&addresses, "<unset>")),
        age,
    ]
}

fn node(object: &Value, name: Value, age: Value) -> Vec<Value> {
    let status = &object["status"];
    let ready = list(&status["conditions"]).find(|c| c["type"] == "Ready");
    let mut state = match ready.map(|c| text(&c["status"])) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if object["spec"]["unschedulable"] == true {
        state.push_str(",SchedulingDisabled");
    }
    let mut roles: Vec<&str> = object["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| match k.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            _ if k == "kubernetes.io/role" => v.as_str(),
            _ => None,
        })
        .collect();
    roles.sort_unstable();
    let roles = if roles.is_empty() {
        "<none>".to_owned()
    } else {
        roles.join(",")
    };
    let address = |kind: &str| {
        let found = list(&status["addresses"]).find(|a| a["type"] == kind);
        found.map_or_else(|| "<none>".to_owned(), |a| or_none(&a["address"]))
    };
    let info = &status["nodeInfo"];
    let known = |v: &Value| {
        v.as_str()
            .filter(|s| !s.is_empty())
            .unwrap_or("<unknown>")
            .to_owned()
    };
    vec![
        name,
        json!(state),
        json!(roles),
        age,
        json!(text(&info["kubeletVersion"])),
        json!(address("InternalIP")),
        json!(address("ExternalIP")),
        json!(known(&info["osImage"])),
        json!(known(&info["kernelVersion"])),
        json!(known(&info["containerRuntimeVersion"])),
    ]
}

/// A core event.
pub(super) fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let first_of = |keys: &[&str]| {
        let time = keys.iter().map(|k| &object[*k]).find(|v| v.is_string());
        time.map_or_else(|| "<unknown>".to_owned(), |t| age::since(t, now))
    };
    let series = &object["series"];
    let (last, count) = if series.is_object() {
        (
            age::since(&series["lastObservedTime"], now),
            number(&series["count"]),
        )
    } else {
        (
            first_of(&["lastTimestamp", "eventTime"]),
            number(&object["count"]).max(1),
        )
    };
    let about = &object["involvedObject"];
    let mut target = text(&about["kind"]).to_lowercase();
    if !text(&about["name"]).is_empty() {
        target = format!("{target}/{}", text(&about["name"]));
    }
    let component = match text(&object["source"]["component"]) {
        "" => text(&object["reportingComponent"]),
        component => component,
    };
    let host = match text(&object["source"]["host"]) {
        "" => text(&object["reportingInstance"]),
        host => host,
    };
    let source = if host.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {host}")
    };
    vec![
        json!(last),
        json!(text(&object["type"])),
        json!(text(&object["reason"])),
        json!(target),
        json!(text(&about["fieldPath"])),
        json!(source),
        json!(text(&object["message"]).trim()),
        json!(first_of(&["firstTimestamp", "eventTime"])),
        json!(count),
        object["metadata"]["name"].clone(),
    ]
}

fn claim(object: &Value, name: Value, age: Value) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let phase = if object["metadata"]["deletionTimestamp"].is_null() {
        text(&status["phase"])
    } else {
        "Terminating"
    };
    let modes: Vec<&str> = list(&status["accessModes"])
        .map(|m| match text(m) {
            "ReadWriteOnce" => "RWO",
            "ReadOnlyMany" => "ROX",
            "ReadWriteMany" => "RWX",
            "ReadWriteOncePod" => "RWOP",
            other => other,
        })
        .collect();
    vec![
        name,
        json!(phase),
        json!(text(&spec["volumeName"])),
        json!(text(&status["capacity"]["storage"])),
        json!(modes.join(",")),
        json!(text(&spec["storageClassName"])),
        json!(
            spec["volumeAttributesClassName"]
                .as_str()
                .unwrap_or("<unset>")
        ),
        age,
        json!(spec["volumeMode"].as_str().unwrap_or("<unset>")),
    ]
}

fn quota(object: &Value, limits: bool) -> String {
    let hard = &object["status"]["hard"];
    let mut out: Vec<String> = hard
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(k, _)| k.starts_with("limits.") == limits)
        .map(|(k, v)| {
            format!(
                "{k}: {}/{}",
                text(&object["status"]["used"][k.as_str()]),
                text(v)
            )
        })
        .collect();
    out.sort();
    out.join(", ")
}

fn binding(object: &Value, name: Value, age: Value) -> Vec<Value> {
    let role = format!(
        "{}/{}",
        text(&object["roleRef"]["kind"]),
        text(&object["roleRef"]["name"])
    );
    let of = |kind: &str| {
        let names: Vec<String> = list(&object["subjects"])
            .filter(|s| s["kind"] == kind)
            .map(|s| match text(&s["namespace"]) {
                namespace if kind == "ServiceAccount" => {
                    format!("{namespace}/{}", text(&s["name"]))
                }
                _ => text(&s["name"]).to_owned(),
            })
            .collect();
        json!(names.join(", "))
    };
    vec![
        name,
        json!(role),
        age,
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

fn autoscaler(object: &Value, name: Value, age: Value) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let target = &spec["scaleTargetRef"];
    let targets: Vec<String> = list(&spec["metrics"])
        .enumerate()
        .map(|(i, m)| {
            let resource = &m["resource"];
            let current = &status["currentMetrics"][i]["resource"]["current"]["averageUtilization"];
            let shown = current
                .as_i64()
                .map_or_else(|| "<unknown>".to_owned(), |n| format!("{n}%"));
            match resource["target"]["averageUtilization"].as_i64() {
                Some(wanted) => format!("{}: {shown}/{wanted}%", text(&resource["name"])),
                None => "<unknown>".to_owned(),
            }
        })
        .collect();
    let targets = if targets.is_empty() {
        "<none>".to_owned()
    } else {
        targets.join(", ")
    };
    vec![
        name,
        json!(format!(
            "{}/{}",
            text(&target["kind"]),
            text(&target["name"])
        )),
        json!(targets),
        json!(
            spec["minReplicas"]
                .as_i64()
                .map_or_else(|| "<unset>".to_owned(), |n| n.to_string())
        ),
        json!(number(&spec["maxReplicas"]).to_string()),
        json!(number(&status["currentReplicas"])),
        age,
    ]
}

fn ingress(object: &Value, name: Value, age: Value) -> Vec<Value> {
    let spec = &object["spec"];
    let hosts: Vec<String> = list(&spec["rules"])
        .map(|r| text(&r["host"]).to_owned())
        .filter(|h| !h.is_empty())
        .collect();
    let addresses: Vec<&str> = list(&object["status"]["loadBalancer"]["ingress"])
        .map(|i| i["ip"].as_str().unwrap_or_else(|| text(&i["hostname"])))
        .collect();
    let ports = if list(&spec["tls"]).next().is_some() {
        "80, 443"
    } else {
        "80"
    };
    vec![
        name,
        json!(or_none(&spec["ingressClassName"])),
        json!(up_to_three(&hosts, "*")),
        json!(addresses.join(",")),
        json!(ports),
        age,
    ]
}
