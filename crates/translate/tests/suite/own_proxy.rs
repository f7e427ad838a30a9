//! Our own proxy as the judge: it accepts every resource of both profiles, and decides about calls as the rules of
//! the published exercises say.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use meltemi_compile::{Call, Explanation, simulate};
use meltemi_traffic::RuntimeConfig;
use meltemi_traffic::headers::SimpleRequest;
use meltemi_translate::{Filters, ProxyKind};

use crate::mesh::{Mesh, Proxy, SUBSETS};

/// What a proxy does with its resources.
fn compiled(proxy: &mut Proxy<'_>) -> RuntimeConfig {
    let mut config = RuntimeConfig::default();
    for (name, cluster) in proxy.clusters() {
        let compiled =
            meltemi_compile::cluster(&cluster).unwrap_or_else(|e| panic!("cluster {name}: {e}"));
        config.clusters.insert(name.as_str().into(), compiled);
    }
    for (name, assignment) in proxy.endpoints() {
        let compiled = meltemi_compile::assignment(&assignment)
            .unwrap_or_else(|e| panic!("endpoints {name}: {e}"));
        config.endpoints.insert(name.as_str().into(), compiled);
    }
    for (name, listener) in proxy.listeners() {
        let compiled =
            meltemi_compile::listener(&listener).unwrap_or_else(|e| panic!("listener {name}: {e}"));
        config.listeners.insert(name.as_str().into(), compiled);
    }
    for (name, routes) in proxy.routes() {
        let compiled =
            meltemi_compile::route_table(&routes).unwrap_or_else(|e| panic!("routes {name}: {e}"));
        config.routes.insert(name.as_str().into(), compiled);
    }
    config
}

/// A plain HTTP call to an address, with one header.
fn call(
    destination: &str,
    authority: &str,
    path: &str,
    header: Option<(&'static str, &str)>,
    random: u64,
) -> Call {
    let mut request = SimpleRequest::get(authority, path);
    if let Some((name, value)) = header {
        request.headers.insert(name, value.parse().expect("header"));
    }
    let address = |text: &str| -> SocketAddr { text.parse().expect("address") };
    Call {
        destination: address(destination),
        source: address("10.244.0.99:40000"),
        server_name: String::new(),
        application_protocols: vec!["http/1.1".to_owned()],
        tls: false,
        request: Some(request),
        random,
    }
}

/// What productpage's proxy does with a call to reviews.
fn to_reviews(config: &RuntimeConfig, user: Option<&str>, random: u64) -> Explanation {
    let call = call(
        "10.96.1.3:9080",
        "reviews:9080",
        "/reviews/0",
        user.map(|user| ("end-user", user)),
        random,
    );
    simulate(config, "virtualOutbound", &call)
}

/// The versions of reviews that calls reach, whatever the random number.
fn versions(config: &RuntimeConfig, user: Option<&str>) -> BTreeSet<String> {
    let step = u64::MAX / 1000;
    let clusters = (0..1000).filter_map(|n| to_reviews(config, user, n * step + n).cluster);
    clusters
        .map(|cluster| cluster.split('|').nth(2).unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn our_proxy_compiles_every_resource() {
    let mut mesh = Mesh::bookinfo(&[SUBSETS, crate::envoy::RULES]);
    for filters in [Filters::all(), Filters::stock()] {
        for (kind, deployment) in [
            (ProxyKind::Sidecar, "reviews-v1"),
            (ProxyKind::Router, "istio-ingressgateway"),
        ] {
            compiled(&mut mesh.proxy(kind, deployment, filters));
        }
    }
}

#[test]
fn a_call_reaches_the_service_and_an_unknown_one_passes() {
    let mut mesh = Mesh::bookinfo(&[]);
    let config = compiled(&mut mesh.sidecar("productpage-v1"));
    let known = to_reviews(&config, None, 0);
    assert_eq!(known.listener.as_deref(), Some("0.0.0.0_9080"));
    assert_eq!(
        known.virtual_host.as_deref(),
        Some("reviews.default.svc.cluster.local:9080")
    );
    assert_eq!(
        (known.endpoints.len(), known.outcome.as_str()),
        (3, "forward")
    );
    let elsewhere = simulate(
        &config,
        "virtualOutbound",
        &call("93.184.216.34:80", "example.com", "/", None, 0),
    );
    assert_eq!(elsewhere.cluster.as_deref(), Some("PassthroughCluster"));
    let looped = simulate(
        &config,
        "virtualOutbound",
        &call("10.244.0.2:15001", "x", "/", None, 0),
    );
    assert_eq!(looped.cluster.as_deref(), Some("BlackHoleCluster"));
}

#[test]
fn inbound_calls_reach_the_application_in_plain_text_and_by_mutual_tls() {
    let mut mesh = Mesh::bookinfo(&[]);
    let config = compiled(&mut mesh.sidecar("reviews-v1"));
    let mut plain = call("10.244.0.4:9080", "reviews", "/", None, 0);
    let inbound = |call: &Call| {
        simulate(&config, "virtualInbound", call)
            .cluster
            .map(|cluster| cluster.to_string())
    };
    assert_eq!(inbound(&plain).as_deref(), Some("inbound|9080||"));
    plain.tls = true;
    for offers in [
        ["istio-http/1.1", "istio", "http/1.1"],
        ["istio-h2", "istio", "h2"],
    ] {
        let mutual = Call {
            application_protocols: offers.map(str::to_owned).to_vec(),
            ..plain.clone()
        };
        assert_eq!(inbound(&mutual).as_deref(), Some("inbound|9080||"));
    }
    let foreign = Call {
        application_protocols: vec!["h2".to_owned()],
        ..plain
    };
    assert_eq!(
        simulate(&config, "virtualInbound", &foreign).outcome,
        "no filter chain"
    );
    let undeclared = Call {
        tls: false,
        ..call("10.244.0.4:7070", "reviews", "/", None, 0)
    };
    assert_eq!(
        inbound(&undeclared).as_deref(),
        Some("InboundPassthroughCluster")
    );
}

/// The directory of the published samples, when they are at hand.
fn samples() -> Option<&'static Path> {
    let path = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/samples/bookinfo/networking"
    ));
    path.is_dir().then_some(path)
}

