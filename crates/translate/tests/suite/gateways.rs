//! Gateways: servers merged, routes bound by name and host.

use meltemi_translate::ResourceKind;
use serde_json::json;

use crate::mesh::{Mesh, clusters_of};

#[test]
fn a_service_port_is_translated_to_the_pods_and_shares_its_routes() {
    let second = r#"
kind: Gateway
metadata: {name: second}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["shop.example"]}]
---
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: [shop.example]
  gateways: [second]
  http: [{route: [{destination: {host: details}}]}]
"#;
    let mut mesh = Mesh::bookinfo(&[second]);
    let mut gateway = mesh.gateway();
    assert_eq!(
        gateway.listeners().into_keys().collect::<Vec<_>>(),
        ["0.0.0.0_8080"]
    );
    let routes = gateway.routes();
    let names: Vec<&str> = routes["http.8080"]
        .virtual_hosts
        .iter()
        .map(|host| host.name.as_str())
        .collect();
    assert_eq!(names, ["*:8080", "shop.example:8080"]);
}

#[test]
fn https_servers_are_told_apart_by_server_name_and_have_their_own_routes() {
    let https = r#"
kind: Gateway
metadata: {name: secure}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 443, name: https-a, protocol: HTTPS}, hosts: ["a.example"], tls: {mode: SIMPLE, credentialName: a-cert}}
  - {port: {number: 443, name: https-b, protocol: HTTPS}, hosts: ["b.example"], tls: {mode: MUTUAL, credentialName: b-cert}}
  - {port: {number: 80, name: http, protocol: HTTP}, hosts: ["a.example"], tls: {httpsRedirect: true}}
---
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a.example]
  gateways: [secure]
  http: [{route: [{destination: {host: details}}]}]
"#;
    let mut mesh = Mesh::bookinfo(&[https]);
    let mut gateway = mesh.gateway();
    let listener = gateway.json(ResourceKind::Listener, "0.0.0.0_8443");
    assert_eq!(
        listener["listener_filters"][0]["name"],
        "envoy.filters.listener.tls_inspector"
    );
    let chains = listener["filter_chains"].as_array().expect("chains");
    assert_eq!(
        chains[0]["filter_chain_match"]["server_names"],
        json!(["a.example"])
    );
    let context = &chains[1]["transport_socket"]["typed_config"];
    assert_eq!(context["require_client_certificate"], true);
    let common = &context["common_tls_context"];
    assert_eq!(
        common["tls_certificate_sds_secret_configs"][0]["name"],
        "kubernetes://b-cert"
    );
    let root =
        &common["combined_validation_context"]["validation_context_sds_secret_config"]["name"];
    assert_eq!(root, "kubernetes://b-cert-cacert");
    let routes = gateway.routes();
    assert!(
        routes.contains_key("https.443.https-a.secure.default"),
        "{:?}",
        routes.keys()
    );
    assert_eq!(
        routes["https.443.https-b.secure.default"].virtual_hosts[0].name,
        "blackhole:443"
    );
    let plain = gateway.host("http.8080", "a.example:8080");
    assert_eq!(plain["require_tls"], "ALL");
}

#[test]
fn tls_that_passes_through_is_routed_by_server_name() {
    let passthrough = r#"
kind: Gateway
metadata: {name: tls}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 443, name: tls, protocol: TLS}, hosts: ["*.example"], tls: {mode: PASSTHROUGH}}]
---
kind: VirtualService
metadata: {name: tls}
spec:
  hosts: ["*.example"]
  gateways: [tls]
  tls: [{match: [{port: 443, sniHosts: [a.example]}], route: [{destination: {host: details, port: {number: 9080}}}]}]
"#;
    let mut mesh = Mesh::bookinfo(&[passthrough]);
    let listener = mesh.gateway().json(ResourceKind::Listener, "0.0.0.0_8443");
    let chain = &listener["filter_chains"][0];
    assert_eq!(
        chain["filter_chain_match"]["server_names"],
        json!(["a.example"])
    );
    let filters = chain["filters"].as_array().expect("filters");
    let cluster = &filters.last().expect("proxy")["typed_config"]["cluster"];
    assert_eq!(cluster, "outbound|9080||details.default.svc.cluster.local");
}

#[test]
fn the_namespace_of_a_server_host_restricts_who_may_bind() {
    let restricted = r#"
kind: Gateway
metadata: {name: restricted, namespace: istio-system}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 9000, name: http, protocol: HTTP}, hosts: ["team-a/*"]}]
---
kind: VirtualService
metadata: {name: intruder}
spec:
  hosts: [a.example]
  gateways: [istio-system/restricted]
  http: [{route: [{destination: {host: details}}]}]
"#;
    let mut mesh = Mesh::bookinfo(&[restricted]);
    let routes = mesh.gateway().routes();
    assert_eq!(routes["http.9000"].virtual_hosts[0].name, "blackhole:9000");
    assert!(routes["http.9000"].virtual_hosts[0].routes.is_empty());
}

#[test]
fn virtual_services_for_one_host_of_a_gateway_are_merged_and_what_takes_everything_comes_last() {
    let rules = r#"
kind: VirtualService
metadata: {name: catch-all, creationTimestamp: "2025-01-01T00:00:00Z"}
spec:
  hosts: ["*"]
  gateways: [bookinfo-gateway]
  http: [{route: [{destination: {host: details}}]}]
"#;
    let mut mesh = Mesh::bookinfo(&[rules]);
    let host = mesh.gateway().host("http.8080", "*:8080");
    let routes = host["routes"].as_array().expect("routes");
    assert_eq!(routes.len(), 6);
    assert_eq!(
        clusters_of(&routes[5])[0].0,
        "outbound|9080||details.default.svc.cluster.local"
    );
}
