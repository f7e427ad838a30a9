use meltemi_upstream::connect::SocketDefaults;
use serde_json::{Value, json};

use super::*;
use crate::state::NodeIdentity;

fn subscription() -> Subscription {
    let shared = Shared::new(NodeIdentity::default(), SocketDefaults::default(), 1);
    Subscription::new(shared, Arc::default())
}

fn received(kind: DumpKind, name: &str, message: &Value) -> Received {
    let body = meltemi_proto::json::to_wire(kind.message(), message).unwrap();
    Received {
        name: name.into(),
        body: body.into(),
    }
}

fn update(kind: DumpKind, resources: &[(&str, Value)]) -> Update {
    let resources = resources
        .iter()
        .map(|(name, message)| received(kind, name, message))
        .collect();
    Update {
        resources,
        removed: Vec::new(),
    }
}

fn eds_cluster(name: &str) -> Value {
    json!({"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}}})
}

fn assignment(name: &str) -> Value {
    let address = json!({"socket_address": {"address": "10.0.0.1", "port_value": 80}});
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]})
}

fn listener(name: &str, route: &str) -> Value {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "rds": {"route_config_name": route, "config_source": {"ads": {}, "resource_api_version": "V3"}},
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
        }],
    });
    json!({
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
    })
}

fn route(name: &str) -> Value {
    let action = json!({"match": {"prefix": "/"}, "route": {"cluster": "a"}});
    json!({"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [action]}]})
}

fn wanted(subscription: &Subscription, kind: &ResourceType) -> Vec<String> {
    match subscription.wanted(kind) {
        Names::All => vec!["*".to_owned()],
        Names::Some(names) => names.iter().map(ToString::to_string).collect(),
    }
}

#[tokio::test]
async fn a_cluster_serves_once_its_endpoints_are_there() {
    let mut subscription = subscription();
    subscription
        .apply(
            &ResourceType::Cluster,
            update(DumpKind::Cluster, &[("a", eds_cluster("a"))]),
        )
        .unwrap();
    assert_eq!(wanted(&subscription, &ResourceType::Endpoint), ["a"]);
    assert!(subscription.shared.clusters.get("a").is_none());
    subscription
        .apply(
            &ResourceType::Endpoint,
            update(DumpKind::Endpoint, &[("a", assignment("a"))]),
        )
        .unwrap();
    assert_eq!(
        subscription
            .shared
            .clusters
            .get("a")
            .unwrap()
            .hosts
            .load()
            .all()
            .len(),
        1
    );
}

#[tokio::test]
async fn a_listener_starts_once_its_routes_are_there_and_then_the_proxy_is_live() {
    let mut subscription = subscription();
    subscription
        .apply(&ResourceType::Cluster, Update::default())
        .unwrap();
    subscription
        .apply(
            &ResourceType::Listener,
            update(DumpKind::Listener, &[("l", listener("l", "80"))]),
        )
        .unwrap();
    assert_eq!(wanted(&subscription, &ResourceType::Route), ["80"]);
    let shared = Arc::clone(&subscription.shared);
    assert!(shared.listeners.table().listeners.is_empty());
    assert!(!shared.live.load(Ordering::Acquire));
    subscription
        .apply(
            &ResourceType::Route,
            update(DumpKind::Route, &[("80", route("80"))]),
        )
        .unwrap();
    assert_eq!(shared.listeners.table().bound.len(), 1);
    assert!(shared.live.load(Ordering::Acquire));
}

#[tokio::test]
async fn a_refused_resource_is_named_and_the_others_are_taken() {
    let mut subscription = subscription();
    let mut bad = eds_cluster("bad");
    bad["health_checks"] = json!([{"timeout": "1s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1,
        "tcp_health_check": {}}]);
    let both = update(DumpKind::Cluster, &[("bad", bad), ("a", eds_cluster("a"))]);
    let reason = subscription
        .apply(&ResourceType::Cluster, both)
        .unwrap_err();
    assert!(
        reason.contains("bad") && !reason.contains("\"a\""),
        "{reason}"
    );
    subscription
        .apply(
            &ResourceType::Endpoint,
            update(DumpKind::Endpoint, &[("a", assignment("a"))]),
        )
        .unwrap();
    assert!(subscription.shared.clusters.get("a").is_some());
    assert!(subscription.shared.clusters.get("bad").is_none());
}

#[tokio::test]
async fn an_identical_update_changes_nothing() {
    let mut subscription = subscription();
    let clusters = update(DumpKind::Cluster, &[("a", eds_cluster("a"))]);
    subscription
        .apply(&ResourceType::Cluster, clusters.clone())
        .unwrap();
    subscription
        .apply(
            &ResourceType::Endpoint,
            update(DumpKind::Endpoint, &[("a", assignment("a"))]),
        )
        .unwrap();
    let before = subscription.shared.clusters.get("a").unwrap();
    subscription
        .apply(&ResourceType::Cluster, clusters)
        .unwrap();
    assert!(Arc::ptr_eq(
        &before,
        &subscription.shared.clusters.get("a").unwrap()
    ));
}

#[tokio::test]
async fn what_is_removed_is_no_longer_wanted() {
    let mut subscription = subscription();
    subscription
        .apply(
            &ResourceType::Cluster,
            update(DumpKind::Cluster, &[("a", eds_cluster("a"))]),
        )
        .unwrap();
    subscription
        .apply(
            &ResourceType::Listener,
            update(DumpKind::Listener, &[("l", listener("l", "80"))]),
        )
        .unwrap();
    let gone = |name: &str| Update {
        resources: Vec::new(),
        removed: vec![name.into()],
    };
    subscription
        .apply(&ResourceType::Cluster, gone("a"))
        .unwrap();
    subscription
        .apply(&ResourceType::Listener, gone("l"))
        .unwrap();
    assert!(wanted(&subscription, &ResourceType::Endpoint).is_empty());
    assert!(wanted(&subscription, &ResourceType::Route).is_empty());
}
