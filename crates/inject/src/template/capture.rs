//! What redirects the pod's traffic into the proxy: an init container, or the network plug-in and a check.

use serde_json::{Map, Value, json};

use super::{Context, proxy};

/// The init container that sets capture up, or that checks what the network plug-in set up.
pub(super) fn container(context: &Context<'_>) -> Value {
    let values = &context.settings.values;
    let cni = values.pilot.cni.enabled;
    let mut container = json!({
        "name": if cni { "istio-validation" } else { "istio-init" },
        "image": proxy::image(context, &values.global.proxy_init.image),
        "args": arguments(context),
        "resources": proxy::resources(context),
        "securityContext": security(context),
    });
    if !values.global.image_pull_policy.is_empty() {
        container["imagePullPolicy"] = json!(values.global.image_pull_policy);
    }
    let env: Vec<Value> = context
        .proxy_metadata()
        .into_iter()
        .map(|(k, v)| json!({"name": k, "value": v}))
        .collect();
    if !env.is_empty() {
        container["env"] = Value::Array(env);
    }
    container
}

fn security(context: &Context<'_>) -> Value {
    let cni = context.settings.values.pilot.cni.enabled;
    let privileged = context.settings.values.global.proxy.privileged;
    let (user, group) = proxy::user(context);
    let mut capabilities = json!({"drop": ["ALL"]});
    if !cni {
        capabilities["add"] = json!(["NET_ADMIN", "NET_RAW"]);
    }
    json!({
        "allowPrivilegeEscalation": privileged,
        "privileged": privileged,
        "capabilities": capabilities,
        "readOnlyRootFilesystem": cni,
        "runAsGroup": if cni { group } else { 0 },
        "runAsNonRoot": cni,
        "runAsUser": if cni { user } else { 0 },
    })
}

/// What is captured, in the flags that the capture program shares with `istio-iptables`.
fn arguments(context: &Context<'_>) -> Vec<String> {
    let values = &context.settings.values;
    let proxy = &values.global.proxy;
    let told = |name: &str, default: &str| {
        let name = format!("traffic.sidecar.istio.io/{name}");
        context.annotation(&name).unwrap_or(default).to_owned()
    };
    let (user, _) = proxy::user(context);
    let mut args: Vec<String> = vec![values.global.proxy_init.command.clone()];
    let mut flag = |name: &str, value: String| args.extend([name.to_owned(), value]);
    flag("-p", "15001".to_owned());
    flag("-z", "15006".to_owned());
    flag("-u", user.to_string());
    flag("-m", context.interception_mode().to_owned());
    flag(
        "-i",
        told("includeOutboundIPRanges", &proxy.include_ip_ranges),
    );
    flag(
        "-x",
        told("excludeOutboundIPRanges", &proxy.exclude_ip_ranges),
    );
    flag(
        "-b",
        told("includeInboundPorts", &proxy.include_inbound_ports),
    );
    let excluded = excluded_inbound(
        &told("excludeInboundPorts", &proxy.exclude_inbound_ports),
        context.status_port,
    );
    flag(
        "-d",
        format!(
            "15090,15021{}{excluded}",
            if excluded.is_empty() { "" } else { "," }
        ),
    );
    let virtual_interfaces = context
        .annotation("istio.io/reroute-virtual-interfaces")
        .map_or_else(|| told("kubevirtInterfaces", ""), str::to_owned);
    for (name, value) in [
        (
            "-q",
            told("includeOutboundPorts", &proxy.include_outbound_ports),
        ),
        (
            "-o",
            told("excludeOutboundPorts", &proxy.exclude_outbound_ports),
        ),
        ("-k", virtual_interfaces),
        ("-c", told("excludeInterfaces", "")),
    ] {
        if !value.is_empty() {
            flag(name, value);
        }
    }
    args.push(format!(
        "--log_output_level={}",
        values.global.logging.level
    ));
    if values.pilot.cni.enabled {
        args.extend([
            "--run-validation".to_owned(),
            "--skip-rule-apply".to_owned(),
        ]);
    }
    args
}

/// The user's ports and the agent's, each once.
fn excluded_inbound(ports: &str, status_port: u16) -> String {
    let mut all: Vec<String> = ports
        .split(',')
        .map(|p| p.trim().to_owned())
        .filter(|p| !p.is_empty())
        .collect();
    let status = status_port.to_string();
    if status_port != 0 && !all.contains(&status) {
        all.push(status);
    }
    all.join(",")
}

/// Tells the network plug-in what to capture.
pub(super) fn annotate_for_cni(context: &Context<'_>, annotations: &mut Map<String, Value>) {
    let proxy = &context.settings.values.global.proxy;
    let mut set =
        |name: &str, value: String| annotations.insert(name.to_owned(), Value::String(value));
    if context.settings.values.pilot.cni.provider == "multus" {
        let attached = context.annotation("k8s.v1.cni.cncf.io/networks");
        set(
            "k8s.v1.cni.cncf.io/networks",
            with_network(attached, "default/istio-cni"),
        );
    }
    set(
        "sidecar.istio.io/interceptionMode",
        context.interception_mode().to_owned(),
    );
    for (name, default) in [
        ("includeOutboundIPRanges", &proxy.include_ip_ranges),
        ("excludeOutboundIPRanges", &proxy.exclude_ip_ranges),
        ("includeInboundPorts", &proxy.include_inbound_ports),
        ("includeOutboundPorts", &proxy.include_outbound_ports),
        ("excludeOutboundPorts", &proxy.exclude_outbound_ports),
    ] {
        let name = format!("traffic.sidecar.istio.io/{name}");
        let value = context.annotation(&name).unwrap_or(default);
        if !value.is_empty() {
            set(&name, value.to_owned());
        }
    }
    let name = "traffic.sidecar.istio.io/excludeInboundPorts";
    let ports = context
        .annotation(name)
        .unwrap_or(&proxy.exclude_inbound_ports);
    set(name, excluded_inbound(ports, context.status_port));
}

/// Adds a network to a list in any of the two notations that are in use.
fn with_network(attached: Option<&str>, network: &str) -> String {
    match attached {
        None | Some("") => network.to_owned(),
        Some(list) if list.contains(network) => list.to_owned(),
        Some(list) => match serde_json::from_str::<Vec<Value>>(list) {
            Ok(mut items) => {
                let (namespace, name) = network.split_once('/').unwrap_or(("", network));
                items.push(json!({"name": name, "namespace": namespace}));
                Value::Array(items).to_string()
            }
            Err(_) => format!("{list}, {network}"),
        },
    }
}
