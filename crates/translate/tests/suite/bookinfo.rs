//! The worked example: Bookinfo with its gateway and subsets.

use meltemi_translate::ResourceKind;

use crate::mesh::{Mesh, SUBSETS, clusters_of};

const REVIEWS: &str = "reviews.default.svc.cluster.local";

#[test]
fn a_sidecar_gets_the_listeners_of_the_cluster_by_their_names() {
    let mut mesh = Mesh::bookinfo(&[SUBSETS]);
    let names: Vec<String> = mesh
        .sidecar("productpage-v1")
        .listeners()
        .into_keys()
        .collect();
    let expected = [
        "0.0.0.0_15010",
        "0.0.0.0_15014",
        "0.0.0.0_80",
        "0.0.0.0_9080",
        "10.96.0.10_53",
        "10.96.0.10_9153",
        "10.96.0.1_443",
        "10.96.0.20_15012",
        "10.96.0.20_443",
        "10.96.0.30_15021",
        "10.96.0.30_443",
        "virtualInbound",
        "virtualOutbound",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_sidecar_gets_a_cluster_for_each_port_and_subset() {
    let mut mesh = Mesh::bookinfo(&[SUBSETS]);
    let clusters = mesh.sidecar("productpage-v1").clusters();
    let of = |host: &str| clusters.keys().filter(|name| name.contains(host)).count();
    assert_eq!(
        (
            of("|reviews."),
            of("|ratings."),
            of("|details."),
            of("|productpage.")
        ),
        (4, 5, 3, 2),
        "{:?}",
        clusters.keys().collect::<Vec<_>>()
    );
    assert_eq!(
        (
            of("|istiod."),
            of("|kube-dns."),
            of("|kubernetes."),
            of("|istio-ingressgateway.")
        ),
        (4, 2, 1, 3)
    );
    for name in [
        "inbound|9080||",
        "PassthroughCluster",
        "BlackHoleCluster",
        "InboundPassthroughCluster",
    ] {
        assert!(clusters.contains_key(name), "{name}");
    }
    assert_eq!(clusters.len(), 14 + 10 + 4);
    let subset = &clusters["outbound|9080|v2|reviews.default.svc.cluster.local"];
    assert_eq!(
        subset.alt_stat_name,
        "outbound|9080|v2|reviews.default.svc.cluster.local;"
    );
}

#[test]
fn a_sidecar_gets_routes_by_port_and_sniffed_ones_by_service() {
    let mut mesh = Mesh::bookinfo(&[SUBSETS]);
    let routes = mesh.sidecar("productpage-v1").routes();
    let names: Vec<&str> = routes.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "15010",
            "15014",
            "80",
            "9080",
            "istio-ingressgateway.istio-system.svc.cluster.local:15021",
            "kube-dns.kube-system.svc.cluster.local:9153",
        ]
    );
    let hosts: Vec<&str> = routes["9080"]
        .virtual_hosts
        .iter()
        .map(|host| host.name.as_str())
        .collect();
    assert_eq!(
        hosts,
        [
            "details.default.svc.cluster.local:9080",
            "productpage.default.svc.cluster.local:9080",
            "ratings.default.svc.cluster.local:9080",
            "reviews.default.svc.cluster.local:9080",
            "allow_any",
        ]
    );
    assert_eq!(
        routes["9080"].virtual_hosts[3].domains,
        [
            REVIEWS,
            "reviews.default.svc.cluster.local.",
            "reviews",
            "reviews.default.svc",
            "reviews.default",
            "10.96.1.3",
        ]
    );
    let sniffed = &routes["kube-dns.kube-system.svc.cluster.local:9153"].virtual_hosts;
    assert_eq!(
        (sniffed.len(), sniffed[0].domains.as_slice()),
        (1, ["*".to_owned()].as_slice())
    );
}

