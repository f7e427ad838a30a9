//! Start, restart, and what the control plane writes into every namespace.

use serde_json::json;

use crate::support::{Mesh, ROOT};

#[tokio::test]
async fn nothing_is_served_before_the_first_snapshot() {
    let mut mesh = Mesh::empty().await;
    mesh.start_control_plane().await;
    // Without the custom resources' definitions their lists never complete.
    let (status, body) = mesh.page("/ready").await;
    assert_eq!(
        (status, body.as_str()),
        (503, "the first snapshot is not complete\n")
    );
    mesh.install().await;
    mesh.ready().await;
    assert_eq!(mesh.page("/ready").await.0, 200);
}

#[tokio::test]
async fn a_control_plane_that_is_not_ready_stops_when_it_is_told_to() {
    let mut mesh = Mesh::empty().await;
    mesh.start_control_plane().await;
    mesh.stop_control_plane().await;
}

#[tokio::test]
async fn the_root_survives_a_restart() {
    let mut mesh = Mesh::start().await;
    let before = mesh.root().await;
    mesh.stop_control_plane().await;
    mesh.start_control_plane().await;
    mesh.ready().await;
    assert_eq!(mesh.root().await, before);
    // The serving certificate chains to it.
    crate::client::secure(mesh.control().addresses().secure, &before).await;
}

#[tokio::test]
async fn every_namespace_has_the_trust_bundle_and_gets_it_back() {
    let mesh = Mesh::start().await;
    let root = mesh.root().await;
    mesh.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "later"}}))
        .await;
    let maps = || mesh.kind("v1", "ConfigMap", Some("later"));
    let is_bundle = |map: &serde_json::Value| {
        map["metadata"]["name"] == "istio-ca-root-cert" && map["data"]["root-cert.pem"] == root
    };
    mesh.until("the bundle in a new namespace", maps(), is_bundle)
        .await;
    let changed = mesh
        .apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "istio-ca-root-cert", "namespace": "later"},
            "data": {"root-cert.pem": "mine"},
        }))
        .await;
    let version = json!(changed.metadata.resource_version);
    let restored = mesh
        .until("the bundle after a change", maps(), is_bundle)
        .await;
    assert_ne!(restored["metadata"]["resourceVersion"], version);
    meltemi_kube::write::delete(&maps(), "istio-ca-root-cert", Default::default())
        .await
        .expect("deleted");
    mesh.until("the bundle after a deletion", maps(), is_bundle)
        .await;
    mesh.until(
        "the bundle beside the control plane",
        mesh.kind("v1", "ConfigMap", Some(ROOT)),
        is_bundle,
    )
    .await;
}
