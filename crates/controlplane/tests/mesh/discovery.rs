//! Configuration for proxies, in both variants and on both ports.

use std::collections::BTreeMap;

use envoy_types::pb::{
    envoy::{
        config::{core::v3::Node, endpoint::v3::ClusterLoadAssignment},
        service::discovery::v3::{
            DeltaDiscoveryRequest, DiscoveryRequest, DiscoveryResponse,
            aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
        },
    },
    google::rpc::Status as RpcStatus,
};
use meltemi_xds::ResourceType;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming, metadata::MetadataMap, transport::Channel};

use crate::{
    client::{REVIEWS, ROUTE, Sidecar, bearer, node, plain, secure},
    support::{Mesh, soon},
};

/// Reviews of Bookinfo with one pod in the mesh.
async fn bookinfo(mesh: &Mesh) {
    mesh.token("default", "istio-ca").await; // makes the account, which pods need
    mesh.run_pod(
        "reviews-v1-1",
        "10.244.0.9",
        json!({"app": "reviews", "version": "v1"}),
    )
    .await;
    mesh.apply(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "reviews", "namespace": "default"},
        "spec": {"selector": {"app": "reviews"}, "ports": [{"name": "http", "port": 9080}]},
    }))
    .await;
    mesh.apply(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "reviews-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "reviews"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 9080, "protocol": "TCP"}],
        "endpoints": [{
            "addresses": ["10.244.0.9"], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": "reviews-v1-1", "namespace": "default"},
        }],
    }))
    .await;
}

fn addresses(endpoints: &[u8]) -> Vec<String> {
    let assignment = ClusterLoadAssignment::decode(endpoints).expect("endpoints");
    let text = format!("{assignment:?}");
    text.split("address: \"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn a_delta_client_gets_all_that_a_sidecar_needs() {
    let mut mesh = Mesh::start().await;
    bookinfo(&mesh).await;
    let token = mesh.token("bookinfo-productpage", "istio-ca").await;
    let channel = secure(mesh.control().addresses().secure, &mesh.root().await).await;
    let mut sidecar = Sidecar::connect(
        channel,
        bearer(&token),
        node("default", "bookinfo-productpage"),
    );
    let endpoints = (ResourceType::Endpoint, REVIEWS.to_owned());
    let seen = sidecar
        .until("the endpoint of reviews", |seen| {
            seen.get(&endpoints)
                .is_some_and(|body| !addresses(body).is_empty())
        })
        .await;
    assert_eq!(addresses(&seen[&endpoints]), ["10.244.0.9"]);
    for (kind, name) in [
        (ResourceType::Cluster, REVIEWS),
        (ResourceType::Listener, "virtualOutbound"),
        (ResourceType::Listener, "virtualInbound"),
    ] {
        assert!(
            seen.contains_key(&(kind.clone(), name.to_owned())),
            "{kind} {name}"
        );
    }
    sidecar
        .until("the route", |seen| {
            seen.contains_key(&(ResourceType::Route, ROUTE.to_owned()))
        })
        .await;
    let (_, metrics) = mesh.page("/metrics").await;
    for name in [
        "pilot_xds{version=\"1.2.3\"} 1",
        "pilot_xds_pushes{type=\"cds\"}",
        "pilot_services ",
        "pilot_k8s_reg_events{type=\"Pod\",event=\"add\"}",
        "istio_build{",
        "process_open_fds",
    ] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
}

#[tokio::test]
async fn the_plaintext_port_needs_no_identity() {
    let mut mesh = Mesh::start().await;
    bookinfo(&mesh).await;
    let channel = plain(mesh.control().addresses().plain).await;
    let mut sidecar = Sidecar::connect(channel, MetadataMap::new(), node("default", ""));
    sidecar
        .until("the endpoint of reviews", |seen| {
            seen.get(&(ResourceType::Endpoint, REVIEWS.to_owned()))
                .is_some_and(|body| addresses(body) == ["10.244.0.9"])
        })
        .await;
}

/// A stream of the state-of-the-world variant.
struct Stream {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: Streaming<DiscoveryResponse>,
    node: Option<Node>,
    subscribed: BTreeMap<ResourceType, Vec<String>>,
}

impl Stream {
    async fn open(channel: Channel, metadata: MetadataMap, node: Node) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(16);
        let mut request = Request::new(ReceiverStream::new(receiver));
        *request.metadata_mut() = metadata;
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let responses = soon("a stream", client.stream_aggregated_resources(request))
            .await?
            .into_inner();
        Ok(Self {
            requests,
            responses,
            node: Some(node),
            subscribed: BTreeMap::new(),
        })
    }

    async fn send(
        &mut self,
        kind: &ResourceType,
        answers: &DiscoveryResponse,
        refusal: Option<&str>,
    ) {
        let request = DiscoveryRequest {
            type_url: kind.url().to_owned(),
            resource_names: self.subscribed.get(kind).cloned().unwrap_or_default(),
            response_nonce: answers.nonce.clone(),
            version_info: answers.version_info.clone(),
            error_detail: refusal.map(|message| RpcStatus {
                code: 3,
                message: message.to_owned(),
                ..RpcStatus::default()
            }),
            node: self.node.take(),
            ..DiscoveryRequest::default()
        };
        self.requests.send(request).await.expect("open");
    }

    async fn next(&mut self) -> DiscoveryResponse {
        soon("a response", self.responses.message())
            .await
            .expect("no error")
            .expect("open")
    }

    /// Subscribes and accepts what comes, of whatever type, until a response of this type fits.
    async fn until(
        &mut self,
        kind: &ResourceType,
        names: &[&str],
        fits: impl Fn(&DiscoveryResponse) -> bool,
    ) -> DiscoveryResponse {
        let subscribed = names.iter().map(|name| (*name).to_owned()).collect();
        self.subscribed.insert(kind.clone(), subscribed);
        self.send(kind, &DiscoveryResponse::default(), None).await;
        loop {
            let response = self.next().await;
            let own = response.type_url == kind.url();
            if own && fits(&response) {
                return response;
            }
            let other = ResourceType::from_url(&response.type_url);
            self.send(&other, &response, None).await;
        }
    }

    /// The same, and accepts that one, too.
    async fn settle(
        &mut self,
        kind: &ResourceType,
        names: &[&str],
        fits: impl Fn(&DiscoveryResponse) -> bool,
    ) {
        let response = self.until(kind, names, fits).await;
        self.send(kind, &response, None).await;
    }

    async fn ask(&mut self, kind: &ResourceType) -> DiscoveryResponse {
        self.until(kind, &[], |_| true).await
    }
}

