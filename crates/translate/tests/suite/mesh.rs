//! A mesh written as YAML, and readers of what its proxies get.

use std::collections::BTreeMap;

use meltemi_model::{Inputs, Kind, MeshConfig, Snapshot};
use meltemi_names::Labels;
use meltemi_proto::envoy::config::{
    cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
    route::v3::RouteConfiguration,
};
use meltemi_translate::{
    Filters, Generator, ProxyKind, ProxyTraits, ProxyView, ResourceKind, Wanted,
};
use prost::Message;
use serde_json::{Value, json};

/// Bookinfo, an ingress gateway and the services of a usual cluster, as the objects that users and Kubernetes write.
/// A Deployment stands for one ready pod.
pub(crate) const BOOKINFO: &str = r#"
{kind: Service, metadata: {name: details}, spec: {clusterIP: 10.96.1.1, selector: {app: details}, ports: [{name: http, port: 9080}]}}
---
{kind: Service, metadata: {name: ratings}, spec: {clusterIP: 10.96.1.2, selector: {app: ratings}, ports: [{name: http, port: 9080}]}}
---
{kind: Service, metadata: {name: reviews}, spec: {clusterIP: 10.96.1.3, selector: {app: reviews}, ports: [{name: http, port: 9080}]}}
---
{kind: Service, metadata: {name: productpage}, spec: {clusterIP: 10.96.1.4, selector: {app: productpage}, ports: [{name: http, port: 9080}]}}
---
{kind: Deployment, metadata: {name: details-v1}, spec: {template: {metadata: {labels: {app: details, version: v1}}, spec: {serviceAccountName: bookinfo-details}}}}
---
{kind: Deployment, metadata: {name: ratings-v1}, spec: {template: {metadata: {labels: {app: ratings, version: v1}}, spec: {serviceAccountName: bookinfo-ratings}}}}
---
{kind: Deployment, metadata: {name: reviews-v1}, spec: {template: {metadata: {labels: {app: reviews, version: v1}}, spec: {serviceAccountName: bookinfo-reviews}}}}
---
{kind: Deployment, metadata: {name: reviews-v2}, spec: {template: {metadata: {labels: {app: reviews, version: v2}}, spec: {serviceAccountName: bookinfo-reviews}}}}
---
{kind: Deployment, metadata: {name: reviews-v3}, spec: {template: {metadata: {labels: {app: reviews, version: v3}}, spec: {serviceAccountName: bookinfo-reviews}}}}
---
{kind: Deployment, metadata: {name: productpage-v1}, spec: {template: {metadata: {labels: {app: productpage, version: v1}}, spec: {serviceAccountName: bookinfo-productpage}}}}
---
{kind: Service, metadata: {name: kubernetes}, spec: {clusterIP: 10.96.0.1, ports: [{name: https, port: 443, targetPort: 6443}]}}
---
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}, {name: metrics, port: 9153}]
---
kind: Service
metadata: {name: istiod, namespace: istio-system}
spec:
  clusterIP: 10.96.0.20
  selector: {app: istiod}
  ports:
  - {name: grpc-xds, port: 15010}
  - {name: https-dns, port: 15012}
  - {name: https-webhook, port: 443, targetPort: 15017}
  - {name: http-monitoring, port: 15014}
---
kind: Service
metadata: {name: istio-ingressgateway, namespace: istio-system}
spec:
  clusterIP: 10.96.0.30
  selector: {istio: ingressgateway}
  ports:
  - {name: status-port, port: 15021}
  - {name: http2, port: 80, targetPort: 8080}
  - {name: https, port: 443, targetPort: 8443}
---
{kind: Deployment, metadata: {name: istio-ingressgateway, namespace: istio-system}, spec: {template: {metadata: {labels: {istio: ingressgateway}}, spec: {}}}}
---
kind: Gateway
metadata: {name: bookinfo-gateway}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ["*"]}]
---
kind: VirtualService
metadata: {name: bookinfo}
spec:
  hosts: ["*"]
  gateways: [bookinfo-gateway]
  http:
  - match:
    - {uri: {exact: /productpage}}
    - {uri: {prefix: /static}}
    - {uri: {exact: /login}}
    - {uri: {exact: /logout}}
    - {uri: {prefix: /api/v1/products}}
    route: [{destination: {host: productpage, port: {number: 9080}}}]
"#;

/// The subsets of Bookinfo's services.
pub(crate) const SUBSETS: &str = r#"
{kind: DestinationRule, metadata: {name: productpage}, spec: {host: productpage, subsets: [{name: v1, labels: {version: v1}}]}}
---
{kind: DestinationRule, metadata: {name: reviews}, spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: v3, labels: {version: v3}}]}}
---
{kind: DestinationRule, metadata: {name: ratings}, spec: {host: ratings, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}, {name: v2-mysql, labels: {version: v2-mysql}}, {name: v2-mysql-vm, labels: {version: v2-mysql-vm}}]}}
---
{kind: DestinationRule, metadata: {name: details}, spec: {host: details, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}}
"#;

