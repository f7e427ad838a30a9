//! A control plane with a fixed world: discovery and certificates on one TLS port, in a runtime of its own so that it
//! can die at once.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use meltemi_identity::ca::{CertificateAuthority, self_signed_files};
use meltemi_identity::client::new_request;
use meltemi_identity::service::{Authenticator, Credentials, CsrService};
use meltemi_identity::{WorkloadCertificate, certificate_facts};
use meltemi_proto::envoy::config::cluster::v3::Cluster;
use meltemi_proto::envoy::config::core::v3::Node;
use meltemi_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use meltemi_proto::envoy::config::listener::v3::Listener;
use meltemi_proto::envoy::config::route::v3::RouteConfiguration;
use meltemi_proto::json::parse;
use meltemi_xds::server::{AdsService, Generator, Peer};
use meltemi_xds::session::{Names, SyncStatus};
use meltemi_xds::{Resource, ResourceType};
use parking_lot::Mutex;
use prost::{Message, Name};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tonic::Status;
use tonic::transport::server::{TcpConnectInfo, TcpIncoming, TlsConnectInfo};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

/// What the agent proves itself with.
pub(crate) const TOKEN: &str = "token of the workload";
const WORKLOAD: &str = "spiffe://cluster.local/ns/default/sa/app";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// The mesh's CA.
pub(crate) struct Authority(Arc<ArcSwap<CertificateAuthority>>);

impl Authority {
    pub(crate) fn new() -> Self {
        let files = self_signed_files("cluster.local", DAY * 30, SystemTime::now()).unwrap();
        let ca = CertificateAuthority::from_files(files).unwrap();
        Self(Arc::new(ArcSwap::from_pointee(ca)))
    }

    pub(crate) fn root_pem(&self) -> String {
        self.0.load().root_pem().to_owned()
    }

    pub(crate) fn certificate(&self, identity: &str) -> WorkloadCertificate {
        let request = new_request().unwrap();
        let ca = self.0.load();
        let chain = ca.sign(&request.csr_pem, identity, DAY, SystemTime::now());
        request.finish(chain.unwrap()).unwrap()
    }
}

struct Tokens;

impl Authenticator for Tokens {
    async fn authenticate(&self, credentials: &Credentials) -> Result<String, String> {
        if credentials.token.as_deref() == Some(TOKEN) {
            Ok(WORKLOAD.to_owned())
        } else {
            Err("an unknown token".to_owned())
        }
    }
}

/// Resources by type.
pub(crate) type World = Vec<(ResourceType, Arc<Resource>)>;

/// What happened.
#[derive(Default)]
struct Seen {
    identities: Vec<String>,
    refusals: Vec<String>,
}

struct Fixed {
    world: watch::Sender<Arc<World>>,
    seen: Arc<Mutex<Seen>>,
}

impl Generator for Fixed {
    type Snapshot = Arc<World>;
    type Client = ();

    async fn connect(&self, node: Node, peer: &Peer) -> Result<(), Status> {
        let tls = peer.extensions.get::<TlsConnectInfo<TcpConnectInfo>>();
        let chain = tls.and_then(TlsConnectInfo::peer_certs);
        let leaf = chain.as_ref().and_then(|chain| chain.first());
        let Some(leaf) = leaf else {
            return Err(Status::unauthenticated("no client certificate"));
        };
        self.seen
            .lock()
            .identities
            .extend(certificate_facts(leaf).unwrap().uris);
        assert_eq!(node.user_agent_name, "envoy");
        assert!(
            node.extensions.len() > 50,
            "the engine lists its own extensions"
        );
        Ok(())
    }

    fn snapshots(&self) -> watch::Receiver<Arc<World>> {
        self.world.subscribe()
    }

    fn resources(
        &self,
        world: &Arc<World>,
        (): &(),
        kind: &ResourceType,
        names: &Names,
    ) -> Vec<Arc<Resource>> {
        let wanted = |name| match names {
            Names::All => true,
            Names::Some(some) => some.contains(name),
        };
        let all = world
            .iter()
            .filter(|(own, resource)| own == kind && wanted(&resource.name));
        all.map(|(_, resource)| Arc::clone(resource)).collect()
    }

    fn report(&self, (): &(), kind: &ResourceType, _: SyncStatus, refusal: Option<&str>) {
        if let Some(reason) = refusal {
            self.seen.lock().refusals.push(format!("{kind}: {reason}"));
        }
    }

