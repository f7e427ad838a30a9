//! Mutual TLS between two of our proxies, configured by the benchmark's own bootstrap files.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};

use crate::support::{Proxy, backend, echo};

const REVIEWS: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews";
const PRODUCTPAGE: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-productpage";

/// Writes `root.pem`, `a.pem` and `a.key` (the client), `b.pem` and `b.key` (the server).
fn certificates(directory: &Path, client: &str, server: &str) {
    let root_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&root_key).unwrap();
    std::fs::write(directory.join("root.pem"), root.pem()).unwrap();
    let issuer = Issuer::new(params, root_key);
    for (name, identity) in [("a", client), ("b", server)] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
        let leaf = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(directory.join(format!("{name}.pem")), leaf.pem()).unwrap();
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// One of the benchmark's files with its variables filled in; `None` where the files are not at hand.
fn bench_file(name: &str, listener: &str, values: &[(&str, String)]) -> Option<String> {
    let path = format!(
        "{}/../../../shared/bench/peers/{name}",
        env!("CARGO_MANIFEST_DIR")
    );
    let Ok(mut text) = std::fs::read_to_string(&path) else {
        println!("SKIPPED: no {path}");
        return None;
    };
    for (key, value) in values {
        text = text.replace(&format!("${{{key}}}"), value);
    }
    Some(text.replace(&format!("- name: {listener}\n"), "- name: test\n"))
}

async fn sidecars(client: &str, server: &str) -> Option<(Proxy, Proxy, tempfile::TempDir)> {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path(), client, server);
    let app = backend(echo).await;
    let certs = directory.path().display().to_string();
    let common = |more: (&'static str, String)| {
        [
            ("ADMIN", "0".to_owned()),
            ("PORT", "0".to_owned()),
            ("CERTS", certs.clone()),
            more,
        ]
    };
    let inbound = bench_file(
        "envoy-sidecar-server.yaml",
        "inbound",
        &common(("BACKEND", app.port().to_string())),
    )?;
    let inbound = Proxy::start(&inbound);
    let outbound = bench_file(
        "envoy-sidecar-client.yaml",
        "outbound",
        &common(("PEER", inbound.address.port().to_string())),
    )?;
    Some((Proxy::start(&outbound), inbound, directory))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_of_sidecars_speaks_mutual_tls_and_names_the_client() {
    let Some((outbound, inbound, _directory)) = sidecars(PRODUCTPAGE, REVIEWS).await else {
        return;
    };
    for _ in 0..3 {
        let answer = outbound
            .raw(b"GET /reviews/1 HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n")
            .await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(
            answer.contains(&format!("x-forwarded-client-cert: By={REVIEWS};Hash=")),
            "{answer}"
        );
        assert!(answer.contains(&format!("URI={PRODUCTPAGE}")), "{answer}");
    }
    outbound.stop().await;
    inbound.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_no_policy_names_is_denied() {
    let Some((outbound, inbound, _directory)) =
        sidecars("spiffe://cluster.local/ns/other/sa/x", REVIEWS).await
    else {
        return;
    };
    let answer = outbound
        .raw(b"GET / HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n")
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.ends_with("RBAC: access denied"),
        "{answer}"
    );
    outbound.stop().await;
    inbound.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_identity_is_not_trusted() {
    let Some((outbound, inbound, _directory)) =
        sidecars(PRODUCTPAGE, "spiffe://cluster.local/ns/default/sa/thief").await
    else {
        return;
    };
    let answer = outbound
        .raw(b"GET / HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n")
        .await;
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("TLS_error"),
        "{answer}"
    );
    outbound.stop().await;
    inbound.stop().await;
}

/// Bytes between two proxies over mutual TLS: the client offers only what tells who it is.
fn tcp_pair(certs: &str, backend: u16, peer: u16) -> (String, String) {
    let certificate = |name: &str| {
        format!(
            "tls_certificates: [{{ certificate_chain: {{ filename: {certs}/{name}.pem }}, private_key: {{ filename: {certs}/{name}.key }} }}], validation_context: {{ trusted_ca: {{ filename: {certs}/root.pem }} }}"
        )
    };
    let bootstrap = |downstream: String, upstream: String, port: u16| {
        format!(
            r#"
static_resources:
  listeners:
  - name: test
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config: {{ "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: tcp, cluster: next }}
{downstream}
  clusters:
  - name: next
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: next
      endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}]
{upstream}
"#
        )
    };
    let socket = |indent: &str, kind: &str, common: String, more: &str| {
        format!(
            "{indent}transport_socket: {{ name: envoy.transport_sockets.tls, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}, common_tls_context: {{ {common} }}{more} }} }}"
        )
    };
    let server = format!("alpn_protocols: [h2, http/1.1], {}", certificate("b"));
    let server = socket(
        "      ",
        "DownstreamTlsContext",
        server,
        ", require_client_certificate: true",
    );
    let client = format!(
        "alpn_protocols: [istio-peer-exchange, istio], {}",
        certificate("a")
    );
    let client = socket("    ", "UpstreamTlsContext", client, "");
    (
        bootstrap(String::new(), client, peer),
        bootstrap(server, String::new(), backend),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_pass_between_peers_whose_offers_have_nothing_in_common() {
    let directory = tempfile::tempdir().unwrap();
    certificates(directory.path(), PRODUCTPAGE, REVIEWS);
    let certs = directory.path().display().to_string();
    let app = backend(echo).await;
    let inbound = Proxy::start(&tcp_pair(&certs, app.port(), 0).1);
    let outbound = Proxy::start(&tcp_pair(&certs, 0, inbound.address.port()).0);
    let answer = outbound
        .raw(b"GET /bytes HTTP/1.1\r\nHost: reviews\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    outbound.stop().await;
    inbound.stop().await;
}
