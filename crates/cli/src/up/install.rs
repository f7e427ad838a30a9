//! Installing the mesh and the sample: objects applied through the Kubernetes API, as a user would.

use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Namespace;
use meltemi_install::{Values, manifests};
use meltemi_kube::{Api, Client, DynamicObject, write};
use serde_json::{Value, json};

use crate::arguments::{DataPlane, Up};

/// Namespace of the control plane.
pub(crate) const NAMESPACE: &str = "istio-system";
/// Objects applied at the same time.
const PARALLEL: usize = 8;
/// Namespace of the sample.
const SAMPLE_NAMESPACE: &str = "default";
/// Bookinfo's services and workloads, and its way in.
const BOOKINFO: [(&str, &str); 2] = [
    (
        "bookinfo.yaml",
        include_str!("../../../../samples/bookinfo/bookinfo.yaml"),
    ),
    (
        "gateway.yaml",
        include_str!("../../../../samples/bookinfo/gateway.yaml"),
    ),
];

/// Applies the control plane and the ingress gateway: first what others refer to, last what starts pods.
pub(crate) async fn mesh(client: &Client, up: &Up) -> anyhow::Result<()> {
    let kind = |object: &Value| object["kind"].as_str().unwrap_or_default().to_owned();
    let (namespaces, rest): (Vec<_>, Vec<_>) = manifests(&values(up)?)
        .into_iter()
        .partition(|one| kind(one) == "Namespace");
    let (deployments, rest): (Vec<_>, Vec<_>) =
        rest.into_iter().partition(|one| kind(one) == "Deployment");
    for objects in [namespaces, rest, deployments] {
        apply_all(client, objects).await?;
    }
    Ok(())
}

/// Applies objects that do not wait for each other.
async fn apply_all(client: &Client, objects: Vec<Value>) -> anyhow::Result<()> {
    let requests = objects.into_iter().map(|object| apply(client, object));
    futures::stream::iter(requests)
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
}

fn values(up: &Up) -> anyhow::Result<Values> {
    let mut values = Values::demo();
    let proxy = &mut values.injection.global.proxy;
    // An ordinary user has one uid, so that proxies cannot be told apart by theirs: they mark their sockets.
    proxy.mark_traffic = !nix::unistd::geteuid().is_root();
    if up.data_plane == DataPlane::Envoy {
        let path = up
            .envoy
            .as_ref()
            .context("--data-plane envoy needs --envoy FILE")?;
        let path =
            std::fs::canonicalize(path).with_context(|| format!("Envoy {}", path.display()))?;
        "envoy".clone_into(&mut proxy.engine);
        proxy.engine_host_path = path.display().to_string();
    }
    Ok(values)
}

/// Labels the sample's namespace for injection and applies Bookinfo.
pub(crate) async fn bookinfo(client: &Client) -> anyhow::Result<()> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let label = json!({"metadata": {"labels": {"istio-injection": "enabled"}}});
    write::merge_patch(&namespaces, SAMPLE_NAMESPACE, &label)
        .await
        .with_context(|| format!("label the namespace {SAMPLE_NAMESPACE} for injection"))?;
    let mut objects = Vec::new();
    for (file, text) in BOOKINFO {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text)
            .with_context(|| format!("read the built-in {file}"))?;
        objects.extend(
            documents
                .into_iter()
                .filter(Value::is_object)
                .map(|mut object| {
                    object["metadata"]["namespace"] = SAMPLE_NAMESPACE.into();
                    object
                }),
        );
    }
    apply_all(client, objects).await
}

/// Creates an object, or merges it over the one of an earlier start.
async fn apply(client: &Client, object: Value) -> anyhow::Result<()> {
    let text = |path: &str| {
        object
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (kind, name, namespace) = (
        text("/kind"),
        text("/metadata/name"),
        text("/metadata/namespace"),
    );
    let api_version = text("/apiVersion");
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let resource = meltemi_kube::resource(group, version, &kind, &plural(&kind));
    let api: Api<DynamicObject> = if namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), &namespace, &resource)
    };
    let object = write::dynamic(object).with_context(|| format!("the built-in {kind} {name}"))?;
    write::upsert(&api, &object)
        .await
        .with_context(|| format!("apply {kind} {name}"))?;
    Ok(())
}

/// Resource name of a kind: Kubernetes' rule for English plurals covers every kind that is installed here.
fn plural(kind: &str) -> String {
    let lower = kind.to_lowercase();
    match lower.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o']) => format!("{stem}ies"),
        _ if lower.ends_with('s') => format!("{lower}es"),
        _ => format!("{lower}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals_follow_kubernetes() {
        assert_eq!(plural("Gateway"), "gateways");
        assert_eq!(plural("NetworkPolicy"), "networkpolicies");
        assert_eq!(
            plural("MutatingWebhookConfiguration"),
            "mutatingwebhookconfigurations"
        );
    }
}