#[test]
fn a_service_without_rules_is_routed_with_the_meshs_defaults() {
    let mut mesh = Mesh::bookinfo(&[]);
    let host = mesh
        .sidecar("productpage-v1")
        .host("9080", "reviews.default.svc.cluster.local:9080");
    let route = &host["routes"][0];
    assert_eq!(route["name"], "default");
    assert_eq!(route["match"]["prefix"], "/");
    assert_eq!(
        route["route"]["cluster"],
        "outbound|9080||reviews.default.svc.cluster.local"
    );
    assert_eq!(route["route"]["timeout"], "0s");
    assert_eq!(route["route"]["retry_policy"]["num_retries"], 2);
    assert_eq!(
        route["route"]["retry_policy"]["retry_on"],
        "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
    );
    assert_eq!(
        route["decorator"]["operation"],
        "reviews.default.svc.cluster.local:9080/*"
    );
}

#[test]
fn inbound_connections_are_taken_in_plain_text_and_by_mutual_tls() {
    let mut mesh = Mesh::bookinfo(&[]);
    let listener = mesh
        .sidecar("reviews-v1")
        .json(ResourceKind::Listener, "virtualInbound");
    let chains = listener["filter_chains"].as_array().expect("chains");
    let names: Vec<&str> = chains
        .iter()
        .filter_map(|chain| chain["name"].as_str())
        .collect();
    assert_eq!(
        names,
        [
            "virtualInbound-blackhole",
            "virtualInbound-catchall-http",
            "virtualInbound-catchall-http",
            "virtualInbound",
            "virtualInbound",
            "virtualInbound",
            "0.0.0.0_9080",
            "0.0.0.0_9080",
        ]
    );
    let (mutual, plain) = (&chains[6], &chains[7]);
    assert_eq!(mutual["filter_chain_match"]["destination_port"], 9080);
    assert_eq!(mutual["filter_chain_match"]["transport_protocol"], "tls");
    let offers = serde_json::json!([
        "istio",
        "istio-peer-exchange",
        "istio-http/1.0",
        "istio-http/1.1",
        "istio-h2"
    ]);
    assert_eq!(
        mutual["filter_chain_match"]["application_protocols"],
        offers
    );
    let context = &mutual["transport_socket"]["typed_config"];
    assert_eq!(context["require_client_certificate"], true);
    assert_eq!(
        context["common_tls_context"]["alpn_protocols"],
        serde_json::json!(["h2", "http/1.1"])
    );
    assert_eq!(
        context["common_tls_context"]["tls_certificate_sds_secret_configs"][0]["name"],
        "default"
    );
    let names =
        &context["common_tls_context"]["combined_validation_context"]["default_validation_context"];
    assert_eq!(
        names["match_subject_alt_names"][0]["prefix"],
        "spiffe://cluster.local/"
    );
    assert_eq!(
        plain["filter_chain_match"]["transport_protocol"],
        "raw_buffer"
    );
    assert!(plain["transport_socket"].is_null());
    let manager = &mutual["filters"]
        .as_array()
        .expect("filters")
        .last()
        .expect("manager")["typed_config"];
    let route = &manager["route_config"];
    assert_eq!(route["name"], "inbound|9080||");
    assert_eq!(route["virtual_hosts"][0]["name"], "inbound|http|9080");
    assert_eq!(
        route["virtual_hosts"][0]["routes"][0]["route"]["cluster"],
        "inbound|9080||"
    );
    let decorator = &route["virtual_hosts"][0]["routes"][0]["decorator"]["operation"];
    assert_eq!(decorator, "reviews.default.svc.cluster.local:9080/*");
}

