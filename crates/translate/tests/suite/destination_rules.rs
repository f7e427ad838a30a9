//! Policies of DestinationRules as clusters.

use meltemi_translate::ResourceKind;
use serde_json::{Value, json};

use crate::mesh::Mesh;

/// A cluster of reviews under a rule.
fn cluster(subset: &str, spec: &str) -> Value {
    let rule = format!(
        "{{kind: DestinationRule, metadata: {{name: reviews}}, spec: {{host: reviews, {spec}}}}}"
    );
    let mut mesh = Mesh::bookinfo(&[&rule]);
    let name = format!("outbound|9080|{subset}|reviews.default.svc.cluster.local");
    mesh.sidecar("productpage-v1")
        .json(ResourceKind::Cluster, &name)
}

#[test]
fn simple_load_balancers_become_policies() {
    for (simple, policy) in [
        ("ROUND_ROBIN", "ROUND_ROBIN"),
        ("LEAST_CONN", "LEAST_REQUEST"),
        ("RANDOM", "RANDOM"),
        ("LEAST_REQUEST", "LEAST_REQUEST"),
        ("PASSTHROUGH", "CLUSTER_PROVIDED"),
    ] {
        let cluster = cluster(
            "",
            &format!("trafficPolicy: {{loadBalancer: {{simple: {simple}}}}}"),
        );
        let found = cluster["lb_policy"].as_str().unwrap_or("ROUND_ROBIN");
        assert_eq!(found, policy);
    }
}

#[test]
fn a_consistent_hash_shapes_the_cluster_and_its_routes() {
    let rule = "{kind: DestinationRule, metadata: {name: reviews}, spec: {host: reviews, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-user}}}}}";
    let mut mesh = Mesh::bookinfo(&[rule]);
    let mut sidecar = mesh.sidecar("productpage-v1");
    let cluster = sidecar.json(
        ResourceKind::Cluster,
        "outbound|9080||reviews.default.svc.cluster.local",
    );
    assert_eq!(cluster["lb_policy"], "RING_HASH");
    let route =
        &sidecar.host("9080", "reviews.default.svc.cluster.local:9080")["routes"][0]["route"];
    assert_eq!(
        route["hash_policy"],
        json!([{"header": {"header_name": "x-user"}}])
    );
    assert!(route["retry_policy"]["retry_host_predicate"].is_null());
}

#[test]
fn pools_and_outlier_detection_are_rendered() {
    let cluster = cluster(
        "",
        "trafficPolicy: {connectionPool: {tcp: {maxConnections: 10, connectTimeout: 1s, tcpKeepalive: {time: 7200s, interval: 75s}}, http: {http1MaxPendingRequests: 5, http2MaxRequests: 7, maxRequestsPerConnection: 2, maxRetries: 3, idleTimeout: 30s}}, outlierDetection: {consecutive5xxErrors: 7, consecutiveGatewayErrors: 0, interval: 5m, baseEjectionTime: 15m, maxEjectionPercent: 50, minHealthPercent: 20}}",
    );
    assert_eq!(cluster["connect_timeout"], "1s");
    let limits = &cluster["circuit_breakers"]["thresholds"][0];
    assert_eq!(limits["max_connections"], 10);
    assert_eq!(
        (
            &limits["max_pending_requests"],
            &limits["max_requests"],
            &limits["max_retries"]
        ),
        (&json!(5), &json!(7), &json!(3))
    );
    assert_eq!(
        cluster["upstream_connection_options"]["tcp_keepalive"]["keepalive_time"],
        7200
    );
    let outlier = &cluster["outlier_detection"];
    assert_eq!(
        (
            &outlier["consecutive_5xx"],
            &outlier["enforcing_consecutive_5xx"]
        ),
        (&json!(7), &json!(100))
    );
    assert_eq!(outlier["enforcing_consecutive_gateway_failure"], 0);
    assert_eq!(outlier["enforcing_success_rate"], 0);
    assert_eq!(
        cluster["common_lb_config"]["healthy_panic_threshold"]["value"],
        20.0
    );
    let http = &cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    assert_eq!(http["common_http_protocol_options"]["idle_timeout"], "30s");
    assert_eq!(
        http["common_http_protocol_options"]["max_requests_per_connection"],
        2
    );
}