#[tokio::test]
async fn a_state_of_the_world_client_gets_the_same() {
    let mut mesh = Mesh::start().await;
    bookinfo(&mesh).await;
    let token = mesh.token("bookinfo-productpage", "istio-ca").await;
    let channel = secure(mesh.control().addresses().secure, &mesh.root().await).await;
    let node = node("default", "bookinfo-productpage");
    let mut stream = Stream::open(channel, bearer(&token), node)
        .await
        .expect("open");
    // What was applied arrives through watches: the first answers may be older than it.
    let holds = |text: &'static str| {
        move |response: &DiscoveryResponse| {
            let mut bodies = response.resources.iter();
            bodies.any(|any| contains(&any.value, text))
        }
    };
    stream
        .settle(&ResourceType::Cluster, &[], holds(REVIEWS))
        .await;
    stream
        .settle(&ResourceType::Endpoint, &[REVIEWS], holds("10.244.0.9"))
        .await;
    stream
        .settle(&ResourceType::Listener, &[], holds("virtualInbound"))
        .await;
    stream
        .settle(&ResourceType::Route, &[ROUTE], holds(REVIEWS))
        .await;
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn a_refusal_is_shown_with_its_reason() {
    let mut mesh = Mesh::start().await;
    let channel = plain(mesh.control().addresses().plain).await;
    let mut stream = Stream::open(channel, MetadataMap::new(), node("default", ""))
        .await
        .expect("open");
    let clusters = stream.ask(&ResourceType::Cluster).await;
    stream
        .send(&ResourceType::Cluster, &clusters, Some("no such field"))
        .await;
    // Requests are handled in order: an answer to a later one tells that the refusal was read.
    stream.ask(&ResourceType::Listener).await;
    let (_, page) = mesh.page("/debug/syncz").await;
    let page: Value = serde_json::from_str(&page).expect("JSON");
    assert_eq!(page[0]["proxy"], "productpage-1.default");
    assert_eq!(
        page[0]["types"]["Cluster"],
        json!({"status": "ERROR", "error": "no such field"})
    );
    let (_, metrics) = mesh.page("/metrics").await;
    assert!(
        metrics.contains("pilot_total_xds_rejects{type=\"cds\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_node_that_is_not_the_caller_is_refused() {
    let mut mesh = Mesh::start().await;
    let token = mesh.token("bookinfo-reviews", "istio-ca").await;
    let foreign = mesh.token("bookinfo-reviews", "elsewhere").await;
    let channel = secure(mesh.control().addresses().secure, &mesh.root().await).await;
    let cases: BTreeMap<&str, (MetadataMap, Node, Code, &str)> = [
        (
            "another namespace",
            (
                bearer(&token),
                node("other", "bookinfo-reviews"),
                Code::PermissionDenied,
                "authorization failure",
            ),
        ),
        (
            "another account",
            (
                bearer(&token),
                node("default", "bookinfo-ratings"),
                Code::PermissionDenied,
                "authorization failure",
            ),
        ),
        (
            "another audience",
            (
                bearer(&foreign),
                node("default", "bookinfo-reviews"),
                Code::Unauthenticated,
                "authentication failure",
            ),
        ),
        (
            "no token",
            (
                MetadataMap::new(),
                node("default", "bookinfo-reviews"),
                Code::Unauthenticated,
                "authentication failure",
            ),
        ),
    ]
    .into();
    for (case, (metadata, node, code, message)) in cases {
        let request = DeltaDiscoveryRequest {
            type_url: ResourceType::Cluster.url().to_owned(),
            node: Some(node),
            ..DeltaDiscoveryRequest::default()
        };
        let (requests, receiver) = mpsc::channel(1);
        requests.send(request).await.expect("room");
        let mut stream = Request::new(ReceiverStream::new(receiver));
        *stream.metadata_mut() = metadata;
        let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
        let mut responses = soon(case, client.delta_aggregated_resources(stream))
            .await
            .expect("a stream")
            .into_inner();
        let refused = soon(case, responses.message()).await.expect_err(case);
        assert_eq!(
            (refused.code(), refused.message()),
            (code, message),
            "{case}"
        );
    }
}
