use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use meltemi_traffic::Str;
use meltemi_traffic::discovery::{Reference, Source};
use meltemi_upstream::connect::SocketDefaults;
use meltemi_xds::client::Received;
use serde_json::{Value, json};

use super::*;
use crate::admin::{Dump, DumpKind};
use crate::state::{NodeIdentity, Shared};

/// A proxy that gets everything from the aggregated stream.
fn hub() -> (Hub, Arc<Shared>) {
    let shared = Shared::new(
        NodeIdentity::default(),
        crate::state::ProcessFacts::default(),
        SocketDefaults::default(),
        1,
    );
    let mut hub = Hub::new(Arc::clone(&shared), Arc::<Dump>::default(), true);
    let everything = Reference::new(Source::Ads, Str::default(), None);
    hub.want_collections(Some(&everything), Some(&everything));
    (hub, shared)
}

fn follower(hub: Hub) -> Follower {
    Follower {
        hub: Rc::new(RefCell::new(hub)),
        source: Source::Ads,
        kinds: KINDS.to_vec(),
        changed: Rc::new(Notify::new()),
    }
}

fn update(message: &str, resources: &[(&str, Value)]) -> Update {
    let resources = resources.iter().map(|(name, value)| Received {
        name: (*name).into(),
        aliases: Vec::new(),
        body: meltemi_proto::json::to_wire(message, value).unwrap().into(),
    });
    Update {
        resources: resources.collect(),
        ..Update::default()
    }
}

fn clusters(resources: &[(&str, Value)]) -> Update {
    update(DumpKind::Cluster.message(), resources)
}

fn endpoints(resources: &[(&str, Value)]) -> Update {
    update(DumpKind::Endpoint.message(), resources)
}

fn listeners(resources: &[(&str, Value)]) -> Update {
    update(DumpKind::Listener.message(), resources)
}

fn routes(resources: &[(&str, Value)]) -> Update {
    update(DumpKind::Route.message(), resources)
}

fn eds_cluster(name: &str) -> Value {
    json!({"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": {"ads": {}, "resource_api_version": "V3"}}})
}

fn assignment(name: &str) -> Value {
    let address = json!({"socket_address": {"address": "10.0.0.1", "port_value": 80}});
    json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]})
}

fn listener_with(name: &str, source: &Value, filters: &[Value]) -> Value {
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
    });
    let filters: Vec<&Value> = filters.iter().chain([&router]).collect();
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "rds": {"route_config_name": "80", "config_source": source},
        "http_filters": filters,
    });
    json!({
        "name": name,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}],
    })
}

fn listener(name: &str) -> Value {
    listener_with(
        name,
        &json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}),
        &[],
    )
}

