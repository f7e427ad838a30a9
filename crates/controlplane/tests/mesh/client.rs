//! What a proxy does: gRPC channels with and without TLS, a node, and a subscriber that remembers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
};

use bytes::Bytes;
use envoy_types::pb::{
    envoy::config::core::v3::Node,
    google::protobuf::{Struct, Value, value::Kind},
};
use meltemi_kube::Task;
use meltemi_xds::{
    ResourceType,
    client::{Connector, Options, Service, Subscriber, Update, Wanted},
};
use tokio::sync::{Notify, watch};
use tonic::{
    metadata::{MetadataMap, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use crate::support::soon;

/// The endpoints and the route that these tests look at.
pub(crate) const REVIEWS: &str = "outbound|9080||reviews.default.svc.cluster.local";
/// Route configuration of port 9080.
pub(crate) const ROUTE: &str = "9080";

/// A channel to the TLS port, whose server must be the control plane.
pub(crate) async fn secure(address: SocketAddr, root: &str) -> Channel {
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(root))
        .domain_name("istiod.istio-system.svc");
    let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("address");
    let endpoint = endpoint.tls_config(tls).expect("TLS");
    soon("a TLS connection", endpoint.connect())
        .await
        .expect("connect")
}

/// A channel to the plaintext port.
pub(crate) async fn plain(address: SocketAddr) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("address");
    soon("a connection", endpoint.connect())
        .await
        .expect("connect")
}

/// Metadata with a bearer token.
pub(crate) fn bearer(token: &str) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    let value = MetadataValue::try_from(format!("Bearer {token}")).expect("token");
    metadata.insert("authorization", value);
    metadata
}

/// The node of the product page's sidecar.
pub(crate) fn node(namespace: &str, account: &str) -> Node {
    let text = |value: &str| Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    };
    let labels = Struct {
        fields: [("app".to_owned(), text("productpage"))].into(),
    };
    let fields = [
        ("NAMESPACE".to_owned(), text(namespace)),
        ("SERVICE_ACCOUNT".to_owned(), text(account)),
        ("ISTIO_VERSION".to_owned(), text("1.2.3")),
        (
            "LABELS".to_owned(),
            Value {
                kind: Some(Kind::StructValue(labels)),
            },
        ),
    ];
    Node {
        id: format!("sidecar~10.244.0.7~productpage-1.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(Struct {
            fields: fields.into(),
        }),
        ..Node::default()
    }
}

/// What has arrived, by type and name.
pub(crate) type Seen = BTreeMap<(ResourceType, String), Bytes>;

/// A connected delta client.
pub(crate) struct Sidecar {
    pub(crate) seen: watch::Receiver<Seen>,
    _running: Task,
}

struct Memory(watch::Sender<Seen>);

impl Subscriber for Memory {
    fn kinds(&self) -> Vec<ResourceType> {
        use ResourceType::{Cluster, Endpoint, Listener, Route};
        vec![Cluster, Endpoint, Listener, Route]
    }

    fn wanted(&self, kind: &ResourceType) -> Option<Arc<Wanted>> {
        let names = match kind {
            ResourceType::Endpoint => {
                let seen = self.0.borrow();
                let clusters = seen.keys().filter(|(kind, name)| {
                    *kind == ResourceType::Cluster && name.contains("reviews.default")
                });
                clusters.map(|(_, name)| name.as_str().into()).collect()
            }
            ResourceType::Route => BTreeSet::from([ROUTE.into()]),
            _ => {
                let all = Wanted {
                    all: true,
                    ..Wanted::default()
                };
                return Some(Arc::new(all));
            }
        };
        let some = Wanted { all: false, names };
        (!some.names.is_empty()).then(|| Arc::new(some))
    }

    fn apply(&mut self, kind: &ResourceType, update: Update) -> Result<(), String> {
        self.0.send_modify(|seen| {
            for resource in update.resources {
                seen.insert((kind.clone(), resource.name.to_string()), resource.body);
            }
            for name in update.removed {
                seen.remove(&(kind.clone(), name.to_string()));
            }
        });
        Ok(())
    }
}

struct Open(Channel, MetadataMap);

impl Connector for Open {
    async fn connect(&self) -> Result<(Channel, MetadataMap), String> {
        Ok((self.0.clone(), self.1.clone()))
    }
}

impl Sidecar {
    pub(crate) fn connect(channel: Channel, metadata: MetadataMap, node: Node) -> Self {
        let (sender, seen) = watch::channel(Seen::new());
        let running = Task::spawn(async move {
            let (open, mut memory) = (Open(channel, metadata), Memory(sender));
            let options = Options {
                service: Service::Aggregated,
                delta: true,
                node_once: false,
            };
            meltemi_xds::client::run(&open, &options, &node, &mut memory, &Notify::new()).await;
        });
        Self {
            seen,
            _running: running,
        }
    }

    /// Waits until what has arrived fits.
    pub(crate) async fn until(&mut self, what: &str, fits: impl FnMut(&Seen) -> bool) -> Seen {
        let seen = soon(what, self.seen.wait_for(fits)).await;
        seen.expect("the client runs").clone()
    }
}
