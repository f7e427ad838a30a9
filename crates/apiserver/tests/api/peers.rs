//! What the server does as a client: admission webhooks, and the kubelet behind pods.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use crate::support::{Client, Server};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
const VALIDATING: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";

type Answer = Response<Full<Bytes>>;

/// An HTTPS server with a self-signed certificate; returns its address and certificate.
async fn https<F>(name: &str, answer: F) -> (SocketAddr, String)
where
    F: Fn(Value) -> Value + Send + Sync + 'static,
{
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned(), "127.0.0.1".to_owned()])
        .expect("certificate");
    let key =
        PrivateKeyDer::from_pem_slice(made.signing_key.serialize_pem().as_bytes()).expect("key");
    let config = tls_builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("config");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), Arc::clone(&answer));
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = Arc::clone(&answer);
                    async move {
                        let body = request
                            .into_body()
                            .collect()
                            .await
                            .expect("body")
                            .to_bytes();
                        let review: Value = serde_json::from_slice(&body).expect("review");
                        let mut reply = answer(review["request"].clone());
                        reply["uid"] = review["request"]["uid"].clone();
                        let reply = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": reply});
                        Ok::<_, Infallible>(Answer::new(Full::new(Bytes::from(reply.to_string()))))
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (address, made.cert.pem())
}

fn tls_builder() -> rustls::ConfigBuilder<rustls::ServerConfig, rustls::WantsVerifier> {
    rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .expect("versions")
}

fn configuration(kind: &str, client: Value, extra: &Value) -> Value {
    let mut hook = json!({"name": "hook.example.com", "clientConfig": client, "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "failurePolicy": "Fail",
        "rules": [{"operations": ["CREATE", "UPDATE", "DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]});
    for (name, value) in extra.as_object().into_iter().flatten() {
        hook[name] = value.clone();
    }
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "hook"}, "webhooks": [hook]})
}

fn by_url(address: SocketAddr, certificate: &str) -> Value {
    json!({"url": format!("https://{address}/check"), "caBundle": STANDARD.encode(certificate)})
}

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

fn adds_label(_: Value) -> Value {
    let patch = json!([{"op": "add", "path": "/metadata/labels", "value": {"touched": "yes"}}]);
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(patch.to_string()), "warnings": ["careful"]})
}

#[tokio::test]
async fn a_mutating_webhook_behind_a_url_changes_objects_and_warns() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (address, certificate) = https("hook", adds_label).await;
    let hook = configuration(
        "MutatingWebhookConfiguration",
        by_url(address, &certificate),
        &json!({}),
    );
    client.ok("POST", MUTATING, Some(&hook)).await;
    let request = Request::post(CONFIG_MAPS)
        .header("host", "localhost")
        .body(Full::new(config_map("a").to_string().into()))
        .expect("request");
    let (code, headers, made) = client.exchange(request).await.expect("answer");
    assert_eq!(
        (code, &made["metadata"]["labels"]["touched"]),
        (201, &json!("yes"))
    );
    assert_eq!(headers["warning"], "299 - \"careful\"");
}

/// The node's CONNECT proxy, as far as the API server sees it: every Service is at one address.
fn egress(socket: &Path, target: SocketAddr) -> tokio::sync::mpsc::Receiver<String> {
    let listener = UnixListener::bind(socket).expect("bind");
    let (asked, seen) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("head"));
            }
            let first = String::from_utf8_lossy(&head)
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned();
            asked.send(first).await.expect("listening");
            stream
                .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                .await
                .expect("answer");
            let mut upstream = TcpStream::connect(target).await.expect("connect");
            tokio::spawn(
                async move { tokio::io::copy_bidirectional(&mut stream, &mut upstream).await },
            );
        }
    });
    seen
}