#[test]
fn unset_limits_are_unlimited() {
    let cluster = cluster("", "subsets: []");
    let limits = &cluster["circuit_breakers"]["thresholds"][0];
    assert_eq!(limits["max_connections"], u32::MAX);
    assert_eq!(cluster["connect_timeout"], "10s");
    assert!(cluster["outlier_detection"].is_null());
}

#[test]
fn a_subset_replaces_whole_blocks_and_a_port_replaces_all_of_them() {
    let spec = "trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 10}}, portLevelSettings: []},
        subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {connectionPool: {http: {http2MaxRequests: 3}}}}, {name: v2, labels: {version: v2}, trafficPolicy: {portLevelSettings: [{port: {number: 9080}, loadBalancer: {simple: ROUND_ROBIN}}]}}]";
    let v1 = cluster("v1", spec);
    assert_eq!(v1["lb_policy"], "RANDOM");
    let limits = &v1["circuit_breakers"]["thresholds"][0];
    assert_eq!(
        (&limits["max_connections"], &limits["max_requests"]),
        (&json!(u32::MAX), &json!(3))
    );
    let v2 = cluster("v2", spec);
    assert_eq!(
        v2["lb_policy"].as_str().unwrap_or("ROUND_ROBIN"),
        "ROUND_ROBIN"
    );
    assert_eq!(
        v2["circuit_breakers"]["thresholds"][0]["max_connections"],
        u32::MAX
    );
    let port = cluster(
        "",
        "trafficPolicy: {connectionPool: {tcp: {maxConnections: 10}}, portLevelSettings: [{port: {number: 9080}, loadBalancer: {simple: RANDOM}}]}",
    );
    assert_eq!(port["lb_policy"], "RANDOM");
    assert_eq!(
        port["circuit_breakers"]["thresholds"][0]["max_connections"],
        u32::MAX
    );
}

#[test]
fn tls_modes_become_transport_sockets() {
    let disable = cluster("", "trafficPolicy: {tls: {mode: DISABLE}}");
    assert!(disable["transport_socket"].is_null() && disable["transport_socket_matches"].is_null());
    let mutual = cluster("", "trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}");
    assert!(mutual["transport_socket_matches"].is_null());
    let context = &mutual["transport_socket"]["typed_config"];
    assert_eq!(
        context["sni"],
        "outbound_.9080_._.reviews.default.svc.cluster.local"
    );
    let simple = cluster(
        "",
        "trafficPolicy: {tls: {mode: SIMPLE, sni: api.example, caCertificates: /etc/ca.pem}}",
    );
    let context = &simple["transport_socket"]["typed_config"];
    assert_eq!(context["sni"], "api.example");
    let validation = &context["common_tls_context"]["combined_validation_context"];
    assert_eq!(
        validation["validation_context_sds_secret_config"]["name"],
        "file-root:/etc/ca.pem"
    );
    assert_eq!(
        simple["metadata"]["filter_metadata"]["istio"]["alpn_override"],
        "false"
    );
    let by_request = cluster("", "trafficPolicy: {tls: {mode: SIMPLE}}");
    let http = &by_request["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    assert_eq!(
        http["upstream_http_protocol_options"],
        json!({"auto_sni": true, "auto_san_validation": true})
    );
    let policy_without_tls = cluster("", "trafficPolicy: {loadBalancer: {simple: RANDOM}}");
    assert!(
        !policy_without_tls["transport_socket_matches"].is_null(),
        "mutual TLS stays automatic"
    );
}