/// A mesh and the resources of its proxies.
pub(crate) struct Mesh {
    inputs: Inputs,
    generator: Generator,
    pods: Vec<Value>,
    services: BTreeMap<(String, String), Value>,
}

impl Mesh {
    /// A mesh with its access log on, from documents in YAML.
    pub(crate) fn from_yaml(documents: &str) -> Self {
        let config = MeshConfig {
            access_log_file: "/dev/stdout".into(),
            ..MeshConfig::default()
        };
        let inputs = Inputs::new(config);
        let mut mesh = Self {
            inputs,
            generator: Generator::new(),
            pods: Vec::new(),
            services: BTreeMap::new(),
        };
        mesh.apply(documents);
        mesh
    }

    /// Bookinfo and more documents.
    pub(crate) fn bookinfo(more: &[&str]) -> Self {
        let mut mesh = Self::from_yaml(BOOKINFO);
        for documents in more {
            mesh.apply(documents);
        }
        mesh
    }

    /// Adds or replaces objects.
    pub(crate) fn apply(&mut self, documents: &str) {
        let documents: Vec<Value> = serde_saphyr::from_multiple(documents).expect("YAML");
        for mut document in documents.into_iter().filter(Value::is_object) {
            let metadata = &mut document["metadata"];
            if metadata["namespace"].is_null() {
                metadata["namespace"] = json!("default");
            }
            if metadata["creationTimestamp"].is_null() {
                metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            self.apply_one(&document);
        }
        self.make_endpoints();
    }

    fn apply_one(&mut self, document: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = text(&document["kind"]);
        // table: what a document in a test may be
        let known = match kind.as_str() {
            "Deployment" => return self.add_pod(document),
            "ServiceAccount" => return,
            "Service" => Kind::Service,
            "Gateway" => Kind::Gateway,
            "VirtualService" => Kind::VirtualService,
            "DestinationRule" => Kind::DestinationRule,
            "PeerAuthentication" => Kind::PeerAuthentication,
            other => panic!("a test mesh does not know {other}"),
        };
        if known == Kind::Service {
            let name = (
                text(&document["metadata"]["namespace"]),
                text(&document["metadata"]["name"]),
            );
            self.services.insert(name, document.clone());
        }
        self.inputs.apply(known, document).expect("usable");
    }

    fn add_pod(&mut self, deployment: &Value) {
        let name = deployment["metadata"]["name"].as_str().expect("name");
        let mut labels = deployment["spec"]["template"]["metadata"]["labels"].clone();
        labels["pod-template-hash"] = json!("5cb46c9fd4");
        labels["security.istio.io/tlsMode"] = json!("istio");
        let pod = json!({
            "metadata": {
                "name": format!("{name}-5cb46c9fd4-abcde"), "namespace": deployment["metadata"]["namespace"],
                "labels": labels,
                "ownerReferences": [{"kind": "ReplicaSet", "name": format!("{name}-5cb46c9fd4"), "controller": true}],
            },
            "spec": deployment["spec"]["template"]["spec"],
            "status": {"phase": "Running", "podIP": format!("10.244.0.{}", self.pods.len() + 2)},
        });
        self.inputs.apply(Kind::Pod, &pod).expect("usable");
        self.pods.push(pod);
    }

    /// What the EndpointSlice controller does.
    fn make_endpoints(&mut self) {
        for ((namespace, name), service) in &self.services {
            let Some(selector) = service["spec"]["selector"].as_object() else {
                continue;
            };
            let selects = |pod: &&Value| {
                pod["metadata"]["namespace"] == json!(namespace)
                    && selector
                        .iter()
                        .all(|(key, value)| pod["metadata"]["labels"].get(key) == Some(value))
            };
            let endpoints: Vec<Value> = self.pods.iter().filter(selects).map(|pod| json!({
                "addresses": [pod["status"]["podIP"]],
                "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": pod["metadata"]["name"], "namespace": namespace},
            })).collect();
            let ports: Vec<Value> = service["spec"]["ports"]
                .as_array()
                .expect("ports")
                .iter()
                .map(|port| {
                    json!({
                        "name": port["name"], "protocol": port["protocol"],
                        "port": port.get("targetPort").unwrap_or_else(|| &port["port"]),
                    })
                })
                .collect();
            let slice = json!({
                "metadata": {"name": format!("{name}-x"), "namespace": namespace,
                             "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
            });
            self.inputs
                .apply(Kind::EndpointSlice, &slice)
                .expect("usable");
        }
    }

    pub(crate) fn snapshot(&mut self) -> std::sync::Arc<Snapshot> {
        self.inputs.snapshot().0
    }

    /// The proxy beside the pod of a deployment.
    pub(crate) fn sidecar(&mut self, deployment: &str) -> Proxy<'_> {
        self.proxy(ProxyKind::Sidecar, deployment, Filters::all())
    }

