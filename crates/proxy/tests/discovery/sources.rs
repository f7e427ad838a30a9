//! Every kind of source.

use std::path::Path;

use meltemi_testkit::xds::{Server, World};
use meltemi_xds::ResourceType;
use serde_json::{Value, json};

use crate::support::{
    DEADLINE, Proxy, answered, assignment, backend, bootstrap, eds_cluster, free, listener,
    loopback, routes, server_cluster, static_cluster,
};

fn api(kind: &str) -> Value {
    json!({"resource_api_version": "V3", "api_config_source": {"api_type": kind, "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}})
}

/// One listener, one route, two clusters of which the first is in use.
async fn world(listen: std::net::SocketAddr, rds: &Value, eds: &Value) -> World {
    let world = World::default();
    let (one, two) = (backend("one").await, backend("two").await);
    let rds = json!({"route_config_name": "r", "config_source": rds});
    world.set(
        &ResourceType::Listener,
        &[("l", listener("l", listen, &rds))],
    );
    world.set(
        &ResourceType::Cluster,
        &[("a", eds_cluster("a", eds)), ("b", eds_cluster("b", eds))],
    );
    world.set(
        &ResourceType::Endpoint,
        &[("a", assignment("a", one)), ("b", assignment("b", two))],
    );
    world.set(&ResourceType::Route, &[("r", routes("r", "a"))]);
    world
}

async fn each_service(kind: &str, methods: [&str; 4]) {
    let (listen, admin) = (free().await, free().await);
    let source = api(kind);
    let world = world(listen, &source, &source).await;
    let server = Server::start(world.clone(), loopback(0)).await.unwrap();
    let dynamic = json!({"lds_config": source, "cds_config": source});
    let config = bootstrap(admin, &[server_cluster("xds", server.address)], &dynamic);
    let _proxy = Proxy::start(config, admin);
    answered(listen, "a.test", (200, "one")).await;
    let seen = world.seen();
    for method in methods {
        let first = seen.iter().find(|seen| seen.method == method);
        assert!(first.is_some_and(|first| first.node), "{method}: {seen:?}");
    }
    assert!(seen.iter().all(|seen| seen.refusal.is_none()), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_type_comes_from_a_service_of_its_own() {
    each_service(
        "GRPC",
        [
            "StreamClusters",
            "StreamEndpoints",
            "StreamListeners",
            "StreamRoutes",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_type_comes_incrementally_from_a_service_of_its_own() {
    each_service(
        "DELTA_GRPC",
        [
            "DeltaClusters",
            "DeltaEndpoints",
            "DeltaListeners",
            "DeltaRoutes",
        ],
    )
    .await;
}

fn aggregated(kind: &str) -> Value {
    json!({"ads_config": {"api_type": kind, "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]},
        "lds_config": {"ads": {}, "resource_api_version": "V3"}, "cds_config": {"ads": {}, "resource_api_version": "V3"}})
}

async fn a_refusal(kind: &str) {
    let (listen, admin) = (free().await, free().await);
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    let world = world(listen, &ads, &ads).await;
    let server = Server::start(world.clone(), loopback(0)).await.unwrap();
    let config = bootstrap(
        admin,
        &[server_cluster("xds", server.address)],
        &aggregated(kind),
    );
    let proxy = Proxy::start(config, admin);
    answered(listen, "a.test", (200, "one")).await;
    let mut bad = routes("r", "b");
    bad["virtual_hosts"][0]["routes"][0]["match"] = json!({"safe_regex": {"regex": "("}});
    world.set(&ResourceType::Route, &[("r", bad)]);
    let refusal = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Some(reason) = world.seen().into_iter().find_map(|seen| seen.refusal) {
                return reason;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    let refusal = refusal.await.unwrap();
    assert!(
        refusal.starts_with("r: virtual_hosts[0].routes[0].match.safe_regex"),
        "{refusal}"
    );
    answered(listen, "a.test", (200, "one")).await;
    world.set(&ResourceType::Route, &[("r", routes("r", "b"))]);
    answered(listen, "a.test", (200, "two")).await;
    assert_eq!(proxy.counter("control_plane.connected_state").await, 1);
    assert!(proxy.counter("cluster_manager.cds.update_success").await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_resource_is_refused_by_name_and_field_while_the_old_one_serves() {
    a_refusal("GRPC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_resource_is_refused_in_the_incremental_variant_too() {
    a_refusal("DELTA_GRPC").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_stream_tells_what_the_proxy_has_and_brings_what_changed() {
    let (listen, admin, address) = (free().await, free().await, free().await);
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    let world = world(listen, &ads, &ads).await;
    let server = Server::start(world.clone(), address).await.unwrap();
    let config = bootstrap(
        admin,
        &[server_cluster("xds", address)],
        &aggregated("DELTA_GRPC"),
    );
    let _proxy = Proxy::start(config, admin);
    answered(listen, "a.test", (200, "one")).await;
    drop(server);
    let before = world.seen().len();
    answered(listen, "a.test", (200, "one")).await;
    world.set(&ResourceType::Route, &[("r", routes("r", "b"))]);
    let _server = Server::start(world.clone(), address).await.unwrap();
    answered(listen, "a.test", (200, "two")).await;
    let seen = world.seen().split_off(before);
    let first = seen
        .iter()
        .find(|seen| seen.kind == "RouteConfiguration")
        .unwrap();
    assert_eq!(first.names, ["r"]);
    assert!(first.initial.contains_key("r"), "{first:?}");
}

fn write(directory: &Path, name: &str, resources: &[(&str, Value)]) -> String {
    let resources: Vec<Value> = resources
        .iter()
        .map(|(message, value)| {
            let mut value = value.clone();
            value["@type"] = json!(format!("type.googleapis.com/envoy.config.{message}"));
            value
        })
        .collect();
    let path = directory.join(name);
    let new = directory.join(format!("{name}.new"));
    std::fs::write(
        &new,
        json!({"version_info": "1", "resources": resources}).to_string(),
    )
    .unwrap();
    std::fs::rename(&new, &path).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_again_when_others_take_their_place_and_broken_ones_change_nothing() {
    let (listen, admin) = (free().await, free().await);
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (backend("one").await, backend("two").await);
    let file =
        |path: &str| json!({"resource_api_version": "V3", "path_config_source": {"path": path}});
    let route = |host| ("route.v3.RouteConfiguration", routes("r", host));
    let rds = write(directory.path(), "rds.json", &[route("a")]);
    let both = [
        ("cluster.v3.Cluster", static_cluster("a", one)),
        ("cluster.v3.Cluster", static_cluster("b", two)),
    ];
    let cds = write(directory.path(), "cds.json", &both);
    let by_file = json!({"route_config_name": "r", "config_source": file(&rds)});
    let listeners = [("listener.v3.Listener", listener("l", listen, &by_file))];
    let lds = write(directory.path(), "lds.json", &listeners);
    let dynamic = json!({"lds_config": file(&lds), "cds_config": file(&cds)});
    let proxy = Proxy::start(bootstrap(admin, &[], &dynamic), admin);
    answered(listen, "a.test", (200, "one")).await;
    let mut broken = routes("r", "b");
    broken["virtual_hosts"][0]["domains"] = json!([]);
    write(
        directory.path(),
        "rds.json",
        &[("route.v3.RouteConfiguration", broken)],
    );
    let refused = async {
        while proxy.counter("http.rds.update_rejected").await == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, refused).await.unwrap();
    answered(listen, "a.test", (200, "one")).await;
    write(directory.path(), "rds.json", &[route("b")]);
    answered(listen, "a.test", (200, "two")).await;
}