#[test]
fn the_published_exercises_route_as_they_say() {
    let Some(samples) = samples() else {
        println!("SKIPPED: no published samples beside the project");
        return;
    };
    let read = |name: &str| std::fs::read_to_string(samples.join(name)).expect("sample");
    let mut mesh = Mesh::bookinfo(&[]);
    // Routes before the subsets that they name, as the exercises themselves do.
    mesh.apply(&read("virtual-service-all-v1.yaml"));
    let config = compiled(&mut mesh.sidecar("productpage-v1"));
    assert_eq!(
        versions(&config, None),
        BTreeSet::from(["".to_owned()]),
        "the whole service meanwhile"
    );
    mesh.apply(&read("destination-rule-all.yaml"));
    // table: a file, and what others and jason reach afterwards
    let table: [(&str, &[&str], &[&str]); 7] = [
        ("virtual-service-all-v1.yaml", &["v1"], &["v1"]),
        ("virtual-service-reviews-test-v2.yaml", &["v1"], &["v2"]),
        (
            "virtual-service-reviews-50-v3.yaml",
            &["v1", "v3"],
            &["v1", "v3"],
        ),
        (
            "virtual-service-reviews-v2-v3.yaml",
            &["v2", "v3"],
            &["v2", "v3"],
        ),
        ("virtual-service-reviews-v3.yaml", &["v3"], &["v3"]),
        ("virtual-service-reviews-jason-v2-v3.yaml", &["v3"], &["v2"]),
        (
            "virtual-service-reviews-90-10.yaml",
            &["v1", "v2"],
            &["v1", "v2"],
        ),
    ];
    for (file, others, jason) in table {
        mesh.apply(&read(file));
        let config = compiled(&mut mesh.sidecar("productpage-v1"));
        let expected = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<BTreeSet<_>>()
        };
        assert_eq!(versions(&config, None), expected(others), "{file}");
        assert_eq!(versions(&config, Some("jason")), expected(jason), "{file}");
        let all_resolve = (0..10).all(|n| to_reviews(&config, None, n << 60).outcome == "forward");
        assert!(all_resolve, "{file}");
    }
}

#[test]
fn the_gateway_forwards_the_page_and_nothing_else() {
    let mut mesh = Mesh::bookinfo(&[]);
    let config = compiled(&mut mesh.gateway());
    let get = |path: &str| {
        simulate(
            &config,
            "0.0.0.0_8080",
            &call("10.244.0.9:8080", "localhost:8080", path, None, 0),
        )
    };
    let page = get("/productpage");
    assert_eq!(
        page.cluster.as_deref(),
        Some("outbound|9080||productpage.default.svc.cluster.local")
    );
    assert_eq!(page.endpoints.len(), 1);
    assert_eq!(get("/static/a.css").outcome, "forward");
    assert_eq!(get("/other").outcome, "no route");
}