    /// The ingress gateway.
    pub(crate) fn gateway(&mut self) -> Proxy<'_> {
        self.proxy(ProxyKind::Router, "istio-ingressgateway", Filters::all())
    }

    pub(crate) fn proxy(
        &mut self,
        kind: ProxyKind,
        deployment: &str,
        filters: Filters,
    ) -> Proxy<'_> {
        let prefix = format!("{deployment}-");
        let name = |pod: &Value| {
            pod["metadata"]["name"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let pod = self
            .pods
            .iter()
            .find(|pod| name(pod).starts_with(&prefix))
            .expect("the deployment has a pod");
        let namespace = pod["metadata"]["namespace"].as_str().expect("namespace");
        let labels = pod["metadata"]["labels"].as_object().expect("labels");
        let labels: Labels = labels
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or("")))
            .collect();
        let address = pod["status"]["podIP"]
            .as_str()
            .expect("address")
            .parse()
            .expect("address");
        let view = ProxyView {
            kind,
            id: format!("{}.{namespace}", name(pod)).into(),
            addresses: vec![address],
            namespace: namespace.into(),
            labels,
            service_account: "".into(),
            locality: Default::default(),
            traits: ProxyTraits {
                router: kind == ProxyKind::Router,
                filters,
                ..ProxyTraits::default()
            },
        };
        Proxy { mesh: self, view }
    }
}

/// A proxy of the mesh.
pub(crate) struct Proxy<'a> {
    mesh: &'a mut Mesh,
    view: ProxyView,
}

impl Proxy<'_> {
    pub(crate) fn resources(
        &mut self,
        kind: ResourceKind,
    ) -> Vec<std::sync::Arc<meltemi_translate::Resource>> {
        let snapshot = self.mesh.snapshot();
        self.mesh
            .generator
            .generate(&snapshot, &self.view, kind, Wanted::All)
    }

    /// The same proxy at another place.
    pub(crate) fn at(mut self, place: &str) -> Self {
        self.view.locality = meltemi_names::Locality::parse(place);
        self
    }

    pub(crate) fn ask(
        &mut self,
        kind: ResourceKind,
        wanted: Wanted<'_>,
    ) -> Vec<std::sync::Arc<meltemi_translate::Resource>> {
        let snapshot = self.mesh.snapshot();
        self.mesh
            .generator
            .generate(&snapshot, &self.view, kind, wanted)
    }

    fn decode<M: Message + Default>(&mut self, kind: ResourceKind) -> BTreeMap<String, M> {
        let resources = self.resources(kind);
        let decode = |body: &[u8]| M::decode(body).expect("own bytes");
        resources
            .iter()
            .map(|r| (r.name.to_string(), decode(&r.body.value)))
            .collect()
    }

    pub(crate) fn clusters(&mut self) -> BTreeMap<String, Cluster> {
        self.decode(ResourceKind::Cluster)
    }

    pub(crate) fn listeners(&mut self) -> BTreeMap<String, Listener> {
        self.decode(ResourceKind::Listener)
    }

    pub(crate) fn routes(&mut self) -> BTreeMap<String, RouteConfiguration> {
        self.decode(ResourceKind::Route)
    }

    pub(crate) fn endpoints(&mut self) -> BTreeMap<String, ClusterLoadAssignment> {
        self.decode(ResourceKind::Endpoints)
    }

    /// The routes of one host of a route configuration, as JSON.
    pub(crate) fn host(&mut self, routes: &str, host: &str) -> Value {
        let json = self.json(ResourceKind::Route, routes);
        let hosts = json["virtual_hosts"].as_array().expect("hosts");
        hosts
            .iter()
            .find(|own| own["name"] == host)
            .unwrap_or_else(|| panic!("no host {host} in {json}"))
            .clone()
    }

    /// A resource as JSON.
    pub(crate) fn json(&mut self, kind: ResourceKind, name: &str) -> Value {
        let resources = self.resources(kind);
        let resource = resources.iter().find(|resource| resource.name == name);
        let resource = resource.unwrap_or_else(|| panic!("no {kind:?} {name}"));
        meltemi_proto::json::print_any(&resource.body)
    }
}

/// The clusters of a route action with their weights.
pub(crate) fn clusters_of(route: &Value) -> Vec<(String, u64)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match route["route"]["weighted_clusters"]["clusters"].as_array() {
        Some(list) => list
            .iter()
            .map(|one| (text(&one["name"]), one["weight"].as_u64().unwrap_or(0)))
            .collect(),
        None => vec![(text(&route["route"]["cluster"]), 100)],
    }
}