#[tokio::test]
async fn a_webhook_behind_a_service_is_reached_through_the_node() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (address, certificate) = https("hook.default.svc", adds_label).await;
    let mut asked = egress(&server.state.path().join("run/egress.sock"), address);
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"}, "spec": {"ports": [{"port": 443}]}});
    let service = client
        .ok(
            "POST",
            "/api/v1/namespaces/default/services",
            Some(&service),
        )
        .await;
    let reference = json!({"service": {"namespace": "default", "name": "hook", "path": "/inject"}, "caBundle": STANDARD.encode(&certificate)});
    let hook = configuration("MutatingWebhookConfiguration", reference, &json!({}));
    client.ok("POST", MUTATING, Some(&hook)).await;
    let made = client.ok("POST", CONFIG_MAPS, Some(&config_map("a"))).await;
    assert_eq!(made["metadata"]["labels"]["touched"], "yes");
    let expected = format!(
        "CONNECT {}:443 HTTP/1.1",
        service["spec"]["clusterIP"].as_str().expect("address")
    );
    assert_eq!(asked.recv().await, Some(expected));
}

#[tokio::test]
async fn a_validating_webhook_refuses_in_its_own_words() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (address, certificate) = https("hook", |request| {
        let allowed = request["operation"] != "DELETE" && request["object"]["data"]["k"] != "bad";
        json!({"allowed": allowed, "status": {"code": 403, "message": "not like this"}})
    })
    .await;
    let hook = configuration(
        "ValidatingWebhookConfiguration",
        by_url(address, &certificate),
        &json!({}),
    );
    client.ok("POST", VALIDATING, Some(&hook)).await;
    client
        .ok("POST", CONFIG_MAPS, Some(&config_map("good")))
        .await;
    let mut bad = config_map("bad");
    bad["data"]["k"] = json!("bad");
    let (code, status) = client.refused("POST", CONFIG_MAPS, Some(&bad)).await;
    assert_eq!(
        (code, status["message"].as_str()),
        (
            403,
            Some("admission webhook \"hook.example.com\" denied the request: not like this")
        )
    );
    assert_eq!(
        client
            .refused("DELETE", &format!("{CONFIG_MAPS}/good"), None)
            .await
            .0,
        403
    );
    client
        .ok("DELETE", &format!("{VALIDATING}/hook"), None)
        .await;
    client.ok("POST", CONFIG_MAPS, Some(&bad)).await;
}

#[tokio::test]
async fn failure_policy_and_selectors_decide_about_an_unreachable_webhook() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let nowhere = json!({"url": "https://127.0.0.1:1/x"});
    let selector = json!({"objectSelector": {"matchLabels": {"ask": "yes"}}});
    let conditions = json!({"matchConditions": [{"name": "c", "expression": "true"}]});
    let hook = configuration(
        "ValidatingWebhookConfiguration",
        nowhere.clone(),
        &conditions,
    );
    assert_eq!(client.refused("POST", VALIDATING, Some(&hook)).await.0, 422);
    let hook = configuration("ValidatingWebhookConfiguration", nowhere, &selector);
    client.ok("POST", VALIDATING, Some(&hook)).await;
    client
        .ok("POST", CONFIG_MAPS, Some(&config_map("unselected")))
        .await;
    let mut asked = config_map("asked");
    asked["metadata"]["labels"] = json!({"ask": "yes"});
    let (code, status) = client.refused("POST", CONFIG_MAPS, Some(&asked)).await;
    let message = status["message"].as_str().expect("message");
    assert_eq!(code, 500);
    assert!(
        message.starts_with("Internal error occurred: failed calling webhook \"hook.example.com\": failed to call webhook: Post \"https://127.0.0.1:1/x?timeout=10s\": dial 127.0.0.1:1"),
        "{message}"
    );
    let ignore = json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
    let request = Request::patch(format!("{VALIDATING}/hook"))
        .header("host", "localhost")
        .header("content-type", "application/json-patch+json")
        .body(Full::new(ignore.to_string().into()))
        .expect("request");
    assert_eq!(client.exchange(request).await.expect("answer").0, 200);
    client.ok("POST", CONFIG_MAPS, Some(&asked)).await;
}