#[test]
fn http_filters_stand_in_istios_order() {
    let mut mesh = Mesh::bookinfo(&[]);
    let mut sidecar = mesh.sidecar("productpage-v1");
    let names = |listener: &serde_json::Value, chain: usize| -> Vec<String> {
        let filters = listener["filter_chains"][chain]["filters"]
            .as_array()
            .expect("filters");
        let manager = &filters.last().expect("manager")["typed_config"];
        let filters = manager["http_filters"].as_array().expect("filters");
        filters
            .iter()
            .map(|filter| filter["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let outbound = sidecar.json(ResourceKind::Listener, "0.0.0.0_9080");
    assert_eq!(
        names(&outbound, 0),
        [
            "istio.metadata_exchange",
            "envoy.filters.http.grpc_stats",
            "istio.alpn",
            "envoy.filters.http.fault",
            "envoy.filters.http.cors",
            "istio.stats",
            "envoy.filters.http.router",
        ]
    );
    let inbound = sidecar.json(ResourceKind::Listener, "virtualInbound");
    assert_eq!(
        names(&inbound, 6),
        [
            "istio.metadata_exchange",
            "envoy.filters.http.grpc_stats",
            "envoy.filters.http.fault",
            "envoy.filters.http.cors",
            "istio.stats",
            "envoy.filters.http.router",
        ]
    );
}

#[test]
fn an_http_listener_sniffs_and_lets_other_bytes_pass() {
    let mut mesh = Mesh::bookinfo(&[]);
    let mut sidecar = mesh.sidecar("productpage-v1");
    let http = sidecar.json(ResourceKind::Listener, "0.0.0.0_9080");
    assert_eq!(http["bind_to_port"], false);
    assert_eq!(
        http["filter_chains"][0]["filter_chain_match"]["transport_protocol"],
        "raw_buffer"
    );
    assert_eq!(
        http["filter_chains"][0]["filter_chain_match"]["application_protocols"],
        serde_json::json!(["http/1.1", "h2c"])
    );
    assert_eq!(
        http["default_filter_chain"]["name"],
        "PassthroughFilterChain"
    );
    assert_eq!(
        http["listener_filters"][0]["name"],
        "envoy.filters.listener.http_inspector"
    );
    let log = http["filter_chains"][0]["filters"][0]["typed_config"]["access_log"]
        .as_array()
        .map(Vec::len);
    assert_eq!(log, Some(1));
    let tcp = sidecar.json(ResourceKind::Listener, "10.96.0.10_53");
    assert!(
        tcp["listener_filters"].is_null() && tcp["default_filter_chain"].is_null(),
        "a server may speak first"
    );
    let sniffed = sidecar.json(ResourceKind::Listener, "10.96.0.10_9153");
    assert_eq!(sniffed["filter_chains"].as_array().map(Vec::len), Some(1));
    let filters = sniffed["default_filter_chain"]["filters"]
        .as_array()
        .expect("filters");
    let cluster = &filters.last().expect("proxy")["typed_config"]["cluster"];
    assert_eq!(
        cluster,
        "outbound|9153||kube-dns.kube-system.svc.cluster.local"
    );
}

#[test]
fn clusters_use_mutual_tls_where_the_endpoint_takes_it() {
    let mut mesh = Mesh::bookinfo(&[SUBSETS]);
    let mut sidecar = mesh.sidecar("productpage-v1");
    let cluster = sidecar.json(
        ResourceKind::Cluster,
        "outbound|9080|v1|reviews.default.svc.cluster.local",
    );
    let sockets = cluster["transport_socket_matches"]
        .as_array()
        .expect("sockets");
    assert_eq!(
        (&sockets[0]["name"], &sockets[1]["name"]),
        (&"tlsMode-istio".into(), &"tlsMode-disabled".into())
    );
    assert_eq!(sockets[0]["match"]["tlsMode"], "istio");
    let context = &sockets[0]["transport_socket"]["typed_config"];
    assert_eq!(
        context["sni"],
        "outbound_.9080_.v1_.reviews.default.svc.cluster.local"
    );
    let common = &context["common_tls_context"];
    assert_eq!(
        common["alpn_protocols"],
        serde_json::json!(["istio-peer-exchange", "istio"])
    );
    let names = &common["combined_validation_context"]["default_validation_context"]["match_subject_alt_names"];
    assert_eq!(
        names[0]["exact"],
        "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
    );
    assert_eq!(
        common["combined_validation_context"]["validation_context_sds_secret_config"]["name"],
        "ROOTCA"
    );
    assert_eq!(cluster["type"], "EDS");
    assert_eq!(cluster["lb_policy"], "LEAST_REQUEST");
    assert_eq!(
        cluster["metadata"]["filter_metadata"]["istio"]["services"][0]["host"],
        REVIEWS
    );
    assert_eq!(
        cluster["metadata"]["filter_metadata"]["istio"]["subset"],
        "v1"
    );
}

#[test]
fn endpoints_tell_their_workload_and_whether_they_take_mutual_tls() {
    let mut mesh = Mesh::bookinfo(&[SUBSETS]);
    let mut sidecar = mesh.sidecar("productpage-v1");
    let all = sidecar.endpoints();
    let whole = &all["outbound|9080||reviews.default.svc.cluster.local"];
    assert_eq!(whole.endpoints[0].lb_endpoints.len(), 3);
    let subset = sidecar.json(
        ResourceKind::Endpoints,
        "outbound|9080|v1|reviews.default.svc.cluster.local",
    );
    let endpoint = &subset["endpoints"][0]["lb_endpoints"][0];
    assert_eq!(subset["endpoints"].as_array().map(Vec::len), Some(1));
    assert_eq!(endpoint["load_balancing_weight"], 1);
    let metadata = &endpoint["metadata"]["filter_metadata"];
    assert_eq!(metadata["envoy.transport_socket_match"]["tlsMode"], "istio");
    assert_eq!(
        metadata["istio"]["workload"],
        "reviews-v1;default;reviews;v1;Kubernetes"
    );
}

#[test]
fn the_gateway_routes_the_paths_of_its_rules() {
    let mut mesh = Mesh::bookinfo(&[SUBSETS]);
    let mut gateway = mesh.gateway();
    assert_eq!(
        gateway.listeners().into_keys().collect::<Vec<_>>(),
        ["0.0.0.0_8080"]
    );
    let routes = gateway.routes();
    assert_eq!(routes.keys().collect::<Vec<_>>(), ["http.8080"]);
    let host = gateway.host("http.8080", "*:8080");
    assert_eq!(host["domains"], serde_json::json!(["*"]));
    let routes = host["routes"].as_array().expect("routes");
    let paths: Vec<&str> = routes
        .iter()
        .filter_map(|r| {
            r["match"]["path"]
                .as_str()
                .or_else(|| r["match"]["prefix"].as_str())
        })
        .collect();
    assert_eq!(
        paths,
        [
            "/productpage",
            "/static",
            "/login",
            "/logout",
            "/api/v1/products"
        ]
    );
    for route in routes {
        let expected = (
            "outbound|9080||productpage.default.svc.cluster.local".to_owned(),
            100,
        );
        assert_eq!(clusters_of(route), [expected]);
    }
    assert_eq!(
        routes[0]["metadata"]["filter_metadata"]["istio"]["config"],
        "/apis/networking.istio.io/v1/namespaces/default/virtual-service/bookinfo"
    );
    let clusters = gateway.clusters();
    assert!(
        !clusters
            .keys()
            .any(|name| name.starts_with("inbound") || name.starts_with("Passthrough"))
    );
    assert!(clusters.contains_key("BlackHoleCluster"));
}

#[test]
fn the_same_objects_give_the_same_bytes() {
    let versions = || {
        let mut mesh = Mesh::bookinfo(&[SUBSETS]);
        let mut sidecar = mesh.sidecar("productpage-v1");
        let kinds = ResourceKind::PUSH_ORDER.into_iter();
        kinds
            .flat_map(|kind| sidecar.resources(kind))
            .map(|r| (r.name.clone(), r.version.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(versions(), versions());
}

#[test]
fn proxies_with_equal_inputs_share_the_bytes() {
    let mut mesh = Mesh::bookinfo(&[SUBSETS]);
    let one = mesh.sidecar("reviews-v1").resources(ResourceKind::Route);
    let other = mesh.sidecar("ratings-v1").resources(ResourceKind::Route);
    assert!(
        one.iter()
            .zip(&other)
            .all(|(a, b)| std::sync::Arc::ptr_eq(a, b))
    );
}

#[test]
fn a_headless_service_is_reached_at_its_pods() {
    let headless = "{kind: Service, metadata: {name: db}, spec: {clusterIP: None, selector: {app: reviews}, ports: [{name: tcp-db, port: 5432}, {name: http, port: 8000}]}}";
    let mut mesh = Mesh::bookinfo(&[headless]);
    let of_pods = |names: Vec<String>| {
        names
            .into_iter()
            .filter(|name| name.ends_with("_5432"))
            .collect::<Vec<_>>()
    };
    let outside = of_pods(
        mesh.sidecar("productpage-v1")
            .listeners()
            .into_keys()
            .collect(),
    );
    assert_eq!(
        outside,
        ["10.244.0.4_5432", "10.244.0.5_5432", "10.244.0.6_5432"]
    );
    let inside = of_pods(mesh.sidecar("reviews-v1").listeners().into_keys().collect());
    assert_eq!(
        inside,
        ["10.244.0.5_5432", "10.244.0.6_5432"],
        "a pod has none for itself"
    );
    let mut sidecar = mesh.sidecar("productpage-v1");
    let cluster = sidecar.json(
        ResourceKind::Cluster,
        "outbound|5432||db.default.svc.cluster.local",
    );
    assert_eq!(
        (&cluster["type"], &cluster["lb_policy"]),
        (&"ORIGINAL_DST".into(), &"CLUSTER_PROVIDED".into())
    );
    assert!(
        !cluster["transport_socket"].is_null(),
        "every pod takes mutual TLS"
    );
    let host = sidecar.host("8000", "db.default.svc.cluster.local:8000");
    assert!(
        host["domains"]
            .to_string()
            .contains("*.db.default.svc.cluster.local")
    );
    let gateway = mesh.gateway().json(
        ResourceKind::Cluster,
        "outbound|5432||db.default.svc.cluster.local",
    );
    assert_eq!(gateway["type"], "EDS");
}

#[test]
fn names_that_mean_nothing_get_no_answer_except_endpoints() {
    use meltemi_translate::Wanted;
    let mut mesh = Mesh::bookinfo(&[]);
    let mut sidecar = mesh.sidecar("productpage-v1");
    let mut ask = |kind, name: &str| sidecar.ask(kind, Wanted::Named(&[name.into()])).len();
    assert_eq!(
        ask(
            ResourceKind::Endpoints,
            "outbound|9080||gone.default.svc.cluster.local"
        ),
        1
    );
    assert_eq!(ask(ResourceKind::Endpoints, "xds-grpc"), 0);
    assert_eq!(ask(ResourceKind::Route, "nonsense"), 0);
    assert_eq!(
        ask(ResourceKind::Route, "gone.default.svc.cluster.local:80"),
        0
    );
    assert_eq!(
        ask(
            ResourceKind::Cluster,
            "outbound|9080|v9|reviews.default.svc.cluster.local"
        ),
        0
    );
    assert_eq!(ask(ResourceKind::Cluster, "inbound|9080||"), 1);
    assert_eq!(
        ask(ResourceKind::Route, "7777"),
        1,
        "a port without services has the rest of the world"
    );
}

#[test]
fn a_changed_route_alters_only_its_own_resource() {
    let mut mesh = Mesh::bookinfo(&[SUBSETS]);
    let versions = |mesh: &mut Mesh| -> Vec<(String, String)> {
        let mut sidecar = mesh.sidecar("productpage-v1");
        let kinds = ResourceKind::PUSH_ORDER.into_iter();
        let all = kinds
            .flat_map(|kind| sidecar.resources(kind))
            .map(|r| (r.name.to_string(), r.version.to_string()));
        all.collect()
    };
    let before = versions(&mut mesh);
    mesh.apply("{kind: VirtualService, metadata: {name: reviews}, spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}}");
    let after = versions(&mut mesh);
    let changed: Vec<&str> = before
        .iter()
        .zip(&after)
        .filter(|(a, b)| a != b)
        .map(|(a, _)| a.0.as_str())
        .collect();
    assert_eq!(changed, ["9080"]);
}