#[test]
fn endpoints_follow_the_tls_of_their_policy() {
    let disabled = "{kind: DestinationRule, metadata: {name: reviews}, spec: {host: reviews, trafficPolicy: {tls: {mode: DISABLE}}}}";
    let mut mesh = Mesh::bookinfo(&[disabled]);
    let endpoints = mesh.sidecar("productpage-v1").json(
        ResourceKind::Endpoints,
        "outbound|9080||reviews.default.svc.cluster.local",
    );
    let metadata = &endpoints["endpoints"][0]["lb_endpoints"][0]["metadata"]["filter_metadata"];
    assert!(metadata["envoy.transport_socket_match"].is_null() && !metadata["istio"].is_null());
}

#[test]
fn peer_authentication_shapes_both_sides() {
    let strict =
        "{kind: PeerAuthentication, metadata: {name: default}, spec: {mtls: {mode: STRICT}}}";
    let mut mesh = Mesh::bookinfo(&[strict]);
    let listener = mesh
        .sidecar("reviews-v1")
        .json(ResourceKind::Listener, "virtualInbound");
    let chains = listener["filter_chains"].as_array().expect("chains");
    let own: Vec<&Value> = chains
        .iter()
        .filter(|chain| chain["name"] == "0.0.0.0_9080")
        .collect();
    assert_eq!(own.len(), 1);
    assert_eq!(
        own[0]["filter_chain_match"],
        json!({"destination_port": 9080, "transport_protocol": "tls"})
    );

    let plain = "{kind: PeerAuthentication, metadata: {name: v1}, spec: {selector: {matchLabels: {app: reviews, version: v1}}, mtls: {mode: DISABLE}}}";
    mesh.apply(plain);
    let endpoints = mesh.sidecar("productpage-v1").json(
        ResourceKind::Endpoints,
        "outbound|9080||reviews.default.svc.cluster.local",
    );
    let with_tls: Vec<bool> = endpoints["endpoints"][0]["lb_endpoints"]
        .as_array()
        .expect("endpoints")
        .iter()
        .map(|endpoint| {
            !endpoint["metadata"]["filter_metadata"]["envoy.transport_socket_match"].is_null()
        })
        .collect();
    assert_eq!(with_tls, [false, true, true]);
}

#[test]
fn slow_start_budgets_pings_and_failure_codes_are_rendered() {
    let cluster = cluster(
        "",
        "trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 60s, aggression: 2.5}}, retryBudget: {percent: 12.5},
          connectionPool: {http: {h2UpgradePolicy: UPGRADE, http2KeepAlive: {interval: 30s, timeout: 5s}}},
          outlierDetection: {outlierDetectionHttpErrorCodes: [429, 503]}}",
    );
    let slow = &cluster["round_robin_lb_config"]["slow_start_config"];
    assert_eq!(
        (
            &slow["slow_start_window"],
            &slow["min_weight_percent"]["value"]
        ),
        (&json!("60s"), &json!(10))
    );
    assert_eq!(slow["aggression"]["default_value"], 2.5);
    let budget = &cluster["circuit_breakers"]["thresholds"][0]["retry_budget"];
    assert_eq!(
        (
            &budget["budget_percent"]["value"],
            &budget["min_retry_concurrency"]
        ),
        (&json!(12.5), &json!(3))
    );
    let http = &cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"];
    let pings = &http["explicit_http_config"]["http2_protocol_options"]["connection_keepalive"];
    assert_eq!(
        (&pings["interval"], &pings["timeout"]),
        (&json!("30s"), &json!("5s"))
    );
    let rules = http["outlier_detection"]["error_matcher"]["or_match"]["rules"]
        .as_array()
        .map(Vec::len);
    assert_eq!(rules, Some(2));
}

#[test]
fn the_proxy_protocol_wraps_every_transport_socket() {
    let cluster = cluster("", "trafficPolicy: {proxyProtocol: {version: V2}}");
    for by_endpoint in cluster["transport_socket_matches"]
        .as_array()
        .expect("sockets")
    {
        let config = &by_endpoint["transport_socket"]["typed_config"];
        assert_eq!(config["config"]["version"], "V2");
        assert!(!config["transport_socket"].is_null());
    }
}
