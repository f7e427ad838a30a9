//! A call is explained the way the proxy would carry it out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;

use meltemi_compile::{Call, Explanation, assignment, cluster, listener, route_table, simulate};
use meltemi_proto::json;
use meltemi_traffic::RuntimeConfig;
use meltemi_traffic::headers::SimpleRequest;
use prost::{Message, Name};
use serde_json::{Value, json};

fn read<M: Message + Name + Default>(value: Value) -> M {
    json::parse(&value).unwrap()
}

fn listeners() -> [Value; 2] {
    let tcp = |cluster: &str| {
        json!([{ "name": "tcp", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": cluster, "cluster": cluster } }])
    };
    let hcm = json!([{ "name": "hcm", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "outbound_0.0.0.0_9080;",
        "rds": { "route_config_name": "9080", "config_source": { "ads": {} } },
        "http_filters": [{ "name": "router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" } }] } }]);
    let at = |address: &str, port: u32| json!({ "socket_address": { "address": address, "port_value": port } });
    [
        json!({ "name": "virtualOutbound", "address": at("0.0.0.0", 15001), "use_original_dst": true,
            "filter_chains": [
                { "name": "virtualOutbound-blackhole", "filter_chain_match": { "destination_port": 15001 },
                  "filters": tcp("BlackHoleCluster") },
                { "name": "virtualOutbound-catchall-tcp", "filters": tcp("PassthroughCluster") }] }),
        json!({ "name": "0.0.0.0_9080", "address": at("0.0.0.0", 9080), "bind_to_port": false,
            "filter_chains": [{ "filter_chain_match":
                { "transport_protocol": "raw_buffer", "application_protocols": ["http/1.1", "h2c"] }, "filters": hcm }],
            "default_filter_chain": { "name": "PassthroughFilterChain", "filters": tcp("PassthroughCluster") } }),
    ]
}

fn bookinfo() -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    for value in listeners() {
        let compiled = listener(&read(value)).unwrap();
        config.listeners.insert(compiled.name.clone(), compiled);
    }
    let routes = read(
        json!({ "name": "9080", "ignore_port_in_host_matching": true, "virtual_hosts": [
        { "name": "reviews.default.svc.cluster.local:9080", "domains": ["reviews", "reviews.default.svc.cluster.local"], "routes": [
            { "name": "jason", "match": { "prefix": "/", "headers": [{ "name": "end-user", "string_match": { "exact": "jason" } }] },
              "route": { "cluster": "reviews-v2" } },
            { "name": "rest", "match": { "prefix": "/" }, "route": { "weighted_clusters": { "clusters": [
                { "name": "reviews-v1", "weight": 50 }, { "name": "reviews-v3", "weight": 50 }] } } }] },
        { "name": "allow_any", "domains": ["*"], "routes": [
            { "name": "allow_any", "match": { "prefix": "/" }, "route": { "cluster": "PassthroughCluster" } }] }] }),
    );
    config
        .routes
        .insert("9080".into(), route_table(&routes).unwrap());
    for name in ["reviews-v1", "reviews-v2", "reviews-v3"] {
        let wire = json!({ "name": name, "type": "EDS", "eds_cluster_config": { "eds_config": { "ads": {} } } });
        config
            .clusters
            .insert(name.into(), cluster(&read(wire)).unwrap());
        let hosts = json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": {
            "socket_address": { "address": "10.244.0.9", "port_value": 9080 } } } }] }] });
        config
            .endpoints
            .insert(name.into(), assignment(&read(hosts)).unwrap());
    }
    config
}

fn call(request: Option<SimpleRequest>, port: u16, random: u64) -> Explanation {
    let protocols = if request.is_some() {
        vec!["http/1.1".to_owned()]
    } else {
        Vec::new()
    };
    let call = Call {
        destination: SocketAddr::from(([10, 96, 0, 7], port)),
        source: SocketAddr::from(([10, 244, 0, 5], 40_000)),
        server_name: String::new(),
        application_protocols: protocols,
        tls: false,
        request,
        random,
    };
    simulate(&bookinfo(), "virtualOutbound", &call)
}

fn routed(explanation: &Explanation) -> (Option<&str>, Option<&str>, &str) {
    (
        explanation.route.as_deref(),
        explanation.cluster.as_deref(),
        &explanation.outcome,
    )
}

#[test]
fn a_header_match_and_weights_decide_the_cluster() {
    let request = || SimpleRequest::get("reviews:9080", "/reviews/0");
    let found = call(Some(request().with("end-user", "jason")), 9080, 0);
    assert_eq!(
        routed(&found),
        (Some("jason"), Some("reviews-v2"), "forward")
    );
    assert_eq!(found.listener.as_deref(), Some("0.0.0.0_9080"));
    assert_eq!(
        found.virtual_host.as_deref(),
        Some("reviews.default.svc.cluster.local:9080")
    );
    assert_eq!(found.endpoints[0].to_string(), "10.244.0.9:9080");
    assert_eq!(
        routed(&call(Some(request()), 9080, 49)),
        (Some("rest"), Some("reviews-v1"), "forward")
    );
    assert_eq!(
        routed(&call(Some(request()), 9080, 50)),
        (Some("rest"), Some("reviews-v3"), "forward")
    );
}

#[test]
fn other_destinations_pass_through_and_loops_end_in_the_black_hole() {
    let found = call(None, 443, 0);
    assert_eq!(found.chain.as_deref(), Some("virtualOutbound-catchall-tcp"));
    assert_eq!(found.outcome, "no such cluster");
    assert_eq!(
        call(None, 15001, 0).cluster.as_deref(),
        Some("BlackHoleCluster")
    );
    assert_eq!(
        call(None, 9080, 0).chain.as_deref(),
        Some("PassthroughFilterChain")
    );
    let unknown = SimpleRequest::get("example.com", "/");
    assert_eq!(
        call(Some(unknown), 9080, 0).route.as_deref(),
        Some("allow_any")
    );
}