    fn disconnected(&self, (): ()) {}
}

/// A running control plane.
pub(crate) struct ControlPlane {
    runtime: Option<Runtime>,
    seen: Arc<Mutex<Seen>>,
}

impl ControlPlane {
    pub(crate) fn start(port: u16, authority: Arc<Authority>, world: World) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let seen = Arc::new(Mutex::new(Seen::default()));
        let generator = Fixed {
            world: watch::Sender::new(Arc::new(world)),
            seen: Arc::clone(&seen),
        };
        runtime.spawn(async move {
            let ca = authority.0.load();
            let own = ca.issue_server(&["localhost".to_owned()], SystemTime::now());
            let own = own.unwrap();
            let tls = ServerTlsConfig::new()
                .identity(Identity::from_pem(own.chain_pem, own.key_pem))
                .client_ca_root(Certificate::from_pem(ca.root_pem()))
                .client_auth_optional(true);
            let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
            Server::builder()
                .tls_config(tls)
                .unwrap()
                .add_service(AdsService::new(Arc::new(generator)))
                .add_service(CsrService::new(Arc::clone(&authority.0), Arc::new(Tokens)))
                .serve_with_incoming(TcpIncoming::from(listener))
                .await
                .unwrap();
        });
        Self {
            runtime: Some(runtime),
            seen,
        }
    }

    /// Ends it and all its connections at once.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Who opened discovery streams.
    pub(crate) fn identities(&self) -> Vec<String> {
        self.seen.lock().identities.clone()
    }

    /// What the proxy refused.
    pub(crate) fn refusals(&self) -> Vec<String> {
        self.seen.lock().refusals.clone()
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.end();
    }
}

/// Answers every request with one text.
pub(crate) async fn backend(text: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |_: Request<Incoming>| async move {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(
                    text.as_bytes(),
                ))))
            });
            tokio::spawn(async move {
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    address
}

/// A cluster by EDS, a route by RDS, a plain listener, and one with mutual TLS by SDS.
pub(crate) fn world(plain: u16, secure: u16, backend: SocketAddr, label: &str) -> World {
    let ads = json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"});
    let cluster = json!({
        "name": "backend", "type": "EDS", "connect_timeout": "2s",
        "eds_cluster_config": {"eds_config": ads},
    });
    let endpoint = json!({"address": {"socket_address": {"address": "127.0.0.1", "port_value": backend.port()}}});
    let endpoints = json!({
        "cluster_name": "backend",
        "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
    });
    let route = json!({
        "name": "routes",
        "response_headers_to_add": [{"header": {"key": "x-label", "value": label}}],
        "virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backend"}}],
        }],
    });
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "app",
        "rds": {"route_config_name": "routes", "config_source": ads},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    });
    let listener = |name: &str, port: u16, transport: Option<Value>| {
        let mut chain = json!({"filters": [{
            "name": "envoy.filters.network.http_connection_manager", "typed_config": manager,
        }]});
        if let Some(transport) = transport {
            chain["transport_socket"] = transport;
        }
        json!({
            "name": name,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [chain],
        })
    };
    vec![
        (
            ResourceType::Cluster,
            resource::<Cluster>("backend", &cluster),
        ),
        (
            ResourceType::Endpoint,
            resource::<ClusterLoadAssignment>("backend", &endpoints),
        ),
        (
            ResourceType::Listener,
            resource::<Listener>("plain", &listener("plain", plain, None)),
        ),
        (
            ResourceType::Listener,
            resource::<Listener>("secure", &listener("secure", secure, Some(mutual_tls()))),
        ),
        (
            ResourceType::Route,
            resource::<RouteConfiguration>("routes", &route),
        ),
    ]
}

fn mutual_tls() -> Value {
    let secret = |name: &str| {
        json!({"name": name, "sds_config": {
            "resource_api_version": "V3", "initial_fetch_timeout": "0s",
            "api_config_source": {
                "api_type": "GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
            },
        }})
    };
    json!({"name": "envoy.transport_sockets.tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": true,
        "common_tls_context": {
            "tls_certificate_sds_secret_configs": [secret("default")],
            "validation_context_sds_secret_config": secret("ROOTCA"),
        },
    }})
}

fn resource<M: Message + Name + Default>(name: &str, content: &Value) -> Arc<Resource> {
    let message: M = parse(content).unwrap();
    Resource::new(name, message.encode_to_vec(), None)
}