fn route(name: &str) -> Value {
    let action = json!({"match": {"prefix": "/"}, "route": {"cluster": "a"}});
    json!({"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [action]}]})
}

fn wanted(hub: &Hub, kind: &ResourceType) -> Vec<String> {
    let wanted = hub.wishes.wanted(&Source::Ads, kind);
    wanted
        .iter()
        .flat_map(|wanted| &wanted.names)
        .map(ToString::to_string)
        .collect()
}

fn apply(hub: &mut Hub, kind: &ResourceType, update: &Update) -> Result<(), String> {
    hub.apply(&Source::Ads, kind, update)
}

#[tokio::test]
async fn a_cluster_serves_once_its_endpoints_are_there() {
    let (mut hub, shared) = hub();
    apply(
        &mut hub,
        &ResourceType::Cluster,
        &clusters(&[("a", eds_cluster("a"))]),
    )
    .unwrap();
    assert_eq!(wanted(&hub, &ResourceType::Endpoint), ["a"]);
    assert!(shared.clusters.get("a").is_none());
    apply(
        &mut hub,
        &ResourceType::Endpoint,
        &endpoints(&[("a", assignment("a"))]),
    )
    .unwrap();
    assert_eq!(
        shared.clusters.get("a").unwrap().hosts.load().all().len(),
        1
    );
}

#[tokio::test]
async fn a_listener_starts_once_clusters_and_routes_are_there_and_then_the_proxy_is_live() {
    let (mut hub, shared) = hub();
    apply(
        &mut hub,
        &ResourceType::Listener,
        &listeners(&[("l", listener("l"))]),
    )
    .unwrap();
    assert_eq!(wanted(&hub, &ResourceType::Route), ["80"]);
    apply(
        &mut hub,
        &ResourceType::Route,
        &routes(&[("80", route("80"))]),
    )
    .unwrap();
    assert!(shared.listeners.table().listeners.is_empty());
    assert!(!shared.live.load(Ordering::Acquire));
    apply(
        &mut hub,
        &ResourceType::Cluster,
        &clusters(&[("a", eds_cluster("a"))]),
    )
    .unwrap();
    assert!(shared.listeners.table().listeners.is_empty());
    apply(
        &mut hub,
        &ResourceType::Endpoint,
        &endpoints(&[("a", assignment("a"))]),
    )
    .unwrap();
    assert_eq!(shared.listeners.table().bound.len(), 1);
    assert!(shared.live.load(Ordering::Acquire));
}

#[tokio::test]
async fn a_refused_resource_is_named_and_the_others_are_taken() {
    let (mut hub, shared) = hub();
    let mut bad = eds_cluster("bad");
    bad["lrs_server"] = json!({"self": {}});
    let both = clusters(&[("bad", bad), ("a", eds_cluster("a"))]);
    let reason = apply(&mut hub, &ResourceType::Cluster, &both).unwrap_err();
    assert!(
        reason.contains("bad: lrs_server") && !reason.contains("a:"),
        "{reason}"
    );
    apply(
        &mut hub,
        &ResourceType::Endpoint,
        &endpoints(&[("a", assignment("a"))]),
    )
    .unwrap();
    assert!(shared.clusters.get("a").is_some());
    assert!(shared.clusters.get("bad").is_none());
}

#[tokio::test]
async fn an_identical_update_changes_nothing() {
    let (mut hub, shared) = hub();
    let update = clusters(&[("a", eds_cluster("a"))]);
    apply(&mut hub, &ResourceType::Cluster, &update).unwrap();
    apply(
        &mut hub,
        &ResourceType::Endpoint,
        &endpoints(&[("a", assignment("a"))]),
    )
    .unwrap();
    let before = shared.clusters.get("a").unwrap();
    apply(&mut hub, &ResourceType::Cluster, &update).unwrap();
    assert!(Arc::ptr_eq(&before, &shared.clusters.get("a").unwrap()));
}

#[tokio::test]
async fn what_is_removed_is_no_longer_wanted() {
    let (mut hub, _) = hub();
    apply(
        &mut hub,
        &ResourceType::Cluster,
        &clusters(&[("a", eds_cluster("a"))]),
    )
    .unwrap();
    apply(
        &mut hub,
        &ResourceType::Listener,
        &listeners(&[("l", listener("l"))]),
    )
    .unwrap();
    let gone = |name: &str| Update {
        removed: vec![name.into()],
        ..Update::default()
    };
    apply(&mut hub, &ResourceType::Cluster, &gone("a")).unwrap();
    apply(&mut hub, &ResourceType::Listener, &gone("l")).unwrap();
    assert!(wanted(&hub, &ResourceType::Endpoint).is_empty());
    assert!(wanted(&hub, &ResourceType::Route).is_empty());
}

#[tokio::test]
async fn a_resource_that_is_given_twice_is_refused_and_nothing_is_taken() {
    let (mut hub, shared) = hub();
    let twice = clusters(&[("a", json!({"name": "a"})), ("a", json!({"name": "a"}))]);
    let reason = apply(&mut hub, &ResourceType::Cluster, &twice).unwrap_err();
    assert_eq!(reason, "a: is given twice");
    assert!(shared.clusters.get("a").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_listener_goes_on_without_routes_that_do_not_come_in_time() {
    let (mut hub, shared) = hub();
    apply(&mut hub, &ResourceType::Cluster, &Update::default()).unwrap();
    let source = json!({"ads": {}, "initial_fetch_timeout": "3s"});
    let late = listeners(&[("l", listener_with("l", &source, &[]))]);
    apply(&mut hub, &ResourceType::Listener, &late).unwrap();
    let deadline = hub.next_deadline().unwrap();
    assert_eq!(
        deadline - tokio::time::Instant::now(),
        std::time::Duration::from_secs(3)
    );
    hub.end_waits(deadline);
    assert_eq!(shared.listeners.table().bound.len(), 1);
    assert!(shared.live.load(Ordering::Acquire));
}

#[tokio::test]
async fn a_new_version_of_a_listener_keeps_the_old_routes_until_it_starts() {
    let (mut hub, shared) = hub();
    apply(&mut hub, &ResourceType::Cluster, &Update::default()).unwrap();
    apply(
        &mut hub,
        &ResourceType::Listener,
        &listeners(&[("l", listener("l"))]),
    )
    .unwrap();
    apply(
        &mut hub,
        &ResourceType::Route,
        &routes(&[("80", route("80"))]),
    )
    .unwrap();
    let mut new = listener("l");
    new["filter_chains"][0]["filters"][0]["typed_config"]["rds"]["route_config_name"] = json!("81");
    apply(&mut hub, &ResourceType::Listener, &listeners(&[("l", new)])).unwrap();
    assert_eq!(wanted(&hub, &ResourceType::Route), ["80", "81"]);
    assert!(shared.routes.get("80").is_some());
    apply(
        &mut hub,
        &ResourceType::Route,
        &routes(&[("81", route("81"))]),
    )
    .unwrap();
    assert_eq!(wanted(&hub, &ResourceType::Route), ["81"]);
    assert!(shared.routes.get("80").is_none());
}

#[tokio::test]
async fn a_listener_waits_for_a_filter_that_is_discovered() {
    let (mut hub, shared) = hub();
    apply(&mut hub, &ResourceType::Cluster, &Update::default()).unwrap();
    let cors = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors";
    let filter = json!({"name": "more", "config_discovery": {
        "config_source": {"ads": {}, "initial_fetch_timeout": "0s"}, "type_urls": [cors]}});
    let source = json!({"ads": {}, "initial_fetch_timeout": "0s"});
    let open = listeners(&[("l", listener_with("l", &source, &[filter]))]);
    apply(&mut hub, &ResourceType::Listener, &open).unwrap();
    apply(
        &mut hub,
        &ResourceType::Route,
        &routes(&[("80", route("80"))]),
    )
    .unwrap();
    assert_eq!(wanted(&hub, &ResourceType::ExtensionConfig), ["more"]);
    assert!(shared.listeners.table().bound.is_empty());
    let extension = |url: &str| {
        let config = json!({"name": "more", "typed_config": {"@type": url}});
        update(
            "envoy.config.core.v3.TypedExtensionConfig",
            &[("more", config)],
        )
    };
    let wrong = "type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb";
    let reason = apply(&mut hub, &ResourceType::ExtensionConfig, &extension(wrong)).unwrap_err();
    assert!(reason.contains("type_urls"), "{reason}");
    assert!(shared.listeners.table().bound.is_empty());
    apply(&mut hub, &ResourceType::ExtensionConfig, &extension(cors)).unwrap();
    assert_eq!(shared.listeners.table().bound.len(), 1);
}

#[tokio::test]
async fn virtual_hosts_are_added_to_their_routes_and_asked_for_by_name() {
    let (mut hub, shared) = hub();
    apply(&mut hub, &ResourceType::Cluster, &Update::default()).unwrap();
    apply(
        &mut hub,
        &ResourceType::Listener,
        &listeners(&[("l", listener("l"))]),
    )
    .unwrap();
    let table = json!({"name": "80", "vhds": {"config_source": {"ads": {}}}});
    apply(&mut hub, &ResourceType::Route, &routes(&[("80", table)])).unwrap();
    assert!(wanted(&hub, &ResourceType::VirtualHost).is_empty());
    assert!(
        hub.wishes
            .wanted(&Source::Ads, &ResourceType::VirtualHost)
            .is_some()
    );
    assert!(
        shared.listeners.table().bound.is_empty(),
        "waits for the first answer"
    );
    apply(&mut hub, &ResourceType::VirtualHost, &Update::default()).unwrap();
    assert_eq!(shared.listeners.table().bound.len(), 1);
    let follower = follower(hub);
    let mut asked = shared.demand.serve();
    let name = demand::Name::VirtualHost {
        table: "80".into(),
        host: "a.test".into(),
    };
    let asking = shared.demand.ask(name, demand::LONGEST_WAIT);
    let answering = async {
        let asked = asked.recv().await.unwrap();
        let mut hub = follower.hub.borrow_mut();
        hub.demand(asked);
        assert_eq!(wanted(&hub, &ResourceType::VirtualHost), ["80/a.test"]);
        let host = json!({"name": "a", "domains": ["a.test"]});
        let mut update = update("envoy.config.route.v3.VirtualHost", &[("80/a", host)]);
        update.resources[0].aliases = vec!["80/a.test".into()];
        apply(&mut hub, &ResourceType::VirtualHost, &update).unwrap();
    };
    let (outcome, ()) = tokio::join!(asking, answering);
    assert_eq!(outcome, demand::Outcome::Loaded);
    assert!(shared.routes.get("80").unwrap().host(b"a.test").is_some());
}
