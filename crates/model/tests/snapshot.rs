//! Objects in, snapshots and their differences out.

use meltemi_model::{Changes, Client, Inputs, Kind, MeshConfig, ObjectKey, Snapshot};
use meltemi_names::{Hostname, Labels};
use serde_json::{Value, json};

const REVIEWS: &str = "reviews.default.svc.cluster.local";

fn service(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"clusterIP": "10.96.0.9", "selector": {"app": name}, "ports": [{"name": "http", "port": 9080}]},
    })
}

fn pod(name: &str, ip: &str, account: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "reviews", "version": "v1"}},
        "spec": {"serviceAccountName": account},
        "status": {"podIP": ip, "phase": "Running"},
    })
}

fn slice(pods: &[(&str, &str, bool)]) -> Value {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|(name, ip, ready)| {
            json!({"addresses": [ip], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": name}})
        })
        .collect();
    json!({
        "metadata": {"name": "reviews-x", "namespace": "default", "labels": {"kubernetes.io/service-name": "reviews"}},
        "addressType": "IPv4", "ports": [{"name": "http", "port": 9080}], "endpoints": endpoints,
    })
}

fn rule(name: &str, spec: Value) -> Value {
    object(name, "default", "2026-01-01T00:00:00Z", spec)
}

fn object(name: &str, namespace: &str, created: &str, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": namespace, "creationTimestamp": created}, "spec": spec})
}

fn routes_to(subset: &str) -> Value {
    let route = json!([{"destination": {"host": "reviews", "subset": subset}}]);
    rule(
        "reviews",
        json!({"hosts": ["reviews"], "http": [{"route": route}]}),
    )
}

fn subsets(names: &[&str]) -> Value {
    let subsets: Vec<Value> = names
        .iter()
        .map(|n| json!({"name": n, "labels": {"version": n}}))
        .collect();
    rule("reviews", json!({"host": "reviews", "subsets": subsets}))
}

fn mesh_with_reviews() -> Inputs {
    let mut inputs = Inputs::new(MeshConfig::default());
    inputs
        .apply(Kind::Service, &service("reviews"))
        .expect("service");
    inputs
        .apply(Kind::Pod, &pod("r1", "10.0.0.1", "reviews"))
        .expect("pod");
    inputs
        .apply(Kind::EndpointSlice, &slice(&[("r1", "10.0.0.1", true)]))
        .expect("slice");
    inputs.snapshot();
    inputs
}

fn in_effect(snapshot: &Snapshot) -> Vec<String> {
    let routes = snapshot.routes_for(&meltemi_model::routing::GatewayRef::Mesh, "default");
    routes
        .iter()
        .flat_map(|routes| {
            routes
                .destinations()
                .map(|d| d.subset.to_string())
                .collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn an_endpoint_that_becomes_unready_is_a_change_of_endpoints_only() {
    let mut inputs = mesh_with_reviews();
    inputs
        .apply(Kind::EndpointSlice, &slice(&[("r1", "10.0.0.1", false)]))
        .expect("slice");
    let (_, changes) = inputs.snapshot();
    assert!(changes.only_endpoints(), "{changes:?}");
    assert_eq!(changes.endpoints, [Hostname::from(REVIEWS)].into());
}

#[test]
fn an_endpoint_of_another_identity_is_a_change_of_the_service() {
    let mut inputs = mesh_with_reviews();
    inputs
        .apply(Kind::Pod, &pod("r2", "10.0.0.2", "other"))
        .expect("pod");
    inputs
        .apply(
            Kind::EndpointSlice,
            &slice(&[("r1", "10.0.0.1", true), ("r2", "10.0.0.2", true)]),
        )
        .expect("slice");
    let (snapshot, changes) = inputs.snapshot();
    assert_eq!(changes.services, [Hostname::from(REVIEWS)].into());
    let endpoints = snapshot.endpoints(&REVIEWS.into()).expect("known");
    assert_eq!(endpoints.identities().len(), 2);
    assert_eq!(endpoints.of_port("http").len(), 2);
}

#[test]
fn a_pod_that_arrives_after_its_slice_gives_the_endpoint_its_identity() {
    let mut inputs = Inputs::new(MeshConfig::default());
    inputs
        .apply(Kind::Service, &service("reviews"))
        .expect("service");
    inputs
        .apply(Kind::EndpointSlice, &slice(&[("r1", "10.0.0.1", true)]))
        .expect("slice");
    let (before, _) = inputs.snapshot();
    assert!(
        before
            .endpoints(&REVIEWS.into())
            .expect("known")
            .identities()
            .is_empty()
    );
    inputs
        .apply(Kind::Pod, &pod("r1", "10.0.0.1", "reviews"))
        .expect("pod");
    let (after, _) = inputs.snapshot();
    assert_eq!(
        after
            .endpoints(&REVIEWS.into())
            .expect("known")
            .identities()
            .len(),
        1
    );
}

#[test]
fn an_object_that_is_applied_again_changes_nothing() {
    let mut inputs = mesh_with_reviews();
    inputs
        .apply(Kind::Service, &service("reviews"))
        .expect("service");
    inputs
        .apply(Kind::Pod, &pod("r1", "10.0.0.1", "reviews"))
        .expect("pod");
    assert_eq!(inputs.snapshot().1, Changes::default());
}

#[test]
fn an_unreadable_object_leaves_its_previous_version_in_force() {
    let mut inputs = mesh_with_reviews();
    inputs
        .apply(Kind::DestinationRule, &subsets(&["v1"]))
        .expect("rule");
    inputs
        .apply(Kind::VirtualService, &routes_to("v1"))
        .expect("routes");
    inputs.snapshot();
    let broken = rule(
        "reviews",
        json!({"hosts": ["reviews"], "http": [{"timeout": "soon", "route": []}]}),
    );
    let error = inputs
        .apply(Kind::VirtualService, &broken)
        .expect_err("refused");
    assert_eq!(
        error.to_string(),
        "VirtualService default/reviews is not usable; its previous version stays in force"
    );
    assert_eq!(in_effect(&inputs.snapshot().0), ["v1"]);
}

#[test]
fn routes_before_their_subsets_wait_for_them() {
    let mut inputs = mesh_with_reviews();
    inputs
        .apply(Kind::VirtualService, &routes_to("v1"))
        .expect("routes");
    let (snapshot, _) = inputs.snapshot();
    assert!(in_effect(&snapshot).is_empty());
    assert_eq!(
        snapshot.held()[0].reason(),
        "held back: subset `v1` of reviews.default.svc.cluster.local does not exist yet; it is not in effect until a \
         DestinationRule for that host defines it"
    );
    inputs
        .apply(Kind::DestinationRule, &subsets(&["v1"]))
        .expect("rule");
    let (snapshot, changes) = inputs.snapshot();
    assert_eq!(in_effect(&snapshot), ["v1"]);
    assert!(snapshot.held().is_empty());
    assert!(
        changes.has(Kind::VirtualService),
        "a released route is a change of its own: {changes:?}"
    );
}

#[test]
fn an_update_that_names_a_missing_subset_keeps_the_previous_routes_also_after_a_restart() {
    let mut inputs = mesh_with_reviews();
    inputs
        .apply(Kind::DestinationRule, &subsets(&["v1"]))
        .expect("rule");
    inputs
        .apply(Kind::VirtualService, &routes_to("v1"))
        .expect("routes");
    let stored = inputs.snapshot().0.safe_order().clone();
    inputs
        .apply(Kind::VirtualService, &routes_to("v2"))
        .expect("routes");
    let (snapshot, _) = inputs.snapshot();
    assert_eq!(in_effect(&snapshot), ["v1"]);
    assert!(snapshot.held()[0].earlier_in_effect);

    let stored: Value = serde_json::to_value(&stored).expect("serializable");
    let mut restarted = mesh_with_reviews();
    restarted.set_safe_order(serde_json::from_value(stored).expect("readable"));
    restarted
        .apply(Kind::DestinationRule, &subsets(&["v1"]))
        .expect("rule");
    restarted
        .apply(Kind::VirtualService, &routes_to("v2"))
        .expect("routes");
    assert_eq!(in_effect(&restarted.snapshot().0), ["v1"]);
}

#[test]
fn a_subset_that_is_deleted_after_it_existed_holds_nothing_back() {
    let mut inputs = mesh_with_reviews();
    inputs
        .apply(Kind::DestinationRule, &subsets(&["v1", "v2"]))
        .expect("rule");
    inputs
        .apply(Kind::VirtualService, &routes_to("v1"))
        .expect("routes");
    inputs.snapshot();
    inputs.remove(&ObjectKey::new(Kind::DestinationRule, "default", "reviews"));
    inputs
        .apply(Kind::VirtualService, &routes_to("v2"))
        .expect("routes");
    let (snapshot, _) = inputs.snapshot();
    assert_eq!(in_effect(&snapshot), ["v2"]);
    assert!(snapshot.held().is_empty());
}

#[test]
fn destination_rules_are_found_in_the_clients_namespace_then_the_services_then_the_root() {
    let policy =
        |lb: &str| json!({"host": REVIEWS, "trafficPolicy": {"loadBalancer": {"simple": lb}}});
    let mut inputs = mesh_with_reviews();
    let find = |inputs: &mut Inputs, namespace: &str| {
        let (snapshot, _) = inputs.snapshot();
        let service = snapshot
            .service(&REVIEWS.into(), namespace)
            .expect("visible")
            .clone();
        let client = Client {
            namespace,
            labels: &Labels::new(),
        };
        snapshot
            .destination_rule(client, &service)
            .map(|rule| rule.meta.namespace.to_string())
    };
    assert_eq!(find(&mut inputs, "client"), None);
    for namespace in ["istio-system", "default", "client"] {
        let rule = object("r", namespace, "2026-01-01T00:00:00Z", policy("RANDOM"));
        inputs.apply(Kind::DestinationRule, &rule).expect("rule");
        assert_eq!(find(&mut inputs, "client").as_deref(), Some(namespace));
    }
    assert_eq!(
        find(&mut inputs, "istio-system").as_deref(),
        Some("default")
    );
}

#[test]
fn rules_for_one_host_merge_and_the_oldest_wins() {
    let mut inputs = mesh_with_reviews();
    let old = json!({"host": "reviews", "subsets": [{"name": "v1", "labels": {"version": "old"}}]});
    let young = json!({"host": "reviews", "trafficPolicy": {"loadBalancer": {"simple": "RANDOM"}},
        "subsets": [{"name": "v1", "labels": {"version": "young"}}, {"name": "v2", "labels": {"version": "v2"}}]});
    inputs
        .apply(
            Kind::DestinationRule,
            &object("a", "default", "2026-02-01T00:00:00Z", young),
        )
        .expect("rule");
    inputs
        .apply(
            Kind::DestinationRule,
            &object("b", "default", "2026-01-01T00:00:00Z", old),
        )
        .expect("rule");
    let (snapshot, _) = inputs.snapshot();
    let service = snapshot
        .service(&REVIEWS.into(), "default")
        .expect("visible")
        .clone();
    let client = Client {
        namespace: "default",
        labels: &Labels::new(),
    };
    let merged = snapshot.destination_rule(client, &service).expect("found");
    assert_eq!(
        merged
            .subset("v1")
            .and_then(|s| s.labels.get("version"))
            .map(|v| v.as_str()),
        Some("old")
    );
    assert!(merged.subset("v2").is_some() && merged.policy.is_some());
}

#[test]
fn exported_objects_are_seen_only_where_they_are_exported_to() {
    let mut inputs = mesh_with_reviews();
    let mut private = service("hidden");
    private["metadata"]["annotations"] = json!({"networking.istio.io/exportTo": "."});
    inputs.apply(Kind::Service, &private).expect("service");
    let (snapshot, _) = inputs.snapshot();
    let hosts = |namespace| {
        snapshot
            .services_for(namespace)
            .map(|s| s.meta.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(hosts("default"), ["hidden", "reviews"]);
    assert_eq!(hosts("other"), ["reviews"]);
}

#[test]
fn a_service_whose_only_workload_restarts_keeps_its_identity() {
    let mut inputs = mesh_with_reviews();
    inputs
        .apply(Kind::EndpointSlice, &slice(&[]))
        .expect("slice");
    let (snapshot, changes) = inputs.snapshot();
    assert!(changes.only_endpoints(), "{changes:?}");
    let endpoints = snapshot.endpoints(&REVIEWS.into()).expect("known");
    assert_eq!(
        (
            endpoints.identities().len(),
            endpoints.of_port("http").len()
        ),
        (1, 0)
    );
}

#[test]
fn several_missing_subsets_are_named_in_one_sentence() {
    let mut inputs = mesh_with_reviews();
    let route = json!([
        {"destination": {"host": "reviews", "subset": "v1"}, "weight": 50},
        {"destination": {"host": "reviews", "subset": "v2"}, "weight": 50},
    ]);
    let routes = rule(
        "reviews",
        json!({"hosts": ["reviews"], "http": [{"route": route}]}),
    );
    inputs.apply(Kind::VirtualService, &routes).expect("routes");
    let (snapshot, _) = inputs.snapshot();
    assert_eq!(
        snapshot.held()[0].reason(),
        "held back: subsets `v1` of reviews.default.svc.cluster.local, `v2` of reviews.default.svc.cluster.local do \
         not exist yet; it is not in effect until DestinationRules for their hosts define them"
    );
}

#[test]
fn subsets_of_hosts_that_nobody_mentions_are_forgotten() {
    let mut inputs = mesh_with_reviews();
    inputs
        .apply(Kind::DestinationRule, &subsets(&["v1"]))
        .expect("rule");
    assert_eq!(inputs.snapshot().0.safe_order().subsets.len(), 1);
    inputs.remove(&ObjectKey::new(Kind::DestinationRule, "default", "reviews"));
    assert_eq!(
        inputs.snapshot().0.safe_order().subsets.len(),
        1,
        "it has existed"
    );
    inputs.remove(&ObjectKey::new(Kind::Service, "default", "reviews"));
    inputs
        .apply(
            Kind::DestinationRule,
            &object("other", "default", "", json!({"host": "x"})),
        )
        .expect("rule");
    assert!(inputs.snapshot().0.safe_order().subsets.is_empty());
}

#[test]
fn a_wildcard_rule_defines_the_subsets_of_its_hosts() {
    let mut inputs = mesh_with_reviews();
    let wildcard = json!({"host": "*.default.svc.cluster.local", "subsets": [{"name": "v1", "labels": {"version": "v1"}}]});
    inputs
        .apply(Kind::DestinationRule, &rule("all", wildcard))
        .expect("rule");
    inputs
        .apply(Kind::VirtualService, &routes_to("v1"))
        .expect("routes");
    assert_eq!(in_effect(&inputs.snapshot().0), ["v1"]);
}