// === the kubelet ===

/// A kubelet that answers with the path it was asked for, and echoes upgraded connections.
async fn kubelet(state: &Path) -> u16 {
    let pem = |name: &str| std::fs::read(state.join("pki").join(name)).expect("file");
    let chain = vec![CertificateDer::from_pem_slice(&pem("kubelet.crt")).expect("certificate")];
    let key = PrivateKeyDer::from_pem_slice(&pem("kubelet.key")).expect("key");
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(&pem("ca.crt")).expect("ca"))
        .expect("root");
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
    )
    .build()
    .expect("verifier");
    let config = tls_builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .expect("config");
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.expect("client certificate");
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service_fn(answer))
                    .with_upgrades()
                    .await;
            });
        }
    });
    port
}

async fn answer(mut request: Request<Incoming>) -> Result<Answer, Infallible> {
    assert!(request.headers().get("authorization").is_none());
    if !request.headers().contains_key("upgrade") {
        return Ok(Answer::new(Full::new(Bytes::from(
            request.uri().to_string(),
        ))));
    }
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgraded.await.expect("upgrade"));
        let mut buffer = [0; 5];
        stream.read_exact(&mut buffer).await.expect("read");
        stream.write_all(&buffer).await.expect("write");
    });
    let mut response = Answer::default();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert("connection", "Upgrade".parse().expect("header"));
    response
        .headers_mut()
        .insert("upgrade", "SPDY/3.1".parse().expect("header"));
    Ok(response)
}

async fn pod_on_node(server: &Server, client: &mut Client) {
    let port = kubelet(server.state.path()).await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
    client.ok("POST", "/api/v1/nodes", Some(&node)).await;
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    client
        .ok("PATCH", "/api/v1/nodes/n/status", Some(&status))
        .await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n", "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}});
    client
        .ok("POST", "/api/v1/namespaces/default/pods", Some(&pod))
        .await;
}

#[tokio::test]
async fn logs_come_from_the_pods_kubelet() {
    let server = Server::start().await.with_default_account().await;
    let mut client = server.client().await;
    pod_on_node(&server, &mut client).await;
    let log = "/api/v1/namespaces/default/pods/p/log";
    let text = client
        .ok(
            "GET",
            &format!("{log}?container=b&follow=true&tailLines=5"),
            None,
        )
        .await;
    assert_eq!(text, "/containerLogs/default/p/b?follow=true&tailLines=5");
    let (code, status) = client.refused("GET", log, None).await;
    assert_eq!(
        (code, status["message"].as_str()),
        (
            400,
            Some("a container name must be specified for pod p, choose one of: [a b]")
        )
    );
    assert_eq!(
        client
            .refused("GET", &format!("{log}?container=x"), None)
            .await
            .0,
        400
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_logs_names_the_container_over_http2() {
    let server = Server::start().await.with_default_account().await;
    let Some(kubectl) = server.kubectl() else {
        return;
    };
    let mut client = server.client().await;
    pod_on_node(&server, &mut client).await;
    let text = kubectl
        .ok(&["logs", "p", "-c", "b", "-f", "--tail=3"])
        .await;
    assert_eq!(text, "/containerLogs/default/p/b?follow=true&tailLines=3");
}

#[tokio::test]
async fn exec_passes_upgraded_bytes_both_ways() {
    let server = Server::start().await.with_default_account().await;
    let mut client = server.client().await;
    pod_on_node(&server, &mut client).await;
    let mut stream = client
        .upgrade(
            "POST",
            "/api/v1/namespaces/default/pods/p/exec?container=a&command=sh&stdin=true",
        )
        .await;
    stream.write_all(b"hello").await.expect("write");
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.expect("read");
    assert_eq!(&back, b"hello");
}
