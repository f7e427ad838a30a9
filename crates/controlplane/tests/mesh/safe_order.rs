//! Routes that are written before the subsets they name.

use serde_json::{Value, json};
use tonic::metadata::MetadataMap;

use meltemi_xds::ResourceType;

use crate::{
    client::{ROUTE, Seen, Sidecar, node, plain},
    support::{Mesh, ROOT},
};

const NETWORKING: &str = "networking.istio.io/v1";

async fn connect(mesh: &mut Mesh) -> Sidecar {
    let channel = plain(mesh.control().addresses().plain).await;
    Sidecar::connect(channel, MetadataMap::new(), node("default", ""))
}

fn routes(subset: &str) -> Value {
    json!({
        "apiVersion": NETWORKING, "kind": "VirtualService",
        "metadata": {"name": "reviews", "namespace": "default"},
        "spec": {"hosts": ["reviews"], "http": [{"route": [{"destination": {"host": "reviews", "subset": subset}}]}]},
    })
}

fn subsets(names: &[&str]) -> Value {
    let subsets: Vec<_> = names
        .iter()
        .map(|name| json!({"name": name, "labels": {"version": name}}))
        .collect();
    json!({
        "apiVersion": NETWORKING, "kind": "DestinationRule",
        "metadata": {"name": "reviews", "namespace": "default"},
        "spec": {"host": "reviews", "subsets": subsets},
    })
}

fn routed_to(seen: &Seen, subset: &str) -> bool {
    let wanted = format!("outbound|9080|{subset}|reviews.default.svc.cluster.local");
    let route = seen.get(&(ResourceType::Route, ROUTE.to_owned()));
    route.is_some_and(|body| {
        body.windows(wanted.len())
            .any(|window| window == wanted.as_bytes())
    })
}

fn condition(object: &Value, status: &str) -> bool {
    object["status"]["conditions"][0]["type"] == "Reconciled"
        && object["status"]["conditions"][0]["status"] == status
}

#[tokio::test]
async fn routes_wait_for_their_subsets_also_across_a_restart() {
    let mut mesh = Mesh::start().await;
    mesh.apply(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "reviews", "namespace": "default"},
        "spec": {"selector": {"app": "reviews"}, "ports": [{"name": "http", "port": 9080}]},
    }))
    .await;
    let mut sidecar = connect(&mut mesh).await;
    mesh.apply(subsets(&["v1"])).await;
    mesh.apply(routes("v1")).await;
    sidecar
        .until("the route to v1", |seen| routed_to(seen, "v1"))
        .await;
    let maps = || mesh.kind("v1", "ConfigMap", Some(ROOT));
    mesh.until("the record", maps(), |map| {
        map["data"]["record"]
            .as_str()
            .is_some_and(|record| record.contains("\"v1\""))
    })
    .await;

    // The subset does not exist yet: the routes of before stay.
    mesh.apply(routes("v2")).await;
    let services = || mesh.kind(NETWORKING, "VirtualService", Some("default"));
    let held = mesh
        .until("the condition", services(), |object| {
            condition(object, "False")
        })
        .await;
    let message = held["status"]["conditions"][0]["message"]
        .as_str()
        .expect("message");
    assert_eq!(
        message,
        "held back: subset `v2` of reviews.default.svc.cluster.local does not exist yet; its previous routes stay in \
         effect until a DestinationRule for that host defines it"
    );
    mesh.until(
        "the event",
        mesh.kind("v1", "Event", Some("default")),
        |event| event["reason"] == "SubsetsMissing" && event["type"] == "Warning",
    )
    .await;
    assert!(routed_to(&sidecar.seen.borrow(), "v1"));
    drop(sidecar);

    mesh.stop_control_plane().await;
    mesh.start_control_plane().await;
    mesh.ready().await;
    let mut sidecar = connect(&mut mesh).await;
    let seen = sidecar
        .until("a route after the restart", |seen| {
            seen.contains_key(&(ResourceType::Route, ROUTE.to_owned()))
        })
        .await;
    assert!(
        routed_to(&seen, "v1"),
        "the routes of before, not those that are held"
    );

    mesh.apply(subsets(&["v1", "v2"])).await;
    sidecar
        .until("the route to v2", |seen| routed_to(seen, "v2"))
        .await;
    let services = mesh.kind(NETWORKING, "VirtualService", Some("default"));
    mesh.until("the condition's end", services, |object| {
        condition(object, "True")
    })
    .await;
    // The restarted control plane found told what it had to tell.
    let events = mesh.kind("v1", "Event", Some("default"));
    let events = events.list(&Default::default()).await.expect("events");
    let told = events
        .iter()
        .filter(|event| event.data["reason"] == "SubsetsMissing");
    let counts: Vec<_> = told.map(|event| event.data["count"].clone()).collect();
    assert_eq!(counts, [json!(1)]);
}
