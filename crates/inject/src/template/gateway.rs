//! A gateway: a pod that is nothing but a proxy; the user's container is filled in.

use serde_json::{Value, json};

use super::{Context, proxy, volumes};

pub(super) fn render(context: &Context<'_>) -> Value {
    let (user, group) = proxy::user(context);
    let mut container = proxy::container(context, "router");
    container["securityContext"] = json!({"runAsUser": user, "runAsGroup": group});
    if context.settings.values.global.proxy.mark_traffic {
        container["securityContext"]["capabilities"] = json!({"add": ["NET_RAW"]});
    }
    json!({
        "metadata": {
            "labels": proxy::canonical_labels(context),
            "annotations": {"istio.io/rev": context.revision},
        },
        "spec": {
            // Ports below 1024 without a capability.
            "securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]},
            "containers": [container],
            "volumes": volumes::gateway(context),
        },
    })
}
